// TeX's commands that take arguments, and its environments: name → (parser) → a node of the MathML tree, or null for nothing.

import { TexError, fixed, leaf, node, row, space } from "./mathml.js";
import { NEGATED } from "./tex_symbols.js";

export const choose = (top, bottom) =>
  node("mrow", [leaf("mo", "("), node("mfrac", [top, bottom], { linethickness: "0" }), leaf("mo", ")")]);

function fraction(parser, style) {
  const made = node("mfrac", [parser.group(), parser.group()]);
  return style ? node("mstyle", [made], { displaystyle: style === "d" ? "true" : "false", scriptlevel: "0" }) : made;
}

const FENCES = {
  matrix: "",
  pmatrix: "()",
  bmatrix: "[]",
  Bmatrix: "{}",
  vmatrix: "||",
  Vmatrix: "‖‖",
  smallmatrix: "",
};
const ALIGNED = /^(aligned|align|alignat|alignedat|split|eqnarray|gather|gathered|multline|equation)\*?$/;

function environment(parser) {
  const name = parser.raw();
  const array = /^(array|alignat\*?|alignedat)$/.test(name) && parser.peek() === "{" ? parser.raw() : "";
  const rows = parser.cells(name);
  const table = (attrs = {}) =>
    node(
      "mtable",
      rows.map((cells) =>
        node(
          "mtr",
          cells.map((cell, i) => node("mtd", [cell], cellAttrs(name, array, i))),
        ),
      ),
      attrs,
    );
  if (Object.hasOwn(FENCES, name)) {
    const [open, close] = FENCES[name];
    return open ? node("mrow", [leaf("mo", open), table(), leaf("mo", close)]) : table();
  }
  if (name === "cases" || name === "dcases") return node("mrow", [leaf("mo", "{"), table()]);
  if (name === "rcases") return node("mrow", [table(), leaf("mo", "}")]);
  if (name === "array") return table();
  if (ALIGNED.test(name)) return table({ displaystyle: "true" });
  throw new TexError(`unknown environment ${name}`);
}

function cellAttrs(name, array, i) {
  if (/cases/.test(name)) return { class: "left" };
  if (/^(aligned|align|alignat|alignedat|split|eqnarray)/.test(name)) return { class: i % 2 ? "left" : "right" };
  const mark = name === "array" ? array.replace(/[^lcr]/g, "")[i] : "c";
  return mark === "l" ? { class: "left" } : mark === "r" ? { class: "right" } : {};
}

const text = (parser) =>
  leaf(
    "mtext",
    parser
      .raw()
      .replace(/\\([%$#&_{} ])/g, "$1")
      .replace(/\\[()]|\$/g, "")
      .replace(/\s+/g, "\u00a0"),
  );
const sized = (size) => (parser) => {
  const found = parser.delimiter();
  return found
    ? leaf("mo", found, { stretchy: "true", symmetric: "true", minsize: `${size}em`, maxsize: `${size}em` })
    : node("mrow", []);
};
const skipped = (parser) => (parser.raw(), null);
const style = (attrs) => (parser) =>
  node(
    "mstyle",
    parser.row(
      (token) =>
        token === "}" ||
        token === "&" ||
        token === "\\\\" ||
        token === "\\end" ||
        token === "\\right" ||
        token === undefined,
    ),
    attrs,
  );

export const COMMANDS = {
  frac: (parser) => fraction(parser),
  dfrac: (parser) => fraction(parser, "d"),
  cfrac: (parser) => fraction(parser, "d"),
  tfrac: (parser) => fraction(parser, "t"),
  binom: (parser) => choose(parser.group(), parser.group()),
  sqrt: (parser) => {
    const index = parser.optional();
    const inner = parser.group();
    return index ? node("mroot", [inner, index]) : node("msqrt", [inner]);
  },
  text,
  textrm: text,
  textnormal: text,
  mbox: text,
  hbox: text,
  textit: text,
  textsf: text,
  texttt: text,
  textbf: (parser) => ({ ...text(parser), attrs: { class: "bold" } }),
  operatorname: (parser) =>
    parser.applied(leaf("mi", parser.raw().replace(/\\[,;: ]/g, "\u2009"), { mathvariant: "normal" })),
  "operatorname*": (parser) => ({
    ...leaf("mo", parser.raw().replace(/\\[,;: ]/g, "\u2009"), { movablelimits: "false", rspace: "0.1667em" }),
    limits: true,
  }),
  left: (parser) => {
    const open = parser.delimiter();
    const parts = open ? [leaf("mo", open, { stretchy: "true", form: "prefix" })] : [];
    for (;;) {
      parts.push(...parser.row((token) => token === "\\right" || token === "\\middle"));
      const token = parser.next();
      const mark = parser.delimiter();
      if (mark) parts.push(leaf("mo", mark, { stretchy: "true", form: token === "\\right" ? "postfix" : "infix" }));
      if (token === "\\right") return node("mrow", parts);
    }
  },
  begin: environment,
  not: (parser) => {
    const inner = parser.atom();
    return { ...inner, text: NEGATED[inner.text] ?? `${inner.text ?? ""}\u0338` };
  },
  stackrel: (parser) => {
    const over = parser.group();
    return node("mover", [parser.group(), over]);
  },
  overset: (parser) => COMMANDS.stackrel(parser),
  underset: (parser) => {
    const under = parser.group();
    return node("munder", [parser.group(), under]);
  },
  xrightarrow: (parser) => arrow(parser, "→"),
  xleftarrow: (parser) => arrow(parser, "←"),
  substack: (parser) => {
    parser.expect("{");
    const lines = [[]];
    while (parser.peek() !== "}") {
      lines.at(-1).push(...parser.row((token) => token === "\\\\" || token === "}"));
      if (parser.peek() === "\\\\") {
        parser.next();
        lines.push([]);
      }
    }
    parser.expect("}");
    return node(
      "mtable",
      lines.map((line) => node("mtr", [node("mtd", [row(line)])])),
    );
  },
  boxed: (parser) => node("mrow", [parser.group()], { class: "boxed" }),
  fbox: (parser) => node("mrow", [text(parser)], { class: "boxed" }),
  cancel: (parser) => node("mrow", [parser.group()], { class: "cancel" }),
  phantom: (parser) => node("mphantom", [parser.group()]),
  hphantom: (parser) => node("mphantom", [parser.group()]),
  vphantom: (parser) => (parser.group(), null),
  mod: (parser) => node("mrow", [space(0.5), leaf("mi", "mod"), space(0.25), parser.group()]),
  bmod: () => node("mrow", [space(0.25), leaf("mi", "mod"), space(0.25)]),
  pmod: (parser) => node("mrow", [space(0.5), fixed("("), leaf("mi", "mod"), space(0.25), parser.group(), fixed(")")]),
  tag: (parser) => node("mrow", [space(2), leaf("mtext", `(${parser.raw()})`)]),
  label: skipped,
  color: skipped,
  notag: () => null,
  nonumber: () => null,
  displaylimits: () => null,
  allowbreak: () => null,
  nobreak: () => null,
  textcolor: (parser) => (parser.raw(), parser.group()),
  mathop: (parser) => ({ ...node("mrow", [parser.group()]), limits: true }),
  mathrel: (parser) => parser.group(),
  mathbin: (parser) => parser.group(),
  mathord: (parser) => parser.group(),
  hspace: (parser) => lengthSpace(parser),
  "hspace*": (parser) => lengthSpace(parser),
  displaystyle: style({ displaystyle: "true", scriptlevel: "0" }),
  textstyle: style({ displaystyle: "false", scriptlevel: "0" }),
  scriptstyle: style({ displaystyle: "false", scriptlevel: "1" }),
};
for (const [name, size] of [
  ["big", 1.2],
  ["Big", 1.8],
  ["bigg", 2.4],
  ["Bigg", 3],
]) {
  for (const side of ["", "l", "r", "m"]) COMMANDS[name + side] = sized(size);
}

function arrow(parser, mark) {
  const under = parser.optional();
  const over = node("mpadded", [parser.group()], { width: "+1em", lspace: "0.5em" });
  const shaft = leaf("mo", mark, { stretchy: "true" });
  return under ? node("munderover", [shaft, under, over]) : node("mover", [shaft, over]);
}

function lengthSpace(parser) {
  const found = /^(-?\d*\.?\d+)\s*(em|ex|pt|mu|cm|mm|px)$/.exec(parser.raw().trim());
  if (!found) throw new TexError("no length");
  const em = { em: 1, ex: 0.43, pt: 0.1, mu: 1 / 18, cm: 2.8, mm: 0.28, px: 0.0625 }[found[2]];
  return space(Math.max(-2, Math.min(8, found[1] * em)).toFixed(3));
}

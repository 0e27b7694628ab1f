// The common part of TeX's mathematics → a MathML tree of plain objects {tag, attrs, children | text}. No DOM, no macros:
// what isn't understood throws TexError, and the page then shows the source. MathML Core: https://www.w3.org/TR/mathml-core/

import { TexError, fixed, leaf, node, row, space } from "./mathml.js";
import { choose, COMMANDS } from "./tex_commands.js";
import * as symbols from "./tex_symbols.js";

const MAX_DEPTH = 60;
const MAX_LENGTH = 20000;

/** The <math> element's tree for `source`. Raises TexError. */
export function texToMathml(source, display = false) {
  if (source.length > MAX_LENGTH) throw new TexError("too long");
  // Lines parted by \\\\ without an environment around them are common in replies.
  const bare = /\\\\/.test(source) && !/\\begin\{/.test(source);
  const parser = new Parser(bare ? `\\begin{aligned}${source}\\end{aligned}` : source, display);
  const children = parser.row(() => parser.at >= parser.tokens.length);
  return { tag: "math", attrs: display ? { display: "block" } : {}, children: [row(children)] };
}

// A token: a command ("\\frac"), a string of blanks (" "), or one character.
function tokenize(source) {
  const clean = source.replace(/(^|[^\\])%[^\n]*/g, "$1");
  return clean.match(/\\(?:operatorname|hspace)\*|\\[A-Za-z]+|\\[^]|\s+|[^]/gu) ?? [];
}

class Parser {
  constructor(source, display) {
    this.tokens = tokenize(source);
    this.at = 0;
    this.depth = 0;
    this.display = display;
    this.alphabet = null;
  }

  peek() {
    while (/^\s/.test(this.tokens[this.at] ?? "")) this.at += 1;
    return this.tokens[this.at];
  }

  next() {
    const token = this.peek();
    if (token === undefined) throw new TexError("ends too early");
    this.at += 1;
    return token;
  }

  expect(token) {
    const found = this.next();
    if (found !== token) throw new TexError(`expected ${token}, found ${found}`);
  }

  /** Atoms until `done()`, with their scripts. */
  row(done) {
    if ((this.depth += 1) > MAX_DEPTH) throw new TexError("nested too deeply");
    const alphabet = this.alphabet;
    let out = [];
    for (let token = this.peek(); !done(token); token = this.peek()) {
      if (token === undefined) throw new TexError("ends too early");
      if (token === "\\over" || token === "\\choose") {
        this.next();
        const top = row(out);
        const bottom = row(this.row(done));
        out = token === "\\over" ? [node("mfrac", [top, bottom])] : [choose(top, bottom)];
        break;
      }
      const atom = this.atom();
      if (atom) out.push(this.scripts(atom));
    }
    this.alphabet = alphabet; // \bf and the like hold to the end of their group
    this.depth -= 1;
    return out;
  }

  group() {
    const token = this.next();
    if (/^[0-9]$/.test(token)) return leaf("mn", symbols.inAlphabet(token, this.alphabet)); // \\frac12
    if (token !== "{") {
      this.at -= 1;
      if (["^", "_", "}", "&"].includes(token)) throw new TexError(`argument missing before ${token}`);
      if ((this.depth += 1) > MAX_DEPTH) throw new TexError("nested too deeply");
      const atom = this.atom() ?? node("mrow", []);
      this.depth -= 1;
      return atom;
    }
    const children = this.row((next) => next === "}");
    this.expect("}");
    return row(children);
  }

  /** The plain text of {…}, for \text and environments' names. */
  raw() {
    this.expect("{");
    let text = "";
    for (let open = 1; ;) {
      const token = this.tokens[this.at++];
      if (token === undefined) throw new TexError("ends too early");
      if (token === "{") open += 1;
      if (token === "}" && (open -= 1) === 0) return text;
      text += token;
    }
  }

  optional() {
    if (this.peek() !== "[") return null;
    this.next();
    const children = this.row((token) => token === "]");
    this.expect("]");
    return row(children);
  }

  scripts(base) {
    let sub = null;
    let sup = null;
    let limits = base.limits ?? false;
    for (;;) {
      const token = this.peek();
      if (token === "\\limits" || token === "\\nolimits") {
        this.next();
        limits = token === "\\limits";
      } else if (token === "_" && !sub) {
        this.next();
        sub = this.group();
      } else if (token === "^" && !sup) {
        this.next();
        sup = this.group();
      } else if (token === "'" && !sup) {
        let primes = "";
        while (this.peek() === "'") {
          this.next();
          primes += "′";
        }
        sup = leaf("mo", primes);
        if (this.peek() === "^") {
          this.next();
          sup = node("mrow", [sup, this.group()]);
        }
      } else if (token === "_" || token === "^" || token === "'") throw new TexError("double script");
      else break;
    }
    if (!sub && !sup) return base;
    const over = limits && (this.display || limits === "always");
    const parts = [base, ...(sub ? [sub] : []), ...(sup ? [sup] : [])];
    const name = sub && sup ? ["msubsup", "munderover"] : sub ? ["msub", "munder"] : ["msup", "mover"];
    return node(name[over ? 1 : 0], parts);
  }

  letter(text) {
    if (this.alphabet === "upright") return leaf("mi", text, { mathvariant: "normal" });
    const styled = symbols.inAlphabet(text, this.alphabet);
    return leaf("mi", styled, styled !== text ? { mathvariant: "normal" } : {});
  }

  atom() {
    const token = this.next();
    if (token === "{") {
      this.at -= 1;
      return this.group();
    }
    if (/^[0-9]$/.test(token)) {
      let number = token;
      while (
        /^[0-9]$/.test(this.tokens[this.at] ?? "") ||
        (/^[.,]$/.test(this.tokens[this.at] ?? "") && /^[0-9]$/.test(this.tokens[this.at + 1] ?? ""))
      )
        number += this.tokens[this.at++];
      return leaf("mn", symbols.inAlphabet(number, this.alphabet));
    }
    if (/^\p{L}$/u.test(token)) return /[A-Za-z\u0370-\u03ff]/.test(token) ? this.letter(token) : leaf("mtext", token);
    if (token === "^" || token === "_" || token === "'") {
      this.at -= 1;
      return node("mrow", []);
    }
    if (token === "}") throw new TexError("unbalanced }");
    if (token === "&") throw new TexError("& outside an environment");
    if (token === "~") return space(0.25);
    if (token === "-") return leaf("mo", "−");
    if (token === "*") return leaf("mo", "∗");
    if ("()[]|/".includes(token)) return fixed(token);
    if (token[0] === "\\") return this.command(token.slice(1));
    return leaf("mo", token);
  }

  command(name) {
    if (Object.hasOwn(symbols.SPACES, name)) return space(symbols.SPACES[name]);
    if (Object.hasOwn(symbols.LETTERS, name)) {
      const text = symbols.LETTERS[name];
      return /^[\u0391-\u03a9]$/.test(text)
        ? leaf("mi", symbols.inAlphabet(text, this.alphabet === "boldItalic" ? "bold" : this.alphabet), {
            mathvariant: "normal",
          })
        : this.letter(text);
    }
    if (Object.hasOwn(symbols.OPERATORS, name))
      return leaf("mo", symbols.OPERATORS[name], /arrow$/.test(name) ? { stretchy: "false" } : {});
    if (Object.hasOwn(symbols.BIG, name))
      return { ...leaf("mo", symbols.BIG[name], { largeop: "true", movablelimits: "false" }), limits: true };
    if (Object.hasOwn(symbols.INTEGRALS, name)) return leaf("mo", symbols.INTEGRALS[name], { largeop: "true" });
    if (symbols.FUNCTIONS.has(name)) return this.applied(leaf("mi", name));
    if (Object.hasOwn(symbols.LIMITS, name))
      return {
        ...leaf("mo", symbols.LIMITS[name], { movablelimits: "false", lspace: "0", rspace: "0.1667em" }),
        limits: true,
      };
    if (Object.hasOwn(symbols.ACCENTS, name)) return this.accent(name, "mover", symbols.ACCENTS[name]);
    if (Object.hasOwn(symbols.UNDER_ACCENTS, name)) return this.accent(name, "munder", symbols.UNDER_ACCENTS[name]);
    if (Object.hasOwn(symbols.ALPHABETS, name)) return this.inAlphabet(name);
    if (Object.hasOwn(symbols.DELIMITERS, name)) return fixed(symbols.DELIMITERS[name]);
    if (Object.hasOwn(COMMANDS, name)) return COMMANDS[name](this, name);
    if (/^[%$#&_]$/.test(name)) return leaf("mi", name);
    throw new TexError(`unknown command \\${name}`);
  }

  // A thin space between \sin and what it is applied to, unless a bracket or a script follows.
  applied(base) {
    const token = this.peek();
    if (token === undefined || /^[\^_(){}[\]&|,.;=+\-/'!]$|^\\(left|right|big|,|;|!|\\|cdot|times)/.test(token))
      return base;
    return node("mrow", [base, space(0.1667)]);
  }

  accent(name, tag, mark) {
    const wide = symbols.STRETCHED.has(name);
    const base = this.group();
    const attrs = wide ? {} : { stretchy: "false" };
    const made = node(
      tag,
      [base, leaf("mo", mark, attrs)],
      tag === "mover" ? { accent: "true" } : { accentunder: "true" },
    );
    return /brace|bracket/.test(name) ? { ...made, limits: "always" } : made;
  }

  inAlphabet(name) {
    const alphabet = symbols.ALPHABETS[name];
    if (["bf", "rm", "it", "cal", "sf", "tt", "frak"].includes(name)) {
      this.alphabet = alphabet;
      return null;
    }
    const before = this.alphabet;
    this.alphabet = alphabet;
    const inner = this.group();
    this.alphabet = before;
    // \mathrm{word}: one identifier, so that its letters stand together.
    if (
      alphabet &&
      inner.tag === "mrow" &&
      inner.children.length &&
      inner.children.every((child) => child.tag === "mi")
    ) {
      return leaf("mi", inner.children.map((child) => child.text).join(""), { mathvariant: "normal" });
    }
    return inner;
  }

  delimiter() {
    const token = this.next();
    if (token === ".") return null;
    if (token === "<") return "⟨";
    if (token === ">") return "⟩";
    if (token[0] === "\\") {
      const found = symbols.DELIMITERS[token.slice(1)];
      if (found && Object.hasOwn(symbols.DELIMITERS, token.slice(1))) return found;
    } else if ("()[]|/".includes(token)) return token;
    throw new TexError(`no delimiter: ${token}`);
  }

  /** Rows and cells up to \end{name}. */
  cells(name) {
    const rows = [[]];
    const ends = (token) =>
      token === "&" ||
      token === "\\\\" ||
      token === "\\cr" ||
      token === "\\end" ||
      token === "\\hline" ||
      token === undefined;
    for (;;) {
      while (this.peek() === "\\hline") this.next();
      rows.at(-1).push(row(this.row(ends)));
      const token = this.next();
      if (token === "\\\\" || token === "\\cr") {
        if (this.tokens[this.at] === "[") while (this.next() !== "]");
        rows.push([]);
      } else if (token === "\\end") {
        const found = this.raw();
        if (found !== name) throw new TexError(`\\end{${found}} closes \\begin{${name}}`);
        const last = rows.at(-1);
        if (last.length === 1 && last[0].tag === "mrow" && !last[0].children.length && rows.length > 1) rows.pop();
        return rows;
      }
    }
  }
}

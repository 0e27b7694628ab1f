// Checks of the page's modules, run in the browser that runs them: each throws where something is wrong.

import { parseInline } from "/inline.js";
import { MarkdownView } from "/render.js";
import { SseParser } from "/sse.js";
import { texToMathml } from "/tex.js";

const check = (held, words) => {
  if (!held) throw new Error(words);
};

// The same numbers in every run.
function numbers(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function pieces(text, next) {
  const found = [];
  for (let at = 0; at < text.length; ) {
    const end = at + 1 + next(next(4) ? 6 : 60);
    found.push(text.slice(at, end));
    at = end;
  }
  return found;
}

const LINES = [
  "plain words", "**strong** and *em*", "# heading #", "- item", "  - inner", "1. first", "2) second", "> quote", "---", "```py", "```", "~~~",
  "x = 'a' # b", "| a | b |", "|---|--:|", "| `c | d` | $e$ |", "$$", "\\[", "\\]", "\\frac{a}{b}", "inline $x^2$ and \\(y\\)", "a | b", "",
  "", "", "[link](https://example.org) ![image](https://example.org/i.png)", "- [x] done", "你好，**世界**。", "    indented", "<b>html</b>", "\"\"\"",
];

function documents(next, count) {
  return Array.from({ length: count }, () => Array.from({ length: 1 + next(24) }, () => LINES[next(LINES.length)]).join("\n"));
}

const whole = (text) => {
  const view = new MarkdownView(document.createElement("div"));
  view.update(text, true);
  return view.element.innerHTML;
};

/** Markdown: a reply looks the same however its stream was cut. */
export function markdownAtEverySplit() {
  const next = numbers(7);
  for (const text of documents(next, 300)) {
    const view = new MarkdownView(document.createElement("div"));
    let shown = "";
    for (const piece of pieces(text, next)) view.update((shown += piece));
    view.update(text, true);
    check(view.element.innerHTML === whole(text), `differs when streamed: ${JSON.stringify(text)}`);
  }
}

/** Markdown: what some texts become. */
export function markdownExamples() {
  const examples = [
    ["# A #", "<h2>A</h2>"],
    ["a\n---\nb", "<p>a</p><hr><p>b</p>"],
    ["**注意：**请看", "<p><strong>注意：</strong>请看</p>"],
    ["*a **b** c*", "<p><em>a <strong>b</strong> c</em></p>"],
    ["snake_case_name", "<p>snake_case_name</p>"],
    ["<b>x</b> &lt;", "<p>&lt;b&gt;x&lt;/b&gt; &lt;</p>"],
    ["[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"],
    ["costs $5 and $10", "<p>costs $5 and $10</p>"],
    ["- a\n- b", "<ul><li>a</li><li>b</li></ul>"],
    ["3. a", '<ol start="3"><li>a</li></ol>'],
    ["> a\n> b", "<blockquote><p>a\nb</p></blockquote>"],
    ["你好\n世界", "<p>你好世界</p>"],
  ];
  for (const [text, html] of examples) check(whole(text) === html, `${JSON.stringify(text)} became ${whole(text)}`);
  const links = (nodes) => nodes.flatMap((node) => (node.type === "link" ? [node.href] : []));
  check(links(parseInline("see https://a.b/c_(d)).")).join() === "https://a.b/c_(d)", "an address's end");
  const badge = parseInline("[![b](https://a/i.png)](https://b/)");
  check(badge.length === 1 && badge[0].href === "https://b/" && links(badge[0].children).length === 0, "a link within a link");
}

/** Mathematics: what is understood becomes MathML, what is not raises, whatever it is. */
export function mathematics() {
  const text = (tree) => tree.text ?? tree.children.map(text).join("");
  for (const [tex, words] of [
    ["\\frac{a}{b}", "ab"], ["x_1^2", "x12"], ["\\sqrt[3]{x}", "x3"], ["\\alpha + 1", "α+1"], ["n \\choose k", "(nk)"],
    ["\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "(1234)"], ["\\left( x \\right]", "(x]"], ["\\sum_{i=1}^n i", "∑i=1ni"],
    ["\\mathbb{R}", "ℝ"], ["\\text{if } x", "if\u00a0x"],
  ]) check(text(texToMathml(tex)) === words, `${tex} became ${text(texToMathml(tex))}`);
  const parts = ["\\frac", "{", "}", "x", "^", "_", "&", "\\\\", "\\left(", "\\right)", "\\begin{matrix}", "\\end{matrix}", "\\text", "[", "]", "\\not", "'", "\\over"];
  const next = numbers(3);
  for (let i = 0; i < 3000; i += 1) {
    const tex = Array.from({ length: next(12) }, () => parts[next(parts.length)]).join("");
    try {
      check(texToMathml(tex).tag === "math", tex);
    } catch (error) {
      check(error.constructor.name === "TexError" || error instanceof TypeError, `${tex}: ${error}`);
    }
  }
}

/** SSE: the same events at every split, with every kind of line's end. */
export function eventsAtEverySplit() {
  const next = numbers(11);
  const parts = ["data: a", "data:b", "data", "data:  two", ": comment", "event: x", "id: 1", "", "", "data: 你好"];
  const ends = ["\n", "\r\n", "\r"];
  for (let i = 0; i < 500; i += 1) {
    const stream = Array.from({ length: next(14) }, () => parts[next(parts.length)] + ends[next(3)]).join("");
    const once = JSON.stringify(new SseParser().push(stream));
    const parser = new SseParser();
    const cut = JSON.stringify(pieces(stream, next).flatMap((piece) => parser.push(piece)));
    check(once === cut, `${JSON.stringify(stream)}: ${once} or ${cut}`);
  }
  check(JSON.stringify(new SseParser().push("\ufeffdata: a\ndata: b\n\ndata: c\r\rdata: d\r\n\r\n")) === '["a\\nb","c","d"]', "an example");
}

/** Texts of a megabyte that are long to read or to draw for a careless program: each becomes elements, none deep. */
export function bombs() {
  const many = (text, size = 1e6) => text.repeat(Math.ceil(size / text.length));
  const texts = [
    many("a"), many("*a "), many("**a _b ", 5e5) + many("_ **", 5e5), many("["), many("![", 3e5) + many("](https://x)", 7e5), many("> "), many("- "),
    many("`a``b"), many("$x$ ", 2e5), "$" + many("{", 1e5) + "$", "$$" + many("\\sqrt{", 1e4) + "$$", "# x" + many(" ") + "y", "~".repeat(1e6) + "`",
    "a|b\n- " + many(" ") + "x", many("|a", 5e5) + "\n" + many("|-", 5e5), many("(https://["), "```" + many("x", 1e5) + "\n" + many("'a'b"), many("\n"),
    "$$" + "\\sqrt{\\frac{a}{".repeat(14) + "x" + "}}".repeat(14) + "$$",
  ];
  const box = document.body.appendChild(document.createElement("div"));
  for (const text of texts) {
    const element = box.appendChild(document.createElement("div"));
    new MarkdownView(element).update(text, true);
    check(element.getBoundingClientRect().height >= 0, "laid out");
    let deepest = 0;
    for (const leaf of element.querySelectorAll("*:not(:has(*))")) {
      let depth = 0;
      for (let at = leaf; at !== element; at = at.parentNode) depth += 1;
      deepest = Math.max(deepest, depth);
    }
    check(deepest < 200, `${deepest} elements deep: ${text.slice(0, 40)}`);
    element.remove();
  }
  box.remove();
}

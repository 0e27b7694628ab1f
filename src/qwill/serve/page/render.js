// The trees of markdown.js and inline.js as elements. Everything a model wrote becomes text nodes; the only attributes that hold
// any of it are an http(s) href and a title.

import { colourLine, language } from "./code.js";
import { h, icon } from "./dom.js";
import { t } from "./i18n.js";
import { parseInline } from "./inline.js";
import { parseBlocks } from "./markdown.js";
import { toElement } from "./mathml.js";
import { texToMathml } from "./tex.js";

// A paragraph or a line of code longer than any that a person would read is shown as it is.
const LONGEST_TEXT = 20000;
const LONGEST_LINE = 2000;

function inline(text) {
  return text.length > LONGEST_TEXT ? [text] : parseInline(text).map(inlineElement);
}

function inlineElement(node) {
  if (node.type === "text") return node.text;
  if (node.type === "code") return h("code", null, node.text);
  if (node.type === "break") return h("br");
  if (node.type === "math") return mathElement(node.tex, node.display);
  const children = node.children.map(inlineElement);
  if (node.type !== "link") return h(node.type, null, children);
  return h("a", { href: node.href, title: node.title, target: "_blank", rel: "noopener noreferrer" }, children);
}

function mathElement(tex, display) {
  try {
    const math = toElement(texToMathml(tex, display));
    math.setAttribute("aria-label", tex.trim());
    return display ? h("span", { class: "formula" }, math) : math;
  } catch {
    return texSource(tex, display);
  }
}

function texSource(tex, display) {
  return h("code", { class: display ? "tex wide" : "tex" }, tex.trim());
}

const BLOCKS = {
  paragraph: (block) => h("p", null, inline(block.text)),
  heading: (block) => h(`h${Math.min(block.level + 1, 6)}`, null, inline(block.text)),
  rule: () => h("hr"),
  math: (block) => h("div", { class: "formula" }, block.closed ? mathElement(block.tex, true) : texSource(block.tex, true)),
  quote: (block) => h("blockquote", null, block.blocks.map(blockElement)),
  code: (block) => new CodeBlock(block).element,
  list: (block) =>
    h(
      block.ordered ? "ol" : "ul",
      { start: block.ordered && block.first !== 1 ? block.first : null, class: block.items[0].task === null ? null : "tasks" },
      block.items.map((item) => h("li", null, task(item), itemContent(item, block.tight))),
    ),
  table: (block) =>
    h(
      "div",
      { class: "table", tabindex: "0", role: "region", "aria-label": t("table"), "data-label": "table" },
      h(
        "table",
        null,
        h("thead", null, tableRow(block, block.head, "th")),
        h("tbody", null, block.rows.map((row) => tableRow(block, row, "td"))),
      ),
    ),
};

function task(item) {
  if (item.task === null) return null;
  const label = item.task ? "done" : "open";
  return h("input", { type: "checkbox", disabled: true, checked: item.task, "aria-label": t(label), "data-label": label });
}

function itemContent(item, tight) {
  return item.blocks.map((block) => (tight && block.type === "paragraph" ? inline(block.text) : blockElement(block)));
}

function tableRow(block, row, tag) {
  return h("tr", null, row.map((cell, i) => h(tag, { class: block.align[i] }, inline(cell))));
}

function blockElement(block) {
  return BLOCKS[block.type](block);
}

// A code block that can grow: complete lines are coloured once, the last one again with each update.
class CodeBlock {
  constructor(block) {
    this.lang = language(block.lang);
    this.code = h("code");
    this.done = 0;
    this.state = null;
    this.last = [];
    this.element = h(
      "figure",
      { class: "code" },
      h("figcaption", null, h("span", null, block.lang), copyButton(() => this.text)),
      h("pre", { tabindex: "0" }, this.code),
    );
    this.update(block);
  }

  update(block) {
    this.text = block.text;
    this.last.forEach((node) => node.remove());
    this.last = [];
    for (let end; (end = block.text.indexOf("\n", this.done)) >= 0; this.done = end + 1) {
      this.state = this.line(block.text.slice(this.done, end), true);
    }
    this.line(block.text.slice(this.done), false);
  }

  line(text, whole) {
    const coloured = this.lang && text.length <= LONGEST_LINE;
    const [pieces, state] = coloured ? colourLine(text, this.lang, this.state) : [[{ kind: "plain", text }], this.state];
    const nodes = pieces.map(({ kind, text }) =>
      kind === "plain" ? document.createTextNode(text) : h("span", { class: `c-${kind}` }, text),
    );
    if (whole) nodes.push(document.createTextNode("\n"));
    else this.last = nodes;
    this.code.append(...nodes);
    return state;
  }
}

/** A button that copies what `text()` gives and says so for a moment. `label`: the key of its words. */
export function copyButton(text, label = "copy") {
  const button = h("button", { type: "button", class: "quiet copy", title: t(label), "aria-label": t(label), "data-label": label }, icon("copy"));
  button.addEventListener("click", async () => {
    const copied = await copyText(text());
    button.replaceChildren(icon(copied ? "check" : "close"));
    button.setAttribute("aria-label", t(copied ? "copied" : "copyFailed"));
    setTimeout(() => {
      button.replaceChildren(icon("copy"));
      button.setAttribute("aria-label", t(label));
    }, 1500);
  });
  return button;
}

/** Puts `text` on the clipboard; resolves to whether that went. */
export async function copyText(text) {
  // navigator.clipboard is there on https and localhost only; a server on the local network is neither.
  try {
    if (navigator.clipboard && window.isSecureContext) return await navigator.clipboard.writeText(text).then(() => true);
  } catch {
    // The reader or a policy forbade it; the old way may still work.
  }
  const area = h("textarea", { class: "aside", value: text });
  const focused = document.activeElement;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return copied;
}

/** Shows a growing text in `element`, changing only the end of it. */
export class MarkdownView {
  constructor(element) {
    this.element = element;
    this.text = "";
    this.settled = 0; // offset up to which blocks can't change any more
    this.tail = []; // of what follows: {source, block, node, code}
  }

  /** Gives the same elements at every way of splitting `text` into updates, the last of them `final`. */
  update(text, final = false) {
    if (!text.startsWith(this.text)) {
      this.element.replaceChildren();
      this.settled = 0;
      this.tail = [];
    }
    this.text = text;
    const open = text.slice(this.settled);
    const blocks = parseBlocks(open, !final);
    const tail = blocks.map((block, i) => this.#block(block, open.slice(block.start, block.end), this.tail[i]));
    this.tail.slice(blocks.length).forEach((old) => old.node.remove());
    this.tail = tail;
    this.#settle(open);
  }

  #block(block, source, old) {
    if (old && old.source === source && old.block.type === block.type && old.block.closed === block.closed) return old;
    if (old?.code && block.type === "code" && old.block.lang === block.lang && block.text.startsWith(old.block.text)) {
      old.code.update(block);
      return { ...old, block, source };
    }
    const code = block.type === "code" ? new CodeBlock(block) : null;
    const node = code ? code.element : blockElement(block);
    if (old) old.node.replaceWith(node);
    else this.element.append(node);
    return { source, block, node, code };
  }

  // What stands before the last block that whole lines have begun is final: the line being written can still become anything.
  #settle(open) {
    const whole = parseBlocks(open.slice(0, open.lastIndexOf("\n") + 1), true);
    // A formula that never ends turns out to be text, which may belong to the paragraph before it.
    const last = whole.at(whole.at(-1)?.type === "math" && !whole.at(-1).closed ? -2 : -1);
    if (!last || last === whole[0]) return;
    const { start } = last;
    const kept = this.tail.findIndex((part) => part.block.start === start);
    if (kept < 0) return;
    this.settled += start;
    this.tail = this.tail.slice(kept).map((part) => ({ ...part, block: { ...part.block, start: part.block.start - start } }));
  }
}

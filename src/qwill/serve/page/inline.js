// Markdown within a block: text → [{type: "text"|"code"|"strong"|"em"|"del"|"link"|"break"|"math", …}]. No DOM.
// Emphasis follows CommonMark's delimiter rules, with CJK letters counted as borders (**注意：**请… is what models write).

const CJK = /[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]|[\ud840-\ud87f]/;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', nbsp: "\u00a0", "#39": "'" };
const ADDRESS = /https?:\/\/[^\s<>"'`{}|\\^\u2018-\u201f\u3000-\u303f\uff00-\uffef\u4e00-\u9fff]{1,2048}/iy;
const MAX_DEPTH = 20; // of emphasis within emphasis: an element deep in thousands of others would stop the browser

/** Only http(s) addresses become links; everything else (javascript:, data:, relative) stays text. */
export function safeAddress(text) {
  if (!/^https?:\/\//i.test(text)) return null;
  try {
    const url = new URL(text);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

export function parseInline(text) {
  return emphasis(tokens(text));
}

function tokens(text) {
  const out = [];
  const brackets = [];
  const missing = new Set(); // closers known not to come any more
  let plain = "";
  let i = 0;
  const flush = () => {
    if (plain) out.push({ type: "text", text: plain });
    plain = "";
  };
  const add = (node, next) => {
    flush();
    out.push(node);
    i = next;
  };
  const find = (closer, from) => {
    if (missing.has(closer)) return -1;
    const at = text.indexOf(closer, from);
    if (at < 0) missing.add(closer);
    return at;
  };
  while (i < text.length) {
    const c = text[i];
    let found;
    if (c === "\\") {
      if ((found = texIn(text, i, find))) add(found.node, found.next);
      else if (text[i + 1] === "\n") add({ type: "break" }, i + 2);
      else if (ESCAPABLE.test(text[i + 1] ?? "")) {
        plain += text[i + 1];
        i += 2;
      } else plain += text[i++];
    } else if (c === "`") {
      const run = /^`+/.exec(text.slice(i, i + 64))[0];
      const at = closingTicks(text, run, i + run.length, missing);
      if (at < 0) {
        plain += run;
        i += run.length;
      } else {
        const inner = text.slice(i + run.length, at).replace(/\n/g, " ");
        const padded = inner.length > 2 && inner.startsWith(" ") && inner.endsWith(" ") && inner.trim();
        add({ type: "code", text: padded ? inner.slice(1, -1) : inner }, at + run.length);
      }
    } else if (c === "$" && (found = dollars(text, i, find))) add(found.node, found.next);
    else if (c === "*" || c === "_" || c === "~") {
      let end = i;
      while (text[end] === c) end += 1;
      if (c === "~" && end - i !== 2) {
        plain += text.slice(i, end);
        i = end;
      } else add(delimiter(text, i, end), end);
    } else if (c === "!" && text[i + 1] === "[") {
      flush();
      brackets.push(out.push({ type: "text", text: "![", open: true, image: true }) - 1);
      i += 2;
    } else if (c === "[") {
      flush();
      brackets.push(out.push({ type: "text", text: "[", open: true }) - 1);
      i += 1;
    } else if (c === "]" && brackets.length) {
      flush();
      const at = brackets.pop();
      const target = destination(text, i + 1);
      if (target && out[at].open) {
        const [{ image }, ...inner] = out.splice(at);
        const children = emphasis(inner.flatMap((one) => (one.type === "link" ? one.children : [one])));
        if (!children.length) children.push({ type: "text", text: target.href });
        out.push({ type: "link", href: target.href, title: target.title, children, depth: depthOf(children) });
        // No link within a link; an image, which is shown as a link, within one is part of its text.
        if (!image) for (const outer of brackets) out[outer].open = Boolean(out[outer].image);
        i = target.next;
      } else {
        out.push({ type: "text", text: "]" });
        i += 1;
      }
    } else if (c === "\n") {
      const hard = plain.endsWith("  ");
      plain = plain.trimEnd();
      // Chinese wraps without a space: a line's end between two CJK letters is none.
      const none = CJK.test(text[i - 1] ?? "") && CJK.test(text[i + 1] ?? "");
      add(hard ? { type: "break" } : { type: "text", text: none ? "" : "\n" }, i + 1);
    } else if (c === "&" && (found = /^&(amp|lt|gt|quot|nbsp|#39);/.exec(text.slice(i, i + 7)))) {
      plain += ENTITIES[found[1]];
      i += found[0].length;
    } else if (c === "<" && (found = /^<br ?\/?>/i.exec(text.slice(i, i + 6))))
      add({ type: "break" }, i + found[0].length);
    else if (
      c === "<" &&
      (found = /^<(https?:\/\/[^\s<>]*)>/i.exec(text.slice(i, i + 2048))) &&
      safeAddress(found[1])
    ) {
      const href = safeAddress(found[1]);
      add({ type: "link", href, children: [{ type: "text", text: found[1] }] }, i + found[0].length);
    } else if (c === "h" && !/\w/.test(text[i - 1] ?? "") && (found = bareAddress(text, i))) {
      add({ type: "link", href: found.href, children: [{ type: "text", text: found.text }] }, i + found.text.length);
    } else {
      plain += c;
      i += 1;
    }
  }
  flush();
  return out;
}

function closingTicks(text, run, from, missing) {
  if (missing.has(run)) return -1;
  for (let at = text.indexOf(run, from); at >= 0; at = text.indexOf(run, at)) {
    let end = at;
    while (text[end] === "`") end += 1;
    if (end - at === run.length) return at;
    at = end;
  }
  missing.add(run);
  return -1;
}

function texIn(text, i, find) {
  const close = { "(": "\\)", "[": "\\]" }[text[i + 1]];
  if (!close) return null;
  const at = find(close, i + 2);
  if (at < 0) return null;
  return { node: { type: "math", tex: text.slice(i + 2, at), display: text[i + 1] === "[" }, next: at + 2 };
}

// $…$ as pandoc reads it: something that is no space stands inside at both ends, and no digit follows ("$5 and $10" is money).
function dollars(text, i, find) {
  if (text[i + 1] === "$") {
    const at = find("$$", i + 2);
    return at > i + 2 ? { node: { type: "math", tex: text.slice(i + 2, at), display: true }, next: at + 2 } : null;
  }
  if (/\s/.test(text[i + 1] ?? " ")) return null;
  for (let at = i + 1; at < text.length && at < i + 2000; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "`") return null;
    else if (text[at] === "$") {
      if (/\s/.test(text[at - 1]) || /[0-9A-Za-z$]/.test(text[at + 1] ?? "")) return null;
      return { node: { type: "math", tex: text.slice(i + 1, at), display: false }, next: at + 1 };
    }
  }
  return null;
}

function bareAddress(text, i) {
  ADDRESS.lastIndex = i;
  const found = ADDRESS.exec(text)?.[0];
  if (!found) return null;
  let closers = found.split(")").length - found.split("(").length;
  let end = found.length;
  for (; ; end -= 1) {
    if (found[end - 1] === ")" && closers > 0) closers -= 1;
    else if (!/[.,;:!?*_~\]]/.test(found[end - 1] ?? "")) break;
  }
  const href = safeAddress(found.slice(0, end));
  return href && { href, text: found.slice(0, end) };
}

function destination(text, i) {
  if (text[i] !== "(") return null;
  const found =
    /^\(\s*(?:<([^<>\n]*)>|((?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.)*\))*))(?:\s+(?:"([^"]*)"|'([^']*)'))?\s*\)/.exec(
      text.slice(i, i + 2048),
    );
  if (!found) return null;
  const href = safeAddress((found[1] ?? found[2]).replace(/\\([!-/:-@[-`{-~])/g, "$1"));
  return href && { href, title: found[3] ?? found[4] ?? null, next: i + found[0].length };
}

function delimiter(text, start, end) {
  const before = text[start - 1] ?? " ";
  const after = text[end] ?? " ";
  const space = (c) => /\s/.test(c);
  const mark = (c) => PUNCTUATION.test(c);
  const border = (c) => space(c) || mark(c) || CJK.test(c);
  const left = !space(after) && (!mark(after) || CJK.test(after) || border(before));
  const right = !space(before) && (!mark(before) || CJK.test(before) || border(after));
  const under = text[start] === "_";
  return {
    type: "mark",
    char: text[start],
    count: end - start,
    length: end - start,
    opens: left && (!under || !right || mark(before)),
    closes: right && (!under || !left || mark(after)),
  };
}

// CommonMark's "process emphasis", on an array in which what is matched becomes one node.
function emphasis(list) {
  const stack = [];
  const bottoms = {};
  const out = [];
  for (const token of list) {
    if (token.type !== "mark") {
      out.push(token);
      continue;
    }
    while (token.closes && token.count) {
      const kind = `${token.char}${token.opens}${token.length % 3}`;
      let at = stack.length - 1;
      while (at >= (bottoms[kind] ?? 0) && !pairs(stack[at].token, token)) at -= 1;
      if (at < (bottoms[kind] ?? 0)) {
        bottoms[kind] = stack.length;
        break;
      }
      const { token: opener, index } = stack[at];
      const depth = depthOf(out.slice(index + 1)) + 1;
      if (depth > MAX_DEPTH) break;
      const used = opener.count >= 2 && token.count >= 2 ? 2 : 1;
      const children = merge(out.splice(index + 1));
      opener.count -= used;
      token.count -= used;
      out.push({ type: token.char === "~" ? "del" : used === 2 ? "strong" : "em", children, depth });
      stack.length = opener.count ? at + 1 : at;
      for (const key of Object.keys(bottoms)) bottoms[key] = Math.min(bottoms[key], stack.length);
      if (!opener.count) out.splice(index, 1);
    }
    if (token.count) {
      out.push(token);
      if (token.opens) stack.push({ token, index: out.length - 1 });
    }
  }
  return merge(out);
}

const depthOf = (nodes) => nodes.reduce((most, one) => Math.max(most, one.depth ?? 0), 0);

function pairs(opener, closer) {
  if (opener.char !== closer.char) return false;
  const both = opener.closes || closer.opens;
  return !both || (opener.length + closer.length) % 3 !== 0 || (opener.length % 3 === 0 && closer.length % 3 === 0);
}

function merge(list) {
  const out = [];
  for (const token of list) {
    const node = token.type === "mark" ? { type: "text", text: token.char.repeat(token.count) } : token;
    if (node.type === "text" && out.at(-1)?.type === "text")
      out[out.length - 1] = { type: "text", text: out.at(-1).text + node.text };
    else out.push(node);
  }
  return out;
}

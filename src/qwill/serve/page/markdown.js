// Markdown blocks: text → a tree of plain objects, each with the place of its source. What models write of CommonMark and
// GitHub's tables and task lists, and mathematics between $$ or \[ \]. HTML is text here. No DOM: render.js builds that.

const MAX_DEPTH = 12;
const MAX_FORMULA = 200; // lines
const MAX_COLUMNS = 100;
// Each of these reads any line once: none has two repetitions of the same character side by side that can fail together.
const FENCE = /^ {0,3}(?:(`{3,})([^`]*)|(~{3,})(.*))$/s;
const FENCE_END = /^ {0,3}(`{3,}|~{3,})[ \t]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/s;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*))?$/s;
const FORMULA = /^ {0,3}(\$\$|\\\[)(.*)$/s;

/**
 * Blocks of `text`: [{type, start, end, …}], offsets into `text`. `growing`: more may come, so that a formula without its end is
 * one that is still being written; otherwise it is text.
 */
export function parseBlocks(text, growing = false) {
  const lines = [];
  let at = 0;
  for (const line of text.split("\n")) {
    lines.push({ text: line.replace(/\r$/, ""), start: at });
    at += line.length + 1;
  }
  return blocksOf(lines, 0, text.length, growing);
}

const blank = (line) => line.text.trim() === "";
const indent = (text) => text.match(/^[ \t]*/)[0].replace(/\t/g, "    ").length;

function blocksOf(lines, depth, length = 0, growing = false) {
  const blocks = [];
  let i = 0;
  while (i < lines.length) {
    if (blank(lines[i])) {
      i += 1;
      continue;
    }
    const from = i;
    const read =
      fence(lines, i) ??
      mathBlock(lines, i, growing) ??
      heading(lines, i) ??
      (RULE.test(lines[i].text) ? { block: { type: "rule" }, next: i + 1 } : null) ??
      (depth < MAX_DEPTH ? (quote(lines, i, depth) ?? list(lines, i, depth)) : null) ??
      table(lines, i) ??
      paragraph(lines, i, depth, growing);
    i = read.next;
    read.block.start = lines[from].start;
    read.block.end = i < lines.length ? lines[i].start : length;
    blocks.push(read.block);
  }
  return blocks;
}

function fence(lines, i) {
  const open = FENCE.exec(lines[i].text);
  if (!open) return null;
  const mark = open[1] ?? open[3];
  const margin = indent(lines[i].text);
  const body = [];
  let next = i + 1;
  for (; next < lines.length; next += 1) {
    const end = FENCE_END.exec(lines[next].text)?.[1];
    if (end?.startsWith(mark)) break;
    body.push(lines[next].text.slice(Math.min(margin, /^ */.exec(lines[next].text)[0].length)));
  }
  const closed = next < lines.length;
  return {
    block: { type: "code", lang: (open[2] ?? open[4]).trim().split(/\s/, 1)[0], text: body.join("\n"), closed },
    next: closed ? next + 1 : next,
  };
}

function mathBlock(lines, i, growing) {
  const open = FORMULA.exec(lines[i].text);
  if (!open) return null;
  const close = open[1] === "$$" ? "$$" : "\\]";
  const same = open[2].indexOf(close);
  if (same >= 0) {
    if (open[2].slice(same + 2).trim()) return null; // more follows: an inline formula of a paragraph
    return { block: { type: "math", tex: open[2].slice(0, same), closed: true }, next: i + 1 };
  }
  const body = [open[2]];
  for (let next = i + 1; next < lines.length; next += 1) {
    if (next - i > MAX_FORMULA) return null;
    const line = lines[next].text;
    const at = line.indexOf(close);
    if (at >= 0) {
      if (line.slice(at + 2).trim()) return null;
      body.push(line.slice(0, at));
      return { block: { type: "math", tex: body.join("\n"), closed: true }, next: next + 1 };
    }
    body.push(line);
  }
  return growing ? { block: { type: "math", tex: body.join("\n"), closed: false }, next: lines.length } : null;
}

function heading(lines, i) {
  const found = HEADING.exec(lines[i].text);
  if (!found) return null;
  let text = (found[2] ?? "").trim();
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  if (end === 0 || /[ \t]/.test(text[end - 1])) text = text.slice(0, end).trimEnd();
  return { block: { type: "heading", level: found[1].length, text }, next: i + 1 };
}

function quote(lines, i, depth) {
  if (!QUOTE.test(lines[i].text)) return null;
  const inner = [];
  let next = i;
  while (next < lines.length && QUOTE.test(lines[next].text)) {
    inner.push({ text: lines[next].text.replace(QUOTE, ""), start: 0 });
    next += 1;
  }
  return { block: { type: "quote", blocks: blocksOf(inner, depth + 1) }, next };
}

function list(lines, i, depth) {
  const first = item(lines[i].text);
  if (!first) return null;
  const block = { type: "list", ordered: first.ordered, first: first.number, tight: true, items: [] };
  let next = i;
  while (next < lines.length) {
    const mark = item(lines[next].text);
    if (!mark || mark.kind !== first.kind || RULE.test(lines[next].text)) break;
    const inner = [{ text: mark.rest, start: 0 }];
    next += 1;
    let gap = false;
    while (next < lines.length) {
      const line = lines[next];
      if (blank(line)) {
        gap = true;
      } else if (indent(line.text) >= mark.width || (indent(line.text) >= 2 && item(line.text.trimStart()))) {
        // Models often indent a nested list by less than CommonMark asks for.
        if (gap) {
          inner.push({ text: "", start: 0 });
          block.tight = false;
        }
        gap = false;
        inner.push({ text: dedent(line.text, mark.width), start: 0 });
      } else if (gap || startsBlock(line.text) || item(line.text)) {
        break;
      } else {
        inner.push({ text: line.text.trimStart(), start: 0 }); // lazy continuation of the paragraph
      }
      next += 1;
    }
    if (gap && next < lines.length && item(lines[next].text)?.kind === first.kind) block.tight = false;
    const task = /^\[([ xX])\][ \t]+/.exec(inner[0].text);
    if (task) inner[0].text = inner[0].text.slice(task[0].length);
    block.items.push({ task: task ? task[1] !== " " : null, blocks: blocksOf(inner, depth + 1) });
  }
  return { block, next };
}

function item(text) {
  const found = ITEM.exec(text);
  if (!found) return null;
  const ordered = /\d/.test(found[2]);
  const space = (found[3] ?? " ").length;
  return {
    ordered,
    number: ordered ? parseInt(found[2], 10) : null,
    kind: ordered ? found[2].at(-1) : found[2],
    width: found[1].length + found[2].length + (space > 4 ? 1 : space),
    rest: (space > 4 ? " ".repeat(space - 1) : "") + (found[4] ?? ""),
  };
}

function dedent(text, width) {
  const flat = text.replace(/^[ \t]+/, (space) => space.replace(/\t/g, "    "));
  return flat.slice(Math.min(width, indent(flat)));
}

function table(lines, i) {
  if (!lines[i].text.includes("|") || i + 1 >= lines.length) return null;
  if (!/^[ \t|:-]*$/.test(lines[i + 1].text) || indent(lines[i + 1].text) > 3) return null;
  const marks = cells(lines[i + 1].text);
  if (!marks.length || marks.length > MAX_COLUMNS || !marks.every((mark) => /^:?-+:?$/.test(mark))) return null;
  const head = cells(lines[i].text);
  if (head.length !== marks.length) return null;
  const align = marks.map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : null));
  const rows = [];
  let next = i + 2;
  while (next < lines.length && !blank(lines[next]) && !startsBlock(lines[next].text)) {
    const row = cells(lines[next].text).slice(0, head.length);
    rows.push([...row, ...Array(head.length - row.length).fill("")]);
    next += 1;
  }
  return { block: { type: "table", align, head, rows }, next };
}

/** A row's cells. A bar within code or behind a backslash does not part them. */
export function cells(line) {
  const out = [];
  let cell = "";
  let ticks = 0;
  const text = line.trim().replace(/^\|/, "");
  for (let i = 0; i < text.length; i += 1) {
    if (text[i] === "\\" && text[i + 1] === "|") {
      cell += "|";
      i += 1;
    } else if (text[i] === "`") {
      const run = /^`+/.exec(text.slice(i))[0].length;
      if (ticks === 0 && text.indexOf("`".repeat(run), i + run) >= 0) ticks = run;
      else if (ticks === run) ticks = 0;
      cell += "`".repeat(run);
      i += run - 1;
    } else if (text[i] === "|" && ticks === 0) {
      out.push(cell.trim());
      cell = "";
    } else cell += text[i];
  }
  if (cell.trim()) out.push(cell.trim());
  return out;
}

function startsBlock(text) {
  return FENCE.test(text) || HEADING.test(text) || RULE.test(text) || QUOTE.test(text);
}

function paragraph(lines, i, depth, growing) {
  const body = [lines[i].text.trimStart()];
  let next = i + 1;
  while (next < lines.length && !blank(lines[next])) {
    const text = lines[next].text;
    const mark = depth < MAX_DEPTH ? item(text) : null;
    if (startsBlock(text) || (mark && text.trim().length > 1 && (!mark.ordered || mark.number === 1))) break;
    if (mathBlock(lines, next, growing) || table(lines, next)) break;
    body.push(text.trimStart());
    next += 1;
  }
  return { block: { type: "paragraph", text: body.join("\n").trimEnd() }, next };
}

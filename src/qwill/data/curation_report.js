"use strict";
// The report's moving parts: the choice of language, the table of steps, and the threshold sweep.
// Texts of documents reach the page through textContent alone.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

// ---- small helpers
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
function svg(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
function both(en, zh) {
  const fragment = document.createDocumentFragment();
  fragment.append(el("span", { "data-l": "en" }, en), el("span", { "data-l": "zh", lang: "zh-Hans" }, zh));
  return fragment;
}
const count = (n) => n.toLocaleString("en-US");
function size(n) {
  for (const [limit, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (Math.abs(n) >= limit) return (n / limit).toFixed(1) + " " + unit;
  }
  return n + " B";
}
function percent(part, whole) {
  if (!whole) return "–";
  const share = (100 * part) / whole;
  return (share > 0 && share < 9.95 ? share.toFixed(share < 0.095 ? 2 : 1) : share.toFixed(0)) + " %";
}
function number(value) {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const plain = Number(value.toPrecision(4));
  return (Math.abs(plain) >= 1e6 || (plain !== 0 && Math.abs(plain) < 1e-4) ? plain.toExponential(2) : String(plain)).replace("-", "−");
}
const heat = (part, whole) => (whole && part ? Math.sqrt(part / whole).toFixed(3) : null);
function cell(documents, bytes, css) {
  return el("td", { class: "num " + (css || "") }, count(documents), el("small", {}, size(bytes)));
}
const unique = (list) => [...new Set(list)].sort();
const languageName = (code) => data.languages[code] || { en: code, zh: code };
function select(label, values, chosen, change, show) {
  const box = el("select", { on: { change: () => change(box.value) } });
  for (const value of values) {
    const option = el("option", { value }, show ? show(value) : value);
    option.selected = value === chosen;
    box.append(option);
  }
  return el("label", {}, label, box);
}
const ALL = "";
const showCode = (code) => (code === ALL ? "all · 全部" : languageName(code).en + " · " + languageName(code).zh);
const showName = (name) => (name === ALL ? "all · 全部" : name);

// ---- the language of the page
function setLanguage(code) {
  document.documentElement.dataset.lang = code;
  document.documentElement.lang = code === "zh" ? "zh-Hans" : "en";
  document.getElementById("switch").textContent = code === "zh" ? "English" : "中文";
}
document.getElementById("switch").addEventListener("click", () =>
  setLanguage(document.documentElement.dataset.lang === "zh" ? "en" : "zh"));
setLanguage((navigator.language || "en").startsWith("zh") ? "zh" : "en");

// ---- step by step
const stepChoice = { language: ALL, register: ALL, source: ALL };
function stepTable() {
  const chosen = data.columns.filter((column) =>
    Object.entries(stepChoice).every(([key, value]) => value === ALL || column[key] === value));
  const table = el("table", {}, el("tr", {}, el("th", {}, both("step", "步骤")), el("th", { class: "num" }, both("documents", "文档")),
    el("th", { class: "num" }, both("bytes", "字节")), el("th", { class: "num" }, both("dropped", "丢弃")),
    el("th", { class: "num" }, both("share", "比例")), el("th", { class: "num" }, both("bytes added", "增加字节")),
    el("th", {}, both("reasons", "理由"))));
  let before = null;
  data.steps.forEach((name, i) => {
    const sums = [0, 0, 0, 0, 0, 0];
    const reasons = new Map();
    for (const column of chosen) {
      const step = column.steps[i];
      for (let k = 0; k < 6; k++) sums[k] += step[k];
      for (const [reason, [documents, bytes]] of Object.entries(step[6])) {
        const held = reasons.get(reason) || [0, 0];
        reasons.set(reason, [held[0] + documents, held[1] + bytes]);
      }
    }
    const [documents, bytes, dropped, droppedBytes, changed, added] = sums;
    const why = el("td", { class: "why" });
    for (const [reason, [n, b]] of [...reasons].sort((x, y) => y[1][0] - x[1][0])) {
      why.append(el("div", {}, reason.replaceAll("_", " ") + " ", el("b", {}, count(n)), el("span", { class: "soft" }, " " + size(b))));
    }
    table.append(el("tr", { "data-step": name.en, "data-documents": documents, "data-bytes": bytes, "data-dropped": dropped },
      el("td", {}, both(name.en, name.zh)), el("td", { class: "num" }, count(documents)), el("td", { class: "num" }, size(bytes)),
      dropped ? cell(dropped, droppedBytes) : el("td", { class: "num" }, "·"),
      el("td", { class: "heat", style: "--heat:" + (heat(dropped, before) || 0) }, dropped ? percent(dropped, before) : "·"),
      el("td", { class: "num" }, changed ? (added < 0 ? "−" : "+") + size(Math.abs(added)) : "·",
        changed ? el("small", {}, both(count(changed) + " changed", "改动 " + count(changed))) : null), why));
    before = documents;
  });
  document.getElementById("step-table").replaceChildren(table);
}
function stepChoices() {
  const values = (key) => [ALL, ...unique(data.columns.map((column) => column[key]))];
  const set = (key) => (value) => { stepChoice[key] = value; stepTable(); };
  document.getElementById("step-choices").replaceChildren(
    select(both("language", "语言"), values("language"), ALL, set("language"), showCode),
    select(both("register", "语体"), values("register"), ALL, set("register"), showName),
    select(both("source", "来源"), values("source"), ALL, set("source"), showName));
}
stepChoices();
stepTable();

// ---- the threshold sweep
// A score's parts (language × register) share its edges: a cell [k, passed, alone, others, and the same in bytes] holds the
// values from edge k up to edge k + 1. `least` passes values >= it, `most` values <= it; null is no bound.
const bound = (value, none) => (value === null ? none : Number(value));
for (const score of data.scores) {
  score.edges = score.edges.map(Number);
  for (const part of score.parts) {
    part.low = bound(part.least, -Infinity);
    part.high = bound(part.most, Infinity);
    // The first value that is too high: the edge that the threshold has cut into the bins.
    const cut = score.edges.find((edge) => edge > part.high);
    part.end = part.most === null ? Infinity : cut === undefined ? Infinity : cut;
  }
}
const rule = { language: ALL, name: null, stage: 0, least: null, most: null };
const partsOf = (score) => score.parts.filter((part) => rule.language === ALL || part.language === rule.language);
const inside = (value, low, end) => value >= low && value < end;

/** Sums over a part's cells under the thresholds [low, end): what passes now and would not, what is saved, what fails. */
function effect(score, part, low, end) {
  const result = { judged: [0, 0], failing: [0, 0], alone: [0, 0], passed: [0, 0], lost: [0, 0], saved: [0, 0] };
  for (const [k, ...n] of part.cells) {
    const value = score.edges[k];
    const now = inside(value, part.low, part.end);
    const then = inside(value, low, end);
    for (const [at, offset] of [[0, 0], [1, 3]]) {
      const [passed, alone, others] = n.slice(offset, offset + 3);
      result.judged[at] += passed + alone + others;
      result.passed[at] += passed;
      if (!then) result.failing[at] += passed + alone + others;
      if (!then) result.alone[at] += alone;
      if (now && !then) result.lost[at] += passed;
      if (!now && then) result.saved[at] += alone;
    }
  }
  return result;
}
function total(effects) {
  const sum = {};
  for (const one of effects) {
    for (const [key, [documents, bytes]] of Object.entries(one)) {
      sum[key] = sum[key] || [0, 0];
      sum[key][0] += documents;
      sum[key][1] += bytes;
    }
  }
  return sum;
}
function limitText(part) {
  if (part.least === null && part.most === null) return "–";
  return [part.least === null ? null : "≥ " + number(part.low), part.most === null ? null : "≤ " + number(part.high)].filter(Boolean).join(", ");
}

function ruleTable() {
  const rows = [];
  for (const score of data.scores) {
    const parts = partsOf(score);
    if (!parts.length) continue;
    const sum = total(parts.map((part) => effect(score, part, part.low, part.end)));
    rows.push({ score, sum, limits: unique(parts.map(limitText)) });
  }
  rows.sort((a, b) => b.sum.alone[0] - a.sum.alone[0] || b.sum.failing[0] - a.sum.failing[0] || (a.score.name < b.score.name ? -1 : 1));
  const known = rows.some(({ score }) => score.name === rule.name && score.stage === rule.stage);
  if (!known && rows.length) Object.assign(rule, { name: rows[0].score.name, stage: rows[0].score.stage, least: null, most: null });
  const table = el("table", {}, el("tr", {}, el("th", {}, both("score", "分数")), el("th", {}, both("passes", "通过条件")),
    el("th", { class: "num" }, both("fails", "不通过")), el("th", { class: "num" }, both("only this", "仅此一条")),
    el("th", { class: "num" }, both("judged", "判定"))));
  for (const { score, sum, limits } of rows) {
    const choose = () => { Object.assign(rule, { name: score.name, stage: score.stage, least: null, most: null }); sweep(); };
    const chosen = score.name === rule.name && score.stage === rule.stage;
    table.append(el("tr", { class: "pick" + (chosen ? " chosen" : ""), "data-name": score.name, "data-failing": sum.failing[0],
      "data-alone": sum.alone[0], "data-judged": sum.judged[0], on: { click: choose } },
      el("td", {}, el("button", { type: "button" }, score.name)), el("td", {}, limits.slice(0, 3).join(" · ") + (limits.length > 3 ? " …" : "")),
      el("td", { class: "heat", style: "--heat:" + (heat(sum.failing[0], sum.judged[0]) || 0) }, count(sum.failing[0]), el("small", {}, percent(sum.failing[0], sum.judged[0]))),
      cell(...sum.alone), cell(...sum.judged)));
  }
  document.getElementById("rule-table").replaceChildren(table);
}

/** Thresholds of a part: its own, or where a slider was moved the slider's. */
function moved(part) {
  return [rule.least === null ? part.low : rule.least, rule.most === null ? part.end : rule.most];
}
function slider(score, kind, output) {
  const stops = kind === "least" ? [-Infinity, ...score.edges.filter(Number.isFinite)] : [...score.edges.filter(Number.isFinite), Infinity];
  const parts = partsOf(score);
  const own = kind === "least" ? Math.max(...parts.map((part) => part.low)) : Math.min(...parts.map((part) => part.end));
  let at = stops.indexOf(rule[kind] === null ? own : rule[kind]);
  if (at < 0) at = kind === "least" ? 0 : stops.length - 1;
  const input = el("input", { type: "range", min: 0, max: stops.length - 1, step: 1, value: at, id: "slide-" + kind,
    "aria-label": kind, on: { input: () => { rule[kind] = stops[Number(input.value)]; show(); output(); } } });
  const text = el("output", {});
  const show = () => {
    const limits = unique(parts.map((part) => String(kind === "least" ? part.low : part.high)));
    if (rule[kind] === null) text.textContent = limits.length > 1 ? "…" : (kind === "least" ? "≥ " : "≤ ") + number(Number(limits[0]));
    else {
      // A stop that is a threshold's own edge is named by the threshold: "<= 0.1", not "< 0.10000000000000002".
      const named = parts.find((part) => kind === "most" && part.end === rule.most && part.most !== null);
      text.textContent = kind === "least" ? "≥ " + number(rule.least) : named ? "≤ " + number(named.high) : "< " + number(rule.most);
    }
  };
  show();
  return el("div", { class: "slider" }, kind === "least" ? both("at least", "最小值") : both("at most", "最大值"), input, text);
}

function chart(score) {
  const width = 680, height = 170, base = 140, parts = partsOf(score);
  const sums = score.edges.map(() => [0, 0, 0]);
  for (const part of parts) for (const [k, a, b, c] of part.cells) [a, b, c].forEach((n, i) => (sums[k][i] += n));
  const filled = score.edges.map((edge, k) => k).filter((k) => sums[k][0] + sums[k][1] + sums[k][2] > 0 && Number.isFinite(score.edges[k]));
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": score.name });
  if (!filled.length) return picture;
  const first = score.edges[filled[0]], last = score.edges[filled[filled.length - 1]];
  const least = score.edges[filled.find((k) => score.edges[k] > 0)];
  const log = first >= 0 && last > 50 && last > 50 * least;
  const scale = log ? (v) => Math.log1p(Math.max(v, 0)) : (v) => v;
  // The last bin may be joined with emptiness; one sixteenth more is the widest that a bin of its own is.
  const next = Math.min(score.edges[filled[filled.length - 1] + 1] ?? Infinity, last + Math.abs(last) / 16);
  const low = scale(first), high = Math.max(scale(next), low + 1e-9);
  const across = (v) => 8 + ((Math.min(Math.max(scale(v), low), high) - low) / (high - low)) * (width - 16);
  const columns = 110, heights = Array.from({ length: columns }, () => [0, 0, 0]);
  const place = (v) => Math.min(columns - 1, Math.floor(((across(v) - 8) / (width - 16)) * columns));
  for (const k of filled) {
    // A bin's documents are spread over the columns that it covers: a sixteenth of its value, or of several bins joined.
    const from = place(score.edges[k]), own = score.edges[k] + (Math.abs(score.edges[k]) / 16) * score.joined;
    const end = Math.min(score.edges[k + 1] ?? Infinity, own);
    const to = Math.max(from + 1, Number.isFinite(end) ? place(end) : from + 1);
    for (let i = from; i < to; i++) sums[k].forEach((n, j) => (heights[i][j] += n / (to - from)));
  }
  const tallest = Math.max(...heights.map((h) => h[0] + h[1] + h[2]));
  const tall = (n) => (n ? Math.max(1.2, (Math.sqrt(n) / Math.sqrt(tallest)) * (base - 14)) : 0);
  heights.forEach((h, i) => {
    // Heights go by the square root, so that a few can be seen beside very many; shares within a bar are true.
    const sum = h[0] + h[1] + h[2];
    let y = base;
    ["passed", "alone", "others"].forEach((css, j) => {
      const part = sum ? (tall(sum) * h[j]) / sum : 0;
      if (part) picture.append(svg("rect", { x: 8 + (i * (width - 16)) / columns, y: y - part, width: (width - 16) / columns - 1, height: part, class: css }));
      y -= part;
    });
  });
  picture.append(svg("line", { x1: 8, x2: width - 8, y1: base, y2: base, class: "axis" }));
  for (let i = 0; i <= 4; i++) {
    const v = low + ((high - low) * i) / 4, shown = log ? Math.expm1(v) : v;
    picture.append(svg("text", { x: 8 + ((width - 16) * i) / 4, y: base + 18, "text-anchor": i === 0 ? "start" : i === 4 ? "end" : "middle", class: "tick" },
      number(Number(shown.toPrecision(2)))));
  }
  const mark = (v, css) => { if (Number.isFinite(v)) picture.append(svg("line", { x1: across(v), x2: across(v), y1: 4, y2: base, class: css })); };
  for (const part of parts) { mark(part.low, "now"); mark(part.end, "now"); }
  if (rule.least !== null) mark(rule.least, "moved");
  if (rule.most !== null) mark(rule.most, "moved");
  return picture;
}

function shown(language, register, id, value, text, step, reason) {
  const why = step ? step.replaceAll("_", " ") + ": " + reason.replaceAll("_", " ") : null;
  return el("div", { class: "shown" }, el("div", { class: "who" }, value === null ? "" : el("b", {}, number(Number(value)) + " "),
    el("bdi", { class: "id" }, id), " " + languageName(language).en + " · ", el("bdi", {}, register), why ? " · " + why : ""),
    el("div", { class: "text", dir: "auto", lang: language === "zh" ? "zh-Hans" : language }, text));
}
/** The documents nearest to a threshold, on both sides. */
function sides(score) {
  const box = el("div", {});
  for (const kind of ["least", "most"]) {
    const near = data.near.filter((group) => group.name === score.name && group.bound === kind && (rule.language === ALL || group.language === rule.language));
    if (!near.length) continue;
    const column = (side, en, zh, css) => {
      const rows = near.filter((group) => group.side === side).flatMap((group) => group.rows.map((row) => ({ group, row })));
      const threshold = (g) => score.parts.find((part) => part.language === g.language && part.register === g.register)[kind === "least" ? "low" : "high"];
      rows.sort((a, b) => Math.abs(a.row[1] - threshold(a.group)) - Math.abs(b.row[1] - threshold(b.group)));
      const node = el("div", { class: "side " + css }, el("h4", {}, both(en, zh)));
      for (const { group, row } of rows.slice(0, 4)) node.append(shown(group.language, group.register, row[0], row[1], row[2], row[3], row[4]));
      if (!rows.length) node.append(el("p", { class: "soft" }, both("none", "无")));
      return node;
    };
    box.append(el("h4", {}, kind === "least" ? both("On either side of the least", "最小值两侧") : both("On either side of the most", "最大值两侧")),
      el("div", { class: "sides" }, column("kept", "just kept", "刚好保留", "keep"), column("dropped", "just dropped", "刚好丢弃", "drop")));
  }
  return box;
}
/** Documents of the sample that the moved thresholds would save or drop. */
function examples(score) {
  const saved = [], lost = [];
  for (const group of data.sample) {
    if (group.stage !== score.stage || (rule.language !== ALL && group.language !== rule.language)) continue;
    const part = score.parts.find((p) => p.language === group.language && p.register === group.register);
    const at = group.names.indexOf(score.name);
    if (!part || at < 0) continue;
    const [low, end] = moved(part);
    for (const [id, , step, reason, text, values] of group.rows) {
      const value = values[at];
      if (value === null || value === undefined) continue;
      const now = inside(value, part.low, part.end), then = inside(value, low, end);
      if (now && !then && !step) lost.push(shown(group.language, group.register, id, value, text, step, reason));
      if (!now && then) saved.push(shown(group.language, group.register, id, value, text, step, reason));
    }
  }
  const column = (list, en, zh, css) => {
    const node = el("div", { class: "side " + css }, el("h4", {}, both(en, zh)), ...list.slice(0, 6));
    if (!list.length) node.append(el("p", { class: "soft" }, both("none in the sample", "样本中没有")));
    return node;
  };
  if (rule.least === null && rule.most === null) return el("div", {});
  return el("div", { class: "sides" }, column(saved, "no longer dropped by this rule (sample)", "不再被此规则丢弃（样本）", "keep"), column(lost, "newly dropped (sample)", "新被丢弃（样本）", "drop"));
}

function effectTable(score) {
  const table = el("table", { class: "heats" }, el("tr", {}, el("th", {}, both("language", "语言")), el("th", {}, both("register", "语体")),
    el("th", {}, both("passes now", "现行条件")), el("th", { class: "num" }, both("passed all", "全部通过")), el("th", { class: "num" }, both("fails", "不通过")),
    el("th", { class: "num" }, both("saved", "挽回")), el("th", { class: "num" }, both("newly dropped", "新丢弃")), el("th", { class: "num" }, both("change", "变化"))));
  const parts = partsOf(score);
  const line = (first, second, limit, sum, css) => {
    const change = sum.saved[0] - sum.lost[0], changeBytes = sum.saved[1] - sum.lost[1];
    return el("tr", { class: css, "data-saved": sum.saved[0], "data-lost": sum.lost[0], "data-failing": sum.failing[0], "data-saved-bytes": sum.saved[1], "data-lost-bytes": sum.lost[1] },
      el("td", {}, first), el("td", {}, second), el("td", {}, limit), cell(...sum.passed),
      el("td", { class: "heat", style: "--heat:" + (heat(sum.failing[0], sum.judged[0]) || 0) }, count(sum.failing[0]), el("small", {}, percent(sum.failing[0], sum.judged[0]))),
      cell(...sum.saved, sum.saved[0] ? "gain" : ""), cell(...sum.lost, sum.lost[0] ? "loss" : ""),
      el("td", { class: "num" }, !sum.passed[0] ? "–" : (change > 0 ? "+" : change < 0 ? "−" : "") + percent(Math.abs(change), sum.passed[0]), el("small", {}, (changeBytes > 0 ? "+" : changeBytes < 0 ? "−" : "") + size(Math.abs(changeBytes)))));
  };
  const effects = parts.map((part) => effect(score, part, ...moved(part)));
  parts.forEach((part, i) => table.append(line(both(languageName(part.language).en, languageName(part.language).zh), el("bdi", {}, part.register), limitText(part), effects[i], "")));
  if (parts.length > 1) table.append(line(both("all", "全部"), "", "", total(effects), "sum"));
  return table;
}

function sweep() {
  ruleTable();
  const score = data.scores.find((one) => one.name === rule.name && one.stage === rule.stage);
  const box = document.getElementById("rule");
  if (!score) { box.replaceChildren(el("p", { class: "soft" }, both("No document was judged.", "没有文档被判定。"))); return; }
  const picture = el("div", {}), effects = el("div", { class: "scroll" }), texts = el("div", {});
  const update = () => { picture.replaceChildren(chart(score)); effects.replaceChildren(effectTable(score)); texts.replaceChildren(examples(score)); };
  const reset = el("button", { type: "button", on: { click: () => { rule.least = rule.most = null; sweep(); } } }, both("reset", "还原"));
  const only = score.only ? el("p", { class: "soft" }, both(`judged only where ${number(Number(score.only[1]))} ≤ ${score.only[0]} < ${number(Number(score.only[2]))}`,
    `仅当 ${number(Number(score.only[1]))} ≤ ${score.only[0]} < ${number(Number(score.only[2]))} 时判定`)) : null;
  box.replaceChildren(el("h3", {}, score.name), ...(only ? [only] : []),
    el("div", { class: "legend" }, el("span", { class: "passed" }, both("passed every rule", "通过全部规则")), el("span", { class: "alone" }, both("dropped by this rule alone", "仅因此规则被丢弃")), el("span", { class: "others" }, both("dropped by others (too)", "因其他规则被丢弃"))),
    picture, slider(score, "least", update), slider(score, "most", update), el("p", {}, reset), effects, texts, sides(score));
  update();
}
if (document.getElementById("rule")) {
  const codes = unique(data.scores.flatMap((score) => score.parts.map((part) => part.language)));
  document.getElementById("rule-choices").replaceChildren(select(both("language", "语言"), [ALL, ...codes], ALL, (value) => {
    Object.assign(rule, { language: value, least: null, most: null });
    sweep();
  }, showCode));
  sweep();
}

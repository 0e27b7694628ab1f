// The page put together: what each button and key does, what is drawn when something changes.

import { onKeyNeeded } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { askExport, askKey, showHelp } from "./dialogs.js";
import { h, icon } from "./dom.js";
import { download, fileName, toJson, toMarkdown } from "./export.js";
import { firstLanguage, getLanguage, setLanguage, t } from "./i18n.js";
import { command, shortcuts } from "./keys.js";
import { recall, remember } from "./memory.js";
import { arrange, InputView, ReplyView } from "./message.js";
import { Models } from "./models.js";
import { copyText } from "./render.js";
import { Follow } from "./scroll.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Stats } from "./stats.js";
import { Store } from "./store.js";
import { drawStaticWords, drawTheme, label, nextTheme } from "./surface.js";

const $ = (id) => document.getElementById(id);
const NARROW = matchMedia("(max-width: 860px)");

setLanguage(firstLanguage(recall("language"), navigator.languages ?? [navigator.language]));
onKeyNeeded(askKey);

const models = new Models([$("model"), $("model-second")], () => drawShape());
const settings = new Settings($("panel"), () => drawThink());
const stats = new Stats($("stats"), $("to-arena"));
const follow = new Follow($("log"), $("latest"));
let views = new Map(); // node → its view
let grown = new Set(); // views whose text has grown since the last frame
let nextDraw = 0;

const view = {
  changed: () => drawShape(),
  grew(reply) {
    const one = views.get(reply);
    if (!one) return;
    // Text that takes long to draw is drawn less often: the page stays quick under a reply of any size.
    const wait = nextDraw - performance.now();
    if (!grown.size && wait > 0) setTimeout(() => requestAnimationFrame(drawGrown), wait);
    else if (!grown.size) requestAnimationFrame(drawGrown);
    grown.add(one);
  },
  said: (key) => ($("said").textContent = key ? t(key) : ""),
  saved(current) {
    const { id } = chat.conversation;
    if (current && store.kept && id) history.replaceState(null, "", `#${id}`);
    sidebar.load();
  },
  unsaved(words) {
    $("unsaved").hidden = !words;
    if (words) $("unsaved").textContent = t(words);
  },
};

const store = new Store();
const chat = new Chat(store, models, settings, view);
const sidebar = new Sidebar(store, $("history"), $("search"), {
  open,
  current: () => chat.conversation.id,
  removed: (id) => id === chat.conversation.id && newChat(),
});

const act = {
  versions: (node) => chat.conversation.versions(node),
  busy: () => chat.busy,
  running: (node) => chat.session.running.has(node),
  step(node, step) {
    const other = chat.conversation.step(node, step);
    if (!other) return;
    drawShape();
    const name = step < 0 ? "previous" : "next";
    const buttons = views.get(other)?.element.querySelectorAll(`[data-act=${name}]:enabled, [data-act]:enabled`);
    (views.get(other)?.element.querySelector(`[data-act=${name}]:enabled`) ?? buttons?.[0])?.focus();
  },
  send(text, instead) {
    if (!chat.send(text, instead)) return;
    follow.end();
    composer.focus();
  },
  again(reply) {
    chat.again(reply);
    composer.focus();
  },
  answer(reply, results) {
    chat.answer(reply, results);
    follow.end();
  },
  // A call is answered by hand where one reply stands alone and nothing follows it.
  answerable(reply) {
    const last = chat.conversation.turns().at(-1);
    return last?.replies.length === 1 && last.replies[0] === reply && !chat.busy && !reply.details.fault;
  },
};

const composer = new Composer($("composer"), $("prompt"), {
  send(text) {
    if (!models.all.length) loadModels(true);
    if (!chat.send(text)) return false;
    follow.end();
    return true;
  },
  editLast() {
    const last = chat.conversation.turns().at(-1)?.input;
    if (!last || last.role !== "user" || chat.busy) return false;
    views.get(last).edit();
    return true;
  },
});

async function open(id) {
  try {
    await chat.open(id);
  } catch {
    newChat();
    return;
  }
  if (store.kept) history.replaceState(null, "", `#${id}`);
  if (NARROW.matches) showSide(false);
  sidebar.draw();
  follow.end();
  goToPrompt();
}

// Once something has been loaded; a reader who is elsewhere by then stays there.
function goToPrompt() {
  const at = document.activeElement;
  if (at === document.body || $("history").contains(at)) composer.focus();
}

function newChat() {
  chat.fresh();
  history.replaceState(null, "", location.pathname);
  if (NARROW.matches) showSide(false);
  sidebar.draw();
  view.unsaved(null);
  composer.focus();
}

function drawGrown() {
  const began = performance.now();
  const all = grown;
  grown = new Set();
  for (const one of all) one.grow();
  follow.grown(); // asks for the height, so the layout's time is measured too
  const now = performance.now();
  nextDraw = now + Math.min(1000, 3 * (now - began));
}

function drawShape() {
  const turns = chat.conversation.turns();
  const kept = new Map();
  const of = (node, View) => {
    const one = views.get(node) ?? new View(node, act);
    kept.set(node, one);
    one.refresh();
    return one.element;
  };
  const sections = turns.map(({ input, replies }) => {
    const said = of(input, InputView);
    const elements = replies.map((reply) => of(reply, ReplyView));
    const section = said.closest(".turn") ?? h("section", { class: "turn" }, said, h("div", { class: "replies" }));
    section.lastElementChild.classList.toggle("two", elements.length === 2);
    arrange(section.lastElementChild, elements);
    return section;
  });
  views = kept;
  const wide = models.two || turns.some(({ replies }) => replies.length === 2);
  $("main").classList.toggle("wide", wide);
  arrange($("talk"), sections);
  $("hello").hidden = turns.length > 0;
  $("send").hidden = chat.busy;
  $("stop").hidden = !chat.busy;
  drawWords();
  follow.grown();
}

function drawThink() {
  const on = settings.values.think === true;
  $("think").setAttribute("aria-pressed", String(on));
  $("think").title = t(on ? "thinkOn" : "thinkOff");
}

function drawWords() {
  const { two } = models;
  $("prompt").placeholder = t(two ? "promptCompare" : "prompt");
  $("prompt").setAttribute("aria-label", $("prompt").placeholder);
  $("hello-title").textContent = t(two ? "helloCompare" : "hello");
  $("hello-note").textContent = t("helloNote", { host: location.host });
  $("pair").setAttribute("aria-pressed", String(two));
  label($("pair"), t(two ? "compareOff" : "compare"));
  document.title = chat.conversation.title ? `${chat.conversation.title} · ${t("title")}` : t("title");
}

function drawSuggestions() {
  const suggestion = (n) => {
    const text = t(`suggest${n}Text`);
    return h("button", { type: "button", onclick: () => composer.write(text) }, h("strong", null, t(`suggest${n}`)), h("span", null, text));
  };
  $("suggestions").replaceChildren(...[1, 2, 3, 4].map(suggestion));
}

function drawLanguage() {
  drawStaticWords();
  view.said(null);
  drawTheme($("theme"));
  drawThink();
  drawSuggestions();
  settings.draw();
  models.draw();
  sidebar.draw();
  stats.draw();
  drawShape();
}

async function loadModels(asks = false) {
  try {
    await models.load(asks);
    $("notice").hidden = true;
    if (asks) sidebar.load();
  } catch (error) {
    const retry = h("button", { type: "button", class: "plain", onclick: () => loadModels(true) }, icon("again"), t("retry"));
    $("notice").replaceChildren(h("p", null, error.kind ? t(error.kind) : error.message), retry);
    $("notice").hidden = false;
  }
}

function showSide(on) {
  document.body.classList.toggle("no-side", !on);
  $("menu").setAttribute("aria-expanded", String(on));
  $("side").inert = !on;
  if (!NARROW.matches) remember("side", on);
}

function showPanel(on) {
  $("panel").hidden = !on;
  $("settings").setAttribute("aria-expanded", String(on));
  if (on) $("set-system").focus();
  else $("settings").focus();
}

async function exportChat() {
  const { conversation } = chat;
  if (conversation.empty) return view.said("exportEmpty");
  const kind = await askExport();
  if (kind === "markdown") download(fileName(conversation.title, "md"), "text/markdown", toMarkdown(conversation));
  if (kind === "json") download(fileName(conversation.title, "json"), "application/json", toJson(conversation));
  if (kind === "copy") await copyText(toMarkdown(conversation));
}

const commands = {
  newChat,
  focus: () => composer.focus(),
  help: () => showHelp(shortcuts().map(([keys, words]) => [keys, t(words)])),
  nextModel: () => models.next(),
  pair: () => models.pair(!models.two),
  settings: () => showPanel($("panel").hidden),
  side: () => showSide(document.body.classList.contains("no-side")),
  models: () => models.show(),
  exportChat,
  think: () => settings.set("think", settings.values.think !== true),
  again() {
    const reply = chat.conversation.turns().at(-1)?.replies[0];
    if (reply) act.again(reply);
  },
  stop() {
    if (chat.busy) chat.stop();
    else if (!$("panel").hidden) showPanel(false);
    else if (NARROW.matches && !document.body.classList.contains("no-side")) showSide(false);
  },
  search() {
    showSide(true);
    $("search").focus();
    $("search").select();
  },
  theme: () => nextTheme($("theme")),
  language() {
    setLanguage(getLanguage() === "en" ? "zh" : "en");
    remember("language", getLanguage());
    drawLanguage();
  },
};

for (const node of document.querySelectorAll("[data-icon]")) node.prepend(icon(node.dataset.icon));
for (const node of document.querySelectorAll("[data-command]")) node.addEventListener("click", () => commands[node.dataset.command]());
document.addEventListener("keydown", (event) => {
  const name = command(event);
  if (!name || !commands[name]) return;
  event.preventDefault();
  commands[name]();
});
$("panel").addEventListener("leave", () => showPanel(false));
NARROW.addEventListener("change", () => showSide(!NARROW.matches && recall("side", true)));
addEventListener("hashchange", () => location.hash.length > 1 && open(location.hash.slice(1)));

showSide(!NARROW.matches && recall("side", true));
drawLanguage();
document.body.classList.add("ready");
addEventListener("pagehide", () => chat.leave());
const asked = location.hash.slice(1);
await Promise.allSettled([loadModels(), sidebar.load(), store.opened.then(() => asked && store.kept && open(asked))]);
drawShape();
if (!NARROW.matches && !document.querySelector("dialog[open]")) goToPrompt();

// The arena put together: ask, read two replies, vote, learn who they were; and the leaderboard.

import { json, onKeyNeeded } from "./api.js";
import { Battle } from "./arena_battle.js";
import { Board } from "./arena_board.js";
import { ARENA_WORDS } from "./arena_words.js";
import { Composer } from "./composer.js";
import { askKey, showHelp } from "./dialogs.js";
import { h, icon } from "./dom.js";
import { addWords, firstLanguage, getLanguage, number, setLanguage, t } from "./i18n.js";
import { ALT, command, shared, shortcuts } from "./keys.js";
import { recall, recallHere, remember, rememberHere } from "./memory.js";
import { arrange, InputView, ReplyView } from "./message.js";
import { drawStaticWords, drawTheme, nextTheme } from "./surface.js";

const $ = (id) => document.getElementById(id);
addWords(ARENA_WORDS);
setLanguage(firstLanguage(recall("language"), navigator.languages ?? [navigator.language]));
onKeyNeeded(askKey);

// [command, key, arrow, its words on the button, what is said after the vote]
const VOTES = [
  ["a", "1", "←", "voteA", "youSaidA"],
  ["b", "2", "→", "voteB", "youSaidB"],
  ["tie", "3", null, "voteTie", "youSaidTie"],
  ["both_bad", "4", null, "voteBad", "youSaidBad"],
];
const KEYS = [
  ...shared("send", "line", "focus"),
  ["a", ["1", "←"], "1", "shortVoteA"],
  ["a", null, "ArrowLeft", ""],
  ["b", ["2", "→"], "2", "shortVoteB"],
  ["b", null, "ArrowRight", ""],
  ["tie", ["3"], "3", "voteTie"],
  ["both_bad", ["4"], "4", "voteBad"],
  ["next", ["N"], "n", "shortNext"],
  ["skip", ["Esc"], "Escape", "shortSkip"],
  ["other", [ALT, "B"], "alt KeyB", "shortBoard"],
  ...shared("theme", "language", "help"),
];
const SHOWN = 4; // suggestions at a time
const KEPT = "battle"; // under which the tab remembers it

let about = null; // what the server says of its arena
let battle = null;
let ideas = 0; // how many suggestions come before those that are shown
let views = [];
let stage = "ask";
let said = "";
let grown = new Set();
let nextDraw = 0;

const view = {
  changed: () => draw(),
  grew(reply) {
    const wait = nextDraw - performance.now();
    // Text that takes long to draw is drawn less often, as in the chat.
    if (!grown.size) setTimeout(() => requestAnimationFrame(drawGrown), Math.max(0, wait));
    grown.add(reply);
  },
};
const act = {
  versions: () => [],
  busy: () => true,
  running: (reply) => battle?.running.has(reply) ?? false,
  again: (reply) => battle.read(reply),
  answerable: () => false,
};
const composer = new Composer($("composer"), $("prompt"), { send: (text) => begin(text), editLast: () => false });
const board = new Board($("board"), {
  said: (words) => ($("said").textContent = words),
  failed: (error) => fail(error, () => board.load()),
  erased: () => load(),
});

function drawGrown() {
  const began = performance.now();
  const all = grown;
  grown = new Set();
  for (const one of views) if (all.has(one.node)) one.grow();
  const now = performance.now();
  nextDraw = now + Math.min(1000, 3 * (now - began));
}

function begin(text) {
  if (!text.trim()) return false;
  if (battle) return goOnWith(text);
  const own = (battle = new Battle(text, null, view));
  views = [];
  fail(null);
  draw();
  $("log").scrollTop = 0;
  own
    .begin()
    .then(() => battle === own && rememberHere(KEPT, own.id))
    .catch((error) => {
      if (battle !== own || error.name === "AbortError") return;
      end();
      lost(text, error);
    });
  return true;
}

function goOnWith(text) {
  const own = battle;
  if (stage !== "vote" || own.voting) return false;
  fail(null);
  own.goOn(text).catch((error) => {
    if (battle === own && error.name !== "AbortError") lost(text, error);
  });
  return true;
}

function lost(text, error) {
  composer.write(text); // nothing that was written is lost
  fail(error, () => composer.submit());
}

/** The battle that was there before the page was loaded again. */
async function resume() {
  const id = recallHere(KEPT);
  if (!id || battle) return;
  try {
    const own = await Battle.found(id, view);
    if (battle) return own.leave();
    battle = own;
    views = [];
    draw();
  } catch (error) {
    if (error.status === 404 || error.status === 403) rememberHere(KEPT, null);
    else fail(error, resume);
  }
}

function end() {
  battle?.leave();
  battle = null;
  rememberHere(KEPT, null);
  views = [];
  grown = new Set();
  draw();
}

async function vote(outcome) {
  if (!battle || onBoard()) return;
  const own = battle;
  try {
    if (!(await own.vote(outcome, $("consent").checked))) return;
    fail(null);
    if (about) about.votes += 1;
  } catch (error) {
    if (battle === own) fail(error, () => vote(outcome));
  }
}

/** What can't be done, with a button to try again; null: all is well. */
function fail(error, retry) {
  $("notice").hidden = !error;
  if (!error) return;
  if (error.status === undefined) throw error;
  const wait = error.retryAfter ? t("errorWait", { seconds: number(Math.ceil(error.retryAfter)) }) : null;
  const none = error.status === 404 && !about;
  const known = none ? t("arenaNone") : error.kind && error.kind !== "error404" ? t(error.kind) : null;
  const words = [[known, wait].filter(Boolean).join(" "), none ? "" : error.detail].filter(Boolean);
  const again = h("button", { type: "button", class: "plain", onclick: () => retry() }, icon("again"), t("retry"));
  $("notice").replaceChildren(h("div", null, words.map((text) => h("p", null, text))), again);
}

function draw() {
  const now = battle?.result ? "voted" : battle?.finished ? "vote" : battle ? "read" : "ask";
  const moved = now !== stage;
  stage = now;
  drawTalk();
  $("hello").hidden = Boolean(battle);
  $("ask").hidden = now !== "ask" && now !== "vote";
  $("agree").hidden = now !== "ask";
  $("verdict").hidden = now !== "read" && now !== "vote";
  $("outcome").hidden = now !== "voted";
  drawVerdict();
  drawOutcome();
  drawWords();
  if (!moved) return;
  if (!onBoard()) goOn();
  say({ read: t("writing"), vote: t("bothDone"), voted: $("outcome").textContent }[now] ?? "");
}

const say = (words) => ($("said").textContent = said = words);

// The focus goes where the next thing is done, unless the reader is reading somewhere else by then.
function goOn() {
  const at = document.activeElement;
  const elsewhere = at && at !== document.body && at.checkVisibility() && !$("foot").contains(at) && !$("hello").contains(at);
  if (elsewhere) return;
  if (stage === "ask") composer.focus();
  else if (stage === "voted") $("outcome").querySelector("button").focus();
  else if (!$("verdict").contains(at) || at.disabled) $("verdict").focus({ preventScroll: true });
}

/** A turn that was added fills the screen, so that it can stand at the top while its replies are still short. */
function toTurn() {
  const sections = [...$("talk").children];
  for (const section of sections) section.style.minHeight = "";
  if (sections.length < 2) return;
  sections.at(-1).style.minHeight = `${$("log").clientHeight}px`;
  sections.at(-1).scrollIntoView({ block: "start" });
}

function drawTalk() {
  if (!battle) {
    $("talk").replaceChildren();
    return;
  }
  if (!views.length) $("talk").replaceChildren();
  const before = views.length;
  for (const { prompt, replies } of battle.turns.slice(views.length / 2)) {
    const input = new InputView({ role: "user", content: prompt, details: {} }, { ...act, busy: () => true });
    const section = h("section", { class: "turn" }, input.body, h("div", { class: "replies two" }));
    input.body.classList.add("asked");
    views.push(...replies.map((reply) => new ReplyView(reply, act)));
    $("talk").append(section);
  }
  for (const one of views) one.refresh();
  if (views.length > before) toTurn();
  const won = battle.result?.outcome;
  [...$("talk").children].forEach((section, i) => {
    section.querySelector(".said").setAttribute("aria-label", t("you"));
    const two = views.slice(2 * i, 2 * i + 2);
    arrange(section.lastElementChild, two.map((one) => one.element));
    for (const one of two) one.element.classList.toggle("won", won === one.node.side);
  });
}

function drawVerdict() {
  const ready = stage === "vote" && !battle.voting;
  const at = $("verdict").contains(document.activeElement) ? document.activeElement.dataset.vote : null;
  const button = ([outcome, key, arrow, words]) =>
    h(
      "button",
      { type: "button", class: "vote", "data-vote": outcome, disabled: !ready, "aria-keyshortcuts": key, onclick: () => vote(outcome) },
      h("span", null, t(words)),
      h("kbd", { "aria-hidden": "true" }, key),
      arrow ? h("kbd", { "aria-hidden": "true" }, arrow) : null,
    );
  const skip = h("button", { type: "button", class: "vote skip-battle", "data-vote": "skip", onclick: () => end() }, h("span", null, t("skipBattle")), h("kbd", { "aria-hidden": "true" }, "Esc"));
  $("which").textContent = t(stage === "read" ? "readBoth" : "whichBetter");
  $("verdict").lastElementChild.replaceChildren(...VOTES.map(button), skip);
  if (at) $("verdict").querySelector(`[data-vote=${at}]`).focus();
}

function drawOutcome() {
  const { result } = battle ?? {};
  if (!result) {
    $("outcome").replaceChildren();
    return;
  }
  const [, , , , words] = VOTES.find(([outcome]) => outcome === result.outcome);
  const lines = battle.replies.map(({ model, letter }) => {
    const { before, after } = result.changes?.[model] ?? {};
    const name = `${letter} · ${model}`;
    if (typeof before !== "number" || typeof after !== "number") return h("li", null, name);
    const change = after - before;
    const signed = `${change < 0 ? "−" : "+"}${number(Math.abs(change), 1)}`;
    return h("li", null, t("changed", { model: name, before: number(before), after: number(after), change: signed }));
  });
  const why = result.counted === false && result.why === "leak" ? h("p", { class: "hint" }, t("notCountedLeak")) : null;
  const focused = $("outcome").contains(document.activeElement);
  const next = h("button", { type: "button", class: "main", id: "next", "aria-keyshortcuts": "n", onclick: () => end() }, t("nextBattle"), h("kbd", { "aria-hidden": "true" }, "N"));
  $("outcome").replaceChildren(h("div", null, h("p", null, t(words)), h("ul", null, lines), why), next);
  if (focused) next.focus();
}

function drawWords() {
  const counts = about ?? { model_count: 0, votes: 0 };
  $("hello-note").textContent = about ? t("helloArenaNote", { models: number(counts.model_count ?? counts.models), votes: number(counts.votes) }) : "";
  $("consent-text").textContent = typeof about?.consent === "string" ? about.consent : (about?.consent?.[getLanguage()] ?? "");
  const words = t(battle ? "promptGoOn" : "promptCompare");
  $("prompt").setAttribute("aria-label", words);
  $("prompt").placeholder = words;
  document.title = `${t(onBoard() ? "board" : "arena")} · ${t("title")}`;
}

function drawSuggestions() {
  const prompts = about?.prompts?.[getLanguage()] ?? [];
  const chosen = Array.from({ length: Math.min(SHOWN, prompts.length) }, (_, i) => prompts[(ideas + i) % prompts.length]);
  $("suggestions").replaceChildren(...chosen.map((text) => h("button", { type: "button", onclick: () => composer.write(text) }, h("span", null, text))));
  $("others").hidden = prompts.length <= SHOWN;
}

function drawLanguage() {
  drawStaticWords();
  drawTheme($("theme"));
  drawSuggestions();
  draw();
  board.draw();
  if (said) say("");
}

const onBoard = () => !$("board").hidden;

function show() {
  const wanted = location.hash === "#board";
  $("board").hidden = !wanted;
  $("fight").hidden = wanted;
  $("foot").classList.toggle("only-notice", wanted);
  $("to-battle").setAttribute("aria-current", wanted ? "false" : "page");
  $("to-board").setAttribute("aria-current", wanted ? "page" : "false");
  $("log").scrollTop = 0;
  if (about) fail(null);
  drawWords();
  if (wanted && about) board.load();
}

async function load() {
  try {
    about = await json("/qwill/arena");
    ideas = about.votes; // others each time, without chance
    fail(null);
    if (onBoard()) board.load();
  } catch (error) {
    fail(error, load);
  }
  drawSuggestions();
  drawWords();
}

const commands = {
  a: () => vote("a"),
  b: () => vote("b"),
  tie: () => vote("tie"),
  both_bad: () => vote("both_bad"),
  next: () => battle?.result && end(),
  skip: () => battle && !battle.result && end(),
  focus: () => composer.focus(),
  help: () => showHelp(shortcuts(KEYS).filter(([keys]) => keys).map(([keys, words]) => [keys, t(words)])),
  other: () => (location.hash = onBoard() ? "#battle" : "#board"),
  theme: () => nextTheme($("theme")),
  others() {
    ideas += SHOWN;
    drawSuggestions();
  },
  language() {
    setLanguage(getLanguage() === "en" ? "zh" : "en");
    remember("language", getLanguage());
    drawLanguage();
  },
};

for (const node of document.querySelectorAll("[data-icon]")) node.prepend(icon(node.dataset.icon));
for (const node of document.querySelectorAll("[data-command]")) node.addEventListener("click", () => commands[node.dataset.command]());
document.addEventListener("keydown", (event) => {
  const name = command(event, KEYS);
  if (!name || !commands[name]) return;
  // What scrolls sideways keeps its arrows.
  if (event.key.startsWith("Arrow") && event.target.closest?.("pre, .table, .formula, .heat")) return;
  event.preventDefault();
  commands[name]();
});
$("consent").checked = recall("consent", false) === true;
$("consent").addEventListener("change", () => remember("consent", $("consent").checked));
addEventListener("hashchange", show);
addEventListener("pagehide", () => battle?.leave());

drawLanguage();
document.body.classList.add("ready");
await load();
await resume();
show();
if (!onBoard() && matchMedia("(min-width: 861px)").matches && !document.querySelector("dialog[open]")) composer.focus();

// What a turn looks like: the reader's words, the replies to them in one or two columns, and what can be done with each.

import { h, icon, iconButton } from "./dom.js";
import { getLanguage, number, t } from "./i18n.js";
import { copyButton, MarkdownView } from "./render.js";

/** Makes `parent`'s children be `wanted`, moving nothing that is already in place. */
export function arrange(parent, wanted) {
  wanted.forEach((node, i) => parent.children[i] !== node && parent.insertBefore(node, parent.children[i] ?? null));
  while (parent.children.length > wanted.length) parent.lastElementChild.remove();
}

const HAN = /[\u3400-\u9fff]/g;
// So that the browser picks the right fonts and line breaks, whatever the page's own language.
function tongue(text) {
  const sample = text.slice(0, 400);
  return (sample.match(HAN)?.length ?? 0) > sample.length / 8 ? "zh" : "en";
}

function branches(node, act) {
  const versions = act.versions(node);
  if (versions.length < 2) return null;
  const at = versions.indexOf(node);
  const label = t("branch", { n: at + 1, total: versions.length });
  return h(
    "span",
    { class: "branches", role: "group", "aria-label": label },
    iconButton("left", t("previous"), () => act.step(node, -1), { disabled: at === 0 || act.busy(), "data-act": "previous" }),
    h("span", { "aria-hidden": "true" }, `${at + 1}/${versions.length}`),
    iconButton("right", t("next"), () => act.step(node, 1), { disabled: at === versions.length - 1 || act.busy(), "data-act": "next" }),
  );
}

/** The reader's own message, which becomes an editor in place. */
export class InputView {
  constructor(node, act) {
    Object.assign(this, { node, act });
    this.body = h("div", { class: "said" });
    this.tools = h("div", { class: "actions" });
    this.element = h("div", { class: `input ${node.role}`, role: "article" }, this.body, this.tools);
    if (node.role !== "tool") this.body.textContent = node.content;
    this.body.lang = tongue(node.content);
  }

  #results() {
    const open = [...this.body.children].map((box) => box.open);
    const boxes = (this.node.details.results ?? []).map(({ name, content }, i) =>
      h("details", { class: "call", open: open[i] }, h("summary", null, icon("tool"), t("toolResult", { name })), h("pre", { tabindex: "0" }, content)),
    );
    this.body.replaceChildren(...boxes);
  }

  refresh() {
    const { node, act } = this;
    this.element.setAttribute("aria-label", t(node.role === "tool" ? "tool" : "you"));
    if (node.role === "tool" && this.language !== getLanguage()) this.#results();
    this.language = getLanguage();
    this.tools.replaceChildren(
      ...[
        branches(node, act),
        copyButton(() => node.content),
        node.role === "user" && iconButton("pencil", t("edit"), () => this.edit(), { disabled: act.busy(), "data-act": "edit" }),
      ].filter(Boolean),
    );
  }

  edit() {
    const { node, act } = this;
    const area = h("textarea", { "aria-label": t("editLabel"), "data-label": "editLabel", rows: "1", value: node.content });
    const leave = () => {
      box.replaceWith(this.body);
      this.tools.hidden = false;
    };
    const send = () => {
      if (!area.value.trim()) return;
      leave();
      act.send(area.value, node);
    };
    area.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Escape") {
        event.stopPropagation();
        leave();
        this.tools.querySelector("[data-act=edit]")?.focus();
      } else if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        send();
      }
    });
    const box = h(
      "div",
      { class: "editor" },
      area,
      h(
        "div",
        { class: "row end" },
        h("button", { type: "button", class: "plain", "data-t": "cancel", onclick: leave }, t("cancel")),
        h("button", { type: "button", class: "main", "data-t": "resend", onclick: send }, t("resend")),
      ),
    );
    this.body.replaceWith(box);
    this.tools.hidden = true;
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

/** A reply, streamed: thoughts folded, text, calls, what went wrong, figures. */
export class ReplyView {
  constructor(node, act) {
    Object.assign(this, { node, act });
    this.name = h("header", { class: "who" });
    this.summary = h("span");
    this.inside = h("div", { class: "markdown" });
    this.thoughts = h("details", { class: "thoughts", hidden: true }, h("summary", null, icon("bulb"), this.summary), this.inside);
    this.body = h("div", { class: "markdown" });
    this.calls = h("div", { class: "calls" });
    this.fault = h("div", { class: "fault", role: "alert", hidden: true });
    this.wait = h("div", { class: "wait" }, h("i"), h("i"), h("i"));
    this.note = h("p", { class: "note" });
    this.tools = h("div", { class: "actions" });
    this.element = h("article", { class: "reply" }, this.name, this.thoughts, this.body, this.calls, this.wait, this.note, this.fault, this.tools);
    this.views = [new MarkdownView(this.inside), new MarkdownView(this.body)];
  }

  /** Text only: called at most once a frame while a reply is written. */
  grow() {
    const { node, act } = this;
    const running = act.running(node);
    this.thoughts.hidden = !node.reasoning;
    if (node.reasoning && (this.thoughts.open || !running)) this.views[0].update(node.reasoning, !running);
    if (node.content || !running) this.views[1].update(node.content, !running);
    const thinking = running && !node.content && !node.toolCalls.length;
    this.thoughts.classList.toggle("now", thinking);
    const { thought, first, seconds } = node.details;
    const took = (thought ?? seconds ?? 0) - (first ?? 0);
    const words = thinking ? t("thinking") : took >= 0.05 ? t("thought", { seconds: number(took, took < 10 ? 1 : 0) }) : t("thoughtPlain");
    if (this.summary.textContent !== words) this.summary.textContent = words;
    if (node.toolCalls.length) this.#showCalls(running);
    this.wait.hidden = !running || Boolean(node.content || node.reasoning || node.toolCalls.length);
    this.element.classList.toggle("running", running);
  }

  /** All of it: when a reply begins or ends, and when another version or language is shown. */
  refresh() {
    const { node, act } = this;
    const running = act.running(node);
    // In the arena a reply is known by its letter only, and the model's name comes with the vote.
    const who = [node.letter, node.model].filter(Boolean).join(" · ");
    this.name.textContent = who || t("assistant");
    this.element.setAttribute("aria-label", `${t("assistant")} ${who}`.trim());
    this.element.setAttribute("aria-busy", String(running));
    this.thoughts.ontoggle = () => this.views[0].update(node.reasoning, !act.running(node));
    this.wait.title = t("waiting");
    this.grow();
    this.element.lang = tongue(node.content || node.reasoning);
    const finish = { cancel: "stopped", length: "cutOff", content_filter: "filtered" }[node.details.finish];
    this.note.textContent = finish && !running ? t(finish) : "";
    this.note.hidden = !this.note.textContent;
    this.#showFault();
    this.tools.classList.toggle("later", running); // its place is kept, so that nothing moves when the reply ends
    this.tools.replaceChildren(
      ...[
        branches(node, act),
        node.content && copyButton(() => node.content, "copyReply"),
        !node.letter && !node.details.fault && iconButton("again", t("regenerate"), () => act.again(node), { disabled: act.busy(), "data-act": "again" }),
        h("span", { class: "figures" }, this.#figures()),
      ].filter(Boolean),
    );
  }

  #figures() {
    const { usage, first, seconds } = this.node.details;
    const made = usage?.completion_tokens;
    if (!made) return "";
    const parts = [t("tokens", { n: number(made) })];
    // The first token comes out of reading the prompt: the rest were made one after another.
    const speed = (made - 1) / (seconds - first);
    if (made > 1 && seconds - first > 0.1) parts.push(t("speed", { n: number(speed, speed < 100 ? 1 : 0) }));
    if (first) parts.push(t("first", { n: number(first, 2) }));
    return parts.join(" · ");
  }

  #showFault() {
    const { fault } = this.node.details;
    this.fault.hidden = !fault;
    if (!fault) return;
    const wait = fault.retryAfter ? t("errorWait", { seconds: number(Math.ceil(fault.retryAfter)) }) : null;
    const words = [[fault.kind ? t(fault.kind) : null, wait].filter(Boolean).join(" "), fault.detail];
    const retry = h("button", { type: "button", class: "plain", onclick: () => this.act.again(this.node) }, icon("again"), t("retry"));
    this.fault.replaceChildren(h("div", null, words.filter(Boolean).map((text) => h("p", null, text))), retry);
  }

  #showCalls(running) {
    const key = JSON.stringify([this.node.toolCalls, running, this.act.answerable(this.node), getLanguage()]);
    if (key === this.callsShown) return;
    this.callsShown = key;
    const boxes = this.node.toolCalls.map((call) => {
      const title = call.name ? t("toolCall", { name: call.name }) : t("toolRunning");
      return h("div", { class: "call" }, h("p", null, icon("tool"), title), h("pre", { tabindex: "0" }, pretty(call.arguments)));
    });
    if (!running && this.act.answerable(this.node)) boxes.push(this.#answerForm());
    this.calls.replaceChildren(...boxes);
  }

  #answerForm() {
    const { toolCalls } = this.node;
    const written = [...this.calls.querySelectorAll("textarea")].map((area) => area.value);
    const areas = toolCalls.map((call, i) =>
      h("textarea", { rows: "2", "aria-label": `${t("toolAnswer")}: ${call.name}`, placeholder: t("toolAnswer"), value: written[i] ?? "" }),
    );
    const give = () => {
      const results = toolCalls.map((call, i) => ({ id: call.id, name: call.name, content: areas[i].value }));
      this.act.answer(this.node, results);
    };
    return h("div", { class: "editor answer" }, areas, h("div", { class: "row end" }, h("button", { type: "button", class: "main", onclick: give }, t("toolSend"))));
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

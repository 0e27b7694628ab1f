// The system prompt and how replies are sampled. An empty field is not sent, so that the server's own value holds.

import { h, iconButton } from "./dom.js";
import { t } from "./i18n.js";
import { recall, remember } from "./memory.js";

// name: [lowest, highest, step]
const NUMBERS = {
  temperature: [0, 5, 0.05],
  top_p: [0, 1, 0.01],
  top_k: [0, 1000, 1],
  min_p: [0, 1, 0.01],
  max_tokens: [1, 1000000, 1],
  seed: [0, 2 ** 53 - 1, 1],
  presence_penalty: [-2, 2, 0.1],
  frequency_penalty: [-2, 2, 0.1],
  repetition_penalty: [0.1, 5, 0.05],
  thinking_budget: [0, 1000000, 1],
};
const WHOLE = new Set(["top_k", "max_tokens", "seed", "thinking_budget"]);

// What Qwen's model cards advise, and greedy decoding.
const PRESETS = {
  presetServer: {},
  presetGreedy: { temperature: 0 },
  presetPlain: { temperature: 0.7, top_p: 0.8, top_k: 20 },
  presetThink: { temperature: 0.6, top_p: 0.95, top_k: 20 },
};
const PRESET_FIELDS = ["temperature", "top_p", "top_k", "min_p"];

/** `text` as a list of tools in OpenAI's form; [] when empty. Raises with a sentence. */
export function readTools(text) {
  if (!text.trim()) return [];
  const tools = JSON.parse(text);
  if (!Array.isArray(tools)) throw new Error("[…]");
  for (const tool of tools) {
    if (typeof tool?.function?.name !== "string") throw new Error('{"type": "function", "function": {"name": …}}');
  }
  return tools;
}

export class Settings {
  constructor(panel, changed) {
    Object.assign(this, { panel, changed });
    this.values = { system: "", stop: "", tools: "", think: null, ...recall("settings", {}) };
  }

  get system() {
    return this.values.system;
  }

  load(values) {
    this.values = { system: "", stop: "", tools: "", think: null, ...values };
    this.#keep();
    this.draw();
  }

  save() {
    return structuredClone(this.values);
  }

  set(name, value) {
    if (value === null) delete this.values[name];
    else this.values[name] = value;
    this.#keep();
  }

  #keep() {
    remember("settings", this.values);
    this.changed();
  }

  /** The request's fields other than model and messages. */
  body() {
    const body = {};
    for (const name of Object.keys(NUMBERS)) if (typeof this.values[name] === "number") body[name] = this.values[name];
    const stop = this.values.stop.split("\n").filter(Boolean);
    if (stop.length) body.stop = stop.map((line) => line.replace(/\\n/g, "\n").replace(/\\t/g, "\t"));
    if (typeof this.values.think === "boolean") body.chat_template_kwargs = { enable_thinking: this.values.think };
    try {
      const tools = readTools(this.values.tools);
      if (tools.length) body.tools = tools;
    } catch {
      // The panel says what is wrong.
    }
    return body;
  }

  /** Fills the panel; again when the language or the values change. */
  draw() {
    const close = iconButton("close", t("close"), () => this.panel.dispatchEvent(new Event("leave")));
    this.panel.replaceChildren(
      h("header", { class: "row" }, h("h2", null, t("settings")), close),
      this.#area("system", 5),
      h(
        "fieldset",
        null,
        h("legend", null, t("sampling")),
        h("p", { class: "hint" }, t("samplingHint")),
        h("div", { class: "presets" }, Object.keys(PRESETS).map((name) => this.#preset(name))),
        h("div", { class: "numbers" }, Object.keys(NUMBERS).map((name) => this.#number(name))),
      ),
      this.#area("stop", 2, "stopWords"),
      this.#area("tools", 4),
    );
  }

  #preset(name) {
    const wanted = PRESETS[name];
    const on = PRESET_FIELDS.every((field) => (this.values[field] ?? null) === (wanted[field] ?? null));
    const choose = () => {
      for (const field of PRESET_FIELDS) this.set(field, wanted[field] ?? null);
      this.draw();
      this.panel.querySelector(`[data-preset=${name}]`).focus();
    };
    return h("button", { type: "button", class: "chip", "aria-pressed": String(on), "data-preset": name, onclick: choose }, t(name));
  }

  #number(name) {
    const [min, max, step] = NUMBERS[name];
    const input = h("input", { type: "number", min, max, step, id: `set-${name}`, inputmode: WHOLE.has(name) ? "numeric" : "decimal", placeholder: "–" });
    input.value = this.values[name] ?? "";
    input.addEventListener("change", () => {
      const value = input.valueAsNumber;
      const inside = Math.min(max, Math.max(min, WHOLE.has(name) ? Math.round(value) : value));
      this.set(name, Number.isFinite(value) ? inside : null);
      input.value = this.values[name] ?? "";
      for (const button of this.panel.querySelectorAll("[data-preset]")) button.replaceWith(this.#preset(button.dataset.preset));
    });
    return h("label", { for: `set-${name}` }, h("span", null, t(name)), input);
  }

  #area(name, rows, words = name) {
    const area = h("textarea", { rows, id: `set-${name}`, "aria-describedby": `hint-${name}`, spellcheck: name === "system" ? null : "false" });
    const hint = h("p", { class: "hint", id: `hint-${name}` }, t(`${words}Hint`));
    if (name !== "system") area.classList.add("mono");
    area.value = this.values[name];
    const check = () => {
      if (name !== "tools") return;
      let wrong = null;
      try {
        readTools(area.value);
      } catch (error) {
        wrong = error.message;
      }
      hint.textContent = wrong ? t("toolsWrong", { why: wrong }) : t("toolsHint");
      hint.classList.toggle("wrong", Boolean(wrong));
      area.setAttribute("aria-invalid", String(Boolean(wrong)));
    };
    area.addEventListener("input", () => {
      this.set(name, area.value);
      check();
    });
    check();
    return h("div", { class: "field" }, h("label", { for: `set-${name}` }, t(words)), hint, area);
  }
}

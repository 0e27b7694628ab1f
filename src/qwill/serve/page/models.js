// Which models and adapters the server has, and which one or two are asked.

import { json } from "./api.js";
import { dialog } from "./dialogs.js";
import { h } from "./dom.js";
import { number, t } from "./i18n.js";
import { recall, remember } from "./memory.js";

export class Models {
  /** `selects`: the two <select> elements; `changed()` after a choice. */
  constructor(selects, changed) {
    Object.assign(this, { selects, changed, all: [], two: recall("two", false), picks: recall("picks", []) });
    selects.forEach((select, lane) => select.addEventListener("change", () => this.pick(lane, select.value)));
  }

  /** `asks`: the reader asked for it, so that it may ask for a key in turn. */
  async load(asks = false) {
    const { data } = await json("/v1/models", { asks });
    this.all = data.filter((model) => typeof model?.id === "string");
    this.draw();
  }

  /** The names of the models to ask: one, or two when they stand side by side. */
  lanes() {
    if (!this.all.length) return [];
    const names = this.all.map((model) => model.id);
    const first = names.includes(this.picks[0]) ? this.picks[0] : names[0];
    if (!this.two) return [first];
    return [first, names.includes(this.picks[1]) ? this.picks[1] : (names.find((name) => name !== first) ?? first)];
  }

  pick(lane, name) {
    const lanes = this.lanes();
    lanes[lane] = name;
    this.picks = [lanes[0], lanes[1] ?? this.picks[1]];
    remember("picks", this.picks);
    this.draw();
    this.changed();
  }

  pair(on) {
    this.two = on;
    remember("two", on);
    this.draw();
    this.changed();
  }

  next() {
    const names = this.all.map((model) => model.id);
    if (names.length > 1) this.pick(0, names[(names.indexOf(this.lanes()[0]) + 1) % names.length]);
  }

  draw() {
    const lanes = this.lanes();
    this.selects.forEach((select, lane) => {
      select.hidden = lane === 1 && !this.two;
      select.setAttribute("aria-label", t(lane ? "modelSecond" : "model"));
      const options = this.all.map((model) => h("option", { value: model.id }, model.id));
      select.replaceChildren(...(options.length ? options : [h("option", { value: "" }, t("modelsNone"))]));
      select.value = lanes[lane] ?? "";
      select.disabled = !options.length;
    });
  }

  /** Those that there are by now: adapters come and go. */
  async show() {
    await this.load().catch(() => {});
    return dialog(t("modelsTitle"), (close) => {
      const inUse = this.lanes();
      const use = (name) => {
        this.pick(0, name);
        close();
      };
      const item = (model) => {
        const facts = [
          typeof model.parent === "string" ? t("adapterOf", { name: model.parent }) : null,
          Number.isFinite(model.max_model_len) ? t("context", { n: number(model.max_model_len) }) : null,
          typeof model.owned_by === "string" ? model.owned_by : null,
        ];
        return h(
          "li",
          { class: model.parent ? "adapter" : null },
          h("div", null, h("strong", null, model.id), h("small", null, facts.filter(Boolean).join(" · "))),
          inUse.includes(model.id)
            ? h("span", { class: "chip" }, t("inUse"))
            : h("button", { type: "button", class: "plain", onclick: () => use(model.id) }, t("use")),
        );
      };
      const roots = this.all.filter((model) => !this.all.some((other) => other.id === model.parent && other !== model));
      const list = roots.flatMap((root) => [root, ...this.all.filter((model) => model.parent === root.id && model !== root)]);
      return [h("p", { class: "hint" }, t("modelsHint")), h("ul", { class: "models" }, list.map(item))];
    });
  }
}

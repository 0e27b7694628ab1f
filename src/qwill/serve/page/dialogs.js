// Dialogs: a question, a line of text, the key, the shortcuts, models, export. All are <dialog>, so Esc and focus work by themselves.

import { h, iconButton } from "./dom.js";
import { t } from "./i18n.js";

/** Shows a dialog with `content(close)` inside; resolves to what close(value) was given, null for Esc or a click outside. */
export function dialog(title, content, wide = false) {
  return new Promise((resolve) => {
    let result = null;
    const close = (value = null) => {
      result = value;
      box.close();
    };
    const heading = h("h2", { id: "dialog-title" }, title);
    const box = h(
      "dialog",
      { "aria-labelledby": "dialog-title", class: wide ? "wide" : null },
      h("header", { class: "row" }, heading, iconButton("close", t("close"), () => close())),
      content(close),
    );
    box.addEventListener("close", () => {
      box.remove();
      resolve(result);
    });
    box.addEventListener("click", (event) => event.target === box && close());
    document.body.append(box);
    box.showModal();
    (box.querySelector("[autofocus]") ?? box).focus();
  });
}

const submit = (close) => (event) => {
  event.preventDefault();
  close(new FormData(event.target).get("value") ?? true);
};

const buttons = (close, label, kind = "main") =>
  h(
    "div",
    { class: "row end" },
    h("button", { type: "button", class: "plain", onclick: () => close() }, t("cancel")),
    h("button", { type: "submit", class: kind }, label),
  );

/** A question: resolves to whether the reader agreed. */
export async function ask(question, yes) {
  const answer = await dialog(yes, (close) => h("form", { onsubmit: submit(close) }, h("p", null, question), buttons(close, yes, "main danger")));
  return answer !== null;
}

/** One line of text, or null. */
export function askText(title, value) {
  return dialog(title, (close) =>
    h("form", { onsubmit: submit(close) }, h("input", { name: "value", value, maxlength: 500, autofocus: true, "aria-label": title }), buttons(close, t("save"))),
  );
}

/** The server's key, or null. */
export function askKey(wrong) {
  return dialog(t("keyTitle"), (close) =>
    h(
      "form",
      { onsubmit: submit(close) },
      wrong ? h("p", { class: "hint wrong", role: "alert" }, t("keyWrong")) : null,
      h("p", { class: "hint" }, t("keyHint")),
      h("input", { name: "value", type: "password", required: true, autocomplete: "off", autofocus: true, "aria-label": t("keyLabel"), placeholder: t("keyLabel") }),
      buttons(close, t("keySend")),
    ),
  );
}

/** The shortcuts: [[keys, words]]. */
export function showHelp(shortcuts) {
  return dialog(t("help"), () =>
    h(
      "dl",
      { class: "shortcuts" },
      shortcuts.map(([keys, words]) => h("div", null, h("dt", null, words), h("dd", null, keys.map((key) => h("kbd", null, key))))),
    ),
  );
}

/** Two ways out: resolves to "markdown", "json", "copy" or null. */
export function askExport() {
  const choice = (close, name, title, hint) =>
    h("button", { type: "button", class: "choice", onclick: () => close(name) }, h("strong", null, title), hint ? h("span", null, hint) : null);
  return dialog(t("exportTitle"), (close) =>
    h(
      "div",
      { class: "choices" },
      choice(close, "markdown", t("exportMarkdown"), t("exportMarkdownHint")),
      choice(close, "json", t("exportJson"), t("exportJsonHint")),
      choice(close, "copy", t("exportCopy")),
    ),
  );
}

// What both views have around them: words that stand in the HTML, and the colours.

import { icon } from "./dom.js";
import { getLanguage, t } from "./i18n.js";
import { recall, remember } from "./memory.js";

/** Says `words` to screen readers, and in the tooltip of a button. */
export function label(node, words) {
  if (node.tagName === "BUTTON") node.title = words;
  node.setAttribute("aria-label", words);
}

/** Elements say in data-t, data-label and data-hint which words they show. */
export function drawStaticWords() {
  document.documentElement.lang = getLanguage() === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll("[data-label]")) label(node, t(node.dataset.label));
  for (const node of document.querySelectorAll("[data-hint]")) node.placeholder = t(node.dataset.hint);
  const language = document.getElementById("language");
  language.textContent = t("switchLanguage");
  language.setAttribute("aria-label", t("switchLanguageLabel"));
}

/** Applies the colours chosen earlier and shows on `button` which they are. */
export function drawTheme(button) {
  const theme = recall("theme", "auto");
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const name = { auto: "themeAuto", light: "themeLight", dark: "themeDark" }[theme];
  button.replaceChildren(icon({ auto: "auto", light: "sun", dark: "moon" }[theme]));
  label(button, t("theme", { name: t(name) }));
}

/** The next of the three: the system's, light, dark. */
export function nextTheme(button) {
  const order = ["auto", "light", "dark"];
  remember("theme", order[(order.indexOf(recall("theme", "auto")) + 1) % 3]);
  drawTheme(button);
}

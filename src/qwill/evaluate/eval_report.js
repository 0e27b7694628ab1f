// The page's moving parts: the choice of language, and which examples are shown.
"use strict";
const root = document.documentElement;
const button = document.getElementById("switch");
const setLanguage = (code) => {
  root.dataset.lang = code;
  root.lang = code === "zh" ? "zh-Hans" : "en";
  button.textContent = code === "zh" ? "English" : "中文";
  button.lang = code === "zh" ? "en" : "zh-Hans";
};
button.addEventListener("click", () => setLanguage(root.dataset.lang === "zh" ? "en" : "zh"));
setLanguage((navigator.language || "en").startsWith("zh") ? "zh" : "en");

const examples = [...document.querySelectorAll(".example")];
const filters = [...document.querySelectorAll("[data-filter]")];
const words = document.getElementById("words");
const show = () => {
  const text = words.value.trim().toLowerCase();
  let count = 0;
  for (const example of examples) {
    const fits = filters.every((one) => !one.value || example.dataset[one.dataset.filter] === one.value)
      && (!text || example.textContent.toLowerCase().includes(text));
    example.hidden = !fits;
    count += fits;
  }
  document.getElementById("count").textContent = `${count} / ${examples.length}`;
};
if (words) {
  words.form.addEventListener("submit", (event) => event.preventDefault());
  words.form.addEventListener("input", show);
  show();
}

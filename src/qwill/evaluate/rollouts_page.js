// The rollout that is looked at: j, n and → go on, k, p and ← go back, / searches.
let current = -1;
const go = (by) => {
  const seen = examples.filter((one) => !one.hidden);
  if (!seen.length) return;
  const at = seen.indexOf(examples[current]);
  const next = at < 0 ? (by > 0 ? 0 : seen.length - 1) : Math.min(seen.length - 1, Math.max(0, at + by));
  if (current >= 0) examples[current].classList.remove("current");
  current = examples.indexOf(seen[next]);
  seen[next].classList.add("current");
  seen[next].scrollIntoView({ block: "center" });
};
const KEYS = { j: 1, n: 1, ArrowRight: 1, k: -1, p: -1, ArrowLeft: -1 };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "/" && words) {
    event.preventDefault();
    words.focus();
  } else if (KEYS[event.key]) {
    event.preventDefault();
    go(KEYS[event.key]);
  }
});
for (const [id, by] of [["previous", -1], ["next", 1]]) document.getElementById(id)?.addEventListener("click", () => go(by));

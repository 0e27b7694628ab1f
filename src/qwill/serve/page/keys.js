// The keyboard: one table of shortcuts, which the help dialog shows as well.

const MAC = /Mac|iPhone|iPad/.test(navigator.platform);
export const ALT = MAC ? "⌥" : "Alt";
const COMMAND = MAC ? "⌘" : "Ctrl";

// [what it does, keys as shown, the key with its modifier, words]. Letters are matched by their place (event.code), since ⌥ on a
// Mac and an input method turn them into other characters.
const SHORTCUTS = [
  ["send", ["Enter"], null, "shortSend"],
  ["line", ["Shift", "Enter"], null, "shortLine"],
  ["stop", ["Esc"], "Escape", "shortStop"],
  ["focus", ["/"], "/", "shortFocus"],
  ["editLast", ["↑"], null, "shortEdit"],
  ["newChat", [ALT, "N"], "alt KeyN", "newChat"],
  ["search", [COMMAND, "K"], "command KeyK", "search"],
  ["again", [ALT, "R"], "alt KeyR", "regenerate"],
  ["nextModel", [ALT, "M"], "alt KeyM", "shortModel"],
  ["pair", [ALT, "C"], "alt KeyC", "compare"],
  ["think", [ALT, "T"], "alt KeyT", "think"],
  ["settings", [ALT, "S"], "alt KeyS", "settings"],
  ["side", [ALT, "B"], "alt KeyB", "menu"],
  ["theme", [ALT, "D"], "alt KeyD", "shortTheme"],
  ["language", [ALT, "L"], "alt KeyL", "shortLanguage"],
  ["help", ["?"], "?", "help"],
];

/** For the help dialog: [[keys, key of the words]]. A table of another view has the same form. */
export const shortcuts = (table = SHORTCUTS) => table.map(([, keys, , words]) => [keys, words]);

/** The rows of the table above with these names, for another view. */
export const shared = (...names) => SHORTCUTS.filter(([name]) => names.includes(name));

const writes = (node) => node?.matches?.("textarea, select, input:not([type=checkbox])") ?? false;

/** The name of what `event` asks for, or null. Nothing while an input method is composing or a dialog is open. */
export function command(event, table = SHORTCUTS) {
  if (event.isComposing || event.keyCode === 229 || event.defaultPrevented) return null;
  if (document.querySelector("dialog[open]")) return null;
  const plain = !event.altKey && !event.ctrlKey && !event.metaKey;
  const strong = MAC ? event.metaKey && !event.ctrlKey : event.ctrlKey && !event.metaKey;
  for (const [name, , wanted] of table) {
    if (!wanted) continue;
    const [modifier, code] = wanted.includes(" ") ? wanted.split(" ") : [null, null];
    if (modifier === "alt" && event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.code === code) return name;
    if (modifier === "command" && strong && !event.altKey && !event.shiftKey && event.code === code) return name;
    if (!modifier && plain && event.key === wanted && (wanted === "Escape" || !writes(event.target))) return name;
  }
  return null;
}

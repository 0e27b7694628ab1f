// What an eye and a hand would judge, measured on the page as it stands: each gives a list of what is wrong.

const INTERACTIVE = "a[href], button, input, select, textarea, summary, [tabindex='0']";

const shown = (node) => node.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true }) && node.getClientRects().length > 0;
const seen = (node) => shown(node) && node.checkVisibility({ opacityProperty: true });

/** A few words that say which element is meant. */
function name(node) {
  const words = node.getAttribute("aria-label") ?? node.textContent.trim().replace(/\s+/g, " ").slice(0, 30);
  return `${node.tagName.toLowerCase()}${node.id ? `#${node.id}` : ""}.${node.getAttribute("class") ?? ""} “${words}”`;
}

// Computed colours are rgb(…), rgba(…) or, out of color-mix(), color(srgb …).
function rgba(colour) {
  const numbers = colour.match(/-?[\d.]+(e-?\d+)?/g).map(Number);
  const [red, green, blue, alpha = 1] = numbers;
  if (colour.startsWith("rgb")) return [red, green, blue, alpha];
  if (colour.startsWith("color(srgb ")) return [red * 255, green * 255, blue * 255, alpha];
  throw new Error(`a colour in a form not known here: ${colour}`);
}

const mix = (front, back, part) => front.map((value, i) => value * part + back[i] * (1 - part));
const over = ([red, green, blue, alpha], back) => mix([red, green, blue], back, alpha);

// https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
function luminance(colour) {
  const [red, green, blue] = colour.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function ratio(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/** How `colour` on `node` contrasts with what lies behind it: backgrounds and opacities of all that it is in. */
function contrastOf(node, colour, opacity = 1) {
  const chain = [];
  for (let at = node; at; at = at.parentElement) chain.unshift(at);
  let back = [255, 255, 255];
  const groups = [];
  for (const element of chain) {
    const style = getComputedStyle(element);
    if (style.opacity !== "1") groups.push([back, Number(style.opacity)]);
    back = over(rgba(style.backgroundColor), back);
  }
  const [red, green, blue, alpha] = rgba(colour);
  let front = over([red, green, blue, alpha * opacity], back);
  for (const [under, part] of groups.reverse()) {
    front = mix(front, under, part);
    back = mix(back, under, part);
  }
  return ratio(front, back);
}

// Everything that is read: [element, colour, least contrast, opacity]. WCAG 1.4.3 and, for drawings, 1.4.11; what is disabled is exempt.
function* coloured() {
  for (const node of document.querySelectorAll("body *")) {
    if (!seen(node) || node.closest(":disabled, option, noscript")) continue;
    const style = getComputedStyle(node);
    const text = [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim());
    if (text || (node.matches("input, textarea, select") && node.value)) yield [node, style.color, 4.5, 1];
    if (node.matches(":placeholder-shown")) {
      const hint = getComputedStyle(node, "::placeholder");
      yield [node, hint.color, 4.5, Number(hint.opacity)];
    }
    if (style.display === "list-item") yield [node, getComputedStyle(node, "::marker").color, 4.5, 1];
    if (node.matches("svg") && style.stroke !== "none") yield [node, style.stroke, 3, 1];
    if (node.matches("svg") && style.fill !== "none") yield [node, style.fill, 3, 1];
  }
}

/** Text of less than 4.5 : 1 and drawings of less than 3 : 1 against what lies behind, at every moment of every animation. */
export async function contrast() {
  const bad = new Map();
  for (const transition of document.getAnimations()) if (transition instanceof CSSTransition) transition.finish();
  const animations = document.getAnimations();
  for (const animation of animations) animation.pause();
  await Promise.all(animations.map((animation) => animation.ready));
  for (const part of animations.length ? [0, 0.25, 0.5, 0.75] : [0]) {
    for (const animation of animations) animation.currentTime = part * animation.effect.getComputedTiming().duration;
    let read = 0;
    for (const [node, colour, least, opacity] of coloured()) {
      read += 1;
      const found = contrastOf(node, colour, opacity);
      if (found < least) bad.set(name(node), `${name(node)}: ${found.toFixed(2)}, ${colour}`);
    }
    if (read < 5) throw new Error("nothing to read was found");
  }
  for (const animation of animations) animation.play();
  return [...bad.values()];
}

/** What reaches beyond a window `width` wide, unless it lies in a box that scrolls by itself. */
export function outside(width) {
  const bad = document.documentElement.scrollWidth > width ? [`the page is ${document.documentElement.scrollWidth} wide`] : [];
  const scrolls = (node) => ["auto", "scroll"].includes(getComputedStyle(node).overflowX);
  for (const node of document.querySelectorAll("body *")) {
    if (!shown(node) || node.closest(".aside")) continue;
    const { left, right } = node.getBoundingClientRect();
    if (left >= -0.5 && right <= width + 0.5) continue;
    let box = node.parentElement;
    while (box && !(scrolls(box) && box.scrollWidth > box.clientWidth)) box = box.parentElement;
    if (!box || box.matches("body, main, aside, dialog, nav")) bad.push(`${name(node)}: ${left} to ${right}`);
  }
  return bad;
}

/** Controls smaller than a finger needs, WCAG 2.5.8: 24 × 24; links in a line of text are exempt. */
export function small() {
  const sizes = [...document.querySelectorAll(INTERACTIVE)].filter((node) => shown(node) && !node.matches("a, [type=checkbox]"));
  return sizes.filter((node) => node.offsetWidth < 24 || node.offsetHeight < 24).map((node) => `${name(node)}: ${node.offsetWidth} × ${node.offsetHeight}`);
}

/** Every word that is shown or said: texts, labels, titles, hints; not what people and models wrote. */
export function words() {
  const found = new Set();
  const add = (text) => text?.trim() && found.add(text.trim().replace(/\s+/g, " "));
  for (const node of document.querySelectorAll("body *")) {
    if (!shown(node) || node.closest("noscript, kbd, .figures, #said, .markdown p, .said, option, .call pre, .fault p + p, #history .chat, figcaption span")) continue;
    if (node.closest(".code pre, .markdown :is(h2, td, th, li, blockquote, .formula)")) continue;
    for (const child of node.childNodes) if (child.nodeType === Node.TEXT_NODE) add(child.data);
    for (const attribute of ["aria-label", "title", "placeholder"]) add(node.getAttribute(attribute));
  }
  add(document.title);
  return [...found].sort();
}

/** Counts layout shifts from now on, those that follow a key included. */
export function watchShifts() {
  window.shifts = [];
  const list = (entry) => `${entry.value.toFixed(4)} ${entry.sources.map(({ node }) => (node instanceof Element ? name(node) : node?.nodeName)).join(", ")}`;
  new PerformanceObserver((got) => window.shifts.push(...got.getEntries().map(list))).observe({ type: "layout-shift" });
}

let numbers = new WeakMap();
let given = 0;
function numberOf(node) {
  if (!numbers.has(node)) numbers.set(node, (given += 1));
  return numbers.get(node);
}

/** All that can be acted on now: [[number, words]]. */
export function controls() {
  const within = document.querySelector("dialog[open]") ?? document;
  const all = [...within.querySelectorAll(INTERACTIVE)].filter((node) => shown(node) && !node.closest(":disabled, [inert]"));
  return all.map((node) => [numberOf(node), name(node)]);
}

/** What has the focus: its number, words and box; null for nothing. */
export function focused() {
  const node = document.activeElement;
  if (!node || node === document.body) return null;
  const { x, y, width, height } = node.getBoundingClientRect();
  return { number: numberOf(node), words: name(node), x, y, width, height };
}

let last = null;
/** Takes the focus away, and gives it back. */
export function blur() {
  last = document.activeElement;
  last.blur();
}
export function refocus() {
  last.focus({ preventScroll: true });
}

async function pixels(png) {
  const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  canvas.drawImage(bitmap, 0, 0);
  return canvas.getImageData(0, 0, bitmap.width, bitmap.height).data;
}

/** How many pixels of two pictures differ by a contrast of 3 : 1 or more. */
export async function changed(one, other) {
  const [before, after] = [await pixels(one), await pixels(other)];
  let count = 0;
  for (let i = 0; i < before.length; i += 4) {
    const [a, b] = [before, after].map((data) => [data[i], data[i + 1], data[i + 2]]);
    if (a.join() !== b.join() && ratio(a, b) >= 3) count += 1;
  }
  return count;
}

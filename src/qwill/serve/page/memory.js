// Small things that the browser remembers for this page. Storage may be forbidden or full: then they last until the page is closed.

const held = new Map();

export function recall(name, fallback = null) {
  if (held.has(name)) return held.get(name);
  try {
    return JSON.parse(localStorage.getItem(`qwill.${name}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

/** Kept for this tab alone, through a reload; null forgets it. */
export function rememberHere(name, value) {
  try {
    if (value === null) sessionStorage.removeItem(`qwill.${name}`);
    else sessionStorage.setItem(`qwill.${name}`, value);
  } catch {
    // then a reload begins anew
  }
}

export function recallHere(name) {
  try {
    return sessionStorage.getItem(`qwill.${name}`);
  } catch {
    return null;
  }
}

export function remember(name, value) {
  held.set(name, value);
  try {
    localStorage.setItem(`qwill.${name}`, JSON.stringify(value));
  } catch {
    // held is enough
  }
}

// A MathML tree of plain objects {tag, attrs, children | text}, and its way into the page.

export class TexError extends Error {}

export const node = (tag, children, attrs = {}) => ({ tag, attrs, children });
export const leaf = (tag, text, attrs = {}) => ({ tag, attrs, text });
export const row = (children) => (children.length === 1 ? children[0] : node("mrow", children));
export const space = (em) => node("mspace", [], { width: `${em}em` });
export const fixed = (text) => leaf("mo", text, { stretchy: "false" });

const NAMESPACE = "http://www.w3.org/1998/Math/MathML";

/** The tree as elements. Text enters as text; tags and attributes come from the tables of tex.js alone. */
export function toElement(tree) {
  const element = document.createElementNS(NAMESPACE, tree.tag);
  for (const [name, value] of Object.entries(tree.attrs)) element.setAttribute(name, value);
  if (tree.text !== undefined) element.textContent = tree.text;
  else element.append(...tree.children.map(toElement));
  return element;
}

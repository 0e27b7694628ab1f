// The list of chats: by day, searched on the server, renamed and deleted.

import { ask, askText } from "./dialogs.js";
import { h, iconButton } from "./dom.js";
import { getLanguage, t } from "./i18n.js";

const DAY = 86400;

/** Chats under the days they belong to: [[key of the words, [chat]]], empty groups left out. */
export function byDay(chats, now = Date.now() / 1000) {
  const midnight = new Date(now * 1000).setHours(0, 0, 0, 0) / 1000;
  const groups = [["today", midnight], ["yesterday", midnight - DAY], ["week", midnight - 6 * DAY], ["earlier", -Infinity]];
  const out = groups.map(([key]) => [key, []]);
  for (const chat of chats) out[groups.findIndex(([, from]) => chat.updated_at >= from)][1].push(chat);
  return out.filter(([, list]) => list.length);
}

export class Sidebar {
  /** `act`: open(id), current() → id, removed(id). */
  constructor(store, list, search, act) {
    Object.assign(this, { store, list, search, act, chats: [], more: false, asked: 0 });
    let timer = null;
    search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.load(), 200);
    });
    search.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") {
        event.preventDefault();
        list.querySelector("button")?.focus();
      }
    });
    list.addEventListener("keydown", (event) => this.#walk(event));
  }

  #walk(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const links = [...this.list.querySelectorAll(".chat")];
    const at = links.indexOf(document.activeElement.closest("li")?.querySelector(".chat"));
    (links[at + step] ?? (step < 0 ? this.search : null))?.focus();
  }

  async load(older = false) {
    const asked = (this.asked += 1);
    try {
      const { data, more } = await this.store.list(this.search.value.trim(), older ? this.chats.at(-1)?.id : null);
      if (asked !== this.asked) return; // a later search has been sent meanwhile
      this.chats = older ? [...this.chats, ...data] : data;
      this.more = more;
    } catch {
      // The list stays as it was; sending a message says what is wrong with the server.
    }
    this.draw();
  }

  draw() {
    const days = byDay(this.chats);
    const names = days.map(([key, chats]) => [key, chats.map(({ id, title, snippet }) => [id, title, snippet])]);
    // Nothing is replaced under the reader's hands that would look the same.
    const shown = JSON.stringify([names, this.more, this.search.value.trim(), this.store.kept, this.act.current(), getLanguage()]);
    if (shown === this.shown) return;
    this.shown = shown;
    const item = document.activeElement?.closest?.("[data-chat]");
    const focused = item && [item.dataset.chat, [...item.children].indexOf(document.activeElement)];
    const groups = days.map(([key, chats]) => [h("h2", null, t(key)), h("ul", null, chats.map((chat) => this.#item(chat)))]);
    const empty = this.search.value.trim() ? "historyNone" : this.store.kept ? "historyEmpty" : "historyMemory";
    this.list.replaceChildren(
      ...groups.flat(),
      ...(this.chats.length && this.store.kept ? [] : [h("p", { class: "hint" }, t(empty))]),
      ...(this.more ? [h("button", { type: "button", class: "plain", onclick: () => this.load(true) }, t("historyMore"))] : []),
    );
    if (focused) this.list.querySelector(`[data-chat="${CSS.escape(focused[0])}"]`)?.children[focused[1]]?.focus();
  }

  #item(chat) {
    const title = chat.title || t("untitled");
    const current = chat.id === this.act.current();
    return h(
      "li",
      { "data-chat": chat.id, class: current ? "current" : null },
      h(
        "button",
        { type: "button", class: "chat", "aria-current": current ? "page" : null, onclick: () => this.act.open(chat.id), title },
        h("span", null, title),
        chat.snippet ? h("small", null, chat.snippet) : null,
      ),
      iconButton("pencil", `${t("rename")}: ${title}`, () => this.#rename(chat)),
      iconButton("bin", `${t("remove")}: ${title}`, () => this.#remove(chat)),
    );
  }

  async #rename(chat) {
    const title = await askText(t("rename"), chat.title);
    if (title === null || !title.trim()) return;
    await this.store.change(chat.id, { title: title.trim().slice(0, 500) });
    await this.load();
  }

  async #remove(chat) {
    if (!(await ask(t("removeAsk", { title: chat.title || t("untitled") }), t("remove")))) return;
    await this.store.remove(chat.id);
    this.act.removed(chat.id);
    await this.load();
  }
}

// Where chats are kept: the server's state database over /qwill/conversations, or this tab's memory where the server keeps none.

import { ApiError, json } from "./api.js";

const ROOT = "/qwill/conversations";
const PAGE = 50;

/** The server's store, or one in memory if the server has no history: `kept` says which, once `opened` has resolved. */
export class Store {
  kept = true;
  opened = this.#open();

  async #open() {
    try {
      await json(`${ROOT}?limit=1`);
    } catch (error) {
      if (error.status === 404) this.kept = false;
    }
    return this.kept ? new ServerStore() : new MemoryStore();
  }

  list = async (...what) => (await this.opened).list(...what);
  get = async (id) => (await this.opened).get(id);
  create = async (title, settings) => (await this.opened).create(title, settings);
  change = async (id, fields) => (await this.opened).change(id, fields);
  remove = async (id) => (await this.opened).remove(id);
  add = async (id, message) => (await this.opened).add(id, message);
  /** `add` for a page that is being closed: no answer is waited for. */
  async leave(id, message) {
    if (this.kept) await json(path(id, "/messages"), { method: "POST", body: message, keepalive: true });
  }
}

const path = (id, rest = "") => `${ROOT}/${encodeURIComponent(id)}${rest}`;

class ServerStore {
  async list(search = "", before = null) {
    const query = new URLSearchParams({ limit: PAGE });
    if (search) query.set("search", search);
    if (before) query.set("before", before);
    const { data, has_more: more } = await json(`${ROOT}?${query}`);
    return { data, more: Boolean(more) };
  }

  get = (id) => json(path(id));
  create = (title, settings) => json(ROOT, { method: "POST", body: { title, settings } });
  change = (id, fields) => json(path(id), { method: "PATCH", body: fields });
  remove = (id) => json(path(id), { method: "DELETE" });
  add = (id, message) => json(path(id, "/messages"), { method: "POST", body: message });
}

class MemoryStore {
  #all = new Map();
  #made = 0;

  async list(search = "") {
    const wanted = search.toLowerCase();
    const holds = ({ title, messages }) => [title, ...messages.map((m) => m.content)].some((s) => s.toLowerCase().includes(wanted));
    const data = [...this.#all.values()].filter(holds).sort((a, b) => b.updated_at - a.updated_at);
    return { data, more: false };
  }

  async get(id) {
    if (!this.#all.has(id)) throw new ApiError(404, "errorUnreadable");
    return structuredClone(this.#all.get(id));
  }

  async create(title, settings) {
    const now = Date.now() / 1000;
    const one = { id: `tab-${(this.#made += 1)}`, title, settings, created_at: now, updated_at: now, messages: [] };
    this.#all.set(one.id, one);
    return structuredClone(one);
  }

  async change(id, fields) {
    Object.assign(this.#all.get(id) ?? {}, structuredClone(fields));
  }

  async remove(id) {
    this.#all.delete(id);
  }

  async add(id, message) {
    const one = this.#all.get(id);
    const made = { ...structuredClone(message), id: `message-${(this.#made += 1)}`, created_at: Date.now() / 1000 };
    one.messages.push(made);
    one.updated_at = made.created_at;
    return made;
  }
}

/** Saves one conversation's nodes in their order, one request at a time; after a failure it goes on trying. */
export class Saver {
  #queue = [];
  #busy = null;
  #timer = null;

  /** `told(words)` is called with the key of what is wrong when saving fails, null when it is well again; `changed()` after each save. */
  constructor(store, conversation, told, changed) {
    Object.assign(this, { store, conversation, told, changed, failed: false });
  }

  add(node) {
    if (this.refused) return this.told("historyRefused");
    // A reply that failed empty is saved only once something follows it.
    for (const id of node.parents) {
      const parent = this.conversation.nodes.get(id);
      if (!parent.saved && !this.#queue.includes(parent)) this.#queue.push(parent);
    }
    if (!this.#queue.includes(node)) this.#queue.push(node);
    return this.flush();
  }

  /** Resolves when all is saved or a save has failed. */
  flush() {
    clearTimeout(this.#timer);
    this.#busy ??= this.#run().finally(() => (this.#busy = null));
    return this.#busy;
  }

  async #run() {
    const { store, conversation } = this;
    try {
      while (this.#queue.length) {
        if (!conversation.id) conversation.id = (await store.create(conversation.title, conversation.settings)).id;
        const node = this.#queue[0];
        node.saved = (await store.add(conversation.id, this.#message(node))).id;
        this.#queue.shift();
        this.changed();
      }
      if (this.failed) this.told(null);
      this.failed = false;
    } catch (error) {
      // What the server refuses outright (too large, conversation deleted elsewhere) it will refuse again.
      const { status } = error;
      this.refused = error instanceof ApiError && status >= 400 && status < 500 && status !== 401 && status !== 429;
      if (!this.refused) this.#timer = setTimeout(() => this.flush(), 5000);
      this.failed = true;
      this.told(this.refused ? "historyRefused" : "historyUnsaved");
    }
  }

  /**
   * The page is being closed while `node` is written: what is there of it is sent, if what it answers has been saved. Of a
   * reply too long for what a browser still sends (64 KiB in all, `room` for this one) its beginning.
   */
  leave(node, room) {
    const { id, nodes } = this.conversation;
    if (!id || !node.parents.every((parent) => nodes.get(parent).saved)) return;
    const message = this.#message(node);
    const over = () => new TextEncoder().encode(JSON.stringify(message)).length - room;
    while (over() > 0 && (message.content || message.reasoning)) {
      const longer = (message.reasoning?.length ?? 0) > message.content.length ? "reasoning" : "content";
      message[longer] = message[longer].slice(0, Math.floor(message[longer].length * 0.9));
    }
    this.store.leave(id, message).catch(() => {});
  }

  #message(node) {
    return {
      parents: node.parents.map((id) => this.conversation.nodes.get(id).saved),
      role: node.role,
      content: node.content,
      reasoning: node.reasoning || null,
      tool_calls: node.toolCalls.length ? node.toolCalls : null,
      model: node.model,
      details: node.details,
      ...(node.role === "tool" ? { tool_call_id: node.details.results[0].id } : {}),
    };
  }
}

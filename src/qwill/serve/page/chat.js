// Sending and receiving: which replies are being written, how they are stopped, and when what is saved.

import { ApiError, chat as stream } from "./api.js";
import { absorb, Conversation, titleOf } from "./conversation.js";
import { Saver } from "./store.js";

export class Chat {
  #sessions = []; // of conversations with a reply in the making, so that one can leave and come back

  /**
   * `models.lanes()` names the models to ask; `settings` makes request bodies. `view`: changed() for the shape of the
   * conversation, grew(reply) for text, said(key) for screen readers, saved(),
   * unsaved(key of the words that say why, or null).
   */
  constructor(store, models, settings, view) {
    Object.assign(this, { store, models, settings, view });
    this.session = this.#session(new Conversation());
    this.#sessions.push(this.session);
  }

  get conversation() {
    return this.session.conversation;
  }

  get busy() {
    return this.session.running.size > 0;
  }

  fresh() {
    this.#enter(this.#session(new Conversation()));
  }

  async open(id) {
    const live = this.#sessions.find((session) => session.conversation.id === id && session.running.size);
    const session = live ?? this.#session(new Conversation(await this.store.get(id)));
    this.#enter(session);
    if (Object.keys(session.conversation.settings ?? {}).length) this.settings.load(session.conversation.settings);
  }

  #session(conversation) {
    const session = { conversation, running: new Map() };
    const told = (words) => this.session === session && this.view.unsaved(words);
    session.saver = new Saver(this.store, conversation, told, () => this.view.saved(session === this.session));
    return session;
  }

  #enter(session) {
    this.#sessions = [...this.#sessions.filter((one) => one.running.size), session];
    this.session = session;
    this.view.changed();
  }

  /** What the reader wrote, as the next turn or, with `instead`, as another version of an earlier input. */
  send(text, instead = null) {
    const { conversation } = this;
    if (this.busy || !text.trim() || !this.models.lanes().length) return false;
    const parents = instead ? instead.parents : conversation.ends();
    if (conversation.empty) conversation.title = titleOf(text);
    this.#ask(conversation.add("user", { parents, content: text }));
    return true;
  }

  /** A tool's results, given by hand: [{id, name, content}] for every call of `reply`. */
  answer(reply, results) {
    if (this.busy) return;
    const content = results.map((result) => result.content).join("\n");
    this.#ask(this.conversation.add("tool", { parents: [reply.id], content, details: { results } }), [reply.details.lane ?? 0]);
  }

  #ask(input, lanes = null) {
    this.#keepSettings();
    this.session.saver.add(input);
    const models = this.models.lanes();
    for (const lane of lanes ?? models.keys()) this.#reply(input, lane, models[lane] ?? models[0]);
  }

  #keepSettings() {
    const { conversation } = this;
    const now = this.settings.save();
    const changed = JSON.stringify(now) !== JSON.stringify(conversation.settings);
    conversation.settings = now;
    if (changed && conversation.id) this.store.change(conversation.id, { settings: now }).catch(() => {});
  }

  /** Another reply in the place of `reply`, by the model that its lane has now. */
  again(reply) {
    if (this.busy) return;
    const { conversation } = this;
    const input = conversation.nodes.get(reply.parents[0]);
    const lane = reply.details.lane ?? 0;
    const models = this.models.lanes();
    if (!models.length) return;
    if (reply.details.fault && !reply.saved && conversation.versions(reply)) conversation.drop(reply);
    this.#reply(input, lane, models[lane] ?? models[0]);
  }

  async #reply(input, lane, model) {
    const { session } = this;
    const { conversation, running } = session;
    const messages = conversation.messages(input, lane, this.settings.system);
    const reply = conversation.add("assistant", { parents: [input.id], model, details: { lane } });
    const control = new AbortController();
    running.set(reply, control);
    this.view.changed();
    this.view.said("writing");
    const started = performance.now();
    const seconds = () => Math.round(performance.now() - started) / 1000;
    const { details } = reply;
    try {
      for await (const chunk of stream({ model, messages, ...this.settings.body() }, control.signal)) {
        if (!absorb(reply, chunk)) continue;
        if (reply.reasoning || reply.content || reply.toolCalls.length) details.first ??= seconds();
        if (reply.content || reply.toolCalls.length) details.thought ??= seconds();
        if (this.session === session) this.view.grew(reply);
      }
    } catch (error) {
      if (error.name === "AbortError") details.finish = "cancel";
      else if (error instanceof ApiError) {
        const { status, kind, detail, retryAfter } = error;
        details.fault = { status, kind, detail, retryAfter };
      } else throw error;
    } finally {
      details.seconds = seconds();
      running.delete(reply);
      if (this.session === session) {
        this.view.grew(reply);
        this.view.changed();
        if (!running.size) this.view.said(details.fault ? null : details.finish === "cancel" ? "stopped" : "finished");
      }
      if (!reply.left && (!details.fault || reply.content || reply.reasoning)) session.saver.add(reply);
    }
  }

  /** The page is being closed: what has been written so far is kept, as if it had been stopped here. */
  leave() {
    const count = this.#sessions.reduce((sum, { running }) => sum + running.size, 0);
    for (const { running, saver } of this.#sessions) {
      for (const [reply, control] of running) {
        reply.details.finish = "cancel";
        reply.left = true;
        if (reply.content || reply.reasoning) saver.leave(reply, 60000 / count);
        control.abort();
      }
    }
  }

  stop() {
    for (const control of this.session.running.values()) control.abort();
  }
}

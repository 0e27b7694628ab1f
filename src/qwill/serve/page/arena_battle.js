// One battle: a prompt, two replies whose models nobody knows, a vote. No DOM.

import { ApiError, chunks, json } from "./api.js";
import { absorb } from "./conversation.js";

export const SIDES = ["a", "b"];

export class Battle {
  /** `view`: changed() when its state or a reply's end changes, grew(reply) for text. */
  constructor(prompt, language, view) {
    Object.assign(this, { prompt, language, view, id: null, result: null, voting: false });
    this.control = new AbortController();
    this.running = new Set();
    const reply = (side) => ({ side, letter: side.toUpperCase(), model: null, content: "", reasoning: "", toolCalls: [], details: {} });
    this.replies = SIDES.map(reply);
  }

  get finished() {
    return this.replies.every(({ details }) => details.finish && !details.fault) && !this.running.size;
  }

  /** Raises ApiError where it can't begin; then nothing has been said. */
  async begin() {
    const body = { prompt: this.prompt, language: this.language };
    this.id = (await json("/qwill/arena/battles", { method: "POST", body, signal: this.control.signal })).id;
    for (const reply of this.replies) this.read(reply);
  }

  /** The reply's stream, also once more after it broke off. */
  async read(reply) {
    if (this.running.has(reply)) return;
    Object.assign(reply, { content: "", reasoning: "", toolCalls: [], details: {} });
    this.running.add(reply);
    this.view.changed();
    const started = performance.now();
    const seconds = () => Math.round(performance.now() - started) / 1000;
    const { details } = reply;
    try {
      for await (const chunk of chunks(`/qwill/arena/battles/${this.id}/${reply.side}`, { signal: this.control.signal })) {
        if (!absorb(reply, chunk)) continue;
        if (reply.reasoning || reply.content) details.first ??= seconds();
        if (reply.content) details.thought ??= seconds();
        this.view.grew(reply);
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error;
      const { status, kind, detail, retryAfter } = error;
      details.fault = { status, kind, detail, retryAfter };
    } finally {
      this.running.delete(reply);
      details.seconds = seconds();
      this.view.grew(reply);
      this.view.changed();
    }
  }

  /** outcome: "a", "b", "tie" or "both_bad". Raises ApiError; the same vote again is the same vote. */
  async vote(outcome, consent) {
    if (!this.finished || this.voting || this.result) return;
    this.voting = true;
    this.view.changed();
    try {
      this.result = await json(`/qwill/arena/battles/${this.id}/votes`, { method: "POST", body: { outcome, consent } });
      for (const reply of this.replies) reply.model = this.result[`model_${reply.side}`];
    } finally {
      this.voting = false;
      this.view.changed();
    }
  }

  leave() {
    this.control.abort();
  }
}

// One battle: one or several turns, each with two replies whose models nobody knows, and a vote. No DOM.

import { ApiError, chunks, json } from "./api.js";
import { absorb } from "./conversation.js";

export const SIDES = ["a", "b"];
const made = (side) => ({ side, letter: side.toUpperCase(), model: null, content: "", reasoning: "", toolCalls: [], details: {} });
const begun = (prompt) => ({ prompt, replies: SIDES.map(made) });

export class Battle {
  /** `view`: changed() when its state or a reply's end changes, grew(reply) for text. */
  constructor(prompt, language, view) {
    Object.assign(this, { language, view, id: null, result: null, voting: false, going: false });
    this.turns = [begun(prompt)];
    this.control = new AbortController();
    this.running = new Set();
  }

  /** A battle that the server still has, as it was left; its replies are read on. Raises ApiError. */
  static async found(id, view) {
    const { language, turns, vote } = await json(`/qwill/arena/battles/${id}`);
    const battle = new Battle("", language, view);
    battle.id = id;
    battle.turns = turns.map(({ asked, replies }) => {
      const turn = begun(asked);
      for (const reply of turn.replies) {
        const kept = replies[reply.side];
        if (kept) Object.assign(reply, { content: kept.content, reasoning: kept.reasoning, details: { finish: kept.finish_reason } });
      }
      return turn;
    });
    if (vote) battle.#told(vote);
    else for (const reply of battle.replies) if (!reply.details.finish) battle.read(reply);
    return battle;
  }

  /** Those of the last turn. */
  get replies() {
    return this.turns.at(-1).replies;
  }

  get finished() {
    return !this.going && this.replies.every(({ details }) => details.finish && !details.fault) && !this.running.size;
  }

  /** Raises ApiError where it can't begin; then nothing has been said. */
  async begin() {
    const body = { prompt: this.turns[0].prompt, language: this.language };
    this.id = (await json("/qwill/arena/battles", { method: "POST", body, signal: this.control.signal })).id;
    for (const reply of this.replies) this.read(reply);
  }

  /** Another turn, once both replies are whole and before the vote. Raises ApiError; the battle is then as before. */
  async goOn(prompt) {
    if (!this.finished || this.voting || this.result) return false;
    this.going = true;
    this.view.changed();
    try {
      const body = { prompt, turn: this.turns.length + 1 };
      await json(`/qwill/arena/battles/${this.id}/turns`, { method: "POST", body, signal: this.control.signal });
      this.turns.push(begun(prompt));
    } finally {
      this.going = false;
      this.view.changed();
    }
    for (const reply of this.replies) this.read(reply);
    return true;
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

  /** outcome: "a", "b", "tie" or "both_bad". Whether it was a vote: none before both replies are whole, none twice. Raises ApiError. */
  async vote(outcome, consent) {
    if (!this.finished || this.voting || this.result) return false;
    this.voting = true;
    this.view.changed();
    try {
      this.#told(await json(`/qwill/arena/battles/${this.id}/votes`, { method: "POST", body: { outcome, consent } }));
      return true;
    } finally {
      this.voting = false;
      this.view.changed();
    }
  }

  #told(result) {
    this.result = result;
    for (const { replies } of this.turns) for (const reply of replies) reply.model = result[`model_${reply.side}`];
  }

  leave() {
    this.control.abort();
  }
}

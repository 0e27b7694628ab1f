// A conversation with all its branches, as data. Pure: no DOM, no network.
//
// A turn is an input (what the reader wrote, or a tool's result) and the replies to it, one a lane: two models side by side are
// two lanes. An input's parents are the replies that were shown when it was written, so that two lanes stay one conversation.
// Inputs with the same parents are versions of one another; so are replies of one lane to one input.

let made = 0;

export class Conversation {
  constructor({ id = null, title = "", settings = {}, messages = [] } = {}) {
    Object.assign(this, { id, title, settings });
    this.nodes = new Map();
    this.groups = new Map(); // key of a group of versions → [node]
    this.chosen = new Map(); // the same key → the one that is shown
    const local = new Map();
    for (const message of messages) {
      const node = this.add(message.role, {
        parents: (message.parents ?? []).map((parent) => local.get(parent)).filter(Boolean),
        content: message.content ?? "",
        reasoning: message.reasoning ?? "",
        toolCalls: message.tool_calls ?? [],
        model: message.model ?? null,
        details: message.details ?? {},
        created: message.created_at ?? null,
        saved: message.id,
      });
      local.set(message.id, node.id);
    }
  }

  /** Adds a node and shows it. */
  add(role, { parents, content = "", reasoning = "", toolCalls = [], model = null, details = {}, created = null, saved = null }) {
    const id = `n${(made += 1)}`;
    const node = { id, role, parents, content, reasoning, toolCalls, model, details, created: created ?? Date.now() / 1000, saved };
    this.nodes.set(id, node);
    const key = this.key(node);
    this.groups.set(key, [...(this.groups.get(key) ?? []), node]);
    this.chosen.set(key, node);
    return node;
  }

  /** Forgets a node that nothing follows; the version before it is shown. */
  drop(node) {
    const key = this.key(node);
    const rest = this.versions(node).filter((one) => one !== node);
    this.nodes.delete(node.id);
    if (rest.length) {
      this.groups.set(key, rest);
      if (this.chosen.get(key) === node) this.chosen.set(key, rest.at(-1));
    } else {
      this.groups.delete(key);
      this.chosen.delete(key);
    }
  }

  key(node) {
    const kind = node.role === "assistant" ? `lane ${node.details.lane ?? 0}` : "input";
    return `${kind} ${node.parents.join(" ")}`;
  }

  versions(node) {
    return this.groups.get(this.key(node));
  }

  select(node) {
    this.chosen.set(this.key(node), node);
  }

  /** The next version in direction `step`, shown from now on; null at the ends. */
  step(node, step) {
    const versions = this.versions(node);
    const other = versions[versions.indexOf(node) + step] ?? null;
    if (other) this.select(other);
    return other;
  }

  /** What is shown: [{input, replies}], replies in the order of their lanes. */
  turns() {
    const turns = [];
    let parents = [];
    for (;;) {
      const input = this.chosen.get(`input ${parents.join(" ")}`);
      if (!input) return turns;
      const replies = [0, 1].map((lane) => this.chosen.get(`lane ${lane} ${input.id}`)).filter(Boolean);
      turns.push({ input, replies });
      if (!replies.length) return turns;
      parents = replies.map((reply) => reply.id);
    }
  }

  /** The parents of an input written now. */
  ends() {
    return this.turns().at(-1)?.replies.map((reply) => reply.id) ?? [];
  }

  get empty() {
    return this.nodes.size === 0;
  }

  /** The messages to send for a reply to `input` in `lane`, in OpenAI's form. */
  messages(input, lane, system = "") {
    const messages = system.trim() ? [{ role: "system", content: system }] : [];
    for (const turn of this.turns()) {
      messages.push(...inputMessages(turn.input));
      if (turn.input === input) break;
      const reply = turn.replies.find((one) => (one.details.lane ?? 0) === lane) ?? turn.replies[0];
      if (reply && (reply.content || reply.toolCalls.length)) messages.push(replyMessage(reply));
    }
    return messages;
  }
}

function inputMessages(input) {
  if (input.role === "user") return [{ role: "user", content: input.content }];
  return (input.details.results ?? []).map((result) => ({ role: "tool", tool_call_id: result.id, content: result.content }));
}

function replyMessage(reply) {
  const message = { role: "assistant", content: reply.content };
  if (reply.toolCalls.length) {
    message.tool_calls = reply.toolCalls.map(({ id, name, arguments: text }) => ({
      id,
      type: "function",
      function: { name, arguments: text },
    }));
    // Within one task the thoughts before a call belong to what comes after it.
    if (reply.reasoning) message.reasoning_content = reply.reasoning;
  }
  return message;
}

/** Adds one streamed chunk to `reply`; returns whether anything that is shown changed. */
export function absorb(reply, chunk) {
  if (chunk.usage) reply.details.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return Boolean(chunk.usage);
  const delta = choice.delta ?? {};
  const thought = delta.reasoning_content ?? delta.reasoning;
  if (typeof thought === "string") reply.reasoning += thought;
  if (typeof delta.content === "string") reply.content += delta.content;
  for (const call of Array.isArray(delta.tool_calls) ? delta.tool_calls : []) {
    const index = call.index ?? reply.toolCalls.length;
    let known = reply.toolCalls.find((one) => one.index === index);
    if (!known) reply.toolCalls.push((known = { index, id: `call_${index}`, name: "", arguments: "" }));
    if (call.id) known.id = call.id;
    if (call.function?.name) known.name += call.function.name;
    if (call.function?.arguments) known.arguments += call.function.arguments;
  }
  if (choice.finish_reason) reply.details.finish = choice.finish_reason;
  return true;
}

/** A title from the first thing that was said. */
export function titleOf(text) {
  const line = text.trim().split("\n")[0].replace(/\s+/g, " ");
  const letters = [...line];
  return letters.length > 60 ? `${letters.slice(0, 59).join("")}…` : line;
}

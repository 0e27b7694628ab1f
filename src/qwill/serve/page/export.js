// A chat as a file: Markdown of what is shown, JSON of every branch.

import { h } from "./dom.js";
import { t } from "./i18n.js";

const fence = (text, lang = "") => {
  const ticks = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map(([run]) => run.length + 1)));
  return `${ticks}${lang}\n${text}\n${ticks}`;
};

export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title || t("untitled")}`];
  for (const { input, replies } of conversation.turns()) {
    if (input.role === "user") parts.push(`## ${t("you")}`, input.content);
    else for (const result of input.details.results ?? []) parts.push(`## ${t("toolResult", { name: result.name })}`, fence(result.content));
    for (const reply of replies) {
      parts.push(`## ${reply.model ?? t("assistant")}`);
      if (reply.reasoning) parts.push(reply.reasoning.trim().replace(/^/gm, "> "));
      if (reply.content) parts.push(reply.content);
      for (const call of reply.toolCalls) parts.push(t("toolCall", { name: call.name }), fence(call.arguments, "json"));
    }
  }
  return `${parts.join("\n\n")}\n`;
}

export function toJson(conversation) {
  const messages = [...conversation.nodes.values()].map(({ id, parents, role, content, reasoning, toolCalls, model, details, created }) => ({
    id, parents, role, content, reasoning, tool_calls: toolCalls, model, details, created_at: created,
  }));
  return `${JSON.stringify({ title: conversation.title, settings: conversation.settings, messages }, null, 2)}\n`;
}

/** Hands `text` to the browser as a file to save. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** A name for the file, from the title. */
export function fileName(title, ending) {
  const safe = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60);
  return `${safe || "chat"}.${ending}`;
}

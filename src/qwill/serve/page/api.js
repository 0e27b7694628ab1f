// Requests to the server that the page came from. A key is asked for only when the server answers 401, and stays in the tab.

import { serverEvents } from "./sse.js";

const KEY = "qwill.key";

/** What a request failed with. `status` 0: no answer at all; `kind` names the words of i18n.js; `detail` is the server's sentence. */
export class ApiError extends Error {
  constructor(status, kind, detail = "", retryAfter = null) {
    super(detail || kind);
    Object.assign(this, { status, kind, detail, retryAfter });
  }
}

let askForKey = async () => null;
let asking = null;
let declined = false; // the reader would not give a key: only what the reader does next may ask again

/** `ask(wrong)` shows a dialog and resolves to a key, or to null when the reader gives up. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

async function send(path, options) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { Accept: "application/json", ...options.headers };
    if (key) headers.Authorization = `Bearer ${key}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "errorNetwork");
    }
    const asks = !options.quiet && (options.asks || !declined);
    if (response.status === 401 && asks && (await newKey(key))) continue;
    if (!response.ok) throw await failure(response);
    return response;
  }
}

// Many requests may meet a 401 at once: one dialog for all of them.
async function newKey(tried) {
  if (sessionStorage.getItem(KEY) !== tried) return true;
  asking ??= askForKey(tried !== null).finally(() => (asking = null));
  const key = await asking;
  declined = key === null;
  if (declined) return false;
  sessionStorage.setItem(KEY, key);
  return true;
}

async function failure(response) {
  const kind = { 401: "error401", 404: "error404", 413: "error413", 429: "error429" }[response.status];
  let detail = "";
  try {
    detail = messageOf(await response.json());
  } catch {
    detail = response.statusText;
  }
  const wait = parseFloat(response.headers.get("Retry-After"));
  const fallback = response.status >= 500 ? "error5xx" : "errorUnreadable";
  return new ApiError(response.status, kind ?? (detail ? "" : fallback), detail, Number.isFinite(wait) ? wait : null);
}

function messageOf(body) {
  const error = body?.error ?? body;
  const text = typeof error === "string" ? error : (error?.message ?? error?.detail);
  return typeof text === "string" ? text : "";
}

/**
 * JSON in, JSON out (null for 204). Raises ApiError. `quiet`: a 401 is an error, not a reason to ask for a key;
 * `asks`: it is one even when the reader gave none before.
 */
export async function json(path, { method = "GET", body, signal, keepalive = false, quiet = false, asks = false } = {}) {
  const options = { method, signal, keepalive, quiet, asks, headers: body === undefined ? {} : { "Content-Type": "application/json" } };
  if (body !== undefined) options.body = JSON.stringify(body);
  const response = await send(path, options);
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(response.status, "errorUnreadable");
  }
}

/** The chunks of a streamed chat completion. Raises as `chunks` does. */
export function chat(body, signal) {
  return chunks("/v1/chat/completions", {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  });
}

/** The chunks of any stream of a reply. Raises ApiError for an error in the stream and for one that ends too early. */
export async function* chunks(path, options) {
  const response = await send(path, { asks: true, ...options, headers: { ...options.headers, Accept: "text/event-stream" } });
  let finished = false;
  try {
    for await (const data of serverEvents(response.body)) {
      if (data === "[DONE]") return;
      let chunk;
      try {
        chunk = JSON.parse(data);
      } catch {
        throw new ApiError(response.status, "errorUnreadable");
      }
      if (chunk?.error) throw new ApiError(chunk.error.code ?? 500, "", messageOf(chunk) || "error");
      finished ||= Boolean(chunk?.choices?.[0]?.finish_reason);
      yield chunk;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError(0, "errorCut");
  }
  if (!finished) throw new ApiError(0, "errorCut");
}

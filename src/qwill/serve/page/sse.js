// Server-sent events from a fetch() body (EventSource can't POST). https://html.spec.whatwg.org/multipage/server-sent-events.html

/** Gives the same events at every split of the stream: `push` takes any piece of text, returns the data of whole events. */
export class SseParser {
  #line = "";
  #data = null;
  #afterCr = false;
  #first = true;

  push(text) {
    const events = [];
    if (this.#first && text) {
      this.#first = false;
      if (text.charCodeAt(0) === 0xfeff) text = text.slice(1);
    }
    // A line ends with \n, \r or \r\n; the pair may be cut in two.
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    else if (!text) return events;
    this.#afterCr = text.endsWith("\r");
    const lines = (this.#line + text).split(/\r\n|\n|\r/);
    this.#line = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.#data !== null) events.push(this.#data.join("\n"));
        this.#data = null;
      } else if (line === "data" || line.startsWith("data:")) {
        (this.#data ??= []).push(line.slice(5).replace(/^ /, ""));
      }
    }
    return events;
  }
}

/** The data of each event of a response's body, until it ends. */
export async function* serverEvents(body) {
  const parser = new SseParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

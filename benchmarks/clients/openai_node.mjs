// The `openai` package for Node; says one JSON line a check, as report.py does for Python.
// Requirements: openai@6.49.0
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const job = JSON.parse(process.argv[2]);
// The environment's folder holds node_modules; this file does not lie beside it.
const require = createRequire(pathToFileURL(job.environment + "/"));
const OpenAI = require("openai");
const url = job.root + "/v1";
const client = new OpenAI({ baseURL: url, apiKey: job.key, maxRetries: 0 });
const hello = [{ role: "user", content: "Hello there, 你好!" }];
const quiet = { chat_template_kwargs: { enable_thinking: false } };
const plain = { model: job.model, messages: hello, temperature: 0, max_tokens: 60, ...quiet };
const object = (name, values) => ({
  type: "object", properties: { [name]: { type: "string", enum: values } }, required: [name], additionalProperties: false,
});
const tools = [
  { type: "function", function: { name: "get_weather", parameters: object("location", ["Paris", "London"]) } },
  { type: "function", function: { name: "get_time", parameters: object("place", ["北京", "Rome"]) } },
];
const alone = { tool_choice: "required", parallel_tool_calls: false };
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

async function running() {
  const text = await (await fetch(job.root + "/metrics", { headers: { Authorization: `Bearer ${job.key}` } })).text();
  const lines = text.split("\n").filter((l) => /^vllm:num_requests_(running|waiting)/.test(l));
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

const checks = {
  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert(ids.includes(job.model));
  },
  async chat() {
    const reply = await client.chat.completions.create(plain);
    assert(reply.usage.completion_tokens > 0);
    if (job.greeting) assert.equal(reply.choices[0].message.content, job.greeting);
  },
  async stream() {
    const whole = await client.chat.completions.create(plain);
    let text = "", usage = null;
    const stream = await client.chat.completions.create({ ...plain, stream: true, stream_options: { include_usage: true } });
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content ?? "");
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
  },
  async stream_helper() {
    const stream = client.chat.completions.stream(plain);
    const final = await stream.finalChatCompletion();
    assert(final.choices[0].finish_reason);
  },
  async tools() {
    const asked = { ...plain, tools, max_tokens: 800, ...(job.calls?.length ? {} : alone) };
    const whole = await client.chat.completions.create(asked);
    const calls = whole.choices[0].message.tool_calls.map((c) => [c.function.name, JSON.parse(c.function.arguments)]);
    if (job.calls?.length) assert.deepEqual(calls, job.calls);
    const streamed = await client.chat.completions.stream(asked).finalChatCompletion();
    const again = streamed.choices[0].message.tool_calls.map((c) => [c.function.name, JSON.parse(c.function.arguments)]);
    assert.deepEqual(again, calls);
  },
  async json_schema() {
    const schema = object("name", ["Paris", "北京"]);
    const form = { type: "json_schema", json_schema: { name: "city", strict: true, schema } };
    const reply = await client.chat.completions.parse({ ...plain, max_tokens: 200, response_format: form });
    assert(["Paris", "北京"].includes(JSON.parse(reply.choices[0].message.content).name));
  },
  async responses() {
    const reply = await client.responses.create({ model: job.model, input: "Hello", temperature: 0, max_output_tokens: 100 });
    let text = "";
    const stream = await client.responses.create({
      model: job.model, input: "Hello", temperature: 0, max_output_tokens: 100, stream: true,
    });
    for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta;
    assert.equal(text, reply.output_text);
    const helped = await client.responses
      .stream({ model: job.model, input: "Hello", temperature: 0, max_output_tokens: 100 }).finalResponse();
    assert.equal(helped.output_text, reply.output_text);
  },
  async completions() {
    const reply = await client.completions.create({ model: job.model, prompt: "Hello", max_tokens: 5, temperature: 0 });
    assert.equal(typeof reply.choices[0].text, "string");
  },
  async embeddings() {
    if (!job.embeds) return "not an embedding model";
    const reply = await client.embeddings.create({ model: job.model, input: ["Hello", "Water"] });
    assert.equal(reply.data.length, 2);
    const length = Math.hypot(...reply.data[0].embedding);
    assert(Math.abs(length - 1) < 1e-3, `length ${length}`);
  },
  async errors() {
    const fails = async (kind, call) => assert.rejects(call, (error) => error instanceof kind);
    await fails(OpenAI.BadRequestError, () => client.chat.completions.create({ ...plain, temperature: -1 }));
    await fails(OpenAI.NotFoundError, () => client.chat.completions.create({ ...plain, model: "gpt-17" }));
    const stranger = new OpenAI({ baseURL: url, apiKey: "sk-wrong", maxRetries: 0 });
    await fails(OpenAI.AuthenticationError, () => stranger.chat.completions.create(plain));
    const limited = new OpenAI({ baseURL: url, apiKey: job.limited_key, maxRetries: 0 });
    await fails(OpenAI.RateLimitError, async () => {
      for (let i = 0; i < 3; i++) await limited.chat.completions.create({ ...plain, max_tokens: 2 });
    });
  },
  async abort_frees_the_engine() {
    const stop = new AbortController();
    const stream = await client.chat.completions.create(
      { ...plain, stream: true, max_tokens: job.context - 400, ignore_eos: true }, { signal: stop.signal },
    );
    for await (const _ of stream) {
      stop.abort();
      break;
    }
    for (let i = 0; (await running()) > 0; i++) {
      assert(i < 100, "still running ten seconds after the client hung up");
      await wait(100);
    }
  },
};

for (const [check, call] of Object.entries(checks)) {
  const line = { check, state: "ok", why: "" };
  try {
    const skipped = await call();
    if (skipped) Object.assign(line, { state: "skip", why: skipped });
  } catch (error) {
    Object.assign(line, { state: "fail", why: `${error.name}: ${String(error.message).slice(0, 500)}` });
  }
  console.log(JSON.stringify(line));
}

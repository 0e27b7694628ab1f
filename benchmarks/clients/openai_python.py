"""The `openai` package for Python, as anybody would use it.

Requirements: openai==3.57.0
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
from report import CITY, HELLO, TOOLS, Job, Skip, are_calls, calling, is_city, raises, run

PLAIN = {"chat_template_kwargs": {"enable_thinking": False}}
NEVER_ENDS = {"ignore_eos": True, **PLAIN}
THINKING = {"chat_template_kwargs": {"enable_thinking": True}}


def client(job: Job, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=job.url, api_key=key or job.key, max_retries=0, timeout=120)


def chat(job: Job, **settings: Any) -> Any:
    given = {"model": job.model, "messages": HELLO, "temperature": 0, "max_tokens": 60, "extra_body": PLAIN}
    return client(job).chat.completions.create(**(given | settings))


def called(message: Any) -> list[tuple[str, dict[str, Any]]]:
    assert all(c.type == "function" and c.id for c in message.tool_calls)
    assert len({c.id for c in message.tool_calls}) == len(message.tool_calls), "two calls share an id"
    return [(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls]


def check_models(job: Job) -> None:
    models = client(job).models.list().data
    assert job.model in [m.id for m in models] and all(m.object == "model" for m in models)
    assert client(job).models.retrieve(job.model).id == job.model


def check_chat(job: Job) -> None:
    reply = chat(job)
    (choice,) = reply.choices
    assert reply.object == "chat.completion" and choice.message.role == "assistant" and reply.model == job.model
    assert abs(reply.created - time.time()) < 100
    used = reply.usage
    assert used.total_tokens == used.prompt_tokens + used.completion_tokens and used.prompt_tokens > 0
    if job.greeting is not None:
        assert choice.message.content == job.greeting, choice.message.content
        assert choice.finish_reason == "stop"
    else:
        assert choice.finish_reason in ("stop", "length") and used.completion_tokens <= 60


def check_chat_stream_says_the_same(job: Job) -> None:
    whole = chat(job)
    chunks = list(chat(job, stream=True, stream_options={"include_usage": True}))
    assert len({c.id for c in chunks}) == 1 and all(c.object == "chat.completion.chunk" for c in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == (whole.choices[0].message.content or ""), (text, whole.choices[0].message.content)
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert reasons == [whole.choices[0].finish_reason]
    assert not chunks[-1].choices, "the chunk with the usage has no choices"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert all(c.usage is None for c in chunks[:-1]), "usage before the last chunk"


def check_chat_stream_helper(job: Job) -> None:
    with client(job).chat.completions.stream(
        model=job.model, messages=HELLO, temperature=0, max_tokens=40, extra_body=PLAIN
    ) as stream:
        try:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion()
        except openai.LengthFinishReasonError:
            return  # what this helper makes of a reply that was cut off
    assert "chunk" in kinds and final.choices[0].finish_reason == "stop", kinds


def check_asynchronous(job: Job) -> None:
    async def many() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=job.url, api_key=job.key, max_retries=0) as c:
            replies = await asyncio.gather(*[
                c.chat.completions.create(
                    model=job.model, messages=[{"role": "user", "content": f"Count to {i % 3}"}], temperature=0,
                    max_tokens=20, extra_body=PLAIN,
                ) for i in range(12)
            ])  # fmt: skip
        return [r.choices[0].message.content for r in replies]

    texts = asyncio.run(many())
    assert texts[:3] * 4 == texts, "the same question had different greedy answers"


def check_content_parts(job: Job) -> None:
    parts = [{"type": "text", "text": "Hello there, "}, {"type": "text", "text": "你好!"}]
    reply = chat(job, messages=[{"role": "user", "content": parts}])
    assert reply.choices[0].message.content == chat(job).choices[0].message.content
    reply = chat(job, messages=[{"role": "system", "content": parts}, {"role": "developer", "content": "x"}, *HELLO])
    assert reply.usage.completion_tokens > 0


def check_image_is_refused(job: Job) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    error = raises(
        openai.BadRequestError, lambda: chat(job, messages=[{"role": "user", "content": [part]}]), "image"
    )
    assert error.status_code == 400


def check_thinking(job: Job) -> None:
    if job.thought is None:
        raise Skip("this model has not learned to think")
    message = chat(job, extra_body=THINKING, max_tokens=300).choices[0].message
    assert message.reasoning_content.strip() == job.thought, message
    assert message.content.strip() == job.greeting, message
    chunks = [c.choices[0].delta for c in chat(job, extra_body=THINKING, max_tokens=300, stream=True) if c.choices]
    thought = "".join(getattr(d, "reasoning_content", None) or "" for d in chunks)
    assert thought.strip() == job.thought
    assert "".join(d.content or "" for d in chunks).strip() == job.greeting


def check_thinking_budget(job: Job) -> None:
    if job.thought is None:
        raise Skip("this model has not learned to think")
    message = chat(job, extra_body=THINKING | {"thinking_budget": 3}, max_tokens=200).choices[0].message
    assert 0 < len(message.reasoning_content.strip()) < len(job.thought), message
    assert job.thought.startswith(message.reasoning_content.strip())


def check_tools_in_parallel(job: Job) -> None:
    if job.calls:
        message = chat(job, tools=TOOLS, max_tokens=300).choices[0]
        assert message.finish_reason == "tool_calls", message
        are_calls(called(message.message), job)
        return
    for seed in range(30):  # whether a second call follows is up to chance in a model that was not trained for it
        choice = chat(
            job, tools=TOOLS, tool_choice="required", temperature=1.5, seed=seed, max_tokens=300
        ).choices[0]  # fmt: skip
        assert choice.finish_reason in ("tool_calls", "length"), choice
        if choice.finish_reason == "tool_calls":
            are_calls(called(choice.message), job)
            if len(choice.message.tool_calls) > 1:
                return
    raise AssertionError("30 seeds, and never two calls")


def check_tools_stream(job: Job) -> None:
    settings = {"tools": TOOLS, **calling(job)}
    whole = chat(job, **settings).choices[0]
    made: dict[int, dict[str, str]] = {}
    reason = None
    for chunk in chat(job, stream=True, **settings):
        if not chunk.choices:
            continue
        reason = chunk.choices[0].finish_reason or reason
        for piece in chunk.choices[0].delta.tool_calls or []:
            call = made.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
            call["id"] += piece.id or ""
            call["name"] += piece.function.name or ""
            call["arguments"] += piece.function.arguments or ""
    assert reason == whole.finish_reason == "tool_calls", (reason, whole.finish_reason)
    assert [*made] == [*range(len(made))]
    calls = [(c["name"], json.loads(c["arguments"])) for c in made.values()]
    assert calls == called(whole.message), (calls, whole.message)
    assert all(c["id"] for c in made.values())


def check_tool_choice_named(job: Job) -> None:
    choice = {"type": "function", "function": {"name": "get_time"}}
    reply = chat(job, tools=TOOLS, tool_choice=choice, max_tokens=200).choices[0]
    calls = called(reply.message)
    are_calls(calls, job, expected=1)
    assert {name for name, _ in calls} == {"get_time"}


def check_tool_choice_none(job: Job) -> None:
    reply = chat(job, tools=TOOLS, tool_choice="none", max_tokens=20).choices[0]
    assert not reply.message.tool_calls


def check_one_call_at_a_time(job: Job) -> None:
    settings = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 300}
    calls = called(chat(job, **settings).choices[0].message)
    assert len(calls) == 1, calls


def check_tool_results(job: Job) -> None:
    calls = [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
        for i, (name, given) in enumerate([("get_weather", {"location": "Paris"}), ("get_time", {"place": "北京"})])
    ]
    messages = [
        *HELLO, {"role": "assistant", "content": None, "tool_calls": calls},
        *[{"role": "tool", "tool_call_id": c["id"], "content": "sunny, 8"} for c in calls],
    ]  # fmt: skip
    message = chat(job, messages=messages, tools=TOOLS, max_tokens=100).choices[0].message
    if job.result is not None:
        assert message.content == job.result, message
    alone = [*HELLO, {"role": "tool", "tool_call_id": "call_9", "content": "sunny"}]
    raises(openai.BadRequestError, lambda: chat(job, messages=alone, tools=TOOLS))


def check_json_schema(job: Job) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}}
    choice = chat(job, response_format=form, max_tokens=200).choices[0]
    assert choice.finish_reason == "stop", choice
    is_city(json.loads(choice.message.content))
    text = "".join(
        c.choices[0].delta.content or ""
        for c in chat(job, response_format=form, max_tokens=200, stream=True) if c.choices
    )  # fmt: skip
    assert text == choice.message.content


def check_json_schema_impossible(job: Job) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    raises(openai.BadRequestError, lambda: chat(job, response_format=form))


def check_json_object(job: Job) -> None:
    # A model that was not trained for it may go on inside a string for ever: cut off, it must still have begun one.
    choice = chat(job, response_format={"type": "json_object"}, max_tokens=200).choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    else:
        assert choice.message.content.lstrip().startswith("{"), choice


def check_parse_pydantic(job: Job) -> None:
    from typing import Literal

    from pydantic import BaseModel

    class City(BaseModel):
        name: Literal["Paris", "北京"]
        large: bool

    reply = client(job).chat.completions.parse(
        model=job.model, messages=HELLO, response_format=City, temperature=0, max_tokens=200, extra_body=PLAIN
    )
    assert isinstance(reply.choices[0].message.parsed, City)


def check_logprobs(job: Job) -> None:
    unchanged = PLAIN | {"repetition_penalty": 1, "presence_penalty": 0}  # a model may bring penalties of its own
    reply = chat(job, logprobs=True, top_logprobs=3, max_tokens=12, extra_body=unchanged)
    content = reply.choices[0].logprobs.content
    assert len(content) <= reply.usage.completion_tokens
    assert len(content) >= reply.usage.completion_tokens - 1  # the token that ends a reply may be left out
    for entry in content:
        assert len(entry.top_logprobs) == 3 and entry.logprob <= 1e-6
        values = [t.logprob for t in entry.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert abs(values[0] - entry.logprob) < 1e-4, "greedy, and not the likeliest token"
    spelled = b"".join(bytes(e.bytes) for e in content).decode(errors="replace")
    text = reply.choices[0].message.content or ""
    assert spelled.startswith(text) or text.rstrip("�") in spelled, (spelled, text)
    streamed = []
    for chunk in chat(job, logprobs=True, top_logprobs=3, max_tokens=12, stream=True, extra_body=unchanged):
        if chunk.choices and chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content or []
    assert [e.token for e in streamed] == [e.token for e in content]


def check_n(job: Job) -> None:
    reply = chat(job, n=3, temperature=1, seed=5, max_tokens=12)
    assert [c.index for c in reply.choices] == [0, 1, 2]
    if job.sampling_varies:
        assert len({c.message.content for c in reply.choices}) > 1, "three samples, all the same"
    seen = {c.choices[0].index for c in chat(job, n=3, temperature=1, max_tokens=6, stream=True) if c.choices}
    assert seen == {0, 1, 2}


def check_seed(job: Job) -> None:
    first, again, other = (
        chat(job, seed=s, temperature=1, max_tokens=24).choices[0].message.content for s in (7, 7, 8)
    )
    assert first == again
    if job.sampling_varies:
        assert first != other
    with ThreadPoolExecutor(8) as pool:  # also among others
        texts = list(pool.map(
            lambda i: chat(job, seed=7 if i % 2 else i, temperature=1, max_tokens=24).choices[0].message.content,
            range(8),
        ))  # fmt: skip
    assert all(text == first for text in texts[1::2])


def check_stop(job: Job) -> None:
    whole = chat(job, max_tokens=30).choices[0].message.content
    middle = whole[len(whole) // 2 : len(whole) // 2 + 3]
    if not middle or "�" in middle:
        middle = whole[1:3]
    for stop in (middle, ["never said", middle]):
        choice = chat(job, max_tokens=30, stop=stop).choices[0]
        assert choice.finish_reason == "stop" and choice.message.content == whole.split(middle)[0], choice
    text = "".join(
        c.choices[0].delta.content or "" for c in chat(job, max_tokens=30, stop=middle, stream=True) if c.choices
    )
    assert text == whole.split(middle)[0], (text, whole, middle)


def check_max_completion_tokens(job: Job) -> None:
    reply = chat(job, max_tokens=None, max_completion_tokens=4, extra_body=NEVER_ENDS)
    assert reply.usage.completion_tokens == 4 and reply.choices[0].finish_reason == "length"


def check_logit_bias(job: Job) -> None:
    reply = chat(job, logit_bias={"65": 100}, max_tokens=4, logprobs=True, temperature=1)
    if job.sampling_varies:
        assert len({e.token for e in reply.choices[0].logprobs.content}) == 1
    raises(openai.BadRequestError, lambda: chat(job, logit_bias={"99999999": 1}))


def check_completions(job: Job) -> None:
    c = client(job)
    settings = {"model": job.model, "max_tokens": 10, "temperature": 0}
    one = c.completions.create(prompt="Hello", **settings)
    assert one.object == "text_completion" and one.choices[0].text
    both = c.completions.create(prompt=["Hello", "Water"], **settings)
    assert [x.index for x in both.choices] == [0, 1] and both.choices[0].text == one.choices[0].text
    chunks = list(c.completions.create(prompt="Hello", stream=True, **settings))
    text = "".join(x.choices[0].text for x in chunks if x.choices)
    assert text == one.choices[0].text


def check_completions_echo_logprobs(job: Job) -> None:
    c = client(job)
    ids = post(job, "/tokenize", {"model": job.model, "prompt": "Water boils", "add_special_tokens": False})["tokens"]
    reply = c.completions.create(
        model=job.model, prompt=[ids], max_tokens=1, temperature=0, logprobs=1, echo=True, seed=1
    )
    held = reply.choices[0].logprobs
    lengths = {len(x) for x in (held.tokens, held.token_logprobs, held.top_logprobs, held.text_offset)}
    assert lengths == {len(ids) + 1}
    assert held.token_logprobs[0] is None and all(x <= 1e-6 for x in held.token_logprobs[1:])
    assert reply.choices[0].text.startswith("Water boils") and held.text_offset[0] == 0
    nothing = c.completions.create(model=job.model, prompt=[ids], max_tokens=0, logprobs=1, echo=True)
    assert len(nothing.choices[0].logprobs.token_logprobs) == len(ids)
    assert post(job, "/detokenize", {"model": job.model, "tokens": ids})["prompt"] == "Water boils"


def post(job: Job, path: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {job.key}"}
    with urllib.request.urlopen(urllib.request.Request(job.root + path, json.dumps(body).encode(), headers)) as answer:
        return json.load(answer)


def check_embeddings(job: Job) -> None:
    if not job.embeds:
        raise Skip("not an embedding model")
    c = client(job)
    both = c.embeddings.create(model=job.model, input=["Hello", "Water"])  # base64 on the wire: the client's default
    one = c.embeddings.create(model=job.model, input="Hello", encoding_format="float")
    assert abs(sum(x * x for x in one.data[0].embedding) - 1) < 1e-3, "not of length 1"
    assert max(abs(a - b) for a, b in zip(one.data[0].embedding, both.data[0].embedding, strict=True)) < 1e-4
    assert both.data[0].embedding != both.data[1].embedding and both.usage.prompt_tokens > 0


def check_responses(job: Job) -> None:
    c = client(job)
    settings = {"model": job.model, "input": "Hello there", "temperature": 0, "max_output_tokens": 120}
    reply = c.responses.create(**settings)
    assert reply.object == "response" and reply.usage.output_tokens > 0
    assert reply.status in ("completed", "incomplete")
    if job.greeting is not None:
        assert reply.status == "completed" and reply.output_text.strip() == job.greeting, reply
    events = list(c.responses.create(stream=True, **settings))
    kinds = [e.type for e in events]
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds
    assert [e.sequence_number for e in events] == [*range(len(events))]
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == reply.output_text
    assert events[-1].response.output_text == reply.output_text


def check_responses_instructions_and_items(job: Job) -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]},
        {"role": "user", "content": "And?"},
    ]
    reply = client(job).responses.create(model=job.model, instructions="Be short.", input=items, max_output_tokens=16)
    assert reply.usage.input_tokens > 0


def check_responses_tools(job: Job) -> None:
    tools = [{"type": "function", **t["function"], "strict": True} for t in TOOLS]
    how = {} if job.calls else {"tool_choice": "required", "parallel_tool_calls": False}
    reply = client(job).responses.create(
        model=job.model, input="Weather?", tools=tools, temperature=0, max_output_tokens=800, **how
    )
    calls = [item for item in reply.output if item.type == "function_call"]
    are_calls([(item.name, json.loads(item.arguments)) for item in calls], job)
    history = [{"role": "user", "content": "Weather?"}]
    for item in calls:
        history += [
            {"type": "function_call", "call_id": item.call_id, "name": item.name, "arguments": item.arguments},
            {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"},
        ]
    after = client(job).responses.create(
        model=job.model, input=history, tools=tools, temperature=0, max_output_tokens=400
    )
    if job.result is not None:
        assert after.output_text.strip() == job.result, after


def check_responses_schema(job: Job) -> None:
    form = {"format": {"type": "json_schema", "name": "city", "strict": True, "schema": CITY}}
    reply = client(job).responses.create(
        model=job.model, input="A city", text=form, temperature=0, max_output_tokens=400, extra_body=PLAIN
    )
    is_city(json.loads(reply.output_text))


def check_bad_requests(job: Job) -> None:
    bad = openai.BadRequestError
    for settings in (
        {"temperature": -1}, {"top_p": 0}, {"max_tokens": -5}, {"n": 0}, {"messages": []}, {"top_logprobs": 5},
        {"messages": [{"role": "wizard", "content": "x"}]}, {"presence_penalty": 9}, {"stop": ["a"] * 100},
        {"tool_choice": {"type": "function", "function": {"name": "not_there"}}, "tools": TOOLS},
        {"extra_body": {"temperature": "hot"}}, {"response_format": {"type": "poem"}},
    ):  # fmt: skip
        error = raises(bad, lambda settings=settings: chat(job, **settings))
        assert error.body["message"] and error.body["type"] == "invalid_request_error", (settings, error.body)
        assert "param" in error.body and "code" in error.body, error.body


def check_context_too_long(job: Job) -> None:
    prompt = [1] * (job.context + 5)
    error = raises(
        openai.BadRequestError,
        lambda: client(job).completions.create(model=job.model, prompt=prompt, max_tokens=4),
        str(job.context),
    )
    assert error.code == "context_length_exceeded", error.body


def check_unknown_model(job: Job) -> None:
    error = raises(openai.NotFoundError, lambda: chat(job, model="gpt-17"), "gpt-17")
    assert error.code == "model_not_found", error.body


def check_unknown_path(job: Job) -> None:
    raises(openai.NotFoundError, lambda: client(job).post("/nowhere", cast_to=object))


def check_wrong_key(job: Job) -> None:
    for key in ("sk-wrong", "x"):
        error = raises(
            openai.AuthenticationError,
            lambda key=key: client(job, key).chat.completions.create(model=job.model, messages=HELLO, max_tokens=2),
        )
        assert error.code == "invalid_api_key", error.body


def check_rate_limit(job: Job) -> None:
    limited = client(job, job.limited_key)

    def ask() -> None:
        limited.chat.completions.create(model=job.model, messages=HELLO, max_tokens=2)

    def often() -> None:
        for _ in range(3):
            ask()

    error = raises(openai.RateLimitError, often)
    assert float(error.response.headers["retry-after"]) > 0


def running(job: Job) -> float:
    request = urllib.request.Request(job.root + "/metrics", headers={"Authorization": f"Bearer {job.key}"})
    with urllib.request.urlopen(request) as answer:
        lines = answer.read().decode().splitlines()
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    return sum(float(line.split()[-1]) for line in lines if line.startswith(names))


def check_cancelled_stream_frees_the_engine(job: Job) -> None:
    stream = chat(job, stream=True, max_tokens=job.context - 400, extra_body=NEVER_ENDS)
    next(iter(stream))
    assert running(job) >= 1, "nothing is running while a stream is open"
    stream.close()
    until = time.monotonic() + 10
    while running(job):
        assert time.monotonic() < until, "still running ten seconds after the client hung up"
        time.sleep(0.05)


def check_hung_up_call_frees_the_engine(job: Job) -> None:
    impatient = openai.OpenAI(base_url=job.url, api_key=job.key, max_retries=0, timeout=0.3)
    raises(
        openai.APITimeoutError,
        lambda: impatient.chat.completions.create(
            model=job.model, messages=HELLO, n=4, max_tokens=job.context - 400, extra_body=NEVER_ENDS
        ),
    )
    until = time.monotonic() + 10
    while running(job):
        assert time.monotonic() < until, "still running ten seconds after the client hung up"
        time.sleep(0.05)


if __name__ == "__main__":
    run(__name__)

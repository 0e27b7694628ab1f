"""The `anthropic` package on /v1/messages.

Requirements: anthropic==2.13.0
"""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

import anthropic
from report import TOOLS, Job, Skip, are_calls, raises, run

HELLO = [{"role": "user", "content": "Hello there, 你好!"}]
TOOLS_HERE = [
    {"name": t["function"]["name"], "description": "A tool.", "input_schema": t["function"]["parameters"]}
    for t in TOOLS
]


def client(job: Job, key: str | None = None) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=job.root, api_key=key or job.key, max_retries=0, timeout=120)


def ask(job: Job, **settings: Any) -> Any:
    given: dict[str, Any] = {"model": job.model, "max_tokens": 60, "messages": HELLO, "extra_body": {"temperature": 0}}
    return client(job).messages.create(**(given | settings))


def said(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def prompt_tokens(message: Any) -> int:
    """Anthropic counts what came from the cache on its own."""
    used = message.usage
    return used.input_tokens + (used.cache_read_input_tokens or 0) + (used.cache_creation_input_tokens or 0)


def check_message(job: Job) -> None:
    message = ask(job)
    assert message.type == "message" and message.role == "assistant" and message.id
    assert prompt_tokens(message) > 0 and 0 < message.usage.output_tokens <= 60
    assert message.stop_reason in ("end_turn", "max_tokens")
    if job.greeting is not None:
        assert said(message) == job.greeting and message.stop_reason == "end_turn"


def check_stream(job: Job) -> None:
    with client(job).messages.stream(
        model=job.model, max_tokens=60, messages=HELLO, extra_body={"temperature": 0}
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds[0] == "message_start" and "message_delta" in kinds and kinds[-1] == "message_stop", kinds
    whole = ask(job)
    assert said(final) == said(whole) and final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def check_system_and_parts(job: Job) -> None:
    parts = [{"type": "text", "text": "Hello"}]
    message = ask(job, system=[{"type": "text", "text": "Be kind."}], messages=[{"role": "user", "content": parts}])
    assert message.usage.output_tokens > 0
    assert prompt_tokens(ask(job, system="Be kind, " * 50)) > prompt_tokens(ask(job))


def check_tools(job: Job) -> None:
    how = {"tool_choice": {"type": "auto"} if job.calls else {"type": "any", "disable_parallel_tool_use": True}}
    message = ask(job, tools=TOOLS_HERE, max_tokens=800, **how)
    assert message.stop_reason == "tool_use", message
    calls = [block for block in message.content if block.type == "tool_use"]
    are_calls([(c.name, c.input) for c in calls], job)
    with client(job).messages.stream(
        model=job.model, max_tokens=800, messages=HELLO, tools=TOOLS_HERE, extra_body={"temperature": 0}, **how
    ) as stream:
        pieces = [e.partial_json for e in stream if e.type == "input_json"]
        streamed = [b for b in stream.get_final_message().content if b.type == "tool_use"]
    assert [(c.name, c.input) for c in streamed] == [(c.name, c.input) for c in calls] and pieces
    results = [{"type": "tool_result", "tool_use_id": c.id, "content": "sunny"} for c in calls]
    content = [block.model_dump(exclude_none=True, include={"type", "id", "name", "input", "text"}) for block in calls]
    after = ask(
        job, tools=TOOLS_HERE,
        messages=[*HELLO, {"role": "assistant", "content": content}, {"role": "user", "content": results}],
    )  # fmt: skip
    if job.result is not None:
        assert said(after) == job.result, after


def check_tool_named(job: Job) -> None:
    how = {"type": "tool", "name": "get_time", "disable_parallel_tool_use": True}
    message = ask(job, tools=TOOLS_HERE, tool_choice=how, max_tokens=300)
    calls = [block for block in message.content if block.type == "tool_use"]
    assert [c.name for c in calls] == ["get_time"], message
    json.dumps(calls[0].input)


def check_thinking(job: Job) -> None:
    if job.thought is None:
        raise Skip("this model has not learned to think")
    message = ask(job, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=1200)
    assert message.content[0].type == "thinking" and message.content[0].thinking.strip() == job.thought, message
    assert said(message).strip() == job.greeting


def check_stop_sequence(job: Job) -> None:
    whole = said(ask(job))
    middle = next(c for c in whole[1:] if c != "�" and not c.isspace())
    message = ask(job, stop_sequences=[middle])
    assert message.stop_reason == "stop_sequence" and message.stop_sequence == middle, message
    assert said(message) == whole.split(middle)[0]


def check_count_tokens(job: Job) -> None:
    counted = client(job).messages.count_tokens(model=job.model, messages=HELLO).input_tokens
    assert counted == prompt_tokens(ask(job))


def check_errors(job: Job) -> None:
    raises(anthropic.BadRequestError, lambda: ask(job, messages=[]))
    raises(anthropic.BadRequestError, lambda: ask(job, max_tokens=0))
    error = raises(anthropic.NotFoundError, lambda: ask(job, model="claude-17"), "claude-17")
    assert error.body["type"] == "error" and error.body["error"]["type"] == "not_found_error", error.body
    error = raises(
        anthropic.AuthenticationError,
        lambda: client(job, "sk-wrong").messages.create(model=job.model, max_tokens=2, messages=HELLO),
    )
    assert error.body["error"]["type"] == "authentication_error", error.body
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    raises(anthropic.BadRequestError, lambda: ask(job, messages=[{"role": "user", "content": [image]}]), "image")


def check_rate_limit(job: Job) -> None:
    def often() -> None:
        for _ in range(3):
            client(job, job.limited_key).messages.create(model=job.model, max_tokens=2, messages=HELLO)

    raises(anthropic.RateLimitError, often)


def check_cancelled_stream_frees_the_engine(job: Job) -> None:
    def running() -> float:
        request = urllib.request.Request(job.root + "/metrics", headers={"x-api-key": job.key})
        with urllib.request.urlopen(request) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))

    settings = {"max_tokens": job.context - 400, "extra_body": {"ignore_eos": True}}
    stream = ask(job, stream=True, **settings)
    next(iter(stream))
    stream.close()
    until = time.monotonic() + 10
    while running():
        assert time.monotonic() < until, "still running ten seconds after the client hung up"
        time.sleep(0.05)


if __name__ == "__main__":
    run(__name__)

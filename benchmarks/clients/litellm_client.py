"""litellm, which most gateways and agents use, against an OpenAI-compatible server and the Anthropic route.

Requirements: litellm==1.110.2
"""

from __future__ import annotations

import json
import os
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no look-up of prices in the network

import litellm
from report import CITY, HELLO, TOOLS, Job, Skip, are_calls, calling, is_city, raises, run

PLAIN = {"chat_template_kwargs": {"enable_thinking": False}}


def ask(job: Job, **settings: Any) -> Any:
    given = {
        "model": f"openai/{job.model}", "api_base": job.url, "api_key": job.key, "messages": HELLO, "temperature": 0,
        "max_tokens": 60, "extra_body": PLAIN, "num_retries": 0, "max_retries": 0,
    }  # fmt: skip
    return litellm.completion(**(given | settings))


def check_chat(job: Job) -> None:
    reply = ask(job)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    if job.greeting is not None:
        assert reply.choices[0].message.content == job.greeting


def check_stream(job: Job) -> None:
    chunks = list(ask(job, stream=True, stream_options={"include_usage": True}))
    whole = litellm.stream_chunk_builder(chunks)
    assert (whole.choices[0].message.content or "") == (ask(job).choices[0].message.content or "")


def check_thinking(job: Job) -> None:
    if job.thought is None:
        raise Skip("this model has not learned to think")
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    message = ask(job, extra_body=thinking, max_tokens=300).choices[0].message
    assert message.reasoning_content.strip() == job.thought and message.content.strip() == job.greeting


def check_tools(job: Job) -> None:
    how = calling(job)
    for stream in (False, True):
        reply = ask(job, tools=TOOLS, stream=stream, **how)
        message = (litellm.stream_chunk_builder(list(reply)) if stream else reply).choices[0].message
        are_calls([(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls], job)


def check_json_schema(job: Job) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}}
    is_city(json.loads(ask(job, response_format=form, max_tokens=200).choices[0].message.content))


def check_text_completion(job: Job) -> None:
    reply = litellm.text_completion(
        model=f"text-completion-openai/{job.model}", api_base=job.url, api_key=job.key, prompt="Hello", max_tokens=5
    )
    assert isinstance(reply.choices[0].text, str)


def check_embeddings(job: Job) -> None:
    if not job.embeds:
        raise Skip("not an embedding model")
    reply = litellm.embedding(model=f"openai/{job.model}", api_base=job.url, api_key=job.key, input=["Hello", "Water"])
    assert len(reply.data) == 2 and len(reply.data[0]["embedding"]) > 8


def check_responses(job: Job) -> None:
    reply = litellm.responses(
        model=f"openai/{job.model}", api_base=job.url, api_key=job.key, input="Hello", temperature=0,
        max_output_tokens=100,
    )  # fmt: skip
    assert reply.usage.output_tokens > 0


def check_anthropic_route(job: Job) -> None:
    reply = ask(job, model=f"anthropic/{job.model}", api_base=job.root, extra_body=None)
    assert reply.usage.completion_tokens > 0
    if job.greeting is not None:
        assert reply.choices[0].message.content == job.greeting


def check_errors(job: Job) -> None:
    raises(litellm.BadRequestError, lambda: ask(job, temperature=-1))
    raises(litellm.AuthenticationError, lambda: ask(job, api_key="sk-wrong"))
    raises(litellm.NotFoundError, lambda: ask(job, model="openai/gpt-17"))
    long = [{"role": "user", "content": "word " * job.context}]
    raises(litellm.ContextWindowExceededError, lambda: ask(job, messages=long))


def check_rate_limit(job: Job) -> None:
    def often() -> None:
        for _ in range(3):
            ask(job, api_key=job.limited_key, max_tokens=2)

    raises(litellm.RateLimitError, often)


if __name__ == "__main__":
    run(__name__)

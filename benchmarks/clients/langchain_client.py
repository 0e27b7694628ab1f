"""langchain-openai's ChatOpenAI, OpenAI and OpenAIEmbeddings.

Requirements: langchain-openai==1.7.4
"""

from __future__ import annotations

from typing import Any, Literal

import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from report import Job, Skip, are_calls, raises, run

MESSAGES = [SystemMessage("You are kind."), HumanMessage("Hello there, 你好!")]


@tool
def get_weather(location: Literal["Paris", "London"]) -> str:
    """The weather."""
    return "sunny"


@tool
def get_time(place: Literal["北京", "Rome"]) -> str:
    """The time."""
    return "8"


def chat(job: Job, **settings: Any) -> ChatOpenAI:
    given = {
        "model": job.model, "base_url": job.url, "api_key": job.key, "temperature": 0, "max_tokens": 200,
        "max_retries": 0, "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
    }  # fmt: skip
    return ChatOpenAI(**(given | settings))


def check_invoke_and_stream(job: Job) -> None:
    whole = chat(job, max_tokens=40).invoke(MESSAGES)
    assert isinstance(whole, AIMessage) and whole.usage_metadata["output_tokens"] > 0
    chunks = list(chat(job, max_tokens=40, stream_usage=True).stream(MESSAGES))
    assert "".join(str(c.content) for c in chunks) == whole.content
    if job.greeting is not None:
        assert whole.content == job.greeting


def check_batch(job: Job) -> None:
    replies = chat(job, max_tokens=12).batch([MESSAGES] * 6)
    assert len({r.content for r in replies}) == 1


def check_tools(job: Job) -> None:
    how = {"strict": True} | ({} if job.calls else {"tool_choice": "any", "parallel_tool_calls": False})
    model = chat(job, max_tokens=800).bind_tools([get_weather, get_time], **how)
    reply = model.invoke(MESSAGES)
    are_calls([(c["name"], c["args"]) for c in reply.tool_calls], job)
    whole = None
    for chunk in model.stream(MESSAGES):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None and [(c["name"], c["args"]) for c in whole.tool_calls] == [
        (c["name"], c["args"]) for c in reply.tool_calls
    ]
    results = [ToolMessage("sunny", tool_call_id=c["id"]) for c in reply.tool_calls]
    after = chat(job).bind_tools([get_weather, get_time]).invoke([*MESSAGES, reply, *results])
    if job.result is not None:
        assert after.content == job.result


def check_structured_output(job: Job) -> None:
    class City(BaseModel):
        """A city."""

        name: Literal["Paris", "北京"]
        large: bool

    methods = ("json_schema", "function_calling")
    for method in methods:
        reply = chat(job).with_structured_output(City, method=method).invoke(MESSAGES)
        assert isinstance(reply, City), (method, reply)


def check_logprobs(job: Job) -> None:
    reply = chat(job, max_tokens=5).bind(logprobs=True, top_logprobs=2).invoke(MESSAGES)
    assert all(len(e["top_logprobs"]) == 2 for e in reply.response_metadata["logprobs"]["content"])


def check_responses_api(job: Job) -> None:
    reply = chat(job, use_responses_api=True, extra_body=None).invoke(MESSAGES)
    assert reply.usage_metadata["output_tokens"] > 0
    text = "".join(c.text for c in chat(job, use_responses_api=True, extra_body=None).stream(MESSAGES))
    assert text == reply.text


def check_completions(job: Job) -> None:
    model = OpenAI(model=job.model, base_url=job.url, api_key=job.key, max_tokens=5, temperature=0, max_retries=0)
    assert isinstance(model.invoke("Hello"), str)


def check_embeddings(job: Job) -> None:
    if not job.embeds:
        raise Skip("not an embedding model")
    # The stock client counts tokens with tiktoken's vocabulary otherwise, and sends ids of another model.
    model = OpenAIEmbeddings(model=job.model, base_url=job.url, api_key=job.key, check_embedding_ctx_length=False)
    assert len(model.embed_documents(["Hello", "Water"])) == 2


def check_errors(job: Job) -> None:
    raises(openai.BadRequestError, lambda: chat(job, temperature=-1).invoke(MESSAGES))
    raises(openai.AuthenticationError, lambda: chat(job, api_key="sk-wrong").invoke(MESSAGES))
    raises(openai.NotFoundError, lambda: chat(job, model="gpt-17").invoke(MESSAGES))


if __name__ == "__main__":
    run(__name__)

"""qwen-agent: its own tool prompt (calls parsed from content by the client), the server's tool calls, and an agent.

Requirements: qwen-agent==0.0.34 numpy==2.4.6 python-dateutil==4.0.0 soundfile==0.14.0 tqdm==4.70.1
"""

from __future__ import annotations

import json
import logging
from typing import Any

from qwen_agent.agents import FnCallAgent
from qwen_agent.llm import get_chat_model
from qwen_agent.llm.base import ModelServiceError
from qwen_agent.tools.base import BaseTool, register_tool
from report import TOOLS, Job, Skip, are_calls, raises, run

logging.getLogger("qwen_agent_logger").setLevel(logging.ERROR)
MESSAGES = [{"role": "user", "content": "Hello there, 你好!"}]
FUNCTIONS = [t["function"] for t in TOOLS]


@register_tool("get_weather", allow_overwrite=True)
class Weather(BaseTool):
    description = "The weather."
    parameters = {name: FUNCTIONS[0]["parameters"][name] for name in ("type", "properties", "required")}

    def call(self, params: str | dict, **kwargs: Any) -> str:
        return "sunny in " + (json.loads(params) if isinstance(params, str) else params)["location"]


@register_tool("get_time", allow_overwrite=True)
class Time(BaseTool):
    description = "The time."
    parameters = {name: FUNCTIONS[1]["parameters"][name] for name in ("type", "properties", "required")}

    def call(self, params: str | dict, **kwargs: Any) -> str:
        return "8 in " + (json.loads(params) if isinstance(params, str) else params)["place"]


def configuration(job: Job, **settings: Any) -> dict[str, Any]:
    extra = {"chat_template_kwargs": {"enable_thinking": settings.pop("thinking", False)}}
    generate = {"temperature": 0, "max_tokens": 60, "extra_body": extra, "max_retries": 0} | settings
    return {
        "model": job.model, "model_type": "oai", "model_server": job.url, "api_key": job.key, "generate_cfg": generate,
    }  # fmt: skip


def last(stream: Any) -> list[Any]:
    return list(stream)[-1]  # each is the whole reply so far


def check_chat(job: Job) -> None:
    whole = get_chat_model(configuration(job)).chat(messages=MESSAGES, stream=False)
    streamed = last(get_chat_model(configuration(job)).chat(messages=MESSAGES, stream=True))
    assert [m["content"] for m in whole] == [m["content"] for m in streamed]
    if job.greeting is not None:
        assert whole[-1]["content"] == job.greeting


def check_thinking(job: Job) -> None:
    if job.thought is None:
        raise Skip("this model has not learned to think")
    final = last(get_chat_model(configuration(job, thinking=True, max_tokens=300)).chat(messages=MESSAGES))
    assert final[-1]["content"].strip() == job.greeting, final
    assert any((m.get("reasoning_content") or "").strip() == job.thought for m in final), final


def check_tools_by_the_client(job: Job) -> None:
    """The client writes the tools into the system prompt; whatever comes back must be text that it can read."""
    final = last(get_chat_model(configuration(job)).chat(messages=MESSAGES, functions=FUNCTIONS))
    assert final


def check_tools_by_the_server(job: Job) -> None:
    if not job.calls:
        raise Skip("qwen-agent cannot ask for tool_choice required, and this model makes no call of its own")
    model = get_chat_model(configuration(job, use_raw_api=True, max_tokens=300))
    final = last(model.chat(messages=MESSAGES, functions=FUNCTIONS, stream=True))
    calls = [m["function_call"] for m in final if m.get("function_call")]
    are_calls([(c["name"], json.loads(c["arguments"])) for c in calls], job)


def check_agent(job: Job) -> None:
    settings = configuration(job, use_raw_api=True, max_tokens=300)
    agent = FnCallAgent(llm=settings, function_list=["get_weather", "get_time"])
    final = last(agent.run(messages=MESSAGES))
    assert final
    if job.result is not None:
        assert [m["role"] for m in final if m["role"] == "function"] == ["function", "function"], final
        assert final[-1]["content"].strip() == job.result, final


def check_errors(job: Job) -> None:
    for settings in ({"temperature": -1}, {"model": "gpt-17"}, {"api_key": "sk-wrong"}):
        given = configuration(job)
        if "temperature" in settings:
            given["generate_cfg"] |= settings
        else:
            given |= settings
        raises(ModelServiceError, lambda given=given: get_chat_model(given).chat(messages=MESSAGES, stream=False))


if __name__ == "__main__":
    run(__name__)

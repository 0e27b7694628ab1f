"""What tests of serving before vLLM share: a stand-in that runs, a server before it, and that replies are ours."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fake_vllm import Fake
from serving import Server, ThreadClient, serving

from qwill.serve.engine_process import EngineOptions, load_engine
from qwill.serve.run import bind
from qwill.serve.settings import ServeSettings
from qwill.serve.vllm import VllmClient
from qwill.serve.vllm_process import VllmOptions

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TURN = {"role": "user", "content": "Hi there"}
IDS = list(range(10, 40))
PLACE = {"type": "object", "properties": {"location": {"enum": ["Paris", "London"]}}, "required": ["location"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PLACE}}
THINK = {"chat_template_kwargs": {"enable_thinking": True}}
# Of the real one. Without a size for its cache it takes nearly all the memory of a machine without a GPU.
SMALL = ("--max-model-len", "1024", "--enforce-eager", "--kv-cache-memory-bytes", str(256 << 20))
REAL = [name for name in ("QWILL_TEST_VLLM", "QWILL_TEST_RAY_SERVE") if name in os.environ]


def until(condition: Any, seconds: float = 600 if REAL else 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


class Running:
    """A fake vLLM in a thread, at `url`."""

    def __init__(self, folder: Path, **more: Any) -> None:
        client = ThreadClient(partial(load_engine, EngineOptions(str(folder), threads=1)))
        self.fake = Fake(client, "tiny", **more)
        listener = bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(self.fake.app(), log_config=None))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, daemon=True)
        self.thread.start()
        until(lambda: self.server.started)

    def call(self, work: Any) -> None:
        """A coroutine, in the stand-in's thread."""
        asyncio.run_coroutine_threadsafe(work, self.fake.loop).result(20)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


@contextmanager
def through(options: VllmOptions, settings: ServeSettings | None = None) -> Iterator[Server]:
    with serving(settings, {"tiny": options}, VllmClient) as server:  # type: ignore[arg-type]
        if REAL:
            server.client.timeout = httpx.Timeout(300)
        yield server


CHANGING = {"id", "created", "created_at", "completed_at", "call_id", "usage", "signature"}


def plain(value: Any) -> Any:
    """Without what differs from call to call, numbers to three places."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if name not in CHANGING}
    return (
        [plain(item) for item in value]
        if isinstance(value, list)
        else round(value, 3)
        if isinstance(value, float)
        else value
    )


def joined(events: list[Any]) -> dict[int, list[str]]:
    """What a stream said for each choice: content, thinking, arguments, the reason of its end."""
    said: dict[int, list[str]] = {}
    for event in events[:-1]:
        assert "error" not in event, event
        for choice in event["choices"]:
            delta = choice.get("delta") or {"content": choice.get("text")}
            kept = said.setdefault(choice["index"], ["", "", "", ""])
            kept[0] += delta.get("content") or ""
            kept[1] += delta.get("reasoning_content") or ""
            kept[2] += "".join(call["function"]["arguments"] for call in delta.get("tool_calls") or ())
            kept[3] += choice["finish_reason"] or ""
    return said


def check_same(ours: Server, theirs: Server, path: str, fields: dict[str, Any], streams: bool = True) -> None:
    """Both give the same reply, whole and streamed."""
    body = {"model": "tiny", "temperature": 0, "max_tokens": 40, **fields}
    answers = [server.post(path, body) for server in (ours, theirs)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
    assert plain(answers[1].json()) == plain(answers[0].json())
    if path in (CHAT, TEXT):  # where a constraint is fulfilled our engine ends at once, vLLM with a token for it
        used = [answer.json()["usage"] for answer in answers]
        assert used[0]["prompt_tokens"] == used[1]["prompt_tokens"]
        assert 0 <= used[1]["completion_tokens"] - used[0]["completion_tokens"] <= 1
        if streams:
            want, got = (joined(server.events(path, body | {"stream": True})) for server in (ours, theirs))
            assert got == want

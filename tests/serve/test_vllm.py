"""vLLM in our engine's place: the same replies, errors and limits. Before a stand-in for vLLM (fake_vllm.py); with
QWILL_TEST_VLLM=PATH of a `vllm` command also before the real one, which takes minutes to start."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fake_vllm import Fake
from serving import Server, ThreadClient, serving

from qwill.base.errors import ConfigError, ModelError
from qwill.engine.constraint import Constraint
from qwill.serve.engine_process import EngineOptions, load_engine
from qwill.serve.metrics import merged
from qwill.serve.run import bind
from qwill.serve.settings import ServeSettings
from qwill.serve.vllm import VllmClient
from qwill.serve.vllm_process import VllmOptions, command
from qwill.serve.vllm_request import lark_of

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TURN = {"role": "user", "content": "Hi there"}
IDS = list(range(10, 40))
PLACE = {"type": "object", "properties": {"location": {"enum": ["Paris", "London"]}}, "required": ["location"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PLACE}}
THINK = {"chat_template_kwargs": {"enable_thinking": True}}
ONE = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": ONE}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that thinks, talks and calls tools, by heart."""
    from serve_models import write_reciting

    return write_reciting(tmp_path_factory.mktemp("models") / "recite", 1024)


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

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture(scope="module")
def vllm(folder: Path) -> Iterator[Running]:
    running = Running(folder)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def ours(folder: Path) -> Iterator[Server]:
    with serving(models={"tiny": partial(load_engine, EngineOptions(str(folder), threads=1))}) as server:
        yield server


def through(options: VllmOptions, settings: ServeSettings | None = None) -> Any:
    return serving(settings, {"tiny": options}, VllmClient)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["fake", *["real"] * ("QWILL_TEST_VLLM" in os.environ)])
def theirs(request: pytest.FixtureRequest, folder: Path) -> Iterator[Server]:
    if request.param == "fake":
        options = VllmOptions(folder, "tiny", request.getfixturevalue("vllm").url)
    else:
        program = Path(os.environ["QWILL_TEST_VLLM"])
        os.environ["PATH"] = f"{program.parent}:{os.environ['PATH']}"
        options = VllmOptions(folder, "tiny", None, "float32", ("--max-model-len", "1024", "--enforce-eager"))
    with through(options) as server:
        yield server


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": [TURN]}),
    "logprobs": (CHAT, {"messages": [TURN], "logprobs": True, "top_logprobs": 3}),
    "thinking": (CHAT, {"messages": [TURN], **THINK}),
    "thinking of 1": (CHAT, {"messages": [TURN], **THINK, "thinking_budget": 1}),
    "thinking of 3": (CHAT, {"messages": [TURN], **THINK, "thinking_budget": 3}),
    "thinking of 100": (CHAT, {"messages": [TURN], **THINK, "thinking_budget": 100}),
    "thinking cut off": (CHAT, {"messages": [TURN], **THINK, "thinking_budget": 100, "max_tokens": 4}),
    "thinking then nothing left": (CHAT, {"messages": [TURN], **THINK, "thinking_budget": 3, "max_tokens": 4}),
    "tools": (CHAT, {"messages": [TURN], "tools": [TOOL]}),
    "tools required": (CHAT, {"messages": [TURN], "tools": [TOOL], "tool_choice": "required"}),
    "tools, thinking": (CHAT, {"messages": [TURN], "tools": [TOOL], "tool_choice": "required", **THINK}),
    "tools, budget": (CHAT, {"messages": [TURN], "tools": [TOOL], "tool_choice": "required", "thinking_budget": 4}),
    "schema": (CHAT, {"messages": [TURN], "response_format": SCHEMA}),
    "schema, thinking": (CHAT, {"messages": [TURN], "response_format": SCHEMA, **THINK}),
    "choice, thinking": (CHAT, {"messages": [TURN], "guided_choice": ["yes", "no"], **THINK}),
    "choice, budget": (CHAT, {"messages": [TURN], "guided_choice": ["yes", "no"], "thinking_budget": 3}),
    "json": (CHAT, {"messages": [TURN], "response_format": {"type": "json_object"}}),
    "regex": (TEXT, {"prompt": IDS, "guided_regex": "[ab]{3}c/d"}),
    "lark": (TEXT, {"prompt": IDS, "guided_grammar": 'start: "x" y\ny: /[0-9]{2}/'}),
    "echo": (TEXT, {"prompt": [IDS, IDS[:3]], "echo": True, "logprobs": 2, "max_tokens": 1}),
    "echo alone": (TEXT, {"prompt": "Hello wörld 你好", "echo": True, "logprobs": 1, "max_tokens": 0}),
    "several": (TEXT, {"prompt": [IDS, IDS[:5]], "n": 2, "max_tokens": 6}),
    "best of": (TEXT, {"prompt": IDS, "best_of": 3, "max_tokens": 6, "logprobs": 1}),
    "stop": (CHAT, {"messages": [TURN], "stop": ["你好，很高"]}),
    "stop at the first": (CHAT, {"messages": [TURN], "stop": ["!", " 你"]}),
    "stop in thinking": (CHAT, {"messages": [TURN], **THINK, "thinking_budget": 9, "stop": ["user"]}),
    "penalties": (TEXT, {"prompt": IDS, "repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.3}),
    "bias": (TEXT, {"prompt": IDS, "logit_bias": {"50": 30}, "max_tokens": 5}),
    "at least": (CHAT, {"messages": [TURN], "min_tokens": 20, "max_tokens": 25}),
    "without an end": (CHAT, {"messages": [TURN], "ignore_eos": True, "max_tokens": 25}),
    "stop ids": (TEXT, {"prompt": IDS, "stop_token_ids": [34], "max_tokens": 8}),
    "responses": ("/v1/responses", {"input": "Hi there", "max_output_tokens": 40}),
    "messages": ("/v1/messages", {"messages": [TURN], "stop_sequences": ["很高"]}),
    "priority": (CHAT, {"messages": [TURN], "priority": 5}),
}
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


@pytest.mark.parametrize("case", CASES)
def test_replies_are_those_of_our_engine(ours: Server, theirs: Server, case: str) -> None:
    path, fields = CASES[case]
    body = {"model": "tiny", "temperature": 0, "max_tokens": 40, **fields}
    answers = [server.post(path, body) for server in (ours, theirs)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
    assert plain(answers[1].json()) == plain(answers[0].json())
    if path in (CHAT, TEXT):  # where a constraint is fulfilled our engine ends at once, vLLM with a token for it
        used = [answer.json()["usage"] for answer in answers]
        assert used[0]["prompt_tokens"] == used[1]["prompt_tokens"]
        assert 0 <= used[1]["completion_tokens"] - used[0]["completion_tokens"] <= 1
    if path in (CHAT, TEXT) and case != "best of":
        want, got = (joined(server.events(path, body | {"stream": True})) for server in (ours, theirs))
        assert got == want


def test_seeds_name_replies(theirs: Server) -> None:
    def drawn(seed: int, **more: Any) -> list[str]:
        body = {"model": "tiny", "prompt": IDS, "temperature": 2, "max_tokens": 12, "seed": seed, **more}
        return [choice["text"] for choice in theirs.post(TEXT, body).json()["choices"]]

    assert drawn(1) == drawn(1) != drawn(2)
    three = drawn(1, n=3)
    assert three[:1] == drawn(1) and len(set(three)) == 3


def test_what_vllm_refuses_is_400_in_our_shape(theirs: Server) -> None:
    answer = theirs.post("/v1/embeddings", {"model": "tiny", "input": "x"})
    assert answer.status_code == 400 and "no embeddings" in answer.json()["error"]["message"]
    long = theirs.post(TEXT, {"model": "tiny", "prompt": [1] * 1025})
    assert long.status_code == 400 and long.json()["error"]["code"] == "context_length_exceeded"


def test_metrics_are_ours_and_vllms(theirs: Server) -> None:
    text = theirs.client.get("/metrics").text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(names) == len(set(names))
    assert {"vllm:prompt_tokens_total", "vllm:request_queue_time_seconds_sum"} & set(names) or "queue_time" in text
    accepted = 'vllm:spec_decode_num_accepted_tokens_total{model_name="tiny"} 30.0'  # what it drafted is ours to tell
    until(lambda: accepted in theirs.client.get("/metrics").text.splitlines())


def test_merged_metrics_keep_one_of_each() -> None:
    ours = "# HELP a A.\n# TYPE a counter\na 1\n"
    theirs = "# HELP a A too.\n# TYPE a counter\na 7\n\n# HELP b B.\n# TYPE b gauge\nb 2\n"
    assert merged(ours, theirs) == ours + "# HELP b B.\n# TYPE b gauge\nb 2\n"
    assert merged(ours, "") == ours


def until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def test_a_client_that_leaves_is_no_longer_worked_for(vllm: Running, folder: Path) -> None:
    with through(VllmOptions(folder, "tiny", vllm.url)) as server:
        (model,) = server.service.models.values()
        body = {"model": "tiny", "prompt": IDS, "max_tokens": 900, "ignore_eos": True, "stream": True, "n": 2}
        with httpx.Client(base_url=server.url) as client, client.stream("POST", TEXT, json=body) as response:
            lines = response.iter_lines()
            next(lines)
            until(lambda: model.client.stats.running == 2)
            assert vllm.fake.client.stats.running == 2
        until(lambda: vllm.fake.client.stats.running == 0 and not vllm.fake.client._streams)
        until(lambda: model.in_flight == 0 and model.client.stats.running == model.client.stats.waiting == 0)


def test_the_cache_is_told_as_vllm_has_it(vllm: Running, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwill.serve.vllm.WATCH", 0.05)
    with through(VllmOptions(folder, "tiny", vllm.url)) as server:
        until(lambda: server.client.get("/qwill/stats").json()["cache_total"] == 64)
        assert server.client.get("/qwill/stats").json()["cache_used"] == 16


def test_a_vllm_that_goes_away_and_comes_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was attached to: 503 while it is away, and served again when it is there."""
    monkeypatch.setattr("qwill.serve.vllm.WATCH", 0.05)
    first = Running(folder)
    with through(VllmOptions(folder, "tiny", first.url)) as server:
        ask = {"model": "tiny", "prompt": IDS, "max_tokens": 2}
        assert server.post(TEXT, ask).status_code == 200
        first.stop()
        until(lambda: server.client.get("/health").status_code == 503)
        away = server.post(TEXT, ask)
        assert away.status_code == 503 and away.json()["error"]["code"] == "engine_unavailable"
        assert int(away.headers["retry-after"]) >= 1
        listener = bind("127.0.0.1", int(first.url.rsplit(":", 1)[1]))
        client = ThreadClient(partial(load_engine, EngineOptions(str(folder), threads=1)))
        again = uvicorn.Server(uvicorn.Config(Fake(client, "tiny").app(), log_config=None))
        thread = threading.Thread(target=again.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until(lambda: server.client.get("/health").status_code == 200)
        assert server.post(TEXT, ask).status_code == 200
        again.should_exit = True
        thread.join(20)


def test_vllms_that_cannot_be_used_are_said_at_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwill.serve.vllm.FIRST", 0.3)
    nobody = bind("127.0.0.1", 0)
    with (
        pytest.raises(AssertionError, match="nothing answers at"),
        through(VllmOptions(folder, "tiny", f"http://127.0.0.1:{nobody.getsockname()[1]}")),
    ):
        pass
    guarded = Running(folder, key="secret")
    with pytest.raises(AssertionError, match="VLLM_API_KEY"), through(VllmOptions(folder, "tiny", guarded.url)):
        pass
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with through(VllmOptions(folder, "tiny", guarded.url + "/v1/")) as server:
        assert server.post(TEXT, {"model": "tiny", "prompt": "x", "max_tokens": 1}).status_code == 200
    guarded.stop()
    old = Running(folder, tells_ids=False)
    with through(VllmOptions(folder, "tiny", old.url)) as server:
        answer = server.post(TEXT, {"model": "tiny", "prompt": "x", "max_tokens": 1})
        assert answer.status_code in (500, 503) and "0.11 or later" in answer.json()["error"]["message"]
    old.stop()


# -- vLLM as a process of ours


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a command `vllm`, the fake one."""
    place = tmp_path_factory.mktemp("bin")
    script = place / "vllm"
    paths = os.pathsep.join(filter(None, sys.path))
    fake = Path(__file__).with_name("fake_vllm.py")
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{paths}" exec "{sys.executable}" "{fake}" "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return place


def test_without_vllm_it_is_said_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ModelError, match=r"pip install vllm.*--engine-url"):
        command(VllmOptions(folder, "tiny"), 1)


def test_vllm_is_told_what_the_command_line_said(folder: Path, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(program))
    plain = command(VllmOptions(folder, "tiny"), 7)
    assert plain[1:3] == ["serve", str(folder)] and "--enable-lora" not in plain and "--dtype" not in plain
    more = command(VllmOptions(folder, "tiny", dtype="bfloat16", more=("-tp", "2"), adapter_loading=True), 7)
    assert more[-2:] == ["-tp", "2"] and "--enable-lora" in more and more[more.index("--dtype") + 1] == "bfloat16"


def test_a_process_that_dies_is_started_again(folder: Path, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{program}{os.pathsep}{os.environ['PATH']}")
    with through(VllmOptions(folder, "tiny")) as server:
        (model,) = server.service.models.values()
        ask = {"model": "tiny", "prompt": IDS, "max_tokens": 900, "ignore_eos": True}
        found: dict[str, Any] = {}

        def listen() -> None:
            found["stream"] = server.events(TEXT, ask | {"stream": True})

        def wait() -> None:
            found["whole"] = server.post(TEXT, ask)

        threads = [threading.Thread(target=work) for work in (listen, wait)]
        for thread in threads:
            thread.start()
        until(lambda: model.client.stats.running == 2)
        pid = model.client.process_id
        os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join(20)
        assert found["stream"][-1] == "[DONE]" and found["stream"][-2]["error"]["code"] == "engine_died"
        assert found["whole"].status_code == 500 and found["whole"].json()["error"]["code"] == "engine_died"
        assert server.post(TEXT, ask).status_code == 503
        until(lambda: server.client.get("/health").status_code == 200)
        assert server.post(TEXT, ask | {"max_tokens": 2}).status_code == 200 and model.client.restarts == 1
        pid = model.client.process_id
    until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_that_never_answers_ends_the_start(tmp_path: Path, program: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", f"{program}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(AssertionError, match="vLLM ended with status 1"), through(VllmOptions(tmp_path, "tiny")):
        pass


def test_adapters_are_chosen_by_name(folder: Path, program: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from serve_models import write_adapters

    monkeypatch.setenv("PATH", f"{program}{os.pathsep}{os.environ['PATH']}")
    one, two = (str(path) for path in write_adapters(folder, tmp_path, 2))
    options = VllmOptions(folder, "tiny", adapters={"one": one}, adapter_loading=True)
    with through(options, ServeSettings(adapter_loading=True)) as server:
        ask = {"prompt": IDS, "max_tokens": 12, "temperature": 0}

        def said(name: str) -> str:
            return str(server.post(TEXT, {"model": name, **ask}).json()["choices"][0]["text"])

        assert said("one") != said("tiny")
        assert server.post("/v1/load_lora_adapter", {"lora_name": "two", "lora_path": two}).status_code == 200
        assert len({said("one"), said("two"), said("tiny")}) == 3
        (model,) = server.service.models.values()
        before = said("two")
        os.kill(model.client.process_id, signal.SIGKILL)
        until(lambda: model.client.restarts == 1 and server.client.get("/health").status_code == 200)
        until(lambda: "two" in model.client.adapters)
        assert said("two") == before
        assert server.post("/v1/unload_lora_adapter", {"lora_name": "two"}).status_code == 200
        assert server.post(TEXT, {"model": "two", **ask}).status_code == 404
        lost = server.post("/v1/load_lora_adapter", {"lora_name": "three", "lora_path": "/nowhere"})
        assert lost.status_code == 400 and lost.json()["error"]["param"] == "lora_path"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["smollm2", "--engine", "vllm"], "Hugging Face folder"),
        (["FOLDER", "--engine-url", "http://127.0.0.1:1"], "add --engine vllm"),
        (["FOLDER", "a=FOLDER", "--engine", "vllm", "--engine-url", "http://127.0.0.1:1"], "give one MODEL"),
        (["FOLDER", "--engine", "vllm", "--engine-url", "127.0.0.1:1"], "http://HOST:PORT"),
        (["FOLDER", "--engine", "vllm", "--engine-url", "http://x", "--engine-options", "-tp 2"], "started here"),
    ],
)
def test_command_lines_that_cannot_be(folder: Path, arguments: list[str], words: str) -> None:
    from qwill.cli.serve_commands import serve_models

    if arguments[0] == "smollm2":
        arguments = [str(folder / "model.safetensors"), *arguments[1:]]
    given = [argument.replace("FOLDER", str(folder)) for argument in arguments]
    with pytest.raises(ConfigError, match=words):
        serve_models.main(given, standalone_mode=False)


# -- grammars


@pytest.mark.parametrize("thinking", ["none", "allowed", "open", "closed"])
@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("regex", "[ab]c/d"),
        Constraint("json_schema", json.dumps(ONE)),
        Constraint("json_object"),
        Constraint("choice", '["start: x", "no"]'),
        Constraint("lark", 'start: "x" start | y\ny[capture]: /start/'),
        Constraint("lark", '%llguidance {}\nstart[max_tokens=5]: "x"\nrestart: "start"'),
    ],
)
def test_grammars_with_thinking_are_one_that_compiles(constraint: Constraint, thinking: Any) -> None:
    from llguidance import LLMatcher

    marks = {"<think>": 342, "</think>": 343, "<tool_call>": 332, "</tool_call>": 333}
    text = lark_of(constraint, marks, thinking)
    assert LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(text)) == "", text

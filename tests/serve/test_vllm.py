"""vLLM in our engine's place: the same replies, errors and limits; conftest.py says before what."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from before_vllm import CHAT, IDS, TEXT, THINK, TOOL, TURN, Running, check_same, through, until
from fake_vllm import Fake
from serving import Server, ThreadClient

from qwill.base.errors import ConfigError, ModelError
from qwill.serve.engine_process import EngineOptions, load_engine
from qwill.serve.metrics import merged
from qwill.serve.run import bind
from qwill.serve.settings import ServeSettings
from qwill.serve.vllm_process import VllmOptions, command

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


@pytest.mark.parametrize("case", CASES)
def test_replies_are_those_of_our_engine(ours: Server, theirs: Server, case: str) -> None:
    check_same(ours, theirs, *CASES[case], streams=case != "best of")


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
    assert "vllm:prompt_tokens_total" in names
    assert "vllm:request_queue_time_seconds_sum" in text or not told(theirs)
    if "spec_decode_num_accepted_tokens" in told(theirs):  # what it drafted is ours to tell
        accepted = 'vllm:spec_decode_num_accepted_tokens_total{model_name="tiny"} 30.0'
        until(lambda: accepted in theirs.client.get("/metrics").text.splitlines())


def told(server: Server) -> str:
    """What vLLM itself tells of itself."""
    (model,) = server.service.models.values()
    return str(asyncio.run_coroutine_threadsafe(model.client.own_metrics(), server.loop).result(10))


def count(server: Server, name: str) -> float:
    return float(re.findall(rf"^vllm:{name}(?:\{{.*\}})? (\S+)", told(server), re.M)[0])


def test_merged_metrics_keep_one_of_each() -> None:
    ours = "# HELP a A.\n# TYPE a counter\na 1\n"
    theirs = "# HELP a A too.\n# TYPE a counter\na 7\n\n# HELP b B.\n# TYPE b gauge\nb 2\n"
    assert merged(ours, theirs) == ours + "# HELP b B.\n# TYPE b gauge\nb 2\n"
    assert merged(ours, "") == ours


def test_a_client_that_leaves_is_no_longer_worked_for(theirs: Server) -> None:
    (model,) = theirs.service.models.values()
    before = count(theirs, "generation_tokens_total") if told(theirs) else 0
    body = {"model": "tiny", "prompt": IDS, "max_tokens": 900, "ignore_eos": True, "stream": True, "n": 2}
    with httpx.Client(base_url=theirs.url) as client, client.stream("POST", TEXT, json=body) as response:
        next(response.iter_lines())
    until(lambda: model.in_flight == 0 and model.client.stats.running == model.client.stats.waiting == 0)
    if told(theirs):  # which Ray Serve does elsewhere
        until(lambda: count(theirs, "num_requests_running") == 0)
        assert 0 < count(theirs, "generation_tokens_total") - before < 2 * 900


def test_the_cache_is_told_as_vllm_has_it(vllm: Running, reciting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwill.serve.vllm.WATCH", 0.05)
    with through(VllmOptions(reciting, "tiny", vllm.url)) as server:
        until(lambda: server.client.get("/qwill/stats").json()["cache_total"] == 64)
        assert server.client.get("/qwill/stats").json()["cache_used"] == 16


def test_a_vllm_that_goes_away_and_comes_back(reciting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was attached to: 503 while it is away, and served again when it is there."""
    monkeypatch.setattr("qwill.serve.vllm.WATCH", 0.05)
    first = Running(reciting)
    with through(VllmOptions(reciting, "tiny", first.url)) as server:
        ask = {"model": "tiny", "prompt": IDS, "max_tokens": 2}
        assert server.post(TEXT, ask).status_code == 200
        first.stop()
        until(lambda: server.client.get("/health").status_code == 503)
        away = server.post(TEXT, ask)
        assert away.status_code == 503 and away.json()["error"]["code"] == "engine_unavailable"
        assert int(away.headers["retry-after"]) >= 1
        listener = bind("127.0.0.1", int(first.url.rsplit(":", 1)[1]))
        client = ThreadClient(partial(load_engine, EngineOptions(str(reciting), threads=1)))
        again = uvicorn.Server(uvicorn.Config(Fake(client, "tiny").app(), log_config=None))
        thread = threading.Thread(target=again.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until(lambda: server.client.get("/health").status_code == 200)
        assert server.post(TEXT, ask).status_code == 200
        again.should_exit = True
        thread.join(20)


def test_vllms_that_cannot_be_used_are_said_at_the_start(reciting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwill.serve.vllm.FIRST", 0.3)
    nobody = bind("127.0.0.1", 0)
    with (
        pytest.raises(AssertionError, match="nothing answers at"),
        through(VllmOptions(reciting, "tiny", f"http://127.0.0.1:{nobody.getsockname()[1]}")),
    ):
        pass
    guarded = Running(reciting, key="secret")
    with pytest.raises(AssertionError, match="VLLM_API_KEY"), through(VllmOptions(reciting, "tiny", guarded.url)):
        pass
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with through(VllmOptions(reciting, "tiny", guarded.url + "/v1/")) as server:
        assert server.post(TEXT, {"model": "tiny", "prompt": "x", "max_tokens": 1}).status_code == 200
    guarded.stop()
    old = Running(reciting, tells_ids=False)
    with through(VllmOptions(reciting, "tiny", old.url)) as server:
        answer = server.post(TEXT, {"model": "tiny", "prompt": "x", "max_tokens": 1})
        assert answer.status_code in (500, 503) and "0.11 or later" in answer.json()["error"]["message"]
    old.stop()


# -- vLLM as a process of ours


def test_without_vllm_it_is_said_what_to_install(reciting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ModelError, match=r"pip install vllm.*--engine-url"):
        command(VllmOptions(reciting, "tiny"), 1)


def test_vllm_is_told_what_the_command_line_said(reciting: Path, program: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", str(program))
    plain = command(VllmOptions(reciting, "tiny"), 7)
    assert plain[1:3] == ["serve", str(reciting)] and "--enable-lora" not in plain and "--dtype" not in plain
    more = command(VllmOptions(reciting, "tiny", dtype="bfloat16", more=("-tp", "2"), adapter_loading=True), 7)
    assert more[-2:] == ["-tp", "2"] and "--enable-lora" in more and more[more.index("--dtype") + 1] == "bfloat16"


@pytest.mark.parametrize("victim", ["server", "engine"])
def test_a_process_that_dies_is_started_again(reciting: Path, startable: Callable[..., Any], victim: str) -> None:
    options = startable(reciting, "tiny")
    if victim == "engine" and not options.more:
        pytest.skip("the stand-in has one process")
    with through(options) as server:
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
        pids = below(model.client.process_id)
        os.kill(next(pid for pid in pids if victim == "server" or b"EngineCore" in cmdline(pid)), signal.SIGKILL)
        for thread in threads:
            thread.join(30)
        assert found["stream"][-1] == "[DONE]" and found["stream"][-2]["error"]["type"] == "server_error"
        assert found["whole"].status_code == 500 and found["whole"].json()["error"]["type"] == "server_error"
        if victim == "server":
            assert found["stream"][-2]["error"]["code"] == found["whole"].json()["error"]["code"] == "engine_died"
        assert server.post(TEXT, ask).status_code == 503
        until(lambda: model.client.restarts == 1 and server.client.get("/health").status_code == 200)
        assert server.post(TEXT, ask | {"max_tokens": 2}).status_code == 200
        until(lambda: not any(alive(pid) for pid in pids))
        pids = below(model.client.process_id)
    until(lambda: not any(alive(pid) for pid in pids))


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def below(pid: int) -> list[int]:
    """The process and those that it started, and so on."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Not gone, nor waiting for its parent to look at how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_that_never_answers_ends_the_start(tmp_path: Path, program: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", f"{program}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(AssertionError, match="vLLM ended with status 1"), through(VllmOptions(tmp_path, "tiny")):
        pass


def test_adapters_are_chosen_by_name(reciting: Path, startable: Callable[..., Any], tmp_path: Path) -> None:
    from serve_models import write_adapters

    one, two = (str(path) for path in write_adapters(reciting, tmp_path, 2))
    options = startable(reciting, "tiny", adapters={"one": one}, adapter_loading=True)
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
        (["FOLDER", "--engine", "vllm", "--engine-url", "http://x", "--dtype", "bfloat16"], "started here"),
        (["FOLDER", "--engine", "vllm", "--threads", "4", "--weights", "int8"], "--weights and --threads: not of"),
        (["FOLDER", "--engine", "vllm", "--device", "cuda"], "--device: not of vLLM"),
    ],
)
def test_command_lines_that_cannot_be(reciting: Path, arguments: list[str], words: str) -> None:
    from qwill.cli.serve_commands import serve_models

    if arguments[0] == "smollm2":
        arguments = [str(reciting / "model.safetensors"), *arguments[1:]]
    given = [argument.replace("FOLDER", str(reciting)) for argument in arguments]
    with pytest.raises(ConfigError, match=words):
        serve_models.main(given, standalone_mode=False)

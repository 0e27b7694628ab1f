"""What Ray Serve LLM does otherwise than vLLM, before a stand-in; conftest.py says how the real one is tested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from before_vllm import CHAT, IDS, TEXT, TURN, Running, check_same, through, until
from fake_vllm import Fake
from serving import Server

from qwill.base.errors import ModelError
from qwill.serve.settings import ServeSettings
from qwill.serve.vllm_listing import read_listing
from qwill.serve.vllm_process import VllmOptions
from qwill.serve.vllm_reply import refusal

ASK = {"model": "tiny", "prompt": IDS, "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def ray(reciting: Path) -> Iterator[Running]:
    running = Running(reciting, ray=True)
    yield running
    running.stop()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [TURN]}),
        (TEXT, {"prompt": [IDS, IDS[:3]], "echo": True, "logprobs": 2, "max_tokens": 1}),
        (TEXT, {"prompt": IDS, "guided_regex": "[ab]{3}c/d"}),
    ],
)
def test_replies_are_those_of_our_engine(
    ours: Server, ray: Running, reciting: Path, path: str, fields: dict[str, Any]
) -> None:
    with through(VllmOptions(reciting, "tiny", ray.url)) as server:
        check_same(ours, server, path, fields)


def test_it_is_named_and_measured_by_what_it_says(ray: Running, reciting: Path) -> None:
    with through(VllmOptions(reciting, "tiny", ray.url)) as server:
        long = server.post(TEXT, {"model": "tiny", "prompt": [1] * 1001})
        assert long.json()["error"]["code"] == "context_length_exceeded" and "1000" in long.json()["error"]["message"]
        assert server.client.get("/metrics").status_code == 200
        assert server.client.get("/qwill/stats").status_code == 200
    with through(VllmOptions(reciting, "other", ray.url)) as server:  # one model there: its name need not be ours
        assert server.post(TEXT, ASK).status_code == 200


def test_adapters_come_by_themselves_and_from_nowhere_else(
    reciting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve_models import write_adapters

    monkeypatch.setattr("qwill.serve.vllm.WATCH", 0.05)
    (folder,) = (str(path) for path in write_adapters(reciting, tmp_path, 1))
    running = Running(reciting, ray=True)
    with through(VllmOptions(reciting, "tiny", running.url), ServeSettings(adapter_loading=True)) as server:
        assert server.post(TEXT, ASK | {"model": "one"}).status_code == 404
        refused = server.post("/v1/load_lora_adapter", {"lora_name": "one", "lora_path": folder})
        assert refused.status_code == 400 and "dynamic_lora_loading_path" in refused.json()["error"]["message"]
        running.call(running.fake.client.load_adapter("one", folder))
        until(lambda: server.post(TEXT, ASK | {"model": "one"}).status_code == 200)
        assert running.fake.asked[-1]["model"] == "tiny:one"
        said = [server.post(TEXT, ASK | {"model": name}).json()["choices"][0]["text"] for name in ("one", "tiny")]
        assert said[0] != said[1]
        running.call(running.fake.client.unload_adapter("one"))
        until(lambda: server.post(TEXT, ASK | {"model": "one"}).status_code == 404)
    known = VllmOptions(reciting, "tiny", running.url, adapters={"two": folder})
    with pytest.raises(AssertionError, match="dynamic_lora_loading_path"), through(known):
        pass
    running.stop()


def test_one_that_has_no_replica_yet_is_said_to(reciting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwill.serve.vllm.FIRST", 0.2)
    monkeypatch.setattr("qwill.serve.vllm.LISTING", 0.2)
    running = Running(reciting, ray=True)
    running.fake.there = False
    options = VllmOptions(reciting, "tiny", running.url)
    with pytest.raises(AssertionError, match="no replica that answers yet"), through(options):
        pass
    running.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_what_it_refuses_behind_the_status_is_400(reciting: Path, stream: bool) -> None:
    running = Running(reciting, ray=True, reads_lark=False)
    with through(VllmOptions(reciting, "tiny", running.url)) as server:
        answer = server.post(TEXT, ASK | {"guided_choice": ["a", "b"], "stream": stream})
        assert answer.status_code == 400 and answer.json()["error"]["message"].endswith(
            "Failed to convert the grammar from GBNF to Lark; for structured outputs it needs the back-end guidance"
        )
        assert server.post(TEXT, ASK).status_code == 200
    running.stop()


def test_a_stream_that_breaks_off_is_no_reply(reciting: Path) -> None:
    running = Running(reciting, ray=True, cut=3)
    with through(VllmOptions(reciting, "tiny", running.url)) as server:
        events = server.events(TEXT, ASK | {"max_tokens": 20, "stream": True})
        assert events[-1] == "[DONE]" and events[-2]["error"]["code"] == "engine_died"
        assert server.post(TEXT, ASK | {"max_tokens": 20}).json()["error"]["code"] == "engine_died"
    running.stop()


def test_its_sentence_is_found_in_what_is_around_it() -> None:
    number = "(Request ID: 1f-2)"
    text = f'{{"error": {{"message": "Message: Too big. {number}, Internal exception: a.B {number}, original: "}}}}'
    assert str(refusal(400, text)) == "vLLM refuses this: Too big."
    assert str(refusal(404, '{"detail": "no such model"}')) == "vLLM refuses this: no such model"


def test_which_of_several_models_is_meant_has_to_be_plain() -> None:
    def card(name: str, **metadata: Any) -> dict[str, Any]:
        return {"id": name, "metadata": {"model_id": name, "max_request_context_length": None, **metadata}}

    two = [card("a"), card("b"), card("a:x", base_model_id="a", bucket_uri="s3://x"), card("b:y", base_model_id="b")]
    found = read_listing(two, "a", "http://x")
    assert (found.model, found.context, found.adapters, found.folders) == ("a", None, {"x": "a:x"}, {"x": "s3://x"})
    with pytest.raises(ModelError, match="has a, b, and none is called c"):
        read_listing(two, "c", "http://x")
    more = [{"id": "x", "root": "/x", "parent": "tiny"}, {"id": "tiny:y", "parent": "tiny"}]
    plain = [{"id": "tiny", "max_model_len": 7}, *more]
    found = read_listing(plain, "other", "http://x")
    assert (found.model, found.context, found.ray) == ("tiny", 7, False)
    assert found.adapters == {"x": "x", "tiny:y": "tiny:y"} and found.folders["x"] == "/x"


@pytest.mark.parametrize("entries", [[], [{}], ["tiny"], [{"id": "tiny", "metadata": "?"}, {"id": "two"}]])
def test_what_is_no_list_of_models_is_said_to_be_none(reciting: Path, monkeypatch: Any, entries: list[Any]) -> None:
    class Other(Fake):
        async def models(self) -> dict[str, Any]:
            return {"data": entries}

    monkeypatch.setattr("before_vllm.Fake", Other)
    running = Running(reciting)
    options = VllmOptions(reciting, "third", running.url)
    with pytest.raises(AssertionError, match="none is called third"), through(options):
        pass
    running.stop()

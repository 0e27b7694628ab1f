"""Disconnects, full queues, time limits, shutdown, and an engine process that dies."""

import asyncio
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from functools import partial

import httpx
import pytest
import torch
from serving import Server, build_with, serving

from qwill.engine.engine import Engine
from qwill.engine.request import Event, Request
from qwill.serve.client import EngineClient
from qwill.serve.run import bind
from qwill.serve.settings import ServeSettings
from qwill.serve.wire import ModelInfo

CHAT = "/v1/chat/completions"

LONG = "x" * 100_000
TOO_LONG = {
    CHAT: {"model": "tiny", "messages": [{"role": "user", "content": LONG}]},
    "/v1/completions": {"model": "tiny", "prompt": LONG},
    "/v1/responses": {"model": "tiny", "input": LONG},
    "/v1/messages": {"model": "tiny", "messages": [{"role": "user", "content": LONG}], "max_tokens": 1},
    "/v1/embeddings": {"model": "tiny", "input": LONG},
}


class SlowEngine(Engine):
    """Takes its time, so that a test can act in the middle of a reply; never stops by itself."""

    def step(self) -> list[Event]:
        time.sleep(0.01)
        return super().step()

    def add(self, request: Request) -> None:
        if len(request.prompt) == 66:  # "poison", as the test below spells it
            os._exit(11)
        super().add(replace(request, sampling=replace(request.sampling, ignore_eos=True)))


slow_build = build_with(kind=SlowEngine)


def ask(**fields: object) -> dict:
    return {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1000, **fields}


def until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def idle(server: Server) -> bool:
    (model,) = server.service.models.values()
    return (
        model.in_flight == 0
        and not server.service.jobs
        and model.client.stats.running == 0
        and not model.client._streams
    )


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_no_longer_worked_for(stream: bool) -> None:
    with serving(models={"tiny": slow_build}) as server:
        (model,) = server.service.models.values()
        with httpx.Client(base_url=server.url) as client:
            if stream:
                with client.stream("POST", CHAT, json=ask(stream=True)) as response:
                    lines = response.iter_lines()  # kept: httpx closes the connection when its iterator is gone
                    next(lines)
                    until(lambda: model.client.stats.running == 1)
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post(CHAT, json=ask(), timeout=0.5)
        until(lambda: idle(server))
        assert model.client.stats.steps < 900


def test_a_full_queue_is_429_with_a_time() -> None:
    with serving(ServeSettings(waiting=2), {"tiny": build_with(kind=SlowEngine, max_running=1)}) as server:
        (model,) = server.service.models.values()
        body = ask(stream=True, n=2)
        with httpx.Client(base_url=server.url) as client, client.stream("POST", CHAT, json=body) as one:
            lines = one.iter_lines()
            next(lines)
            until(lambda: model.client.stats.running == 1)
            refused = server.post(CHAT, ask(n=2))
            assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.json()["error"]["code"] == "queue_full"
            # Full for one more too: then nothing is made of a prompt, not even what shows that it is too long.
            with client.stream("POST", CHAT, json=ask(stream=True)):
                until(lambda: model.in_flight == 3)
                for path, body in TOO_LONG.items():
                    refused = server.post(path, body)
                    assert refused.status_code == 429 and refused.headers["retry-after"], path
        until(lambda: idle(server))
        assert server.post(CHAT, ask(n=2, max_tokens=1)).status_code == 200
        assert {server.post(path, body).status_code for path, body in TOO_LONG.items()} == {400}


def test_a_reply_that_takes_too_long_ends_with_an_error() -> None:
    with serving(ServeSettings(seconds=0.3), {"tiny": slow_build}) as server:
        answer = server.post(CHAT, ask())
        assert answer.status_code == 408 and answer.headers["x-should-retry"] == "false"
        *_, error, done = server.events(CHAT, ask(stream=True))
        assert error["error"]["code"] == "timeout" and done == "[DONE]"
        until(lambda: idle(server))


def test_shutting_down_ends_every_stream_with_a_last_event() -> None:
    with serving(ServeSettings(drain=0.5), {"tiny": slow_build}) as server:
        found: dict[str, list] = {}

        def listen(name: str, body: dict) -> None:
            found[name] = server.events(CHAT, body)

        threads = [
            threading.Thread(target=listen, args=("long", ask(stream=True))),
            threading.Thread(target=listen, args=("short", ask(stream=True, max_tokens=20))),
        ]
        for thread in threads:
            thread.start()
        (model,) = server.service.models.values()
        until(lambda: model.client.stats.running == 2)
        server.stop()
        for thread in threads:
            thread.join(20)
        assert found["long"][-1] == found["short"][-1] == "[DONE]"
        assert found["long"][-2]["error"]["code"] == "shutting_down"
        assert found["short"][-2]["choices"][0]["finish_reason"] == "length"
        server.thread.join(20)
        assert not server.thread.is_alive()


def test_two_models_answer_side_by_side() -> None:
    models = {"one": build_with(seed=1), "two": build_with(seed=2)}
    with serving(models=models) as server:
        texts = [server.post(CHAT, ask(model=m, max_tokens=9, seed=1)).json()["choices"] for m in ("one", "two", "one")]
        assert texts[0] == texts[2] != texts[1]
        assert [m["id"] for m in server.client.get("/v1/models").json()["data"]] == ["one", "two"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of an adapter that changes what the tiny model says."""
    from tiny import chat_model

    from qwill.model.lora import new_adapter
    from qwill.model.lora_config import LoraConfig
    from qwill.model.lora_files import save_adapter

    made = new_adapter(chat_model().model, LoraConfig(rank=4, alpha=64))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in (p for part in made.parts.values() for p in part.parameters()):
            p.copy_(torch.randn(p.shape, generator=generator))
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(made, folder)
    return str(folder)


def said(server: Server, model: str) -> str:
    answer = server.post(CHAT, ask(model=model, max_tokens=12, seed=1, temperature=0))
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    return answer.json()["choices"][0]["message"]["content"]


def test_adapters_come_and_go_when_that_is_allowed(adapter: str) -> None:
    load = {"lora_name": "mine", "lora_path": adapter}
    with serving() as server:
        assert server.post("/v1/load_lora_adapter", load).status_code == 403
    with serving(ServeSettings(adapter_loading=True)) as server:
        plain = said(server, "tiny")
        assert server.post(CHAT, ask(model="mine")).status_code == 404
        lost = server.post("/v1/load_lora_adapter", load | {"lora_path": "/nowhere"})
        assert lost.status_code == 400 and lost.json()["error"]["param"] == "lora_path"
        assert server.post("/v1/load_lora_adapter", load).status_code == 200
        assert server.post("/v1/load_lora_adapter", load).status_code == 400
        assert said(server, "mine") != plain == said(server, "tiny")
        assert [m["parent"] for m in server.client.get("/v1/models").json()["data"]] == [None, "tiny"]
        assert server.post("/v1/unload_lora_adapter", {"lora_name": "mine"}).status_code == 200
        assert server.post("/v1/unload_lora_adapter", {"lora_name": "mine"}).status_code == 404
        assert server.post(CHAT, ask(model="mine")).status_code == 404


def test_adapters_are_there_again_after_the_engine_died(adapter: str) -> None:
    """Those that the server began with and those that came later, but not those that went."""
    models = {"tiny": build_with(adapters={"kept": adapter, "gone": adapter})}
    with serving(ServeSettings(adapter_loading=True), models, EngineClient) as server:
        (model,) = server.service.models.values()
        assert server.post("/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": adapter}).status_code == 200
        before = said(server, "mine")
        assert before == said(server, "gone") != said(server, "tiny")
        assert server.post("/v1/unload_lora_adapter", {"lora_name": "gone"}).status_code == 200
        os.kill(model.client.process_id, signal.SIGKILL)
        until(lambda: model.client.restarts == 1)
        until(lambda: server.post(CHAT, ask(model="tiny", max_tokens=1)).status_code == 200)
        assert before == said(server, "mine") == said(server, "kept")  # at once
        assert server.post(CHAT, ask(model="gone")).status_code == 404
        assert [m["id"] for m in server.client.get("/v1/models").json()["data"]] == ["tiny", "kept", "mine"]


def test_when_the_engine_dies_everyone_gets_an_error_and_it_comes_back() -> None:
    """With a real process, killed; then ended by a request; then a request is answered as before."""
    with serving(models={"tiny": slow_build}, client=EngineClient) as server:
        (model,) = server.service.models.values()
        before = server.post(CHAT, ask(max_tokens=5, seed=1)).json()["choices"]
        found: dict[str, object] = {}

        def listen() -> None:
            found["stream"] = server.events(CHAT, ask(stream=True))

        def wait() -> None:
            found["whole"] = server.post(CHAT, ask())

        def wait_for_anthropic() -> None:
            turn = {"role": "user", "content": "x"}
            found["message"] = server.post("/v1/messages", {"model": "tiny", "max_tokens": 1000, "messages": [turn]})

        threads = [threading.Thread(target=work) for work in (listen, wait, wait_for_anthropic)]
        for thread in threads:
            thread.start()
        until(lambda: model.client.stats.running == 3)
        os.kill(model.client.process_id, signal.SIGKILL)
        for thread in threads:
            thread.join(20)
        assert found["stream"][-1] == "[DONE]" and found["stream"][-2]["error"]["code"] == "engine_died"
        assert found["whole"].status_code == 500 and found["whole"].json()["error"]["code"] == "engine_died"
        assert found["message"].status_code == 500 and found["message"].json()["error"]["type"] == "api_error"
        while (answer := server.post(CHAT, ask(max_tokens=5, seed=1))).status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
            if server.client.get("/health").status_code != 503:  # it has come back in between
                assert server.post(CHAT, ask(max_tokens=5, seed=1)).status_code == 200
            time.sleep(0.05)
        assert answer.json()["choices"] == before
        assert server.client.get("/health").status_code == 200 and model.client.restarts == 1

        poison = server.post("/v1/completions", {"model": "tiny", "prompt": [1] * 66})
        assert poison.status_code in (500, 503), poison.text
        until(lambda: server.client.get("/health").status_code == 200)
        assert server.post(CHAT, ask(max_tokens=5, seed=1)).json()["choices"] == before
        assert idle(server)


def broken_build(message: str) -> tuple[Engine, ModelInfo]:
    from qwill.base.errors import ModelError

    raise ModelError(message)


def test_a_model_that_cannot_be_loaded_is_said_in_a_sentence() -> None:
    from qwill.serve.client import EngineClient

    async def start() -> None:
        client = EngineClient(partial(broken_build, "no such model here"))
        await client.ready()

    import asyncio

    from qwill.base.errors import ModelError

    with pytest.raises(ModelError, match="no such model here"):
        asyncio.run(start())


def test_answers_are_sent_at_once() -> None:
    """A socket that names no protocol is left with Nagle's algorithm by asyncio: 40 ms on every answer."""
    seen: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def ask() -> None:
        listener = bind("127.0.0.1", 0)
        async with await asyncio.start_server(answer, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()

    asyncio.run(ask())
    assert seen and all(seen)

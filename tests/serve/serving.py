"""A real HTTP server over a tiny random model, whose engine runs in a thread instead of a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from qwill.engine.engine import Engine
from qwill.engine.engine_settings import EngineSettings
from qwill.serve.client import EngineClient
from qwill.serve.engine_process import model_info, work
from qwill.serve.run import _Server, bind
from qwill.serve.service import ServedModel, Service
from qwill.serve.settings import ServeSettings
from qwill.serve.wire import ModelInfo

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))


def tiny_build(
    context: int = 2000, seed: int = 0, kind: type[Engine] = Engine, adapters: Any = None, **settings: Any
) -> tuple[Engine, ModelInfo]:
    """`kind`: a subclass that misbehaves in some way. `adapters`: name: folder. `settings`: EngineSettings'."""
    from tiny import chat_model

    lm = chat_model(context, seed)
    engine = kind(lm.model, lm.tokenizer, EngineSettings(**{"memory": 64 << 20, **settings}))
    for name, folder in (adapters or {}).items():
        engine.load_adapter(name, folder)
    return engine, model_info(lm, adapters)


class _Thread:
    """What EngineClient asks of a process."""

    pid = 0

    def __init__(self, pipe: Any, build: Any) -> None:
        self.pipe = pipe
        self.thread = threading.Thread(target=self._run, args=(build,), daemon=True)
        self.thread.start()

    def _run(self, build: Any) -> None:
        with contextlib.suppress(Exception):
            work(self.pipe, build)
        self.pipe.close()

    def join(self, timeout: float | None = None) -> None:
        self.thread.join(timeout)

    def is_alive(self) -> bool:
        return self.thread.is_alive()

    def kill(self) -> None: ...
    def close(self) -> None: ...


class ThreadClient(EngineClient):
    def _process(self, pipe: Any) -> Any:
        return _Thread(pipe, self.build)


class Server:
    """`url`, `client` (httpx), `service`; `stop()` asks it to stop as SIGTERM does."""

    def __init__(self, models: dict[str, Any], settings: ServeSettings, client: type[EngineClient], state: Any) -> None:
        self.models, self.settings, self.kind, self.state = models, settings, client, state
        self.listener = bind(settings.host, 0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.client = httpx.Client(base_url=self.url, timeout=60)
        self.up = threading.Event()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.up.wait(600) and self.failure is None, self.failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.failure = error
            self.up.set()

    async def _serve(self) -> None:
        import uvicorn

        from qwill.serve.app import make_app

        self.loop = asyncio.get_running_loop()
        clients = {name: self.kind(build) for name, build in self.models.items()}
        self.service = Service([ServedModel(n, c) for n, c in clients.items()], self.settings, self.state)
        await self.service.start()
        self.app = make_app(self.service)
        config = uvicorn.Config(
            self.app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=10
        )
        self.server = _Server(config, self.service, self.up.set)
        await self.server.serve(sockets=[self.listener])

    def stop(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.server.handle_exit, 15, None)

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return self.client.post(path, json=body, **more)

    def events(self, path: str, body: Any, **more: Any) -> list[Any]:
        """The data of every event, JSON read; `[DONE]` as it is."""
        return [event for _, event in self.named_events(path, body, **more)]

    def named_events(self, path: str, body: Any, **more: Any) -> list[tuple[str | None, Any]]:
        with self.client.stream("POST", path, json=body, **more) as response:
            response.read()
            assert response.status_code == 200, response.text
            assert response.headers["content-type"].startswith("text/event-stream")
            found, name = [], None
            for line in response.text.split("\n"):
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    text = line[6:]
                    found.append((name, text if text == "[DONE]" else json.loads(text)))
                    name = None
            return found


@contextlib.contextmanager
def serving(
    settings: ServeSettings | None = None,
    models: dict[str, Any] | None = None,
    client: type[EngineClient] = ThreadClient,
    state: Any = None,
) -> Iterator[Server]:
    server = Server(models or {"tiny": tiny_build}, settings or ServeSettings(), client, state)
    try:
        yield server
    finally:
        server.stop()
        server.thread.join(30)
        server.client.close()


def build_with(**fields: Any) -> Any:
    return partial(tiny_build, **fields)


def counts(usage: dict[str, Any]) -> dict[str, Any]:
    """Usage but for what the prefix cache held, which depends on what was asked before."""
    details = ("prompt_tokens_details", "input_tokens_details")
    return {name: value for name, value in usage.items() if name not in details}

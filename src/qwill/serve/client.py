"""The HTTP process's side of an engine: requests in, events out, and a new engine process when one dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import queue
import threading
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from qwill.base.errors import DataError, ModelError, QwillError
from qwill.engine.request import EngineStats, Event, Request
from qwill.serve.engine_process import Build, run
from qwill.serve.wire import (
    Accepted,
    Add,
    Call,
    Cancel,
    Command,
    Failed,
    Message,
    ModelInfo,
    Progress,
    Ready,
    Refused,
    Result,
)

LONGEST_PAUSE = 30.0  # seconds between two attempts to start an engine
STEADY = 60.0  # an engine that lived so long starts the pauses anew
log = logging.getLogger("qwill.serve")


class EngineDied(QwillError):
    """The engine process is gone or not yet there; the same request may succeed later."""


@dataclass
class _Life:
    """One engine process: its pipe is read and written by a thread each, so a busy engine never blocks the loop."""

    process: BaseProcess
    pipe: Connection
    outbox: queue.SimpleQueue[list[Command] | None] = field(default_factory=queue.SimpleQueue)
    born: float = field(default_factory=time.monotonic)


class Client(Protocol):
    """What the routes ask of an engine: our own (EngineClient), or vLLM (vllm.VllmClient)."""

    info: ModelInfo | None
    restarts: int
    adapters: dict[str, str]

    @property
    def stats(self) -> EngineStats: ...
    @property
    def alive(self) -> bool: ...
    @property
    def process_id(self) -> int | None: ...
    def spawn(self) -> None: ...
    async def ready(self) -> ModelInfo: ...
    def submit(self, request: Request) -> Stream: ...
    async def call(self, method: str, *arguments: Any) -> Any: ...
    async def load_adapter(self, name: str, folder: str) -> None: ...
    async def unload_adapter(self, name: str) -> None: ...
    async def own_metrics(self) -> str: ...
    def forget(self, stream: Stream) -> None: ...
    async def close(self) -> None: ...


class Stream:
    """The events of one request; leaving it early cancels the request in the engine."""

    def __init__(self, client: Client, request: Request) -> None:
        self.client, self.request = client, request
        self.open = request.n
        self.inbox: asyncio.Queue[Accepted | Event | Exception] = asyncio.Queue()

    async def accepted(self) -> None:
        """Wait until the engine has taken the request. Raises `DataError` when it refuses, `EngineDied`."""
        first = await self.inbox.get()
        if isinstance(first, Exception):
            self.open = 0
            raise first

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events()

    async def _events(self) -> AsyncIterator[Event]:
        try:
            while self.open:
                event = await self.inbox.get()
                if isinstance(event, Exception):
                    if isinstance(event, QwillError):  # said by the engine, or by its end: nothing is left to cancel
                        self.open = 0
                    raise event
                assert isinstance(event, Event)
                if event.finish_reason is not None:
                    self.open -= 1
                yield event
        finally:
            self.close()

    def close(self) -> None:
        self.client.forget(self)


class EngineClient:
    """One model's engine. All methods belong to the event loop's thread."""

    def __init__(self, build: Build) -> None:
        """`build` is pickled and called in the engine process: a module's function, or `functools.partial` of one."""
        self.build = build
        self.info: ModelInfo | None = None
        self.stats: EngineStats = EngineStats()
        self.restarts = 0
        self.adapters: dict[str, str] = {}  # name: folder; the same after a restart
        self._life: _Life | None = None
        self._ready: asyncio.Future[ModelInfo] | None = None
        self._streams: dict[str, Stream] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._pause = 0.0
        self._restart: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether requests can be sent now."""
        return self._life is not None and self._ready is not None and self._ready.done()

    @property
    def process_id(self) -> int | None:
        return self._life.process.pid if self._life else None

    def spawn(self) -> None:
        """Start the process; `ready` waits for its model."""
        loop = asyncio.get_running_loop()
        ours, theirs = multiprocessing.Pipe()
        life = self._life = _Life(self._process(theirs), ours)
        self._ready = loop.create_future()
        self._ready.add_done_callback(lambda future: future.cancelled() or future.exception())
        threading.Thread(target=_read, args=(self, life, loop), daemon=True).start()
        threading.Thread(target=_write, args=(life,), daemon=True).start()

    def _process(self, pipe: Connection) -> BaseProcess:
        process = multiprocessing.get_context("spawn").Process(target=run, args=(pipe, self.build), daemon=True)
        process.start()
        pipe.close()
        return process

    async def ready(self) -> ModelInfo:
        """Raises `ModelError` with the engine's sentence when the model can't be loaded, `EngineDied`."""
        if self._ready is None:
            self.spawn()
        assert self._ready is not None
        return await asyncio.shield(self._ready)

    def submit(self, request: Request) -> Stream:
        """Send a request; await the stream's `accepted`, and close the stream in the end. Raises `EngineDied`."""
        stream = Stream(self, request)
        self._send(Add(request))
        self._streams[request.id] = stream
        return stream

    async def call(self, method: str, *arguments: Any) -> Any:
        """A method of the engine that answers once. Raises `DataError` with its sentence, `EngineDied`."""
        return await self._ask(self._living(), method, *arguments)

    def _ask(self, life: _Life, method: str, *arguments: Any) -> asyncio.Future[Any]:
        self._number += 1
        future = self._calls[self._number] = asyncio.get_running_loop().create_future()
        future.add_done_callback(partial(self._answered, self._number))
        life.outbox.put([Call(self._number, method, arguments)])
        return future

    def _answered(self, number: int, _: asyncio.Future[Any]) -> None:
        self._calls.pop(number, None)

    async def load_adapter(self, name: str, folder: str) -> None:
        await self.call("load_adapter", name, folder)
        self.adapters[name] = folder

    async def unload_adapter(self, name: str) -> None:
        await self.call("unload_adapter", name)
        self.adapters.pop(name, None)

    async def own_metrics(self) -> str:
        """Prometheus' text of metrics that only the engine knows; ours are told by `stats`."""
        return ""

    def forget(self, stream: Stream) -> None:
        """The stream is over; what of it still runs in the engine is cancelled."""
        if self._streams.pop(stream.request.id, None) is not None and stream.open:
            stream.open = 0
            with contextlib.suppress(EngineDied):
                self._send(Cancel(stream.request.id))

    async def close(self) -> None:
        """End the process; every stream that is left gets an error."""
        self._closed = True
        if self._restart:
            self._restart.cancel()
        life, self._life = self._life, None
        if life is not None:
            life.outbox.put(None)
            await asyncio.to_thread(_end, life)
        self._fail_all(EngineDied("The server is shutting down."))

    # -- what the threads call, in the loop

    def _living(self) -> _Life:
        if not self.alive or self._life is None:
            raise EngineDied("The model's engine is being started again; try again in a few seconds.")
        return self._life

    def _send(self, command: Command) -> None:
        self._living().outbox.put([command])

    def _receive(self, life: _Life, messages: list[Message]) -> None:
        if life is not self._life:
            return
        for message in messages:
            match message:
                case Progress(events, stats):
                    self.stats = stats
                    for event in events:
                        self._deliver(event.request, event)
                case Accepted(request):
                    self._deliver(request, message)
                case Refused(request, sentence):
                    self._deliver(request, DataError(sentence))
                case Result(number, value, error):
                    future = self._calls.get(number)
                    if future is not None and not future.done():
                        future.set_result(value) if error is None else future.set_exception(DataError(error))
                case Ready(info):
                    if self.info is None:
                        self.adapters = dict(info.adapters)
                    else:
                        self._restore(life, info.adapters)
                    self.info = info
                    if self._ready is not None and not self._ready.done():
                        self._ready.set_result(info)
                case Failed(sentence):
                    if self._ready is not None and not self._ready.done():
                        self._ready.set_exception(ModelError(sentence))

    def _deliver(self, request: str, message: Accepted | Event | Exception) -> None:
        stream = self._streams.get(request)
        if stream is not None:
            stream.inbox.put_nowait(message)

    def _died(self, life: _Life) -> None:
        if life is not self._life or self._closed:
            return
        self._life = None
        life.outbox.put(None)
        sentence = "The model's engine stopped while it worked on this; it is being started again, try again soon."
        started = self._ready is not None and self._ready.done() and self._ready.exception() is None
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(EngineDied("The model's engine stopped while it was loading."))
        self._fail_all(EngineDied(sentence))
        self.stats = EngineStats(blocks_total=self.stats.blocks_total)
        threading.Thread(target=_end, args=(life,), daemon=True).start()
        if not started and self.info is None:
            return  # the first start failed: the command says why and ends
        self._pause = 0.0 if time.monotonic() - life.born > STEADY else min(LONGEST_PAUSE, 2 * self._pause + 0.25)
        self.restarts += 1
        log.error("the engine process died", extra={"fields": {"restarts": self.restarts, "pause": self._pause}})
        self._restart = asyncio.get_running_loop().create_task(self._again(self._pause))

    async def _again(self, pause: float) -> None:
        await asyncio.sleep(pause)
        if self._closed:
            return
        self.spawn()
        with contextlib.suppress(QwillError):
            await self.ready()

    def _restore(self, life: _Life, there: Mapping[str, str]) -> None:
        """Have a new engine, which has the adapters `there`, make them those that the last one had. This goes to it
        before any request does."""
        for name, folder in there.items():
            if self.adapters.get(name) != folder:
                self._ask(life, "unload_adapter", name).add_done_callback(partial(self._restored, name))
        for name, folder in self.adapters.items():
            if there.get(name) != folder:
                self._ask(life, "load_adapter", name, folder).add_done_callback(partial(self._restored, name))

    def _restored(self, name: str, result: asyncio.Future[Any]) -> None:
        if not result.cancelled() and (error := result.exception()) is not None:
            log.error("an adapter is not as it was before", extra={"fields": {"adapter": name, "error": str(error)}})
            if isinstance(error, DataError):
                self.adapters.pop(name, None)

    def _fail_all(self, error: EngineDied) -> None:
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.inbox.put_nowait(error)
        for future in list(self._calls.values()):
            if not future.done():
                future.set_exception(error)


def _read(client: EngineClient, life: _Life, loop: asyncio.AbstractEventLoop) -> None:
    try:
        while True:
            messages = life.pipe.recv()
            loop.call_soon_threadsafe(client._receive, life, messages)
    except Exception:  # the pipe's end, or a message torn by the process's death
        with contextlib.suppress(RuntimeError):  # the loop may be closed already
            loop.call_soon_threadsafe(client._died, life)


def _write(life: _Life) -> None:
    with contextlib.suppress(OSError, ValueError):
        while (commands := life.outbox.get()) is not None:
            life.pipe.send(commands)
        life.pipe.send(None)


def _end(life: _Life) -> None:
    life.process.join(timeout=5)
    if life.process.is_alive():
        life.process.kill()
        life.process.join()
    life.pipe.close()

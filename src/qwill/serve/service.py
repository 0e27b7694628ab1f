"""What all routes share: the models that are served, who may start how much, and the life of one piece of work."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwill.base.errors import DataError
from qwill.engine.request import Event, Request
from qwill.serve.client import Client, EngineDied, Stream
from qwill.serve.errors import ApiError, unknown_model
from qwill.serve.metrics import Metrics
from qwill.serve.settings import ServeSettings
from qwill.serve.wire import ModelInfo

log = logging.getLogger("qwill.serve")


@dataclass
class ServedModel:
    """A model under the name that clients use. `reference` is what the command line said; it works as a name too."""

    name: str
    client: Client
    reference: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    in_flight: int = 0  # samples that run or wait
    rate: float = 1.0  # samples that end in a second, smoothed
    last_end: float = field(default_factory=time.monotonic)

    @property
    def info(self) -> ModelInfo:
        if self.client.info is None:
            raise ApiError(503, f"The model {self.name} is still being loaded; try again soon.", retry_after=2)
        return self.client.info


@dataclass(frozen=True)
class Target:
    """What a request's `model` names: a model, perhaps with an adapter on it."""

    model: ServedModel
    adapter: str | None
    name: str

    @property
    def info(self) -> ModelInfo:
        return self.model.info


class Service:
    """The state of a running server. Everything here belongs to the event loop's thread."""

    def __init__(self, models: Sequence[ServedModel], settings: ServeSettings | None = None, state: Any = None) -> None:
        """`state` is base.state's database (keys, conversations), None to do without."""
        self.models = {model.name: model for model in models}
        self.settings = settings or ServeSettings()
        self.state = state
        self.metrics = Metrics()
        self.stopping = False
        self.jobs: set[Job] = set()

    async def start(self) -> None:
        """Wait until every model can answer. Raises `ModelError` for one that can't be loaded."""
        await asyncio.gather(*(model.client.ready() for model in self.models.values()))

    async def close(self) -> None:
        await asyncio.gather(*(model.client.close() for model in self.models.values()))

    def stop(self) -> None:
        """Take no more work; what runs has `settings.drain` seconds to end by itself."""
        self.stopping = True
        error = ApiError(503, "The server is shutting down.", code="shutting_down", retry_after=5)
        for job in self.jobs:
            asyncio.get_running_loop().call_later(self.settings.drain, job.fail, error)

    @property
    def names(self) -> list[str]:
        return [name for model in self.models.values() for name in (model.name, *model.client.adapters)]

    def find(self, name: str) -> Target:
        """Raises ApiError 404 for a name that is neither a model's nor an adapter's."""
        for model in self.models.values():
            if name in (model.name, model.reference):
                return Target(model, None, model.name)
            if name in model.client.adapters:
                return Target(model, name, name)
        raise unknown_model(name, self.names)

    def find_with_room(self, name: str) -> Target:
        """`find` for a request that is going to ask for replies: turned away here when the queue is full, before its
        prompt costs anything; of what is more than the server can do most is turned away."""
        target = self.find(name)
        self.admit(target.model, 1)
        return target

    def admit(self, model: ServedModel, samples: int) -> None:
        """Raises ApiError 400 for more than is ever taken, 429 when the queue has no room for so many, 503."""
        if self.stopping:
            raise ApiError(503, "The server is shutting down; try another one or come back.", retry_after=5)
        running, most = model.client.stats.running, self.settings.waiting
        if samples > most:
            raise ApiError(400, f"This asks for {samples} replies at once; at most {most} are made for one request.")
        if model.in_flight - running + samples > most and model.in_flight:
            wait = max(1, min(60, math.ceil((model.in_flight - running + samples) / max(model.rate, 0.05))))
            text = f"{model.in_flight} requests run or wait, all that the queue holds; try again in {wait} s."
            raise ApiError(429, text, code="queue_full", retry_after=wait)

    async def job(self, target: Target, requests: Sequence[Request], caller: Any = None) -> Job:
        """Send requests to the engine, all or none. Raises ApiError 400, 429, 503. The caller closes the job."""
        model, samples = target.model, sum(max(request.n, request.best_of) for request in requests)
        self.admit(model, samples)
        job = Job(self, target, samples)
        try:
            if caller is not None:
                caller.reserve(sum(len(r.prompt) + r.n * r.sampling.max_tokens for r in requests))
                job.caller = caller
            job.streams += [model.client.submit(request) for request in requests]
            for stream in job.streams:
                await stream.accepted()
        except DataError as error:
            job.close()
            raise ApiError(400, str(error)) from error
        except EngineDied as error:
            job.close()
            raise ApiError(503, str(error), code="engine_unavailable", retry_after=3) from error
        except BaseException:
            job.close()
            raise
        return job


class Job:
    """Requests to one engine for one HTTP request, from admission until `close`, which may come at any time."""

    def __init__(self, service: Service, target: Target, samples: int) -> None:
        self.service, self.target, self.samples = service, target, samples
        self.streams: list[Stream] = []
        self.caller: Any = None
        self.replies: dict[tuple[int, int], list[str]] = {}  # (which request, sample): its text, for --log-prompts
        self.began = time.monotonic()
        self.prompt_tokens = self.cached_tokens = self.reply_tokens = 0
        self.closed = False
        self.timer = asyncio.get_running_loop().call_later(service.settings.seconds, self._late)
        target.model.in_flight += samples
        service.jobs.add(self)

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """(which request, event) as they come. Raises ApiError when the engine dies, time is up or the server stops."""
        seen: dict[tuple[int, int], float] = {}
        counted: set[int] = set()
        try:
            async for place, event in _merged(self.streams):
                if event.error is not None and event.finish_reason == "error":
                    raise ApiError(500, f"The engine could not go on: {event.error}")
                self._note(place, event, seen, counted)
                if self.service.settings.log_prompts:
                    self.replies.setdefault((place, event.sample), []).append(event.text)
                yield place, event
        except EngineDied as error:
            raise ApiError(500, str(error), code="engine_died", retry_after=3) from error

    def fail(self, error: ApiError) -> None:
        """End the replies with an error, wherever they are."""
        for stream in self.streams:
            stream.inbox.put_nowait(error)

    def _late(self) -> None:
        most = self.service.settings.seconds
        text = f"The reply was not done after {most:g} s, the most that one request may take here."
        self.fail(ApiError(408, text, code="timeout", headers={"x-should-retry": "false"}))

    def _note(self, place: int, event: Event, seen: dict[tuple[int, int], float], counted: set[int]) -> None:
        metrics, name, now = self.service.metrics, self.target.model.name, time.monotonic()
        key = (place, event.sample)
        if place not in counted and event.prompt_tokens:
            counted.add(place)
            self.prompt_tokens += event.prompt_tokens
            self.cached_tokens += event.cached_tokens
            metrics.prompt(name, event.prompt_tokens, event.cached_tokens)
        if event.token_ids:
            self.reply_tokens += len(event.token_ids)
            metrics.tokens(name, len(event.token_ids), now - seen.get(key, self.began), first=key not in seen)
            seen[key] = now
        if event.finish_reason is not None:
            model = self.target.model
            metrics.finished(name, event.finish_reason, now - self.began)
            model.rate = 0.9 * model.rate + 0.1 / max(now - model.last_end, 1e-3)
            model.last_end = now

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.timer.cancel()
        for stream in self.streams:
            stream.close()
        self.target.model.in_flight -= self.samples
        self.service.jobs.discard(self)
        if self.service.settings.log_prompts:
            self._log()
        if self.caller is not None:
            self.caller.finish(self.prompt_tokens + self.reply_tokens)

    def _log(self) -> None:
        """One line for each prompt with what has been replied so far, under the id that the reply has."""
        decode = self.target.info.tokenizer.decode
        for place, stream in enumerate(self.streams):
            texts = ["".join(parts) for (of, _), parts in sorted(self.replies.items()) if of == place]
            fields = {"id": stream.request.id, "prompt": decode(stream.request.prompt, False), "replies": texts}
            log.info("exchange", extra={"fields": fields})

    async def __aenter__(self) -> Job:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


async def _merged(streams: Sequence[Stream]) -> AsyncIterator[tuple[int, Event]]:
    if len(streams) == 1:
        async for event in streams[0]:
            yield 0, event
        return
    inbox: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue()

    async def pump(place: int, stream: Stream) -> None:
        try:
            async for event in stream:
                inbox.put_nowait((place, event))
            inbox.put_nowait((place, None))
        except Exception as error:
            inbox.put_nowait((place, error))

    tasks = [asyncio.create_task(pump(i, stream)) for i, stream in enumerate(streams)]
    left = len(tasks)
    try:
        while left:
            place, found = await inbox.get()
            if found is None:
                left -= 1
            elif isinstance(found, Exception):
                raise found
            else:
                yield place, found
    finally:
        for task in tasks:
            task.cancel()

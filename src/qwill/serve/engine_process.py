"""The engine's own process: commands in, one step, events out, and again. It may die: only requests in it are lost.

It ends when the pipe closes, so it never outlives the HTTP process, however that one ended.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

from qwill.base.errors import QwillError
from qwill.engine.request import EngineStats, Event, Request
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

CALLS = ("load_adapter", "unload_adapter")


class Engine(Protocol):
    """What of `qwill.engine.engine.Engine` is used here."""

    @property
    def has_work(self) -> bool: ...
    def add(self, request: Request) -> None: ...
    def cancel(self, request_id: str) -> None: ...
    def step(self) -> list[Event]: ...
    def stats(self) -> EngineStats: ...
    def load_adapter(self, name: str, folder: str) -> None: ...
    def unload_adapter(self, name: str) -> None: ...


Build = Callable[[], tuple[Engine, ModelInfo]]


def run(connection: Connection, build: Build) -> None:
    """The whole life of the process. `build` makes the engine; a QwillError of it is told to the other side."""
    # Ctrl-C and systemd's SIGTERM reach the whole group: streams end first, and then the pipe closes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    work(connection, build)


def work(connection: Connection, build: Build) -> None:
    """`run` without what belongs to a process."""
    try:
        engine, info = build()
    except (QwillError, OSError) as error:
        connection.send([Failed(str(error))])
        return
    connection.send([Ready(info)])
    try:
        _serve(engine, connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        raise


def _serve(engine: Engine, connection: Connection) -> None:
    told = 0.0
    while True:
        answers: list[Message] = []
        obeyed = False
        while connection.poll(0 if engine.has_work or obeyed else None):
            commands = connection.recv()
            if commands is None:
                return
            for command in commands:
                answers += _obey(engine, command)
                obeyed = True
        if engine.has_work:
            events = engine.step()
            now = time.monotonic()
            # Statistics alone are worth a message now and then, not after every step of a long prefill.
            if events or now - told > 0.25 or not engine.has_work:
                answers.append(Progress(events, engine.stats()))
                told = now
        elif obeyed:
            answers.append(Progress([], engine.stats()))
        if answers:
            connection.send(answers)


def _obey(engine: Engine, command: Command) -> list[Message]:
    match command:
        case Add(request):
            try:
                engine.add(request)
            except (QwillError, ValueError) as error:
                return [Refused(request.id, str(error))]
            return [Accepted(request.id)]
        case Cancel(request_id):
            engine.cancel(request_id)
            return []
        case Call(number, method, arguments):
            return [_answer(engine, number, method, arguments)]


def _answer(engine: Engine, number: int, method: str, arguments: tuple[Any, ...]) -> Result:
    if method not in CALLS:
        return Result(number, error=f"this engine can't {method.replace('_', ' ')}.")
    try:
        return Result(number, getattr(engine, method)(*arguments))
    except (QwillError, OSError, ValueError) as error:
        return Result(number, error=str(error))


@dataclass(frozen=True)
class EngineOptions:
    """What `load_engine` makes an engine from."""

    reference: str
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 0  # 0: as many as PyTorch takes
    weights: str = "auto"  # as in engine.language_model.load
    engine: Mapping[str, Any] = field(default_factory=dict)  # fields of engine.EngineSettings
    adapters: Mapping[str, str] = field(default_factory=dict)  # name: folder


def model_info(lm: Any, adapters: Mapping[str, str] | None = None) -> ModelInfo:
    """What the HTTP process needs to know of a LanguageModel."""
    from qwill.engine.defaults import THINKING

    config = lm.model.config
    return ModelInfo(
        tokenizer=lm.tokenizer,
        context=lm.context,
        vocab_size=min(lm.tokenizer.vocab_size, config.vocab_size),
        stop_ids=lm.stop_ids,
        sampling=_changed(asdict(lm.sampling)),
        thinking_sampling=_changed(asdict(THINKING)),
        thinks=lm.thinks,
        dimensions=config.hidden_size,
        adapters=dict(adapters or {}),
    )


def _changed(sampling: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in sampling.items() if isinstance(value, int | float)}


def load_engine(options: EngineOptions) -> tuple[Engine, ModelInfo]:
    """The engine of a model by reference, with its adapters. Raises QwillError for what can't be loaded."""
    import torch

    from qwill.engine.engine import Engine as RealEngine
    from qwill.engine.engine_settings import DraftSpec, EngineSettings
    from qwill.engine.language_model import load

    if options.threads:
        torch.set_num_threads(options.threads)
    lm = load(options.reference, options.dtype, options.device, options.weights)  # type: ignore[arg-type]
    settings, draft = EngineSettings(**options.engine), None
    if isinstance(settings.speculate, DraftSpec):
        small = load(settings.speculate.model, options.dtype, options.device, options.weights)  # type: ignore[arg-type]
        draft = (small.model, small.tokenizer)
    engine = RealEngine(lm.model, lm.tokenizer, settings, draft=draft)
    for name, folder in options.adapters.items():
        engine.load_adapter(name, folder)
    return engine, model_info(lm, options.adapters)

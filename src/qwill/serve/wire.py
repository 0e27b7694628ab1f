"""What travels between the HTTP process and the engine process: lists of these, pickled, over one pipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwill.engine.request import EngineStats, Event, Request

if TYPE_CHECKING:
    from qwill.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Add:
    request: Request


@dataclass(frozen=True)
class Cancel:
    request: str


@dataclass(frozen=True)
class Call:
    """A method of the engine that answers once: load_adapter, unload_adapter."""

    id: int
    method: str
    arguments: tuple[Any, ...]


Command = Add | Cancel | Call


@dataclass(frozen=True)
class ModelInfo:
    """What the HTTP process needs to know of a model. `sampling` and `thinking_sampling`: what holds for fields that a
    chat request leaves out; `dimensions`: of an embedding; `adapters`: name: folder of those
    that the engine began with."""

    tokenizer: Tokenizer
    context: int
    vocab_size: int
    stop_ids: tuple[int, ...]
    sampling: dict[str, float]
    thinking_sampling: dict[str, float]
    thinks: bool
    dimensions: int
    adapters: dict[str, str] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ready:
    info: ModelInfo


@dataclass(frozen=True)
class Failed:
    """The model can't be loaded, in a sentence that the user can act on."""

    sentence: str


@dataclass(frozen=True)
class Accepted:
    request: str


@dataclass(frozen=True)
class Refused:
    request: str
    sentence: str


@dataclass(frozen=True)
class Result:
    """The answer to a `Call`: a value, or a sentence that says what was wrong with it."""

    id: int
    value: Any = None
    error: str | None = None


@dataclass(frozen=True)
class Progress:
    """What one step gave, and how the engine stands after it."""

    events: list[Event]
    stats: EngineStats


Message = Ready | Failed | Accepted | Refused | Result | Progress

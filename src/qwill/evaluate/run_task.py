"""A model answers a task: `evaluate` gives a row for each example, and keeps what is done should it be killed."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwill.base.config import to_dict
from qwill.base.errors import ConfigError, DataError
from qwill.base.files import canonical_json
from qwill.evaluate.prompting import Shots, prompt_of
from qwill.evaluate.run_choices import run_choices
from qwill.evaluate.run_replies import Scorer, drawing_of, run_replies
from qwill.evaluate.task import Example, Task, load_examples

if TYPE_CHECKING:
    from qwill.engine.language_model import LanguageModel

KEPT = "rows.jsonl"


@dataclass(frozen=True)
class EvalSettings:
    """limit: so many examples (0: all), drawn at random by `seed`, or with `first` the first ones, as lm-eval's
    `--limit` does. shots: solved examples before each question (None: as the task says). chat: ask through the chat
    template. thinking: let the model think before it answers, in a chat. samples: replies to each question.
    temperature: of the replies (None: the task's). slots: sequences at a time; memory: bytes of the cache. unsafe: run
    generated code where it can't be contained.
    """

    limit: int = 0
    first: bool = False
    shots: int | None = None
    chat: bool = False
    thinking: bool = False
    samples: int = 1
    temperature: float | None = None
    seed: int = 0
    slots: int = field(default=64, metadata={"spread": True})
    memory: int = field(default=1 << 30, metadata={"spread": True})
    unsafe: bool = False

    def __post_init__(self) -> None:
        if self.limit < 0 or (self.shots or 0) < 0 or self.samples < 1 or self.slots < 1:
            raise ConfigError(
                f"limit is {self.limit}, shots {self.shots}, samples {self.samples}, slots {self.slots}: "
                "limit and shots are 0 or more, samples and slots at least 1."
            )
        if self.temperature is not None and not 0 <= self.temperature < inf:
            raise ConfigError(f"temperature is {self.temperature}; expected a number from 0, such as 0.7.")
        if self.thinking and not self.chat:
            raise ConfigError("thinking needs the chat template: ask for chat as well, or leave thinking out.")


@dataclass(frozen=True)
class Evaluation:
    """What one model answered to one task; `rows` in the order of the examples, of which the task has `available`."""

    task: Task
    settings: EvalSettings
    rows: list[dict[str, Any]]
    available: int

    def mean(self, metric: str) -> float:
        values = [row["scores"][metric] for row in self.rows]
        return float(sum(values) / len(values))

    @property
    def metrics(self) -> list[str]:
        """Those that every row has; the task's headline first."""
        first, *others = (row["scores"] for row in self.rows)
        return [metric for metric in first if all(metric in scores for scores in others)]


@dataclass(frozen=True)
class Prepared:
    """All of a task that is there before a model is: its examples, shots and scorer (None where it has choices)."""

    examples: list[Example]
    shots: Shots
    score: Scorer | None


def prepare(task: Task, settings: EvalSettings, score: Scorer | None = None) -> Prepared:
    """Read the task, so that what is wrong with it is told before a model is loaded. `score` replaces its scorer.

    Raises DataError and ConfigError for a task that can't be asked so, SourceError for one whose source can't be read.
    """
    if task.kind == "choice" and (settings.samples > 1 or settings.thinking):
        raise ConfigError(
            f"task {task.name} compares choices; samples and thinking are for tasks that ask for replies."
        )
    examples = load_examples(task)
    shots = Shots(task, task.shots.count if settings.shots is None else settings.shots, examples)
    if task.kind == "choice":
        return Prepared(examples, shots, None)
    return Prepared(examples, shots, score or _own_scorer(task, settings.unsafe))


def headline(task: Task) -> str:
    """The metric that a table shows for a task."""
    return task.metrics[0] if task.kind == "choice" else "score"


def evaluate(
    lm: LanguageModel,
    task: Task,
    settings: EvalSettings | None = None,
    work: Path | None = None,
    model: str = "",
    progress: Callable[[int, int], None] | None = None,
    score: Scorer | None = None,
    prepared: Prepared | None = None,
) -> Evaluation:
    """Ask the model every example of a task, or those that the settings choose.

    `work`: a folder in which finished rows are kept; given again with the same task, settings and `model` (a name or
    content id) only what is missing is asked. `progress(done, all)` is called now and then. `score` replaces the task's
    scorer. `prepared`: what `prepare` gave for the same task, settings and scorer.

    Raises DataError and ConfigError for a task that can't be asked so, ModelError when the model fails.
    """
    settings = settings or EvalSettings()
    chat = settings.chat or task.chat
    if settings.thinking and not lm.thinks:
        raise ConfigError(f"task {task.name}: this model has no thinking block; leave thinking out.")
    ready = prepared or prepare(task, settings, score)
    examples, shots = ready.examples, ready.shots
    chosen = _chosen(examples, settings)
    kept = KeptRows(work, _header(task, settings, model, examples))
    left = [example for example in chosen if example.id not in kept.rows]
    asked = [(e, prompt_of(lm, task, shots.before(e), e, chat, settings.thinking)) for e in left]
    rows: Iterator[dict[str, Any]]
    if ready.score is None:
        rows = run_choices(lm, task, asked, chat, settings.memory, settings.slots)
    else:
        drawing = drawing_of(lm, task, settings.samples, settings.thinking, settings.temperature, settings.seed)
        rows = run_replies(lm, task, asked, drawing, ready.score, settings.memory, settings.slots)
    for number, row in enumerate(rows, start=1):
        kept.add(row)
        if progress is not None:
            progress(len(chosen) - len(left) + number, len(chosen))
    return Evaluation(task, settings, [kept.rows[example.id] for example in chosen], len(examples))


def _chosen(examples: list[Example], settings: EvalSettings) -> list[Example]:
    if not settings.limit or settings.limit >= len(examples):
        return examples
    if settings.first:
        return examples[: settings.limit]
    places = random.Random(settings.seed).sample(range(len(examples)), settings.limit)
    return [examples[place] for place in sorted(places)]


def _own_scorer(task: Task, unsafe: bool) -> Scorer:
    from importlib import import_module

    scorer: Scorer = import_module("qwill.evaluate.scorers").scorer_of(task, unsafe)
    return scorer


class KeptRows:
    """Rows by the id of their example; with a folder each is appended to a file as soon as it is there."""

    def __init__(self, folder: Path | None, header: Mapping[str, Any]) -> None:
        """`header`: all that decides a row. A file that begins otherwise is of another run and is removed."""
        self.rows: dict[str, dict[str, Any]] = {}
        self._path = None if folder is None else folder / KEPT
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._read(self._path, header)
        if not self._path.exists():
            self._path.write_bytes(canonical_json(header) + b"\n")

    def _read(self, path: Path, header: Mapping[str, Any]) -> None:
        first, *lines = path.read_bytes().split(b"\n")
        if first != canonical_json(header) or not lines:
            path.unlink()
            return
        if torn := lines.pop():
            os.truncate(path, path.stat().st_size - len(torn))
        try:
            self.rows = {row["id"]: row for row in map(json.loads, lines)}
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}: a line is no row of results; delete the file, and the run begins anew.") from None

    def add(self, row: dict[str, Any]) -> None:
        self.rows[row["id"]] = row
        if self._path is not None:
            with open(self._path, "ab") as file:
                file.write(json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n")


def _header(task: Task, settings: EvalSettings, model: str, examples: list[Example]) -> dict[str, Any]:
    """Not the limit, which only decides which examples are asked."""
    named = {name: value for name, value in to_dict(settings).items() if name not in ("limit", "first")}
    told = [[e.id, e.instruction, e.prompt, e.choices, e.gold, repr(e.answer)] for e in examples]
    digest = hashlib.sha256(canonical_json(told)).hexdigest()
    return {"model": model, "task": to_dict(task), "settings": named, "examples": digest}

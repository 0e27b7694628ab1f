"""A task is a small file: where its examples come from, how they are asked, what is right, how a reply is scored.

    task = load_task("openbookqa")            # by name out of the box, or the path of a YAML file
    examples = load_examples(task, limit=100)

Every template is Jinja over the fields of an example, rendered in a sandbox; a field that is not there is an error, as
in lm-eval, whose `doc_to_text`, `doc_to_choice`, `doc_to_target`, `target_delimiter` and `fewshot_delimiter` are
`prompt`, `choices`, `answer`, `delimiter` and `shots.separator` here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal

from qwill.base.config import load_yaml, nearest, parse
from qwill.base.errors import ConfigError, DataError
from qwill.evaluate.task_templates import check_template, text_of, value_of

BOX = Path(__file__).parent / "box"
CHOICE_METRICS = ("acc", "acc_norm", "acc_bytes", "mass")
# Scorers that compare a reply with a reference; the others know what is right by themselves.
NEED_ANSWER = ("exact", "number", "math", "letter", "contains", "regex")


@dataclass(frozen=True)
class Shots:
    """Solved examples before the question: the first `count` of `source` (the task's own unless given) that are not the
    question itself, with `separator` after each."""

    count: int = 0
    separator: str = "\n\n"
    source: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Replying:
    """How a reply is drawn. `stop`: texts that end it and are no part of it. `temperature` 0: the likeliest token each
    time; where several replies to each question are wanted it must be above 0. `thinking_tokens`: more of them when the
    model thinks."""

    max_tokens: int = 256
    stop: list[str] = field(default_factory=list)
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    thinking_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.thinking_tokens < 0:
            raise ConfigError(
                f"max_tokens is {self.max_tokens}, thinking_tokens {self.thinking_tokens}; give 1 or more."
            )
        if not 0 <= self.temperature < inf or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ConfigError(
                f"temperature is {self.temperature}, top_p {self.top_p}, top_k {self.top_k}: temperature and top_k are "
                "0 or more, top_p is above 0 and at most 1."
            )
        if "" in self.stop:
            raise ConfigError("stop holds an empty text, which would end every reply; take it out.")


@dataclass(frozen=True)
class Task:
    """What a task file holds.

    source: `{jsonl: path}` (beside the task file), `{registry: name}`, `{generated: …}` or `{hub: org/name, …}`.
    kind: `choice` compares the log-likelihoods of the choices after the prompt, `generate` scores replies.
    instruction: said once, before the shots; the system message in a chat.
    choices: one template for each choice, or one template that names a field with a list of them.
    answer: choice: the index of the right choice, a list of indices where several are right, or the text of a choice.
      generate: the reference, of whatever form the scorer reads.
    delimiter: what stands between a prompt and a choice; a chat has none, for there the choice begins a message.
    metrics: `acc` the likeliest choice, `acc_norm` the likeliest for a character and `acc_bytes` for a byte of UTF-8,
      `mass` the probability of the right ones among all choices (TruthfulQA's MC2). For `generate` the scorer's.
    chat: the model must be asked through its chat template. tools: a template that names a field with tool
      definitions in OpenAI's form, offered in the chat.
    id, language, category, cluster: templates. Examples of one cluster share what they ask about (a passage), so they
      are not independent. Without a `language` template the field `language` counts, else the first of `languages`.
    """

    name: str
    source: dict[str, Any]
    kind: Literal["choice", "generate"]
    about: str = ""
    languages: list[str] = field(default_factory=lambda: ["en"])
    instruction: str = ""
    prompt: str = ""
    choices: list[str] | str = ""
    answer: Any = None
    delimiter: str = " "
    metrics: list[str] = field(default_factory=lambda: ["acc", "acc_norm"])
    scorer: str = "exact"
    generate: Replying = field(default_factory=Replying)
    shots: Shots = field(default_factory=Shots)
    chat: bool = False
    tools: str = ""
    id: str = ""
    language: str = ""
    category: str = ""
    cluster: str = ""
    folder: Path = Path()

    def __post_init__(self) -> None:
        if len(self.source.keys() & {"jsonl", "registry", "generated", "hub"}) != 1:
            raise ConfigError("source names no examples; give one of jsonl, registry, generated and hub.")
        if not self.languages:
            raise ConfigError("languages is empty; name at least one, such as en or zh.")
        if self.shots.count < 0:
            raise ConfigError(f"shots.count is {self.shots.count}; give 0 or more.")
        if self.kind == "choice":
            self._check_choice()
        elif self.choices:
            raise ConfigError("choices belongs to kind: choice; take it out, or name them in the prompt.")
        elif self.answer is None and self.scorer in NEED_ANSWER:
            raise ConfigError(f"answer is missing; the scorer {self.scorer} compares each reply with it.")
        elif not self.prompt:
            raise ConfigError("prompt is missing; write what the model is asked.")
        for name in ("instruction", "prompt", "tools", "id", "language", "category", "cluster"):
            check_template(name, getattr(self, name))
        for number, template in enumerate([self.choices] if isinstance(self.choices, str) else self.choices):
            check_template(f"choices[{number}]", template)
        if isinstance(self.answer, str):
            check_template("answer", self.answer)

    def _check_choice(self) -> None:
        if not self.choices or (not isinstance(self.choices, str) and len(self.choices) < 2):
            raise ConfigError("choices must be two or more templates, or one that names a field with a list.")
        if self.answer is None:
            raise ConfigError("answer is missing; give a template of the right choice's index.")
        if not self.metrics:
            raise ConfigError(f"metrics is empty; name one or more of {', '.join(CHOICE_METRICS)}.")
        for metric in self.metrics:
            if metric not in CHOICE_METRICS:
                raise ConfigError(f"metrics names {metric!r}; {nearest(metric, CHOICE_METRICS)}")


@dataclass(frozen=True)
class Example:
    """One question of a task, rendered. `gold`: indices of the right choices; `answer`: the reference for a scorer (for
    a choice the text of the first right one); `fields`: all that the source says of it."""

    id: str
    prompt: str
    choices: tuple[str, ...] = ()
    gold: tuple[int, ...] = ()
    answer: Any = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    cluster: str = ""
    language: str = "en"
    category: str = ""
    instruction: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Score:
    """What one reply is worth, from 0 to 1, and why in a few words."""

    value: float
    detail: str = ""


def box_names() -> list[str]:
    """The tasks that come with Qwill, in order."""
    return sorted(path.stem for path in BOX.glob("*.yaml"))


def load_task(ref: str | Path) -> Task:
    """A task of the box by its name, or one of the user's by the path of its YAML file.

    Raises ConfigError naming the file and the setting for a file that is not one.
    """
    path = Path(ref)
    if path.suffix not in (".yaml", ".yml"):
        names = box_names()
        if str(ref) not in names:
            raise ConfigError(
                f"there is no task {str(ref)!r}; {nearest(str(ref), names)} A file of your own ends in .yaml."
            )
        path = BOX / f"{ref}.yaml"
    settings = load_yaml(path)
    if "folder" in settings:
        raise ConfigError(f"{path}.folder is not a setting; paths are read from the task file's own folder.")
    return parse(Task, settings | {"folder": str(path.parent)}, str(path))


def load_examples(task: Task, limit: int = 0, seed: int | None = None) -> list[Example]:
    """The examples of a task: all, or the first `limit`, or with a seed that many drawn at random (in their order).

    Raises DataError naming the example and the template that can't be rendered, SourceError where the source can't be
    read.
    """
    from qwill.evaluate.task_rows import read_rows

    rows = list(enumerate(read_rows(task.source, task.folder, task.name)))
    if not rows:
        raise DataError(f"task {task.name}: its source {task.source} holds no example; give it some.")
    if limit and seed is not None and limit < len(rows):
        import random

        rows = [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), limit))]
    examples = [make_example(task, fields, number, where) for number, (where, fields) in rows[: limit or None]]
    seen: dict[str, str] = {}
    for example, (_, (where, _)) in zip(examples, rows, strict=False):
        if example.id in seen:
            raise DataError(f"{where}: its id {example.id!r} is also that of {seen[example.id]}; give each its own.")
        seen[example.id] = where
    return examples


def make_example(task: Task, fields: Mapping[str, Any], number: int, where: str) -> Example:
    """The example that `fields` are, the `number`-th of its source (from 0); `where` begins what errors say."""

    _check_fields(fields, where)

    def text(name: str, template: str) -> str:
        return text_of(template, fields, f"{where}: {name}")

    identifier = text("id", task.id) if task.id else str(fields.get("id", number))
    language = text("language", task.language) if task.language else str(fields.get("language", task.languages[0]))
    if language not in task.languages:
        raise DataError(f"{where}: its language is {language!r}, which the task does not name in `languages`; add it.")
    choices: tuple[str, ...] = ()
    gold: tuple[int, ...] = ()
    answer = _answer(task, fields, where)
    if task.kind == "choice":
        choices = _choices(task, fields, where)
        gold = _gold(answer, choices, where)
        answer = choices[gold[0]]
    elif task.scorer in NEED_ANSWER and answer in (None, "", []):
        raise DataError(f"{where}: its answer is empty, and the scorer {task.scorer} compares replies with it.")
    tools = value_of(task.tools, fields, f"{where}: tools") if task.tools else ()
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(f"{where}: its tools are {tools!r}; expected a list of definitions in OpenAI's form.")
    return Example(
        id=identifier,
        prompt=text("prompt", task.prompt),
        choices=choices,
        gold=gold,
        answer=answer,
        fields=fields,
        cluster=text("cluster", task.cluster) if task.cluster else "",
        language=language,
        category=text("category", task.category) if task.category else "",
        instruction=text("instruction", task.instruction),
        tools=tuple(tools),
    )


def _check_fields(fields: Mapping[str, Any], where: str) -> None:
    """What JSON has no word for, though Python reads it: NaN, Infinity, half of a character."""
    for name, value in fields.items():
        left = [value]
        while left:
            one = left.pop()
            if isinstance(one, float) and not isfinite(one):
                raise DataError(f"{where}: its field {name!r} holds {one}; write a number, or a text.")
            if isinstance(one, str) and not one.isascii() and any("\ud800" <= c <= "\udfff" for c in one):
                raise DataError(
                    f"{where}: its field {name!r} holds half of a character (a lone \\ud8…); write it whole."
                )
            left += one.values() if isinstance(one, Mapping) else one if isinstance(one, list | tuple) else ()


def _answer(task: Task, fields: Mapping[str, Any], where: str) -> Any:
    return value_of(task.answer, fields, f"{where}: answer") if isinstance(task.answer, str) else task.answer


def _choices(task: Task, fields: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if isinstance(task.choices, str):
        found = value_of(task.choices, fields, f"{where}: choices")
        if not isinstance(found, list | tuple) or not all(isinstance(choice, str) for choice in found):
            raise DataError(f"{where}: choices is {found!r}; expected a list of texts.")
        choices = tuple(found)
    else:
        choices = tuple(text_of(t, fields, f"{where}: choices[{i}]") for i, t in enumerate(task.choices))
    if len(choices) < 2:
        raise DataError(f"{where}: it has {len(choices)} choices; give at least two, or leave the example out.")
    if "" in choices:
        raise DataError(f"{where}: choice {choices.index('')} is empty; an empty text has no likelihood.")
    return choices


def _gold(answer: Any, choices: Sequence[str], where: str) -> tuple[int, ...]:
    """Indices of the right choices: from an index, the digits of one, a list of them, or the text of a choice."""
    given = answer if isinstance(answer, list | tuple) else [answer]
    found = []
    for one in given:
        if isinstance(one, str):
            one = int(one) if one.isascii() and one.isdigit() else choices.index(one) if one in choices else one
        if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < len(choices):
            raise DataError(
                f"{where}: its answer is {answer!r}; expected an index from 0 to {len(choices) - 1}, "
                "a list of them, or the text of a choice."
            )
        found.append(one)
    if not found:
        raise DataError(f"{where}: its answer is an empty list; name the right choice, or leave the example out.")
    return tuple(found)

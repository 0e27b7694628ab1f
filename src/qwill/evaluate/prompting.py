"""How an example is put to a model: instruction, solved examples, question, as plain text or as a conversation.

Texts and tokens are those of lm-eval (0.4.13) with its `hf` model: what stands before, between and after, where a
continuation begins, and what a continuation without any context follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qwill.base.errors import DataError
from qwill.evaluate.task import Example, Task, load_examples
from qwill.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from qwill.engine.language_model import LanguageModel


@dataclass(frozen=True)
class Prompt:
    """Ids up to and with the last special token, then text; `text` is all of it as it is shown to people."""

    head: tuple[int, ...]
    tail: str
    text: str


class Shots:
    """The solved examples that stand before a question: the first `count` that are not the question itself."""

    def __init__(self, task: Task, count: int, examples: Sequence[Example]) -> None:
        """`examples` are the task's own, for where it names no other source of shots. Raises DataError when there are
        too few."""
        self._count, self._own = count, not task.shots.source
        pool = examples
        if count and task.shots.source:
            pool = load_examples(replace(task, source=task.shots.source), limit=count)
        self._pool = pool[: count + 1]
        if len(self._pool) < count + (self._own and count > 0):
            raise DataError(
                f"task {task.name}: {count} shots were asked for, and there are {len(pool)} examples to take them "
                "from; ask for fewer."
            )

    def before(self, example: Example) -> list[Example]:
        others = [shot for shot in self._pool if not (self._own and shot.id == example.id)]
        return others[: self._count]


def solution(example: Example) -> str:
    """What a solved example says: its right choice, or its (first) reference."""
    answer = example.answer
    if isinstance(answer, list | tuple) and answer:
        answer = answer[0]
    return str(answer)


def as_text(task: Task, shots: Sequence[Example], example: Example) -> str:
    """The prompt as one text: what lm-eval calls the context."""
    solved = [f"{shot.prompt}{task.delimiter}{solution(shot)}{task.shots.separator}" for shot in shots]
    return example.instruction + "".join(solved) + example.prompt


def as_messages(shots: Sequence[Example], example: Example) -> list[dict[str, str]]:
    """The prompt as a conversation, each solved example a turn of it."""
    messages = [{"role": "system", "content": example.instruction}] if example.instruction else []
    for shot in shots:
        messages.append({"role": "user", "content": shot.prompt})
        messages.append({"role": "assistant", "content": solution(shot)})
    return [*messages, {"role": "user", "content": example.prompt}]


def prompt_of(
    lm: LanguageModel, task: Task, shots: Sequence[Example], example: Example, chat: bool, thinking: bool
) -> Prompt:
    """What the model reads before it answers. Raises DataError when the chat template can't render it."""
    if not chat:
        text = as_text(task, shots, example)
        return Prompt((), text, text)
    try:
        ids = lm.prompt(as_messages(shots, example), thinking, list(example.tools) or None)
    except DataError as error:
        raise DataError(f"task {task.name}, example {example.id}: {error}") from None
    specials = frozenset(lm.tokenizer.specials.values())
    end = next((i + 1 for i in range(len(ids) - 1, -1, -1) if ids[i] in specials), 0)
    text = lm.tokenizer.decode(ids, skip_special=False)
    return Prompt(tuple(ids[:end]), lm.tokenizer.decode(ids[end:]), text)


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Ids of a prompt; those that continue nothing follow the token that begins a document."""
    ids = [*prompt.head, *tokenizer.encode(prompt.tail)]
    return ids if prompt.head else [*tokenizer.around[0], *ids] or [first_token(tokenizer)]


def encode_pairs(
    tokenizer: Tokenizer, prompt: Prompt, continuations: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    """(context, continuation) in ids for each text that may follow the prompt, split as lm-eval's `_encode_pair` does:
    white space at the prompt's end belongs to the continuation, and what prompt and continuation are together, less as
    many tokens as the prompt alone has, is the continuation."""
    context = prompt.tail.rstrip()
    space = prompt.tail[len(context) :]
    if not context and not prompt.head:
        # lm-eval asks for a context that is more than white space; an empty one is the beginning of a document.
        first = first_token(tokenizer)
        found = []
        for ids in tokenizer.encode_batch([space + continuation for continuation in continuations]):
            found.append(([first], ids) if ids[:1] != [first] else (ids[:1], ids[1:]))
        return found
    before = list(prompt.head) or tokenizer.around[0]
    context_ids, *wholes = tokenizer.encode_batch([context, *(prompt.tail + text for text in continuations)])
    found = [([*before, *context_ids], whole[len(context_ids) :]) for whole in wholes]
    # Where the two melt into as few tokens as the context alone has, lm-eval gives up; they are encoded apart here.
    return [(a, b or tokenizer.encode(space + text)) for (a, b), text in zip(found, continuations, strict=True)]


def first_token(tokenizer: Tokenizer) -> int:
    """The id that stands for an empty context: that of the beginning of a text, else of its end, as in lm-eval.

    Raises DataError when the tokenizer's files name neither.
    """
    for setting in ("bos_token", "eos_token"):
        name: Any = tokenizer.config.get(setting)
        name = name.get("content") if isinstance(name, Mapping) else name
        if name in tokenizer.specials:
            return tokenizer.specials[name]
    raise DataError("the tokenizer names no bos_token and no eos_token, so nothing can stand for an empty context.")

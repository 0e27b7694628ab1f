"""Questions to be answered in words: replies drawn in batches, each scored as soon as it is complete."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qwill.base.errors import DataError, ModelError, QwillError
from qwill.evaluate.prompting import Prompt, prompt_ids
from qwill.evaluate.run_choices import described
from qwill.evaluate.statistics import pass_at_k
from qwill.evaluate.task import Example, Score, Task

if TYPE_CHECKING:
    from qwill.engine.engine import Engine
    from qwill.engine.language_model import LanguageModel
    from qwill.engine.sampling import Sampling

Scorer = Callable[[Example, str], Score]
THINK_MARKS = 8  # tokens beside thinking and answer: the marks of the block and the space around them
PASS = 1024


@dataclass(frozen=True)
class Drawing:
    """How replies are drawn: `samples` to each question with these settings; with `thinking` the stop texts count only
    behind the thinking, which has `thinking_tokens` at most."""

    sampling: Sampling
    samples: int = 1
    thinking: bool = False
    thinking_tokens: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0


def drawing_of(
    lm: LanguageModel, task: Task, samples: int, thinking: bool, temperature: float | None, seed: int
) -> Drawing:
    """The task's own settings. Where these are greedy but replies must differ (or the model thinks, which it can't do
    greedily without going round in circles), and no temperature is given, the model's own settings hold."""
    from qwill.engine.defaults import THINKING
    from qwill.engine.sampling import Sampling

    own = task.generate
    if temperature is None and own.temperature == 0 and (samples > 1 or thinking):
        base = THINKING if thinking else lm.sampling
    else:
        warm = own.temperature if temperature is None else temperature
        base = Sampling(temperature=warm, top_p=own.top_p, top_k=own.top_k)
    more = own.thinking_tokens + THINK_MARKS if thinking else 0
    sampling = replace(base, max_tokens=max(1, min(own.max_tokens + more, lm.context // 2)))
    return Drawing(sampling, samples, thinking, own.thinking_tokens, tuple(own.stop), seed)


def run_replies(
    lm: LanguageModel,
    task: Task,
    asked: Sequence[tuple[Example, Prompt]],
    drawing: Drawing,
    score: Scorer,
    memory: int,
    slots: int,
) -> Iterator[dict[str, Any]]:
    """The row of each example, as soon as all its replies are there."""
    from qwill.text.reply_stream import prompt_opens_thinking

    if not asked:
        return
    engine = _engine(lm, memory, slots)
    waiting: dict[str, tuple[Example, Prompt, int, bool]] = {}
    most = lm.context - drawing.sampling.max_tokens
    for number, (example, prompt) in enumerate(asked):
        ids = prompt_ids(lm.tokenizer, prompt)
        opened = bool(prompt.head) and prompt_opens_thinking(lm.tokenizer, ids)
        waiting[str(number)] = (example, prompt, max(0, len(ids) - most), opened)
        _add(engine, lm, str(number), ids[-most:], drawing, example)
    replies: dict[str, list[tuple[str, str]]] = {name: [("", "")] * drawing.samples for name in waiting}
    missing = dict.fromkeys(waiting, drawing.samples)
    while engine.has_work:
        for event in engine.step():
            example, prompt, cut, opened = waiting[event.request]
            if event.error is not None:
                raise ModelError(f"task {task.name}, example {example.id}: {event.error}") from engine.failure
            replies[event.request][event.sample] = event.text, event.finish_reason or "length"
            missing[event.request] -= 1
            if not missing[event.request]:
                row = _row(task, example, replies.pop(event.request), drawing, score, opened, bool(prompt.head))
                yield row | {"cut": cut} | described(task, example, prompt)


def _engine(lm: LanguageModel, memory: int, slots: int) -> Engine:
    from qwill.engine.engine import Engine
    from qwill.engine.engine_settings import EngineSettings

    settings = EngineSettings(memory=memory, max_running=slots, token_budget=max(slots, PASS))
    return Engine(lm.model, lm.tokenizer, settings)


def _add(engine: Engine, lm: LanguageModel, name: str, ids: list[int], drawing: Drawing, example: Example) -> None:
    from qwill.engine.request import Request
    from qwill.text.thinking import thinking_budget

    thinks = drawing.thinking and lm.thinks
    tokens = drawing.thinking_tokens if thinks else None
    budget = None if tokens is None else thinking_budget(lm.tokenizer, tokens)
    # Named for the example and not for its place, so that a part of a task is answered as the whole is.
    stream = int.from_bytes(hashlib.sha256(example.id.encode()).digest()[:4], "big") >> 1
    engine.add(
        Request(
            name,
            ids,
            drawing.sampling,
            drawing.samples,
            seed=drawing.seed,
            stream=stream,
            stop_ids=frozenset(lm.stop_ids),
            stop=() if thinks else drawing.stop,
            thinking_budget=budget.tokens if budget else None,
            thinking_end=budget.ending if budget else (),
            whole=True,
        )
    )


def _row(
    task: Task,
    example: Example,
    replies: list[tuple[str, str]],
    drawing: Drawing,
    score: Scorer,
    opened: bool,
    chat: bool,
) -> dict[str, Any]:
    said = [answer_of(text, drawing.stop, opened, chat) for text, _ in replies]
    scores = []
    for answer, _ in said:
        try:
            scores.append(score(example, answer))
        except QwillError as error:
            raise DataError(f"task {task.name}, example {example.id}: {error}") from error
        if not 0 <= scores[-1].value <= 1:
            raise DataError(
                f"task {task.name}, example {example.id}: the scorer {task.scorer} gave {scores[-1].value}; "
                "expected a number from 0 to 1."
            )
    told = []
    for (answer, thought), (_, finish), one in zip(said, replies, scores, strict=True):
        reply = {"text": answer, "score": one.value, "detail": one.detail, "finish": finish}
        told.append(reply | ({"reasoning": thought} if thought else {}))
    return {"replies": told, "answer": example.answer, "scores": reply_scores([one.value for one in scores])}


def answer_of(text: str, stop: Sequence[str], opened: bool, chat: bool) -> tuple[str, str]:
    """A reply up to its first stop text, and the thinking before it. In plain text there is no thinking, nor where an
    opening mark stands in the middle of a reply: that one stays as it is, to its first space."""
    from qwill.text.parse import parse_reply

    thought = ""
    if chat and (opened or "</think>" in text or text.lstrip().startswith("<think>")):
        reply = parse_reply(text, opened, tools=None)
        text, thought = reply.content.lstrip(), reply.reasoning_content or ""
    ends = [at for mark in stop if (at := text.find(mark)) >= 0]
    return text[: min(ends, default=len(text))], thought


def reply_scores(values: Sequence[float]) -> dict[str, float]:
    """`score`: the mean over the replies; for several that are each right or wrong also pass@1, 2, 4 … and all."""
    scores = {"score": sum(values) / len(values)}
    if len(values) > 1 and all(value in (0, 1) for value in values):
        count, right = len(values), int(sum(values))
        for k in sorted({count, *(1 << i for i in range(count.bit_length()))}):
            if k <= count:
                scores[f"pass@{k}"] = pass_at_k(count, right, k)
    return scores

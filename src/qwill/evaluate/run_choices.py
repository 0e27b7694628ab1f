"""Questions with choices: the log-likelihood of each choice behind its prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from qwill.base.errors import DataError
from qwill.evaluate.likelihood_scores import choice_scores
from qwill.evaluate.prompting import Prompt, encode_pairs
from qwill.evaluate.task import Example, Task

if TYPE_CHECKING:
    from qwill.engine.language_model import LanguageModel

PASS = 512  # tokens
TOGETHER = 128  # examples of one call: enough to fill passes, and what a killed run loses


def run_choices(
    lm: LanguageModel, task: Task, asked: Sequence[tuple[Example, Prompt]], chat: bool, memory: int, slots: int
) -> Iterator[dict[str, Any]]:
    """The row of each example, in order."""
    from qwill.engine.engine_settings import EngineSettings
    from qwill.engine.scoring import Scorer

    scorer = (
        Scorer(lm.model, EngineSettings(memory=memory, max_running=slots, token_budget=max(slots, PASS)))
        if asked
        else None
    )
    delimiter = "" if chat else task.delimiter
    for start in range(0, len(asked), TOGETHER):
        part = asked[start : start + TOGETHER]
        pairs = [
            encode_pairs(lm.tokenizer, prompt, [delimiter + choice for choice in example.choices])
            for example, prompt in part
        ]
        assert scorer is not None
        try:
            found = iter(scorer.score([pair for of_one in pairs for pair in of_one]))
        except DataError as error:
            raise DataError(f"task {task.name}, examples {part[0][0].id} to {part[-1][0].id}: {error}") from None
        for (example, prompt), of_one in zip(part, pairs, strict=True):
            likelihoods = [next(found) for _ in of_one]
            cut = max(len(context) + len(own) for context, own in of_one) - lm.context - 1
            yield {
                "choices": list(example.choices),
                "answer": example.answer,
                "gold": list(example.gold),
                "logprobs": [one.logprob for one in likelihoods],
                "greedy": [one.greedy for one in likelihoods],
                "tokens": [one.tokens for one in likelihoods],
                "cut": max(0, cut),
                "scores": choice_scores(task.metrics, example, [one.logprob for one in likelihoods]),
            } | described(task, example, prompt)


def described(task: Task, example: Example, prompt: Prompt) -> dict[str, Any]:
    """What a row of any kind says of its example; `asked` is all that the model read, where that is more."""
    return {
        "task": task.name,
        "id": example.id,
        "prompt": example.prompt,
        "language": example.language,
        "category": example.category,
        "cluster": example.cluster,
    } | ({"asked": prompt.text} if prompt.text != example.prompt else {})

"""Scores of a question with choices from the log-likelihoods of the choices, as lm-eval computes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qwill.evaluate.task import Example


def choice_scores(metrics: Sequence[str], example: Example, logprobs: Sequence[float]) -> dict[str, float]:
    """Each metric's value for one example; `logprobs` are ln P(choice | prompt) in the choices' order. Of choices that
    are equally good the first one counts as chosen.

    `acc`, `acc_norm` (a character's share) and `acc_bytes` (a byte's) as in lm-eval; `mass` is the probability of the
    right choices among all, MC2 of TruthfulQA (Lin et al. 2021, arXiv:2109.07958).
    """
    sizes = {"acc": _one, "acc_norm": _characters, "acc_bytes": _bytes}
    scores = {}
    for metric in metrics:
        if metric == "mass":
            scores[metric] = _mass(example.gold, logprobs)
            continue
        size = sizes[metric]
        values = [value / size(choice) for value, choice in zip(logprobs, example.choices, strict=True)]
        scores[metric] = float(values.index(max(values)) in example.gold)
    return scores


def _one(choice: str) -> float:
    return 1.0


def _characters(choice: str) -> float:
    return float(len(choice))


def _bytes(choice: str) -> float:
    return float(len(choice.encode()))


def _mass(gold: Sequence[int], logprobs: Sequence[float]) -> float:
    largest = max(logprobs)
    shares = [math.exp(value - largest) for value in logprobs]
    return math.fsum(shares[i] for i in set(gold)) / math.fsum(shares)

"""How often a model prefers what people preferred, on pairs that it did not learn from, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qwill.align.preference_examples import Pair
from qwill.evaluate.statistics import wilson


@dataclass(frozen=True)
class PairScores:
    """Shares of pairs, a tie counting half, each with a Wilson interval (95 %).

    accuracy: the implicit reward (log-ratio to the start, or log-probability a token) is higher for what was chosen.
    longer: the longer reply was chosen; what a model that only counts tokens would get, if it knew which way to lean.
    """

    pairs: int
    accuracy: float
    lower: float
    upper: float
    longer: float
    by_language: dict[str, float]

    @property
    def length_only(self) -> float:
        return max(self.longer, 1 - self.longer)

    def told(self) -> dict[str, Any]:
        return {
            "heldout_pairs": self.pairs, "pair_accuracy": round(self.accuracy, 4),
            "pair_accuracy_95": [round(self.lower, 4), round(self.upper, 4)],
            "length_only_accuracy": round(self.length_only, 4),
            **{f"pair_accuracy_{name}": round(value, 4) for name, value in sorted(self.by_language.items())},
        }  # fmt: skip


def pair_scores(pairs: Sequence[Pair], now_U2: Tensor, start_U2: Tensor, reference_free: bool) -> PairScores:
    """Of log-probabilities [pairs, 2] of what was chosen and rejected, now and at the start."""
    points, longer = [], []
    for pair, now, start in zip(pairs, now_U2.tolist(), start_U2.tolist(), strict=True):
        tokens = [reply.tokens for reply in pair.replies]
        a, b = (now[0] / tokens[0], now[1] / tokens[1]) if reference_free else (now[0] - start[0], now[1] - start[1])
        points.append(_point(a, b))
        longer.append(_point(*tokens))
    accuracy = sum(points) / len(points)
    # Ties are no successes for the lower end and no failures for the upper one.
    wins, draws = points.count(1.0), points.count(0.5)
    lower, upper = wilson(wins, len(points)).lower, wilson(wins + draws, len(points)).upper
    languages = {p.language for p in pairs}
    mine = {name: [x for p, x in zip(pairs, points, strict=True) if p.language == name] for name in languages}
    by_language = {name: sum(values) / len(values) for name, values in mine.items()}
    return PairScores(len(pairs), accuracy, lower, upper, sum(longer) / len(longer), by_language)


def _point(a: float, b: float) -> float:
    return 1.0 if a > b else 0.0 if a < b else 0.5

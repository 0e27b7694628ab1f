"""What a reward model is worth, on pairs that it did not learn from: accuracy, calibration, and whether it only counts
tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwill.align.preference_examples import Pair
from qwill.align.preference_scores import PairScores, pair_scores


@dataclass(frozen=True)
class RewardScores:
    """calibration: the mean of |share right − σ(|difference|)| over up to ten bins of equally many pairs, weighted by
    them (expected calibration error): 0 where "80 % sure" is right in 80 %. length_correlation: Spearman's, of reward
    and tokens over all replies."""

    pairs: PairScores
    calibration: float
    confidence: float
    length_correlation: float

    def told(self) -> dict[str, Any]:
        return self.pairs.told() | {
            "calibration_error": round(self.calibration, 4), "mean_confidence": round(self.confidence, 4),
            "length_correlation": round(self.length_correlation, 4),
        }  # fmt: skip


def reward_scores(pairs: Sequence[Pair], reward_U2: Tensor) -> RewardScores:
    """Of rewards [pairs, 2] of what was chosen and what was rejected."""
    compared = pair_scores(pairs, reward_U2, torch.zeros_like(reward_U2), reference_free=False)
    difference = (reward_U2[:, 0] - reward_U2[:, 1]).double().numpy()
    sure = 1 / (1 + np.exp(-np.abs(difference)))
    right = np.where(difference == 0, 0.5, difference > 0)
    bins = np.array_split(np.argsort(sure, kind="stable"), min(10, max(1, len(pairs) // 5)))
    error = sum(len(b) * abs(right[b].mean() - sure[b].mean()) for b in bins) / len(pairs)
    tokens = np.array([r.tokens for p in pairs for r in p.replies], dtype=float)
    correlation = spearman(tokens, reward_U2.double().numpy().ravel())
    return RewardScores(compared, float(error), float(sure.mean()), correlation)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of ranks, ties sharing theirs; 0 where one of the two never changes."""
    ranks = [np.unique(x, return_inverse=True, return_counts=True) for x in (a, b)]
    mean = [(np.cumsum(count) - (count - 1) / 2)[inverse] for _, inverse, count in ranks]
    x, y = (m - m.mean() for m in mean)
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else 0.0

"""What is logged of one update of a policy, gathered over its micro-batches so that cutting changes nothing.

Letter: N tokens of a micro-batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qwill.align.kl import kl_value
from qwill.train.replicas import Replicas

QUANTILES = (1, 10, 50, 90, 99)


class UpdateNumbers:
    """Means are over all tokens of the update. All log-probabilities are float64 [N], at the rollout's temperature and
    over its support.

    - `gap`, `gap_mean`: the largest and the mean difference |log π_trainer − log π_rollout|; `gap_kl`: the estimate
      (k3) of KL(rollout ‖ trainer). Of unchanged weights they say how far the two executors are apart.
    - `kl`: k3 from the policy before the first update; `kl_start`: to the starting model, where that is known.
    - `entropy`: its estimate −mean log π of what was sampled; `entropy_exact`: of the distributions themselves.
    - `ratio_least`, `ratio_p01` … `ratio_p99`, `ratio_most`: quantiles of the raw ratio π/π_old of a token, which no
      clip has touched. `clipped`: the share of tokens whose gradient the clip cut off; `clipped_low` of those whose
      ratio was too small, `clipped_high` too large.
    """

    def __init__(self, tokens: int) -> None:
        """`tokens` of the whole update."""
        self._tokens = tokens
        self._sums: dict[str, float] = {}
        self._gap = 0.0
        self._ratios: list[Tensor] = []
        self.entropies: list[Tensor] = []

    def add(
        self,
        own_N: Tensor,
        old_N: Tensor,
        rollout_N: Tensor,
        reference_N: Tensor,
        clipped_N: Tensor,
        advantage_N: Tensor,
    ) -> None:
        """A micro-batch; `reference_N` is empty where there is none. With a positive advantage a ratio can only be too
        large, with a negative one too small, but for CISPO, which only bounds it above."""
        ratio_N = torch.exp(own_N - old_N)
        gap_N = (own_N - rollout_N).abs()
        high_N = clipped_N & ((advantage_N > 0) | (ratio_N > 1))
        found = {
            "gap_mean": gap_N,
            "gap_kl": kl_value(rollout_N, own_N),
            "clipped": clipped_N,
            "clipped_low": clipped_N & ~high_N,
            "clipped_high": high_N,
            "kl": kl_value(old_N, own_N),
            "entropy": -old_N,
        }
        if len(reference_N):
            found["kl_start"] = kl_value(own_N, reference_N)
        for name, value_N in found.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value_N.sum())
        self._gap = max(self._gap, float(gap_N.max()))
        self._ratios.append(ratio_N)

    def hear(self, replicas: Replicas) -> None:
        """Take in what other ranks have seen of the update."""
        if replicas.count == 1:
            return
        seen = [torch.cat(x).cpu().numpy() if x else None for x in (self._ratios, self.entropies)]
        every = replicas.gather([self._sums, self._gap, *seen])
        self._sums, self._gap, self._ratios, self.entropies = {}, 0.0, [], []
        for sums, gap, ratio_N, entropy_N in every:
            for name, value in sums.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._gap = max(self._gap, gap)
            self._ratios += [] if ratio_N is None else [torch.from_numpy(ratio_N)]
            self.entropies += [] if entropy_N is None else [torch.from_numpy(entropy_N)]

    def numbers(self) -> dict[str, float]:
        ratio_N = torch.cat(self._ratios).sort().values
        means = {name: value / self._tokens for name, value in self._sums.items()}
        return {
            "gap": self._gap,
            **means,
            "entropy_exact": float(torch.cat(self.entropies).double().mean()),
            "ratio_least": float(ratio_N[0]),
            **{f"ratio_p{q:02d}": quantile(ratio_N, q / 100) for q in QUANTILES},
            "ratio_most": float(ratio_N[-1]),
        }


def quantile(sorted_N: Tensor, share: float) -> float:
    """Linear between neighbours, as numpy's; torch.quantile takes no more than 16 million numbers."""
    place = share * (len(sorted_N) - 1)
    below = math.floor(place)
    above = min(below + 1, len(sorted_N) - 1)
    return float(sorted_N[below] + (place - below) * (sorted_N[above] - sorted_N[below]))


def nothing_learnt(start: bool) -> dict[str, float]:
    """The numbers of a step without an update, with `start` those of a KL to the starting model, too."""
    names = ("gap", "gap_mean", "gap_kl", "clipped", "clipped_low", "clipped_high", "kl", "entropy", "entropy_exact")
    ratios = ("ratio_least", *(f"ratio_p{q:02d}" for q in QUANTILES), "ratio_most")
    zeros = (*names, "gradient_norm", *(("kl_start",) if start else ()))
    return dict.fromkeys(zeros, 0.0) | dict.fromkeys(ratios, 1.0)

"""The load-balancing loss over more tokens than one forward pass sees: micro-batches of a step, ranks of a run.

    L = mean over layers of E · Σ_i f_i · P_i

f_i = assignments to expert i / tokens, over the whole batch (no gradient); P_i = mean router probability, of the tokens
at hand. With f over a small micro-batch every sequence has to use all experts alike; over a large batch experts may
specialise (Qiu et al. 2025, arXiv 2501.11873).

What is pooled are whole numbers, so f is the same to the last bit in whatever order micro-batches and ranks are added.

Shape suffixes: L sparse layers, E experts, X = E + 1: the assignments to each expert, then the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwill.model.transformer import RouterStats
from qwill.model.transformer import balancing_loss as loss_of_stats


def count_assignments(stats: Sequence[RouterStats], tokens: int) -> Tensor:
    """counts_LX (int64) of one forward pass over `tokens` tokens; counts of several passes or ranks simply add up."""
    # load = assignments / tokens was rounded once, so rounding its multiple gives the whole number back (below 2^22).
    load_LE = torch.stack([s.load_E for s in stats])
    counts_LE = (load_LE * tokens).round().long()
    return torch.cat([counts_LE, counts_LE.new_full((len(stats), 1), tokens)], dim=1)


def load(counts_LX: Tensor, dtype: torch.dtype) -> Tensor:
    """f_LE: assignments per token; each layer sums to the number of experts a token has."""
    return counts_LX[:, :-1].to(dtype) / counts_LX[:, -1:]


def balancing_loss(stats: Sequence[RouterStats], counts_LX: Tensor) -> Tensor:
    """L with P of `stats` and f of `counts_LX`, which may count more tokens than `stats` saw."""
    load_LE = load(counts_LX, stats[0].probability_E.dtype)
    return loss_of_stats([RouterStats(f, s.probability_E) for f, s in zip(load_LE, stats, strict=True)])

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
from dataclasses import dataclass

import torch
from torch import Tensor

from qwill.model.batch import Batch
from qwill.model.transformer import RouterStats, Transformer
from qwill.model.transformer import balancing_loss as loss_of_stats
from qwill.train.replicas import Replicas


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


@dataclass(frozen=True)
class StepBalance:
    """`weight` · the balancing loss of a step that is computed in parts, the same however it is cut and dealt: f
    counts the whole step (`counts_LX`; None where one part is all of it), P of a part weighs as its share of tokens."""

    weight: float
    counts_LX: Tensor | None

    def loss(self, stats: list[RouterStats] | None, batch: Batch) -> Tensor | float:
        """A part's share of it."""
        if not self.weight or not stats:
            return 0.0
        tokens = batch.places
        counts_LX = count_assignments(stats, tokens) if self.counts_LX is None else self.counts_LX
        return self.weight * (tokens / int(counts_LX[0, -1])) * balancing_loss(stats, counts_LX)


@torch.no_grad()
def step_balance(model: Transformer, batches: Sequence[Batch], weight: float, replicas: Replicas) -> StepBalance:
    """Counts the assignments of all parts and ranks by a first pass, where there are several."""
    config = model.config
    layers = sum(config.is_sparse(i) for i in range(config.num_hidden_layers))
    if not weight or not layers or (len(batches) == 1 and replicas.count == 1):
        return StepBalance(weight, None)
    counts_LX = torch.zeros(layers, config.num_experts + 1, dtype=torch.int64)
    for batch in batches:
        if stats := model(batch).router_stats:
            counts_LX += count_assignments(stats, batch.places).cpu()
    return StepBalance(weight, replicas.all_sum(counts_LX).to(model.embed_tokens.weight.device))

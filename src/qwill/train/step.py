"""The gradients of one optimiser step: the same however the step is cut into micro-batches (or dealt out to ranks)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from qwill.model.batch import Batch
from qwill.model.transformer import Output, Transformer
from qwill.train.balance import balancing_loss, count_assignments, load


@dataclass
class StepData:
    """One optimiser step or a part of it: a packed batch, what each token shall predict, and each token's weight (0:
    not trained on).

    Weights sum to 1 over the whole step, so the loss is a mean over trained tokens however the step is split.
    `source` names the batch in messages (a NaN loss says which batch it was). A `filler` is computed so that this rank
    takes part in what all ranks do together, and is counted nowhere; it weighs nothing.
    """

    batch: Batch
    targets_N: Tensor
    weight_N: Tensor
    source: str
    filler: bool = False

    @property
    def tokens(self) -> int:
        return len(self.targets_N)


@dataclass
class StepResult:
    """`loss` in nats; of sparse models also the balancing loss and load_LE, each layer's assignments per token. `more`
    are other numbers for the log."""

    loss: float
    balance: float | None = None
    load_LE: Tensor | None = None
    more: dict[str, float] = field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        return {"loss": self.loss} | ({} if self.balance is None else {"balance": self.balance}) | self.more


def split(data: StepData, parts: int) -> list[StepData]:
    """Cut at the borders of sequences (of rows, where the batch has enough) that are nearest to equal shares.

    No part is empty: there are fewer than `parts` only where there are fewer sequences. Nothing is copied.
    """
    if parts == 1:
        return [data]
    batch, tokens = data.batch, len(data.targets_N)
    borders = batch.cu_seqlens.tolist()
    if batch.row_length and len(rows := [b for b in borders if b % batch.row_length == 0]) > parts:
        borders = rows
    parts = min(parts, len(borders) - 1)
    cuts = [0]
    for i in range(1, parts):
        # What is left must suffice for the parts that follow.
        free = borders[borders.index(cuts[-1]) + 1 : len(borders) - (parts - i)]
        cuts.append(min(free, key=lambda b: abs(b - tokens * i / parts)))
    cuts.append(tokens)
    out = []
    for start, end in pairwise(cuts):
        inside = batch.cu_seqlens[(batch.cu_seqlens >= start) & (batch.cu_seqlens <= end)] - start
        experts = None if batch.experts_NLk is None else batch.experts_NLk[start:end]
        part = Batch(batch.tokens_N[start:end], batch.positions_N[start:end], inside, batch.row_length, experts)
        out.append(StepData(part, data.targets_N[start:end], data.weight_N[start:end], data.source))
    return out


def backward(
    model: Transformer,
    parts: Sequence[StepData],
    balance: float,
    over: Literal["micro", "running", "exact"],
    dtype: str = "float32",
    step_tokens: int | None = None,
    pool: Callable[[Tensor], Tensor] = lambda counts_LX: counts_LX,
) -> StepResult:
    """Add the gradients of Σ weight·loss + balance·L over all parts to the parameters' own.

    `over` says what L's expert load counts (settings.StepConfig). P stays local: each part's L weighs as its share of
    `step_tokens`, which are those of the parts unless other ranks have more. `pool` adds counts over ranks; results are
    of this rank, apart from `load_LE`.
    """
    tokens = step_tokens or sum(len(part.targets_N) for part in parts)
    result = StepResult(0.0)
    seen_LX: Tensor | None = None
    whole_LX = None
    if over == "exact" and balance and len(parts) > 1:
        whole_LX = _count(model, parts, dtype, pool)
    for part in parts:
        with _precision(part, dtype):
            output: Output = model(part.batch)
            total, _ = model.cross_entropy(output.hidden_ND, part.targets_N, part.weight_N)
        result.loss += float(total.detach())
        if stats := output.router_stats:
            own_LX = count_assignments(stats, len(part.targets_N))
            pooled_LX = pool(own_LX * 0 if part.filler else own_LX)
            seen_LX = pooled_LX if seen_LX is None else seen_LX + pooled_LX
            counts_LX = own_LX if over == "micro" else seen_LX if whole_LX is None else whole_LX
            imbalance, share = balancing_loss(stats, counts_LX), (1 - part.filler) * len(part.targets_N) / tokens
            total = total + balance * share * imbalance
            result.balance = (result.balance or 0.0) + share * float(imbalance.detach())
            result.load_LE = load(seen_LX, stats[0].probability_E.dtype)
        total.backward()
    return result


def _precision(part: StepData, dtype: str) -> torch.autocast:
    return torch.autocast(part.targets_N.device.type, torch.bfloat16, enabled=dtype == "bfloat16")


@torch.no_grad()
def _count(
    model: Transformer, parts: Sequence[StepData], dtype: str, pool: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """Assignments of the whole step, found by a first pass over it; None for a dense model."""
    counts_LX = None
    for part in parts:
        with _precision(part, dtype):
            stats = model(part.batch).router_stats
        if not stats:
            return None
        own_LX = count_assignments(stats, len(part.targets_N)) * (1 - part.filler)
        counts_LX = own_LX if counts_LX is None else counts_LX + own_LX
    return None if counts_LX is None else pool(counts_LX)

"""Tensor parallelism: modules that hold a share of their rows or columns (Megatron-LM, arXiv 1909.08053 §3).

Each class is what a module of the model becomes (`module.__class__ = …`): same parameters, same names, smaller shapes.
Between a column-parallel and a row-parallel product every rank has its own heads or feed-forward columns; in front of
the first, gradients are summed; behind the second, results are.

Shape suffixes as in model/transformer.py; V is this rank's share of the vocabulary where a weight is cut.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from qwill.model import ops
from qwill.model.transformer import Linear
from qwill.train.collectives import all_sum, sum_of_all, to_all


class ColumnLinear(Linear):
    """This rank's output columns of x·Wᵀ + b."""

    group: ProcessGroup | None

    def forward(self, x_ND: Tensor) -> Tensor:
        return super().forward(to_all(x_ND, self.group))


class RowLinear(Linear):
    """x·Wᵀ + b where each rank has its share of x's columns; the bias, which all ranks have, is added once."""

    group: ProcessGroup | None

    def forward(self, x_ND: Tensor) -> Tensor:
        out_NC = sum_of_all(ops.linear(x_ND, self.weight), self.group)
        return out_NC if self.bias is None else out_NC + self.bias


class VocabularyEmbedding(nn.Embedding):
    """Rows of tokens that this rank holds, summed with the others' (which have zeros there)."""

    group: ProcessGroup | None
    first: int

    def forward(self, tokens_N: Tensor) -> Tensor:
        own_N = tokens_N - self.first
        held_N = (own_N >= 0) & (own_N < len(self.weight))
        x_ND = nn.functional.embedding(own_N * held_N, self.weight) * held_N[:, None]
        return sum_of_all(x_ND, self.group)


def cross_entropy(
    hidden_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    weight_N: Tensor,
    first: int,
    group: ProcessGroup | None,
    chunk: int = 1024,
) -> tuple[Tensor, Tensor]:
    """`ops.cross_entropy` over a vocabulary of which this rank holds the rows from `first` on; the same on all ranks.

    Only row-wise maxima, sums and target logits travel: 3 numbers a token.
    """
    hidden_ND = to_all(hidden_ND, group)
    if torch.is_autocast_enabled(hidden_ND.device.type):
        dtype = torch.get_autocast_dtype(hidden_ND.device.type)
        hidden_ND, head_VD = hidden_ND.to(dtype), head_VD.to(dtype)
    with torch.autocast(hidden_ND.device.type, enabled=False):
        loss: tuple[Tensor, Tensor] = _CrossEntropy.apply(hidden_ND, head_VD, targets_N - first, weight_N, group, chunk)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, own_N: Tensor, weight_N: Tensor, group: Any, chunk: int
    ) -> tuple[Tensor, Tensor]:
        losses, spreads = [], []
        for hidden, own in zip(hidden_ND.split(chunk), own_N.split(chunk), strict=True):
            logits = _wide(hidden @ head_VD.T)
            top = logits.max(-1).values
            if group is not None:
                dist.all_reduce(top, dist.ReduceOp.MAX, group=group)
            held = (own >= 0) & (own < len(head_VD))
            target = logits.gather(1, (own * held)[:, None])[:, 0] * held
            both = all_sum(torch.stack([(logits - top[:, None]).exp().sum(-1), target]), group)
            spreads.append(both[0].log() + top)
            losses.append(spreads[-1] - both[1])
        ctx.chunk = chunk
        ctx.save_for_backward(hidden_ND, head_VD, own_N, weight_N, torch.cat(spreads))
        loss_N = torch.cat(losses)
        ctx.mark_non_differentiable(loss_N)
        return (loss_N * weight_N).sum(), loss_N

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:  # type: ignore[override]
        """d loss / d logits = softmax − one-hot, logits computed again."""
        hidden_ND, head_VD, own_N, weight_N, spread_N = ctx.saved_tensors
        d_hidden, d_head = torch.empty_like(hidden_ND), torch.zeros_like(head_VD)
        for start in range(0, len(hidden_ND), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            d_logits = (_wide(hidden_ND[part] @ head_VD.T) - spread_N[part, None]).exp()
            own = own_N[part]
            held = ((own >= 0) & (own < len(head_VD))).nonzero()[:, 0]
            d_logits[held, own[held]] -= 1
            d_logits = (d_logits * (grad * weight_N[part])[:, None]).to(head_VD.dtype)
            d_hidden[part] = d_logits @ head_VD
            d_head += d_logits.T @ hidden_ND[part]
        return d_hidden, d_head, None, None, None, None


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()

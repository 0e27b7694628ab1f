"""What a projection does when it is more than a product with its matrix: quantised weights, adapters, or both.

Quantised weights stay codes in memory: each pass multiplies out one matrix at a time, the backward pass once more, so
that no float copy outlives its product. They have no gradient; x and adapters have theirs (QLoRA, arXiv 2305.14314).

Shape suffixes as in transformer.py; M = N·k assignments of tokens to experts, sorted by expert, C outputs, I inputs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qwill.model import ops
from qwill.model.packed import Codes

if TYPE_CHECKING:
    from qwill.model.layout import Slot
    from qwill.model.lora import Updates


class Quantized(nn.Module):
    """The weights of one projection [C, I], or of every expert's [E, C, I], as codes; stands in a parameter's place."""

    values: Tensor
    scale: Tensor
    zero: Tensor | None
    minimum: Tensor | None

    def __init__(self, codes: Codes) -> None:
        super().__init__()
        self.bits, self.columns = codes.bits, codes.columns
        for name in ("values", "scale", "zero", "minimum"):
            self.register_buffer(name, getattr(codes, name))

    @property
    def shape(self) -> torch.Size:
        """That of the weights."""
        return torch.Size((*self.values.shape[:-1], self.columns))

    def write(self, slot: Slot, codes: Codes) -> None:
        """Put the codes of one tensor of the files into their place."""
        slot.write(self.values, codes.values)
        slot.write(self.scale, codes.scale)
        for mine, other in ((self.zero, codes.zero), (self.minimum, codes.minimum)):
            if mine is not None and other is not None:
                slot.write(mine, other)

    def dense(self, dtype: torch.dtype, expert: int | None = None) -> Tensor:
        """The weights, or one expert's, multiplied out."""
        parts = [self.values, self.scale, self.zero, self.minimum]
        values, scale, *rest = parts if expert is None else [None if t is None else t[expert] for t in parts]
        assert values is not None and scale is not None
        return Codes(self.bits, self.columns, values, scale, *rest).dense(dtype)


class _QuantizedProduct(torch.autograd.Function):
    """x·Wᵀ; keeps neither x (W has no gradient) nor W multiplied out."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight: Quantized, expert: int | None) -> Tensor:
        ctx.weight, ctx.expert, ctx.dtype = weight, expert, x_NI.dtype
        return ops.linear(x_NI, weight.dense(x_NI.dtype, expert))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_NC: Tensor) -> tuple[Tensor, None, None]:
        weight_CI = ctx.weight.dense(d_out_NC.dtype, ctx.expert)
        return ops.linear(d_out_NC, weight_CI.T).to(ctx.dtype), None, None


def project(x_NI: Tensor, weight: Tensor | Quantized, bias_C: Tensor | None, updates: Updates | None) -> Tensor:
    """x·Wᵀ + b, and what adapters add."""
    if isinstance(weight, Quantized):
        out_NC: Tensor = _QuantizedProduct.apply(x_NI, weight, None)
        out_NC = out_NC if bias_C is None else out_NC + bias_C
    else:
        out_NC = ops.linear(x_NI, weight, bias_C)
    return out_NC if updates is None else updates(x_NI, out_NC)


def project_groups(
    x_MI: Tensor, starts: Tensor, weight: Tensor | Quantized, updates: Updates | None, token_M: Tensor | None = None
) -> Tensor:
    """`project` of rows sorted by expert: those from starts[e] to starts[e + 1] with the weights [e] of [E, C, I]."""
    if isinstance(weight, Quantized):
        borders = starts.tolist()
        parts = [
            _QuantizedProduct.apply(x_MI[first:last], weight, e)
            for e, (first, last) in enumerate(pairwise(borders))
            if last > first
        ]
        out_MC = torch.cat(parts)
    else:
        out_MC = ops.grouped_linear(x_MI, starts, weight)
    return out_MC if updates is None else updates(x_MI, out_MC, starts, token_M)


def experts(
    x_ND: Tensor,
    gate_up: Tensor | Quantized,
    down: Tensor | Quantized,
    weight_Nk: Tensor,
    chosen_Nk: Tensor,
    updates: nn.ModuleDict | None,
) -> Tensor:
    """`ops.experts`, in steps where a projection is more than a matrix; updates are under "gate_up" and "down"."""
    if updates is None and isinstance(gate_up, Tensor) and isinstance(down, Tensor):
        return ops.experts(x_ND, gate_up, down, weight_Nk, chosen_Nk)

    def of(name: str) -> Any:
        return updates[name] if updates is not None and name in updates else None

    (n, top_k), count = chosen_Nk.shape, gate_up.shape[0]
    order_M = chosen_Nk.flatten().argsort(stable=True)
    token_M = order_M // top_k
    load_E = torch.bincount(chosen_Nk.flatten(), minlength=count)
    starts = torch.cat((load_E.new_zeros(1), load_E.cumsum(0)))
    h_MF = ops.swiglu(project_groups(x_ND[token_M], starts, gate_up, of("gate_up"), token_M))
    y_MD = project_groups(h_MF, starts, down, of("down"), token_M) * weight_Nk.flatten()[order_M, None]
    return y_MD.new_zeros(n, y_MD.shape[1]).index_add(0, token_M, y_MD)


def is_plain(model: nn.Module) -> bool:
    """Whether every projection is a product with a float matrix and nothing else (fused executors need that)."""
    return not any(isinstance(m, Quantized) or getattr(m, "updates", None) is not None for m in model.modules())

"""Matrix products in tiles (`products.c`), and attention (`attention.c`): forward and backward, float32 on a CPU.

The forward sums run in the order of `rows.h`, as in generation; gradients may be summed in any order.

Shape suffixes as in transformer.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qwill.model.batch import AttentionPlan
from qwill.model.native_library import call, lanes, threads

# Tokens of a sequence whose gradient is made here: every thread then holds two squares of that side (2 × 64 MiB).
LONGEST = 4096
TERM_BLOCK = 1024  # as in products.c


def padded(columns: int) -> int:
    width = 2 * lanes()
    return -(-columns // width) * width


def starts_of(rows: int) -> Tensor:
    return torch.tensor([0, rows])


def product(
    a: Tensor, start: Tensor, weight: Tensor, out: Tensor, transposed: bool = False, bias: Tensor | None = None
) -> None:
    """out = a · weightᵀ (or a · weight), each row with its group's of the weights [groups, C, D]."""
    groups, rows, terms = weight.shape
    c, k = (terms, rows) if transposed else (rows, terms)
    if groups > 1 and bias is None and k <= TERM_BLOCK:
        call("products_of", a, start, groups, k, weight, *((1, c) if transposed else (k, 1)), c, out, threads())
        return
    packed = a.new_empty(groups * padded(c) * k)
    steps = (1, c) if transposed else (k, 1)
    call("pack_weights", weight, groups, c, k, *steps, packed, threads())
    call("products", a, start, groups, k, packed, c, bias, int(transposed), out, threads())


def outer(a: Tensor, x: Tensor, start: Tensor, out: Tensor, add: bool = False) -> None:
    """out[group] = aᵀ · x of each group's rows, or that much more."""
    groups, c = len(start) - 1, x.shape[1]
    packed = x.new_empty(len(x) * padded(c))
    call("pack_rows", x, start, groups, c, packed, threads())
    call("outer_products", a, start, groups, a.shape[1], packed, c, int(add), out, threads())


def multiply(a_BRC: Tensor, b_BCD: Tensor, transposed: bool) -> Tensor:
    a_BRC, b_BCD = a_BRC.contiguous(), b_BCD.contiguous()
    groups, rows, _ = a_BRC.shape
    out = a_BRC.new_empty(groups, rows, b_BCD.shape[1 if transposed else 2])
    product(a_BRC, torch.arange(groups + 1) * rows, b_BCD, out, transposed=not transposed)
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_CD: Tensor, bias_C: Tensor | None) -> Tensor:
        x_ND, weight_CD = x_ND.contiguous(), weight_CD.contiguous()
        out_NC = x_ND.new_empty(len(x_ND), len(weight_CD))
        product(x_ND, starts_of(len(x_ND)), weight_CD[None], out_NC, bias=bias_C)
        ctx.save_for_backward(x_ND, weight_CD)
        ctx.bias = bias_C is not None
        return out_NC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_NC: Tensor) -> tuple[Any, ...]:
        x_ND, weight_CD = ctx.saved_tensors
        d_out_NC, start = d_out_NC.contiguous(), starts_of(len(x_ND))
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            d_x = torch.empty_like(x_ND)
            product(d_out_NC, start, weight_CD[None], d_x, transposed=True)
        if ctx.needs_input_grad[1]:
            d_weight = torch.empty_like(weight_CD)
            outer(d_out_NC, x_ND, start, d_weight)
        return d_x, d_weight, d_out_NC.sum(0) if ctx.bias else None


def linear(x_ND: Tensor, weight_CD: Tensor, bias_C: Tensor | None) -> Tensor:
    return _Linear.apply(x_ND, weight_CD, bias_C)


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, starts: Tensor, weight_ECD: Tensor) -> Tensor:
        x_MD, weight_ECD = x_MD.contiguous(), weight_ECD.contiguous()
        out_MC = x_MD.new_empty(len(x_MD), weight_ECD.shape[1])
        product(x_MD, starts, weight_ECD, out_MC)
        # Weights without a gradient (under an adapter) need no x, and x without one no weights.
        ctx.save_for_backward(
            x_MD if ctx.needs_input_grad[2] else None, starts, weight_ECD if ctx.needs_input_grad[0] else None
        )
        ctx.shapes = x_MD.shape, weight_ECD.shape
        return out_MC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_MC: Tensor) -> tuple[Any, ...]:
        x_MD, starts, weight_ECD = ctx.saved_tensors
        d_out_MC = d_out_MC.contiguous()
        d_x = d_weight = None
        if weight_ECD is not None:
            d_x = d_out_MC.new_empty(ctx.shapes[0])
            product(d_out_MC, starts, weight_ECD, d_x, transposed=True)
        if x_MD is not None:
            d_weight = d_out_MC.new_empty(ctx.shapes[1])
            outer(d_out_MC, x_MD, starts, d_weight)
        return d_x, None, d_weight


def grouped_linear(x_MD: Tensor, starts: Tensor, weight_ECD: Tensor) -> Tensor:
    return _GroupedLinear.apply(x_MD, starts, weight_ECD)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, plan: AttentionPlan) -> Tensor:
        q_NHK, k_NHK, v_NHK = q_NHK.contiguous(), k_NHK.contiguous(), v_NHK.contiguous()
        n, heads, head_dim = q_NHK.shape
        out_NC, borders = q_NHK.new_empty(n, heads * head_dim), plan.cu_seqlens
        call(
            "attention_forward", q_NHK, k_NHK, v_NHK, borders, len(borders) - 1, plan.longest, heads, k_NHK.shape[1],
            head_dim, out_NC, threads(),
        )  # fmt: skip
        ctx.save_for_backward(q_NHK, k_NHK, v_NHK)
        ctx.plan = plan
        return out_NC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_NC: Tensor) -> tuple[Any, ...]:
        q_NHK, k_NHK, v_NHK = saved = ctx.saved_tensors  # once: asked again, recomputed activations are refused
        gradients, borders = tuple(torch.empty_like(x) for x in saved), ctx.plan.cu_seqlens
        call(
            "attention_backward", q_NHK, k_NHK, v_NHK, d_out_NC.contiguous(), borders, len(borders) - 1,
            ctx.plan.longest, *q_NHK.shape[1:2], *k_NHK.shape[1:], *gradients, threads(),
        )  # fmt: skip
        return *gradients, None


def attends(plan: AttentionPlan, head_dim: int) -> bool:
    return head_dim % lanes() == 0 and (plan.longest <= LONGEST or not torch.is_grad_enabled())


def attention(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, plan: AttentionPlan) -> Tensor:
    return _Attention.apply(q_NHK, k_NHK, v_NHK, plan)


def cached_attention(q_NHK: Tensor, k_RSGK: Tensor, v_RSGK: Tensor, cu_seqlens: Tensor, seen_R: Tensor) -> Tensor:
    """out_NHK of each sequence's last tokens; its very last sees `seen_R` (int64) of its keys. No gradients."""
    q_NHK, k_RSGK, v_RSGK = q_NHK.contiguous(), k_RSGK.contiguous(), v_RSGK.contiguous()
    out_NHK = torch.empty_like(q_NHK)
    (_, heads, head_dim), (sequences, span, kv_heads, _) = q_NHK.shape, k_RSGK.shape
    call(
        "attention_cached", q_NHK, k_RSGK, v_RSGK, cu_seqlens, seen_R, sequences, span, heads, kv_heads, head_dim,
        out_NHK, threads(),
    )  # fmt: skip
    return out_NHK

"""Native executors of the operations in `ops.py`, for float32 on a CPU, with gradients written out by hand.

What generation computes too is summed in the same order as there (`rows.h`): a token's log-probability in training is
the one that it was sampled with, to the last bit. Tests hold everything here against the definitions.

Shape suffixes as in transformer.py; M = N·k is the number of (token, expert) assignments, sorted by expert.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qwill.model.native_library import call, enable, libraries, suits, threads
from qwill.model.native_losses import cross_entropy, token_losses
from qwill.model.native_products import attends, attention, grouped_linear, linear, multiply, outer, product

__all__ = [
    "add_rms_norm", "attends", "attention", "choose_experts", "cross_entropy", "enable", "experts",
    "grouped_linear", "libraries", "linear", "multiply", "qk_norm_rope", "suits", "swiglu", "token_losses",
]  # fmt: skip


class _Choice(torch.autograd.Function):
    """Softmax over the experts, the top k and their weights."""

    @staticmethod
    def forward(ctx: Any, router_NE: Tensor, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor, Tensor]:
        p_NE, (n, experts) = router_NE.clone(memory_format=torch.contiguous_format), router_NE.shape
        chosen_Nk, weight_Nk = torch.empty(n, top_k, dtype=torch.int64), router_NE.new_empty(n, top_k)
        call("choose_experts", p_NE, n, experts, top_k, int(renormalise), chosen_Nk, weight_Nk, threads())
        ctx.save_for_backward(p_NE, weight_Nk, chosen_Nk)
        ctx.renormalise = renormalise
        ctx.mark_non_differentiable(chosen_Nk)
        return p_NE, weight_Nk, chosen_Nk

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_p_NE: Tensor, d_weight_Nk: Tensor, _: Tensor) -> tuple[Any, ...]:
        p_NE, weight_Nk, chosen_Nk = ctx.saved_tensors
        if ctx.renormalise:
            kept_N1 = p_NE.gather(1, chosen_Nk).sum(1, keepdim=True)
            d_weight_Nk = (d_weight_Nk - (d_weight_Nk * weight_Nk).sum(1, keepdim=True)) / kept_N1
        d_p_NE = d_p_NE.scatter_add(1, chosen_Nk, d_weight_Nk)
        return p_NE * (d_p_NE - (d_p_NE * p_NE).sum(1, keepdim=True)), None, None


def choose_experts(router_NE: Tensor, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor, Tensor]:
    return _Choice.apply(router_NE, top_k, renormalise)


class _AddRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, delta_ND: Tensor | None, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x_ND = x_ND.contiguous()
        n, d = x_ND.shape
        total = x_ND if delta_ND is None else torch.empty_like(x_ND)
        y_ND, rstd_N = torch.empty_like(x_ND), x_ND.new_empty(n)
        delta = None if delta_ND is None else delta_ND.contiguous()
        call("add_rms_norm_forward", x_ND, delta, weight_D, eps, n, d, total, y_ND, rstd_N, threads())
        ctx.save_for_backward(total, weight_D, rstd_N)
        ctx.has_delta = delta_ND is not None
        if delta_ND is None:
            ctx.mark_non_differentiable()
            return x_ND.view_as(x_ND), y_ND
        return total, y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total_ND: Tensor, dy_ND: Tensor) -> tuple[Any, ...]:
        total, weight_D, rstd_N = ctx.saved_tensors
        n, d = total.shape
        dx, dw = torch.empty_like(total), torch.empty_like(weight_D)
        part = total.new_empty(torch.get_num_threads() * d)
        dy_ND, d_total_ND = dy_ND.contiguous(), d_total_ND.contiguous()
        call("add_rms_norm_backward", dy_ND, d_total_ND, total, weight_D, rstd_N, n, d, dx, dw, part, threads())
        return dx, dx if ctx.has_delta else None, dw, None


def add_rms_norm(x_ND: Tensor, delta_ND: Tensor | None, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _AddRMSNorm.apply(x_ND, delta_ND, weight_D, eps)


class _QKNormRope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        qw: Tensor | None,
        kw: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        heads: int,
        kv_heads: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        qkv = qkv.contiguous()
        n, turned = qkv.shape[0], 2 * cos.shape[1]
        k_dim = qkv.shape[1] // (heads + 2 * kv_heads)
        q = qkv.new_empty(n, heads, k_dim)
        k, v = qkv.new_empty(n, kv_heads, k_dim), qkv.new_empty(n, kv_heads, k_dim)
        rstd = qkv.new_zeros(n, heads + kv_heads)
        call(
            "qk_norm_rope_forward", qkv, qw, kw, cos, sin, eps, n, heads, kv_heads, k_dim, turned, q, k, v, rstd,
            threads(),
        )  # fmt: skip
        ctx.save_for_backward(qkv, qw, kw, cos, sin, rstd)
        ctx.heads, ctx.kv_heads = heads, kv_heads
        return q, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Any, ...]:
        qkv, qw, kw, cos, sin, rstd = ctx.saved_tensors
        n, k_dim = qkv.shape[0], dq.shape[2]
        dqkv, dqw, dkw = torch.empty_like(qkv), qkv.new_empty(k_dim), qkv.new_empty(k_dim)
        part = qkv.new_empty(torch.get_num_threads() * 3 * k_dim)
        dq, dk, dv = dq.contiguous(), dk.contiguous(), dv.contiguous()
        call(
            "qk_norm_rope_backward", dq, dk, dv, qkv, qw, kw, cos, sin, rstd, n, ctx.heads, ctx.kv_heads, k_dim,
            2 * cos.shape[1], dqkv, dqw, dkw, part, threads(),
        )  # fmt: skip
        normed = qw is not None
        return dqkv, dqw if normed else None, dkw if normed else None, None, None, None, None, None


def qk_norm_rope(
    qkv_NC: Tensor,
    q_weight_K: Tensor | None,
    k_weight_K: Tensor | None,
    rope: tuple[Tensor, Tensor],
    heads: int,
    kv_heads: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return _QKNormRope.apply(qkv_NC, q_weight_K, k_weight_K, rope[0], rope[1], heads, kv_heads, eps)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        n, f = gate_up.shape[0], gate_up.shape[1] // 2
        h = gate_up.new_empty(n, f)
        call("swiglu_forward", gate_up, None, n, f, h, threads())
        ctx.save_for_backward(gate_up)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        n, f = gate_up.shape[0], gate_up.shape[1] // 2
        d_gate_up = torch.empty_like(gate_up)
        call("swiglu_backward", dh.contiguous(), gate_up, None, n, f, d_gate_up, None, threads())
        return d_gate_up


def swiglu(gate_up: Tensor) -> Tensor:
    return _SwiGLU.apply(gate_up)


class _Experts(torch.autograd.Function):
    """Tokens sorted by expert, two matrix products an expert; the weight multiplies the hidden activation, which is the
    same as multiplying the output and saves keeping it for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor, weight_Nk: Tensor, chosen_Nk: Tensor
    ) -> Tensor:
        x_ND = x_ND.contiguous()
        (n, d), top_k, (count, _, f) = x_ND.shape, chosen_Nk.shape[1], down_EDF.shape
        m = n * top_k
        place_M, token_M = torch.empty(m, dtype=torch.int32), torch.empty(m, dtype=torch.int32)
        starts = torch.empty(count + 1, dtype=torch.int64)
        call("route", chosen_Nk.contiguous(), n, top_k, count, place_M, token_M, starts)
        weight_M = torch.empty(m).index_copy_(0, place_M.long(), weight_Nk.reshape(-1))
        x_MD = x_ND.new_empty(m, d)
        call("gather_rows", x_ND, token_M, m, d, x_MD, threads())
        gate_up_MF, h_MF, y_MD = x_ND.new_empty(m, 2 * f), x_ND.new_empty(m, f), x_ND.new_empty(m, d)
        product(x_MD, starts, gate_up_EFD, gate_up_MF)
        call("swiglu_forward", gate_up_MF, weight_M, m, f, h_MF, threads())
        product(h_MF, starts, down_EDF, y_MD)
        out_ND = torch.empty_like(x_ND)
        call("combine_rows", y_MD, place_M, n, top_k, d, out_ND, threads())
        ctx.save_for_backward(gate_up_EFD, down_EDF, weight_M, place_M, token_M, starts, x_MD, gate_up_MF, h_MF)
        ctx.shape_Nk = weight_Nk.shape
        return out_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_ND: Tensor) -> tuple[Any, ...]:
        gate_up_EFD, down_EDF, weight_M, place_M, token_M, starts, x_MD, gate_up_MF, h_MF = ctx.saved_tensors
        (m, f), (n, d), top_k = h_MF.shape, d_out_ND.shape, ctx.shape_Nk[1]
        dy_MD = torch.empty_like(x_MD)
        call("gather_rows", d_out_ND.contiguous(), token_M, m, d, dy_MD, threads())
        dh_MF, d_down, d_gate_up = torch.empty_like(h_MF), None, None
        product(dy_MD, starts, down_EDF, dh_MF, transposed=True)
        if ctx.needs_input_grad[2]:
            d_down = torch.empty_like(down_EDF)
            outer(dy_MD, h_MF, starts, d_down)
        d_gate_up_MF, d_weight_M = torch.empty_like(gate_up_MF), torch.empty_like(weight_M)
        call("swiglu_backward", dh_MF, gate_up_MF, weight_M, m, f, d_gate_up_MF, d_weight_M, threads())
        dx_MD = dy_MD
        if ctx.needs_input_grad[1]:
            d_gate_up = torch.empty_like(gate_up_EFD)
            outer(d_gate_up_MF, x_MD, starts, d_gate_up)
        product(d_gate_up_MF, starts, gate_up_EFD, dx_MD, transposed=True)
        dx_ND = torch.empty_like(d_out_ND, memory_format=torch.contiguous_format)
        call("combine_rows", dx_MD, place_M, n, top_k, d, dx_ND, threads())
        d_weight_Nk = d_weight_M[place_M.long()].view(ctx.shape_Nk)
        return dx_ND, d_gate_up, d_down, d_weight_Nk, None


def experts(x_ND: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor, weight_Nk: Tensor, chosen_Nk: Tensor) -> Tensor:
    return _Experts.apply(x_ND, gate_up_EFD, down_EDF, weight_Nk, chosen_Nk)

"""Native executors of Gated DeltaNet's operations (`delta.c`, `gates.c`): forward and backward, float32 on a CPU.

Tests hold everything here against the definitions in `delta.py`. Shape suffixes as there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qwill.model.native_library import call, function, lanes, threads


def _rows(x_NHK: Tensor) -> Tensor:
    """Heads side by side, tokens any distance apart: a part of a projection is taken as it lies."""
    whole = x_NHK.stride()[1:] == (x_NHK.shape[2], 1) if x_NHK.dim() == 3 else x_NHK.stride(1) == 1
    return x_NHK if whole else x_NHK.contiguous()


def _kept_states(cu_seqlens: Tensor) -> Tensor:
    """[R + 1], the number of each sequence's first state that is kept for the backward pass."""
    tokens = int(function("delta_tokens_per_state")())
    count_R = -(-cu_seqlens.diff().long() // tokens)
    return torch.cat([count_R.new_zeros(1), count_R.cumsum(0)])


class _GatedDelta(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        beta: Tensor,
        cu_seqlens: Tensor,
        state: Tensor | None,
        new_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v, g, beta = _rows(q), _rows(k), _rows(v), g.contiguous(), beta.contiguous()
        first = None if state is None else state.contiguous()
        (n, heads, width), (sequences, key_heads, key_width) = v.shape, (len(cu_seqlens) - 1, *k.shape[1:])
        sizes = (sequences, key_heads, heads, key_width, width, q.stride(0), k.stride(0), v.stride(0))
        last = v.new_empty(sequences, heads, key_width, width) if new_state else None
        delta = kept = None
        kept_first = _kept_states(cu_seqlens)
        if any(ctx.needs_input_grad):
            panel = 2 * lanes()
            delta = v.new_empty(n, heads, width)
            kept = v.new_empty(int(kept_first[-1]), heads, key_width, -(-width // panel) * panel)
        out = v.new_empty(n, heads, width)
        call("gated_delta_forward", q, k, v, g, beta, first, cu_seqlens, kept_first, *sizes, out, delta, kept, last,
             threads())  # fmt: skip
        ctx.save_for_backward(q, k, v, g, beta, cu_seqlens, kept_first, delta, kept)
        ctx.sizes, ctx.has_state = sizes, state is not None
        ctx.set_materialize_grads(False)
        return out, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor | None, d_last: Tensor | None) -> tuple[Any, ...]:
        q, k, v, g, beta, cu_seqlens, kept_first, delta, kept = ctx.saved_tensors
        d_out = torch.zeros_like(delta) if d_out is None else d_out.contiguous()
        d_last = None if d_last is None else d_last.contiguous()
        d_q, d_k, d_v = (x.new_empty(x.shape) for x in (q, k, v))
        d_g, d_beta = torch.empty_like(g), torch.empty_like(beta)
        d_first = v.new_empty(ctx.sizes[0], *ctx.sizes[2:5]) if ctx.has_state else None
        call("gated_delta_backward", q, k, v, g, beta, cu_seqlens, kept_first, *ctx.sizes, delta, kept, d_out, d_last,
             d_q, d_k, d_v, d_g, d_beta, d_first, threads())  # fmt: skip
        return d_q, d_k, d_v, d_g, d_beta, None, d_first, None


def gated_delta(
    q_NGK: Tensor,
    k_NGK: Tensor,
    v_NHV: Tensor,
    log_decay_NH: Tensor,
    beta_NH: Tensor,
    cu_seqlens: Tensor,
    state_RHKV: Tensor | None,
    new_state: bool,
) -> tuple[Tensor, Tensor | None]:
    sequences, inputs = len(cu_seqlens) - 1, (q_NGK, k_NGK, v_NHV, log_decay_NH, beta_NH, state_RHKV)
    wanted = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    if wanted or len(v_NHV) != sequences or int(cu_seqlens.diff().max()) != 1:
        return _GatedDelta.apply(q_NGK, k_NGK, v_NHV, log_decay_NH, beta_NH, cu_seqlens, state_RHKV, new_state)
    q, k, v, g, beta = *map(_rows, (q_NGK, k_NGK, v_NHV)), log_decay_NH.contiguous(), beta_NH.contiguous()
    old = None if state_RHKV is None else state_RHKV.contiguous()
    (_, heads, width), (key_heads, key_width) = v.shape, k.shape[1:]
    out, last = v.new_empty(sequences, heads, width), v.new_empty(sequences, heads, key_width, width)
    steps = (q.stride(0), k.stride(0), v.stride(0))
    call("gated_delta_step", q, k, v, g, beta, old, sequences, key_heads, heads, key_width, width, *steps, out, last,
         threads())  # fmt: skip
    return out, last if new_state else None


class _ConvSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, cu_seqlens: Tensor, state_RPC: Tensor | None) -> Tensor:
        x, filter_WC = _rows(x), weight.T.contiguous()
        (n, channels), (width, _) = x.shape, filter_WC.shape
        sizes, y = (len(cu_seqlens) - 1, width, channels, x.stride(0)), x.new_empty(n, channels)
        call("conv_silu_forward", x, filter_WC, cu_seqlens, state_RPC, *sizes, y, threads())
        ctx.save_for_backward(x, filter_WC, cu_seqlens, state_RPC)
        ctx.sizes = sizes
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Any, ...]:
        x, filter_WC, cu_seqlens, state_RPC = ctx.saved_tensors
        d_x, d_filter = x.new_empty(x.shape), torch.empty_like(filter_WC)
        d_state = torch.empty_like(state_RPC) if ctx.needs_input_grad[3] else None
        part = x.new_empty(torch.get_num_threads() * filter_WC.numel())
        call("conv_silu_backward", x, filter_WC, cu_seqlens, state_RPC, d_y.contiguous(), *ctx.sizes, d_x, d_filter,
             d_state, part, threads())  # fmt: skip
        return d_x, d_filter.T.contiguous(), None, d_state


def causal_conv_silu(x_NC: Tensor, weight_CW: Tensor, cu_seqlens: Tensor, state_RCP: Tensor | None) -> Tensor:
    state_RPC = None if state_RCP is None else state_RCP.mT.contiguous()
    return _ConvSilu.apply(x_NC, weight_CW, cu_seqlens, state_RPC)


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, o: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
        o, z = o.contiguous(), _rows(z)
        y, rstd = torch.empty_like(o), o.new_empty(o.shape[:2])
        call("gated_norm_forward", o, z, weight, eps, *o.shape, z.stride(0), y, rstd, threads())
        ctx.save_for_backward(o, z, weight, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Any, ...]:
        o, z, weight, rstd = ctx.saved_tensors
        d_o, d_z, d_w = torch.empty_like(o), o.new_empty(z.shape), torch.empty_like(weight)
        part = o.new_empty(torch.get_num_threads() * 2 * o.shape[2])
        call("gated_norm_backward", d_y.contiguous(), o, z, weight, rstd, *o.shape, z.stride(0), d_o, d_z, d_w, part,
             threads())  # fmt: skip
        return d_o, d_z, d_w, None


def gated_rms_norm(o_NHV: Tensor, z_NHV: Tensor, weight_V: Tensor, eps: float) -> Tensor:
    return _GatedNorm.apply(o_NHV, z_NHV, weight_V, eps)

"""Native executors of the operations in `ops.py`, for float32 on a CPU: one C file, compiled once a machine.

`kernels.c` is compiled with the system's C compiler at first use (about two seconds, kept in Qwill's cache under a hash
of source, compiler and processor). Without a compiler everything still works through the PyTorch definitions, slower.
Gradients are written out by hand; tests hold both against the definitions.

Shape suffixes as in transformer.py; M = N·k is the number of (token, expert) assignments, sorted by expert.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qwill.base.native_build import compile_library

_enabled = os.environ.get("QWILL_NATIVE", "1") != "0"


def enable(on: bool) -> None:
    """Turn the native kernels on (where a compiler exists) or off."""
    global _enabled
    _enabled = on


@cache
def library() -> ctypes.CDLL | None:
    return compile_library("kernels.c", __package__ or "qwill.model")


def suits(x: Tensor) -> bool:
    return (
        _enabled
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and library() is not None
    )


def _call(name: str, *args: Any) -> None:
    """Call a kernel; tensors pass as pointers (they must be contiguous), ints as int64, floats as float."""
    converted: list[Any] = []
    for a in args:
        if isinstance(a, Tensor):
            converted.append(ctypes.c_void_p(a.data_ptr()))
        elif isinstance(a, bool):
            converted.append(ctypes.c_int(a))
        elif isinstance(a, int):
            converted.append(ctypes.c_int64(a))
        elif isinstance(a, float):
            converted.append(ctypes.c_float(a))
        else:
            converted.append(a)
    lib = library()
    assert lib is not None
    getattr(lib, name)(*converted)


def _threads() -> ctypes.c_int:
    return ctypes.c_int(torch.get_num_threads())


class _AddRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, delta_ND: Tensor | None, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x_ND = x_ND.contiguous()
        n, d = x_ND.shape
        total = x_ND if delta_ND is None else torch.empty_like(x_ND)
        y_ND, rstd_N = torch.empty_like(x_ND), x_ND.new_empty(n)
        delta = None if delta_ND is None else delta_ND.contiguous()
        _call("add_rms_norm_forward", x_ND, delta, weight_D, eps, n, d, total, y_ND, rstd_N, _threads())
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
        _call("add_rms_norm_backward", dy_ND, d_total_ND, total, weight_D, rstd_N, n, d, dx, dw, part, _threads())
        return dx, dx if ctx.has_delta else None, dw, None


def add_rms_norm(x_ND: Tensor, delta_ND: Tensor | None, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _AddRMSNorm.apply(x_ND, delta_ND, weight_D, eps)


class _QKNormRope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, qw: Tensor, kw: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        qkv = qkv.contiguous()
        n, k_dim = qkv.shape[0], qw.shape[0]
        q = qkv.new_empty(n, heads, k_dim)
        k, v = qkv.new_empty(n, kv_heads, k_dim), qkv.new_empty(n, kv_heads, k_dim)
        rstd = qkv.new_empty(n, heads + kv_heads)
        _call(
            "qk_norm_rope_forward", qkv, qw, kw, cos, sin, eps, n, heads, kv_heads, k_dim, q, k, v, rstd, _threads()
        )  # fmt: skip
        ctx.save_for_backward(qkv, qw, kw, cos, sin, rstd)
        ctx.heads, ctx.kv_heads = heads, kv_heads
        return q, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Any, ...]:
        qkv, qw, kw, cos, sin, rstd = ctx.saved_tensors
        n, k_dim = qkv.shape[0], qw.shape[0]
        dqkv, dqw, dkw = torch.empty_like(qkv), torch.empty_like(qw), torch.empty_like(kw)
        part = qkv.new_empty(torch.get_num_threads() * 3 * k_dim)
        dq, dk, dv = dq.contiguous(), dk.contiguous(), dv.contiguous()
        _call(
            "qk_norm_rope_backward", dq, dk, dv, qkv, qw, kw, cos, sin, rstd, n, ctx.heads, ctx.kv_heads, k_dim,
            dqkv, dqw, dkw, part, _threads(),
        )  # fmt: skip
        return dqkv, dqw, dkw, None, None, None, None, None


def qk_norm_rope(
    qkv_NC: Tensor,
    q_weight_K: Tensor,
    k_weight_K: Tensor,
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
        _call("swiglu_forward", gate_up, None, n, f, h, _threads())
        ctx.save_for_backward(gate_up)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        n, f = gate_up.shape[0], gate_up.shape[1] // 2
        d_gate_up = torch.empty_like(gate_up)
        _call("swiglu_backward", dh.contiguous(), gate_up, None, n, f, d_gate_up, None, _threads())
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
        _call("route", chosen_Nk.contiguous(), n, top_k, count, place_M, token_M, starts)
        weight_M = torch.empty(m).index_copy_(0, place_M.long(), weight_Nk.reshape(-1))
        x_MD = x_ND.new_empty(m, d)
        _call("gather_rows", x_ND, token_M, m, d, x_MD, _threads())
        gate_up_MF, h_MF, y_MD = x_ND.new_empty(m, 2 * f), x_ND.new_empty(m, f), x_ND.new_empty(m, d)
        bounds = starts.tolist()
        spans = [(e, slice(a, b)) for e, (a, b) in enumerate(pairwise(bounds)) if b > a]
        for e, s in spans:
            torch.mm(x_MD[s], gate_up_EFD[e].T, out=gate_up_MF[s])
        _call("swiglu_forward", gate_up_MF, weight_M, m, f, h_MF, _threads())
        for e, s in spans:
            torch.mm(h_MF[s], down_EDF[e].T, out=y_MD[s])
        out_ND = torch.empty_like(x_ND)
        _call("combine_rows", y_MD, place_M, n, top_k, d, out_ND, _threads())
        ctx.save_for_backward(gate_up_EFD, down_EDF, weight_M, place_M, token_M, x_MD, gate_up_MF, h_MF)
        ctx.spans, ctx.shape_Nk = spans, weight_Nk.shape
        return out_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_ND: Tensor) -> tuple[Any, ...]:
        gate_up_EFD, down_EDF, weight_M, place_M, token_M, x_MD, gate_up_MF, h_MF = ctx.saved_tensors
        (m, f), (n, d), top_k = h_MF.shape, d_out_ND.shape, ctx.shape_Nk[1]
        dy_MD = torch.empty_like(x_MD)
        _call("gather_rows", d_out_ND.contiguous(), token_M, m, d, dy_MD, _threads())
        dh_MF = torch.empty_like(h_MF)
        d_down, d_gate_up = torch.zeros_like(down_EDF), torch.zeros_like(gate_up_EFD)
        for e, s in ctx.spans:
            torch.mm(dy_MD[s], down_EDF[e], out=dh_MF[s])
            torch.mm(dy_MD[s].T, h_MF[s], out=d_down[e])
        d_gate_up_MF, d_weight_M = torch.empty_like(gate_up_MF), torch.empty_like(weight_M)
        _call("swiglu_backward", dh_MF, gate_up_MF, weight_M, m, f, d_gate_up_MF, d_weight_M, _threads())
        dx_MD = dy_MD
        for e, s in ctx.spans:
            torch.mm(d_gate_up_MF[s].T, x_MD[s], out=d_gate_up[e])
            torch.mm(d_gate_up_MF[s], gate_up_EFD[e], out=dx_MD[s])
        dx_ND = torch.empty_like(d_out_ND, memory_format=torch.contiguous_format)
        _call("combine_rows", dx_MD, place_M, n, top_k, d, dx_ND, _threads())
        d_weight_Nk = d_weight_M[place_M.long()].view(ctx.shape_Nk)
        return dx_ND, d_gate_up, d_down, d_weight_Nk, None


def experts(x_ND: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor, weight_Nk: Tensor, chosen_Nk: Tensor) -> Tensor:
    return _Experts.apply(x_ND, gate_up_EFD, down_EDF, weight_Nk, chosen_Nk)


class _CrossEntropy(torch.autograd.Function):
    """Gradients are made chunk by chunk while the logits are in hand, so that no logits outlive their chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weight_N: Tensor, chunk: int, gradient: bool
    ) -> tuple[Tensor, Tensor]:
        hidden_ND, weight_N = hidden_ND.contiguous(), weight_N.contiguous()
        n, vocab = hidden_ND.shape[0], head_VD.shape[0]
        loss_N = hidden_ND.new_empty(n)
        d_hidden = torch.empty_like(hidden_ND) if gradient else None
        d_head = torch.zeros_like(head_VD) if gradient else None
        buffer = hidden_ND.new_empty(min(chunk, n), vocab)
        for i in range(0, n, chunk):
            part = slice(i, min(i + chunk, n))
            rows = part.stop - i
            logits = torch.mm(hidden_ND[part], head_VD.T, out=buffer[:rows])
            _call(
                "softmax_cross_entropy", logits, targets_N[part].contiguous(), weight_N[part], rows, vocab,
                loss_N[part], gradient, _threads(),
            )  # fmt: skip
            if d_hidden is not None and d_head is not None:
                torch.mm(logits, head_VD, out=d_hidden[part])
                d_head.addmm_(logits.T, hidden_ND[part])
        ctx.save_for_backward(d_hidden, d_head)
        ctx.mark_non_differentiable(loss_N)
        return (loss_N * weight_N).sum(), loss_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor, _: Tensor) -> tuple[Any, ...]:
        d_hidden, d_head = ctx.saved_tensors
        if float(d_total) != 1.0:
            d_hidden, d_head = d_hidden * d_total, d_head * d_total
        return d_hidden, d_head, None, None, None, None


def cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weight_N: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    return _CrossEntropy.apply(hidden_ND, head_VD, targets_N, weight_N, min(chunk, 512), torch.is_grad_enabled())

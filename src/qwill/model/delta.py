"""Gated DeltaNet: linear attention whose state is written by the delta rule and fades by a learned decay.

    x̂ = silu(conv(x))                        causal, one short filter a channel, over [q; k; v]
    q, k ← q/|q|·K^-0.5, k/|k|               value head h reads key head ⌊h / (H/G)⌋
    S ← e^g·S;  δ = β·(v − Sᵀk);  S ← S + k·δᵀ;  o = Sᵀq          for each token; g = −e^A·softplus(a + dt), β = σ(b)
    out = RMSNorm(o)·w ⊙ silu(z)

Sources: Gated Delta Networks (arXiv 2412.06464) eq. 10; the chunked form is the WY representation of DeltaNet (arXiv
2406.06484 §3.2) with the decay of Gated Delta Networks §3.3. The plain PyTorch here is the truth: any device, any
dtype (float64 stays float64, all else computes in float32 inside), differentiable.

Batches are packed: N tokens, sequences end to end, `cu_seqlens` int32 [R + 1] on the CPU. Neither states nor
convolution cross a border. States are asked for with `new_state`; training doesn't pay for them.

Shape suffixes: N tokens, R sequences, G key heads, H value heads, K key size, V value size, C channels, W filter width,
P = W − 1 past inputs. In chunks: M chunks of all sequences, I and J positions inside a chunk.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from qwill.model import native_delta
from qwill.model.native_library import suits

CHUNK = 64
EPS = 1e-6  # of the L2 norm of q and k; not the model's rms_norm_eps


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def decay(a_NH: Tensor, A_log_H: Tensor, dt_bias_H: Tensor) -> Tensor:
    """Logarithm of each token's decay, g = −e^A·softplus(a + dt) ≤ 0, in float32 or better (arXiv 2412.06464 §3.1)."""
    if suits(a_NH):
        return (-A_log_H.double().exp() * softplus(a_NH.double() + dt_bias_H)).float()  # as in `ops.sigmoid`
    return -_wide(A_log_H).exp() * softplus(_wide(a_NH) + dt_bias_H)


def gated_rms_norm(o_NHV: Tensor, z_NHV: Tensor, weight_V: Tensor, eps: float) -> Tensor:
    """RMSNorm(o)·w ⊙ silu(z) over each head; in float32 or better, rounded where transformers rounds."""
    if suits(o_NHV):
        return native_delta.gated_rms_norm(o_NHV, z_NHV, weight_V, eps)
    wide = _wide(o_NHV)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (weight_V * wide.to(o_NHV.dtype) * silu(_wide(z_NHV))).to(o_NHV.dtype)


def causal_conv_silu(
    x_NC: Tensor, weight_CW: Tensor, cu_seqlens: Tensor, state_RCP: Tensor | None = None, new_state: bool = False
) -> tuple[Tensor, Tensor | None]:
    """silu(Σ_j w[W−1−j]·x[t−j]) in each channel, and (`new_state`) each sequence's last W − 1 inputs, oldest first.

    `state_RCP` holds the inputs before each sequence's first token here; None is zeros.
    """
    state = _last_inputs(x_NC, weight_CW.shape[1] - 1, cu_seqlens, state_RCP) if new_state else None
    if suits(x_NC):
        return native_delta.causal_conv_silu(x_NC, weight_CW, cu_seqlens, state_RCP), state
    (n, channels), past, sequences = x_NC.shape, weight_CW.shape[1] - 1, len(cu_seqlens) - 1
    # Every sequence is laid down behind its own past.
    row_N = torch.repeat_interleave(torch.arange(sequences), cu_seqlens.diff())
    place_N = (torch.arange(n) + past * (row_N + 1)).to(x_NC.device)
    long_LC = _wide(x_NC).new_zeros(n + past * sequences, channels).index_copy(0, place_N, _wide(x_NC))
    if state_RCP is not None:
        begin_R = cu_seqlens[:-1].long() + past * torch.arange(sequences)
        place_M = (begin_R[:, None] + torch.arange(past)).flatten().to(x_NC.device)
        long_LC = long_LC.index_copy(0, place_M, state_RCP.mT.reshape(-1, channels).to(long_LC.dtype))
    taps_NC = [long_LC[place_N - j] * _wide(weight_CW)[:, past - j] for j in range(past + 1)]
    return silu(torch.stack(taps_NC).sum(0)).to(x_NC.dtype), state


def _last_inputs(x_NC: Tensor, past: int, cu_seqlens: Tensor, state_RCP: Tensor | None) -> Tensor:
    at_RP = cu_seqlens[1:, None].long() + torch.arange(-past, 0)
    new_RP = at_RP >= cu_seqlens[:-1, None]
    last_RPC = x_NC.new_zeros(*at_RP.shape, x_NC.shape[1])
    # Places by number, not by mask: a mask on an accelerator would have to be counted first.
    row_M, place_M = torch.where(new_RP)
    last_RPC[row_M, place_M] = x_NC[at_RP[new_RP]]
    if state_RCP is not None:
        row_M, place_M = torch.where(~new_RP)
        old_M = (at_RP - cu_seqlens[:-1, None] + past)[~new_RP]
        last_RPC[row_M, place_M] = state_RCP.mT[row_M, old_M].to(x_NC.dtype)
    return last_RPC.mT


def gated_delta(
    q_NGK: Tensor,
    k_NGK: Tensor,
    v_NHV: Tensor,
    log_decay_NH: Tensor,
    beta_NH: Tensor,
    cu_seqlens: Tensor,
    state_RHKV: Tensor | None = None,
    new_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """(o_NHV, each sequence's state after its last token, float32 or better, or None) of the gated delta rule.

    q and k are normalised and q scaled in here. `state_RHKV` is each sequence's state before its first token here;
    None is zeros. The definitions go token by token when no sequence has more than one, otherwise in chunks; the native
    forward pass always token by token, so that generation and training come to the same bits.
    """
    if suits(v_NHV):
        inputs = (q_NGK, k_NGK, v_NHV, log_decay_NH, beta_NH)
        return native_delta.gated_delta(*inputs, cu_seqlens, state_RHKV, new_state)
    longest = int(cu_seqlens.diff().max())
    rule = gated_delta_chunked if longest > 1 else gated_delta_recurrent
    with _no_autocast(v_NHV.device.type):  # its products of float32 would be taken in less
        return rule(q_NGK, k_NGK, v_NHV, log_decay_NH, beta_NH, cu_seqlens, state_RHKV, new_state)


def gated_delta_recurrent(
    q_NGK: Tensor,
    k_NGK: Tensor,
    v_NHV: Tensor,
    log_decay_NH: Tensor,
    beta_NH: Tensor,
    cu_seqlens: Tensor,
    state_RHKV: Tensor | None = None,
    new_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`gated_delta` token by token (arXiv 2412.06464 eq. 10), all sequences abreast."""
    steps, (q_NHK, k_NHK) = _Steps(cu_seqlens, 1), _queries_and_keys(q_NGK, k_NGK, v_NHV.shape[1])
    inputs = (q_NHK, k_NHK, _wide(v_NHV), _wide(log_decay_NH).exp(), _wide(beta_NH))
    out, finished, state = [], [], steps.first_state(state_RHKV, inputs[1], inputs[2])
    for active, q, k, v, alpha, beta in zip(steps.active, *(steps.cut(x) for x in inputs), strict=True):
        finished.append(state[active:])
        q, k, v, alpha, beta = (x.squeeze(2) for x in (q, k, v, alpha, beta))
        state = state[:active] * alpha[..., None, None]
        delta = beta[..., None] * (v - (k[..., None, :] @ state).squeeze(-2))
        state = state + k[..., None] * delta[..., None, :]
        out.append(q[..., None, :] @ state)
    o_NHV = steps.join(out, inputs[2]).to(v_NHV.dtype)
    return o_NHV, steps.last_state([*finished, state]) if new_state else None


def gated_delta_chunked(
    q_NGK: Tensor,
    k_NGK: Tensor,
    v_NHV: Tensor,
    log_decay_NH: Tensor,
    beta_NH: Tensor,
    cu_seqlens: Tensor,
    state_RHKV: Tensor | None = None,
    new_state: bool = False,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor | None]:
    """`gated_delta` in chunks: inside them matrix products, the state only at their borders.

    With D_ij = Σ_{j<l≤i} g_l, γ_i = Σ_{l≤i} g_l and S the state before the chunk, the δ of all its tokens solve

        (I + tril(β_i·k_iᵀk_j·e^{D_ij}, −1))·δ = β·(V − e^γ·K·S)            δ = U − W·S
        O = e^γ·Q·S + tril(q_iᵀk_j·e^{D_ij})·δ
        S ← e^{γ_last}·S + (e^{D_last,j}·k_j)ᵀ·δ
    """
    steps, (q_NHK, k_NHK) = _Steps(cu_seqlens, chunk), _queries_and_keys(q_NGK, k_NGK, v_NHV.shape[1])
    inputs = (q_NHK, k_NHK, _wide(v_NHV), _wide(log_decay_NH), _wide(beta_NH))
    q_MHIK, k_MHIK, v_MHIV, g_MHI, beta_MHI = (steps.lay(x) for x in inputs)
    lower = torch.ones(chunk, chunk, dtype=torch.bool, device=v_NHV.device).tril()
    # Sums over j < l ≤ i, not differences of sums from the start: where one decay is strong those cancel badly.
    D_MHIJ = g_MHI[..., None].expand(*g_MHI.shape, chunk).masked_fill(~lower.tril(-1), 0).cumsum(-2)
    fade_MHIJ = D_MHIJ.masked_fill(~lower, float("-inf")).exp()
    since_MHI, until_MHJ = g_MHI.cumsum(-1).exp(), D_MHIJ[..., -1, :].exp()
    bk_MHIK = beta_MHI[..., None] * k_MHIK
    system_MHIJ = (bk_MHIK @ k_MHIK.mT * fade_MHIJ).tril(-1)
    right_MHI = torch.cat([beta_MHI[..., None] * v_MHIV, since_MHI[..., None] * bk_MHIK], -1)
    solved_MHI = torch.linalg.solve_triangular(system_MHIJ, right_MHI, upper=False, unitriangular=True)
    U_MHIV, W_MHIK = solved_MHI.split([v_NHV.shape[2], k_NGK.shape[2]], -1)
    attention_MHIJ = q_MHIK @ k_MHIK.mT * fade_MHIJ
    q_MHIK, k_MHIK = q_MHIK * since_MHI[..., None], k_MHIK * until_MHJ[..., None]
    out, finished, state = [], [], steps.first_state(state_RHKV, inputs[1], inputs[2])
    parts = (q_MHIK, attention_MHIJ, k_MHIK, U_MHIV, W_MHIK, since_MHI[..., -1, None, None])
    cut = (x.split(steps.active) for x in parts)
    for active, q, attention, k, U, W, alpha in zip(steps.active, *cut, strict=True):
        finished.append(state[active:])
        state = state[:active]
        delta = U - W @ state
        out.append(q @ state + attention @ delta)
        state = alpha * state + k.mT @ delta
    o_NHV = steps.join(out, inputs[2]).to(v_NHV.dtype)
    return o_NHV, steps.last_state([*finished, state]) if new_state else None


def _queries_and_keys(q_NGK: Tensor, k_NGK: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    q_NGK, k_NGK = (x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + EPS) for x in (_wide(q_NGK), _wide(k_NGK)))
    shared, scale = heads // k_NGK.shape[1], k_NGK.shape[2] ** -0.5
    return (q_NGK * scale).repeat_interleave(shared, 1), k_NGK.repeat_interleave(shared, 1)


class _Steps:
    """Chunks of packed sequences in the order of a scan: the first of every sequence, then the second of all that
    have one, …; longer sequences first, so that those still running are always the first ones."""

    def __init__(self, cu_seqlens: Tensor, chunk: int) -> None:
        length_R = cu_seqlens.diff().long()
        chunks_R = -(-length_R // chunk)
        self.rank_R = chunks_R.argsort(descending=True, stable=True).argsort()
        active_I = (chunks_R > torch.arange(int(chunks_R.max()))[:, None]).sum(1)
        self.active: list[int] = active_I.tolist()
        row_N = torch.repeat_interleave(torch.arange(len(length_R)), length_R)
        within_N = torch.arange(len(row_N)) - cu_seqlens[:-1].long()[row_N]
        chunk_N = (active_I.cumsum(0) - active_I)[within_N // chunk] + self.rank_R[row_N]
        self.place_N, self.chunk = chunk_N * chunk + within_N % chunk, chunk

    def lay(self, x_NH: Tensor) -> Tensor:
        """[N, H, …] → [M, H, chunk, …]; zeros, which change no state, after a sequence's end."""
        empty = x_NH.new_zeros(sum(self.active) * self.chunk, *x_NH.shape[1:])
        laid = empty.index_copy(0, self.place_N.to(x_NH.device), x_NH)
        return laid.unflatten(0, (sum(self.active), self.chunk)).transpose(1, 2)

    def cut(self, x_NH: Tensor) -> tuple[Tensor, ...]:
        # One split, whose gradient is one concatenation; a slice a step would cost the square of the length.
        return self.lay(x_NH).split(self.active)

    def join(self, out: list[Tensor], like_NHV: Tensor) -> Tensor:
        """The reverse of `lay`."""
        if not out:
            return torch.zeros_like(like_NHV)
        return torch.cat(out).transpose(1, 2).flatten(0, 1)[self.place_N.to(like_NHV.device)]

    def first_state(self, state_RHKV: Tensor | None, k_NHK: Tensor, v_NHV: Tensor) -> Tensor:
        shape = (len(self.rank_R), v_NHV.shape[1], k_NHK.shape[2], v_NHV.shape[2])
        if state_RHKV is None:
            return v_NHV.new_zeros(shape)
        return state_RHKV.to(v_NHV.dtype)[self.rank_R.argsort().to(v_NHV.device)]

    def last_state(self, finished: list[Tensor]) -> Tensor:
        return torch.cat(finished[::-1])[self.rank_R.to(finished[0].device)]

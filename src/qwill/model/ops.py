"""The operations of the model, each defined in plain PyTorch; float32 on a CPU runs `native.py`'s kernels instead.

The PyTorch definitions are the truth: any device, any dtype, differentiable, tested against transformers. The native
ones do the same arithmetic in fewer passes over memory and are tested against these; `use_native(False)` turns them
off.

Shape suffixes as in transformer.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu
from torch.utils.checkpoint import checkpoint

from qwill.model import native
from qwill.model.batch import AttentionPlan
from qwill.model.rope import RopeScaling, inverse_frequencies
from qwill.model.shared import lay_out, take_back

use_native = native.enable


def rms_norm(x: Tensor, weight: Tensor, eps: float, zero_centred: bool = False) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last axis, statistics in float32 or better (arXiv 1910.07467).

    `zero_centred`: · (1 + weight), multiplied before rounding to x's type, as Qwen3-Next does.
    """
    wide = x.double() if x.dtype == torch.float64 else x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    if zero_centred:
        return (wide * (1.0 + weight.to(wide.dtype))).to(x.dtype)
    return weight * wide.to(x.dtype)


def add_rms_norm(
    x_ND: Tensor, delta_ND: Tensor | None, weight_D: Tensor, eps: float, zero_centred: bool = False
) -> tuple[Tensor, Tensor]:
    """(x + delta, RMSNorm(x + delta))."""
    if native.suits(x_ND):
        return native.add_rms_norm(x_ND, delta_ND, 1.0 + weight_D if zero_centred else weight_D, eps)
    if delta_ND is not None:
        x_ND = x_ND + delta_ND
    return x_ND, rms_norm(x_ND, weight_D, eps, zero_centred)


def rope_tables(
    positions_N: Tensor, rotary_dim: int, theta: float, dtype: torch.dtype, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """cos and sin of position · θ^(−2i/R), [N, R/2], for the R dimensions of a head that turn; angles in float32, as
    transformers has them (arXiv 2104.09864). `scaling` stretches them and may make both larger (rope.py)."""
    frequency = inverse_frequencies(rotary_dim, theta, scaling).to(positions_N.device)
    angle = positions_N.float()[:, None] * frequency[None, :]
    cos, sin = angle.cos(), angle.sin()
    if scaling is not None:
        cos, sin = cos * scaling.magnitude, sin * scaling.magnitude
    return cos.to(dtype), sin.to(dtype)


def rotate(x_NHK: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate-half RoPE: of the first R dimensions the pair (x_i, x_{i+R/2}) turns by its angle; the rest stay."""
    cos, sin = rope[0][:, None], rope[1][:, None]
    half = cos.shape[-1]
    a, b, rest = x_NHK.split([half, half, x_NHK.shape[-1] - 2 * half], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def qk_norm_rope(
    qkv_NC: Tensor,
    q_weight_K: Tensor | None,
    k_weight_K: Tensor | None,
    rope: tuple[Tensor, Tensor],
    heads: int,
    kv_heads: int,
    eps: float,
    zero_centred: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split the fused projection into q_NHK, k_NHK, v_NHK; normalise q and k per head (given weights); rotate."""
    if native.suits(qkv_NC):
        if zero_centred and q_weight_K is not None and k_weight_K is not None:
            q_weight_K, k_weight_K = 1.0 + q_weight_K, 1.0 + k_weight_K
        return native.qk_norm_rope(qkv_NC, q_weight_K, k_weight_K, rope, heads, kv_heads, eps)
    q_NHK, k_NHK, v_NHK = qkv_NC.unflatten(1, (heads + 2 * kv_heads, -1)).split([heads, kv_heads, kv_heads], dim=1)
    if q_weight_K is not None and k_weight_K is not None:
        q_NHK = rms_norm(q_NHK, q_weight_K, eps, zero_centred)
        k_NHK = rms_norm(k_NHK, k_weight_K, eps, zero_centred)
    return rotate(q_NHK, rope), rotate(k_NHK, rope), v_NHK


def linear(x_ND: Tensor, weight_CD: Tensor, bias_C: Tensor | None = None) -> Tensor:
    """x·Wᵀ + b."""
    if native.suits(x_ND):
        return native.linear(x_ND, weight_CD, bias_C)
    return torch.nn.functional.linear(x_ND, weight_CD, bias_C)


def grouped_linear(x_MD: Tensor, starts: Tensor, weight_ECD: Tensor) -> Tensor:
    """x·W[e]ᵀ for the rows from starts[e] to starts[e + 1], for each e."""
    if native.suits(x_MD):
        return native.grouped_linear(x_MD, starts, weight_ECD)
    parts_CD = zip(x_MD.tensor_split(starts[1:-1].tolist()), weight_ECD, strict=True)
    return torch.cat([part @ weight_CD.T for part, weight_CD in parts_CD])


def multiply(a_BRC: Tensor, b_BCD: Tensor, transposed: bool = False) -> Tensor:
    """a·b for each matrix of a batch, or a·bᵀ; has no gradient (optimisers use it)."""
    if native.suits(a_BRC):
        return native.multiply(a_BRC, b_BCD, transposed)
    return a_BRC @ (b_BCD.mT if transposed else b_BCD)


def attention(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, plan: AttentionPlan) -> Tensor:
    """softmax(q·kᵀ·K^-0.5)·v within each sequence, causal; heads concatenated in the result, out_NC."""
    if plan.shared is not None:
        q_NHK, k_NHK, v_NHK = (lay_out(x, plan.shared) for x in (q_NHK, k_NHK, v_NHK))
        return take_back(attention(q_NHK, k_NHK, v_NHK, replace(plan, shared=None)), plan.shared)
    if native.suits(q_NHK) and native.attends(plan, q_NHK.shape[2]):
        return native.attention(q_NHK, k_NHK, v_NHK, plan)
    heads = q_NHK.shape[1]

    def to_rows(x_NHK: Tensor) -> Tensor:
        if plan.place_N is not None:
            empty = x_NHK.new_zeros(plan.rows * plan.width, *x_NHK.shape[1:])
            x_NHK = empty.index_copy(0, plan.place_N, x_NHK)
        return x_NHK.view(plan.rows, plan.width, *x_NHK.shape[1:]).transpose(1, 2)

    out_RHTK = scaled_dot_product_attention(
        to_rows(q_NHK),
        to_rows(k_NHK),
        to_rows(v_NHK),
        attn_mask=plan.mask_R1TS,
        is_causal=plan.mask_R1TS is None,
        enable_gqa=heads != k_NHK.shape[1],
    )
    out_MC = out_RHTK.transpose(1, 2).reshape(plan.rows * plan.width, -1)
    return out_MC if plan.place_N is None else out_MC[plan.place_N]


def sigmoid(x: Tensor) -> Tensor:
    """σ(x). Of float32 on a CPU by way of float64: PyTorch's own gives a number other last bits by its place in a
    tensor, and what a token computes shall not depend on its batch."""
    return torch.sigmoid(x.double()).float() if native.suits(x) else torch.sigmoid(x)


def swiglu(gate_up_NF: Tensor) -> Tensor:
    """silu(gate) ⊙ up, of [gate, up] side by side (arXiv 2002.05202)."""
    if native.suits(gate_up_NF):
        return native.swiglu(gate_up_NF)
    gate, up = gate_up_NF.chunk(2, dim=-1)
    return silu(gate) * up


def choose_experts(
    router_NE: Tensor, top_k: int, renormalise: bool, chosen_Nk: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(softmax over all experts in float32 or better, weights of the k largest, which they are); with `chosen_Nk` those
    experts and the weights that they have now.

    Renormalised weights sum to 1. Among equals the native kernel takes the lower number; PyTorch promises no order.
    """
    if native.suits(router_NE):
        probability_NE, weight_Nk, own_Nk = native.choose_experts(router_NE, top_k, renormalise)
        if chosen_Nk is None:
            return probability_NE, weight_Nk, own_Nk
    else:
        wide_NE = router_NE if router_NE.dtype == torch.float64 else router_NE.float()
        probability_NE = torch.softmax(wide_NE, dim=-1)
        if chosen_Nk is None:
            chosen_Nk = torch.topk(probability_NE, top_k, dim=-1).indices
    weight_Nk = probability_NE.gather(1, chosen_Nk)
    if renormalise:  # summed in the kernel's order, so that a replay keeps every bit
        weight_Nk = weight_Nk / sum(weight_Nk.unbind(1))[:, None]  # type: ignore[index]
    return probability_NE, weight_Nk, chosen_Nk


def experts(x_ND: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor, weight_Nk: Tensor, chosen_Nk: Tensor) -> Tensor:
    """Σ over each token's chosen experts of weight · down(swiglu(gate_up(x)))."""
    if native.suits(x_ND):
        return native.experts(x_ND, gate_up_EFD, down_EDF, weight_Nk, chosen_Nk)
    if x_ND.device.type != "cpu" and x_ND.dtype != torch.float64:
        return experts_grouped(x_ND, gate_up_EFD, down_EDF, weight_Nk, chosen_Nk)
    out_ND = torch.zeros_like(x_ND)
    for e in range(gate_up_EFD.shape[0]):
        token_M, rank_M = torch.where(chosen_Nk == e)
        if len(token_M) == 0:
            # Keeps unused experts in the graph, so their gradient is zero and not missing.
            out_ND = out_ND + 0.0 * (gate_up_EFD[e].sum() + down_EDF[e].sum())
            continue
        gate, up = (x_ND[token_M] @ gate_up_EFD[e].T).chunk(2, dim=-1)
        y_MD = (silu(gate) * up) @ down_EDF[e].T
        out_ND = out_ND.index_add(0, token_M, y_MD * weight_Nk[token_M, rank_M, None])
    return out_ND


def experts_grouped(
    x_ND: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor, weight_Nk: Tensor, chosen_Nk: Tensor
) -> Tensor:
    """`experts` by two grouped matrix products over tokens sorted by expert, for accelerators: no loop, no host sync.

    `grouped_mm` takes no float64 and rows of a multiple of 16 bytes. Letters: M = N·k assignments, sorted by expert.
    """
    count, top_k = gate_up_EFD.shape[0], chosen_Nk.shape[1]
    order_M = chosen_Nk.flatten().argsort(stable=True)
    ends_E = torch.bincount(chosen_Nk.flatten(), minlength=count).cumsum(0).to(torch.int32)
    # The meta device, on which `qwill plan` runs meshes, knows no autocast.
    where = x_ND.device.type
    kind = torch.get_autocast_dtype(where) if where != "meta" and torch.is_autocast_enabled(where) else x_ND.dtype
    x_MD = x_ND[order_M // top_k].to(kind)
    hidden_MF = swiglu(torch.nn.functional.grouped_mm(x_MD, gate_up_EFD.to(kind).mT, offs=ends_E))
    y_MD = torch.nn.functional.grouped_mm(hidden_MF, down_EDF.to(kind).mT, offs=ends_E)
    # Back into the tokens' order and summed there: adding at an index has no fixed order on an accelerator.
    y_NkD = y_MD[order_M.argsort()].unflatten(0, (-1, top_k))
    return (y_NkD * weight_Nk[..., None].to(kind)).sum(1).to(x_ND.dtype)


def entropy(logp_NV: Tensor) -> Tensor:
    """−Σ p·log p, [N]; what can't happen (−inf) gives nothing."""
    return -(logp_NV.exp() * logp_NV.clamp(min=torch.finfo(logp_NV.dtype).min)).sum(1)


def token_losses(
    hidden_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    temperature: float = 1.0,
    chunk: int = 1024,
    entropy_N: Tensor | None = None,
) -> Tensor:
    """−log softmax(logits / temperature) of each target, [N] in nats: for losses that are functions of these.

    Logits are never held whole where they are many. `entropy_N` (of the result's type), if given, is filled with the
    distributions' entropies in nats.
    """
    if native.suits(hidden_ND):
        return native.token_losses(hidden_ND, head_VD, targets_N, temperature, chunk, entropy_N)

    def part_loss(entropy_M: Tensor | None, hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
        logits = hidden_MD @ head_VD.T
        warm = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
        if entropy_M is not None:
            entropy_M.copy_(entropy(warm.detach().log_softmax(1)))
        return torch.nn.functional.cross_entropy(warm, targets_M, reduction="none")

    losses = [hidden_ND.new_zeros(0)]
    for i in range(0, len(hidden_ND), chunk):
        part = slice(i, i + chunk)
        loss_of = partial(part_loss, None if entropy_N is None else entropy_N[part])
        if len(hidden_ND) > chunk and torch.is_grad_enabled():  # the backward pass makes each chunk's logits again
            loss = checkpoint(loss_of, hidden_ND[part], targets_N[part], use_reentrant=False, preserve_rng_state=False)
        else:
            loss = loss_of(hidden_ND[part], targets_N[part])
        losses.append(loss)
    return torch.cat(losses)


def cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weight_N: Tensor, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """(Σ weight·loss, loss_N) of next-token prediction, logits never held whole.

    `weight_N` carries masks and normalisation (0 means: not trained on); loss_N is in nats and carries no gradient.
    """
    if native.suits(hidden_ND):
        return native.cross_entropy(hidden_ND, head_VD, targets_N, weight_N, chunk)
    loss_N = token_losses(hidden_ND, head_VD, targets_N, chunk=chunk)
    return (loss_N * weight_N).sum(), loss_N.detach()

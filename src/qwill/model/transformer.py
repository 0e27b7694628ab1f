"""The Qwen decoder, as equations.

    x ← E[tokens]
    for each layer:   x ← x + W_o·Attention(RoPE(norm(W_q x̂)), RoPE(norm(W_k x̂)), W_v x̂)      x̂ = RMSNorm(x)
                      x ← x + Experts(x̂)  or  x + W_down(silu(W_gate x̂) ⊙ W_up x̂)             x̂ = RMSNorm(x)
    logits = W_head·RMSNorm(x)

Source: Qwen3 technical report (arXiv 2505.09388) §2; names of tensors as in the released files, except that q, k, v and
gate, up are one matrix each in memory (`files.py` maps them). Operations live in `ops.py`: one definition in plain
PyTorch, and a native one for float32 on a CPU that is tested against it.

Not covered here: other members of the family (issue 4), dropout (no Qwen model uses it), sliding windows.

Shape suffixes: B batch, N tokens of a packed batch, T query positions, S key positions, D hidden, H heads, K head_dim,
C concatenated heads, E experts, k chosen experts, F feed-forward, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qwill.model import ops
from qwill.model.batch import AttentionPlan, Batch, plan_attention
from qwill.model.cache import KVCache
from qwill.model.config import ModelConfig

__all__ = ["Batch", "Output", "RouterStats", "Transformer", "balancing_loss", "pooled_balancing_loss"]


@dataclass
class RouterStats:
    """One sparse layer's routing of one batch: `load_E` = assignments / tokens (sums to k, no gradient),
    `probability_E` = mean router probability (sums to 1, carries the gradient)."""

    load_E: Tensor
    probability_E: Tensor


@dataclass
class Output:
    hidden_ND: Tensor
    router_stats: list[RouterStats] | None


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_ND: Tensor) -> Tensor:
        return ops.rms_norm(x_ND, self.weight, self.eps)


class Linear(nn.Linear):
    def forward(self, x_ND: Tensor) -> Tensor:
        return ops.linear(x_ND, self.weight, self.bias)


class Attention(nn.Module):
    """Grouped-query attention with RMSNorm on every head of q and k before RoPE (Qwen3); scale K^-0.5."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config
        self.heads, self.kv_heads, self.head_dim, self.eps = (
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            c.rms_norm_eps,
        )
        self.qkv_proj = Linear(c.hidden_size, (self.heads + 2 * self.kv_heads) * c.head_dim, bias=c.attention_bias)
        self.o_proj = Linear(self.heads * c.head_dim, c.hidden_size, bias=c.attention_bias)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm else None
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm else None

    def forward(
        self, x_ND: Tensor, rope: tuple[Tensor, Tensor], plan: AttentionPlan | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        q_NHK, k_NHK, v_NHK = ops.qk_norm_rope(
            self.qkv_proj(x_ND),
            self.q_norm.weight if self.q_norm else None,
            self.k_norm.weight if self.k_norm else None,
            rope,
            self.heads,
            self.kv_heads,
            self.eps,
        )
        if cache is not None:
            out_NC = cache.attend(layer, q_NHK, k_NHK, v_NHK)
        else:
            assert plan is not None
            out_NC = ops.attention(q_NHK, k_NHK, v_NHK, plan)
        return self.o_proj(out_NC)


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up_proj = Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_ND: Tensor) -> tuple[Tensor, None]:
        return self.down_proj(ops.swiglu(self.gate_up_proj(x_ND))), None


class Experts(nn.Module):
    """Top-k of E feed-forwards: float32 softmax over all experts, the k largest, renormalised if `norm_topk_prob`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        e, d, f = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.top_k, self.renormalise = config.num_experts_per_tok, config.norm_topk_prob
        self.gate = Linear(d, e, bias=False)
        self.gate_up = nn.Parameter(torch.empty(e, 2 * f, d))
        self.down = nn.Parameter(torch.empty(e, d, f))

    def forward(self, x_ND: Tensor) -> tuple[Tensor, RouterStats]:
        probability_NE, weight_Nk, chosen_Nk = ops.choose_experts(self.gate(x_ND), self.top_k, self.renormalise)
        out_ND = self.routed(x_ND, weight_Nk.to(x_ND.dtype), chosen_Nk)
        load_E = torch.bincount(chosen_Nk.flatten(), minlength=probability_NE.shape[1]) / len(x_ND)
        return out_ND, RouterStats(load_E, probability_NE.mean(0))

    def routed(self, x_ND: Tensor, weight_Nk: Tensor, chosen_Nk: Tensor) -> Tensor:
        return ops.experts(x_ND, self.gate_up, self.down, weight_Nk, chosen_Nk)


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: FeedForward | Experts = Experts(config) if config.is_sparse(index) else FeedForward(config)


class Transformer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def head_weight_VD(self) -> Tensor:
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Output:
        """Hidden states after the last norm, one row a packed token; with a cache, tokens are appended to it."""
        x_ND = self.embed_tokens(batch.tokens_N)
        rope = ops.rope_tables(batch.positions_N, self.config.head_dim, self.config.rope_theta, x_ND.dtype)
        plan = None
        if cache is not None:
            cache.begin(batch)
        else:
            plan = plan_attention(batch, x_ND.dtype)
        stats: list[RouterStats] = []
        delta_ND: Tensor | None = None
        for layer in self.layers:
            assert isinstance(layer, Layer)
            norm = layer.input_layernorm
            x_ND, normed_ND = ops.add_rms_norm(x_ND, delta_ND, norm.weight, norm.eps)
            delta_ND = layer.self_attn(normed_ND, rope, plan, cache, layer.index)
            norm = layer.post_attention_layernorm
            x_ND, normed_ND = ops.add_rms_norm(x_ND, delta_ND, norm.weight, norm.eps)
            delta_ND, routed = layer.mlp(normed_ND)
            if routed is not None:
                stats.append(routed)
        if cache is not None:
            cache.end()
        _, hidden_ND = ops.add_rms_norm(x_ND, delta_ND, self.norm.weight, self.norm.eps)
        return Output(hidden_ND, stats or None)

    def head(self, hidden_ND: Tensor) -> Tensor:
        return ops.linear(hidden_ND, self.head_weight_VD)

    def cross_entropy(self, hidden_ND: Tensor, targets_N: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor]:
        """(Σ weight·loss, loss_N) of predicting `targets_N`, see `ops.cross_entropy`."""
        return ops.cross_entropy(hidden_ND, self.head_weight_VD, targets_N, weight_N)

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """float32 logits_BTV of rows of equal length; for people and tests (training never holds them whole)."""
        hidden_ND = self(Batch.rows(tokens_BT)).hidden_ND
        return self.head(hidden_ND).float().view(*tokens_BT.shape, -1)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Every initial value of the model.

        | tensor | distribution |
        |---|---|
        | norms | 1 |
        | embedding (and head when tied) | N(0, initializer_range) |
        | untied head | N(0, initializer_range) |
        | q, k, v, gate, up, router | N(0, 1/D) |
        | attention output, down | N(0, 1/(fan_in · 2·layers)): the residual stream keeps its size (GPT-2 §2.3) |
        | biases | 0 |
        """
        depth_scale = (2 * self.config.num_hidden_layers) ** -0.5
        for name, p in self.named_parameters():
            if name.endswith("norm.weight"):
                p.fill_(1.0)
            elif name.endswith("bias"):
                p.zero_()
            elif name in ("embed_tokens.weight", "lm_head.weight"):
                p.normal_(0.0, self.config.initializer_range, generator=generator)
            else:
                std = p.shape[-1] ** -0.5
                shrink = depth_scale if name.endswith(("o_proj.weight", "mlp.down", "down_proj.weight")) else 1.0
                p.normal_(0.0, std * shrink, generator=generator)


def balancing_loss(stats: list[RouterStats]) -> Tensor:
    """Load-balancing loss E·Σ_i f_i·P_i of each sparse layer, averaged over layers (a balanced router gives k).

    Each layer has its own: pooled over layers (transformers' form, `pooled_balancing_loss`) imbalances can cancel.
    Source: Switch Transformers (arXiv 2101.03961) eq. 4, with top-k assignments counted.
    """
    return torch.stack([s.load_E.shape[0] * (s.load_E * s.probability_E).sum() for s in stats]).mean()


def pooled_balancing_loss(stats: list[RouterStats]) -> Tensor:
    """transformers' `load_balancing_loss_func`: f and P averaged over all layers before they are multiplied."""
    load_E = torch.stack([s.load_E for s in stats]).mean(0)
    probability_E = torch.stack([s.probability_E for s in stats]).mean(0)
    return load_E.shape[0] * (load_E * probability_E).sum()

"""The Qwen decoder, as equations: one Transformer for the whole family, its layers chosen by configuration.

    x ← E[tokens]
    for each layer:   x ← x + Attention(x̂)  or  x + GatedDeltaNet(x̂)                          x̂ = RMSNorm(x)
                      x ← x + W_down(silu(W_gate x̂) ⊙ W_up x̂)  or  x + Experts(x̂)             x̂ = RMSNorm(x)
    logits = W_head·RMSNorm(x)

Sources: Qwen2 (arXiv 2407.10671), Qwen3 (arXiv 2505.09388 §2), Gated Delta Networks (arXiv 2412.06464), gated
attention (arXiv 2505.06708). Names of tensors are the released files', except that what multiplies the same input is
one matrix in memory (`layout.py` maps them). Operations live in `ops.py` and `delta.py`: one definition in plain
PyTorch, and a native one for float32 on a CPU that is tested against it.

Not covered here: dropout (no Qwen model uses it), sliding windows (no released Qwen text model switches them on),
pictures and sound, qwen4_exp (hyper-connections, n-gram embeddings, sparse-attention indexer).

Shape suffixes: B batch, N tokens of a packed batch, T query positions, S key positions, D hidden, H heads, G key heads,
K head_dim, V vocabulary (in GatedDeltaNet: value head size), C concatenated heads, E experts, k chosen experts, F
feed-forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qwill.model import delta, ops, project
from qwill.model.batch import AttentionPlan, Batch, plan_attention
from qwill.model.cache import KVCache
from qwill.model.config import ModelConfig
from qwill.model.shared import Shared, lay_out, take_back

if TYPE_CHECKING:
    from qwill.model.lora import Adapter, Updates
    from qwill.model.packed import Codes

__all__ = ["Batch", "Output", "RouterStats", "Transformer", "balancing_loss", "pooled_balancing_loss"]

Rope = tuple[Tensor, Tensor]
Past = tuple[Tensor | None, ...]  # what sequences leave behind in a Gated DeltaNet: conv_RCP, state_RHKV


@dataclass
class RouterStats:
    """One sparse layer's routing of one batch: `load_E` = assignments / tokens (sums to k, no gradient),
    `probability_E` = mean router probability (sums to 1, carries the gradient), `chosen_Nk` = each token's experts (in
    passes without gradients)."""

    load_E: Tensor
    probability_E: Tensor
    chosen_Nk: Tensor | None = None


@dataclass
class Output:
    hidden_ND: Tensor
    router_stats: list[RouterStats] | None


class RMSNorm(nn.Module):
    """x / rms(x) · w, or · (1 + w) where the weight is zero-centred."""

    def __init__(self, width: int, eps: float, zero_centred: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.zero_centred = eps, zero_centred

    def forward(self, x_ND: Tensor) -> Tensor:
        return ops.rms_norm(x_ND, self.weight, self.eps, self.zero_centred)

    def after_adding(self, x_ND: Tensor, delta_ND: Tensor | None) -> tuple[Tensor, Tensor]:
        """(x + delta, its norm)."""
        return ops.add_rms_norm(x_ND, delta_ND, self.weight, self.eps, self.zero_centred)


class Linear(nn.Linear):
    """x·Wᵀ + b; `updates` is what an adapter adds (lora.py), and `weight` may be held as codes (project.py)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self.updates: Updates | None = None

    def forward(self, x_ND: Tensor) -> Tensor:
        return project.project(x_ND, self.weight, self.bias, self.updates)


class Attention(nn.Module):
    """Grouped-query attention, scale K^-0.5; RMSNorm on every head of q and k before RoPE (since Qwen3); its output
    times σ(gate) (since Qwen3-Next).

        q, k, v, gate = W_qkv·x̂        out = W_o(σ(gate) ⊙ softmax(RoPE(norm q)·RoPE(norm k)ᵀ·K^-0.5)·v)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config
        self.heads, self.kv_heads, self.head_dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.eps, self.zero_centred = c.rms_norm_eps, c.zero_centred_norm
        self.gate_width = self.heads * c.head_dim if c.gated_attention else 0
        width = (self.heads + 2 * self.kv_heads) * c.head_dim + self.gate_width
        self.qkv_proj = Linear(c.hidden_size, width, bias=c.attention_bias or c.qkv_bias)
        self.o_proj = Linear(self.heads * c.head_dim, c.hidden_size, bias=c.attention_bias)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps, c.zero_centred_norm) if c.qk_norm else None
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps, c.zero_centred_norm) if c.qk_norm else None

    def forward(
        self, x_ND: Tensor, rope: Rope, plan: AttentionPlan | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        qkv_NC = self.qkv_proj(x_ND)
        if self.gate_width:
            qkv_NC, gate_NC = qkv_NC.split([qkv_NC.shape[1] - self.gate_width, self.gate_width], dim=1)
        q_NHK, k_NGK, v_NGK = ops.qk_norm_rope(
            qkv_NC,
            self.q_norm.weight if self.q_norm else None,
            self.k_norm.weight if self.k_norm else None,
            rope,
            self.heads,
            self.kv_heads,
            self.eps,
            self.zero_centred,
        )
        if cache is not None:
            out_NC = cache.attend(layer, q_NHK, k_NGK, v_NGK)
        else:
            assert plan is not None
            out_NC = ops.attention(q_NHK, k_NGK, v_NGK, plan)
        if self.gate_width:
            out_NC = out_NC * ops.sigmoid(gate_NC)
        return self.o_proj(out_NC)


class GatedDeltaNet(nn.Module):
    """Linear attention with a fixed-size state instead of keys and values (Gated Delta Networks, arXiv 2412.06464).

    q, k, v, z, b, a = W_in·x̂      q, k, v ← silu(conv(q, k, v))
    S ← e^g·S + k·(β(v − e^g·Sᵀk))ᵀ,  o = Sᵀq,  g = −e^A·softplus(a + dt),  β = σ(b)
    out = W_out(RMSNorm(o) ⊙ silu(z))
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config
        self.key_heads, self.heads = c.linear_num_key_heads, c.linear_num_value_heads
        keys, values = self.key_heads * c.linear_key_head_dim, self.heads * c.linear_value_head_dim
        self.widths = [2 * keys + values, values, self.heads, self.heads]  # q and k and v, z, b, a
        self.conv_widths = [keys, keys, values]
        self.in_proj = Linear(c.hidden_size, sum(self.widths), bias=False)
        self.conv1d = nn.Parameter(torch.empty(2 * keys + values, 1, c.linear_conv_kernel_dim))
        self.A_log, self.dt_bias = nn.Parameter(torch.empty(self.heads)), nn.Parameter(torch.empty(self.heads))
        self.norm = RMSNorm(c.linear_value_head_dim, c.rms_norm_eps)
        self.out_proj = Linear(values, c.hidden_size, bias=False)

    def forward(self, x_ND: Tensor, plan: AttentionPlan, cache: KVCache | None, layer: int) -> Tensor:
        qkv_NC, z_NC, b_NH, a_NH = self.in_proj(x_ND).split(self.widths, dim=1)
        inputs = tuple(lay_out(x, plan.shared) for x in (qkv_NC, b_NH, a_NH))
        if cache is None:
            o_NHV = take_back(self._recur(inputs, plan.cu_seqlens, (None, None), False)[0], plan.shared)
        elif cache.certain is None or cache.drafted is None:
            o_NHV, past = self._recur(inputs, plan.cu_seqlens, cache.recall(layer))
            cache.remember(layer, *past)
        else:  # what is remembered is the state before the drafted tokens
            certain, drafted = cache.certain, cache.drafted
            first_MHV, past = self._recur(_at(certain.token_M, inputs), certain.cu_seqlens, cache.recall(layer))
            cache.remember(layer, *past)
            kept = _at(drafted.token_M, inputs)
            cache.keep(layer, kept)
            before = tuple(x[drafted.row_R] for x in past if x is not None)
            then_MHV, _ = self._recur(kept, drafted.cu_seqlens, before, False)
            o_NHV = first_MHV.new_empty(len(x_ND), *first_MHV.shape[1:])
            o_NHV[certain.token_M], o_NHV[drafted.token_M] = first_MHV, then_MHV
        gated_NHV = delta.gated_rms_norm(o_NHV, z_NC.view_as(o_NHV), self.norm.weight, self.norm.eps)
        return self.out_proj(gated_NHV.flatten(1))

    def settle(self, cache: KVCache, layer: int) -> None:
        """Take states on through the drafted tokens that count."""
        _, past = self._recur(*cache.kept(layer), cache.recall(layer))
        cache.remember(layer, *past)

    def _recur(
        self, inputs: tuple[Tensor, ...], cu_seqlens: Tensor, past: Past, asked: bool = True
    ) -> tuple[Tensor, Past]:
        """The rule's output at each token, and if `asked` what each sequence leaves behind."""
        qkv_NC, b_NH, a_NH = inputs
        qkv_NC, conv_RCP = delta.causal_conv_silu(qkv_NC, self.conv1d[:, 0], cu_seqlens, past[0], asked)
        q_NC, k_NC, v_NC = qkv_NC.split(self.conv_widths, dim=1)
        o_NHV, state_RHKV = delta.gated_delta(
            q_NC.unflatten(1, (self.key_heads, -1)),
            k_NC.unflatten(1, (self.key_heads, -1)),
            v_NC.unflatten(1, (self.heads, -1)),
            delta.decay(a_NH, self.A_log, self.dt_bias),
            ops.sigmoid(b_NH),
            cu_seqlens,
            past[1],
            asked,
        )
        return o_NHV, (conv_RCP, state_RHKV)


def _at(token_M: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x[token_M] for x in inputs)


class FeedForward(nn.Module):
    """W_down(silu(W_gate·x) ⊙ W_up·x)."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_up_proj = Linear(hidden, 2 * width, bias=False)
        self.down_proj = Linear(width, hidden, bias=False)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.down_proj(ops.swiglu(self.gate_up_proj(x_ND)))


class Experts(nn.Module):
    """Top-k of E feed-forwards: float32 softmax over all experts, the k largest, renormalised if `norm_topk_prob`; and
    a feed-forward that every token passes through, times σ(w·x), where there is a shared expert.

    `updates` and codes as in `Linear`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        e, d, f = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.top_k, self.renormalise = config.num_experts_per_tok, config.norm_topk_prob
        self.gate = Linear(d, e, bias=False)
        self.gate_up = nn.Parameter(torch.empty(e, 2 * f, d))
        self.down = nn.Parameter(torch.empty(e, d, f))
        self.updates: nn.ModuleDict | None = None
        shared = config.shared_expert_intermediate_size
        self.shared_expert = FeedForward(d, shared) if shared else None
        self.shared_expert_gate = Linear(d, 1, bias=False) if shared else None

    def forward(
        self, x_ND: Tensor, chosen_Nk: Tensor | None = None, shared: Shared | None = None
    ) -> tuple[Tensor, RouterStats]:
        """`chosen_Nk`: the experts to go through, if not those that the router chooses; their weights are its own. A
        token that stands at several places (`shared`) counts at each of them."""
        probability_NE, weight_Nk, chosen_Nk = ops.choose_experts(
            self.gate(x_ND), self.top_k, self.renormalise, chosen_Nk
        )
        out_ND = self.routed(x_ND, weight_Nk.to(x_ND.dtype), chosen_Nk)
        if self.shared_expert is not None and self.shared_expert_gate is not None:
            out_ND = out_ND + ops.sigmoid(self.shared_expert_gate(x_ND)) * self.shared_expert(x_ND)
        probability_LE, chosen_Lk = lay_out(probability_NE, shared), lay_out(chosen_Nk, shared)
        load_E = torch.bincount(chosen_Lk.flatten(), minlength=probability_LE.shape[1]) / len(chosen_Lk)
        return out_ND, RouterStats(load_E, probability_LE.mean(0), None if torch.is_grad_enabled() else chosen_Nk)

    def routed(self, x_ND: Tensor, weight_Nk: Tensor, chosen_Nk: Tensor) -> Tensor:
        return project.experts(x_ND, self.gate_up, self.down, weight_Nk, chosen_Nk, self.updates)


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, index: int, linear: bool, sparse: bool) -> None:
        super().__init__()
        self.index = index
        c, centred = config, config.zero_centred_norm
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps, centred)
        self.self_attn = None if linear else Attention(c)
        self.linear_attn = GatedDeltaNet(c) if linear else None
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps, centred)
        self.mlp: FeedForward | Experts = Experts(c) if sparse else FeedForward(c.hidden_size, c.intermediate_size)

    def forward(
        self,
        x_ND: Tensor,
        delta_ND: Tensor | None,
        rope: Rope,
        plan: AttentionPlan,
        cache: KVCache | None,
        chosen_Nk: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, RouterStats | None]:
        """x + delta ↦ (the residual stream before this layer's feed-forward is added, what that adds, its routing)."""
        x_ND, normed_ND = self.input_layernorm.after_adding(x_ND, delta_ND)
        if self.self_attn is not None:
            delta_ND = self.self_attn(normed_ND, rope, plan, cache, self.index)
        else:
            assert self.linear_attn is not None
            delta_ND = self.linear_attn(normed_ND, plan, cache, self.index)
        x_ND, normed_ND = self.post_attention_layernorm.after_adding(x_ND, delta_ND)
        if isinstance(self.mlp, Experts):
            return x_ND, *self.mlp(normed_ND, chosen_Nk, plan.shared)
        return x_ND, self.mlp(normed_ND), None


class NextTokenHead(nn.Module):
    """The multi-token-prediction head of Qwen3-Next and Qwen3.5: from the hidden state at t and the token at t + 1 to a
    hidden state that predicts token t + 2 (DeepSeek-V3, arXiv 2412.19437 §2.2; names as in the released files).

        h'_t = RMSNorm(Layer(W_fc·[RMSNorm(E[token_{t+1}]); RMSNorm(h_t)]))          full attention
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, eps, centred = config.hidden_size, config.rms_norm_eps, config.zero_centred_norm
        self.pre_fc_norm_embedding = RMSNorm(d, eps, centred)
        self.pre_fc_norm_hidden = RMSNorm(d, eps, centred)
        self.fc = Linear(2 * d, d, bias=False)
        self.layers = nn.ModuleList(
            Layer(config, i, linear=False, sparse=config.is_sparse(i)) for i in range(config.mtp_layers)
        )
        self.norm = RMSNorm(d, eps, centred)


class Transformer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Layer(config, i, config.is_linear(i), config.is_sparse(i)) for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, config.zero_centred_norm)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.mtp = NextTokenHead(config) if config.mtp_layers else None
        self.adapter: Adapter | None = None  # the one that is on the model (lora.py)
        self.head_codes: Codes | None = None  # what the head's weights were as integers, for executors that use them

    @property
    def head_weight_VD(self) -> Tensor:
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Output:
        """Hidden states after the last norm, one row a packed token; with a cache, tokens are appended to
        the sequences that were placed in it."""
        return self._run(self.layers, self.norm, self.embed_tokens(batch.tokens_N), batch, cache, batch.experts_NLk)

    def settle(self, cache: KVCache, taken: Mapping[int, int]) -> None:
        """Take recurrent states on through drafted tokens of the last pass that count: so many, at least one, of each
        sequence whose state is in one of these slots."""
        cache.settle(taken)
        for layer in self.layers:
            if isinstance(layer, Layer) and layer.linear_attn is not None:
                layer.linear_attn.settle(cache, layer.index)

    def predict_ahead(self, hidden_ND: Tensor, batch: Batch, cache: KVCache | None = None) -> Output:
        """Hidden states that predict one token further, from `forward`'s and the tokens after them.

        `batch` holds, for every row of `hidden_ND`, the token that follows it. `head` gives the logits of the token
        after that one. Its cache is a second one, `KVCache(config.mtp_config, …)`. Raises ValueError for a model
        without a multi-token-prediction head.
        """
        if self.mtp is None:
            raise ValueError("this model has no multi-token-prediction head")
        embedded_ND = self.mtp.pre_fc_norm_embedding(self.embed_tokens(batch.tokens_N))
        x_ND = self.mtp.fc(torch.cat([embedded_ND, self.mtp.pre_fc_norm_hidden(hidden_ND)], dim=-1))
        return self._run(self.mtp.layers, self.mtp.norm, x_ND, batch, cache)

    def _run(
        self,
        layers: nn.ModuleList,
        norm: RMSNorm,
        x_ND: Tensor,
        batch: Batch,
        cache: KVCache | None,
        experts_NLk: Tensor | None = None,
    ) -> Output:
        c = self.config
        rope = ops.rope_tables(batch.positions_N, c.rotary_dim, c.rope_theta, x_ND.dtype, c.rope_scaling)
        plan = plan_attention(batch, x_ND.dtype, masked=cache is None)
        if cache is not None:
            cache.begin(batch)
        stats: list[RouterStats] = []
        delta_ND: Tensor | None = None
        for layer in layers:
            chosen_Nk = None
            if experts_NLk is not None and isinstance(layer.mlp, Experts):
                chosen_Nk = experts_NLk[:, len(stats)].long()
            x_ND, delta_ND, routed = layer(x_ND, delta_ND, rope, plan, cache, chosen_Nk)
            if routed is not None:
                stats.append(routed)
        return Output(norm.after_adding(x_ND, delta_ND)[1], stats or None)

    def head(self, hidden_ND: Tensor) -> Tensor:
        return ops.linear(hidden_ND, self.head_weight_VD)

    def cross_entropy(self, hidden_ND: Tensor, targets_N: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor]:
        """(Σ weight·loss, loss_N) of predicting `targets_N`, see `ops.cross_entropy`."""
        return ops.cross_entropy(hidden_ND, self.head_weight_VD, targets_N, weight_N)

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """float32 logits_BTV of rows of equal length; for people and tests (training never holds them whole)."""
        hidden_ND = self(Batch.rows(tokens_BT)).hidden_ND
        return self.head(hidden_ND).float().view(*tokens_BT.shape, -1)


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

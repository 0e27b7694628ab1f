"""What a Qwen text model is made of, and the one dial that derives a new one (`ModelConfig.from_depth`).

`hf_config.py` reads it from a `config.json` (`ModelConfig.from_hf`) and writes it (`.to_hf()`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from qwill.model.rope import RopeScaling

HYBRID = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
NORMED = ("qwen3", "qwen3_moe", *HYBRID)
LINEAR, FULL = "linear_attention", "full_attention"


@dataclass(frozen=True)
class ModelConfig:
    """Field names are those of Hugging Face's `config.json`; sizes are counts, not bytes.

    `layer_types` is empty where every layer has full attention. `mtp_layers` counts the layers of a
    multi-token-prediction head, if the files hold one. `attention_bias` puts biases on q, k, v and o, `qkv_bias` on
    q, k and v alone (Qwen2).
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = True
    router_aux_loss_coef: float = 1e-3
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    quantization_config: dict[str, Any] | None = field(default=None, hash=False)
    qkv_bias: bool = False
    shared_expert_intermediate_size: int = 0
    rope_scaling: RopeScaling | None = None
    partial_rotary_factor: float = 1.0
    mrope_section: tuple[int, ...] = ()
    layer_types: tuple[str, ...] = ()
    linear_num_key_heads: int = 0
    linear_num_value_heads: int = 0
    linear_key_head_dim: int = 0
    linear_value_head_dim: int = 0
    linear_conv_kernel_dim: int = 0
    mtp_layers: int = 0

    @property
    def qk_norm(self) -> bool:
        """RMSNorm on every head of q and k (since Qwen3)."""
        return self.model_type in NORMED

    @property
    def gated_attention(self) -> bool:
        """Attention's output is multiplied by a sigmoid gate (since Qwen3-Next)."""
        return self.model_type in HYBRID

    @property
    def zero_centred_norm(self) -> bool:
        """Norms multiply by 1 + w (since Qwen3-Next)."""
        return self.model_type in HYBRID

    @property
    def rotary_dim(self) -> int:
        """How many of a head's dimensions turn; the rest stay as they are."""
        return int(self.head_dim * self.partial_rotary_factor)

    def is_sparse(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) is a mixture of experts (transformers' rule for qwen3_moe)."""
        return (
            self.num_experts > 0 and layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0
        )

    def is_linear(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) is a Gated DeltaNet in place of full attention."""
        return bool(self.layer_types) and self.layer_types[layer] == LINEAR

    @property
    def mtp_config(self) -> ModelConfig:
        """The multi-token-prediction head's layers as a model of their own (its cache is made from this)."""
        return self.with_(num_hidden_layers=self.mtp_layers, layer_types=(), mtp_layers=0)

    @property
    def has_linear(self) -> bool:
        return LINEAR in self.layer_types

    @classmethod
    def from_hf(cls, raw: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """Read a `config.json` (`hf_config.read_hf`); raises ModelError, one sentence, for what is not supported."""
        from qwill.model.hf_config import read_hf

        return read_hf(raw, where)

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of this model, in the style of the released files of its type."""
        from qwill.model.hf_config import write_hf

        return write_hf(self)

    @classmethod
    def from_depth(
        cls, depth: int, vocab_size: int, *, experts: int = 8, top_k: int = 2, context: int = 1024, hybrid: bool = False
    ) -> ModelConfig:
        """One dial: width = 64·depth (nanochat's aspect ratio), heads of 64, two query heads a key/value head (more
        where their number is odd).

        The active feed-forward width is 3·hidden, as in Qwen3-0.6B, shared out over `top_k` of `experts` experts
        (`experts=0` gives the dense model of the same active size). RoPE θ is 1e4: 1e6 serves contexts of 32k.

        `hybrid`: three Gated DeltaNet layers to one of full attention, as Qwen3-Next (with a shared expert, which has
        its part of the active width) and dense Qwen3.5; DeltaNet heads are as many and as wide as attention's.
        """
        hidden = 64 * depth
        heads = max(2, hidden // 64)
        feed_forward = 3 * hidden
        if hybrid:
            plain = cls.from_depth(depth, vocab_size, experts=experts, top_k=top_k + 1, context=context)
            return plain.with_(
                model_type="qwen3_next" if experts else "qwen3_5_text",
                num_experts_per_tok=top_k if experts else 0,
                shared_expert_intermediate_size=plain.moe_intermediate_size,
                partial_rotary_factor=0.25,
                layer_types=tuple(FULL if i % 4 == 3 or i == depth - 1 else LINEAR for i in range(depth)),
                linear_num_key_heads=plain.num_key_value_heads,
                linear_num_value_heads=heads,
                linear_key_head_dim=64,
                linear_value_head_dim=64,
                linear_conv_kernel_dim=4,
            )
        return cls(
            model_type="qwen3_moe" if experts else "qwen3",
            vocab_size=vocab_size,
            hidden_size=hidden,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            num_key_value_heads=max(g for g in range(1, heads // 2 + 1) if heads % g == 0),
            head_dim=64,
            intermediate_size=feed_forward,
            max_position_embeddings=context,
            rope_theta=1e4,
            tie_word_embeddings=True,
            num_experts=experts,
            num_experts_per_tok=top_k if experts else 0,
            moe_intermediate_size=feed_forward // top_k if experts else 0,
        )

    def with_(self, **changes: Any) -> ModelConfig:
        return replace(self, **changes)

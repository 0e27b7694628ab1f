"""What a Qwen text model is made of: the fields of `config.json`, and the one dial that derives a new model.

Read: `ModelConfig.from_hf(config_json, where)`; write: `.to_hf()`; derive: `ModelConfig.from_depth(depth, vocab_size)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from qwill.base.errors import ModelError

SUPPORTED = ("qwen3", "qwen3_moe", "llama")
ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM", "llama": "LlamaForCausalLM"}


@dataclass(frozen=True)
class ModelConfig:
    """Field names are those of Hugging Face's `config.json`; sizes are counts, not bytes.

    `qk_norm` follows from the model type (Qwen3 normalises q and k per head, Llama does not).
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

    @property
    def qk_norm(self) -> bool:
        return self.model_type != "llama"

    def is_sparse(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) is a mixture of experts (transformers' rule for qwen3_moe)."""
        return (
            self.num_experts > 0 and layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0
        )

    @classmethod
    def from_hf(cls, raw: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """Read a `config.json`, old (`rope_theta`) or new (`rope_parameters`) style.

        Raises `ModelError` with one sentence for a model type, activation or position scaling that is not supported.
        """
        kind = raw.get("model_type")
        if kind not in SUPPORTED:
            raise ModelError(
                f"{where}: model_type {kind!r} is not supported; Qwill reads {', '.join(SUPPORTED)} for now."
            )
        missing = [k for k in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads") if k not in raw]
        if missing:
            raise ModelError(f"{where}: the field {missing[0]!r} is missing; every model configuration has it.")
        if raw.get("hidden_act", "silu") != "silu":
            raise ModelError(f"{where}: hidden_act {raw['hidden_act']!r} is not supported; expected 'silu'.")
        if raw.get("use_sliding_window"):
            raise ModelError(f"{where}: use_sliding_window is not supported; no released Qwen3 model uses it.")
        rope = raw.get("rope_parameters") or {}
        scaling = raw.get("rope_scaling") or rope
        rope_type = scaling.get("rope_type", scaling.get("type", "default"))
        if rope_type != "default":
            raise ModelError(f"{where}: rope type {rope_type!r} is not supported; expected 'default'.")
        heads = int(raw["num_attention_heads"])
        eos = raw.get("eos_token_id")
        moe = kind == "qwen3_moe"
        return cls(
            model_type=kind,
            vocab_size=int(raw["vocab_size"]),
            hidden_size=int(raw["hidden_size"]),
            num_hidden_layers=int(raw["num_hidden_layers"]),
            num_attention_heads=heads,
            num_key_value_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=int(raw.get("head_dim") or raw["hidden_size"] // heads),
            intermediate_size=int(raw.get("intermediate_size", 0)),
            max_position_embeddings=int(raw.get("max_position_embeddings", 32768)),
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 10000.0))),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            attention_bias=bool(raw.get("attention_bias", False)),
            num_experts=int(raw.get("num_experts", raw.get("num_local_experts", 0))) if moe else 0,
            num_experts_per_tok=int(raw.get("num_experts_per_tok", 0)) if moe else 0,
            moe_intermediate_size=int(raw.get("moe_intermediate_size", 0)) if moe else 0,
            norm_topk_prob=bool(raw.get("norm_topk_prob", False)),
            router_aux_loss_coef=float(raw.get("router_aux_loss_coef", 1e-3)),
            decoder_sparse_step=int(raw.get("decoder_sparse_step", 1)),
            mlp_only_layers=tuple(raw.get("mlp_only_layers") or ()),
            initializer_range=float(raw.get("initializer_range", 0.02)),
            bos_token_id=raw.get("bos_token_id"),
            eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
            pad_token_id=raw.get("pad_token_id"),
            quantization_config=raw.get("quantization_config"),
        )

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of this model, in the released files' style (`rope_theta` at the top level)."""
        out: dict[str, Any] = {
            "architectures": [ARCHITECTURES[self.model_type]],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate_size,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": None,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "initializer_range": self.initializer_range,
            "use_cache": True,
            "use_sliding_window": False,
            "sliding_window": None,
            "torch_dtype": "float32",
            "bos_token_id": self.bos_token_id,
            "eos_token_id": list(self.eos_token_id) if isinstance(self.eos_token_id, tuple) else self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }
        if self.model_type == "qwen3_moe":
            out |= {
                "num_experts": self.num_experts,
                "num_experts_per_tok": self.num_experts_per_tok,
                "moe_intermediate_size": self.moe_intermediate_size,
                "norm_topk_prob": self.norm_topk_prob,
                "router_aux_loss_coef": self.router_aux_loss_coef,
                "decoder_sparse_step": self.decoder_sparse_step,
                "mlp_only_layers": list(self.mlp_only_layers),
                "output_router_logits": False,
            }
        if self.quantization_config is not None:
            out["quantization_config"] = self.quantization_config
        return out

    @classmethod
    def from_depth(
        cls, depth: int, vocab_size: int, *, experts: int = 8, top_k: int = 2, context: int = 1024
    ) -> ModelConfig:
        """One dial: width = 64·depth (nanochat's aspect ratio), heads of 64, two query heads a key/value head.

        The active feed-forward width is 3·hidden, as in Qwen3-0.6B, shared out over `top_k` of `experts` experts
        (`experts=0` gives the dense model of the same active size). RoPE θ is 1e4: 1e6 serves contexts of 32k.
        """
        hidden = 64 * depth
        heads = max(2, hidden // 64)
        feed_forward = 3 * hidden
        return cls(
            model_type="qwen3_moe" if experts else "qwen3",
            vocab_size=vocab_size,
            hidden_size=hidden,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 2),
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

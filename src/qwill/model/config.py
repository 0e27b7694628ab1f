"""What a Qwen text model is made of: the fields of `config.json`, and the one dial that derives a new model.

Read: `ModelConfig.from_hf(config_json, where)`; write: `.to_hf()`; derive: `ModelConfig.from_depth(depth, vocab_size)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from qwill.base.errors import ModelError

SUPPORTED = ("qwen3", "qwen3_moe", "llama")
ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM", "llama": "LlamaForCausalLM"}


@dataclass(frozen=True)
class _Fields:
    """Fields of a `config.json`, each checked as it is taken; an explicit null counts as missing."""

    raw: dict[str, Any]
    where: str

    def _take(self, name: str, sound: Callable[[Any], bool], wanted: str, default: Any) -> Any:
        value = self.raw.get(name)
        if value is None:
            if default is None:
                raise ModelError(f"{self.where}: the field {name!r} is missing; expected {wanted}.")
            return default
        if not sound(value):
            raise ModelError(f"{self.where}: {name} is {str(value)[:60]!r}; expected {wanted}.")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        return int(self._take(name, lambda x: _is_integer(x) and x > 0, "a positive whole number", default))

    def positive(self, name: str, default: float) -> float:
        return float(self._take(name, lambda x: _is_number(x) and 0 <= x < math.inf, "a number from 0 up", default))

    def flag(self, name: str) -> bool:
        return bool(self._take(name, lambda x: isinstance(x, bool), "true or false", False))

    def mapping(self, name: str) -> dict[str, Any]:
        return dict(self._take(name, lambda x: isinstance(x, dict), "an object", {}))

    def token(self, name: str) -> int | None:
        return None if self.raw.get(name) is None else int(self._take(name, _is_integer, "a token id", 0))

    def integers(self, name: str) -> tuple[int, ...]:
        return tuple(self._take(name, lambda x: isinstance(x, list) and all(map(_is_integer, x)), "a list of ids", ()))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
                f"{where}: model_type {kind!r} is not supported; Qwill reads {', '.join(SUPPORTED)}."
            )
        if raw.get("hidden_act", "silu") != "silu":
            raise ModelError(f"{where}: hidden_act {raw['hidden_act']!r} is not supported; expected 'silu'.")
        if raw.get("use_sliding_window"):
            raise ModelError(f"{where}: use_sliding_window is not supported; no released Qwen3 model uses it.")
        # transformers 5 writes num_local_experts, the released files num_experts.
        given = _Fields({"num_experts": raw.get("num_local_experts")} | raw, where)
        rope = given.mapping("rope_parameters")
        scaling = given.mapping("rope_scaling") or rope
        rope_type = scaling.get("rope_type", scaling.get("type", "default"))
        if rope_type != "default":
            raise ModelError(f"{where}: rope type {rope_type!r} is not supported; expected 'default'.")
        vocab, hidden, heads = (given.count(f) for f in ("vocab_size", "hidden_size", "num_attention_heads"))
        several = isinstance(raw.get("eos_token_id"), list)
        moe, llama = kind == "qwen3_moe", kind == "llama"
        config = cls(
            model_type=kind,
            vocab_size=vocab,
            hidden_size=hidden,
            num_hidden_layers=given.count("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=given.count("num_key_value_heads", heads if llama else None),
            # Where the field is missing: what transformers' class for the type takes.
            head_dim=given.count("head_dim", 128 if kind == "qwen3" else max(1, hidden // heads)),
            intermediate_size=0 if moe and not raw.get("intermediate_size") else given.count("intermediate_size"),
            max_position_embeddings=given.count("max_position_embeddings", 32768),
            rms_norm_eps=given.positive("rms_norm_eps", 1e-6),
            rope_theta=_Fields(raw | rope, where).positive("rope_theta", 10000.0),
            tie_word_embeddings=given.flag("tie_word_embeddings"),
            attention_bias=given.flag("attention_bias"),
            num_experts=given.count("num_experts") if moe else 0,
            num_experts_per_tok=given.count("num_experts_per_tok") if moe else 0,
            moe_intermediate_size=given.count("moe_intermediate_size") if moe else 0,
            norm_topk_prob=given.flag("norm_topk_prob"),
            router_aux_loss_coef=given.positive("router_aux_loss_coef", 1e-3),
            decoder_sparse_step=given.count("decoder_sparse_step", 1),
            mlp_only_layers=given.integers("mlp_only_layers"),
            initializer_range=given.positive("initializer_range", 0.02),
            bos_token_id=given.token("bos_token_id"),
            eos_token_id=given.integers("eos_token_id") if several else given.token("eos_token_id"),
            pad_token_id=given.token("pad_token_id"),
            quantization_config=given.mapping("quantization_config") or None,
        )
        config._check(where)
        return config

    def _check(self, where: str) -> None:
        if self.num_attention_heads % self.num_key_value_heads or self.head_dim % 2:
            raise ModelError(
                f"{where}: {self.num_attention_heads} heads of {self.head_dim} do not go with "
                f"{self.num_key_value_heads} key/value heads; expected an even size, and a multiple of their number."
            )
        if self.rope_theta == 0:
            raise ModelError(f"{where}: rope_theta is 0; expected a positive number.")
        if self.num_experts_per_tok > self.num_experts:
            raise ModelError(
                f"{where}: num_experts_per_tok is {self.num_experts_per_tok}, more than the {self.num_experts} experts."
            )
        if self.num_experts and self.intermediate_size == 0 and (self.mlp_only_layers or self.decoder_sparse_step > 1):
            raise ModelError(f"{where}: the field 'intermediate_size' is missing; layers without experts need it.")

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

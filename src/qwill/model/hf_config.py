"""`config.json` of every supported model type: read into a ModelConfig, and written from one.

Where a field is missing, it is what transformers' configuration class of the type takes (5.23.0).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qwill.base.errors import ModelError
from qwill.model.config import FULL, HYBRID, LINEAR, ModelConfig
from qwill.model.rope import read_scaling

ARCHITECTURES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen3_next": "Qwen3NextForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
    "llama": "LlamaForCausalLM",
}
SPARSE = ("qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_5_moe_text")
SHARED = {"qwen2_moe": 5632, "qwen3_next": 512, "qwen3_5_moe_text": 512}  # the shared expert's width by default
# Files that hold a vision tower beside the text model; the text model's fields are in text_config.
WRAPPED = {"qwen3_5": "qwen3_5_text", "qwen3_5_moe": "qwen3_5_moe_text"}
HEAD_DIM = {"qwen3": 128} | dict.fromkeys(HYBRID, 256)


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

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self._take(name, lambda x: isinstance(x, bool), "true or false", default))

    def mapping(self, name: str) -> dict[str, Any]:
        return dict(self._take(name, lambda x: isinstance(x, dict), "an object", {}))

    def token(self, name: str) -> int | None:
        return None if self.raw.get(name) is None else int(self._take(name, _is_integer, "a token id", 0))

    def original_length(self) -> dict[str, int]:
        """At the top level it wins over what stands beside the other fields of the scaling, as transformers has it."""
        name = "original_max_position_embeddings"
        return {name: self.count(name)} if self.raw.get(name) is not None else {}

    def integers(self, name: str) -> tuple[int, ...]:
        return tuple(self._take(name, lambda x: isinstance(x, list) and all(map(_is_integer, x)), "a list of ids", ()))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_hf(raw: dict[str, Any], where: str) -> ModelConfig:
    """The text model that a `config.json` describes, old (`rope_theta`) or new (`rope_parameters`) style.

    Of a file with a vision tower (qwen3_5, qwen3_5_moe) this is the part under `text_config`. Raises ModelError with
    one sentence for a model type, activation or position scaling that is not supported.
    """
    kind = raw.get("model_type")
    if isinstance(kind, str) and kind in WRAPPED:
        text = _Fields(raw, where).mapping("text_config")
        # As transformers' text model takes it; where only the outer part says so, that.
        tied = {"tie_word_embeddings": text.get("tie_word_embeddings", raw.get("tie_word_embeddings"))}
        return read_hf(text | tied | {"model_type": WRAPPED[kind]}, f"{where}: text_config")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise ModelError(f"{where}: model_type {kind!r} is not supported; Qwill reads {', '.join(ARCHITECTURES)}.")
    if raw.get("hidden_act", "silu") != "silu":
        raise ModelError(f"{where}: hidden_act {raw['hidden_act']!r} is not supported; expected 'silu'.")
    if raw.get("use_sliding_window"):
        raise ModelError(f"{where}: use_sliding_window is not supported; no released Qwen3 model uses it.")
    # transformers 5 writes num_local_experts, the released files num_experts.
    given = _Fields({"num_experts": raw.get("num_local_experts")} | raw, where)
    scaling = given.mapping("rope_scaling") or given.mapping("rope_parameters")
    # As transformers has it: rope_scaling takes rope_parameters' place, and what either holds wins over the top level.
    top = {n: raw.get(n) for n in ("rope_theta", "partial_rotary_factor", "mrope_section")}
    turned = _Fields(top | scaling, where)
    own_heads = kind == "llama" or (kind in ("qwen2", "qwen2_moe") and "num_key_value_heads" in raw)
    vocab, hidden, heads = (given.count(f) for f in ("vocab_size", "hidden_size", "num_attention_heads"))
    layers, positions = given.count("num_hidden_layers"), given.count("max_position_embeddings", 32768)
    several = isinstance(raw.get("eos_token_id"), list)
    moe, hybrid = kind in SPARSE, kind in HYBRID
    own_size = moe and not raw.get("intermediate_size")
    config = ModelConfig(
        model_type=kind,
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=given.count("num_key_value_heads", heads if own_heads else None),
        head_dim=given.count("head_dim", HEAD_DIM.get(kind, max(1, hidden // heads))),
        intermediate_size=0 if own_size else given.count("intermediate_size"),
        max_position_embeddings=positions,
        rms_norm_eps=given.positive("rms_norm_eps", 1e-6),
        rope_theta=turned.positive("rope_theta", 10000.0),
        tie_word_embeddings=given.flag("tie_word_embeddings"),
        attention_bias=kind not in ("qwen2", "qwen2_moe") and given.flag("attention_bias"),
        num_experts=given.count("num_experts") if moe else 0,
        num_experts_per_tok=given.count("num_experts_per_tok") if moe else 0,
        moe_intermediate_size=given.count("moe_intermediate_size") if moe else 0,
        norm_topk_prob=kind == "qwen3_5_moe_text" or given.flag("norm_topk_prob", kind == "qwen3_next"),
        router_aux_loss_coef=given.positive("router_aux_loss_coef", 1e-3),
        decoder_sparse_step=given.count("decoder_sparse_step", 1),
        mlp_only_layers=given.integers("mlp_only_layers"),
        initializer_range=given.positive("initializer_range", 0.02),
        bos_token_id=given.token("bos_token_id"),
        eos_token_id=given.integers("eos_token_id") if several else given.token("eos_token_id"),
        pad_token_id=given.token("pad_token_id"),
        quantization_config=given.mapping("quantization_config") or None,
        qkv_bias=kind == "qwen2" or (kind == "qwen2_moe" and given.flag("qkv_bias", True)),
        shared_expert_intermediate_size=(
            given.count("shared_expert_intermediate_size", SHARED[kind]) if kind in SHARED else 0
        ),
        rope_scaling=read_scaling(scaling | _Fields(raw, where).original_length(), positions, where),
        partial_rotary_factor=turned.positive("partial_rotary_factor", 0.25 if hybrid else 1.0),
        mrope_section=turned.integers("mrope_section"),
        layer_types=_layer_types(given, kind, layers),
        linear_num_key_heads=given.count("linear_num_key_heads", 16) if hybrid else 0,
        linear_num_value_heads=given.count("linear_num_value_heads", 32) if hybrid else 0,
        linear_key_head_dim=given.count("linear_key_head_dim", 128) if hybrid else 0,
        linear_value_head_dim=given.count("linear_value_head_dim", 128) if hybrid else 0,
        linear_conv_kernel_dim=given.count("linear_conv_kernel_dim", 4) if hybrid else 0,
    )
    _check(config, where)
    return config


def _layer_types(given: _Fields, kind: str, layers: int) -> tuple[str, ...]:
    """As listed, or every fourth layer of a hybrid with full attention; empty where all layers have it."""
    said = given.raw.get("layer_types")
    if said is None:
        if kind not in HYBRID:
            return ()
        every = given.count("full_attention_interval", 4)
        return tuple(FULL if (i + 1) % every == 0 else LINEAR for i in range(layers))
    known = (FULL, LINEAR) if kind in HYBRID else (FULL,)
    if not isinstance(said, list) or len(said) != layers:
        raise ModelError(f"{given.where}: layer_types does not name one type for each of the {layers} layers.")
    if odd := [x for x in said if x not in known]:
        raise ModelError(
            f"{given.where}: layer_types holds {str(odd[0])[:40]!r}; expected {' or '.join(known)} for {kind}."
        )
    return tuple(said) if kind in HYBRID else ()


def _check(c: ModelConfig, where: str) -> None:
    if c.num_attention_heads % c.num_key_value_heads or c.head_dim % 2:
        raise ModelError(
            f"{where}: {c.num_attention_heads} heads of {c.head_dim} do not go with "
            f"{c.num_key_value_heads} key/value heads; expected an even size, and a multiple of their number."
        )
    if c.rope_theta == 0:
        raise ModelError(f"{where}: rope_theta is 0; expected a positive number.")
    if not 0 < c.partial_rotary_factor <= 1 or c.rotary_dim % 2 or not c.rotary_dim:
        raise ModelError(
            f"{where}: partial_rotary_factor {c.partial_rotary_factor:g} of heads of {c.head_dim} turns {c.rotary_dim} "
            "dimensions; expected a fraction that gives an even number of them."
        )
    if c.num_experts_per_tok > c.num_experts:
        raise ModelError(
            f"{where}: num_experts_per_tok is {c.num_experts_per_tok}, more than the {c.num_experts} experts."
        )
    if c.num_experts and c.intermediate_size == 0 and (c.mlp_only_layers or c.decoder_sparse_step > 1):
        raise ModelError(f"{where}: the field 'intermediate_size' is missing; layers without experts need it.")
    if c.has_linear and c.linear_num_value_heads % c.linear_num_key_heads:
        raise ModelError(
            f"{where}: linear_num_value_heads is {c.linear_num_value_heads}; expected a multiple of the "
            f"{c.linear_num_key_heads} linear_num_key_heads."
        )


def write_hf(c: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a model: `rope_theta` at the top level, for Qwen3.5 in `rope_parameters`, as released."""
    rope: dict[str, Any] = {
        "rope_theta": c.rope_theta,
        "rope_scaling": None if c.rope_scaling is None else c.rope_scaling.to_hf(),
    }
    if c.model_type == "qwen3_next":
        rope["partial_rotary_factor"] = c.partial_rotary_factor
    elif c.model_type in HYBRID:
        turned: dict[str, Any] = {"rope_theta": c.rope_theta, "partial_rotary_factor": c.partial_rotary_factor}
        if c.mrope_section:
            turned |= {"mrope_section": list(c.mrope_section), "mrope_interleaved": True}
        kind = {"rope_type": "default"} if c.rope_scaling is None else c.rope_scaling.to_hf()
        rope = {"rope_parameters": kind | turned}
    out: dict[str, Any] = {
        "architectures": [ARCHITECTURES[c.model_type]],
        "model_type": c.model_type,
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": c.num_key_value_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.intermediate_size,
        "hidden_act": "silu",
        "max_position_embeddings": c.max_position_embeddings,
        "rms_norm_eps": c.rms_norm_eps,
        **rope,
        "tie_word_embeddings": c.tie_word_embeddings,
        "attention_bias": c.attention_bias,
        "attention_dropout": 0.0,
        "initializer_range": c.initializer_range,
        "use_cache": True,
        "use_sliding_window": False,
        "sliding_window": None,
        "torch_dtype": "float32",
        "bos_token_id": c.bos_token_id,
        "eos_token_id": list(c.eos_token_id) if isinstance(c.eos_token_id, tuple) else c.eos_token_id,
        "pad_token_id": c.pad_token_id,
    }
    if c.model_type in HYBRID:
        for name in ("use_sliding_window", "sliding_window"):
            del out[name]
        out |= {
            "layer_types": list(c.layer_types),
            "linear_num_key_heads": c.linear_num_key_heads,
            "linear_num_value_heads": c.linear_num_value_heads,
            "linear_key_head_dim": c.linear_key_head_dim,
            "linear_value_head_dim": c.linear_value_head_dim,
            "linear_conv_kernel_dim": c.linear_conv_kernel_dim,
        }
        if c.mtp_layers:
            out["mtp_num_hidden_layers"] = c.mtp_layers
    if c.model_type == "qwen2_moe":
        out["qkv_bias"] = c.qkv_bias
    if c.num_experts:
        out |= {
            "num_experts": c.num_experts,
            "num_experts_per_tok": c.num_experts_per_tok,
            "moe_intermediate_size": c.moe_intermediate_size,
            "norm_topk_prob": c.norm_topk_prob,
            "router_aux_loss_coef": c.router_aux_loss_coef,
            "decoder_sparse_step": c.decoder_sparse_step,
            "mlp_only_layers": list(c.mlp_only_layers),
            "output_router_logits": False,
        }
        if c.shared_expert_intermediate_size:
            out["shared_expert_intermediate_size"] = c.shared_expert_intermediate_size
    if c.quantization_config is not None:
        out["quantization_config"] = c.quantization_config
    return out

"""The tiny models of the record: type, what of the configuration differs, and how its config.json is spelt.

Sizes are all different where the architecture lets them be, so that a swapped axis shows; lengths go beyond one chunk
of Gated DeltaNet (64) and beyond the original length of the YaRN models (40).
"""

import copy
from typing import Any

VOCABULARY = 61
PADDED = (23, 9, 1)
CHUNKS = (30, 1, 25, 14)

_BASE = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 10, "intermediate_size": 36, "max_position_embeddings": 160,
    "rms_norm_eps": 1e-2, "rope_theta": 300.0, "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
_MOE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 14, "norm_topk_prob": True}
_SHARED = _MOE | {"shared_expert_intermediate_size": 18}
_LINEAR = {
    "hidden_size": 18, "head_dim": 12, "intermediate_size": 22, "partial_rotary_factor": 0.5, "num_hidden_layers": 4,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 6, "linear_value_head_dim": 5,
    "linear_conv_kernel_dim": 4, "num_experts": 4, "moe_intermediate_size": 7, "shared_expert_intermediate_size": 9,
}  # fmt: skip
_F, _L = "full_attention", "linear_attention"
_MIXED = {"layer_types": [_L, _F, _L, _L]}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40}
_SMALL = {"rope_theta": 30.0}  # so that YaRN's ramp has values between 0 and 1 also where few dimensions turn


def _rope(kind: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The newer spelling: all that concerns RoPE in one object."""
    return {"rope_theta": None, "rope_parameters": {"rope_theta": 300.0} | kind | more}


def _old(kind: dict[str, Any]) -> dict[str, Any]:
    return {"rope_scaling": kind}


# (type, changes, whether config.json is rewritten in the released files' older spelling: rope_theta, rope_scaling)
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "dense": ("qwen3", {}, False),
    "dense_tied_bias": ("qwen3", {"tie_word_embeddings": True, "attention_bias": True}, True),
    "dense_yarn": ("qwen3", _rope(_YARN, beta_fast=4, beta_slow=0.5, truncate=False) | {"head_dim": 16}, False),
    "dense_yarn_old": ("qwen3", _old(_YARN) | {"head_dim": 16}, True),
    "llama": ("llama", {"tie_word_embeddings": True}, True),
    # Every matrix of a layer is square and every head has its own keys, so that shapes give no mistake away.
    "llama_square": ("llama", {"num_key_value_heads": 4, "head_dim": 6, "intermediate_size": 24}, False),
    "llama_linear": ("llama", _old({"type": "linear", "factor": 2.5}), True),
    "llama_llama3": (
        "llama",
        _rope({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 40}) | {"head_dim": 16},
        False,
    ),
    "moe": ("qwen3_moe", _MOE, False),
    "moe_tied_bias_raw_weights": (
        "qwen3_moe",
        _MOE | {"tie_word_embeddings": True, "attention_bias": True, "norm_topk_prob": False},
        True,
    ),
    "moe_mixed": (
        "qwen3_moe",
        _MOE | {"num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [3], "num_experts_per_tok": 3},
        False,
    ),
    "moe_yarn": ("qwen3_moe", _MOE | _rope(_YARN, attention_factor=1.4) | {"head_dim": 14}, False),
    "qwen2": ("qwen2", {"head_dim": None}, False),
    "qwen2_tied": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 1}, True),
    "qwen2_yarn": (
        "qwen2", _rope(_YARN | _SMALL, mscale=0.7, mscale_all_dim=0.3) | {"head_dim": None, "hidden_size": 32}, False,
    ),
    "qwen2_yarn_old": (
        "qwen2",
        _old({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40})
        | _SMALL | {"head_dim": None, "hidden_size": 32},
        True,
    ),
    "qwen2_moe": ("qwen2_moe", _SHARED | {"head_dim": None, "norm_topk_prob": False}, True),
    "qwen2_moe_mixed": (
        "qwen2_moe",
        _SHARED
        | {"num_hidden_layers": 5, "decoder_sparse_step": 2, "mlp_only_layers": [3], "num_experts_per_tok": 3,
           "num_experts": 4, "qkv_bias": False, "tie_word_embeddings": True, "head_dim": None},
        False,
    ),
    "next": ("qwen3_next", _SHARED | _LINEAR | _MIXED, False),
    "next_tied": (
        "qwen3_next",
        _SHARED | _LINEAR
        | {"full_attention_interval": 2, "head_dim": 16, "partial_rotary_factor": 0.25, "linear_num_key_heads": 3,
           "linear_num_value_heads": 3, "mlp_only_layers": [1], "norm_topk_prob": False, "tie_word_embeddings": True,
           "attention_bias": True, "linear_conv_kernel_dim": 3},
        True,
    ),
    "next_yarn": (
        "qwen3_next",
        _SHARED | _LINEAR | {"full_attention_interval": 2, "head_dim": 24} | _SMALL | _old(_YARN),
        True,
    ),
    "qwen3_5": (
        "qwen3_5_text",
        _LINEAR | {"layer_types": [_F, _L, _L, _F], "linear_num_value_heads": 6}
        | _rope({"rope_type": "default"}, partial_rotary_factor=0.5, mrope_section=[1, 1, 1], mrope_interleaved=True),
        False,
    ),
    "qwen3_5_tied": (
        "qwen3_5_text",
        _LINEAR
        | {"full_attention_interval": 3, "head_dim": 16, "partial_rotary_factor": 0.25, "linear_num_key_heads": 3,
           "linear_num_value_heads": 3, "tie_word_embeddings": True, "attention_bias": True},
        True,
    ),
    "qwen3_5_moe": ("qwen3_5_moe_text", _SHARED | _LINEAR | _MIXED, False),
    "qwen3_5_moe_tied": (
        "qwen3_5_moe_text",
        _SHARED | _LINEAR
        | {"full_attention_interval": 2, "tie_word_embeddings": True, "linear_num_key_heads": 3,
           "linear_num_value_heads": 3, "num_experts_per_tok": 3, "head_dim": 16}
        | _rope(_YARN | _SMALL, partial_rotary_factor=0.5, mrope_section=[2, 1, 1], mrope_interleaved=True),
        False,
    ),
}  # fmt: skip


def settings(case: str) -> tuple[str, dict[str, Any], bool]:
    """Type, keyword arguments of transformers' configuration class, and the older-spelling flag of a case."""
    kind, changes, old = CASES[case]
    given = copy.deepcopy(_BASE | changes)  # transformers writes into the RoPE objects it is given
    if kind == "qwen3_5_moe_text":
        given = {k: v for k, v in given.items() if k not in ("intermediate_size", "norm_topk_prob")}
    if kind == "qwen3_5_text":
        given = {k: v for k, v in given.items() if "expert" not in k and k != "moe_intermediate_size"}
    return kind, {k: v for k, v in given.items() if v is not None or k.endswith("token_id")}, old


def shape(case: str) -> tuple[int, int, tuple[int, ...]]:
    """Rows and tokens of the batch whose gradients are recorded, and the lengths of the other sequences."""
    changes = CASES[case][1]
    if "linear_num_key_heads" in changes:
        return 2, 70, (1, 2, 40, 130)
    return 3, 17, (1, 2, 40, 130) if "rope" in str(changes) else (1, 2, 40)

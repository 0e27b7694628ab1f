"""A model's configuration as the metadata of a GGUF file, both ways. Keys: ggml/docs/gguf.md, llama.cpp's converter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from qwill.base.errors import CheckpointError, ModelError
from qwill.model.config import ModelConfig
from qwill.model.gguf_file import GGUFFile
from qwill.model.gguf_tensors import entries
from qwill.model.rope import RopeScaling

# llama.cpp's name of an architecture → model type.
MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3moe": "qwen3_moe"}
ARCHITECTURES = {model_type: name for name, model_type in MODEL_TYPES.items()}


def read_gguf_config(file: GGUFFile) -> ModelConfig:
    """The model that the metadata describe, every tensor checked to be there in its shape."""
    arch = text(file, "general.architecture")
    if arch is None:
        raise CheckpointError(f"{file.path}: the metadata key general.architecture is missing; fetch the file again.")
    if arch not in MODEL_TYPES:
        raise ModelError(
            f"{file.path}: architecture {_short(arch)} is not supported; Qwill reads {', '.join(MODEL_TYPES)} GGUF "
            "files."
        )
    moe = arch == "qwen3moe"

    def at_least_zero(key: str) -> float:
        return float(number(file, f"{arch}.{key}", lambda x: x >= 0, "a number that is not negative", 0))

    if not moe and at_least_zero("expert_count"):
        raise ModelError(f"{file.path}: experts in a {arch} file are not supported; expected a dense model.")
    if at_least_zero("expert_weights_scale") not in (0, 1):
        raise ModelError(f"{file.path}: {arch}.expert_weights_scale is not supported; expected 1.")

    def integer(key: str, default: int | None = None) -> int:
        return number(file, f"{arch}.{key}", lambda x: isinstance(x, int) and x > 0, "a positive integer", default)

    def positive(key: str, default: float | None = None) -> float:
        value = number(file, f"{arch}.{key}", lambda x: 0 < x < math.inf, "a positive number", default)
        # The shortest decimal that this float32 stands for: 1e-6 and not 9.99999997e-7.
        return float(str(np.float32(value)))

    # A factor alone means linear scaling; `scale_linear` is its older name.
    factor = max(at_least_zero("rope.scaling.factor"), at_least_zero("rope.scale_linear"))
    kind = text(file, f"{arch}.rope.scaling.type") or ("none" if factor in (0, 1) else "linear")
    if kind not in ("none", "linear", "yarn"):
        raise ModelError(f"{file.path}: rope scaling {_short(kind)} is not supported; expected none, linear or yarn.")
    for key in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier"):
        if at_least_zero(f"rope.scaling.{key}") not in (0, 1):
            raise ModelError(f"{file.path}: {arch}.rope.scaling.{key} is not supported; expected YaRN's own.")
    scaling = None if kind == "none" else RopeScaling(kind, factor or 1.0)
    if kind == "yarn":
        length = integer("rope.scaling.original_context_length", integer("context_length"))
        fast, slow = positive("rope.scaling.yarn_beta_fast", 32.0), positive("rope.scaling.yarn_beta_slow", 1.0)
        scaling = RopeScaling(kind, positive("rope.scaling.factor"), length, beta_fast=fast, beta_slow=slow)
    heads, hidden = integer("attention.head_count"), integer("embedding_length")
    kv_heads = integer("attention.head_count_kv", heads)
    head_dim = integer("attention.key_length", max(1, hidden // heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        if integer(key, head_dim) != head_dim:
            raise ModelError(f"{file.path}: {arch}.{key} is not the {head_dim} of the keys, which is not supported.")
    if heads % kv_heads or head_dim % 2:
        raise CheckpointError(f"{file.path}: {heads} heads of {head_dim} with {kv_heads} for keys make no sense.")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{file.path}: tensor token_embd.weight is missing; fetch the file again.")
    experts, used = (integer("expert_count"), integer("expert_used_count")) if moe else (0, 0)
    if used > experts:
        raise CheckpointError(f"{file.path}: {arch}.expert_used_count is {used}, more than the {experts} experts.")
    config = ModelConfig(
        model_type=MODEL_TYPES[arch],
        vocab_size=embedding.shape[0],
        hidden_size=hidden,
        num_hidden_layers=integer("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=0 if moe and not at_least_zero("feed_forward_length") else integer("feed_forward_length"),
        max_position_embeddings=integer("context_length"),
        rms_norm_eps=positive("attention.layer_norm_rms_epsilon"),
        rope_theta=positive("rope.freq_base", 10_000.0),
        tie_word_embeddings="output.weight" not in file.tensors,
        rope_scaling=scaling,
        qkv_bias=arch == "qwen2",
        attention_bias=arch == "llama" and "blk.0.attn_q.bias" in file.tensors,
        num_experts=experts,
        num_experts_per_tok=used,
        moe_intermediate_size=integer("expert_feed_forward_length") if moe else 0,
        bos_token_id=token_id(file, "bos", embedding.shape[0]),
        eos_token_id=token_id(file, "eos", embedding.shape[0]),
        pad_token_id=token_id(file, "padding", embedding.shape[0]),
    )
    left = set(file.tensors)
    # One by one, so that an absurd number of layers ends at the first that is not there.
    for entry in entries(config):
        if entry.name not in file.tensors:
            raise CheckpointError(f"{file.path}: tensor {entry.name} is missing; fetch the file again.")
        if file.tensors[entry.name].shape != entry.shape:
            raise CheckpointError(
                f"{file.path}: tensor {entry.name} has shape {list(file.tensors[entry.name].shape)}, but the metadata "
                f"mean {list(entry.shape)}."
            )
        left.discard(entry.name)
    if left:
        raise ModelError(f"{file.path}: tensor {min(left)!r} is not part of a {arch} model as Qwill knows it.")
    return config


def write_gguf_config(config: ModelConfig, where: str) -> dict[str, Any]:
    """The metadata of a model; ModelError naming `where` for one that llama.cpp can't be told of."""
    c = config
    if c.model_type not in ARCHITECTURES:
        raise ModelError(
            f"{where}: a {c.model_type} model can't be written as GGUF; Qwill writes {', '.join(ARCHITECTURES)}."
        )
    arch = ARCHITECTURES[c.model_type]
    moe = c.num_experts > 0
    if moe and not c.norm_topk_prob:
        raise ModelError(f"{where}: norm_topk_prob is false, and llama.cpp always renormalises the chosen experts.")
    if moe and not all(map(c.is_sparse, range(c.num_hidden_layers))):
        raise ModelError(f"{where}: layers without experts among sparse ones, which llama.cpp does not have.")
    if c.attention_bias and arch != "llama":
        raise ModelError(f"{where}: attention_bias is true, and llama.cpp knows no bias of the output in {arch}.")
    if arch == "qwen2" and c.num_attention_heads * c.head_dim != c.hidden_size:
        raise ModelError(f"{where}: heads that are not as wide as the model together are unknown to llama.cpp's qwen2.")
    out: dict[str, Any] = {
        "block_count": c.num_hidden_layers,
        "context_length": c.max_position_embeddings,
        "embedding_length": c.hidden_size,
        "feed_forward_length": c.intermediate_size,
        "attention.head_count": c.num_attention_heads,
        "attention.head_count_kv": c.num_key_value_heads,
        "attention.key_length": c.head_dim,
        "attention.value_length": c.head_dim,
        "attention.layer_norm_rms_epsilon": float(c.rms_norm_eps),
        "rope.freq_base": float(c.rope_theta),
        "rope.dimension_count": c.head_dim,
        "vocab_size": c.vocab_size,
    }
    if moe:
        out |= {
            "expert_count": c.num_experts,
            "expert_used_count": c.num_experts_per_tok,
            "expert_feed_forward_length": c.moe_intermediate_size,
        }
    if (scaling := c.rope_scaling) is not None:
        if scaling.kind not in ("linear", "yarn") or scaling != RopeScaling(
            scaling.kind,
            scaling.factor,
            scaling.original_max_position_embeddings,
            beta_fast=scaling.beta_fast,
            beta_slow=scaling.beta_slow,
        ):
            raise ModelError(
                f"{where}: this rope scaling can't be written as GGUF; Qwill writes linear, and yarn without an "
                "attention_factor or mscale of its own."
            )
        out |= {"rope.scaling.type": scaling.kind, "rope.scaling.factor": scaling.factor}
        if scaling.kind == "yarn":
            out |= {
                "rope.scaling.original_context_length": scaling.original_max_position_embeddings,
                "rope.scaling.yarn_beta_fast": scaling.beta_fast,
                "rope.scaling.yarn_beta_slow": scaling.beta_slow,
            }
    return {"general.architecture": arch} | {f"{arch}.{key}": value for key, value in out.items()}


def number(file: GGUFFile, key: str, sound: Callable[[Any], bool], wanted: str, default: float | None) -> Any:
    """A number of the metadata, checked; CheckpointError for one that is missing without a default or not sound."""
    value = file.metadata.get(key, default)
    if value is None:
        raise CheckpointError(f"{file.path}: the metadata key {key} is missing; expected {wanted}.")
    if not isinstance(value, int | float) or isinstance(value, bool) or not sound(value):
        raise CheckpointError(f"{file.path}: {key} is {_shown(value)}; expected {wanted}.")
    return value


def token_id(file: GGUFFile, role: str, limit: int) -> int | None:
    """The id of a special token (`bos`, `eos`, `padding`, `unknown`), None where the file names none."""
    key = f"tokenizer.ggml.{role}_token_id"
    if key not in file.metadata:
        return None
    value: int = number(file, key, lambda x: isinstance(x, int) and 0 <= x < limit, f"an id below {limit}", None)
    return value


def text(file: GGUFFile, key: str) -> str | None:
    """A text of the metadata, None where it is not there."""
    value = file.metadata.get(key)
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{file.path}: {key} is {_shown(value)}; expected a text.")
    return value


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) < 60 else f"a {type(value).__name__}"


def _short(value: str) -> str:
    return repr(value) if len(value) < 60 else f"{value[:60]!r}…"

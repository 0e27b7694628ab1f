"""Tiny models with tokenizers that the oracle of llama.cpp and the tests make for themselves, the same to the bit.

Weights are drawn as whole numbers: a normal distribution's last bits may depend on the processor.
"""

from typing import Any

import numpy as np
import torch

from qwill.model.config import ModelConfig
from qwill.model.rope import RopeScaling
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import BYTE_TO_CHARACTER, to_characters

WORDS = [
    " the", " The", " quick", " brown", " fox", " of", " and", "ing", " 12", "don't", "'s", "'LL", " a", "  ", "\n\n",
    "def", "你好", "世界", "，", "。", "请问", "什么", "的", "是", "中文",
]  # fmt: skip
SMOLLM_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"]
PROMPTS = [
    "The quick brown fox", "def f(x):\n    return", "Don't stop, 12 + 30 = ", "你好，世界！请问中文是什么？",
    "the the the the", "<|im_start|>user\n你好。<|im_end|>\n<|im_start|>assistant\n",
]  # fmt: skip
AWKWARD = [
    "", " ", "  two  spaces \n\n\ttab\r\nend ", "3.14159 and 2024年, ٣٤ ½ ²", "I'll DON'T WE'VE 'tis 'S",
    "你好，世界！日本語 한국어",
    "café ﬁ Ａ", "👩‍👩‍👧 🇨🇳 \u00a0\u2003x", "def f(a_b: int) -> None:  # no\n    return a[1:-1]", "https://a.b/c?d=e%20f",
    "<|im_end|> <|endoftext|> text", "\x00\x01\x7f\ufffd", "   \n   \n", "\r\n\r\n x", "a" * 70, "中" * 40,
]  # fmt: skip

SMALL: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 96, "max_position_embeddings": 256, "rope_theta": 10_000.0, "bos_token_id": None,
}  # fmt: skip
YARN = RopeScaling("yarn", 4.0, 32)
# Between them: every architecture, tied and not, biases, scaling of positions, eight experts (more bits for k and v),
# rows that no block divides (the 48 of moe's experts, F16), padding rows (vocabulary 320), head_dim apart from width.
CASES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "llama_bias": {"model_type": "llama", "attention_bias": True, "rope_scaling": RopeScaling("linear", 2.0)},
    "qwen2": {"model_type": "qwen2", "qkv_bias": True, "tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "rms_norm_eps": 1e-5},
    "qwen3_yarn": {"model_type": "qwen3", "rope_scaling": YARN, "tie_word_embeddings": False},
    "qwen3_moe": {"model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
    "qwen3_moe_8": {
        "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64,
        "tie_word_embeddings": False,
    },
    # Rows of 256, which K-quants need.
    "wide": {
        "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 1, "head_dim": 64, "num_key_value_heads": 1,
        "intermediate_size": 256,
    },
}  # fmt: skip


def tiny_tokenizer(family: str) -> Tokenizer:
    """Single bytes, and each of WORDS merged from left to right."""
    vocabulary = {character: i for i, character in enumerate(BYTE_TO_CHARACTER)}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        whole = to_characters(word.encode())
        for end in range(2, len(whole) + 1):
            if whole[:end] not in vocabulary:
                vocabulary[whole[:end]] = len(vocabulary)
                merges.append((whole[: end - 1], whole[end - 1]))
    if family == "qwen":
        return Tokenizer.from_trained(vocabulary, merges)
    tokens = SMOLLM_SPECIALS + list(vocabulary)
    return Tokenizer.from_bpe(tokens, [" ".join(pair) for pair in merges], [0, 1, 2, 3], "smollm", "{{ messages }}")


def tiny(case: str) -> tuple[Transformer, Tokenizer]:
    """A lively model: norms 1 ± 0.5, logits with a standard deviation of a few."""
    settings = SMALL | CASES[case]
    tokenizer = tiny_tokenizer("smollm" if settings["model_type"] == "llama" else "qwen")
    settings["intermediate_size"] = 0 if "num_experts" in settings else settings["intermediate_size"]
    end, padding = (tokenizer.special(name) for name in ("<|im_end|>", "<|endoftext|>"))
    config = ModelConfig(vocab_size=tokenizer.padded_vocab_size, eos_token_id=end, pad_token_id=padding, **settings)
    model = Transformer(config)
    rng = np.random.default_rng(sum(case.encode()))
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            drawn = torch.from_numpy(rng.integers(-(2**15), 2**15, tuple(p.shape)).astype(np.float32)) / 2**15
            if name.endswith("norm.weight"):
                p.copy_(1 + drawn / 2)
            elif name.endswith("bias"):
                p.copy_(drawn)
            else:
                p.copy_(drawn * (4.0 if p.shape[-1] <= 96 else 2.0) / 16)
    return model.eval(), tokenizer

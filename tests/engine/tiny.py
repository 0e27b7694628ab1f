"""Tiny models with all weights redrawn, so that nothing in them is trivial: norms away from 1, wide logits."""

import torch

from qwill.engine.language_model import LanguageModel
from qwill.model.config import ModelConfig
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters

SHAPES = {
    "dense": {"model_type": "qwen3"},
    "moe": {
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
    },
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
}


def redrawn(config: ModelConfig, seed: int) -> Transformer:
    model = Transformer(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(1 + torch.rand(p.shape, generator=generator) - 0.5)
            else:
                p.copy_(torch.randn(p.shape, generator=generator) * p.shape[-1] ** -0.5)
        model.head_weight_VD.copy_(torch.randn(model.head_weight_VD.shape, generator=generator) * 0.5)
    return model


def tiny_model(kind: str, vocab_size: int = 97, context: int = 64, seed: int = 0) -> Transformer:
    config = ModelConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=48,
        max_position_embeddings=context,
        **SHAPES[kind],
    )
    return redrawn(config, seed)


def byte_tokenizer(chat_template: str | None = None) -> Tokenizer:
    """One token a byte, then the special tokens of Qwen3."""
    vocabulary = {to_characters(bytes([b])): b for b in range(256)}
    tokenizer = Tokenizer.from_trained(vocabulary, [])
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def chat_model(context: int = 2000, seed: int = 0) -> LanguageModel:
    """A model that says anything at all: random bytes, some of them special tokens."""
    tokenizer = byte_tokenizer()
    return LanguageModel(tiny_model("dense", tokenizer.padded_vocab_size, context, seed), tokenizer)

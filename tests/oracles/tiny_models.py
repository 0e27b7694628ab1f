"""Tiny models whose widths divide into groups of 32, made from seeds: oracles and tests make the same ones."""

from pathlib import Path

import torch

from qwill.model.config import ModelConfig
from qwill.model.files import save_model
from qwill.model.transformer import Transformer

BASE = {
    "vocab_size": 61, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "intermediate_size": 96, "rms_norm_eps": 1e-2, "rope_theta": 300.0, "tie_word_embeddings": False,
}  # fmt: skip
MODELS = {
    "dense": ModelConfig(model_type="qwen3", attention_bias=True, **BASE),
    "moe": ModelConfig(
        model_type="qwen3_moe", num_experts=5, num_experts_per_tok=2, moe_intermediate_size=32, **BASE
    ),
    # A layer of Gated DeltaNet, one of gated attention, and a shared expert in both.
    "hybrid": ModelConfig(
        model_type="qwen3_next", num_experts=5, num_experts_per_tok=2, moe_intermediate_size=32,
        shared_expert_intermediate_size=64, layer_types=("linear_attention", "full_attention"), linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16, linear_conv_kernel_dim=4,
        partial_rotary_factor=0.25,
        **BASE,
    ),
}  # fmt: skip
TOKENS = torch.arange(1, 20)[None]


def tiny(kind: str, dtype: str = "float32") -> Transformer:
    """Every parameter drawn, norms 1 ± 0.5, large enough that attention is far from uniform."""
    model, g = Transformer(MODELS[kind]), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            drawn = torch.randn(p.shape, generator=g)
            if "norm" in name:
                p.copy_(1 + 0.5 * drawn.clamp(-1, 1))
            else:
                p.copy_(drawn * (0.3 if name.endswith("bias") else 1.3 * p.shape[-1] ** -0.5))
    return model.to(getattr(torch, dtype)).eval()


def tiny_folder(kind: str, folder: Path, dtype: str = "float32") -> Path:
    save_model(tiny(kind, dtype), folder)
    return folder

"""FLOPs of a token against `torch.utils.flop_counter` on our own Transformer, for every model type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qwill.model import ops
from qwill.model.batch import Batch
from qwill.model.config import ModelConfig
from qwill.model.flops import backward_flops, forward_flops, kv_cache_bytes, training_flops
from qwill.model.hf_config import ARCHITECTURES
from qwill.model.initial import init_weights
from qwill.model.shipped import find_config
from qwill.model.size import count
from qwill.model.transformer import Transformer

ROWS, T = 1, 1024  # long enough for the first and last chunk of Gated DeltaNet, which have less to do, not to count


@pytest.fixture(autouse=True)
def definitions() -> Iterator[None]:
    ops.use_native(False)
    yield
    ops.use_native(True)


def tiny(kind: str, **more: Any) -> ModelConfig:
    return ModelConfig.from_hf({
        "model_type": kind, "vocab_size": 301, "hidden_size": 40, "num_hidden_layers": 4, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 72, "num_experts": 6, "num_experts_per_tok": 2,
        "moe_intermediate_size": 24, "shared_expert_intermediate_size": 56, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 24, "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4, "partial_rotary_factor": 0.5, "norm_topk_prob": True,
        "tie_word_embeddings": True, **more,
    })  # fmt: skip


def measured(config: ModelConfig) -> tuple[float, float]:
    """(forward, backward) FLOPs a token that torch's counter sees."""
    model = Transformer(config)
    init_weights(model, torch.Generator().manual_seed(0))
    tokens = torch.randint(0, config.vocab_size, (ROWS, T), generator=torch.Generator().manual_seed(1))
    # The counter knows nothing of the CPU's fused attention.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            hidden_ND = model(Batch.rows(tokens)).hidden_ND
            weight_N = torch.full((ROWS * T,), 1 / (ROWS * T))
            loss, _ = ops.cross_entropy(hidden_ND, model.head_weight_VD, tokens.flatten(), weight_N)
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return forward.get_total_flops() / (ROWS * T), backward.get_total_flops() / (ROWS * T)


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
@pytest.mark.parametrize("more", [{}, {"tie_word_embeddings": False, "decoder_sparse_step": 2}], ids=["", "mixed"])
def test_equals_the_counter(kind: str, more: dict) -> None:
    config = tiny(kind, **more)
    forward = forward_flops(config, T, causal=False)
    backward = backward_flops(forward)
    seen = measured(config)
    # The counter leaves out triangular solves.
    assert seen[0] == pytest.approx(forward.total - forward.solve, rel=0.01)
    assert seen[1] == pytest.approx(backward.total - backward.solve, rel=0.01)


def test_a_causal_sequence_sees_half_and_its_own() -> None:
    config = tiny("qwen3")
    square, causal = forward_flops(config, T, causal=False), forward_flops(config, T)
    assert causal.attention / square.attention == (T + 1) / 2 / T
    assert (causal.weights, causal.head) == (square.weights, square.head)


def test_of_long_known_models() -> None:
    """6 FLOPs a weight and token (Kaplan et al. 2020, arXiv 2001.08361 §2.1), and attention: 12·L·H·K·T/2."""
    config = find_config("qwen3-8b")[1]
    weights = count(config).active - config.vocab_size * config.hidden_size
    attention = 12 * 36 * 32 * 128 * 4096 / 2
    assert training_flops(config, 4096) == pytest.approx(6 * weights + attention, rel=1e-3)
    # 36 T tokens of the one-trillion plan: its active weights alone, embedding included, make 9.1e24 by that rule.
    plan = find_config("qwen3-1t-plan")[1]
    forward = forward_flops(plan, 4096)
    assert 3 * (forward.weights + forward.head) * 36e12 == pytest.approx(9.1e24, rel=0.04)


def test_cache() -> None:
    assert kv_cache_bytes(find_config("qwen3-1t-plan")[1]) == (159_744, 0)
    config = find_config("qwen3-next-80b-a3b")[1]
    token, request = kv_cache_bytes(config)
    assert token == 12 * 2 * 2 * 256 * 2
    assert request == 36 * (32 * 128 * 128 * 4 + (2 * 16 * 128 + 32 * 128) * 3 * 2)

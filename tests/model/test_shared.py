"""Common beginnings held once: the same hidden states to the last bit, the same gradients, and fewer tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwill.model import native
from qwill.model.batch import Batch
from qwill.model.config import ModelConfig
from qwill.model.initial import init_weights
from qwill.model.transformer import Transformer
from qwill.train.balance import StepBalance

SIZES = dict(max_position_embeddings=64)
DENSE = ModelConfig("qwen3", 40, 32, 2, 4, 2, 16, 48, **SIZES)  # type: ignore[arg-type]
HYBRID = ModelConfig(
    "qwen3_next", 40, 32, 2, 4, 2, 16, 0, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
    shared_expert_intermediate_size=32, layer_types=("linear_attention", "full_attention"), partial_rotary_factor=0.25,
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
    linear_conv_kernel_dim=4, **SIZES,
)  # fmt: skip

# Few ids and short sequences, so that beginnings are often common, also of several lengths.
sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8)


def model_of(config: ModelConfig, dtype: torch.dtype) -> Transformer:
    model = Transformer(config)
    init_weights(model, torch.Generator().manual_seed(0))
    return model.to(dtype)


def outcome(model: Transformer, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """(hidden states at all places, gradients of a projection of them)."""
    model.zero_grad(set_to_none=True)
    places = torch.arange(int(batch.cu_seqlens[-1]))
    hidden_LD = model(batch).hidden_ND[batch.rows_at(places)]
    weight_LD = torch.arange(hidden_LD.numel(), dtype=hidden_LD.dtype).sin().view_as(hidden_LD)
    (hidden_LD * weight_LD).sum().backward()
    return hidden_LD.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("config", [DENSE, HYBRID], ids=["dense", "hybrid"])
@given(ids=sequences)
@settings(max_examples=25)
def test_hidden_states_and_gradients_are_those_of_whole_sequences(config: ModelConfig, ids: list[list[int]]) -> None:
    single, double = model_of(config, torch.float32), model_of(config, torch.float64)
    whole, shared = Batch.pack(ids), Batch.share(ids)
    hidden, hidden_shared = outcome(single, whole)[0], outcome(single, shared)[0]
    # To the last bit with the kernels, whose sums don't depend on the batch; PyTorch's do.
    torch.testing.assert_close(hidden_shared, hidden, rtol=0, atol=0 if native.suits(hidden) else 1e-5)
    (hidden, gradients), (hidden_shared, gradients_shared) = outcome(double, whole), outcome(double, shared)
    torch.testing.assert_close(hidden_shared, hidden, rtol=0, atol=1e-12)
    for own, expected in zip(gradients_shared, gradients, strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-12 * max(1.0, float(expected.abs().max())))


@given(ids=sequences)
@settings(max_examples=25)
def test_a_token_held_once_counts_at_each_of_its_places(ids: list[list[int]]) -> None:
    """In what the balancing loss is of, and in its gradient."""
    model, found = model_of(HYBRID, torch.float64), []
    for batch in (Batch.pack(ids), Batch.share(ids)):
        model.zero_grad(set_to_none=True)
        stats = model(batch).router_stats
        assert stats and batch.places == sum(map(len, ids))
        StepBalance(1.0, None).loss(stats, batch).backward()  # type: ignore[union-attr]
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([*[s.load_E for s in stats], *[s.probability_E.detach() for s in stats], *gradients])
    for own, expected in zip(*found, strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-12)


@given(ids=sequences)
def test_every_beginning_is_held_once(ids: list[list[int]]) -> None:
    batch = Batch.share(ids)
    distinct = {tuple(s[: i + 1]) for s in ids for i in range(len(s))}
    flat = [token for s in ids for token in s]
    worth_it = len(distinct) <= len(flat) * 15 / 16
    assert (batch.shared is not None) == worth_it
    assert len(batch.tokens_N) == len(batch.positions_N) == (len(distinct) if worth_it else len(flat))
    places = torch.arange(len(flat))
    assert batch.tokens_N[batch.rows_at(places)].tolist() == flat
    assert batch.positions_N[batch.rows_at(places)].tolist() == [i for s in ids for i in range(len(s))]
    assert batch.lengths.tolist() == [len(s) for s in ids]


def test_nothing_in_common_is_an_ordinary_batch() -> None:
    assert Batch.share([[1, 2], [2, 1], [3]]).shared is None
    assert Batch.share([[1, 2], [1, 3]]).shared is not None

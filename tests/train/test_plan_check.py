"""Meshes that are run on the meta device: shards hold and do what the plan says, for every model type and axis."""

from __future__ import annotations

import pytest
from tests.model.test_flops import tiny

from qwill.model.config import ModelConfig
from qwill.model.hf_config import ARCHITECTURES
from qwill.train import plan_check
from qwill.train.plan_check import run_on_meta
from qwill.train.plan_mesh import Mesh


def config_of(kind: str, **more: object) -> ModelConfig:
    return tiny(kind, vocab_size=304, moe_intermediate_size=32, intermediate_size=64, hidden_size=64, **more)


@pytest.mark.parametrize(("kind", "tied"), [(kind, n % 2 == 0) for n, kind in enumerate(sorted(ARCHITECTURES))])
def test_shards_are_as_planned(kind: str, tied: bool) -> None:
    config = config_of(kind, tie_word_embeddings=tied, decoder_sparse_step=2)
    experts = 3 if config.num_experts else 1
    # Gated DeltaNet's chunks take long even without values; its first and last chunk have less to do than planned.
    tokens, near = (128, 0.1) if config.has_linear else (64, 0.02)
    for c in run_on_meta(config, Mesh(tp=2, pp=2, fsdp=4, ep=experts), tokens):
        # Tiny matrices make the vectors that tp leaves whole count.
        assert c.flops == pytest.approx(c.planned_flops, rel=near)
        assert c.weights == pytest.approx(c.planned_weights, rel=0.02)


@pytest.mark.parametrize("mesh", [Mesh(), Mesh(pp=3), Mesh(ep=2)], ids=str)
def test_without_tensor_parallelism_to_the_last_weight(mesh: Mesh) -> None:
    for c in run_on_meta(config_of("qwen2_moe"), mesh, 64):
        assert c.weights == c.planned_weights and c.flops == c.planned_flops


def test_many_tokens_make_logits_again() -> None:
    (checked,) = run_on_meta(config_of("qwen3"), Mesh(), 2048)
    assert checked.flops == checked.planned_flops and checked.agrees


def test_a_plan_that_is_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_check, "weights_of_rank", lambda stage, mesh: (stage.size.whole, 0.0))
    (checked,) = run_on_meta(config_of("qwen3"), Mesh(), 64)
    assert not checked.agrees

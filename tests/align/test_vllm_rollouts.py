"""Rollouts by vLLM behind the two functions, against a stand-in for its API (fake_vllm_llm.py): what is asked of it,
what comes back, weights that follow the trainer's, and what can't be had."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.align import fake_vllm_llm
from tests.align.tiny_rl import TOKENIZER, by_length, config, model, rows
from tests.train.tiny_training import context

from qwill.align import sample_rollouts
from qwill.align.grpo import train_grpo
from qwill.align.policy_update import update
from qwill.align.rollout_engines import RolloutEngine, rollout_source
from qwill.align.sample_rollouts import roll_out
from qwill.align.settings import GRPOConfig, VllmConfig
from qwill.align.vllm_rollouts import seed_of
from qwill.base.config import to_dict
from qwill.base.errors import ConfigError, ModelError
from qwill.model.lora import attach, new_adapter
from qwill.model.lora_config import LoraConfig
from qwill.train.optim import make_optimizers
from qwill.train.settings import OptimizerConfig

LORA = LoraConfig(rank=3, alpha=6)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setitem(sys.modules, "vllm", fake_vllm_llm)
    monkeypatch.setattr(sample_rollouts, "verify", by_length)
    fake_vllm_llm.LLM.started.clear()
    yield fake_vllm_llm.LLM
    fake_vllm_llm.LLM.finish = None


def by_vllm(**changes: Any) -> GRPOConfig:
    return config(rollout_engine="vllm", **changes)


def engine(made: Any, settings: GRPOConfig, folder: Path) -> RolloutEngine:
    found = rollout_source(made, TOKENIZER, settings, folder, 0)()
    assert isinstance(found, RolloutEngine)
    return found


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_log_probabilities_are_those_that_the_trainer_computes(temperature: float, tmp_path: Path, vllm: Any) -> None:
    made, settings = model("moe"), by_vllm(temperature=temperature, vllm=VllmConfig(dtype="float32"))
    groups = roll_out(engine(made, settings, tmp_path), TOKENIZER, rows(4), settings, step=2, seed=1)
    every = [r for g in groups for r in g]
    assert [len(g) for g in groups] == [6] * 4 and len({tuple(r.ids) for r in every}) > 10
    for r in every:
        assert r.ids[-1] in TOKENIZER.stop_ids or r.tokens == settings.max_tokens
        assert not any(i in TOKENIZER.stop_ids for i in r.ids[r.start : -1])
        assert max(r.ids) < TOKENIZER.vocab_size < made.config.vocab_size
        r.advantage, r.old = 1.0, []
    assert {r.reward for r in every} == {0.0, 1.0}
    optimizers = make_optimizers(made, OptimizerConfig("adamw", learning_rate=1e-12, matrix_rate=1e-12))
    assert update(made, optimizers, every, settings)["gap"] < 1e-4
    (started,) = vllm.started
    assert started.logprobs_mode == "processed_logprobs" and started.dtype == "float32"
    assert len({asked.seed for asked in started.asked}) == len(started.asked) == 4


def test_samples_have_their_order_and_streams_their_seeds(tmp_path: Path, vllm: Any) -> None:
    made, settings = model("dense"), by_vllm()
    source = engine(made, settings, tmp_path)
    first, again, other = (
        [[r.ids for r in g] for g in roll_out(source, TOKENIZER, rows(3), settings, step, 1)] for step in (0, 0, 1)
    )
    assert first == again != other
    # One row alone, named by its place, has the replies that it has among others.
    assert [[r.ids for r in g] for g in roll_out(source, TOKENIZER, rows(3)[2:], settings, 0, 1, None, [2])] == first[
        2:
    ]
    seeds = [seed_of(s, i) for s in range(20) for i in range(20)]
    near = sorted(seeds)
    assert all(b - a >= 64 for a, b in pairwise(near)), "samples would share their numbers"


@pytest.mark.parametrize("lora", [None, LORA])
def test_replies_are_of_the_weights_as_they_are(lora: LoraConfig | None, tmp_path: Path, vllm: Any) -> None:
    made, settings = model("dense"), by_vllm(lora=lora)
    if lora:
        attach(made, new_adapter(made, lora, torch.Generator().manual_seed(0)))
    source = rollout_source(made, TOKENIZER, settings, tmp_path, 0)
    before = roll_out(source(), TOKENIZER, rows(3), settings, 0, 1)
    trained = [p for p in made.parameters() if p.requires_grad]
    with torch.no_grad():
        for i, p in enumerate(trained):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.3)
    after = [r for g in roll_out(source(), TOKENIZER, rows(3), settings, 0, 1) for r in g]
    assert [r.ids for r in after] != [r.ids for g in before for r in g]
    assert len(vllm.started) == 1, "weights are read into the engine that runs"
    for r in after:
        with torch.no_grad():
            logits = made.logits(torch.tensor([r.ids]))[0, r.start - 1 : -1].double()
        own = logits.log_softmax(-1)[torch.arange(len(logits)), r.ids[r.start :]]
        assert torch.tensor(r.logprobs).double() == pytest.approx(own, abs=1e-3)


def test_a_run_learns_with_importance_weights_and_says_its_gap(tmp_path: Path, vllm: Any) -> None:
    fast = OptimizerConfig("adamw", learning_rate=3e-3, matrix_rate=3e-3)
    settings = by_vllm(steps=12, samples=8, optimizer=fast, vllm=VllmConfig(dtype="float32"))
    assert settings.truncation == 2.0 and config().truncation == 0.0
    history = train_grpo(model("dense"), TOKENIZER, rows(), settings, context(tmp_path))
    first, last = (sum(p["reward"] for p in part) / 3 for part in (history.curve[:3], history.curve[-3:]))
    assert last > first and all(p["gap"] < 1e-3 for p in history.curve)


def test_a_reply_that_was_not_finished_is_told(tmp_path: Path, vllm: Any) -> None:
    vllm.finish = "abort"
    source = engine(model("dense"), by_vllm(), tmp_path)
    with pytest.raises(ModelError, match="vLLM ended a rollout with 'abort'"):
        roll_out(source, TOKENIZER, rows(1), by_vllm(), 0, 1)


def test_vllm_that_is_missing_or_does_not_start_is_one_sentence(
    tmp_path: Path, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Engine core initialization failed.\nSee root cause above.")

    with monkeypatch.context() as patch:
        patch.setattr(fake_vllm_llm, "LLM", failing)
        with pytest.raises(ModelError, match=r"^vLLM does not start \(Engine core initialization failed\); mend that"):
            engine(model("dense"), by_vllm(), tmp_path)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match=r"rollout_engine is vllm, which can't be imported here .*pip install vllm"):
        engine(model("dense"), by_vllm(), tmp_path)


@pytest.mark.parametrize(
    "changes", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"routing_replay": "rollout"}, {"rollout_dtype": "int8"}]
)
def test_what_vllm_cannot_tell_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="which rollouts by vLLM can't have"):
        by_vllm(**changes)


def test_recipes_without_it_keep_their_ids() -> None:
    assert not {"rollout_engine", "vllm", "too_long"} & to_dict(GRPOConfig()).keys()

"""PPO: the critic's advantages by their definition, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.align.tiny_rl import TOKENIZER, by_length, model, rows, until_cut
from tests.train.tiny_training import context

from qwill.align import grpo, sample_rollouts
from qwill.align.critic import Critic
from qwill.align.grpo import train_grpo
from qwill.align.sample_rollouts import roll_out
from qwill.align.settings import PPOConfig
from qwill.base.errors import ConfigError
from qwill.model.batch import Batch
from qwill.train.settings import OptimizerConfig

FAST = OptimizerConfig("adamw", learning_rate=3e-3, matrix_rate=3e-3)


def config(**changes: Any) -> PPOConfig:
    given = {"steps": 4, "prompts": 3, "samples": 6, "max_tokens": 10, "optimizer": FAST, "critic": FAST}
    return PPOConfig(**given | changes)


def drawn(settings: PPOConfig, seed: int = 0):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_rollouts, "verify", by_length)
        return [r for g in roll_out(model("dense"), TOKENIZER, rows(5), settings, 0, seed) for r in g]


def critic(settings: PPOConfig, kind: str = "dense") -> Critic:
    made = Critic.start(model(kind, seed=5).double(), settings)
    with torch.no_grad():
        made.model.get_parameter("score").copy_(torch.randn(32, generator=torch.Generator().manual_seed(2)) * 0.1)
    return made


def test_advantages_are_gaes_of_the_critics_values() -> None:
    settings = config(gamma=0.97, lam=0.8)
    every, judge = drawn(settings), critic(settings)
    every[3].reward = math.nan
    judge.set_advantages(every)
    score = judge.model.get_parameter("score")
    flat = []
    for r in (r for r in every if not math.isnan(r.reward)):
        with torch.no_grad():
            hidden = judge.model(Batch.pack([r.ids])).hidden_ND[r.start - 1 : -1]
        values = (hidden @ score).tolist()
        assert r.values == pytest.approx(values, abs=1e-9)
        rewards = [0.0] * (r.tokens - 1) + [r.reward]
        after = [*values[1:], 0.0]
        delta = [a + 0.97 * b - v for a, b, v in zip(rewards, after, values, strict=True)]
        own = [sum((0.97 * 0.8) ** (k - t) * delta[k] for k in range(t, r.tokens)) for t in range(r.tokens)]
        assert r.returns == pytest.approx([a + v for a, v in zip(own, values, strict=True)], abs=1e-9)
        flat += own
    mean = sum(flat) / len(flat)
    std = math.sqrt(sum((a - mean) ** 2 for a in flat) / (len(flat) - 1))
    said = [a for r in every for a in r.token_advantages]
    assert said == pytest.approx([(a - mean) / std for a in flat], abs=1e-6)
    assert not every[3].token_advantages and every[3].values


def run(folder: Path, cut: int | None = None, **changes: Any):
    settings = config(**changes)
    made = model("dense", seed=99 if list((folder / "work").glob("checkpoint-*")) else 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_rollouts, "verify", by_length)
        patch.setattr(grpo, "roll_out", until_cut(cut))
        judge = Critic.start(model("dense", seed=3), settings)
        history = train_grpo(made, TOKENIZER, rows(), settings, context(folder), 0.0, critic=judge)
    return made, judge.model, history


def test_it_learns(tmp_path: Path) -> None:
    _, _, history = run(tmp_path, steps=25, prompts=4, samples=8)
    first, last = (sum(p["reward"] for p in part) / 5 for part in (history.curve[:5], history.curve[-5:]))
    assert last > first + 0.1, (first, last)
    assert {"value_loss", "value_explained", "value_gradient_norm"} <= set(history.curve[-1])


@pytest.mark.parametrize("changes", [{"algorithm": "gspo"}, {"gamma": 1.5}, {"lam": -0.1}, {"value_clip": 0.0}])
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        config(**changes)

"""Every algorithm of the family: an update's gradient is that of the loss as written on paper; KL, truncated
importance sampling, rewards that failed, and that it learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.align.test_grpo_update import logprobs, model, rollouts, updated
from tests.align.tiny_rl import TOKENIZER, by_length, config, rows, until_cut
from tests.align.tiny_rl import model as rl_model
from tests.train.tiny_training import Outcome, checkpoints, context, outcome

from qwill.align import grpo, sample_rollouts
from qwill.align.grpo import teaching, train_grpo
from qwill.align.policy_update import logprobs_of, set_advantages
from qwill.align.rollouts import Rollout
from qwill.align.sample_rollouts import roll_out
from qwill.align.settings import GRPOConfig
from qwill.base.errors import ConfigError
from qwill.model.transformer import Transformer
from qwill.train.settings import OptimizerConfig

ALGORITHMS = ["dapo", "grpo", "dr_grpo", "cispo", "gspo", "rloo", "reinforce_plus_plus"]
WIDE = {"sequence_low": 0.05, "sequence_high": 0.08, "ratio_most": 1.2, "max_tokens": 20}


def chosen(kind: str, seed: int = 1) -> list[Rollout]:
    made = rollouts(kind, 1.0, seed)
    for i, r in enumerate(made):
        r.reference = (torch.tensor(r.logprobs) + 0.1 * (i % 3) - 0.05).tolist()
    return made


def on_paper(
    made: Transformer, every: list[Rollout], settings_: GRPOConfig, hidden: Callable[..., torch.Tensor] | None = None
) -> torch.Tensor:
    """The step's loss, reply by reply and token by token; `hidden` gives a sequence's states, where it isn't alone."""
    low, high, tokens = settings_.clip_low, settings_.clip_high, sum(r.tokens for r in every)
    total = torch.zeros((), dtype=torch.float64)
    for r in every:
        logp = logprobs(made, r, settings_.temperature, *([hidden] if hidden else []))
        rollout = torch.tensor(r.logprobs).double()
        old = torch.tensor(r.old).double() if r.old else rollout
        a = torch.tensor(r.advantages).double()
        n, ratio = r.tokens, torch.exp(logp - old)
        match settings_.algorithm:
            case "cispo":
                loss = -ratio.detach().clamp(max=settings_.ratio_most) * a * logp
            case "gspo":
                s = torch.exp((logp - old).mean())
                held = s.clamp(1 - settings_.sequence_low, 1 + settings_.sequence_high)
                loss = -torch.minimum(s * a[0], held * a[0]).expand(n)
            case "rloo":
                s = torch.exp((logp - old).sum())
                loss = -torch.minimum(s * a[0], s.clamp(1 - low, 1 + high) * a[0]).expand(n) / n
            case _:
                loss = -torch.minimum(ratio * a, ratio.clamp(1 - low, 1 + high) * a)
        if settings_.importance_most:
            loss = loss * torch.exp(old - rollout).clamp(max=settings_.importance_most)
        if settings_.kl and settings_.kl_in == "loss":
            d = logp - torch.tensor(r.reference).double()
            loss = loss + settings_.kl * ratio * (torch.exp(-d) - 1 + d)
        total = total + {
            "grpo": loss.mean() / len(every), "gspo": loss.mean() / len(every), "rloo": loss.sum() / len(every),
            "dr_grpo": loss.sum() / (len(every) * settings_.max_tokens),
        }.get(settings_.algorithm, loss.sum() / tokens)  # fmt: skip
    return total


CHANGES: list[dict[str, Any]] = [{}, {"kl": 0.3}, {"importance_most": 1.1}, {"temperature": 0.7}]


@pytest.mark.parametrize("changes", CHANGES, ids=["plain", "kl", "importance", "temperature"])
@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradients_are_those_of_the_loss_on_paper(algorithm: str, kind: str, changes: dict[str, Any]) -> None:
    every, twin = chosen(kind), model(kind)
    settings_ = config(algorithm=algorithm, train_tokens=30, **WIDE, **changes)
    if settings_.importance_most:
        for i, r in enumerate(every):
            r.old = [p + 0.2 * (-1) ** (i + j) for j, p in enumerate(r.logprobs)]
    gradients, numbers = updated(model(kind), every, algorithm=algorithm, train_tokens=30, **WIDE, **changes)
    on_paper(twin, every, settings_).backward()
    for mine, p in zip(gradients, twin.parameters(), strict=True):
        assert p.grad is not None
        assert float((mine - p.grad).norm()) <= 2e-6 * float(p.grad.norm()) + 1e-12
    assert numbers["clipped"] > 0 and numbers["ratio_most"] > 1 > numbers["ratio_least"]
    assert ("kl_start" in numbers) and numbers["kl_start"] > 0


def grouped(rewards: list[list[float]]) -> list[list[Rollout]]:
    made = [
        [Rollout([1] * (3 + i + j), 2, [-0.5] * (1 + i + j), reward, "en") for j, reward in enumerate(group)]
        for i, group in enumerate(rewards)
    ]
    for r in (r for g in made for r in g):
        r.reference = [-0.7] * r.tokens
    return made


def test_advantages_by_hand() -> None:
    rewards = [[1.0, 0.0, 0.0], [0.5, 1.0, math.nan]]
    groups = grouped(rewards)
    set_advantages(groups, config(algorithm="rloo"))
    assert [r.advantage for r in groups[0]] == pytest.approx([1.0, -0.5, -0.5])
    assert [r.advantage for r in groups[1]] == pytest.approx([-0.5, 0.5, 0.0])
    set_advantages(groups, config(algorithm="dr_grpo"))
    assert [r.advantage for r in groups[0]] == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    set_advantages(groups, config(algorithm="rloo", kl=0.1, kl_in="reward", kl_estimator="k1"))
    costs = [0.1 * 0.2 * r.tokens for r in groups[0]]
    own = [1 - costs[0], -costs[1], -costs[2]]
    assert [r.advantage for r in groups[0]] == pytest.approx([v - (sum(own) - v) / 2 for v in own])


def test_reinforce_plus_plus_whitens_over_the_whole_step() -> None:
    groups = grouped([[1.0, 0.0, 0.0], [0.5, 1.0, math.nan]])
    set_advantages(groups, config(algorithm="reinforce_plus_plus", kl=0.1, kl_in="reward", kl_estimator="k1"))
    known = [r for g in groups for r in g if not math.isnan(r.reward)]
    every = [a for r in known for a in r.token_advantages]
    assert len(every) == sum(r.tokens for r in known) and not groups[1][2].token_advantages
    assert sum(every) == pytest.approx(0, abs=1e-9)
    assert sum(a * a for a in every) / (len(every) - 1) == pytest.approx(1)
    # A token's return is the reply's reward and what is still to be paid: 0.02 a token.
    returns = [r.reward - 0.02 * (r.tokens - t) for r in known for t in range(r.tokens)]
    mean = sum(returns) / len(returns)
    assert [a > 0 for a in every] == [x > mean for x in returns]


def test_groups_that_are_alike_teach_only_where_that_is_meant() -> None:
    groups = grouped([[1.0, 1.0], [0.0, 1.0]])
    assert len(teaching(groups, config())) == 2
    assert len(teaching(groups, config(algorithm="reinforce_plus_plus"))) == 4
    assert len(teaching(groups, config(kl=0.1))) == 4


def test_a_model_is_its_own_reference() -> None:
    made, settings_ = rl_model("moe"), config(temperature=0.8)
    every = [r for g in roll_out(made, TOKENIZER, rows(4), settings_, 0, 0) for r in g]
    for r, own in zip(every, logprobs_of(made, every, settings_), strict=True):
        assert own == pytest.approx(r.logprobs, abs=2e-5)


def run(folder: Path, cut: int | None = None, **changes: Any) -> Outcome:
    made = rl_model("dense", seed=99 if checkpoints(folder) else 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_rollouts, "verify", by_length)
        patch.setattr(grpo, "roll_out", until_cut(cut))
        reference = rl_model("dense") if changes.get("kl") else None
        history = train_grpo(
            made, TOKENIZER, rows(), config(**changes), context(folder), checkpoint_seconds=0, reference=reference
        )
    return outcome(folder, made, history)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_learns(tmp_path: Path, algorithm: str) -> None:
    """Replies of even length earn: the share rises from about a half."""
    optimizer = OptimizerConfig("adamw", learning_rate=3e-3, matrix_rate=3e-3)
    made = run(tmp_path, algorithm=algorithm, steps=25, prompts=4, samples=8, optimizer=optimizer)
    curve = made.history["curve"]
    first, last = (sum(p["reward"] for p in part) / 5 for part in (curve[:5], curve[-5:]))
    assert last > first + 0.1, (first, last)


def test_impossible_settings_are_refused() -> None:
    for changes in ({"kl": -1.0}, {"kl": 0.1, "kl_in": "reward"}, {"importance_most": -0.1}, {"samples": 1}):
        with pytest.raises(ConfigError):
            replace(config(), **changes)

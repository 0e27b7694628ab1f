"""One update of reinforcement learning: its gradient is that of the loss as written, however it is split."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.align.tiny_rl import config
from tests.engine.tiny import tiny_model
from tests.train.tiny_training import ROUNDING
from torch import Tensor

from qwill.align.policy_update import update
from qwill.align.rollouts import Rollout, micro_batches
from qwill.model.batch import Batch
from qwill.model.transformer import Transformer, balancing_loss
from qwill.train.optim import make_optimizers
from qwill.train.settings import OptimizerConfig

KINDS = ("dense", "moe")


def model(kind: str) -> Transformer:
    return tiny_model(kind, vocab_size=40).double()


def rollouts(kind: str, temperature: float, seed: int) -> list[Rollout]:
    """Replies of many lengths whose old log-probabilities lie near the model's own: some ratios the clip cuts off,
    on both sides, and most it does not."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for i in range(9):
        ids = torch.randint(0, 40, (5 + i,), generator=g).tolist()
        r = Rollout(ids, 2 + i % 4, [], 0.0, "en", float(torch.randn((), generator=g)))
        shift = torch.randn(len(ids) - r.start, generator=g) * 0.3
        r.logprobs = (logprobs(model(kind), r, temperature).detach() + shift).float().tolist()
        made.append(r)
    return made


def logprobs(made: Transformer, r: Rollout, temperature: float) -> Tensor:
    logits = made.head(made(Batch.pack([r.ids])).hidden_ND) / temperature
    return torch.log_softmax(logits, -1)[range(r.start - 1, len(r.ids) - 1), r.ids[r.start :]]


def updated(made: Transformer, chosen: list[Rollout], **changes: Any) -> tuple[list[Tensor], dict[str, float]]:
    """(the gradient that the optimiser was given, the numbers for the log)."""
    optimizer = OptimizerConfig("adamw", clip=changes.pop("clip", 1e9))
    gradients: list[Tensor] = []
    optimizers = make_optimizers(made, optimizer)
    optimizers[0].register_step_pre_hook(
        lambda *_: gradients.extend(p.grad.clone() for p in made.parameters() if p.grad is not None)
    )
    numbers = update(made, optimizers, chosen, config(optimizer=optimizer, **changes))
    assert all(p.grad is None for p in made.parameters()), "the next update would begin with this gradient"
    return gradients, numbers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("temperature", "balance", "train_tokens"), [(0.6, 0.0, 999), (1.0, 0.2, 999), (1.0, 0.2, 25), (1.5, 0.0, 999)]
)
def test_the_update_is_the_gradient_of_the_loss_by_autograd(
    kind: str, temperature: float, balance: float, train_tokens: int
) -> None:
    chosen, twin = rollouts(kind, temperature, 1), model(kind)
    gradients, numbers = updated(
        model(kind), chosen, temperature=temperature, balance=balance, train_tokens=train_tokens
    )
    tokens = sum(len(r.logprobs) for r in chosen)
    total, cut, kl = torch.zeros((), dtype=torch.float64), 0, 0.0
    for r in chosen:
        logp = logprobs(twin, r, temperature)
        old, a = torch.tensor(r.logprobs).double(), torch.tensor(r.advantage).double()
        ratio = torch.exp(logp - old)
        clipped = ratio.clamp(0.8, 1.28) * a
        total = total - torch.minimum(ratio * a, clipped).sum() / tokens
        cut += int((clipped < ratio * a).sum())
        kl += float((ratio - 1 - (logp - old)).sum().detach())
    parts = micro_batches(chosen, train_tokens)
    assert (len(parts) > 1) == (train_tokens == 25)
    if balance and kind == "moe":  # of the whole step, however it is cut
        stats = twin(Batch.pack([r.ids[:-1] for r in chosen])).router_stats
        assert stats is not None
        total = total + balance * balancing_loss(stats)
    total.backward()
    # Advantages, old log-probabilities and 1/tokens are float32.
    for mine, p in zip(gradients, twin.parameters(), strict=True):
        assert p.grad is not None
        assert float((mine - p.grad).norm()) <= 1e-6 * float(p.grad.norm()) + 1e-12
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in twin.parameters() if p.grad is not None))
    assert numbers["gradient_norm"] == pytest.approx(norm, rel=1e-6)
    assert 0 < cut < tokens and numbers["clipped"] == pytest.approx(cut / tokens)
    # k3 with the old policy as what was sampled from; the log has KL(old ‖ new).
    assert numbers["kl"] == pytest.approx(kl / tokens, rel=1e-5)
    assert numbers["entropy"] == pytest.approx(-sum(p for r in chosen for p in r.logprobs) / tokens, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(limit=st.integers(1, 100), seed=st.integers(0, 20), data=st.data())
def test_splitting_and_order_change_an_update_by_rounding_only(
    kind: str, limit: int, seed: int, data: st.DataObject
) -> None:
    chosen = rollouts(kind, 1.0, seed)
    order = data.draw(st.permutations(chosen))
    whole, numbers = updated(model(kind), chosen, train_tokens=10_000)
    parts, others = updated(model(kind), order, train_tokens=limit)
    for a, b in zip(whole, parts, strict=True):
        assert float((a - b).norm()) <= ROUNDING[kind] * (1 + float(a.norm()))
    assert others == pytest.approx(numbers, rel=1e-5)


def test_the_gradient_is_clipped() -> None:
    gradients, numbers = updated(model("dense"), rollouts("dense", 1.0, 2), clip=0.01)
    assert math.sqrt(sum(float(g.square().sum()) for g in gradients)) == pytest.approx(0.01, rel=1e-3)
    assert numbers["gradient_norm"] > 0.02


def test_an_update_makes_what_earned_more_likelier() -> None:
    made, chosen = model("moe"), rollouts("moe", 1.0, 3)
    before = [float(logprobs(made, r, 1.0).sum().detach()) for r in chosen]
    for r in chosen:
        r.logprobs = logprobs(made, r, 1.0).float().tolist()
    config_ = config(optimizer=OptimizerConfig("adamw", learning_rate=1e-3, matrix_rate=1e-3))
    update(made, make_optimizers(made, config_.optimizer), chosen, config_)
    change = [float(logprobs(made, r, 1.0).sum().detach()) - b for r, b in zip(chosen, before, strict=True)]
    assert sum(c * r.advantage for c, r in zip(change, chosen, strict=True)) > 0


@given(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=20), limit=st.integers(1, 60))
def test_micro_batches_hold_every_rollout_once(lengths: list[int], limit: int) -> None:
    every = [Rollout([0] * n, 1, [0.0] * (n - 1), 0.0, "en") for n in lengths]
    parts = micro_batches(every, limit)
    assert sorted(id(r) for p in parts for r in p) == sorted(id(r) for r in every)
    assert all(len(p) == 1 or sum(len(r.ids) for r in p) <= limit for p in parts)

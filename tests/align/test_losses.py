"""Losses, weights and advantages against their definitions, written out; edges where a formula gives NaN."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwill.align.advantages import gae, group_advantages, leave_one_out, token_rewards
from qwill.align.aggregation import Aggregation, sequence_of_token, sequence_sums, token_weights
from qwill.align.distillation_losses import generalised_jsd
from qwill.align.policy_losses import clipped, truncated_importance
from qwill.align.preference_losses import orpo_odds

rewards = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=4, max_size=4), min_size=1, max_size=5)


@given(values=rewards, scale=st.booleans())
def test_advantages_are_centred_and_blind_to_shift(values: list[list[float]], scale: bool) -> None:
    r = torch.tensor(values)
    a = group_advantages(r, scale)
    assert torch.allclose(a.sum(1), torch.zeros(len(values)), atol=1e-4)
    assert torch.allclose(a, group_advantages(r + 3, scale), atol=1e-3)
    equal = r.amax(1) == r.amin(1)
    assert bool((a[equal] == 0).all())
    if scale and not bool(equal.any()):
        assert torch.allclose(a.std(1), torch.ones(len(values)), atol=1e-3)


@given(seed=st.integers(0, 999), low=st.floats(0.05, 0.4), high=st.floats(0.05, 0.4))
def test_clipped_loss_by_hand(seed: int, low: float, high: float) -> None:
    g = torch.Generator().manual_seed(seed)
    logp, old, a, w = (torch.randn(6, generator=g, dtype=torch.float64) for _ in range(4))
    w = w.abs()
    logp.requires_grad_()
    found = clipped(logp, old, a, low, high)
    (found.losses * w).sum().backward()
    for i in range(6):
        ratio = math.exp(float(logp[i] - old[i]))
        held = min(max(ratio, 1 - low), 1 + high)
        binds = held * float(a[i]) < ratio * float(a[i])
        assert float(found.losses[i]) == pytest.approx(-min(ratio * float(a[i]), held * float(a[i])))
        assert bool(found.clipped[i]) == binds
        expected = 0.0 if binds else -float(w[i]) * ratio * float(a[i])
        assert float(logp.grad[i]) == pytest.approx(expected, abs=1e-12)  # type: ignore[index]


@given(values=rewards, missing=st.integers(0, 3))
def test_a_reward_that_failed_is_as_if_it_were_not_there(values: list[list[float]], missing: int) -> None:
    r = torch.tensor(values)
    holed = r.clone()
    holed[:, missing] = math.nan
    kept = [i for i in range(4) if i != missing]
    for function in (group_advantages, leave_one_out):
        ours = function(holed)
        assert bool((ours[:, missing] == 0).all())
        torch.testing.assert_close(ours[:, kept], function(r[:, kept]))


lengths = st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any)


@given(lengths=lengths, how=st.sampled_from(["token_mean", "sequence_mean", "sequence_sum", "fixed_length"]))
def test_weights_say_what_aggregations_are(lengths: list[int], how: Aggregation) -> None:
    of_token = sequence_of_token(lengths)
    loss_N = torch.randn(len(of_token), generator=torch.Generator().manual_seed(sum(lengths)), dtype=torch.float64)
    parts = [p for p in loss_N.split(lengths) if len(p)]
    expected = {
        "token_mean": loss_N.mean(),
        "sequence_mean": torch.stack([p.mean() for p in parts]).mean(),
        "sequence_sum": torch.stack([p.sum() for p in parts]).mean(),
        "fixed_length": torch.stack([p.sum() for p in parts]).mean() / 9,
    }[how]
    torch.testing.assert_close((loss_N * token_weights(lengths, how, 9)).sum(), expected)
    torch.testing.assert_close(sequence_sums(loss_N, of_token, len(lengths)).sum(), loss_N.sum())


@given(lengths=lengths, gamma=st.floats(0.5, 1), lam=st.floats(0, 1), seed=st.integers(0, 99))
def test_gae_is_the_sum_of_discounted_differences(lengths: list[int], gamma: float, lam: float, seed: int) -> None:
    g, n = torch.Generator().manual_seed(seed), sum(lengths)
    rewards, values = (torch.randn(n, generator=g, dtype=torch.float64) for _ in range(2))
    expected = []
    for r, v in zip(rewards.split(lengths), values.split(lengths), strict=True):
        after = [*v.tolist()[1:], 0.0]
        delta = [float(r[t]) + gamma * after[t] - float(v[t]) for t in range(len(r))]
        expected += [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, len(r))) for t in range(len(r))]
    advantage, returned = gae(rewards, values, lengths, gamma, lam)
    torch.testing.assert_close(advantage, torch.tensor(expected).double())
    torch.testing.assert_close(returned, advantage + values)


def test_rewards_stand_at_the_last_token() -> None:
    found = token_rewards(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 0.2, 0.3]), [2, 0, 1])
    torch.testing.assert_close(found, torch.tensor([-0.1, 0.8, 2.7]))


def test_truncated_importance() -> None:
    ratio = truncated_importance(torch.tensor([-1.0, -2.0, -1.0]), torch.tensor([-2.0, -1.0, math.nan]), 2.0)
    torch.testing.assert_close(ratio, torch.tensor([2.0, math.exp(-1), 1.0]))


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_jsd_by_definition(beta: float) -> None:
    g = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 7, generator=g).double() for _ in range(2))
    p, q = teacher.softmax(1), student.softmax(1)
    if beta in (0, 1):
        p, q = (p, q) if beta == 0 else (q, p)
        expected = (p * (p / q).log()).sum(1)
    else:
        m = beta * p + (1 - beta) * q
        expected = beta * (p * (p / m).log()).sum(1) + (1 - beta) * (q * (q / m).log()).sum(1)
    torch.testing.assert_close(generalised_jsd(student, teacher, beta), expected)


def test_jsd_of_a_teacher_that_excludes_tokens_is_finite() -> None:
    student, teacher = torch.zeros(1, 3, requires_grad=True), torch.tensor([[0.0, 1.0, -math.inf]])
    for beta in (0.0, 0.5):
        loss = generalised_jsd(student, teacher, beta).sum()
        (gradient,) = torch.autograd.grad(loss, student)
        assert math.isfinite(float(loss)) and bool(gradient.isfinite().all())


def test_odds_of_near_certain_and_near_impossible_replies_are_finite() -> None:
    chosen, rejected = torch.tensor([-1e-6, -30.0]).requires_grad_(), torch.tensor([-30.0, -1e-6])
    loss = orpo_odds(chosen, rejected, 1.0).sum()
    loss.backward()
    assert math.isfinite(float(loss)) and bool(chosen.grad.isfinite().all())  # type: ignore[union-attr]

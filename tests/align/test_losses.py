"""The policy loss against its own definition, advantages, and the KL estimate."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwill.align.losses import clipped_policy_loss, group_advantages, kl_k3

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
    loss = clipped_policy_loss(logp, old, a, w, low, high)
    loss.total.backward()
    total, cut = 0.0, 0
    for i in range(6):
        ratio = math.exp(float(logp[i] - old[i]))
        clipped = min(max(ratio, 1 - low), 1 + high)
        binds = clipped * float(a[i]) < ratio * float(a[i])
        total -= float(w[i]) * min(ratio * float(a[i]), clipped * float(a[i]))
        cut += binds
        expected = 0.0 if binds else -float(w[i]) * ratio * float(a[i])
        assert float(logp.grad[i]) == pytest.approx(expected, abs=1e-12)  # type: ignore[index]
    assert float(loss.total) == pytest.approx(total)
    assert loss.clipped == pytest.approx(cut / 6)


def test_k3_is_unbiased_for_the_exact_kl() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    exact = float((p * (p / q).log()).sum())
    assert float((p * kl_k3(p.log(), q.log())).sum()) == pytest.approx(exact)

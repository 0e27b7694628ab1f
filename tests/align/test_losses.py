"""The policy loss against finite differences and its own definition; advantages; micro-batching changes nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.align.grpo import Rollout, draw_prompts, micro_batches, update
from qwill.align.losses import clipped_policy_loss, group_advantages, kl_k3
from qwill.align.settings import GRPOConfig
from qwill.model.config import ModelConfig
from qwill.model.transformer import Transformer
from qwill.train.optim import make_optimizers
from qwill.train.settings import OptimizerConfig

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


def _model() -> Transformer:
    config = ModelConfig(
        "qwen3_moe", 40, 24, 2, 2, 1, 12, 0, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8
    )
    made = Transformer(config)
    made.init_weights(torch.Generator().manual_seed(3))
    return made


def _rollouts(seed: int) -> list[Rollout]:
    g = torch.Generator().manual_seed(seed)
    out = []
    for i in range(9):
        start, end = 3 + i % 4, 5 + i
        ids = torch.randint(0, 40, (max(end, start + 1),), generator=g).tolist()
        logprobs = (-1 - torch.rand(len(ids) - start, generator=g)).tolist()
        out.append(Rollout(ids, start, logprobs, 0.0, "en", float(torch.randn((), generator=g))))
    return out


@settings(deadline=None, max_examples=6)
@given(limit=st.integers(1, 200), seed=st.integers(0, 20))
def test_one_update_is_the_same_however_it_is_split(limit: int, seed: int) -> None:
    def after(train_tokens: int, order: int) -> list[torch.Tensor]:
        model = _model()
        optimizer = OptimizerConfig("adamw", clip=1e9)
        config = GRPOConfig(train_tokens=train_tokens, optimizer=optimizer, clip_low=0.9, clip_high=9.0)
        gradients: list[torch.Tensor] = []
        optimizers = make_optimizers(model, optimizer)
        optimizers[0].register_step_pre_hook(
            lambda *_: gradients.extend(p.grad.clone() for p in model.parameters() if p.grad is not None)
        )
        update(model, optimizers, _rollouts(seed)[::order], config)
        return gradients

    for a, b in zip(after(10_000, 1), after(limit, -1), strict=True):
        assert float((a - b).norm()) <= 2e-5 * float(a.norm()) + 1e-9


def test_the_update_is_the_gradient_of_the_loss_by_autograd() -> None:
    model, rollouts = _model().double(), _rollouts(1)
    config = GRPOConfig(optimizer=OptimizerConfig("adamw", clip=1e9))
    gradients: list[torch.Tensor] = []
    optimizers = make_optimizers(model, config.optimizer)
    optimizers[0].register_step_pre_hook(
        lambda *_: gradients.extend(p.grad.clone() for p in model.parameters() if p.grad is not None)
    )
    twin = _model().double()
    update(model, optimizers, rollouts, config)
    tokens = sum(len(r.ids) - r.start for r in rollouts)
    total = torch.zeros((), dtype=torch.float64)
    for r in rollouts:
        hidden = twin(__import__("qwill.model.batch", fromlist=["Batch"]).Batch.pack([r.ids])).hidden_ND
        logp = torch.log_softmax(twin.head(hidden), -1)[range(r.start - 1, len(r.ids) - 1), r.ids[r.start :]]
        old, a = torch.tensor(r.logprobs).double(), torch.tensor(r.advantage).double()
        ratio = torch.exp(logp - old)
        total = total - torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a).sum() / tokens
    total.backward()
    for mine, p in zip(gradients, twin.parameters(), strict=True):
        assert p.grad is not None
        assert float((mine - p.grad).norm()) <= 1e-5 * float(p.grad.norm()) + 1e-9


@given(n=st.integers(2, 30), count=st.integers(2, 12), seed=st.integers(0, 9))
def test_prompts_come_from_both_languages_and_every_row_in_turn(n: int, count: int, seed: int) -> None:
    rows = [{"language": lang, "id": i} for i in range(n) for lang in ("en", "zh")]
    drawn = [i for step in range(12) for i in draw_prompts(rows, step, 2 * count, seed)]
    for language in ("en", "zh"):
        mine = [i for i in drawn if rows[i]["language"] == language]
        assert len(mine) == 12 * count
        for epoch in range(len(mine) // n):
            assert len(set(mine[epoch * n : (epoch + 1) * n])) == n


@given(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=20), limit=st.integers(1, 60))
def test_micro_batches_hold_every_rollout_once(lengths: list[int], limit: int) -> None:
    every = [Rollout([0] * n, 1, [0.0] * (n - 1), 0.0, "en") for n in lengths]
    parts = micro_batches(every, limit)
    assert sorted(id(r) for p in parts for r in p) == sorted(id(r) for r in every)
    assert all(len(p) == 1 or sum(len(r.ids) for r in p) <= limit for p in parts)

"""What is logged of an update: quantiles and means over all of its tokens, however it is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.align.test_grpo import rewards
from tests.align.test_grpo_update import logprobs, model, rollouts, updated
from tests.align.test_policy_update import WIDE
from tests.align.tiny_rl import TOKENIZER, config, rows
from tests.align.tiny_rl import model as rl_model
from tests.train.tiny_training import context

from qwill.align.grpo import train_grpo
from qwill.align.update_numbers import nothing_learnt, quantile
from qwill.model import ops
from qwill.model.batch import Batch


@pytest.mark.parametrize("train_tokens", [25, 9999])
@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_numbers_are_those_of_the_whole_update(kind: str, train_tokens: int) -> None:
    every, twin, temperature = rollouts(kind, 0.7, 4), model(kind), 0.7
    for i, r in enumerate(every):
        r.old = [p + 0.1 * (-1) ** (i + j) for j, p in enumerate(r.logprobs)]
        r.reference = [p + 0.2 for p in r.logprobs]
    _, numbers = updated(model(kind), every, temperature=temperature, train_tokens=train_tokens, importance_most=2.0)
    own = torch.cat([logprobs(twin, r, temperature) for r in every]).detach()
    old, rollout, reference, advantage = (
        torch.tensor([p for r in every for p in getattr(r, name)], dtype=torch.float64)
        for name in ("old", "logprobs", "reference", "advantages")
    )
    ratio = torch.exp(own - old).numpy()
    for q in (1, 10, 50, 90, 99):
        assert numbers[f"ratio_p{q:02d}"] == pytest.approx(np.quantile(ratio, q / 100), rel=1e-9)
    assert (numbers["ratio_least"], numbers["ratio_most"]) == pytest.approx((ratio.min(), ratio.max()))
    d = rollout - own
    assert numbers["gap"] == pytest.approx(float(d.abs().max())) and numbers["gap"] > 0.3
    assert numbers["gap_mean"] == pytest.approx(float(d.abs().mean()))
    assert numbers["gap_kl"] == pytest.approx(float((torch.exp(-d) - 1 + d).mean()))
    assert numbers["kl"] == pytest.approx(float((torch.exp(own - old) - 1 - (own - old)).mean()))
    assert numbers["kl_start"] == pytest.approx(float((torch.exp(reference - own) - 1 - reference + own).mean()))
    high = ((torch.tensor(ratio) > 1.28) & (advantage > 0)).double().mean()
    low = ((torch.tensor(ratio) < 0.8) & (advantage < 0)).double().mean()
    assert numbers["clipped_high"] == pytest.approx(float(high)) and high > 0
    assert numbers["clipped_low"] == pytest.approx(float(low)) and low > 0
    assert numbers["clipped"] == pytest.approx(float(high + low))
    assert numbers["entropy"] == pytest.approx(-float(old.mean()))
    entropies = []
    for r in every:
        logits = twin.head(twin(Batch.pack([r.ids[:-1]])).hidden_ND)[r.start - 1 :] / temperature
        entropies.append(torch.distributions.Categorical(logits=logits).entropy().detach())
    assert numbers["entropy_exact"] == pytest.approx(float(torch.cat(entropies).mean()), rel=1e-6)


def test_cispo_only_clips_above() -> None:
    _, numbers = updated(model("dense"), rollouts("dense", 1.0, 1), algorithm="cispo", **WIDE)
    assert numbers["clipped"] == numbers["clipped_high"] > 0 == numbers["clipped_low"]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_are_numpys(values: list[float], share: float) -> None:
    ordered = torch.tensor(sorted(values), dtype=torch.float64)
    assert quantile(ordered, share) == pytest.approx(np.quantile(values, share), abs=1e-9)


@pytest.mark.parametrize("native", [True, False])
@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 40), vocab=st.integers(1, 700), seed=st.integers(0, 99), warm=st.sampled_from([0.3, 1.5]))
def test_entropies_of_whole_distributions(native: bool, n: int, vocab: int, seed: int, warm: float) -> None:
    """Beside the same loss and gradient as without them, in as many chunks as it takes."""
    g = torch.Generator().manual_seed(seed)
    hidden, head = torch.randn(n, 16, generator=g), torch.randn(vocab, 16, generator=g)
    head[vocab // 2] *= 30  # some distributions are all but one token
    targets, weight = torch.randint(0, vocab, (n,), generator=g), torch.randn(n, generator=g)
    entropy, found = torch.empty(n), []
    ops.use_native(native)
    try:
        for out in (None, entropy):
            h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
            loss = ops.token_losses(h, w, targets, warm, chunk=7, entropy_N=out)
            (loss * weight).sum().backward()
            found.append((loss.detach(), h.grad, w.grad))
    finally:
        ops.use_native(True)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True) if a is not None and b is not None)
    expected = torch.distributions.Categorical(logits=(hidden @ head.T).double() / warm).entropy()
    assert float((entropy.double() - expected).abs().max()) < 2e-5


def test_the_log_has_every_number_of_every_step_and_the_speed(tmp_path: Path) -> None:
    with rewards():
        history = train_grpo(rl_model("moe"), TOKENIZER, rows(), config(), context(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()]
    wanted: set[str] = {*nothing_learnt(False), "reward", "useful", "length", "tokens_per_second"}
    assert len(lines) == 4 and all(wanted <= set(line) for line in lines)
    assert all(line["tokens_per_second"] > 0 for line in lines)
    assert not any("tokens_per_second" in point for point in history.curve), "what is kept does not depend on the clock"
    taught = [p for p in history.curve if p["useful"]]
    assert taught and all(set(nothing_learnt(False)) <= set(p) for p in taught)
    ordered: list[Any] = [f"ratio_p{q:02d}" for q in (1, 10, 50, 90, 99)]
    for p in taught:
        values = [p[name] for name in ("ratio_least", *ordered, "ratio_most")]
        assert values == sorted(values)

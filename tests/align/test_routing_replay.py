"""Routing replay: training sends every token through the experts of the rollout, whatever the routers would choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.align.replay_models import logits_of, masked_logprobs, model, moved
from tests.align.test_grpo import rewards
from tests.align.test_grpo_update import updated
from tests.align.test_policy_update import WIDE, on_paper
from tests.align.tiny_rl import TOKENIZER, by_length, config, rows
from tests.train.tiny_training import context
from torch import Tensor

from qwill.align import grpo
from qwill.align.grpo import train_grpo
from qwill.align.policy_update import logprobs_of, pack_rollouts, update
from qwill.align.rollouts import Rollout
from qwill.align.rounded import rollout_weights
from qwill.align.sample_rollouts import roll_out
from qwill.align.settings import GRPOConfig
from qwill.base.errors import ConfigError
from qwill.base.files import write_jsonl
from qwill.model import ops
from qwill.model.batch import Batch
from qwill.model.files import save_model
from qwill.model.transformer import Experts, Transformer, balancing_loss
from qwill.train.optim import make_optimizers
from qwill.train.recompute import recomputing

KINDS = ("moe", "many", "hybrid")


def drawn(made: Transformer, seed: int = 1, **changes: Any) -> tuple[GRPOConfig, list[Rollout]]:
    settings_ = config(**{"routing_replay": "rollout", **changes})
    with rewards():
        groups = roll_out(made, TOKENIZER, rows(3), settings_, step=3, seed=seed)
    every = [r for group in groups for r in group]
    for i, r in enumerate(every):
        r.advantage = (-1.0) ** i * (0.5 + i % 3)
    return settings_, every


def own_choice(made: Transformer, r: Rollout) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        stats = made(Batch.pack([r.ids[:-1]])).router_stats or []
    return torch.stack([s.chosen_Nk for s in stats if s.chosen_Nk is not None], dim=1).numpy()


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_with_unchanged_weights_a_replay_changes_nothing(kind: str, native: bool) -> None:
    """Of prompt and reply alike: the same experts, and the same hidden states to the last bit."""
    ops.use_native(native)
    try:
        made = model(kind)
        _, every = drawn(made)
        wide = made.config.num_experts > 256
        for r in every:
            assert r.routing is not None and r.routing.dtype == (np.uint16 if wide else np.uint8)
            sparse = sum(made.config.is_sparse(i) for i in range(made.config.num_hidden_layers))
            assert r.routing.shape == (len(r.ids) - 1, sparse, made.config.num_experts_per_tok)
            chosen = own_choice(made, r)
            if native:
                assert np.array_equal(chosen, r.routing)
            else:  # two experts of the same probability but for rounding, once in a while
                assert (chosen != r.routing).mean() < 0.02
            again, plain = Batch.pack([r.ids[:-1]]), Batch.pack([r.ids[:-1]])
            again.experts_NLk = torch.from_numpy(chosen)
            with torch.no_grad():
                assert torch.equal(made(again).hidden_ND, made(plain).hidden_ND)
    finally:
        ops.use_native(True)


def written_out(x_ND: Tensor, mlp: Experts, chosen_Nk: Tensor) -> Tensor:
    """The experts' sum, token by token, through given experts with the gates that the router has now."""
    gates_NE = mlp.gate(x_ND).softmax(1)
    rows_out = []
    for x_D, gate_E, chosen_k in zip(x_ND, gates_NE, chosen_Nk, strict=True):
        kept_k = gate_E[chosen_k]
        kept_k = kept_k / kept_k.sum() if mlp.renormalise else kept_k
        out_D = torch.zeros_like(x_D)
        for e, weight in zip(chosen_k.tolist(), kept_k, strict=True):
            gate, up = (mlp.gate_up[e] @ x_D).chunk(2)
            out_D = out_D + weight * (mlp.down[e] @ (torch.nn.functional.silu(gate) * up))
        if mlp.shared_expert is not None and mlp.shared_expert_gate is not None:
            out_D = out_D + (torch.sigmoid(mlp.shared_expert_gate(x_D[None])) * mlp.shared_expert(x_D[None]))[0]
        rows_out.append(out_D)
    return torch.stack(rows_out)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_given_experts_are_gone_through_with_the_gates_of_now(kind: str, native: bool, seed: int) -> None:
    """Value and every gradient, the router's among them, as written out; experts in any order, not the router's."""
    g = torch.Generator().manual_seed(seed)
    mlp = next(layer.mlp for layer in model(kind).layers if isinstance(layer.mlp, Experts))  # type: ignore[union-attr]
    count, k = mlp.down.shape[0], mlp.top_k
    x = torch.randn(6, 32, generator=g)
    chosen = torch.stack([torch.randperm(count, generator=g)[:k] for _ in range(6)])
    weight = torch.randn(6, 32, generator=g)
    results = []
    ops.use_native(native)
    try:
        for plain in (False, True):
            mlp.zero_grad()
            own = x.clone().requires_grad_()
            out = written_out(own, mlp, chosen) if plain else mlp(own, chosen)[0]
            (out * weight).sum().backward()
            results.append([out.detach(), own.grad, *(p.grad.clone() for p in mlp.parameters() if p.grad is not None)])
    finally:
        ops.use_native(True)
    assert float(results[0][2].abs().max()) > 0, "the router learns"
    for mine, theirs in zip(*results, strict=True):
        assert mine is not None and theirs is not None
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("algorithm", ["dapo", "gspo"])
@pytest.mark.parametrize("kind", ["moe", "hybrid"])
def test_after_the_weights_moved_the_loss_is_that_of_the_fixed_experts(kind: str, algorithm: str) -> None:
    changes: dict[str, Any] = {"algorithm": algorithm, "train_tokens": 60, "routing_replay": "rollout", **WIDE}
    settings_, every = drawn(model(kind), **changes)
    # The comparison is in float64, where the recorded experts must not be a rounding's.
    made, twin, other = (moved(model(kind).double(), 0.1) for _ in range(3))
    moved_share = np.mean([(own_choice(made, r) != r.routing).any(axis=(1, 2)).mean() for r in every])
    assert moved_share > 0.05, "the test needs routers that would choose otherwise now"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.align.test_policy_update.logprobs", masked_logprobs)
        gradients, _ = updated(made, every, **changes)
        loss = on_paper(twin, every, settings_)
        loss.backward()
        routings = [r.routing for r in every]
        for r in every:
            r.routing = None
        free = on_paper(other, every, settings_)
        for r, routing in zip(every, routings, strict=True):
            r.routing = routing
    for mine, p in zip(gradients, twin.parameters(), strict=True):
        assert p.grad is not None
        assert float((mine - p.grad).norm()) <= 2e-6 * float(p.grad.norm()) + 1e-12
    free_loss, own_loss = float(free.detach()), float(loss.detach())
    assert abs(free_loss - own_loss) > 1e-4 * abs(own_loss), "without the replay it is another loss"


def test_balance_and_recomputation_see_the_experts_of_the_rollout() -> None:
    _, every = drawn(model("moe"))
    made = moved(model("moe"), 0.2)
    packed = pack_rollouts(every, replay=True)
    assert packed.batch.experts_NLk is not None
    stats = made(packed.batch).router_stats
    assert stats is not None
    load = torch.bincount(packed.batch.experts_NLk[:, 0].long().flatten(), minlength=4) / len(packed.batch.tokens_N)
    assert torch.equal(stats[0].load_E, load) and balancing_loss(stats).requires_grad
    gradients = []
    for what in ("none", "layer"):
        twin = moved(model("moe"), 0.2)
        with recomputing(twin, what):  # type: ignore[arg-type]
            gradients.append(updated(twin, every)[0])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_other_models_route_by_themselves() -> None:
    """A reference or a critic has nothing to do with the policy's experts; its own past has."""
    settings_, every = drawn(model("moe"))
    other = moved(model("moe"), 0.2)
    found = {replay: logprobs_of(other, every, settings_, replay=replay) for replay in (False, True)}
    differs = 0
    for i, r in enumerate(every):
        replayed = masked_logprobs(other, r, 1.0).tolist()
        assert found[True][i] == pytest.approx(replayed, abs=1e-4)
        r.routing = None
        assert found[False][i] == pytest.approx(masked_logprobs(other, r, 1.0).tolist(), abs=1e-4)
        differs += found[False][i] != pytest.approx(found[True][i], abs=1e-3)
    assert differs > 0
    assert pack_rollouts(every, replay=True).batch.experts_NLk is None


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_rounded_rollouts_are_nearer_with_the_replay(dtype: str) -> None:
    """Rounding changes experts here and there, which shifts a token's log-probability far more than rounding does."""
    made, numbers = model("moe"), {}
    for replay in ("none", "rollout"):
        settings_, every = drawn(rollout_weights(made, dtype)(), routing_replay=replay, samples=24)  # type: ignore[arg-type]
        twin = model("moe")
        numbers[replay] = update(twin, make_optimizers(twin, settings_.optimizer), every, settings_)
    plain, replayed = numbers["none"], numbers["rollout"]
    assert 0 < replayed["gap_mean"] < plain["gap_mean"]
    assert replayed["gap_kl"] < plain["gap_kl"] / 1.5 and replayed["gap"] < plain["gap"] / 2


def test_a_run_replays_and_a_dense_model_is_one_sentence(tmp_path: Path) -> None:
    seen: list[bool] = []

    def watched(made: Any, optimizers: Any, every: list[Rollout], *more: Any) -> dict[str, float]:
        seen.append(all(r.routing is not None for r in every))
        return update(made, optimizers, every, *more)

    with rewards(by_length) as patch:
        patch.setattr(grpo, "update", watched)
        history = train_grpo(
            model("moe"), TOKENIZER, rows(), config(routing_replay="rollout", updates=2), context(tmp_path)
        )
    assert seen and all(seen) and all(p["gap"] < 1e-5 for p in history.curve)
    save_model(model("dense"), tmp_path / "sft", TOKENIZER)
    write_jsonl(tmp_path / "rl.jsonl", rows(3))
    ctx = context(tmp_path / "run", {"sft": tmp_path / "sft", "tasks": tmp_path})
    with pytest.raises(ConfigError, match="routing_replay is rollout, but this model has no experts; leave it out"):
        grpo.run(config(routing_replay="rollout"), ctx)


def test_logits_through_recorded_experts_are_those_of_the_rollout() -> None:
    made = model("moe")
    _, every = drawn(made)
    for r in every[:4]:
        logp = logits_of(made, r).detach().double().log_softmax(1)[range(r.tokens), r.ids[r.start :]]
        assert logp.tolist() == pytest.approx(r.logprobs, abs=1e-5)

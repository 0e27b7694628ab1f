"""Computing activations again: not one bit of loss, gradients and routing changes, and fewer bytes are kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.tiny_training import CONFIGS, KINDS, fresh, run, step_data
from torch import Tensor

from qwill.model import native, ops
from qwill.model.transformer import Transformer
from qwill.train import recompute
from qwill.train.recompute import recomputing
from qwill.train.settings import StepConfig
from qwill.train.step import backward, split

BACKENDS = [False, pytest.param(True, marks=pytest.mark.skipif(native.libraries() is None, reason="no C compiler"))]


@contextmanager
def backend(on: bool) -> Iterator[None]:
    ops.use_native(on)
    try:
        yield
    finally:
        ops.use_native(True)


@contextmanager
def routing(model: Transformer, seen: list[Tensor]) -> Iterator[None]:
    """Notes which experts each sparse layer chose, each time that it chooses."""
    choose = ops.choose_experts

    def look(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        made = choose(*args)
        seen.append(made[2].clone())
        return made

    ops.choose_experts = look
    try:
        yield
    finally:
        ops.choose_experts = choose


def gradients(kind: str, what: str, dtype: str = "float32") -> tuple[float, dict[str, Tensor], list[Tensor]]:
    model, chosen = fresh(kind), []
    with recomputing(model, what), routing(model, chosen):  # type: ignore[arg-type]
        loss = backward(model, split(step_data(0), 2), 0.1, "exact", dtype).loss
    return loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, chosen


def model_is_sparse(kind: str) -> bool:
    return CONFIGS[kind].num_experts > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("on", BACKENDS)
@pytest.mark.parametrize("kind", [*KINDS, "wide", "hybrid"])
def test_no_bit_changes(kind: str, on: bool, dtype: str) -> None:
    with backend(on):
        (loss, kept, chosen), (again_loss, again, again_chosen) = (gradients(kind, w, dtype) for w in ("none", "layer"))
    assert loss == again_loss and kept.keys() == again.keys()
    assert [n for n in kept if not torch.equal(kept[n], again[n])] == []
    if model_is_sparse(kind):
        # Two parts, two layers: a pass that counts, a pass that trains, and the latter once more in the backward pass.
        assert (len(chosen), len(again_chosen)) == (8, 12)
        counted = {tuple(c.flatten().tolist()) for c in chosen}
        assert {tuple(c.flatten().tolist()) for c in again_chosen} == counted


def test_a_whole_run_ends_with_the_same_bits() -> None:
    ends = []
    for what in ("none", "layer"):
        with tempfile.TemporaryDirectory() as name:
            ends.append(run(Path(name), "moe", "muon", how=StepConfig(2, "running", what)))  # type: ignore[arg-type]
    assert ends[0].differences(ends[1]) == []


def bytes_kept(kind: str, what: str) -> int:
    """Bytes that the forward pass keeps for the backward pass, each storage once, parameters left out."""
    model, kept = fresh(kind), {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage()
        return t

    with recomputing(model, what), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):  # type: ignore[arg-type]
        model(step_data(0).batch).hidden_ND.sum()
        return sum(s.nbytes() for pointer, s in kept.items() if pointer not in parameters)


@pytest.mark.parametrize("on", BACKENDS)
@pytest.mark.parametrize("kind", [*KINDS, "hybrid"])
def test_less_is_kept(kind: str, on: bool) -> None:
    with backend(on):
        assert bytes_kept(kind, "layer") < 0.4 * bytes_kept(kind, "none")


def test_the_model_is_left_as_it_was() -> None:
    model = fresh("moe")
    before = [dict(vars(m)) for m in model.modules()]
    with pytest.raises(RuntimeError), recomputing(model, "layer"):
        assert "forward" in vars(model.layers[0])
        raise RuntimeError
    assert [dict(vars(m)) for m in model.modules()] == before


def test_a_layer_that_routes_otherwise_when_asked_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded bug: what is computed again is not the same."""
    clean = gradients("moe", "none")
    checkpoint = recompute.checkpoint
    calls = 0

    def drifting(forward: Any, *inputs: Any, **options: Any) -> Any:
        first = True

        def other(x: Tensor, *rest: Any) -> Any:
            nonlocal first, calls
            calls += not first
            made = forward(x if first else 2 * x, *rest)
            first = False
            return made

        return checkpoint(other, *inputs, **options)

    monkeypatch.setattr(recompute, "checkpoint", drifting)
    drifted = gradients("moe", "layer")
    assert calls and any(not torch.equal(clean[1][n], drifted[1][n]) for n in clean[1])

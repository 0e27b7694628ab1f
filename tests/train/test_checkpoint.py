"""Checkpoints: damaged ones are passed over, those of something else are refused, a full disk spoils none."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.train.tiny_training import (
    KINDS,
    OPTIMIZERS,
    STEPS,
    Outcome,
    checkpoints,
    fresh,
    interrupt,
    run,
    saved,
    step_data,
)
from torch import Tensor

from qwill.base.errors import CheckpointError
from qwill.train import checkpoint
from qwill.train.checkpoint import load_checkpoint, save_checkpoint
from qwill.train.loop import History
from qwill.train.optim import make_optimizers
from qwill.train.settings import OptimizerConfig
from qwill.train.step import StepData

ADAM = "optimizer0.norm.weight.exp_avg"
MOMENTUM = "optimizer1.layers.0.self_attn.o_proj.weight.momentum"
MATRIX = "model.layers.1.self_attn.o_proj.weight"


@cache
def uninterrupted(kind: str, optimizer: str) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), kind, optimizer, checkpoint_seconds=1e9)


@pytest.mark.parametrize(("kind", "optimizer"), [("dense", "adamw"), ("moe", "muon")])
@settings(max_examples=12)
@given(
    cut=st.integers(2, STEPS - 1),
    damage=st.one_of(
        st.floats(0, 0.9999).map(lambda share: lambda data: data[: int(share * len(data))]),
        st.binary(max_size=200).map(lambda garbage: lambda _: garbage),
        st.binary(min_size=9, max_size=99).map(lambda garbage: lambda data: garbage + data[len(garbage) :]),
    ),
)
def test_a_damaged_newest_checkpoint_gives_way_to_the_older(
    kind: str, optimizer: str, cut: int, damage: Callable[[bytes], bytes]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        interrupt(Path(name), kind, optimizer, [cut])
        older, newest = checkpoints(Path(name))
        newest.write_bytes(damage(newest.read_bytes()))
        began: list[int] = []

        def data(step: int) -> StepData:
            began.append(step)
            return step_data(step)

        assert run(Path(name), kind, optimizer, data).differences(uninterrupted(kind, optimizer)) == []
        assert began[0] == cut - 1 and int(older.stem.split("-")[1]) == cut - 1


def test_when_none_can_be_read_the_newest_is_named(tmp_path: Path) -> None:
    interrupt(tmp_path, "dense", "muon", [4])
    older, newest = checkpoints(tmp_path)
    older.write_bytes(b"{}")
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        run(tmp_path, "dense", "muon")
    sentence = str(caught.value)
    assert str(newest) in sentence and f"delete {tmp_path / 'work'}" in sentence and "\n" not in sentence
    for path in (older, newest):
        path.unlink()
    # The advice helps.
    assert run(tmp_path, "dense", "muon").differences(uninterrupted("dense", "muon")) == []


def _without(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.__delitem__(name)


def _with(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: change(tensors[name]).contiguous()})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_without(MATRIX), [MATRIX, "missing"]),
        (_with(MATRIX, lambda t: t[:, :-1]), [MATRIX, "[24, 23]", "[24, 24]"]),
        (_with(MATRIX, lambda t: t[:1]), [MATRIX, "[1, 24]"]),  # would broadcast without a complaint
        (_with(MATRIX, lambda t: t[None]), [MATRIX, "[1, 24, 24]"]),
        (_without(ADAM), [ADAM, "missing"]),
        (_with(ADAM, lambda t: t[:5]), [ADAM, "[5]", "[24]"]),
        (_without(MOMENTUM), [MOMENTUM, "missing"]),
        (_with(MOMENTUM, lambda t: t.sum()), [MOMENTUM, "[]"]),
        (lambda tensors: tensors.update({"model.more": torch.ones(2)}), ["model.more", "another"]),
        (lambda tensors: tensors.clear(), ["missing"]),
    ],
)
def test_tensors_of_something_else_are_one_sentence(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None], words: list[str]
) -> None:
    interrupt(tmp_path, "moe", "muon", [1])
    (path,) = checkpoints(tmp_path)
    tensors, metadata = saved(path)
    tensors = {name: t.clone() for name, t in tensors.items()}
    spoil(tensors)
    save_file(tensors, path, metadata)
    model = fresh("moe", seed=5)
    optimizers = make_optimizers(model, OptimizerConfig("muon"))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "work", model, optimizers)
    sentence = str(caught.value)
    assert [word for word in [str(path), *words] if word not in sentence] == [] and "\n" not in sentence
    assert not any(o.state for o in optimizers)
    for a, b in zip(model.parameters(), fresh("moe", seed=5).parameters(), strict=True):
        assert torch.equal(a, b), "half of a checkpoint was taken"


@pytest.mark.parametrize(("kind", "optimizer"), [("dense", "muon"), ("moe", "adamw")])
def test_a_checkpoint_of_another_model_or_optimiser_is_one_sentence(tmp_path: Path, kind: str, optimizer: str) -> None:
    interrupt(tmp_path, "moe", "muon", [3])
    with pytest.raises(CheckpointError, match=r"tensor .*; delete"):
        run(tmp_path, kind, optimizer)


def test_a_file_of_tensors_that_is_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    interrupt(tmp_path, "dense", "muon", [1])
    (path,) = checkpoints(tmp_path)
    tensors, _ = saved(path)
    save_file({name: t.clone() for name, t in tensors.items()}, path)
    with pytest.raises(CheckpointError, match="not written by a training run"):
        run(tmp_path, "dense", "muon")


def test_the_newest_two_are_kept_and_an_optimiser_without_state_comes_back_without(tmp_path: Path) -> None:
    model = fresh("dense")
    optimizers = make_optimizers(model, OptimizerConfig("muon"))
    assert load_checkpoint(tmp_path, model, optimizers) is None
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, step, model, optimizers, {"a": [1, 0.1]})
    assert [int(p.stem.split("-")[1]) for p in sorted(tmp_path.iterdir())] == [10, 100]
    assert load_checkpoint(tmp_path, model, optimizers) == (100, {"a": [1, 0.1]})
    assert not any(o.state for o in optimizers)


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _half_a_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    Path(path).write_bytes(bytes(5000))
    _full()


@pytest.mark.parametrize("where", ["save_file", "fsync", "replace"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_save_that_fails_leaves_the_older_checkpoint_and_nothing_else(
    tmp_path: Path, kind: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def data(step: int) -> StepData:
        if step == 3:  # so that it is the checkpoint after this step, the fourth, that fails
            if where == "save_file":
                monkeypatch.setattr(checkpoint, "save_file", _half_a_file)
            else:
                monkeypatch.setattr(os, where, _full)
        return step_data(step)

    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, kind, "muon", data)
    monkeypatch.undo()
    assert [p.name for p in sorted((tmp_path / "work").iterdir())] == [
        "checkpoint-00000002.safetensors",
        "checkpoint-00000003.safetensors",
    ]
    assert run(tmp_path, kind, "muon").differences(uninterrupted(kind, "muon")) == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_save_that_is_killed_spoils_nothing_and_its_half_file_goes_with_the_next(
    tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def data(step: int) -> StepData:
        if step == 2:
            monkeypatch.setattr(checkpoint, "save_file", _half_a_file)
            monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # `kill -9` cleans nothing up
        return step_data(step)

    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, "moe", optimizer, data)
    monkeypatch.undo()
    assert len(list((tmp_path / "work").iterdir())) == 3
    # Saved only once more, under another name than the half file has.
    again = run(tmp_path, "moe", optimizer, checkpoint_seconds=1e9)
    assert again.differences(uninterrupted("moe", optimizer)) == []
    assert [int(p.stem.split("-")[1]) for p in sorted((tmp_path / "work").iterdir())] == [2, STEPS]


def test_history_comes_back_as_it_was(tmp_path: Path) -> None:
    model = fresh("dense")
    optimizers = make_optimizers(model, OptimizerConfig())
    history = History([{"step": 1, "loss": 0.1 + 0.2}], [{"step": 1, "x": {"en": 1e-30}}], [[1 / 3, 2 / 3]], 7)
    save_checkpoint(tmp_path, 1, model, optimizers, vars(history))
    found = load_checkpoint(tmp_path, model, optimizers)
    assert found is not None and History(**found[1]) == history  # type: ignore[arg-type]

"""Dense and sparse have the same active size; a killed run goes on to the same bits; a point is a run of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scaling
import scaling_runs
import torch
from hypothesis import given
from hypothesis import strategies as st
from scaling_runs import KINDS, Data, Rung, model_config, run_one, sample_documents, sizes, training_flops
from tests.engine.tiny import byte_tokenizer

from qwill.base.files import read_json
from qwill.data.packing import RowLoader, TokenStore
from qwill.model.transformer import Transformer

TINY = Rung(32, 1, (8 * 16, 16 * 16))


@pytest.mark.parametrize("rung", list(dict.fromkeys(r for r, *_ in scaling.RUNS)), ids=lambda r: r.name)
@pytest.mark.parametrize("vocab_size", [512, 8192])
def test_both_kinds_have_the_same_active_size(rung: Rung, vocab_size: int) -> None:
    dense, sparse = (sizes(kind, rung, vocab_size) for kind in KINDS)
    for name in ("active", "active_inner"):
        assert abs(sparse[name] / dense[name] - 1) <= 0.02, name
    assert dense["total"] == dense["active"] and sparse["total"] > sparse["active"]
    made = Transformer(model_config("sparse", rung, vocab_size))
    assert sparse["total"] == sum(p.numel() for p in made.parameters())


def test_the_ladder_is_the_one_that_was_asked_for() -> None:
    ladder = [run for run in scaling.RUNS if run[2] == scaling.RATE_FACTOR]
    active = {r.name: sizes("dense", r, 8192)["active"] / 1e6 for r, *_ in ladder}
    seeds = {name: {seed for r, seed, _ in ladder if r.name == name} for name in active}
    smallest = sorted(active, key=lambda name: active[name])
    assert active[smallest[0]] < 0.35 and active[smallest[-1]] > 3.5 and len(active) == 5
    assert all(len(seeds[name]) == 3 for name in smallest[:2])
    named: dict[str, list[Rung]] = {}
    for name, _, rung, _, _ in scaling.plan():
        named.setdefault(name, []).append(rung)
    for again in named.values():  # the same model with longer horizons, whose trunk goes on
        assert all(replace(b, horizons=b.horizons[: len(a.horizons)]) == a for a, b in pairwise(again))
    pairs = {(r.name, seed, h) for _, kind, r, seed, f in scaling.plan() for h in r.horizons if kind == "dense"}
    assert pairs == {(r.name, seed, h) for _, k, r, seed, f in scaling.plan() for h in r.horizons if k == "sparse"}


def test_compute_counts_the_head_once() -> None:
    # 32 wide, one layer: q, k, v, o of 2 heads of 32 and 1 for keys, norms, and 3·32 wide feed-forward.
    inner = 32 * (64 + 2 * 32) + 64 * 32 + 2 * 32 + 3 * 32 * 96 + 2 * 32 + 32
    assert sizes("dense", TINY, 100) == {"total": inner + 3200, "active": inner + 3200, "active_inner": inner}
    assert training_flops(inner + 3200, 10) == 60 * (inner + 3200)


@given(st.integers(1, 400))
def test_documents_are_drawn_from_the_whole_file(tmp_path_factory: pytest.TempPathFactory, limit: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    texts = [f"{i:02d}" * 5 for i in range(80)]
    languages = ["en"] * 40 + ["zh"] * 40
    pq.write_table(pa.table({"text": texts, "language": languages}), folder / "heldout.parquet")
    found = sample_documents(folder, limit)
    for language, drawn in found.items():
        assert len(set(drawn)) == len(drawn) == min(40, -(-limit // 10))
        assert all(languages[texts.index(t)] == language for t in drawn)
    assert found == sample_documents(folder, limit)
    if limit > 100:
        assert found["en"] != texts[: len(found["en"])]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Data:
    """Bytes drawn at random, rows of 16 tokens, one a step."""
    monkeypatch.setattr(scaling_runs, "ROW_TOKENS", 16)
    monkeypatch.setattr(scaling_runs, "BATCH_ROWS", 1)
    monkeypatch.setattr(scaling_runs, "WARMUP_STEPS", 2)
    tokens = np.random.default_rng(0).integers(32, 120, 3000).astype(np.uint16)
    offsets = np.arange(0, 3001, 50)
    tokenizer = byte_tokenizer()
    tokens[offsets[:-1]] = tokenizer.special("<|endoftext|>")
    store = TokenStore(tokens, offsets, np.full(60, 49), np.zeros(60), ["en"], tokenizer.special("<|endoftext|>"))
    return Data(store, tokenizer, {"en": ["some text", "more of it"], "zh": ["字"]})


def results(folder: Path) -> list[dict[str, Any]]:
    """The points without what they took."""
    points = [read_json(folder / "points" / f"{h}.json") for h in TINY.horizons]
    return [{k: v for k, v in p.items() if k != "clock"} for p in points]


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_to_the_same_bits(
    kind: str, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_one(tmp_path / "whole", kind, TINY, 1, 1.0, data)
    right = scaling_runs.train
    monkeypatch.setattr(scaling_runs, "train", lambda *a, **k: right(*a, **(k | {"checkpoint_seconds": 0.0})))
    step = RowLoader.step
    calls = 0

    def until(limit: int) -> Callable[[RowLoader, int], Any]:
        def dies(loader: RowLoader, index: int) -> Any:
            nonlocal calls
            calls += 1
            if calls > limit:
                raise KeyboardInterrupt
            return step(loader, index)

        return dies

    attempts, finished = 0, False
    while not finished:
        calls, attempts = 0, attempts + 1
        with monkeypatch.context() as m:
            m.setattr(RowLoader, "step", until(3))
            try:
                run_one(tmp_path / "cut", kind, TINY, 1, 1.0, data)
                finished = True
            except KeyboardInterrupt:
                continue
    # 5 steps of trunk, 3 of the branch, 5 more of trunk, 6 of the branch, three at a time and no step twice.
    assert attempts == 7
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["points", "trunk"]


def test_a_finished_horizon_is_not_trained_again(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_one(tmp_path, "dense", TINY, 1, 1.0, data)
    with monkeypatch.context() as m:
        m.setattr(scaling_runs, "_train", None)  # calling it would fail
        assert run_one(tmp_path, "dense", TINY, 1, 1.0, data) == first
        with pytest.raises(TypeError):
            run_one(tmp_path, "dense", replace(TINY, horizons=(*TINY.horizons, 20 * 16)), 1, 1.0, data)


@pytest.mark.parametrize("kind", KINDS)
def test_longer_horizons_go_on_from_the_trunk(kind: str, data: Data, tmp_path: Path) -> None:
    run_one(tmp_path / "grown", kind, replace(TINY, horizons=TINY.horizons[:1]), 1, 1.0, data)
    grown = run_one(tmp_path / "grown", kind, TINY, 1, 1.0, data)
    run_one(tmp_path / "once", kind, TINY, 1, 1.0, data)
    assert results(tmp_path / "grown") == results(tmp_path / "once")
    assert grown[1]["clock"]["steps"] == 16 - 5  # all but the trunk of the first


@pytest.mark.parametrize("kind", KINDS)
def test_a_branch_is_the_same_as_a_run_with_that_horizon_alone(kind: str, data: Data, tmp_path: Path) -> None:
    both = run_one(tmp_path / "both", kind, TINY, 1, 1.0, data)
    for horizon, point in zip(TINY.horizons, both, strict=True):
        loader = RowLoader(data.store, 16, 1, 1)
        alone = tmp_path / f"alone-{horizon}"
        model, loss = scaling_runs._train(
            model_config(kind, TINY, data.tokenizer.padded_vocab_size), alone, horizon // 16, scaling_runs.DECAY, 1,
            1.0, loader, scaling_runs._Clock(),
        )  # fmt: skip
        assert loss == point["training_loss"]
        assert all(torch.isfinite(p).all() for p in model.parameters())
    assert both[0]["bits_per_byte"] != both[1]["bits_per_byte"]


def test_seeds_and_rates_change_the_outcome(data: Data, tmp_path: Path) -> None:
    found = {
        (seed, factor): run_one(tmp_path / f"{seed}-{factor}", "sparse", TINY, seed, factor, data)[1]
        for seed, factor in ((1, 1.0), (2, 1.0), (1, 2.0))
    }
    assert len({str(p["bits_per_byte"]) for p in found.values()}) == 3
    assert not re.search("nan", str([p["bits_per_byte"] for p in found.values()]))

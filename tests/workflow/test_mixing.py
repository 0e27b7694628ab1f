"""Mixtures from small runs: what is drawn, fitted and proposed, what a run reads, and that a killed stage goes on."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.tiny import byte_tokenizer
from tests.train.tiny_training import context

from qwill.base.errors import ConfigError, DataError
from qwill.base.files import read_json
from qwill.data.packing import Piece
from qwill.data.token_shards import tokenize_corpus
from qwill.evaluate.bits_per_byte import Gain
from qwill.train import proxy
from qwill.train.settings import ProxyConfig
from qwill.workflow.mixing import (
    Groups,
    MixingConfig,
    advice,
    find_groups,
    group_names,
    heldout_sample,
    row_order,
    run,
    told,
)
from qwill.workflow.mixing_fit import draw_mixtures, fit, hold_down, propose

ALPHABETS = {"en/wiki": "abcde ", "en/ads": "vwxyz ", "zh/wiki": "山水人"}


def write_corpus(folder: Path, each: int = 60) -> Path:
    """Three groups whose texts have nothing in common; the held-out part is of the two called wiki."""
    rng = random.Random(3)
    for part, names in (("train", list(ALPHABETS)), ("heldout", ["en/wiki", "zh/wiki"])):
        rows = [
            (name, "".join(rng.choice(ALPHABETS[name]) for _ in range(60)))
            for name in names
            for _ in range(each if part == "train" else 6)
        ]
        columns = {
            "id": [f"{i:04d}" for i in range(len(rows))],
            "text": [text for _, text in rows],
            "language": [name.split("/")[0] for name, _ in rows],
            "source": [name.split("/")[1] for name, _ in rows],
            "register": ["web"] * len(rows),
        }
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), folder / f"{part}.parquet")
    return folder


SMALL = MixingConfig(
    least_rows=2, runs=6, steps=12, confirm_seeds=2, confirm_steps=16, heldout_bytes=600,
    model=ProxyConfig(depth=1, batch_rows=2, row_tokens=32),
)  # fmt: skip

shares = st.lists(st.floats(0.01, 1), min_size=2, max_size=6).map(lambda v: np.array(v) / sum(v))


@settings(deadline=None)
@given(shares=shares, seed=st.integers(0, 99), scale=st.floats(1.05, 4))
def test_held_down_shares_are_shares_below_their_limits(shares: np.ndarray, seed: int, scale: float) -> None:
    most = np.random.default_rng(seed).dirichlet(np.ones(len(shares))) * scale
    held = hold_down(shares, most)
    assert held.sum() == pytest.approx(1) and (held <= most * (1 + 1e-9)).all()
    free = held < most * (1 - 1e-9)
    if free.sum() > 1:  # what is not held keeps its proportions
        assert held[free] / held[free].sum() == pytest.approx(shares[free] / shares[free].sum())
    if (shares <= most).all():
        assert held == pytest.approx(shares)


def test_with_too_little_of_everything_shares_are_what_there_is() -> None:
    assert hold_down(np.array([0.5, 0.5]), np.array([0.3, 0.1])).tolist() == pytest.approx([0.75, 0.25])


def test_draws_are_shares_around_the_natural_ones_and_the_same_however_many() -> None:
    natural, most = np.array([0.7, 0.2, 0.1]), np.array([0.9, 0.5, 0.3])
    drawn = draw_mixtures(natural, most, 500, seed=1)
    assert drawn.shape == (500, 3) and (drawn >= 0).all() and drawn.sum(1) == pytest.approx(1)
    assert (drawn <= most * (1 + 1e-9)).all()
    assert (draw_mixtures(natural, most, 20, seed=1) == drawn[:20]).all()
    assert drawn.std(0).min() > 0.05 and drawn.mean(0).argmax() == 0


@pytest.mark.parametrize("form", ["linear", "log"])
def test_the_fit_finds_the_law_that_the_losses_follow(form: str) -> None:
    rng = np.random.default_rng(0)
    shares = draw_mixtures(np.full(4, 0.25), np.ones(4), 40, seed=5)
    x = shares if form == "linear" else np.log(np.maximum(shares, 0.005))
    slopes = np.array([-0.4, -0.1, 0.2, 0.0]) if form == "linear" else np.array([-0.2, -0.1, -0.02, 0.0])
    losses = 3 + x @ slopes + rng.normal(0, 0.002, 40)
    found = fit(shares, losses)
    assert found.form == form and found.explained > 0.95
    assert found.predict(shares) == pytest.approx(losses, abs=0.01)


def test_the_error_of_prediction_is_that_for_runs_that_were_left_out_of_the_fit() -> None:
    rng = np.random.default_rng(6)
    shares = draw_mixtures(np.full(4, 0.25), np.ones(4), 9, seed=5)
    losses = 3 - shares[:, 0] + rng.normal(0, 0.3, 9)
    found = fit(shares, losses)
    x = shares if found.form == "linear" else np.log(np.maximum(shares, 0.005))
    x = np.column_stack([np.ones(9), x / x.std()])
    misses = []
    for i in range(9):
        rest, own = np.delete(x, i, 0), np.delete(losses, i)
        slopes = np.linalg.solve(rest.T @ rest + np.diag([0.0, *[found.penalty] * 4]), rest.T @ own)
        misses.append(losses[i] - x[i] @ slopes)
    assert found.left_out == pytest.approx(np.sqrt(np.mean(np.square(misses))), rel=1e-6)


def test_the_proposal_goes_where_the_loss_is_least_and_weighs_languages_as_asked() -> None:
    natural, most = np.array([0.4, 0.4, 0.2]), np.array([1.0, 1.0, 0.5])
    shares = draw_mixtures(natural, most, 60, seed=2)
    fits = {"en": fit(shares, 3 - shares[:, 0]), "zh": fit(shares, 3 - 1.2 * shares[:, 1])}
    even = propose(fits, {"en": 1.0, "zh": 1.0}, natural, most, seed=2)
    english = propose(fits, {"en": 9.0, "zh": 1.0}, natural, most, seed=2)
    assert even.argmax() == 1 and english.argmax() == 0 and english[0] > 0.9
    assert english.sum() == pytest.approx(1) and (english <= most).all()
    noise = {"en": fit(shares, np.random.default_rng(4).normal(3, 0.1, 60))}
    assert noise["en"].explained < 0.3


@settings(deadline=None)
@given(shares=shares, count=st.integers(1, 200), seed=st.integers(0, 9))
def test_a_run_reads_each_group_by_its_share_and_its_rows_in_turn(shares: np.ndarray, count: int, seed: int) -> None:
    rows_of = [[[Piece(0, 1)]] * (3 + i) for i in range(len(shares))]
    groups = Groups([str(i) for i in range(len(shares))], rows_of, shares)
    order = row_order(groups, shares, count, seed)
    given_to = np.bincount([g for g, _ in order], minlength=len(shares))
    assert (np.abs(given_to - shares * count) < len(shares)).all()
    for group, rows in enumerate(groups.rows):
        own = [row for g, row in order if g == group]
        for first in range(0, len(own) - len(rows) + 1, len(rows)):
            assert sorted(own[first : first + len(rows)]) == list(range(len(rows)))
    assert row_order(groups, shares, count // 2, seed) == order[: count // 2]


def test_groups_are_documents_with_the_same_labels_and_small_ones_are_one(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", each=20)
    names = group_names(corpus / "train.parquet", ["language", "source"])
    assert sorted(set(names)) == ["en/ads", "en/wiki", "zh/wiki"]
    store = tokenize_corpus(corpus / "train.parquet", byte_tokenizer(), tmp_path / "tokens")
    groups = find_groups(store, names, 32, 50)  # 20 documents of 61 or 181 bytes
    assert groups.names == ["rest", "zh/wiki"] and groups.natural.sum() == pytest.approx(1)
    assert [len(rows) for rows in groups.rows] == [20 * 2 * 61 // 32, 20 * 181 // 32]
    spans = {name: {int(store.offsets[i]) for i in range(len(names)) if (names[i] == name)} for name in set(names)}
    for row in groups.rows[1]:
        assert all(max(s for s in store.offsets[:-1] if s <= p.start) in spans["zh/wiki"] for p in row)


def test_the_stage_proposes_less_of_what_does_not_help_and_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    byte_tokenizer().save(tmp_path / "tokenizer")
    inputs = {"corpus": write_corpus(tmp_path / "corpus"), "tokenizer": tmp_path / "tokenizer"}
    train, names = proxy.train_proxy, list[str]()

    def counted(*arguments: Any) -> Any:
        names.append(arguments[-1].name)
        if len(names) == 9:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(proxy, "train_proxy", counted)
    ctx = context(tmp_path / "run", inputs=inputs)
    with pytest.raises(KeyboardInterrupt):
        run(SMALL, ctx)
    metrics = run(SMALL, ctx)
    # Seven mixtures and two times two runs; the one that was killed came twice, all others once.
    assert len(names) == 12 and len(set(names)) == 11
    monkeypatch.undo()
    assert run(SMALL, context(tmp_path / "again", inputs=inputs)) == metrics
    found = read_json(ctx.out / "mixing.json")
    assert found == read_json(tmp_path / "again" / "out" / "mixing.json")
    assert sum(found["proposed"].values()) == pytest.approx(1, abs=1e-5)
    assert found["proposed"]["en/ads"] < found["natural"]["en/ads"]
    assert found["runs"][0]["shares"] == found["natural"] and len(found["runs"]) == 7
    assert set(found["gain"]) == {"en", "zh", "all"}
    both = found["gain"]["en"]["gain"] + found["gain"]["zh"]["gain"]
    assert found["gain"]["all"]["gain"] == pytest.approx(both / 2)
    for gain in found["gain"].values():
        assert gain["lower"] <= gain["gain"] <= gain["upper"] and len(gain["of_each_seed"]) == 2
    beyond = min(found["gain"]["all"]["lower"], found["gain"]["all"]["seeds_lower"]) > 0
    assert found["use"] == metrics["use"] == ("proposed" if beyond else "natural")


def test_what_is_scored_is_drawn_from_all_sources(tmp_path: Path) -> None:
    rows = [(source, f"{source} {i:03d}") for source in "abcd" for i in range(50)]
    columns = {"text": [t for _, t in rows], "language": ["en"] * 200}
    pq.write_table(pa.table(columns), tmp_path / "heldout.parquet")
    texts = heldout_sample(tmp_path, 300, seed=1)["en"]
    assert 300 <= sum(len(t) for t in texts) < 306 and {t[0] for t in texts} == set("abcd")
    assert heldout_sample(tmp_path, 600, seed=1)["en"][: len(texts)] == texts


def test_mistakes_are_named(tmp_path: Path) -> None:
    byte_tokenizer().save(tmp_path / "tokenizer")
    inputs = {"corpus": write_corpus(tmp_path / "corpus", each=4), "tokenizer": tmp_path / "tokenizer"}
    with pytest.raises(DataError, match=r"one group by register \(web\)"):
        run(MixingConfig(labels=["register"], least_rows=1, model=SMALL.model), context(tmp_path / "a", inputs=inputs))
    with pytest.raises(DataError, match="lower steps or raise max_repeats"):
        run(MixingConfig(least_rows=1, model=SMALL.model), context(tmp_path / "b", inputs=inputs))
    with pytest.raises(ConfigError, match="importance names 'fr'; the corpus holds out en, zh"):
        run(replace(SMALL, least_rows=1, importance={"fr": 1.0}), context(tmp_path / "c", inputs=inputs))
    with pytest.raises(ConfigError, match="runs is 1"):
        MixingConfig(runs=1)


@pytest.mark.parametrize(
    ("lower", "seeds_lower", "use"), [(0.01, 0.02, "proposed"), (0.01, -0.02, "natural"), (-0.01, 0.02, "natural")]
)
def test_a_mixture_is_advised_only_where_its_gain_is_beyond_chance(lower: float, seeds_lower: float, use: str) -> None:
    gain = Gain(0.03, lower, 0.05, seeds_lower, 0.04, [0.03, 0.03])
    assert advice(gain) == use
    assert ("keep the natural" in told(gain, advice(gain))) == (use == "natural")
    assert "+0.0300 bits per byte" in told(gain, advice(gain))

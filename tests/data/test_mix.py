"""Mixing: shares are met or the shortfall is told; a smaller budget lies inside a larger one; order does not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import ConfigError, DataError
from qwill.data.labels import domain, quality_bucket
from qwill.data.mix import Mix, MixSettings, mix

LANGUAGES, REGISTERS = ("en", "zh", "fr"), ("web", "reference")


def corpus(seed: int, count: int, largest: int = 50) -> tuple[np.ndarray, dict[str, list[str]], np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = {"language": rng.choice(LANGUAGES, count).tolist(), "register": rng.choice(REGISTERS, count).tolist()}
    return rng.integers(1, largest, count), labels, rng.permutation(count).astype(np.uint64)


shares = st.floats(0.05, 1).map(lambda x: round(x, 3))
weights = st.fixed_dictionaries({
    "language": st.fixed_dictionaries({"en": shares, "zh": shares}),
    "register": st.fixed_dictionaries({"web": shares, "reference": shares}),
})  # fmt: skip


def size_of(result: Mix, sizes: np.ndarray, labels: list[str], value: str) -> int:
    return int((sizes * result.copies)[np.array(labels) == value].sum())


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 99), count=st.integers(1, 80), wanted=weights, budget=st.integers(1, 9000))
def test_never_more_than_asked_for_and_every_shortfall_is_told(
    seed: int, count: int, wanted: dict[str, dict[str, float]], budget: int
) -> None:
    sizes, labels, keys = corpus(seed, count)
    result = mix(sizes, labels, keys, MixSettings(wanted, budget=budget, max_repeats=3))
    total = int((sizes * result.copies).sum())
    assert total == result.report["total"] <= budget
    assert result.report["shortfall"] == budget - total
    assert result.copies.min() >= 0 and result.copies.max() <= 3
    assert not result.copies[np.array(labels["language"]) == "fr"].any()
    assert result.report["left_out"]["documents"] == labels["language"].count("fr")
    for row in result.report["values"]:
        share = wanted[row["label"]][row["value"]] / sum(wanted[row["label"]].values())
        got = size_of(result, sizes, labels[row["label"]], row["value"])
        assert got == row["given"] <= share * budget + 1
        missing = share * budget - got
        # Rounding leaves less than one document of each cell out; all else has a reason.
        if missing > 2 * sizes.max() + 1:
            assert row["limited_by"] and abs(row["shortfall"] - missing) <= 1


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 99), count=st.integers(1, 60), wanted=weights, budgets=st.tuples(*[st.integers(1, 6000)] * 2)
)
def test_a_smaller_budget_is_contained_in_a_larger_one(
    seed: int, count: int, wanted: dict[str, dict[str, float]], budgets: tuple[int, int]
) -> None:
    small, large = (mix(*corpus(seed, count), MixSettings(wanted, budget=b)).copies for b in sorted(budgets))
    assert (small <= large).all()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 99), count=st.integers(1, 60), wanted=weights, order=st.randoms())
def test_the_order_of_documents_does_not_matter(
    seed: int, count: int, wanted: dict[str, dict[str, float]], order: object
) -> None:
    sizes, labels, keys = corpus(seed, count)
    turned = list(range(count))
    order.shuffle(turned)  # type: ignore[attr-defined]
    setting = MixSettings(wanted, budget=700)
    first = mix(sizes, labels, keys, setting)
    again = mix(sizes[turned], {k: [v[i] for i in turned] for k, v in labels.items()}, keys[turned], setting)
    assert (first.copies[turned] == again.copies).all() and first.report == again.report


def test_two_labels_get_their_shares_both() -> None:
    sizes, labels, keys = corpus(5, 4000)
    wanted = {"language": {"en": 0.7, "zh": 0.3}, "register": {"web": 0.2, "reference": 0.8}}
    result = mix(sizes, labels, keys, MixSettings(wanted, budget=30_000))
    assert result.report["total"] == pytest.approx(30_000, rel=0.01)
    for label, value, share in (("language", "en", 0.7), ("register", "web", 0.2)):
        assert size_of(result, sizes, labels[label], value) == pytest.approx(share * 30_000, rel=0.01)
    # Independent labels stay independent: the cell's share is the product of both.
    cell = next(c for c in result.report["cells"] if (c["language"], c["register"]) == ("en", "reference"))
    assert cell["wanted"] == pytest.approx(0.56 * 30_000, rel=0.05)


def test_repeats_fill_a_small_language_up_to_the_limit_and_no_further() -> None:
    sizes = np.full(100, 10)
    labels = {"language": ["en"] * 90 + ["zh"] * 10}
    keys = np.arange(100, dtype=np.uint64)
    half = {"language": {"en": 0.5, "zh": 0.5}}
    result = mix(sizes, labels, keys, MixSettings(half, budget=700, max_repeats=4))
    assert result.copies[:90].tolist() == [1] * 35 + [0] * 55
    assert result.copies[90:].tolist() == [4] * 5 + [3] * 5
    short = mix(sizes, labels, keys, MixSettings(half, budget=1000, max_repeats=4))
    assert short.copies[90:].tolist() == [4] * 10 and short.copies[:90].sum() == 50
    row = next(r for r in short.report["values"] if r["value"] == "zh")
    assert (row["wanted"], row["given"], row["shortfall"], row["limited_by"]) == (500, 400, 100, "max_repeats")
    assert short.report["shortfall"] == 100  # English did not get more for it


def test_without_a_budget_every_document_is_used_once_where_repeats_allow_it() -> None:
    sizes, keys = np.full(100, 10), np.arange(100, dtype=np.uint64)
    labels = {"language": ["en"] * 60 + ["zh"] * 40}
    natural = mix(sizes, labels, keys, MixSettings({}))
    assert natural.copies.tolist() == [1] * 100 and natural.report["shortfall"] == 0
    half = mix(sizes, labels, keys, MixSettings({"language": {"en": 0.5, "zh": 0.5}}))
    assert half.copies[:60].tolist() == [1] * 60 and sorted(half.copies[60:].tolist()) == [1] * 20 + [2] * 20
    once = mix(sizes, labels, keys, MixSettings({"language": {"en": 0.5, "zh": 0.5}}, max_repeats=1))
    assert once.copies.sum() == 80 and once.copies.max() == 1


def test_a_cap_holds_a_value_down_and_the_others_get_its_share() -> None:
    sizes, keys = np.full(100, 10), np.arange(100, dtype=np.uint64)
    labels = {"source": ["poems"] * 60 + ["web"] * 30 + ["books"] * 10}
    result = mix(sizes, labels, keys, MixSettings(caps={"source": {"poems": 0.2, "web": 0.5}}, budget=500))
    assert {s: size_of(result, sizes, labels["source"], s) for s in ("poems", "web", "books")} == {
        "poems": 100, "web": 250, "books": 150,
    }  # fmt: skip


def test_a_value_without_documents_leaves_its_share_empty() -> None:
    sizes, keys = np.full(10, 10), np.arange(10, dtype=np.uint64)
    wanted = {"language": {"en": 0.5, "th": 0.5}, "register": {"web": 1.0}}
    labels = {"language": ["en"] * 10, "register": ["web"] * 10}
    result = mix(sizes, labels, keys, MixSettings(wanted, budget=100))
    assert result.report["total"] == 50 and result.report["shortfall"] == 50
    row = next(r for r in result.report["values"] if r["value"] == "th")
    assert row["limited_by"] == "no documents" and row["shortfall"] == 50


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"weights\.language"):
        MixSettings({"language": {"en": -1.0}})
    with pytest.raises(ConfigError, match=r"caps\.source\.poems is 1\.5"):
        MixSettings(caps={"source": {"poems": 1.5}})
    with pytest.raises(DataError, match="the label 'topic', and documents have language"):
        mix(np.ones(1, np.int64), {"language": ["en"]}, np.zeros(1, np.uint64), MixSettings({"topic": {"a": 1.0}}))


def test_nothing_to_mix() -> None:
    empty = mix(np.empty(0, np.int64), {"language": []}, np.empty(0, np.uint64), MixSettings({"language": {"en": 1.0}}))
    assert len(empty.copies) == 0 and empty.report["total"] == 0


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://www.Example.org:80/a?b", "example.org"), ("http://user@zh.wikipedia.org/", "zh.wikipedia.org"),
        ("example.org/page", ""), ("http://[broken", ""), ("", ""), ("http://例子.中国/", "例子.中国"),
    ],
)  # fmt: skip
def test_the_domain_is_the_host(url: str, host: str) -> None:
    assert domain(url) == host


def test_quality_buckets_are_tenths() -> None:
    assert [quality_bucket(x) for x in (0.0, 0.099, 0.1, 0.95, 1.0, float("nan"))] == [
        "q0", "q0", "q1", "q9", "q9", "unscored",
    ]  # fmt: skip

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.data import unit_hashes as module
from qwill.data.fold import fold
from qwill.data.unit_hashes import places, run_hashes, text_hashes, unit_hashes
from qwill.data.units import split

WORDS = st.lists(
    st.sampled_from(
        [
            "a",
            "b",
            "don't",
            "’",
            "'",
            " ",
            "人",
            "人们",
            "カ",
            "１",
            "é",
            "e\u0301",
            "ﬁ",
            "\u200b",
            "。",
            "㍿",
            "\ud800",
            "𝟙",
            "_",
            "여보",
        ]
    )
)
TEXTS = st.one_of(st.text(), WORDS.map("".join))


def definition(unit: str) -> int:
    """The polynomial of a unit, and the finaliser of splitmix64."""
    total = sum(ord(c) * pow(0x9E3779B97F4A7C15, i, 1 << 64) for i, c in enumerate(unit)) % (1 << 64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        total = (total ^ (total >> shift)) * factor % (1 << 64)
    return total ^ (total >> 31)


@given(TEXTS)
def test_units_are_those_of_split(text: str) -> None:
    assert unit_hashes(fold(text)).tolist() == [definition(unit) for unit in split(text)]


@given(TEXTS, st.integers(1, 9))
def test_blocks_change_nothing(text: str, block: int) -> None:
    whole, runs = unit_hashes(fold(text)), run_hashes(unit_hashes(fold(text)), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        assert unit_hashes(fold(text)).tolist() == whole.tolist()
        assert run_hashes(whole, 3).tolist() == runs.tolist()


@given(st.integers(), st.integers(1, 12))
def test_runs_are_equal_where_their_units_are(seed: int, n: int) -> None:
    rng = random.Random(seed)
    units = np.array([rng.randrange(3) for _ in range(60)], dtype=np.uint64) * np.uint64(0x123456789ABCDEF)
    hashes = run_hashes(units, n).tolist()
    runs = [tuple(units[i : i + n].tolist()) for i in range(60 - n + 1)]
    assert len(hashes) == len(runs)
    assert len(set(zip(hashes, runs, strict=True))) == len(set(hashes)) == len(set(runs))


@given(TEXTS, st.data())
def test_places_are_where_the_units_are_written(text: str, data: st.DataObject) -> None:
    units = split(text)
    if not units:
        return
    first = data.draw(st.integers(0, len(units) - 1))
    last = data.draw(st.integers(first + 1, len(units)))
    [(start, end)] = places(text, [(first, last)])
    wanted = units[first:last]
    # A character that stands for several units (㍿, ¼) may bring its others along.
    assert holds(split(text[start:end]), wanted)
    assert not holds(split(text[start + 1 : end]), wanted)
    assert not holds(split(text[start : end - 1]), wanted)


def holds(units: list[str], run: list[str]) -> bool:
    return any(units[i : i + len(run)] == run for i in range(len(units) - len(run) + 1))


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec=None, exclude_categories=())) | st.text("aB1'’ 的ドＡé.\u0301\u00ad"))
def test_c_hashes_the_units_of_a_text_as_it_was_written(text: str) -> None:
    assert text_hashes(text).tolist() == unit_hashes(fold(text)).tolist()

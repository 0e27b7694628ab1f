"""Hashes of a batch stand for the units that `split` gives, one for one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.data import unit_hashes as module
from qwill.data.unit_hashes import batch_hashes
from qwill.data.units import split

# What splitting turns on: apostrophes, marks, digits of other scripts, Han, kana, full width, ligatures, casing.
texts = st.lists(st.text("ab'’_1é\u0301中国ー々ｱヴ。 .\nＡⅫﬁßİ\ud800\U00020000٣ก่", max_size=30), max_size=6)


@settings(deadline=None, max_examples=200)
@given(texts=texts)
def test_units_and_hashes_belong_together(texts: list[str]) -> None:
    hashes, offsets = batch_hashes(texts)
    assert offsets[0] == 0 and len(offsets) == len(texts) + 1 and offsets[-1] == len(hashes)
    seen: dict[str, int] = {}
    for i, text in enumerate(texts):
        units = split(text)
        assert offsets[i + 1] - offsets[i] == len(units)
        for unit, value in zip(units, hashes[offsets[i] : offsets[i + 1]].tolist(), strict=True):
            assert seen.setdefault(unit, value) == value
    assert len(set(seen.values())) == len(seen)


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=60))
def test_any_text_at_all(text: str) -> None:
    assert len(batch_hashes([text])[0]) == len(split(text))


def test_blocks_and_neighbours_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(4)
    many = ["".join(rng.choice("abc'中 ") for _ in range(rng.randrange(60))) for _ in range(200)]
    many.insert(70, "word " * 5000)  # longer than a block
    whole, offsets = batch_hashes(many)
    alone = [batch_hashes([text])[0] for text in many]
    assert np.array_equal(whole, np.concatenate(alone))
    monkeypatch.setattr(module, "_TOGETHER", 64)
    again, same = batch_hashes(many)
    assert np.array_equal(whole, again) and np.array_equal(offsets, same)


def test_hashes_of_a_large_vocabulary_are_distinct() -> None:
    words = [f"w{i}" for i in range(100_000)] + ["x" * i for i in range(1, 300)]
    assert len(set(batch_hashes([" ".join(words)])[0].tolist())) == len(words)

"""Packing loses nothing, pads nothing, and any step's rows follow from its number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.data.packing import RowLoader, TokenStore, pack_rows

END = 0


def store(lengths: list[int]) -> TokenStore:
    """Documents whose token ids name their own place, each led by END."""
    offsets = np.cumsum([0, *lengths])
    tokens = np.arange(1, offsets[-1] + 1)
    tokens[offsets[:-1]] = END
    return TokenStore(tokens, offsets, np.ones(len(lengths)), np.zeros(len(lengths)), ["en"], END)


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60), width=st.integers(1, 24))
def test_rows_are_full_and_every_token_stands_at_most_once(lengths: list[int], width: int) -> None:
    starts = np.cumsum([0, *lengths])[:-1].tolist()
    rows = pack_rows(lengths, starts, width)
    assert all(sum(p.length for p in row) == width for row in rows)
    used = [t for row in rows for p in row for t in range(p.start, p.start + p.length)]
    assert len(used) == len(set(used))
    assert sum(lengths) - len(used) == sum(lengths) % width
    inside = {t: i for i, (s, n) in enumerate(zip(starts, lengths, strict=True)) for t in range(s, s + n)}
    assert all(inside[p.start] == inside[p.start + p.length - 1] for row in rows for p in row)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(2, 60), min_size=8, max_size=40), seed=st.integers(0, 9))
def test_targets_are_the_next_tokens_of_the_same_document(lengths: list[int], seed: int) -> None:
    s = store(lengths)
    loader = RowLoader(s, 8, 1, seed)
    ends = set(s.offsets[1:].tolist())
    for step in range(loader.steps_per_epoch):
        rows = loader.step(step)
        cu = rows.batch.cu_seqlens.tolist()
        assert cu[-1] == 8
        pieces = [p for r in loader.row_indices(step) for p in loader.rows[r]]
        for a, b, piece in zip(cu, cu[1:], pieces, strict=False):
            assert b - a == piece.length
            assert rows.batch.positions_N[a:b].tolist() == list(range(piece.length))
            for j, at in enumerate(range(piece.start, piece.start + piece.length)):
                assert int(rows.batch.tokens_N[a + j]) == s.tokens[at]
                assert int(rows.targets_N[a + j]) == (END if at + 1 in ends else s.tokens[at + 1])


def test_an_epoch_visits_every_row_once_and_epochs_differ() -> None:
    loader = RowLoader(store([13] * 40), 8, 2, seed=3)
    n = loader.steps_per_epoch
    epochs = [[r for s in range(e * n, (e + 1) * n) for r in loader.row_indices(s)] for e in (0, 1)]
    assert all(len(set(e)) == 2 * n for e in epochs)
    assert epochs[0] != epochs[1]
    again = RowLoader(store([13] * 40), 8, 2, seed=3)
    assert again.row_indices(n + 1) == loader.row_indices(n + 1)  # asked for in any order
    assert RowLoader(store([13] * 40), 8, 2, seed=4).row_indices(0) != loader.row_indices(0)


@given(steps=st.integers(1, 40))
def test_consumed_is_exactly_what_the_steps_read(steps: int) -> None:
    s = store([5, 30, 11, 9, 21, 4, 17, 26])
    loader = RowLoader(s, 8, 2, seed=1)
    read = set()
    for step in range(steps):
        for r in loader.row_indices(step):
            read |= {t for p in loader.rows[r] for t in range(p.start, p.start + p.length)}
    told = [t for document, a, b in loader.consumed(steps) for t in range(a, b)]
    assert sorted(told) == sorted(read)
    for document, a, b in loader.consumed(steps):
        assert s.offsets[document] <= a < b <= s.offsets[document + 1]


def test_too_little_text_is_refused() -> None:
    with pytest.raises(DataError, match="fewer than the 4 of one step"):
        RowLoader(store([9, 9]), 8, 4, seed=0)

"""Token shards: the same rows however they are cut, in bounded memory, with copies, and after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.tiny import byte_tokenizer

from qwill.base.errors import DataError
from qwill.data import token_shards
from qwill.data.packing import RowLoader
from qwill.data.token_shards import TokenStore, open_token_shards, tokenize_corpus, write_token_shards

TOKENIZER = byte_tokenizer()
documents = st.lists(
    st.tuples(st.text("ab é字", max_size=20), st.sampled_from(["en", "zh"]), st.integers(0, 3)), min_size=1, max_size=30
)


def write(path: Path, rows: list[tuple[str, str, int]], copies: bool = True) -> Path:
    columns: dict[str, Any] = {"text": [r[0] for r in rows], "language": [r[1] for r in rows]}
    pq.write_table(pa.table(columns | ({"copies": [r[2] for r in rows]} if copies else {})), path)
    return path


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_shards, "BATCH_DOCUMENTS", 3)


def same(one: TokenStore, other: TokenStore) -> bool:
    arrays = ("offsets", "lengths_bytes", "language", "copies")
    return bool(
        np.array_equal(one.tokens[:], other.tokens[:])
        and all(np.array_equal(getattr(one, a), getattr(other, a)) for a in arrays)
        and (one.languages, one.end_id) == (other.languages, other.end_id)
    )


@settings(deadline=None, max_examples=30)
@given(rows=documents, cut=st.integers(0, 30), shard_tokens=st.integers(1, 60))
def test_cutting_into_files_and_shards_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]], cut: int, shard_tokens: int
) -> None:
    kept = [r for r in rows if r[2]]
    folder = tmp_path_factory.mktemp("shards")
    files = [write(folder / "1.parquet", rows[:cut]), write(folder / "2.parquet", rows[cut:])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_shards, "BATCH_DOCUMENTS", 3)
        if not kept:
            with pytest.raises(DataError, match="holds no documents"):
                write_token_shards(files, TOKENIZER, folder / "many", shard_tokens)
            return
        write_token_shards(files, TOKENIZER, folder / "many", shard_tokens)
    many = open_token_shards(folder / "many")
    one = tokenize_corpus(write(folder / "all.parquet", rows), TOKENIZER, folder / "one")
    assert same(many, one)
    assert many.copies is not None and many.copies.tolist() == [r[2] for r in kept]
    assert [many.languages[i] for i in many.language] == [r[1] for r in kept]
    assert many.lengths_bytes.tolist() == [len(r[0].encode()) for r in kept]
    for i, (text, _, _) in enumerate(kept):
        stream = many.tokens[many.offsets[i] : many.offsets[i + 1]].tolist()
        assert stream == [many.end_id, *TOKENIZER.encode(text)]
        assert many.tokens[int(many.offsets[i])] == many.end_id
    assert len(many.tokens) == many.offsets[-1]
    names = {p.name.split(".")[0] for p in (folder / "many").glob("*.tokens.*")}
    assert len(names) > 1 or len(many.tokens) < 2 * shard_tokens + 3 * 90


def test_a_killed_run_goes_on_with_the_shards_that_it_finished(
    tmp_path: Path, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"text number {i}", "en", i % 3) for i in range(40)]
    file = write(tmp_path / "train.parquet", rows)
    write_token_shards([file], TOKENIZER, tmp_path / "whole", 100)
    encode, seen = type(TOKENIZER).encode_batch, list[int]()

    def dies(self: Any, texts: list[str]) -> Any:
        seen.append(len(texts))
        if len(seen) == 8:
            raise KeyboardInterrupt
        return encode(self, texts)

    monkeypatch.setattr(type(TOKENIZER), "encode_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        write_token_shards([file], TOKENIZER, tmp_path / "cut", 100)
    with pytest.raises(DataError, match="not finished"):
        open_token_shards(tmp_path / "cut")
    before = len(seen)
    write_token_shards([file], TOKENIZER, tmp_path / "cut", 100)
    # 14 batches in all; what the seven before the kill finished is not done again.
    assert len(seen) - before < 14
    assert {p.name: p.read_bytes() for p in (tmp_path / "cut").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()
    }


def test_other_files_or_cut_shards_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "train.parquet", [("one", "en", 1)] * 5)
    tokenize_corpus(file, TOKENIZER, tmp_path / "tokens")
    write(file, [("another text", "en", 1)] * 500)
    with pytest.raises(DataError, match="other files"):
        tokenize_corpus(file, TOKENIZER, tmp_path / "tokens")
    tokens = next((tmp_path / "tokens").glob("*.tokens.*"))
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(DataError, match="numbers long"):
        open_token_shards(tmp_path / "tokens")


@settings(deadline=None, max_examples=40)
@given(rows=documents, width=st.integers(2, 9), seed=st.integers(0, 9))
def test_copies_stand_in_different_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]], width: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("copies")
    rows = [*rows, ("a" * width, "en", 2)]
    loader = RowLoader(tokenize_corpus(write(folder / "t.parquet", rows), TOKENIZER, folder / "t"), width, 1, seed)
    store = loader.store
    times = np.zeros(len(store.tokens), dtype=int)
    for row in loader.rows:
        places = [t for p in row for t in range(p.start, p.start + p.length)]
        assert len(places) == len(set(places)) == width
        times[places] += 1
    assert store.copies is not None
    wanted = np.repeat(store.copies, np.diff(store.offsets))
    assert (times <= wanted).all()
    # Each round of copies leaves less than one row over.
    for number in range(int(store.copies.max())):
        assert (wanted > number).sum() - sum(
            sum(p.length for p in row) for row in loader.rows[slice(*_round(loader, number))]
        ) < width
    told = [t for _, a, b in loader.consumed(loader.steps_per_epoch) for t in range(a, b)]
    assert len(told) == len(set(told)) and set(told) == set(np.flatnonzero(times).tolist())


def _round(loader: RowLoader, number: int) -> tuple[int, int]:
    """First and last row (+ 1) of the copies with this number: rounds follow each other and each fills all it can."""
    store = loader.store
    assert store.copies is not None
    sizes = [int((np.diff(store.offsets) * (store.copies > n)).sum()) // loader.width for n in range(number + 1)]
    return sum(sizes[:-1]), sum(sizes)


def test_a_corpus_without_the_column_is_read_once(tmp_path: Path) -> None:
    store = tokenize_corpus(write(tmp_path / "t.parquet", [("abc", "en", 9)] * 4, copies=False), TOKENIZER, tmp_path)
    assert store.copies is not None and store.copies.tolist() == [1] * 4
    assert sum(len(row) for row in RowLoader(store, 4, 1, 0).rows) == 4

"""A chunk's file gives back what was written, whatever the documents hold."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwill.data.chunks import Chunk, read_arrays, read_chunk, read_meta, read_table, write_chunk
from qwill.data.documents import Document, Reject

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DOCUMENT = st.builds(
    Document,
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    st.integers(0, 2**40),
    st.booleans(),
    scores=st.dictionaries(TEXT, st.floats(allow_nan=False), max_size=3),
    labels=st.dictionaries(TEXT, TEXT, max_size=3),
    changed=st.dictionaries(TEXT, st.integers(-(2**40), 2**40), max_size=3),
    reject=st.none() | st.builds(Reject, TEXT, TEXT, st.floats(allow_nan=False) | TEXT),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(DOCUMENT, max_size=6), st.integers(1, 20), st.integers(0, 9))
def test_a_chunk_comes_back_as_it_was_written(
    tmp_path: Path, documents: list[Document], width: int, value: int
) -> None:
    arrays = {
        "key": np.full((len(documents), width), value, dtype=np.uint8),
        "live": np.arange(len(documents)) % 2 == 0,
        "bands": np.full((len(documents), 3), 2**64 - 1 - value, dtype=np.uint64),
        "quality": np.linspace(0, 1, len(documents), dtype=np.float32),
    }
    path = tmp_path / "chunk.arrow"
    write_chunk(path, Chunk(documents, arrays, {"a": [1, "中"]}))
    found = read_chunk(path)
    assert found.documents == documents and found.meta == read_meta(path) == {"a": [1, "中"]}
    for name, array in arrays.items():
        for one in (found.arrays[name], read_arrays(path, [name])[name]):
            assert one.dtype == array.dtype and np.array_equal(one, array)
    assert read_table(path).num_rows == len(documents)


def test_a_change_is_counted_in_bytes() -> None:
    document = Document("a", "b", "c", "en", "中文", 10)
    document.change("redact", "中")
    document.change("redact", "中ab")
    document.change("repair", "中ab")
    assert document.changed == {"redact": -1} and document.bytes == 5


def test_a_broken_write_leaves_nothing(tmp_path: Path) -> None:
    document = Document("a", "b", "c", "en", "\ud800", 3)
    with pytest.raises(UnicodeEncodeError):
        write_chunk(tmp_path / "chunk.arrow", Chunk([document]))
    assert list(tmp_path.iterdir()) == []

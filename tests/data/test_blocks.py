"""Every format, from every kind of place, comes out as the same records in the same order, in whatever blocks."""

import gzip
import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import fsspec
import fsspec.core
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import ConfigError, DataError
from qwill.data.blocks import Block, open_source, parse
from qwill.data.records import Bad, Raw, number_name
from qwill.data.sources import SourceChoice

SENTENCE = "The quick brown fox, which is known to all, jumps over the lazy dog that lies in the sun. "


def read(choice: SourceChoice, **limits: int) -> list[Raw | Bad]:
    source = open_source(choice)
    return [record for block in source.blocks(**limits) for record in parse(block, source.choice)]


def texts(found: list[Raw | Bad]) -> list[tuple[str, str]]:
    return [(r.record, r.text) if isinstance(r, Raw) else (r.record, r.reason) for r in found]


def page(text: str, title: str = "t") -> bytes:
    return f"<html><head><title>{title}</title></head><body><article><p>{text}</p></article></body></html>".encode()


def zstd(data: bytes) -> bytes:
    result: bytes = zstandard.ZstdCompressor().compress(data)
    return result


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd], ids=["plain", "gz", "zst"])
@pytest.mark.parametrize("name", ["a.jsonl", "memory://reading/a.jsonl"])
def test_json_lines_with_bad_records_are_read_on_and_each_is_named(tmp_path: Path, pack: Any, name: str) -> None:
    rows = b'{"text": "one", "url": "u", "n": 7}\n\n{"text": 2}\n{"body": "x"}\n[1]\n{"text": "cut\n{"text": "two"}'
    path = name if "://" in name else str(tmp_path / name)
    if "://" in name:
        with fsspec.open(path, "wb") as f:
            f.write(pack(rows))
    else:
        Path(path).write_bytes(pack(rows))
    found = read(SourceChoice("own", path=path, id_field="n"))
    assert texts(found)[:5] == [
        ("0000001", "one"),
        ("0000003", "field 'text' is a int, not text"),
        ("0000004", "field 'text' is missing"),
        ("0000005", "a JSON list, not an object"),
        ("0000006", "not JSON (Unterminated string starting at at column 10)"),
    ]
    assert texts(found)[5] == ("0000007", "two")
    assert isinstance(found[0], Raw) and found[0].labels == {"url": "u", "id": "7"} and found[0].raw_bytes == 3


@pytest.mark.parametrize(
    ("unit", "documents"),
    [
        ("line", [("0000001", "a"), ("0000002", "b"), ("0000005", "c")]),
        ("paragraph", [("0000001", "a\nb"), ("0000005", "c")]),
        ("file", [("0000001", "a\nb\n\n \nc")]),
    ],
)
def test_plain_text_by_line_paragraph_or_file(tmp_path: Path, unit: Any, documents: list[tuple[str, str]]) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\r\nb\n\n \nc")
    assert texts(read(SourceChoice("own", path=str(tmp_path / "a.txt"), unit=unit))) == documents


def test_a_folder_in_order_of_name_with_what_it_holds_by_suffix(tmp_path: Path) -> None:
    for name, data in {
        "b/page.html": page(SENTENCE, "A  title"), "b.txt": b"one\ntwo", "a.md": b"# Head\n\ntext",
        "b/x.png": b"\x89PNG",
        "c.json": b'[{"text": "in a list"}]', ".hidden.txt": b"no", "z/lines.json": b'{"text": "in lines"}\n',
        "b/empty.html": b"", "z/a#b %.txt": b"odd",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "z" / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "z" / "round").symlink_to(tmp_path)
    source = open_source(SourceChoice("own", path=str(tmp_path)))
    found = [record for block in source.blocks() for record in parse(block, source.choice)]
    assert texts(found) == [
        ("a.md", "# Head\n\ntext"),
        ("b.txt#0000001", "one"),
        ("b.txt#0000002", "two"),
        ("b/empty.html", "an empty file"),
        ("b/page.html", SENTENCE.strip()),
        ("c.json#0000001", "in a list"),
        ("z/a%23b %25.txt#0000001", "odd"),
        ("z/gone.txt", "cannot be read (a link to nothing)"),
        ("z/lines.json#0000001", "in lines"),
    ]
    assert [r.record for r in found] == sorted(r.record for r in found)
    raw = found[4]
    assert isinstance(raw, Raw) and raw.html is not None and raw.raw_bytes == len(page(SENTENCE, "A  title"))
    assert raw.labels == {"encoding": "utf-8", "title": "A title"}
    origin = source.origin()
    assert origin["skipped"] == {".png": 1} and len(origin["paths"]) == 7
    html_only = read(SourceChoice("own", path=str(tmp_path), format="html"))
    assert [r.record for r in html_only] == ["b/empty.html", "b/page.html"]
    matched = read(SourceChoice("own", path=f"{tmp_path}/**/*.txt"))
    assert [r.record for r in matched] == ["b.txt#0000001", "b.txt#0000002", "z/a%23b %25.txt#0000001", "z/gone.txt"]


def test_what_cannot_be_opened_at_all_stops_before_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "a.xyz").write_bytes(b"x")
    for path, words in {
        "no.jsonl": r"source own: .*no\.jsonl cannot be read \(No such file or directory\); check the path",
        "*.jsonl": "no file matches",
        "a.parquet": r"source own: .*a\.parquet: not readable as Parquet",
        "a.xyz": r"a\.xyz ends in nothing that says what it is; expected \.jsonl",
        "memory://reading/none.jsonl": "names no file",
        "nosuch://a/b.jsonl": "cannot be had",
    }.items():
        with pytest.raises(DataError, match=words):
            open_source(SourceChoice("own", path=path if "://" in path else str(tmp_path / path)))
    with pytest.raises(ConfigError, match="is no source and has no path"):
        open_source(SourceChoice("boolqq"))


def test_the_digest_is_that_of_the_bytes_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 100))
    source = open_source(SourceChoice("own", path=str(path), licence="CC0"))
    assert sum(len(block.items) for block in source.blocks()) == 100
    assert source.origin() == {
        "name": "a.jsonl.gz", "version": "", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "paths": ["a.jsonl.gz"], "licence": "CC0", "source": "own",
    }  # fmt: skip


def test_parquet_with_a_named_column(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    columns = {"body": ["one", None, "two"], "n": [1, 2, 3], "url": ["u", "v", None]}
    pq.write_table(pa.table(columns), path, row_group_size=2)
    found = read(SourceChoice("own", path=str(path), field="body", id_field="n"))
    assert texts(found) == [
        ("0000001", "one"),
        ("0000002", "column 'body' is a NoneType, not text"),
        ("0000003", "two"),
    ]
    assert [r.labels for r in found if isinstance(r, Raw)] == [{"url": "u", "id": "1"}, {"id": "3"}]
    assert texts(read(SourceChoice("own", path=str(path), field="n")))[0] == (
        "0000001", "column 'n' is a int, not text",
    )  # fmt: skip
    with pytest.raises(DataError, match="no column 'text'; expected one of body, n, url"):
        open_source(SourceChoice("own", path=str(path)))
    pq.write_table(pa.table({"text": pa.array(["词典", "b"]).dictionary_encode()}), path)
    assert texts(read(SourceChoice("own", path=str(path)))) == [("0000001", "词典"), ("0000002", "b")]


def test_a_broken_page_of_parquet_costs_its_row_group_alone(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    rows = [f"document number {i} of many, long enough to be seen" for i in range(30)]
    pq.write_table(pa.table({"text": rows}), path, row_group_size=10, use_dictionary=False, compression="zstd")
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start + 40 : start + 80] = bytes(40)
    path.write_bytes(data)
    found = read(SourceChoice("own", path=str(path)))
    assert [r.text for r in found if isinstance(r, Raw)] == rows[:10] + rows[20:]
    (broken,) = (r for r in found if isinstance(r, Bad))
    assert broken.record == "0000011" and "row group 1 is broken" in broken.reason and "10 rows" in broken.reason
    assert found[-1].record == "0000030"


class FakeHub:
    """An fsspec file system in the place of the Hub's."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def isdir(self, path: str) -> bool:
        return path not in self.files

    def find(self, path: str) -> list[str]:
        return [name for name in self.files if name.startswith(path.rstrip("/") + "/")]

    def open(self, path: str, mode: str) -> io.BytesIO:
        return io.BytesIO(self.files[path])


def test_a_data_set_of_the_hub_at_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    import pyarrow as pa
    import pyarrow.parquet as pq

    out, commit = io.BytesIO(), "0123456789abcdef" * 2 + "01234567"
    pq.write_table(pa.table({"text": ["one", "two"]}), out)
    root = f"datasets/someone/texts@{commit}"
    hub = FakeHub(
        {
            f"{root}/data/b.jsonl": b'{"text": "three"}',
            f"{root}/data/a.parquet": out.getvalue(),
            f"{root}/README.md": b"#",
        }
    )
    asked = []

    class Api:
        def repo_info(self, name: str, repo_type: str, revision: str | None) -> Any:
            asked.append((name, repo_type, revision))
            if name == "someone/none":
                raise OSError("404:\n  no such data set")
            return type("Info", (), {"sha": commit})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: (hub, url.removeprefix("hf://")))
    source = open_source(SourceChoice("own", path="hf://datasets/someone/texts"))
    found = [record for block in source.blocks() for record in parse(block, source.choice)]
    assert texts(found) == [
        ("data/a.parquet#0000001", "one"),
        ("data/a.parquet#0000002", "two"),
        ("data/b.jsonl#0000001", "three"),
    ]
    assert asked == [("someone/texts", "dataset", None)]
    assert source.origin()["version"] == commit and source.origin()["skipped"] == {".md": 1}
    open_source(SourceChoice("own", path=f"hf://datasets/someone/texts@{commit}/data"))
    assert len(asked) == 1, "a commit needs no answer from the Hub"
    with pytest.raises(DataError, match=r"hf://datasets/someone/none cannot be had \(404: no such data set\)"):
        open_source(SourceChoice("own", path="hf://datasets/someone/none"))
    with pytest.raises(ConfigError, match="expected hf://datasets/OWNER/NAME"):
        open_source(SourceChoice("own", path="hf://datasets/someone"))


@given(st.lists(st.text(max_size=30), max_size=40), st.integers(1, 9), st.integers(1, 200))
@settings(deadline=None)
def test_blocks_are_bounded_and_change_nothing(rows: list[str], most_records: int, most_bytes: int) -> None:
    with fsspec.open("memory://reading/blocks.jsonl", "wb") as f:
        for i, row in enumerate(rows):
            f.write((json.dumps({"text": row}) if i % 5 else row.replace("\n", " ")).encode("utf-8", "replace") + b"\n")
    source = open_source(SourceChoice("own", path="memory://reading/blocks.jsonl"))
    blocks: list[Block] = list(source.blocks(most_records, most_bytes))
    for block in blocks:
        assert len(block.items) <= most_records
        assert len(block.items) == 1 or sum(len(data) for _, data in block.items) <= most_bytes
    found = [r for b in blocks for r in parse(pickle.loads(pickle.dumps(b)), source.choice)]
    assert found == read(source.choice)
    assert [r.record for r in found] == sorted({r.record for r in found})
    assert len({block.digest() for block in blocks}) == len(blocks)


def test_a_sample_is_part_of_a_larger_one_and_as_was_before(tmp_path: Path) -> None:
    rows = [f"{'x' * (i % 17)} document {i * 7919 % 101}" for i in range(200)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in [*rows[:50], 3, *rows[50:]]))
    before: set[str] = set()
    for budget in (0, 10, 300, 1000, 10**9):
        found = read(SourceChoice("own", path=str(path), max_bytes=budget))
        assert [r.record for r in found if isinstance(r, Bad)] == ["0000051"]
        chosen = {r.record for r in found if isinstance(r, Raw)}
        assert before <= chosen and sum(len(r.text) for r in found if isinstance(r, Raw)) <= budget
        before = chosen
        # The definition: lowest hash first, until one does not fit.
        order = sorted(range(200), key=lambda i: (hashlib.blake2b(rows[i].encode(), digest_size=8).digest(), i))
        wanted, left = set[str](), budget
        for i in order:
            if len(rows[i]) > left:
                break
            wanted.add(number_name(i + 1 if i < 50 else i + 2))
            left -= len(rows[i])
        assert chosen == wanted


def test_columns_that_hold_html_are_extracted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": page(SENTENCE).decode(), "url": "u"}) + "\n")
    (found,) = read(SourceChoice("own", path=str(path), html=True))
    assert isinstance(found, Raw) and found.text == SENTENCE.strip() and found.labels == {"url": "u", "title": "t"}


def test_names_of_records_sort_as_their_numbers_do() -> None:
    numbers = [1, 9, 10, 9_999_998, 9_999_999, 10_000_000, 10_000_001, 123_456_789, 10**10 - 1]
    assert [number_name(n) for n in numbers] == sorted(number_name(n) for n in numbers)

"""What is made to break readers is named and passed over; benchmarks/hostile.py does the same at full size."""

import gzip
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_files as hostile
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.data.blocks import open_source, parse
from qwill.data.extract import MOST_DEPTH, Extractor, Refused, nesting
from qwill.data.records import Bad, Raw
from qwill.data.repair import repair
from qwill.data.sources import SourceChoice
from qwill.data.streams import Trouble, decompressed, lines
from qwill.data.warc import records

GOOD = hostile.PAGE.encode()


def read(path: Path, **choice: Any) -> list[Raw | Bad]:
    source = open_source(SourceChoice("own", path=str(path), **choice))
    return [record for block in source.blocks() for record in parse(block, source.choice)]


def outcome(found: list[Raw | Bad]) -> list[str]:
    return ["good" if isinstance(record, Raw) else record.reason for record in found]


def test_one_line_longer_than_is_allowed(tmp_path: Path) -> None:
    hostile.write(tmp_path / "a.jsonl", hostile.single_line(3 << 20))
    found = read(tmp_path / "a.jsonl", max_record_bytes=1 << 20)
    assert [found[0], found[2]] == [Raw("0000001", "before", 6), Raw("0000003", "after", 5)]
    assert isinstance(found[1], Bad) and "and a record may have 1048576 (setting max_record_bytes)" in found[1].reason


@pytest.mark.parametrize("tag", ["div", "b", "table><tr><td", "ul><li", "a", "object", "svg"])
@pytest.mark.parametrize("depth", [300, 100_000])
def test_markup_nested_deep(tmp_path: Path, tag: str, depth: int) -> None:
    (tmp_path / "a.html").write_bytes(hostile.nested(depth, tag))
    (tmp_path / "b.html").write_bytes(GOOD)
    first, second = read(tmp_path)
    assert isinstance(second, Raw)
    if depth > MOST_DEPTH:
        assert isinstance(first, Bad) and first.reason == f"markup nested more than {MOST_DEPTH} deep"


def test_nesting_is_never_counted_too_low() -> None:
    assert nesting('<div title="<">' * 1000)[0] == 1000
    assert nesting("<div/>" * 1000)[0] == 0
    assert nesting("<p>" * 1000 + "<br>" * 1000) == (0, 2000)
    assert nesting("<DIV ><div\n>" * 500)[0] == 1000
    assert nesting("<div>" * 150)[0] == 0, "few tags need no count"


def test_odd_characters_are_read_and_repaired(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(hostile.odd_lines())
    found = read(tmp_path / "a.jsonl")
    assert [record.text for record in found if isinstance(record, Raw)] == hostile.odd_texts()
    for record in found:
        assert isinstance(record, Raw)
        repair(record.text).encode("utf-8", "replace")


@pytest.mark.parametrize("text", hostile.odd_texts())
def test_odd_characters_in_a_page(text: str) -> None:
    found = Extractor()(hostile.PAGE.replace("quick", text))
    assert isinstance(found, str) and "brown" in found


def test_numbers_and_nesting_beyond_what_json_readers_take(tmp_path: Path) -> None:
    rows = [hostile.deep_json(200_000), b'{"text": ' + b"9" * 100_000 + b"}\n", b'{"text": "good"}\n']
    (tmp_path / "a.jsonl").write_bytes(b"".join(rows))
    assert outcome(read(tmp_path / "a.jsonl")) == [
        *["JSON with a number too long or nested too deep to be read"] * 2,
        "good",
    ]
    (tmp_path / "a.json").write_bytes(b"[" * 200_000)
    with pytest.raises(DataError, match=r"a\.json: not JSON"):
        read(tmp_path / "a.json")
    assert "not JSON" in outcome(read(tmp_path))[0]


def test_bombs_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwill.data.streams.EXPANSION_FROM", 2 << 20)
    hostile.write(tmp_path / "a.jsonl.gz", hostile.gzip_bomb(8 << 20))
    (tmp_path / "b.html.zst").write_bytes(hostile.zstd_bomb(8 << 20))
    hostile.write(tmp_path / "c.warc.gz", hostile.gzip_bomb(8 << 20))
    for record in read(tmp_path, max_record_bytes=1 << 20):
        assert isinstance(record, Bad) and "expands more than 250 times" in record.reason


def test_a_bomb_inside_an_http_message(tmp_path: Path) -> None:
    bomb = b"".join(hostile.gzip_bomb(8 << 20))
    headers = "Content-Type: text/html\r\nContent-Encoding: gzip"
    packed = hostile.warc_record(hostile.response(bomb, headers))
    good = hostile.warc_record(hostile.response(gzip.compress(GOOD), headers))
    (tmp_path / "a.warc").write_bytes(packed + good)
    first, second = read(tmp_path / "a.warc", max_record_bytes=1 << 20)
    assert isinstance(first, Bad) and "a record may have 1048576" in first.reason
    assert isinstance(second, Raw) and second.labels["url"] == "http://a/"


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_cut_file_gives_what_it_holds_and_says_so(tmp_path: Path, kind: str) -> None:
    data = b"".join(json.dumps({"text": f"{i} " * 20 + str(os.urandom(30))}).encode() + b"\n" for i in range(5000))
    pack: Callable[[bytes], bytes] = gzip.compress
    if kind == "zst":
        pack = zstandard.ZstdCompressor().compress
    packed = pack(data)
    path = tmp_path / f"a.jsonl.{kind}"
    path.write_bytes(packed[: len(packed) * 2 // 3])
    found = read(path)
    assert len(found) > 1000 and all(isinstance(record, Raw) for record in found[:-1])
    assert isinstance(found[-1], Bad) and "cut short" in found[-1].reason
    path.write_bytes(packed[: len(packed) // 2] + b"\0" * 9 + packed[len(packed) // 2 :])
    found = read(path)
    assert any(isinstance(record, Bad) and "data is broken" in record.reason for record in found)


def warc(broken: bytes) -> bytes:
    good = hostile.warc_record(hostile.response())
    return good + broken + good


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (hostile.warc_record(hostile.response(), length="many"), "Content-Length 'many' is no number"),
        (hostile.warc_record(hostile.response(), length=""), "no Content-Length"),
        (hostile.warc_record(hostile.response(), length=-5), "Content-Length '-5' is no number"),
        (hostile.warc_record(hostile.response(), length=10**15), "1000000000000"),
        (hostile.warc_record(hostile.response(), length=900), "does not lead to the next record"),
        (hostile.warc_record(hostile.response(), length=20), "does not lead to the next record"),
        (b"garbage\r\nof two lines\r\n\r\n", "bytes that are no WARC record"),
        (b"\0\xff" * 3000 + b"\r\n", "bytes that are no WARC record"),
        (b"WARC/1.0\r\n" + b"X-Header: y\r\n" * 9000, "a WARC header that does not end"),
        (hostile.warc_record(b"no HTTP"), "a response that is no HTTP message"),
        (hostile.warc_record(b"HTTP/1.1 200 OK\r\nno end"), "an HTTP header that does not end"),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_a_broken_record_costs_itself_alone(tmp_path: Path, broken: bytes, reason: str, packed: bool) -> None:
    path = tmp_path / ("a.warc.gz" if packed else "a.warc")
    path.write_bytes(gzip.compress(warc(broken)) if packed else warc(broken))
    found = outcome(read(path))
    assert found[0] == found[-1] == "good" and len(found) == 3
    assert reason in found[1]


def test_a_broken_member_of_a_gzipped_warc_costs_itself_alone(tmp_path: Path) -> None:
    record = hostile.warc_record(hostile.response())
    members = [gzip.compress(record + bytes([i])[:0], mtime=0) for i in range(5)]
    broken = bytearray(members[2])
    broken[20:60] = bytes(40)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join([*members[:2], bytes(broken), *members[3:]]))
    found = outcome(read(path))
    assert found.count("good") == 4 and any("gzip data is broken" in reason for reason in found)
    path.write_bytes(b"".join(members)[:-30])
    found = outcome(read(path))
    assert found[:4] == ["good"] * 4 and "cut short" in found[4] and len(found) == 5


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.html").touch()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "empty.warc.gz").touch()
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "good.txt").write_text("good")
    found = {record.record: (record.reason if isinstance(record, Bad) else record.text) for record in read(tmp_path)}
    assert found.pop("good.txt#0000001") == "good"
    assert found.pop("empty.html") == "an empty file"
    assert "not readable as Parquet" in found.pop("empty.parquet")
    assert "pipe" in found.pop("pipe.txt") and "link to nothing" in found.pop("gone.txt")
    assert "cannot be read" in found.pop("loop.txt") and not found


def test_a_page_that_takes_too_long_is_given_up() -> None:
    extractor = Extractor(seconds=0.2)
    before = signal.getsignal(signal.SIGPROF)

    def hang(page: str) -> str:
        while True:
            try:
                sum(range(1000))
            except Exception:
                continue

    extractor._extract = hang  # type: ignore[method-assign]
    began = time.process_time()
    assert extractor(GOOD.decode()) == Refused("extraction took more than 0.2 seconds")
    assert time.process_time() - began < 5 and signal.getsignal(signal.SIGPROF) == before


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        (lambda: time.sleep(60), "took more than"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), r"crashed \(SIGSEGV\)"),
        (lambda: bytearray(64 << 30), "ended without an answer"),
    ],
    ids=["hangs", "crashes", "wants memory"],
)
def test_a_suspect_page_that_kills_its_process_does_not_kill_ours(fate: Callable[[], Any], reason: str) -> None:
    extractor = Extractor(seconds=0.1)
    extractor._extract = lambda page: str(fate())  # type: ignore[method-assign]
    found = extractor("<div>" * 300)
    assert isinstance(found, Refused)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.reason)


def test_a_suspect_page_is_extracted_all_the_same() -> None:
    deep = "<div>" * 220 + f"<p>{hostile.SENTENCE * 3}</p>" + "</div>" * 220
    limits = resource.getrlimit(resource.RLIMIT_AS)
    assert "brown fox" in str(Extractor()(f"<html><body><article>{deep}</article></body></html>"))
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


# ---- whatever is done to the bytes, reading gives records and faults


def samples() -> dict[str, bytes]:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["one", "two 中文"] * 40, "url": ["u", None] * 40}), out, row_group_size=16)
    rows = b'{"text": "one"}\n{"text": "\xe4\xb8\xad"}\n' * 30
    page = hostile.warc_record(
        hostile.response(gzip.compress(GOOD), "Content-Type: text/html\r\nContent-Encoding: gzip")
    )
    chunked = hostile.response(
        b"5\r\n<html\r\n3\r\n><p\r\n0\r\n\r\n", "Content-Type: text/html\r\nTransfer-Encoding: chunked"
    )
    return {
        "a.jsonl": rows, "a.jsonl.gz": gzip.compress(rows), "a.json": json.dumps([{"text": "x"}] * 9).encode(),
        "a.txt": "一行\nzwei\n".encode("utf-16"), "a.html": GOOD, "a.html.gz": gzip.compress(GOOD),
        "a.md": b"# x\n\n- y",
        "a.warc": page * 3 + hostile.warc_record(chunked), "a.warc.gz": hostile.warc_gz([page, page]),
        "a.parquet": out.getvalue(),
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(samples()))
@given(st.data())
@settings(deadline=None, max_examples=60)
def test_no_change_of_bytes_breaks_reading(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = bytearray(samples()[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        how = data.draw(st.sampled_from(["cut", "insert", "replace", "repeat"]))
        if how == "cut":
            del content[at : at + data.draw(st.integers(1, 200))]
        elif how == "insert":
            content[at:at] = data.draw(st.binary(max_size=20))
        elif how == "replace":
            new = data.draw(st.binary(min_size=1, max_size=20))
            content[at : at + len(new)] = new
        else:
            content[at:at] = content[at : at + 300]
    folder = tmp_path_factory.mktemp("hostile")
    (folder / name).write_bytes(content)
    for record in read(folder, max_record_bytes=1 << 16):
        assert isinstance(record, Raw | Bad) and record.record
        assert record.record.isprintable()


@given(st.binary(max_size=400), st.integers(1, 50), st.integers(1, 40))
def test_streams_of_any_bytes(data: bytes, piece: int, longest: int) -> None:
    pieces = [data[i : i + piece] for i in range(0, len(data), piece)]
    found = list(lines(iter(pieces), longest))
    want = data.split(b"\n")
    if want[-1] == b"":
        want.pop()
    assert [number for number, _ in found] == list(range(1, len(want) + 1))
    for (_, line), whole in zip(found, want, strict=True):
        assert line == whole if len(whole) <= longest else isinstance(line, Trouble)
    if not data.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        assert b"".join(p for p in decompressed(iter(pieces)) if isinstance(p, bytes)) == data
    packed = gzip.compress(data) + gzip.compress(data)
    again = decompressed(packed[i : i + piece] for i in range(0, len(packed), piece))
    assert b"".join(p for p in again if isinstance(p, bytes)) == data * 2
    for found_record in records(iter(pieces), longest):
        assert found_record.number >= 1

"""What must be done in order when a source is read: file after file decompressed, cut into records, hashed."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError
from qwill.base.packages import open_member
from qwill.data.encodings import transcoded
from qwill.data.readers import Reader
from qwill.data.records import Bad, Raw, excerpt, number_name
from qwill.data.registry_sources import RegistrySource, find_source
from qwill.data.source_files import SourceFile, find_files, format_of, pinned
from qwill.data.sources import SourceChoice, registry_origin
from qwill.data.streams import Pieces, Trouble, decompressed, lines, read_pieces, whole
from qwill.data.warc import page, records


@dataclass(frozen=True)
class Item:
    """One record as it stands in its file, and how it is to be parsed."""

    record: str
    data: bytes
    kind: str
    encoding: str | None = None
    labels: dict[str, str] = field(default_factory=dict)


class Reading:
    """The records of a source, and the digest of what was read of it."""

    def __init__(self, items: Callable[[Reading], Iterator[Item | Bad]], origin: Callable[[Reading], dict[str, Any]]):
        self._items, self._origin = items, origin
        self.digests: list[tuple[str, str]] = []
        self.skipped: Counter[str] = Counter()

    def items(self) -> Iterator[Item | Bad]:
        """Every record in order; may be called again."""
        self.digests, self.skipped = [], Counter()
        yield from self._items(self)

    def origin(self) -> dict[str, Any]:
        """The entry in a manifest; what was passed by (images in a folder, requests in a WARC) is counted in it."""
        entry = self._origin(self)
        return entry | ({"skipped": dict(sorted(self.skipped.items()))} if self.skipped else {})

    def sha256(self) -> str:
        """Of one file its own; of several that of their names and digests."""
        if len(self.digests) == 1 and not self.digests[0][0]:
            return self.digests[0][1]
        whole = hashlib.sha256()
        for name, digest in self.digests:
            whole.update(f"{digest}  {name}\n".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()


def open_reading(choice: SourceChoice) -> tuple[SourceChoice, Reading]:
    """(choice with what is known of a source that comes by name, its reading). Raises as `open_source` says."""
    if choice.path is not None:
        return choice, _open_path(choice, choice.path)
    source = find_source(choice.name)
    known = replace(choice, language=source.language, register=source.register, licence=source.licence)
    if source.many:
        return known, _open_many(known, source)
    return known, _open_member(known, source)


def _open_member(choice: SourceChoice, source: RegistrySource) -> Reading:
    assert source.reader is not None
    data = open_member(source.package.archive(), source.member)
    where = f"{source.package.name} {source.package.version}: {source.member}"

    def items(reading: Reading) -> Iterator[Item | Bad]:
        yield from _given(source.reader, data, where, "")

    return Reading(items, lambda reading: registry_origin(source, [source.member]))


def _open_many(choice: SourceChoice, source: RegistrySource) -> Reading:
    folder, paths = source.folder(), source.paths()
    fixed = source.member.split("*")[0].rpartition("/")[0]

    def items(reading: Reading) -> Iterator[Item | Bad]:
        for path in paths:
            name = path.relative_to(folder / fixed).as_posix()
            if source.reader is None:
                yield from _read_file(SourceFile(name, str(path)), "html", choice, reading)
                continue
            try:
                yield from _given(source.reader, path.read_bytes(), str(path), name)
            except (DataError, OSError) as error:
                yield Bad(name, str(error))

    return Reading(items, lambda reading: registry_origin(source, [source.member]))


def _given(reader: Reader | None, data: bytes, where: str, name: str) -> Iterator[Item | Bad]:
    assert reader is not None
    for record in reader(data, where):
        own = f"{name}#{record.record}" if name else record.record
        if isinstance(record, Raw):
            yield Item(own, record.text.encode("utf-8", "surrogatepass"), "given")
        else:
            yield replace(record, record=own)


def _open_path(choice: SourceChoice, path: str) -> Reading:
    who, version = f"source {choice.name}", ""
    hub = path.startswith("hf://datasets/")
    if hub:
        path, version = pinned(path, who)
    many, _ = find_files(path, who)
    if not many and choice.format is None and format_of(path) is None:
        raise DataError(
            f"{who}: {path.rpartition('/')[2]} ends in nothing that says what it is; expected .jsonl, .json, .txt, "
            ".md, .html, .warc or .parquet (also with .gz or .zst), or set `format`."
        )

    def items(reading: Reading) -> Iterator[Item | Bad]:
        for file in find_files(path, who)[1]:
            kind = format_of(file.path)
            if choice.format is not None and (kind is None or kind != choice.format):
                # A glob and a single file were chosen by the user; of a folder only what has the right name.
                kind = choice.format if not many or "*" in path or "?" in path else None
            if kind is None or (hub and kind in ("markdown", "text", "html")):
                reading.skipped[Path(file.path).suffix or "no suffix"] += 1
            else:
                yield from _read_file(file, kind, choice, reading)

    def origin(reading: Reading) -> dict[str, Any]:
        name = path.rstrip("/").rpartition("/")[2]
        names = [file or name for file, _ in reading.digests]
        return {
            "name": path if "://" in path else name,
            "version": version,
            "sha256": reading.sha256(),
            "paths": names if len(names) <= 100 else [f"{names[0]} and {len(names) - 1} more"],
            "licence": choice.licence,
            "source": choice.name,
        }

    reading = Reading(items, origin)
    if not many:
        _check_one(choice, path, reading)
    return reading


def _check_one(choice: SourceChoice, path: str, reading: Reading) -> None:
    """A source that is one file must be readable at all, or the run does not begin."""
    first = next(reading.items(), None)
    if isinstance(first, Bad) and not first.record:
        raise DataError(f"source {choice.name}: {path}: {first.reason}.")


def _read_file(file: SourceFile, kind: str, choice: SourceChoice, reading: Reading) -> Iterator[Item | Bad]:
    """A file's records. A fault of the file as a whole is a Bad that has the file's name."""
    if file.trouble is not None:
        yield Bad(file.name, file.trouble)
        return
    digest = hashlib.sha256()
    try:
        with file.open() as opened:
            pieces = read_pieces(opened, digest)
            if kind == "parquet":
                yield from _parquet(file, pieces, choice)
            else:
                yield from _FORMATS[kind](file.name, decompressed(pieces), choice, reading)
            for _ in pieces:
                pass  # what was not wanted (a bomb's rest) is part of the digest all the same
    except Exception as error:  # an fsspec file system raises what it likes
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        yield Bad(file.name, f"it could not be read to its end ({reason})")
    reading.digests.append((file.name, digest.hexdigest()))


def _numbered(name: str, number: int) -> str:
    return f"{name}#{number_name(number)}" if name else number_name(number)


def _jsonl(name: str, pieces: Pieces, choice: SourceChoice, reading: Reading) -> Iterator[Item | Bad]:
    pieces, encoding = transcoded(pieces, choice.encoding)
    for number, line in lines(pieces, choice.max_record_bytes):
        if isinstance(line, Trouble):
            yield Bad(_numbered(name, number), line.reason)
        elif line.strip():
            yield Item(_numbered(name, number), line, "jsonl", encoding)


def _json(name: str, pieces: Pieces, choice: SourceChoice, reading: Reading) -> Iterator[Item | Bad]:
    """A JSON file: one list (or one object) whose entries are the records; or lines under another name."""
    import json

    head = next(pieces, b"")
    again = _after(head, pieces)
    if isinstance(head, bytes) and not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _jsonl(name, again, choice, reading)
        return
    data = whole(again, choice.max_record_bytes)
    if isinstance(data, Trouble):
        yield Bad(name, data.reason)
        return
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        yield Bad(name, f"not JSON ({str(error)[:100]})", excerpt(data), len(data))
        return
    for number, row in enumerate(rows, start=1):
        yield Item(_numbered(name, number), json.dumps(row).encode(), "jsonl")


def _after(head: bytes | Trouble, rest: Pieces) -> Pieces:
    if head:
        yield head
    yield from rest


def _plain(name: str, pieces: Pieces, choice: SourceChoice, reading: Reading) -> Iterator[Item | Bad]:
    """Plain text by line, paragraph (parted by empty lines) or file; empty ones are no documents."""
    pieces, encoding = transcoded(pieces, choice.encoding)
    if choice.unit == "file":
        yield from _one(name, pieces, choice, "text", encoding)
        return
    first, held, size = 1, list[bytes](), 0
    for number, line in lines(pieces, choice.max_record_bytes):
        if isinstance(line, Trouble):
            yield Bad(_numbered(name, number), line.reason)
            held, size = [], 0
        elif choice.unit == "line":
            if line.strip():
                yield Item(_numbered(name, number), line.rstrip(b"\r"), "text", encoding)
        elif line.strip():
            first = first if held else number
            held.append(line.rstrip(b"\r"))
            size += len(line)
            if size > choice.max_record_bytes:
                yield Bad(_numbered(name, first), f"a paragraph of more than {choice.max_record_bytes} bytes")
                held, size = [], 0
        elif held:
            yield Item(_numbered(name, first), b"\n".join(held), "text", encoding)
            held, size = [], 0
    if held:
        yield Item(_numbered(name, first), b"\n".join(held), "text", encoding)


def _markdown(name: str, pieces: Pieces, choice: SourceChoice, reading: Reading) -> Iterator[Item | Bad]:
    pieces, encoding = transcoded(pieces, choice.encoding)
    yield from _one(name, pieces, choice, "text", encoding)


def _html(name: str, pieces: Pieces, choice: SourceChoice, reading: Reading) -> Iterator[Item | Bad]:
    yield from _one(name, pieces, choice, "html", None)


def _one(name: str, pieces: Pieces, choice: SourceChoice, kind: str, encoding: str | None) -> Iterator[Item | Bad]:
    data = whole(pieces, choice.max_record_bytes)
    own = name or number_name(1)
    if isinstance(data, Trouble):
        yield Bad(own, data.reason)
    elif data.strip():
        yield Item(own, data, kind, encoding)
    else:
        yield Bad(own, "an empty file")


def _warc(name: str, pieces: Pieces, choice: SourceChoice, reading: Reading) -> Iterator[Item | Bad]:
    for found in records(pieces, choice.max_record_bytes):
        own = _numbered(name, found.number)
        if found.trouble is not None:
            yield Bad(own, found.trouble, excerpt(found.data), len(found.data))
        elif page(found.data, choice.max_record_bytes) is None:
            reading.skipped["WARC records that are no pages"] += 1
        else:
            yield Item(own, found.data, "warc")


def _parquet(file: SourceFile, pieces: Iterator[bytes], choice: SourceChoice) -> Iterator[Item | Bad]:
    """Parquet is read by jumping about: a file from elsewhere is copied first, a local one is hashed first."""
    from qwill.data.parquet_reading import parquet_items

    if file.system is None:
        for _ in pieces:
            pass
        found = parquet_items(file.path, choice)
        yield from (_named(file.name, item) for item in found)
        return
    with tempfile.NamedTemporaryFile(suffix=".parquet") as copy:
        for piece in pieces:
            copy.write(piece)
        copy.flush()
        yield from (_named(file.name, item) for item in parquet_items(copy.name, choice))


def _named(name: str, item: Item | Bad) -> Item | Bad:
    record = f"{name}#{item.record}" if name and item.record else name or item.record
    return replace(item, record=record)


_FORMATS = {
    "jsonl": _jsonl, "json": _json, "text": _plain, "markdown": _markdown, "html": _html, "warc": _warc,
}  # fmt: skip

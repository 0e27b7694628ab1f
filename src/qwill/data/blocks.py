"""Reading, in two halves: one process cuts every source into blocks in a fixed order, workers parse them.

The first half does no more than must be done in order: files in order of name, decompression, lines and records, and
the digest of all bytes that it read. A record that is broken is a `Bad` at its place and never ends a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from qwill.data.encodings import declared_encoding, decode
from qwill.data.extract import Extractor, Refused, title_of
from qwill.data.records import Bad, Raw, excerpt
from qwill.data.source_reading import Reading, open_reading
from qwill.data.sources import SourceChoice, known_labels
from qwill.data.warc import page as page_of

MOST_RECORDS, MOST_BYTES = 512, 8 << 20
MOST_PAGES = 128  # pages take some twenty times as long as texts, and a block is what is lost when a run is killed


@dataclass(frozen=True)
class Block:
    """Some records of a source, as they stand in it. kind: how `items` (name, bytes) are to be parsed. bad: those that
    could not be read, each with how many items stand before it. encoding: what the file around them is in, where that
    was found out. labels: those known already, by record."""

    source: str
    kind: str
    items: list[tuple[str, bytes]]
    bad: list[tuple[int, Bad]] = field(default_factory=list)
    encoding: str | None = None
    labels: dict[str, dict[str, str]] = field(default_factory=dict)

    def digest(self) -> str:
        """A hash of all that parsing depends on beside the choice."""
        digest = hashlib.blake2b(digest_size=16)
        head = [self.source, self.kind, self.encoding, self.labels, [[i, vars(b)] for i, b in self.bad]]
        digest.update(json.dumps(head, sort_keys=True).encode())
        for name, data in self.items:
            digest.update(f"\0{name}\0{len(data)}\0".encode("utf-8", "surrogatepass"))
            digest.update(data)
        return digest.hexdigest()


class Source:
    """A source ready to be read. `choice` is what was asked for, with what is known of a source that comes by name."""

    def __init__(self, choice: SourceChoice, reading: Reading) -> None:
        self.choice = choice
        self._reading = reading
        self.records: int | None = None  # how many there are is not known before they are read

    def blocks(self, max_records: int = MOST_RECORDS, max_bytes: int = MOST_BYTES) -> Iterator[Block]:
        """All of the source; a record longer than `max_bytes` is a block of its own."""
        chosen = None if self.choice.max_bytes is None else self._sample(self.choice.max_bytes)
        block, size = Block(self.choice.name, "", []), 0
        for place, item in enumerate(self._reading.items()):
            if chosen is not None and not isinstance(item, Bad) and place not in chosen:
                continue
            if isinstance(item, Bad):
                kind, encoding, length = block.kind, block.encoding, 0
            else:
                kind, encoding, length = item.kind, item.encoding, len(item.data)
            pages = kind in ("html", "warc") or self.choice.html
            most = min(max_records, MOST_PAGES) if pages else max_records
            full = len(block.items) + len(block.bad) >= most or (block.items and size + length > max_bytes)
            if full or (block.items and (kind, encoding) != (block.kind, block.encoding)):
                yield block
                block, size = Block(self.choice.name, kind, []), 0
            if isinstance(item, Bad):
                block.bad.append((len(block.items), item))
                continue
            if (kind, encoding) != (block.kind, block.encoding):
                block = replace(block, kind=kind, encoding=encoding)
            block.items.append((item.record, item.data))
            if item.labels:
                block.labels[item.record] = item.labels
            size += length
        if block.items or block.bad:
            yield block

    def origin(self) -> dict[str, Any]:
        """The source's entry in a manifest, with the digest of what `blocks` has read; only whole once it is done."""
        return self._reading.origin()

    def _sample(self, max_bytes: int) -> set[int]:
        """Places of the documents whose hashes are lowest, up to `max_bytes` of text (of HTML, of pages).

        A sample for a smaller budget is part of that for a larger one, and each is as mixed as the whole. Memory is
        that of the sample's places: of what has been seen, what can't be in it any more is forgotten."""
        import heapq

        held: list[tuple[int, int, int]] = []  # (-hash, -place, bytes): what leaves the sample first stands first
        broken = set[int]()  # all kept, so that none goes unnamed
        total, cut = 0, None
        plain = replace(self.choice, html=False)
        for place, item in enumerate(self._reading.items()):
            if isinstance(item, Bad):
                continue
            data = item.data
            if item.kind not in ("html", "warc"):
                record = _PARSERS[item.kind](item.record, data, item.encoding, {}, plain, None)
                if isinstance(record, Bad):
                    broken.add(place)
                    continue
                data = record.text.encode("utf-8", "surrogatepass")
            rank = (int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()), place)
            if cut is not None and rank >= cut:
                continue
            heapq.heappush(held, (-rank[0], -rank[1], len(data)))
            total += len(data)
            while total > max_bytes:
                value, at, size = heapq.heappop(held)
                total, cut = total - size, (-value, -at)
        return broken | {-at for _, at, _ in held}


def open_source(choice: SourceChoice) -> Source:
    """Open what a recipe's entry names. Raises ConfigError, DataError or SourceError, each a sentence, for what can't
    be had; of many files the ones that can't be opened are found, and named, when their turn comes."""
    resolved, reading = open_reading(choice)
    return Source(resolved, reading)


def parse(block: Block, choice: SourceChoice) -> list[Raw | Bad]:
    """The block's records. Raises nothing for what is in them."""
    extractor: Extractor | None = None
    if block.items and (block.kind in ("html", "warc") or choice.html):
        extractor = Extractor(choice.extraction)
    parser, found = _PARSERS.get(block.kind, _text), list[Raw | Bad]()
    waiting = iter(block.bad)
    place, broken = next(waiting, (len(block.items) + 1, Bad("", "")))
    for i, (name, data) in enumerate(block.items):
        while place <= i:
            found.append(broken)
            place, broken = next(waiting, (len(block.items) + 1, Bad("", "")))
        found.append(parser(name, data, block.encoding, block.labels.get(name, {}), choice, extractor))
    while place <= len(block.items):
        found.append(broken)
        place, broken = next(waiting, (len(block.items) + 1, Bad("", "")))
    return found


def _sized(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _given(
    name: str, data: bytes, encoding: str | None, labels: dict[str, str], choice: SourceChoice, extractor: Any
) -> Raw | Bad:
    """What was text already when it was read."""
    return _finished(name, data.decode("utf-8", "surrogatepass"), labels, choice, extractor, len(data))


def _text(
    name: str, data: bytes, encoding: str | None, labels: dict[str, str], choice: SourceChoice, extractor: Any
) -> Raw | Bad:
    text, found = decode(data, choice.encoding, encoding)
    if found != "utf-8":
        labels = labels | {"encoding": found}
    return Raw(name, text.replace("\r\n", "\n").rstrip("\r"), len(data), labels)


def _json(
    name: str, data: bytes, encoding: str | None, labels: dict[str, str], choice: SourceChoice, extractor: Any
) -> Raw | Bad:
    try:
        line = data.decode()
    except UnicodeDecodeError:
        line, found = decode(data, choice.encoding, encoding)
        labels = labels | {"encoding": found}
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return Bad(name, f"not JSON ({error.msg} at column {error.colno})", excerpt(data), len(data))
    except (ValueError, RecursionError):
        return Bad(name, "JSON with a number too long or nested too deep to be read", excerpt(data), len(data))
    if not isinstance(row, dict):
        return Bad(name, f"a JSON {type(row).__name__}, not an object", excerpt(data), len(data))
    text = row.get(choice.field)
    if not isinstance(text, str):
        state = "missing" if choice.field not in row else f"a {type(text).__name__}, not text"
        return Bad(name, f"field {choice.field!r} is {state}", excerpt(data), len(data))
    labels = labels | known_labels(row, choice)
    return _finished(name, text, labels, choice, extractor, _sized(text))


def _finished(
    name: str, text: str, labels: dict[str, str], choice: SourceChoice, extractor: Extractor | None, size: int
) -> Raw | Bad:
    """A text as it is, or with `html` what is in it."""
    if extractor is None:
        return Raw(name, text, size, labels)
    return _extracted(name, text, labels, extractor, size)


def _extracted(name: str, page: str, labels: dict[str, str], extractor: Extractor, size: int) -> Raw | Bad:
    found = extractor(page)
    if isinstance(found, Refused):
        return Bad(name, found.reason, page[:300], size)
    if "title" not in labels and (title := title_of(page)):
        labels = labels | {"title": title}
    return Raw(name, found, size, labels, page)


def _html(
    name: str, data: bytes, encoding: str | None, labels: dict[str, str], choice: SourceChoice, extractor: Any
) -> Raw | Bad:
    page, found = decode(data, choice.encoding or labels.get("declared") or declared_encoding(data))
    kept = {key: value for key, value in labels.items() if key != "declared"} | {"encoding": found}
    return _extracted(name, page, kept, extractor, len(data))


def _warc(
    name: str, data: bytes, encoding: str | None, labels: dict[str, str], choice: SourceChoice, extractor: Any
) -> Raw | Bad:
    page = page_of(data, choice.max_record_bytes)
    if page is None or isinstance(page, str):
        return Bad(name, page or "no page", excerpt(data), len(data))
    declared = choice.encoding or declared_encoding(page.body, page.header)
    labels = {key: value for key, value in (("url", page.url), ("date", page.date)) if value}
    if page.kind == "text/plain":
        text, found = decode(page.body, declared)
        return Raw(name, text, len(page.body), labels | {"encoding": found})
    return _html(name, page.body, None, labels | ({"declared": declared} if declared else {}), choice, extractor)


def _value(
    name: str, data: bytes, encoding: str | None, labels: dict[str, str], choice: SourceChoice, extractor: Any
) -> Raw | Bad:
    """A text out of a column."""
    text, found = decode(data, choice.encoding)
    if found != "utf-8":
        labels = labels | {"encoding": found}
    return _finished(name, text, labels, choice, extractor, len(data))


_PARSERS = {"given": _given, "value": _value, "text": _text, "jsonl": _json, "html": _html, "warc": _warc}

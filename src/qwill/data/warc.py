"""WARC files (ISO 28500) record by record, and the HTTP messages in them. What is broken is named and passed over."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qwill.data.streams import Trouble, too_long

MOST_HEADER = 1 << 16
_NEXT = re.compile(rb"(?:\r?\n|\A)(?=WARC/[01]\.\d+\r?\n)")
_END_OF_HEADER = re.compile(rb"\r?\n\r?\n")
TEXTS = ("text/html", "application/xhtml+xml", "text/plain")


@dataclass(frozen=True)
class Found:
    """A record (`data`: header and content), or what is wrong at this place of the file."""

    number: int
    data: bytes
    trouble: str | None = None


class _Buffer:
    """A stream with what has been read and not yet taken."""

    def __init__(self, pieces: Iterable[bytes | Trouble]) -> None:
        self.pieces = iter(pieces)
        self.data = bytearray()
        self.trouble: str | None = None
        self.ended = False

    def more(self) -> bool:
        """Read another piece. False at the end, and where the stream is broken (`trouble`) until that is cleared."""
        if self.trouble is not None or self.ended:
            return False
        piece = next(self.pieces, None)
        if piece is None:
            self.ended = True
            return False
        if isinstance(piece, Trouble):
            self.trouble = piece.reason
            return False
        self.data += piece
        return True

    def fill(self, size: int) -> bool:
        while len(self.data) < size:
            if not self.more():
                return False
        return True


def records(pieces: Iterable[bytes | Trouble], longest: int) -> Iterator[Found]:
    """Every record of a file, numbered from 1 with the places that are broken; at most `longest` bytes are held."""
    buffer, number = _Buffer(pieces), 0
    while True:
        while not buffer.data.strip(b"\r\n") and buffer.more():
            del buffer.data[: len(buffer.data) - len(buffer.data.lstrip(b"\r\n"))]
        del buffer.data[: len(buffer.data) - len(buffer.data.lstrip(b"\r\n"))]
        if not buffer.data and buffer.trouble is None:
            return
        number += 1
        if buffer.data:
            found = _one(buffer, number, longest)
            if found.trouble is None or buffer.trouble is None:
                yield found
                continue
        # What is held before a fault of the stream is not whole; behind it another record may begin.
        yield Found(number, bytes(buffer.data[:4096]), buffer.trouble)
        buffer.data.clear()
        buffer.trouble = None


def _one(buffer: _Buffer, number: int, longest: int) -> Found:
    buffer.fill(5)
    if not buffer.data.startswith(b"WARC/"):
        return _pass_over(buffer, number, 0, "bytes that are no WARC record")
    while (end := _END_OF_HEADER.search(buffer.data)) is None and len(buffer.data) < MOST_HEADER and buffer.more():
        pass
    if end is None or end.end() > MOST_HEADER:
        return _pass_over(buffer, number, 5, "a WARC header that does not end")
    given = headers(bytes(buffer.data[: end.start()])).get("content-length", "")
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        reason = f"Content-Length {given[:40]!r} is no number" if given else "no Content-Length"
        return _pass_over(buffer, number, end.end(), reason)
    size = end.end() + int(given)
    if size > longest:
        return _pass_over(buffer, number, end.end(), too_long(size, longest).reason)
    whole = buffer.fill(size)
    if whole:
        buffer.fill(size + 9)
    tail = bytes(buffer.data[size : size + 9])
    leads_on = re.match(rb"\r?\n\r?\n|\r?\n?\Z", tail) is not None
    if whole and leads_on:
        data = bytes(buffer.data[:size])
        del buffer.data[:size]
        return Found(number, data)
    if not whole and buffer.trouble is not None:
        return Found(number, b"", buffer.trouble)
    reason = "its Content-Length does not lead to the next record" if whole else "cut short: the file ends inside it"
    return _pass_over(buffer, number, end.end(), reason)


def _pass_over(buffer: _Buffer, number: int, start: int, reason: str) -> Found:
    """Drop everything up to where the next record begins."""
    beginning = bytes(buffer.data[:4096])
    while True:
        match = _NEXT.search(buffer.data, start or 1)
        if match is not None:
            del buffer.data[: match.end()]
            break
        del buffer.data[: max(0, len(buffer.data) - 16)]  # a beginning may be cut in two
        start = 1
        if not buffer.more():
            buffer.data.clear()
            if buffer.trouble is not None:
                reason, buffer.trouble = f"{reason}; then {buffer.trouble}", None
            break
    return Found(number, beginning, reason)


def headers(data: bytes) -> dict[str, str]:
    """Header lines after the first, names in lower case; of one that is there twice the last."""
    found: dict[str, str] = {}
    last = ""
    for line in data.decode("utf-8", "replace").split("\n")[1:]:
        line = line.rstrip("\r")
        if line[:1] in (" ", "\t") and last:
            found[last] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        if colon:
            last = name.strip().lower()
            found[last] = value.strip()
    return found


@dataclass(frozen=True)
class Page:
    """What a record holds for reading. kind: its media type. header: its Content-Type as sent."""

    url: str
    date: str
    kind: str
    header: str
    body: bytes


def page(record: bytes, longest: int) -> Page | str | None:
    """The page in a record; why it can't be had; or None for a record that is no page (requests, images, ...)."""
    end = _END_OF_HEADER.search(record)
    if end is None:
        return "a WARC header that does not end"
    own, body = headers(record[: end.start()]), record[end.end() :]
    kind, header = own.get("warc-type", "").lower(), own.get("content-type", "")
    if kind not in ("response", "resource", "conversion"):
        return None
    if kind == "response" and not header.startswith("text/dns"):
        if not body.startswith(b"HTTP/"):
            return "a response that is no HTTP message"
        end = _END_OF_HEADER.search(body)
        if end is None:
            return "an HTTP header that does not end"
        sent, body = headers(body[: end.start()]), body[end.end() :]
        header = sent.get("content-type", "")
        body = _unchunked(body) if "chunked" in sent.get("transfer-encoding", "").lower() else body
        opened = _decoded(body, sent.get("content-encoding", "").lower(), longest)
        if isinstance(opened, str):
            return opened
        body = opened
    media = header.partition(";")[0].strip().lower()
    if not media and re.search(rb"<(?:!doctype html|html|head|body)\b", body[:1024], re.IGNORECASE):
        media = "text/html"
    if media not in TEXTS:
        return None
    return Page(own.get("warc-target-uri", "").strip("<>"), own.get("warc-date", ""), media, header, body)


def _unchunked(body: bytes) -> bytes:
    """The body of `Transfer-Encoding: chunked`; where it is not so (crawlers undo it and keep the header), as it is."""
    held, place = list[bytes](), 0
    while match := re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]{0,200}\r?\n").match(body, place):
        size = int(match.group(1), 16)
        if size == 0:
            return b"".join(held)
        held.append(body[match.end() : match.end() + size])
        place = match.end() + size
        if place > len(body):
            return b"".join(held)
        place += 2 if body.startswith(b"\r\n", place) else 1 if body.startswith(b"\n", place) else 0
    return b"".join(held) if held and place >= len(body) else body


def _decoded(body: bytes, coding: str, longest: int) -> bytes | str:
    """The body with its content coding undone; where it is not so coded, as it is."""
    ways: tuple[int, ...]
    if coding in ("gzip", "x-gzip") and body.startswith(b"\x1f\x8b"):
        ways = (31,)
    elif coding == "deflate":
        ways = (15, -15)
    elif coding == "br":
        return "content coding br, which is not read"
    else:
        return body
    for way in ways:
        engine = zlib.decompressobj(way)
        try:
            data = engine.decompress(body, longest + 1)
        except zlib.error:
            continue
        return data if len(data) <= longest else too_long(len(data), longest).reason
    return body if coding == "deflate" else "gzip data in its HTTP message is broken"

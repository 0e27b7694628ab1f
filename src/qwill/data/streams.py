"""Files as streams of bytes: hashed while they are read, decompressed within limits, cut into lines.

Nothing here raises for what is inside a file: where its bytes go wrong the stream holds a `Trouble`, and goes on where
that can be done. Memory is bounded by a few megabytes and the longest record allowed."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

PIECE = 1 << 20
MOST_EXPANSION = 250  # decompressed bytes for each compressed one; text seldom has 20
EXPANSION_FROM = 64 << 20  # bytes from which the limit holds: a small file of one letter is no bomb
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Trouble:
    """What went wrong at this place of a stream; what was begun before it is not whole."""

    reason: str


Pieces = Iterator[bytes | Trouble]


def decompressed(pieces: Iterable[bytes]) -> Pieces:
    """The bytes of a file that is gzip or Zstandard by its first bytes, decompressed; of any other as they are."""
    source = iter(pieces)
    head = b""
    for piece in source:
        head += piece
        if len(head) >= 4:
            break
    if head.startswith(_GZIP):
        yield from _limited(_gunzipped(_again(head, source)))
    elif head.startswith(_ZSTD):
        yield from _limited(_unzstandard(_again(head, source)))
    else:
        yield from _again(head, source)


def _again(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


def _limited(steps: Iterator[tuple[int, bytes | Trouble]]) -> Pieces:
    """Stop where a file expands like a bomb. `steps`: compressed bytes read so far, and what came out."""
    out = 0
    for taken, piece in steps:
        if isinstance(piece, Trouble):
            yield piece
            continue
        out += len(piece)
        if out > EXPANSION_FROM and out > MOST_EXPANSION * max(taken, 1):
            yield Trouble(f"it expands more than {MOST_EXPANSION} times, as only a bomb does; the rest is not read")
            return
        yield piece


def _gunzipped(source: Iterator[bytes]) -> Iterator[tuple[int, bytes | Trouble]]:
    """Every member of a gzip file; after a broken one the next whose beginning is found."""
    engine = zlib.decompressobj(31)
    taken, data, in_member, seeking = 0, b"", False, False
    for piece in source:
        taken += len(piece)
        data += piece
        while data:
            if not in_member:
                start = data.find(_GZIP + b"\x08") if seeking else _after_zeros(data)
                if start < 0:
                    data = data[-2:] if seeking else b""
                    break
                data, engine, in_member = data[start:], zlib.decompressobj(31), True
            try:
                produced = engine.decompress(data, PIECE)
            except zlib.error as error:
                if not seeking:
                    yield taken, Trouble(f"its gzip data is broken ({str(error).rpartition(': ')[2]})")
                data, in_member, seeking = data[1:], False, True
                continue
            if produced:
                seeking = False
                yield taken, produced
            data = engine.unconsumed_tail
            if engine.eof:
                data, in_member = engine.unused_data, False
            elif not data:
                break
    while in_member and not engine.eof and (produced := engine.decompress(engine.unconsumed_tail, PIECE)):
        yield taken, produced
    if in_member and not engine.eof and not seeking:
        yield taken, Trouble("its gzip data is cut short")


def _after_zeros(data: bytes) -> int:
    """Where the next member begins: tapes and some writers pad a gzip file with zeros."""
    rest = data.lstrip(b"\0")
    return len(data) - len(rest) if rest else -1


def _unzstandard(source: Iterator[bytes]) -> Iterator[tuple[int, bytes | Trouble]]:
    import zstandard

    # 128 MB is what zstd itself accepts without being asked; a frame that wants more memory is refused.
    factory = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    engine, taken = None, 0
    for piece in source:
        for start in range(0, len(piece), 4096):  # so little that even a bomb gives no more than 128 MB at once
            data = piece[start : start + 4096]
            taken += len(data)
            while data:
                engine = engine or factory.decompressobj()
                try:
                    produced = engine.decompress(data)
                except zstandard.ZstdError as error:
                    yield taken, Trouble(f"its zstd data is broken ({error})")
                    return
                if produced:
                    yield taken, produced
                data = b""
                if engine.eof:
                    data, engine = engine.unused_data, None
    if engine is not None:
        yield taken, Trouble("its zstd data is cut short")


def lines(pieces: Iterable[bytes | Trouble], longest: int) -> Iterator[tuple[int, bytes | Trouble]]:
    """(number from 1, line) of a stream. Only `\\n` ends a line, and it is not part of it.

    A line of more than `longest` bytes, or one that a `Trouble` cut, is a `Trouble`."""
    number, held, size = 1, list[bytes](), 0
    for piece in pieces:
        if isinstance(piece, Trouble):
            yield number, piece
            number, held, size = number + 1, [], 0
            continue
        first, *rest = piece.split(b"\n")
        size += len(first)
        if size <= longest:
            held.append(first)
        else:
            held.clear()  # its length is all that is wanted of it now
        for part in rest:
            yield number, b"".join(held) if size <= longest else too_long(size, longest)
            number, held, size = number + 1, [part], len(part)
    if size:
        yield number, b"".join(held) if size <= longest else too_long(size, longest)


def whole(pieces: Iterable[bytes | Trouble], longest: int) -> bytes | Trouble:
    """All of a stream, or why it can't be had."""
    held, size, trouble = list[bytes](), 0, None
    for piece in pieces:
        if isinstance(piece, Trouble):
            trouble = trouble or piece
            continue
        size += len(piece)
        if size <= longest:
            held.append(piece)
        else:
            held.clear()
    if trouble is not None:
        return trouble
    return b"".join(held) if size <= longest else too_long(size, longest)


def too_long(size: int, longest: int) -> Trouble:
    return Trouble(f"{size} bytes long, and a record may have {longest} (setting max_record_bytes)")


def read_pieces(file: Any, digest: Any) -> Iterator[bytes]:
    """An open file in pieces, each added to `digest`. An error while reading ends it and is raised as OSError."""
    while piece := file.read(PIECE):
        digest.update(piece)
        yield piece

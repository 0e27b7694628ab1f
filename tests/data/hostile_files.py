"""Files that are made to break readers: small ones for the tests, full size for benchmarks/hostile.py."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

SENTENCE = "The quick brown fox, which is known to all, jumps over the lazy dog that lies in the sun. "
PAGE = f"<html><head><title>t</title></head><body><article><p>{SENTENCE * 3}</p></article></body></html>"


def write(path: Path, pieces: Iterator[bytes]) -> None:
    with open(path, "wb") as f:
        for piece in pieces:
            f.write(piece)


def single_line(size: int) -> Iterator[bytes]:
    """JSON lines: a good one, one of `size` bytes, a good one."""
    yield b'{"text": "before"}\n{"text": "'
    for _ in range(size >> 16):
        yield b"long words " * 5957 + b" "
    yield b'"}\n{"text": "after"}\n'


def nested(depth: int, tag: str = "div") -> bytes:
    return (f"<html><body>{f'<{tag}>' * depth}deep{f'</{tag}>' * depth}<p>{SENTENCE * 3}</p></body></html>").encode()


def gzip_bomb(size: int) -> Iterator[bytes]:
    """gzip of `size` bytes without a line feed, made without holding them."""
    engine = zlib.compressobj(9, zlib.DEFLATED, 31)
    for _ in range(size >> 20):
        yield engine.compress(bytes(1 << 20))
    yield engine.flush()


def zstd_bomb(size: int) -> bytes:
    import zstandard

    out = io.BytesIO()
    with zstandard.ZstdCompressor(level=19).stream_writer(out, closefd=False) as writer:
        for _ in range(size >> 20):
            writer.write(b"a" * (1 << 20))
    return out.getvalue()


def warc_record(body: bytes, kind: str = "response", length: int | str | None = None, url: str = "http://a/") -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
        f"Content-Type: application/http; msgtype={kind}\r\n"
    )
    if length != "":
        head += f"Content-Length: {len(body) if length is None else length}\r\n"
    return head.encode() + b"\r\n" + body + b"\r\n\r\n"


def response(page: bytes = PAGE.encode(), headers: str = "Content-Type: text/html") -> bytes:
    return f"HTTP/1.1 200 OK\r\n{headers}\r\n\r\n".encode() + page


def warc_gz(records: list[bytes]) -> bytes:
    return b"".join(gzip.compress(record, mtime=0) for record in records)


def deep_json(depth: int) -> bytes:
    return b'{"text": ' + b"[" * depth + b"]" * depth + b"}\n"


def odd_texts() -> list[str]:
    """NULs, lone surrogates, direction marks, non-characters, combining marks a thousand high, every control code."""
    return [
        "a\0b" * 50, "\ud800 alone \udfff", "\u202eto the left\u202c \u2066iso\u2069late \u200f\u200e",
        "\ufffe\uffff\U0010ffff", "e" + "\u0301" * 1000, "".join(map(chr, range(32))), "\ufeff" * 20,
        "\u2028\u2029\x85",
    ]  # fmt: skip


def odd_lines() -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in odd_texts()).encode()

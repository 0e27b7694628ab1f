"""The container of a GGUF file (llama.cpp's one-file models): read and checked without trusting it, and written.

Layout, little-endian: `GGUF`, version, counts; metadata (key, type, value); tensors (name, sizes with the row length
first, type, offset); data, aligned. Source: ggml/docs/gguf.md. Versions 2 and 3 are the same for these files.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from qwill.base.errors import CheckpointError, ModelError
from qwill.base.files import new_file
from qwill.model.ggml_blocks import (
    BLOCKS,
    NUMBERS,
    TYPE_NAMES,
    Bytes,
    Floats,
    dequantize,
    dequantize_to,
    row_bytes,
)

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
UINT32, INT32, FLOAT32, BOOL = 4, 5, 6, 7
ALIGNMENT = 32
# ggml's own limits; without them a sentence about a name could be as long as the file.
MOST_AXES, MOST_NAME, MOST_KEY = 4, 63, 65535


@dataclass(frozen=True)
class GGUFTensor:
    """Type, shape with rows first (as in NumPy), and the bytes' place in the file."""

    kind: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class GGUFFile:
    """Metadata values are int, float, bool, str, list of str, or a NumPy array; `data` is the whole file, mapped."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]
    data: Bytes

    def weights(self, name: str) -> Floats:
        """A tensor as float32."""
        t = self.tensors[name]
        return dequantize(self.data[t.start : t.end], t.kind).reshape(t.shape)

    def copy_to(self, name: str, out: Tensor) -> None:
        """Fill `out`, of the tensor's shape, with a tensor's weights: one pass over its bytes, straight to their place.

        Contiguous must be `out` or, where matrices are stacked in it, each of them.
        """
        t = self.tensors[name]
        parts = [out] if out.is_contiguous() else list(out)
        size = (t.end - t.start) // len(parts)
        for i, part in enumerate(parts):
            dequantize_to(self.data[t.start + i * size : t.start + (i + 1) * size], t.kind, part)


def read_gguf(path: str | Path) -> GGUFFile:
    """Map a GGUF file and read everything but the weights.

    Raises CheckpointError with one sentence for a file that is cut off or damaged, ModelError for a type of weights
    that Qwill can't read.
    """
    path = Path(path)
    try:
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            if size < 24:
                raise CheckpointError(f"{path}: cut off or not a GGUF file ({size} bytes); fetch it again.")
            # Private and not read-only, because torch warns of memory that it must not write; nothing writes.
            data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from None
    reader = _Reader(data, path)
    if data[:4] != b"GGUF":
        raise CheckpointError(f"{path}: not a GGUF file (it begins with {data[:4]!r}).")
    reader.at = 4
    if (version := reader.scalar("<I")) not in (2, 3):
        raise CheckpointError(f"{path}: GGUF version {version} (or another byte order); expected version 3.")
    tensor_count, entry_count = reader.scalar("<Q"), reader.scalar("<Q")
    metadata: dict[str, Any] = {}
    for number in range(entry_count):
        reader.within = f"the key of metadata entry {number + 1} of {entry_count}"
        key = reader.string(MOST_KEY)
        reader.within = f"the value of the metadata key {_named(key)}"
        if key in metadata:
            raise CheckpointError(f"{path}: the metadata key {_named(key)} is there twice.")
        metadata[key] = reader.value(key)
    raw = []
    for number in range(tensor_count):
        reader.within = f"the description of tensor {number + 1} of {tensor_count}"
        raw.append(_read_entry(reader))
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise CheckpointError(f"{path}: general.alignment is {alignment!r}; expected a power of two.")
    first = -(-reader.at // alignment) * alignment
    tensors: dict[str, GGUFTensor] = {}
    for name, shape, kind, offset in raw:
        if name in tensors:
            raise CheckpointError(f"{path}: tensor {name!r} is there twice.")
        tensors[name] = _placed(path, name, shape, kind, offset, first, alignment, size)
    ordered = sorted(tensors.items(), key=lambda item: item[1].start)
    for (a, one), (b, two) in pairwise(ordered):
        if two.start < one.end:
            raise CheckpointError(f"{path}: tensors {a!r} and {b!r} overlap in the file.")
    return GGUFFile(path, metadata, tensors, np.frombuffer(data, np.uint8))


def _read_entry(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name, axes = reader.string(MOST_NAME), reader.scalar("<I")
    if not 1 <= axes <= MOST_AXES:
        raise CheckpointError(f"{reader.path}: tensor {name!r} claims {axes} axes; expected 1 to {MOST_AXES}.")
    sizes = [reader.scalar("<Q") for _ in range(axes)]
    return name, tuple(reversed(sizes)), reader.scalar("<I"), reader.scalar("<Q")


def _placed(
    path: Path, name: str, shape: tuple[int, ...], kind: int, offset: int, first: int, alignment: int, size: int
) -> GGUFTensor:
    label = TYPE_NAMES.get(kind, str(kind))
    if label not in BLOCKS:
        raise ModelError(f"{path}: tensor {name!r} is of type {label}, which Qwill can't read; it reads {_known()}.")
    block = BLOCKS[label]
    if min(shape) < 1 or shape[-1] % block.weights or offset % alignment:
        raise CheckpointError(
            f"{path}: tensor {name!r} claims {label} {list(shape)} at offset {offset}, which makes no sense."
        )
    start = first + offset
    end = start + math.prod(shape) // block.weights * block.bytes
    if end > size:
        raise CheckpointError(f"{path}: cut off within tensor {name!r}; fetch or copy the file again.")
    return GGUFTensor(label, shape, start, end)


def _known() -> str:
    return ", ".join(BLOCKS)


def _named(key: str) -> str:
    return repr(key) if len(key) <= MOST_NAME else f"{key[:MOST_NAME]!r}…"


class _Reader:
    """A position in the file that never leaves it."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at, self.within = data, path, 0, "the header"

    def take(self, count: int) -> int:
        """Step over `count` bytes, which must be there; where they begin."""
        begin = self.at
        if count > len(self.data) - begin:
            raise CheckpointError(
                f"{self.path}: cut off or damaged in {self.within} (at byte {begin} the next part would be {count} "
                f"bytes, the file has {len(self.data) - begin} left); fetch or copy it again."
            )
        self.at = begin + count
        return begin

    def scalar(self, form: str) -> Any:
        return struct.unpack_from(form, self.data, self.take(struct.calcsize(form)))[0]

    def string(self, most: int | None = None) -> str:
        length = self.scalar("<Q")
        begin = self.take(length)
        if most is not None and length > most:
            raise CheckpointError(
                f"{self.path}: {self.within} has a name of {length} bytes; expected at most {most}: the file is "
                "damaged, fetch it again."
            )
        return self._decoded(self.data[begin : begin + length], begin)

    def _decoded(self, text: bytes, begin: int) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise CheckpointError(
                f"{self.path}: the text at byte {begin}, in {self.within}, is not UTF-8; fetch the file again."
            ) from None

    def strings(self, count: int) -> list[str]:
        """`count` strings; a vocabulary has some hundred thousand, so this is `string` with its calls unrolled."""
        data, size, at, unpack = self.data, len(self.data), self.at, struct.Struct("<Q").unpack_from
        out: list[str] = []
        for _ in range(count):
            begin = at + 8
            if begin > size or (end := begin + unpack(data, at)[0]) > size:
                self.at = at
                return [*out, self.string()]  # which says what is wrong
            try:
                out.append(data[begin:end].decode())
            except UnicodeDecodeError:
                self._decoded(data[begin:end], begin)
            at = end
        self.at = at
        return out

    def value(self, key: str) -> Any:
        kind = self.scalar("<I")
        if kind == STRING:
            return self.string()
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind == ARRAY:
            kind, count = self.scalar("<I"), self.scalar("<Q")
            if kind == STRING:
                return self.strings(count)
            if kind in SCALARS:
                kind_of = np.dtype(SCALARS[kind])
                return np.frombuffer(self.data, kind_of, count, self.take(count * kind_of.itemsize))
            if kind == ARRAY:
                raise CheckpointError(f"{self.path}: the metadata key {_named(key)} is an array of arrays.")
        raise CheckpointError(f"{self.path}: the metadata key {_named(key)} has a value of unknown type {kind}.")


# -- writing


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    content: Iterable[tuple[str, Bytes]],
) -> int:
    """Write a GGUF file (version 3) under a temporary name, and give it its own once it is whole; returns its size.

    `metadata`: text, bool, int (as uint32), float (as float32), or lists of text or of int (as int32). `tensors`: name
    → (type, shape with rows first). `content`: their bytes in that order, each in as many pieces as it likes, so that
    one piece at a time is in memory.
    """
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        head += _text(key) + _value(value)
    sizes: dict[str, int] = {}
    offset = 0
    for name, (kind, shape) in tensors.items():
        sizes[name] = math.prod(shape[:-1]) * row_bytes(shape[-1], kind)
        head += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", NUMBERS[kind], offset)
        offset += -(-sizes[name] // ALIGNMENT) * ALIGNMENT
    waiting = iter(sizes)
    now, left = "", 0
    with new_file(path) as f:
        f.write(head + bytes(-len(head) % ALIGNMENT))
        for name, piece in content:
            if left == 0:
                now = next(waiting, "")
                left = sizes.get(now, 0)
            assert name == now and 0 < len(piece) <= left, f"{len(piece)} bytes of {name}, expected {left} of {now}"
            f.write(piece.data)
            left -= len(piece)
            if left == 0:
                f.write(bytes(-sizes[name] % ALIGNMENT))
        assert left == 0 and next(waiting, None) is None
        return f.tell()


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if not value or isinstance(value[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_text, value))
    return struct.pack("<IIQ", ARRAY, INT32, len(value)) + np.array(value, "<i4").tobytes()

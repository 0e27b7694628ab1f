"""The container of a GGUF file (llama.cpp's one-file models), read and checked without trusting it.

Layout, little-endian: `GGUF`, version, counts; metadata (key, type, value); tensors (name, sizes with the row length
first, type, offset); data, aligned. Source: ggml/docs/gguf.md. Versions 2 and 3 are the same for these files.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qwill.base.errors import CheckpointError, ModelError
from qwill.model.ggml_blocks import BLOCKS, TYPE_NAMES, Bytes, Floats, dequantize

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
MOST_AXES = 4


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
            data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
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
    for _ in range(entry_count):
        key = reader.string()
        if key in metadata:
            raise CheckpointError(f"{path}: the metadata key {key!r} is there twice.")
        metadata[key] = reader.value(key)
    raw = [_read_entry(reader) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
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
    name, axes = reader.string(), reader.scalar("<I")
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


class _Reader:
    """A position in the file that never leaves it."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def take(self, count: int) -> int:
        """Step over `count` bytes, which must be there; where they begin."""
        begin = self.at
        if count > len(self.data) - begin:
            raise CheckpointError(
                f"{self.path}: cut off or damaged at byte {begin} (the next part would be {count} bytes, the file has "
                f"{len(self.data) - begin} left); fetch or copy it again."
            )
        self.at = begin + count
        return begin

    def scalar(self, form: str) -> Any:
        return struct.unpack_from(form, self.data, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        length = self.scalar("<Q")
        begin = self.take(length)
        try:
            return self.data[begin : begin + length].decode()
        except UnicodeDecodeError:
            raise CheckpointError(
                f"{self.path}: the text at byte {begin} is not UTF-8; fetch the file again."
            ) from None

    def value(self, key: str) -> Any:
        kind = self.scalar("<I")
        if kind == STRING:
            return self.string()
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind == ARRAY:
            kind, count = self.scalar("<I"), self.scalar("<Q")
            if kind == STRING:
                return [self.string() for _ in range(count)]
            if kind in SCALARS:
                kind_of = np.dtype(SCALARS[kind])
                return np.frombuffer(self.data, kind_of, count, self.take(count * kind_of.itemsize))
        raise CheckpointError(f"{self.path}: the metadata key {key!r} has a value of unknown type {kind}.")

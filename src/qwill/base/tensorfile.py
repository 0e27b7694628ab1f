"""The header of a safetensors file, read and checked without trusting it, and digests of the tensors behind it."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwill.base.errors import CheckpointError

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
CHUNK = 1 << 22
MAX_HEADER = 100_000_000  # the format's own limit; without it random bytes could have gigabytes parsed


@dataclass(frozen=True)
class TensorEntry:
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Name → type, shape and place in the file. Raises CheckpointError with one sentence for anything out of order."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                raise CheckpointError(
                    f"{path}: cut off or not a safetensors file (its header would be {length} bytes, the file has "
                    f"{size}); copy or make it again."
                )
            header = json.loads(f.read(length).decode(), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: not a safetensors file (its header is not JSON); make it again.") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: not a safetensors file (its header is not a mapping).")
    entries: dict[str, TensorEntry] = {}
    for name, raw in header.items():
        if name == "__metadata__":
            continue
        try:
            name.encode()  # half of a surrogate pair is JSON, but no name that anything could write down again
            dtype, shape, (start, end) = raw["dtype"], _sizes(raw["shape"]), _sizes(raw["data_offsets"])
            expected = math.prod(shape) * ITEM_BYTES[dtype]
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{path}: the header's entry for tensor {name!r} makes no sense.") from None
        if end - start != expected:
            raise CheckpointError(f"{path}: tensor {name!r} claims {dtype} {list(shape)} in {end - start} bytes.")
        if 8 + length + end > size:
            raise CheckpointError(f"{path}: cut off within tensor {name!r}; copy or make it again.")
        entries[name] = TensorEntry(dtype, shape, 8 + length + start, 8 + length + end)
    at, before = 8 + length, "the header"
    for name, e in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if e.start < at:
            raise CheckpointError(f"{path}: tensor {name!r} overlaps {before} in the file.")
        if e.start > at:
            break
        at, before = e.end, f"tensor {name!r}"
    # Bytes of no tensor would be content that no digest sees.
    if at != size:
        raise CheckpointError(f"{path}: holds bytes after {before} that belong to no tensor; copy or make it again.")
    return entries


def _sizes(value: Any) -> tuple[int, ...]:
    # The bound keeps products of absurd sizes short enough to be shown.
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 2**63 for n in value) or len(value) > 64:
        raise ValueError
    return tuple(value)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Readers differ in which of two entries of one name they take.
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError
    return found


def tensor_digests(path: Path) -> dict[str, dict[str, object]]:
    """Name → {dtype, shape, bytes, sha256} of the tensor's own bytes, the same however a model is sharded."""
    entries = read_header(path)
    out: dict[str, dict[str, object]] = {}
    with open(path, "rb") as f:
        view = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        for name, e in entries.items():
            digest = hashlib.sha256()
            for at in range(e.start, e.end, CHUNK):
                digest.update(view[at : min(at + CHUNK, e.end)])
            out[name] = {
                "dtype": e.dtype, "shape": list(e.shape), "bytes": e.end - e.start, "sha256": digest.hexdigest(),
            }  # fmt: skip
        view.close()
    return out

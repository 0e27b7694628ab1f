"""The tensors in a model folder's safetensors files, read one at a time: from mapped files, or straight to their place.

Weights quantised in `compressed-tensors` form (`int-quantized`: a byte each; `pack-quantized`: 8 or 4 bits in int32
words; one scale for each row or group of a row) come as `Codes`, or as the floats that they stand for.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qwill.base.errors import CheckpointError, DataError
from qwill.base.files import read_json
from qwill.base.tensorfile import CHUNK, TensorEntry, read_header
from qwill.model.packed import Codes, Kind, unpack

PIECE, AHEAD, READERS = 1 << 23, 1 << 26, 4  # bytes a reader takes at a time, and asks the system for beforehand
INDEX = "model.safetensors.index.json"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SCALE, ZERO, PACKED, SHAPE = "_scale", "_zero_point", "_packed", "_shape"


class StoredTensors:
    """Tensors by name; `with` closes the files. Raises CheckpointError, naming file and tensor, for all that is wrong.

    `names` are those of the weights: a quantised weight's scale belongs to it and has no name of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, tuple[Path, TensorEntry]] = {}
        for path in weight_paths(folder):
            for name, entry in read_header(path).items():
                if name in self.entries:
                    raise CheckpointError(f"{path}: tensor {name} is also in {self.entries[name][0].name}.")
                self.entries[name] = (path, entry)
        # What config.json says of quantised weights: their bits, and columns to a scale where it is not one a row.
        self.widths, self.group_sizes = frozenset({8}), frozenset[int]()
        self._open: dict[Path, Any] = {}
        self._files: dict[Path, int] = {}
        self._lock = Lock()
        self.names = set(self.entries)
        for name in self.entries:
            weight = name.removesuffix(PACKED)
            if name != weight:
                self.names -= {name, weight + SHAPE, weight + SCALE, weight + ZERO}
                self.names.add(weight)
            elif self.entries[name][1].dtype == "I8":
                self.names -= {weight + SCALE, weight + ZERO}

    def __enter__(self) -> StoredTensors:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.clear()
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """That a float tensor of this name and shape, or one that stands for it, is there; reads headers only."""
        if name not in self.names:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing; it should have shape {list(shape)}.")
        bits = self.bits(name, shape)
        if bits is None:
            self._same_shape(name, shape, FLOATS)
            return
        if name + PACKED in self.entries:
            self._same_shape(name + PACKED, (*shape[:-1], -(-shape[-1] * bits // 32)), ("I32",))
            self._same_shape(name + SHAPE, (2,), ("I64", "I32"))
        else:
            self._same_shape(name, shape, ("I8",))
        if name + SCALE not in self.entries:
            raise CheckpointError(f"{self.folder}: tensor {name} is quantised, but {name}{SCALE} is missing.")
        path, scale = self.entries[name + SCALE]
        rows, columns = shape if len(shape) == 2 else (0, 0)
        grouped = {(rows, columns // size) for size in self.group_sizes if columns % size == 0}
        allowed = {(rows, 1), (rows,), (1,), (), (1, 1)} | grouped
        if len(shape) != 2 or scale.dtype not in FLOATS or scale.shape not in allowed:
            sizes = " or ".join(map(str, sorted(self.group_sizes)))
            groups = f", or for {sizes} columns of one" * bool(sizes)
            raise CheckpointError(
                f"{path}: tensor {name}{SCALE} is {scale.dtype} {list(scale.shape)}; expected one float for each of "
                f"the {shape[0]} rows of {name}{groups}."
            )
        if name + ZERO in self.entries:
            count = scale.shape[1] if len(scale.shape) == 2 else 1
            if name + PACKED in self.entries:
                self._same_shape(name + ZERO, (-(-rows * bits // 32), count), ("I32",))
            else:
                self._same_shape(name + ZERO, (rows, count), ("I8",))

    def bits(self, name: str, shape: tuple[int, ...]) -> int | None:
        """8 or 4 for a quantised tensor, None for one of floats."""
        if name + PACKED not in self.entries:
            return 8 if self.entries[name][1].dtype == "I8" else None
        if len(self.widths) > 1:
            # A folder may have both; the packed width tells them apart.
            return 4 if self.entries[name + PACKED][1].shape[-1:] == (-(-shape[-1] // 8),) else 8
        return next(iter(self.widths))

    def kind(self, name: str, shape: tuple[int, ...]) -> Kind | None:
        """How a tensor that `check` found in order is quantised; None for one of floats."""
        if (bits := self.bits(name, shape)) is None:
            return None
        scale = self.entries[name + SCALE][1]
        groups = scale.shape[1] if len(scale.shape) == 2 else 1
        return Kind(bits, groups, FLOATS[scale.dtype], name + ZERO in self.entries)

    def _same_shape(self, name: str, shape: tuple[int, ...], dtypes: Collection[str]) -> None:
        if name not in self.entries:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing.")
        path, entry = self.entries[name]
        if entry.shape != shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {list(entry.shape)}, but config.json means {list(shape)}."
            )
        if entry.dtype not in dtypes:
            raise CheckpointError(f"{path}: tensor {name} is of type {entry.dtype}; expected {' or '.join(dtypes)}.")

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor, which `check` found in order: as it is stored, or float32 where it was quantised."""
        return self._raw(name) if self.bits(name, shape) is None else self.codes(name, shape).dense()

    def codes(self, name: str, shape: tuple[int, ...]) -> Codes:
        """A quantised tensor, which `check` found in order."""
        rows, columns = shape
        bits, zero = self.bits(name, shape) or 8, None
        if name + PACKED in self.entries:
            if (said := self._raw(name + SHAPE).tolist()) != list(shape):
                path = self.entries[name + SHAPE][0]
                raise CheckpointError(f"{path}: tensor {name}{SHAPE} holds {said}; expected {list(shape)}.")
            values = unpack(self._raw(name + PACKED), bits, columns)
            if name + ZERO in self.entries:
                zero = unpack(self._raw(name + ZERO).T, bits, rows).T.contiguous()  # packed along the rows
        else:
            values = self._raw(name)
            zero = self._raw(name + ZERO) if name + ZERO in self.entries else None
        scale = self._raw(name + SCALE)
        scale = scale.expand(rows, 1) if scale.numel() == 1 else scale.reshape(rows, -1)
        return Codes.of(values, scale, bits, zero)

    def _raw(self, name: str) -> Tensor:
        path = self.entries[name][0]
        try:
            if path not in self._open:
                self._open[path] = safe_open(path, framework="pt")
            tensor: Tensor = self._open[path].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); copy or make it again.") from None
        return tensor

    def fill(self, wanted: Iterable[tuple[str, Tensor]]) -> None:
        """Fill each tensor, of a shape that `check` found in order, with what is stored under its name.

        Where it is stored as the tensor holds it, the file is read straight into that memory and nothing else is taken:
        each byte is touched once. (Mapping it would cost a fault for every page of the file besides.) Several threads
        read, in the order of the file: one alone waits for the disk and for fresh memory in turns.
        """
        pieces: list[tuple[Path, int, memoryview, str]] = []
        for name, out in wanted:
            path, entry = self.entries.get(name) or self.entries[name + PACKED]
            straight = out.is_contiguous() and out.device.type == "cpu" and FLOATS.get(entry.dtype) == out.dtype
            if not straight or not out.numel():
                out.copy_(self.read(name, tuple(out.shape)))
                continue
            # As bytes through NumPy, which knows no bfloat16.
            memory = out.reshape(-1).view(torch.uint8).numpy().data
            pieces += [(path, entry.start + i, memory[i : i + PIECE], name) for i in range(0, len(memory), PIECE)]
        pieces.sort(key=lambda piece: piece[:2])
        with ThreadPoolExecutor(READERS) as pool:
            for _ in pool.map(self._read_piece, pieces):
                pass

    def _read_piece(self, piece: tuple[Path, int, memoryview, str]) -> None:
        path, start, memory, name = piece
        try:
            with self._lock:
                if path not in self._files:
                    self._files[path] = os.open(path, os.O_RDONLY)
            file, at = self._files[path], 0
            os.posix_fadvise(file, start + len(memory), AHEAD, os.POSIX_FADV_WILLNEED)
            while at < len(memory):
                count = os.preadv(file, [memory[at:]], start + at)
                if count == 0:
                    raise CheckpointError(f"{path}: cut off within tensor {name!r}; copy or make it again.")
                at += count
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}); copy or make it again.") from None

    def same_bytes(self, one: str, two: str) -> bool:
        """Whether two tensors are equal in type, shape and every byte."""
        if one not in self.entries or two not in self.entries:
            return False
        (path, a), (other_path, b) = self.entries[one], self.entries[two]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        with open(path, "rb") as f, open(other_path, "rb") as g:
            left = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
            right = mmap.mmap(g.fileno(), 0, access=mmap.ACCESS_READ)
            starts = range(a.start, a.end, CHUNK)
            ends = [min(i + CHUNK, a.end) for i in starts]
            shift = b.start - a.start
            return all(left[i:j] == right[i + shift : j + shift] for i, j in zip(starts, ends, strict=True))


def weight_paths(folder: Path) -> list[Path]:
    """The safetensors files of a folder: model.safetensors, else what the index names, else all there are."""
    if (single := folder / "model.safetensors").is_file():
        return [single]
    index = folder / INDEX
    if not index.is_file():
        if not (paths := sorted(folder.glob("*.safetensors"))):
            raise CheckpointError(f"{folder}: holds no *.safetensors; expected model.safetensors or its shards.")
        return paths
    try:
        content = read_json(index)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    where = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(where, Mapping) or not where or not all(isinstance(n, str) for n in where.values()):
        raise CheckpointError(f"{index}: holds no weight_map of tensor names to file names; copy the folder again.")
    for name in sorted(set(where.values())):
        # os.path and not Path: what is too long for a name, or no name at all, is simply not there.
        if os.path.basename(name) != name or not os.path.isfile(os.path.join(folder, name)):
            shown = name if len(name) < 100 and name.isprintable() else ascii(name)[:100]
            raise CheckpointError(f"{folder}: {shown} is missing, but {INDEX} names it; copy the whole folder again.")
    return [folder / name for name in sorted(set(where.values()))]

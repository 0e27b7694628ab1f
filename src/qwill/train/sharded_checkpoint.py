"""Checkpoints of a run on many ranks: every rank writes its shards, any mesh reads them.

    checkpoint-00000012/rank-00000.safetensors …  blocks of tensors; metadata: key → [tensor, first index, whole shape]
    checkpoint-00000012/index.json                step, history, files and sizes; without it there is no checkpoint

The names are those of a checkpoint of one process (checkpoint.py), and each reads the other's. PyTorch's own format
(torch.distributed.checkpoint) keeps its index as a pickle, which nothing here ever loads.
Tensors are copied at the end of a step; a thread writes, flushes and renames them while training goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from qwill.base.errors import CheckpointError, DataError
from qwill.base.files import read_json, sync_folder, write_json
from qwill.base.tensorfile import read_header
from qwill.train.shards import Box, Ranges, boxes, shape_of

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from qwill.train.parallel import Parallel, Shard

INDEX = "index.json"
KEPT = 2


@dataclass(frozen=True)
class Block:
    """A block of a tensor in a file: its key there, first index in the whole, and shape."""

    file: Path
    key: str
    at: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass
class Saved:
    """A checkpoint on disk, read block by block. `blocks` by tensor name; `whole` are the tensors' shapes."""

    step: int
    extra: dict[str, Any]
    whole: dict[str, tuple[int, ...]]
    blocks: dict[str, list[Block]]
    _files: dict[Path, Any] = field(default_factory=dict)

    def read(self, name: str, ranges: Ranges) -> Tensor:
        """The part of a tensor that `ranges` name; no other bytes are touched."""
        out: Tensor | None = None
        for block in self.blocks[name]:
            for box in boxes(ranges):
                common = _common(block, box)
                if common is None:
                    continue
                first, last = common
                if block.file not in self._files:
                    self._files[block.file] = safe_open(block.file, framework="pt")
                f = self._files[block.file]
                inside = tuple(slice(a - at, b - at) for a, b, at in zip(first, last, block.at, strict=True))
                piece = f.get_slice(block.key)[inside] if inside else f.get_tensor(block.key)
                if out is None:
                    out = piece.new_empty(shape_of(ranges))
                place = zip(first, last, box.at, box.local, strict=True)
                out[tuple(slice(s.start + a - at, s.start + b - at) for a, b, at, s in place)] = piece
        return torch.empty(shape_of(ranges)) if out is None else out

    def read_whole(self, name: str) -> Tensor:
        return self.read(name, tuple(((0, n),) for n in self.whole[name]))


def _common(block: Block, box: Box) -> tuple[list[int], list[int]] | None:
    """First and last + 1 index of what a stored block and a wanted one have in common."""
    first = [max(a, b) for a, b in zip(block.at, box.at, strict=True)]
    ends = zip(block.at, block.shape, box.at, box.shape, strict=True)
    last = [min(a + n, b + m) for a, n, b, m in ends]
    return (first, last) if all(a < b for a, b in zip(first, last, strict=True)) else None


def found(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, of one process (files) or many (folders with an index), newest first."""
    there = [*folder.glob("checkpoint-*.safetensors"), *(i.parent for i in folder.glob(f"checkpoint-*/{INDEX}"))]
    return sorted(there, key=lambda p: p.stem, reverse=True)


def open_checkpoint(path: Path) -> Saved:
    """Read what a checkpoint holds, and check that its blocks make up whole tensors. Raises CheckpointError."""
    if path.is_file():
        step, extra, _ = _facts(_metadata(path), path)
        shapes = {name: e.shape for name, e in read_header(path).items()}
        blocks = {name: [Block(path, name, (0,) * len(shape), shape)] for name, shape in shapes.items()}
        return Saved(step, extra, shapes, blocks)
    try:
        step, extra, files = _facts(read_json(path / INDEX), path)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    saved = Saved(step, extra, {}, {})
    for name, size in files.items():
        file = path / Path(name).name
        if not file.is_file() or file.stat().st_size != size:
            raise CheckpointError(f"{file}: expected a file of {size} bytes")
        entries, said = read_header(file), _metadata(file).get("blocks", "{}")
        try:
            raw = json.loads(said).items()
            described = {k: (str(n), tuple(map(int, at)), tuple(map(int, w))) for k, (n, at, w) in raw}
        except (ValueError, TypeError, AttributeError):
            raise CheckpointError(f"{file}: does not say which blocks it holds") from None
        if described.keys() != entries.keys():
            raise CheckpointError(f"{file}: its blocks are not those that it describes")
        for key, (tensor, at, whole) in described.items():
            if saved.whole.setdefault(tensor, whole) != whole or len(at) != len(whole):
                raise CheckpointError(f"{file}: tensor {tensor} has two shapes")
            saved.blocks.setdefault(tensor, []).append(Block(file, key, at, entries[key].shape))
    if not saved.blocks:
        raise CheckpointError(f"{path}: holds no tensor")
    for tensor, parts in saved.blocks.items():
        _check_cover(path, tensor, saved.whole[tensor], parts)
    return saved


def _facts(said: Any, path: Path) -> tuple[int, dict[str, Any], dict[str, int]]:
    try:
        extra = json.loads(said["extra"]) if isinstance(said["extra"], str) else dict(said["extra"])
        return int(said["step"]), extra, {str(k): int(v) for k, v in dict(said.get("files", {})).items()}
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: it was not written by a training run") from None


def _metadata(path: Path) -> dict[str, str]:
    read_header(path)
    with safe_open(path, framework="pt") as f:
        return f.metadata() or {}


def _check_cover(path: Path, tensor: str, whole: tuple[int, ...], parts: list[Block]) -> None:
    """Raise CheckpointError unless the blocks fill the tensor, each index once."""
    inside = all(
        len(b.shape) == len(whole) and all(0 <= a <= a + n <= w for a, n, w in zip(b.at, b.shape, whole, strict=True))
        for b in parts
    )
    overlap, active = False, list[Block]()
    for b in sorted(parts, key=lambda b: b.at) if inside and whole else ():
        active = [a for a in active if a.at[0] + a.shape[0] > b.at[0]]
        overlap = overlap or any(_common(a, Box(b.at, b.shape, ())) for a in active)
        active.append(b)
    if overlap or not inside:
        raise CheckpointError(f"{path}: blocks of tensor {tensor} overlap or lie outside it")
    if sum(prod(b.shape) for b in parts) != prod(whole):
        raise CheckpointError(f"{path}: parts of tensor {tensor} are missing")


class ShardedCheckpoints:
    """Saves and loads one run's state. Every rank calls every method, with a folder that all of them see."""

    def __init__(self, folder: Path, parallel: Parallel, optimizers: list[torch.optim.Optimizer], store: Store) -> None:
        self.folder, self.parallel, self.optimizers, self.store = folder, parallel, optimizers, store
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, extra: Mapping[str, object]) -> None:
        """Copy the state now and write it in the background; waits only for an earlier save that is not done yet."""
        self.finish()
        tensors: dict[str, Tensor] = {}
        blocks: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {}
        for name, value, shard in self._state():
            # One rank of those that hold the same writes it.
            if any(at for axis, at in self.parallel.mesh.at.items() if axis not in (shard.axes if value.ndim else ())):
                continue
            ranges = shard.ranges(self.parallel.mesh) if value.ndim else ()
            whole = shard.whole if value.ndim else ()
            for i, box in enumerate(boxes(ranges)):
                key = f"{name}#{i}"
                tensors[key] = value[box.local].detach().to("cpu", copy=True).contiguous()
                blocks[key] = (name, box.at, whole)
        said = json.dumps({"step": step, "extra": dict(extra)})
        arguments = (step, said, tensors, json.dumps(blocks))
        self._thread = threading.Thread(target=self._write, args=arguments, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until the last save is on disk. Raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, step: int, said: str, tensors: dict[str, Tensor], blocks: str) -> None:
        try:
            target = self.folder / f"checkpoint-{step:08d}"
            target.mkdir(parents=True, exist_ok=True)
            path = target / f"rank-{self.rank:05d}.safetensors"
            temporary = path.with_suffix(".tmp")
            save_file(tensors, temporary, metadata={"blocks": blocks})
            with open(temporary, "rb") as f:
                os.fsync(f.fileno())
            os.replace(temporary, path)
            sync_folder(target)
            self.store.set(f"written/{target}/{self.rank}", str(path.stat().st_size))
            if self.rank == 0:
                self._commit(target, step, said)
        except BaseException as error:
            self._error = error

    def _commit(self, target: Path, step: int, said: str) -> None:
        keys = [f"written/{target}/{rank}" for rank in range(self.world)]
        while not self.store.check(keys):
            time.sleep(0.02)
        files = {f"rank-{rank:05d}.safetensors": int(self.store.get(key)) for rank, key in enumerate(keys)}
        write_json(target / INDEX, json.loads(said) | {"files": files, "mesh": dict(self.parallel.mesh.sizes)})
        sync_folder(self.folder)
        for old in found(self.folder)[KEPT:]:
            _remove(old)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """Restore the newest checkpoint that can be read and fits; (step, extra), or None when there is none.

        Raises CheckpointError when there are some and none can be used, or when ranks find different ones.
        """
        if self.rank == 0:  # what a killed run has left unfinished
            for folder in self.folder.glob("checkpoint-*/"):
                if folder.is_dir() and not (folder / INDEX).is_file():
                    _remove(folder)
        dist.barrier()
        problem, saved = "", None
        for path in found(self.folder):
            try:
                saved = open_checkpoint(path)
                self._check(saved)
                break
            except (CheckpointError, OSError, ValueError) as error:
                problem, saved = problem or f"{path}: cannot be used ({error})", None
        steps = torch.zeros(self.world, dtype=torch.int64)
        steps[self.rank] = -1 if saved is None else saved.step
        dist.all_reduce(steps)
        if len(set(steps.tolist())) > 1:
            raise CheckpointError(
                f"{self.folder}: ranks find different checkpoints (steps {sorted(set(steps.tolist()))}); it must be "
                "one folder that all hosts share."
            )
        if saved is None:
            if problem:
                raise CheckpointError(f"{problem}; delete {self.folder} to train this stage again.")
            return None
        self._restore(saved)
        return saved.step, saved.extra

    def _trained(self) -> list[Shard]:
        """What training changes: under an adapter the rest of the model stays as its folder has it."""
        return [s for s in self.parallel.shards if s.local.requires_grad]

    def _state(self) -> list[tuple[str, Tensor, Shard]]:
        """Everything that must survive, by name: this rank's value and which part of the whole it is."""
        by_local = {s.local: s for s in self.parallel.shards}
        out = [(f"model.{s.name}", s.local.detach(), s) for s in self._trained()]
        for i, optimizer in enumerate(self.optimizers):
            for p in (p for group in optimizer.param_groups for p in group["params"]):
                for key, value in optimizer.state.get(p, {}).items():
                    out.append((f"optimizer{i}.{by_local[p].name}.{key}", torch.as_tensor(value), by_local[p]))
        return out

    def _wanted(self, saved: Saved) -> dict[str, tuple[Any, str, Shard]]:
        """Name → (optimiser or None, kind of state, shard) of all that a checkpoint of this run must hold."""
        by_local = {s.local: s for s in self.parallel.shards}
        out: dict[str, tuple[Any, str, Shard]] = {f"model.{s.name}": (None, "", s) for s in self._trained()}
        for i, optimizer in enumerate(self.optimizers):
            kinds = {name.rsplit(".", 1)[1] for name in saved.whole if name.startswith(f"optimizer{i}.")}
            for p in (p for group in optimizer.param_groups for p in group["params"]):
                shard = by_local[p]
                out |= {f"optimizer{i}.{shard.name}.{kind}": (optimizer, kind, shard) for kind in kinds}
        return out

    def _check(self, saved: Saved) -> None:
        wanted = self._wanted(saved)
        for name, (_, kind, shard) in sorted(wanted.items()):
            shape = () if kind == "step" else shard.whole
            if name not in saved.whole:
                raise CheckpointError(f"tensor {name} is missing")
            if saved.whole[name] != shape:
                raise CheckpointError(f"tensor {name} has shape {list(saved.whole[name])}, expected {list(shape)}")
        if unknown := saved.whole.keys() - wanted.keys():
            raise CheckpointError(f"tensor {min(unknown)} is of another model or optimiser")

    @torch.no_grad()
    def _restore(self, saved: Saved) -> None:
        for name, (optimizer, kind, shard) in self._wanted(saved).items():
            value = saved.read(name, () if kind == "step" else shard.ranges(self.parallel.mesh))
            if optimizer is None:
                shard.local.copy_(value)
            else:
                own = value if kind == "step" else value.to(shard.local.device, shard.local.dtype)
                optimizer.state[shard.local][kind] = own


def _remove(path: Path) -> None:
    """Out of the way at once: a folder half removed must not look like a checkpoint."""
    if path.is_file():
        path.unlink()
        return
    (path / INDEX).unlink(missing_ok=True)
    shutil.rmtree(path)

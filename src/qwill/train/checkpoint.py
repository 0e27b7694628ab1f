"""Training state on disk: model, optimisers, step; safetensors, written whole or not at all; the newest two are kept.

Nothing is pickled. What a loader or random stream needs is derived from the seed and the step, so it is not stored.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from qwill.base.errors import CheckpointError
from qwill.base.files import sync_folder
from qwill.train.replicas import ALONE, Replicas
from qwill.train.sharded_checkpoint import found, open_checkpoint


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """What training changes: under an adapter the rest of the model stays as its folder has it."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _tensors(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Views of everything that must survive, by name; optimiser state under its parameter's name."""
    named = _trained(model)
    names = {id(p): n for n, p in named.items()}
    out = {f"model.{n}": p.data for n, p in named.items()}
    for i, optimizer in enumerate(optimizers):
        for group in optimizer.param_groups:
            for p in group["params"]:
                for key, value in optimizer.state.get(p, {}).items():
                    out[f"optimizer{i}.{names[id(p)]}.{key}"] = torch.as_tensor(value)
    return out


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer], extra: dict[str, object]
) -> None:
    """Write `checkpoint-<step>.safetensors` (temporary name, fsync, rename); older ones but one are removed.

    Half a file, of this attempt or of a killed one, does not stay: on a full disk it would stand in the way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for half in folder.glob("checkpoint-*.tmp"):
        half.unlink()
    target = folder / f"checkpoint-{step:08d}.safetensors"
    temporary = target.with_suffix(".tmp")
    tensors = {k: v.contiguous() for k, v in _tensors(model, optimizers).items()}
    try:
        save_file(tensors, temporary, metadata={"step": str(step), "extra": json.dumps(extra)})
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(folder)
    for old in sorted(folder.glob("checkpoint-*.safetensors"))[:-2]:
        old.unlink()


def load_checkpoint(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, dict[str, object]] | None:
    """Restore the newest checkpoint that can be read and fits; (step, extra), or None when there is none.

    Raises CheckpointError when files are there and none can be used; model and optimisers are then as they were.
    """
    problem = ""
    for path in found(folder):
        try:
            step, extra, saved = _read(path)
            _check(saved, model, optimizers)
        except Exception as error:
            problem = problem or f"{path}: cannot be used ({error})"
            continue
        _restore(saved, model, optimizers)
        return step, extra
    if problem:
        raise CheckpointError(f"{problem}; delete {folder} to train this stage again.")
    return None


def _read(path: Path) -> tuple[int, dict[str, object], dict[str, Tensor]]:
    if path.is_dir():  # of a run on many ranks
        parts = open_checkpoint(path)
        return parts.step, parts.extra, {name: parts.read_whole(name) for name in parts.whole}
    with safe_open(path, framework="pt") as f:
        metadata = f.metadata() or {}
        saved = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    if not metadata.keys() >= {"step", "extra"}:
        raise CheckpointError("it was not written by a training run")
    return int(metadata["step"]), json.loads(metadata["extra"]), saved


def _check(saved: dict[str, Tensor], model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Raise CheckpointError for a tensor that is missing, of another shape, or of something else than these."""
    shapes = {f"model.{name}": p.shape for name, p in _trained(model).items()}
    names = {id(p): name for name, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        # Before its first step an optimiser has no state; afterwards every parameter has the same kinds of it.
        kinds = {key.rsplit(".", 1)[1] for key in saved if key.startswith(f"optimizer{i}.")}
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            for kind in kinds:
                shape = torch.Size() if kind == "step" else p.shape
                shapes[f"optimizer{i}.{names[id(p)]}.{kind}"] = shape
    for name, shape in sorted(shapes.items()):
        if name not in saved:
            raise CheckpointError(f"tensor {name} is missing")
        if saved[name].shape != shape:
            raise CheckpointError(f"tensor {name} has shape {list(saved[name].shape)}, expected {list(shape)}")
    if unknown := saved.keys() - shapes.keys():
        raise CheckpointError(f"tensor {min(unknown)} is of another model or optimiser")


def _restore(saved: dict[str, Tensor], model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    with torch.no_grad():
        for name, p in _trained(model).items():
            p.copy_(saved[f"model.{name}"])
    names = {id(p): n for n, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for group in optimizer.param_groups:
            for p in group["params"]:
                prefix = f"optimizer{i}.{names[id(p)]}."
                state = {k[len(prefix) :]: v for k, v in saved.items() if k.startswith(prefix)}
                if state:
                    optimizer.state[p] = state


@dataclass
class Checkpoints:
    """Saves and loads the state of a run whose ranks all hold the whole of it: rank 0 writes, and all read. Where they
    hold shares, ShardedCheckpoints does."""

    folder: Path
    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    replicas: Replicas = ALONE

    def save(self, step: int, extra: dict[str, object]) -> None:
        if self.replicas.rank == 0:
            save_checkpoint(self.folder, step, self.model, self.optimizers, extra)

    def load(self) -> tuple[int, dict[str, object]] | None:
        """As `load_checkpoint`. Raises CheckpointError when ranks find different ones."""
        found = load_checkpoint(self.folder, self.model, self.optimizers)
        steps = set(self.replicas.gather(found[0] if found else 0))
        if len(steps) > 1:
            raise CheckpointError(
                f"{self.folder}: ranks find different checkpoints (steps {sorted(steps)}); it must be one folder that "
                "all hosts share."
            )
        return found

    def finish(self) -> None: ...

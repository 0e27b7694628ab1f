"""Training state on disk: model, optimisers, step; safetensors, written whole or not at all; the newest two are kept.

Nothing is pickled. What a loader or random stream needs is derived from the seed and the step, so it is not stored.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from qwill.base.errors import CheckpointError


def _tensors(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Views of everything that must survive, by name; optimiser state under its parameter's name."""
    named = dict(model.named_parameters())
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
    """Write `checkpoint-<step>.safetensors` (temporary name, fsync, rename); older ones but one are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"checkpoint-{step:08d}.safetensors"
    temporary = target.with_suffix(".tmp")
    tensors = {k: v.contiguous() for k, v in _tensors(model, optimizers).items()}
    save_file(tensors, temporary, metadata={"step": str(step), "extra": json.dumps(extra)})
    with open(temporary, "rb") as f:
        os.fsync(f.fileno())
    os.replace(temporary, target)
    for old in sorted(folder.glob("checkpoint-*.safetensors"))[:-2]:
        old.unlink()


def load_checkpoint(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, dict[str, object]] | None:
    """Restore the newest readable checkpoint; (step, extra), or None when there is none.

    Raises CheckpointError when files are there and none can be read.
    """
    paths = sorted(folder.glob("checkpoint-*.safetensors"), reverse=True)
    problem: Exception | None = None
    for path in paths:
        try:
            with safe_open(path, framework="pt") as f:
                metadata = f.metadata()
                saved = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
        except Exception as error:
            problem = error
            continue
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(saved[f"model.{name}"])
        names = {id(p): n for n, p in model.named_parameters()}
        for i, optimizer in enumerate(optimizers):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    prefix = f"optimizer{i}.{names[id(p)]}."
                    state = {k[len(prefix) :]: v for k, v in saved.items() if k.startswith(prefix)}
                    if state:
                        optimizer.state[p] = state
        return int(metadata["step"]), json.loads(metadata["extra"])
    if problem is not None:
        raise CheckpointError(f"{paths[0]}: cannot be read ({problem}); delete {folder} to train this stage again.")
    return None

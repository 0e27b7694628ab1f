"""Data parallel over whole copies of a model: every rank computes its share of a step, and all make the same update.

What alignment uses. A step is a list of units (pairs, rollouts) with weights made from all of them, so a rank adds the
gradients of its own units and the sums over ranks are those of one process. Every rank knows the whole step: what a
statistic of it needs (a reference point, advantages, rewards) is gathered first. Then all ranks clip and step alike, so
their copies stay equal, and rank 0 writes for all.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from qwill.base.errors import ConfigError
from qwill.train.collectives import sum_in_place
from qwill.train.mesh import AXES, resolve_mesh
from qwill.train.ranks import current
from qwill.train.settings import MeshConfig

Unit = TypeVar("Unit")


@dataclass(frozen=True)
class Replicas:
    """This process's number among those that hold a copy; alone, every method leaves things as they are."""

    rank: int = 0
    count: int = 1

    def deal(self, units: Sequence[Unit], size: Callable[[Unit], int]) -> list[Unit]:
        """This rank's units, in the order given: the largest are dealt first, each to the rank that has least so
        far."""
        if self.count == 1:
            return list(units)
        sizes = [size(unit) for unit in units]
        held, mine = [0] * self.count, []
        for i in sorted(range(len(units)), key=lambda i: -sizes[i]):
            owner = held.index(min(held))
            held[owner] += sizes[i]
            if owner == self.rank:
                mine.append(i)
        return [units[i] for i in sorted(mine)]

    def places(self, number: int) -> range:
        """This rank's places among `number`, taken in turn: of work whose size nobody knows beforehand."""
        return range(self.rank, number, self.count)

    def in_order(self, mine: list[Unit]) -> list[Unit]:
        """What all ranks have made of their `places`, in the order of the places."""
        if self.count == 1:
            return mine
        parts = self.gather(mine)
        return [parts[i % self.count][i // self.count] for i in range(sum(map(len, parts)))]

    def gather(self, said: Any) -> list[Any]:
        """What every rank says (numbers, texts, arrays, lists, mappings of texts), by rank; nothing is unpickled."""
        if self.count == 1:
            return [said]
        own = torch.frombuffer(bytearray(json.dumps(said, default=_encode).encode()), dtype=torch.uint8)
        sizes = torch.zeros(self.count, dtype=torch.int64)
        sizes[self.rank] = len(own)
        dist.all_reduce(sizes)
        longest = int(sizes.max())
        every = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.count)]
        dist.all_gather(every, torch.cat([own, own.new_zeros(longest - len(own))]))
        texts = (data[:size].numpy().tobytes() for data, size in zip(every, sizes.tolist(), strict=True))
        return [json.loads(text, object_hook=_decode) for text in texts]

    def sum(self, numbers: dict[str, float]) -> dict[str, float]:
        """Name by name, over all ranks that have it."""
        out: dict[str, float] = {}
        for own in self.gather(numbers):
            for name, value in own.items():
                out[name] = out.get(name, 0.0) + value
        return out

    def all_sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.count > 1:
            dist.all_reduce(x)
        return x

    def sum_gradients(self, model: nn.Module) -> None:
        """Give every parameter that is trained the gradient of the whole step; a rank without units has zeros."""
        if self.count == 1:
            return
        gradients = []
        for p in model.parameters():
            if p.requires_grad:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                gradients.append(p.grad)
        sum_in_place(gradients, dist.group.WORLD)


ALONE = Replicas()


def replicas_of(mesh: MeshConfig, verb: str) -> Replicas:
    """This process's place among those that `torchrun` started. Raises ConfigError for a mesh that cuts the model, or
    that needs another number of processes."""
    for axis in AXES[1:]:
        if (size := getattr(mesh, axis)) > 1:
            raise ConfigError(
                f"mesh: {axis} is {size}, and `qwill {verb}` works with a whole model on every rank; leave {axis} out "
                "(dp takes all ranks)."
            )
    ranks = current()
    resolve_mesh(mesh, ranks.world if ranks else 1)
    return Replicas(ranks.rank, ranks.world) if ranks else ALONE


def _encode(value: Any) -> dict[str, Any]:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} cannot be sent to other ranks")
    data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    return {"array": data, "dtype": value.dtype.str, "shape": value.shape}


def _decode(said: dict[str, Any]) -> Any:
    if said.keys() != {"array", "dtype", "shape"}:
        return said
    data = np.frombuffer(bytearray(base64.b64decode(said["array"])), dtype=np.dtype(said["dtype"]))
    return data.reshape(said["shape"])

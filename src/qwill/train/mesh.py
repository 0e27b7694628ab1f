"""The mesh: which ranks hold which part of the model and of the batch.

| axis | ranks apart on it hold |
|---|---|
| dp | other sequences, the same parameters |
| fsdp | other sequences, another share of every parameter, gathered layer by layer (FSDP2; ZeRO-3, arXiv 1910.02054) |
| ep | other sequences, other experts; tokens travel to their experts (GShard, arXiv 2006.16668) |
| cp | other tokens of the same sequences; keys and values are gathered (Llama 3, arXiv 2407.21783 §3.3.2) |
| tp | the same tokens, other heads, feed-forward columns and vocabulary rows (Megatron-LM, arXiv 1909.08053) |

Ranks of ep and cp are also more ranks of fsdp: they share the weights that they do not cut themselves. Ranks are
numbered with tp fastest, so that tensor-parallel ranks, which talk most, are neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from qwill.base.errors import ConfigError
from qwill.model.config import ModelConfig
from qwill.train.settings import MeshConfig

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

AXES = ("dp", "fsdp", "ep", "cp", "tp")
DATA = ("dp", "fsdp", "ep")  # ranks apart on these have other sequences
TOKENS = (*DATA, "cp")  # … other tokens


@dataclass
class Mesh:
    """`sizes` of all axes and this process's place `at` on each; process groups are made when first asked for."""

    sizes: Mapping[str, int]
    rank: int
    devices: DeviceMesh | None = None
    _groups: dict[tuple[str, ...], ProcessGroup | None] = field(default_factory=dict)

    @property
    def at(self) -> dict[str, int]:
        return self.place(self.rank)

    def place(self, rank: int) -> dict[str, int]:
        """A rank's coordinate on each axis."""
        out: dict[str, int] = {}
        for axis in reversed(AXES):
            rank, out[axis] = divmod(rank, self.sizes[axis])
        return out

    def size(self, *axes: str) -> int:
        return math.prod(self.sizes[a] for a in axes)

    def index(self, *axes: str) -> int:
        """This rank's number among those that differ from it on `axes` only; the same as its rank in their group."""
        out, at = 0, self.at
        for axis in (a for a in AXES if a in axes):
            out = out * self.sizes[axis] + at[axis]
        return out

    def members(self, *axes: str) -> list[dict[str, int]]:
        """The places of those ranks, in the order of their numbers."""
        wanted = [a for a in AXES if a in axes]
        return [self.at | dict(zip(wanted, c, strict=True)) for c in product(*(range(self.sizes[a]) for a in wanted))]

    def group(self, *axes: str) -> ProcessGroup | None:
        """The process group of those ranks, None where this rank is the only one.

        A new combination makes groups, which every rank must do at the same moment.
        """
        import torch.distributed as dist

        key = tuple(a for a in AXES if a in axes and self.sizes[a] > 1)
        if not key:
            return None
        if key not in self._groups:
            if self.size(*key) == self.size(*AXES):
                self._groups[key] = dist.group.WORLD
            elif len(key) == 1 and self.devices is not None:
                self._groups[key] = self.devices.get_group(key[0])
            else:
                alike: dict[tuple[int, ...], list[int]] = {}
                for rank in range(self.size(*AXES)):
                    place = self.place(rank)
                    alike.setdefault(tuple(place[a] for a in AXES if a not in key), []).append(rank)
                self._groups[key] = dist.new_subgroups_by_enumeration(list(alike.values()))[0]
        return self._groups[key]

    def __str__(self) -> str:
        return " × ".join(f"{a} {n}" for a, n in self.sizes.items() if n > 1) or "one process"


def resolve_mesh(config: MeshConfig, world: int) -> dict[str, int]:
    """Sizes of all axes; a mesh that says nothing is data parallel over all `world` processes.

    Raises ConfigError for a mesh that does not need exactly `world` processes.
    """
    sizes = {axis: int(getattr(config, axis)) for axis in AXES}
    needed = math.prod(sizes.values())
    if needed == 1:
        return sizes | {"dp": world}
    if needed != world:
        said = " × ".join(f"{a} {n}" for a, n in sizes.items() if n > 1)
        how = f"start it with `torchrun --nproc-per-node {needed}`, or change the mesh"
        raise ConfigError(f"mesh: {said} needs {needed} processes, and there {_are(world)}; {how}.")
    return sizes


def _are(world: int) -> str:
    return "is 1" if world == 1 else f"are {world}"


def check_mesh(sizes: Mapping[str, int], model: ModelConfig) -> None:
    """Raise ConfigError with one sentence where the model cannot be cut like this."""
    c, ep = model, sizes["ep"]
    sparse = [i for i in range(c.num_hidden_layers) if c.is_sparse(i)]
    linear = c.has_linear
    if ep > 1 and not sparse:
        raise ConfigError(f"mesh: ep is {ep}, and this {c.model_type} model has no experts; leave ep out.")
    together = sizes["tp"] * sizes["cp"]
    if linear and (c.linear_num_key_heads % together or c.linear_num_value_heads % together):
        raise ConfigError(
            f"mesh: tp {sizes['tp']} × cp {sizes['cp']} cuts the heads of a Gated DeltaNet, and {c.model_type} has "
            f"{c.linear_num_key_heads} for keys and {c.linear_num_value_heads} for values there; expected tp × cp to "
            "divide both."
        )
    whole = {
        "tp": {
            "num_attention_heads": c.num_attention_heads,
            "num_key_value_heads": c.num_key_value_heads,
            "vocab_size": c.vocab_size,
            "intermediate_size": c.intermediate_size if len(sparse) < c.num_hidden_layers else 0,
            "moe_intermediate_size": c.moe_intermediate_size if sparse else 0,
            "shared_expert_intermediate_size": c.shared_expert_intermediate_size if sparse else 0,
        },
        "ep": {"num_experts": c.num_experts},
    }
    for axis, counts in whole.items():
        for name, count in counts.items():
            if count % sizes[axis]:
                raise ConfigError(
                    f"mesh: {axis} is {sizes[axis]}, and {name} is {count}; expected {axis} to divide it."
                )


def make_mesh(sizes: Mapping[str, int], device: str = "cpu") -> Mesh:
    """The mesh of a process that has joined torch.distributed."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    devices: Any = init_device_mesh(device, tuple(sizes[a] for a in AXES), mesh_dim_names=AXES)
    return Mesh(dict(sizes), dist.get_rank(), devices)

"""How a world of ranks can be cut into axes, and which cuts a model allows.

    dp      replicas of everything; each reads its own sequences
    fsdp    ranks that share one replica's weights, gradients and optimiser; each reads its own sequences
    ep      ranks that share the experts, each holding E/ep of every layer's; each reads its own sequences. For all
            other weights they are more fsdp ranks
    tp      ranks that share every matrix, by heads and by columns, and within a node; activations between matrices are
            cut by tokens (sequence parallel)
    cp      ranks that share the tokens of a sequence; for weights they are more fsdp ranks
    pp      stages of consecutive layers

dp · fsdp · ep · tp · cp · pp = ranks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from qwill.base.errors import ConfigError
from qwill.model.config import ModelConfig

AXES = ("dp", "fsdp", "ep", "tp", "cp", "pp")


@dataclass(frozen=True)
class Mesh:
    dp: int = 1
    fsdp: int = 1
    ep: int = 1
    tp: int = 1
    cp: int = 1
    pp: int = 1

    @property
    def ranks(self) -> int:
        return self.dp * self.fsdp * self.ep * self.tp * self.cp * self.pp

    @property
    def readers(self) -> int:
        """How many ranks, or groups of ranks, read sequences of their own."""
        return self.dp * self.fsdp * self.ep

    def __str__(self) -> str:
        return " ".join(f"{axis}={size}" for axis, size in asdict(self).items() if size > 1) or "one rank"


def parse_mesh(text: str) -> Mesh:
    """`fsdp=8,tp=4` (commas or spaces) as a Mesh; raises ConfigError."""
    sizes: dict[str, int] = {}
    for part in re.split(r"[,\s]+", text.strip()):
        axis, _, size = part.partition("=")
        if axis not in AXES or axis in sizes or not size.isascii() or not size.isdigit() or int(size) < 1:
            raise ConfigError(f"mesh {text!r}: {part!r} is not understood; expected axes as in 'fsdp=8,tp=4' "
                              f"({', '.join(AXES)}), each once.")  # fmt: skip
        sizes[axis] = int(size)
    return Mesh(**sizes)


def check_mesh(config: ModelConfig, mesh: Mesh, ranks: int, context: int, rows: int, node: int) -> None:
    """Raises ConfigError with one sentence if this mesh is not one of `ranks` ranks, or doesn't fit the model.

    `rows` are a step's sequences of `context` tokens, `node` the GPUs of a node.
    """
    if mesh.ranks != ranks:
        raise ConfigError(f"mesh {mesh}: that is {mesh.ranks} ranks; expected {ranks}.")
    if sentence := misfit(config, mesh, context, rows, node):
        raise ConfigError(f"mesh {mesh}: {sentence}.")


def misfit(config: ModelConfig, mesh: Mesh, context: int, rows: int, node: int) -> str | None:
    """Why this mesh can't run this model, or None."""
    c = config
    if mesh.tp > 1:
        heads = [("heads", c.num_attention_heads), ("key/value heads", c.num_key_value_heads)]
        heads += [("DeltaNet key heads", c.linear_num_key_heads)] if c.has_linear else []
        dense = any(not c.is_sparse(i) for i in range(c.num_hidden_layers))
        columns = [("columns of a feed-forward", c.intermediate_size)] if dense else []
        columns += [("columns of an expert", c.moe_intermediate_size), ("rows of the vocabulary", c.vocab_size)]
        columns += [("columns of the shared expert", c.shared_expert_intermediate_size)]
        for name, number in heads + columns:
            if number % mesh.tp:
                return f"tp={mesh.tp} does not divide the {number:,} {name}"
        if mesh.tp > node:
            return f"tp={mesh.tp} is more than the {node} GPUs of a node"
    if mesh.ep > 1 and (not c.num_experts or c.num_experts % mesh.ep):
        return f"ep={mesh.ep} does not divide the {c.num_experts} experts"
    if mesh.pp > c.num_hidden_layers:
        return f"pp={mesh.pp} is more than the {c.num_hidden_layers} layers"
    if context % (2 * mesh.cp) and mesh.cp > 1:
        return f"cp={mesh.cp} cuts a sequence into {2 * mesh.cp} pieces, which does not divide {context:,} tokens"
    if rows % mesh.readers:
        return f"a step's {rows} sequences do not divide among {mesh.readers} readers (dp·fsdp·ep)"
    return None


def only_planned(config: ModelConfig, mesh: Mesh) -> bool:
    """Whether `qwill pretrain` does not run this mesh: it has no pipeline, and cuts a Gated DeltaNet by whole heads."""
    return mesh.pp > 1 or (config.has_linear and config.linear_num_key_heads % (mesh.tp * mesh.cp) > 0)


def meshes(config: ModelConfig, ranks: int, context: int, rows: int, node: int) -> Iterator[Mesh]:
    """Every mesh of `ranks` ranks that fits the model; replicas (dp) only where there is something to share besides."""
    for tp in divisors(ranks):
        for pp in divisors(ranks // tp):
            for cp in divisors(ranks // tp // pp):
                for ep in divisors(ranks // tp // pp // cp):
                    rest = ranks // tp // pp // cp // ep
                    if misfit(config, Mesh(ep=ep, tp=tp, cp=cp, pp=pp, fsdp=rest), context, rows, node) is None:
                        for dp in divisors(rest):
                            yield Mesh(dp, rest // dp, ep, tp, cp, pp)


def divisors(number: int) -> list[int]:
    low = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return low + [number // d for d in reversed(low) if d * d != number]

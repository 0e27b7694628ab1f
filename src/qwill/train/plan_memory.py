"""Memory of one rank while training, by part, in bytes.

    weights, gradients, optimiser    bytes a weight × the weights of the rank, cut by the mesh
    activations                      what the backward pass needs of every token in flight, `kept_values`
    buffers                          gathered layers, dispatched tokens, logits of a chunk, the runtime's own

Left out: uneven routing (experts are taken as balanced), fragmentation beyond the reserve, checkpointing buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from qwill.model.config import ModelConfig
from qwill.model.flops import CHUNK, Flops, layer_flops
from qwill.model.size import LayerSize, layer_sizes
from qwill.train.plan_mesh import Mesh

Recompute = Literal["none", "selective", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")


@dataclass(frozen=True)
class State:
    """Bytes of each weight: in the forward pass, its gradient, its optimiser state; and of each activation.

    The default is mixed precision: bfloat16 weights, float32 gradients, and float32 master weight and AdamW's two
    moments: 18 bytes a weight.
    """

    weight: int = 2
    gradient: int = 4
    optimizer: int = 12
    activation: int = 2


@dataclass(frozen=True)
class Memory:
    weights: float
    gradients: float
    optimizer: float
    activations: float
    buffers: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.buffers


@dataclass(frozen=True)
class Stage:
    """Consecutive layers of one pipeline stage, summed up.

    `largest` is its largest layer; `embedding` and `head` are its tables; `kept` what `kept_values` says for each kind
    of recomputation, summed over layers, and `again` how much one layer has more while it is done again; `sparse` and
    `full` count layers with experts and with attention; `flops` has (layers like this, a layer's forward FLOPs a
    token, experts' share of its products), the head last.
    """

    layers: int
    size: LayerSize
    largest: LayerSize
    embedding: int
    head: int
    kept: dict[Recompute, int]
    again: dict[Recompute, int]
    sparse: int
    full: int
    flops: tuple[tuple[int, Flops, float], ...]


@cache
def stages(config: ModelConfig, pp: int, context: int) -> tuple[Stage, ...]:
    """The model in `pp` stages of as equal a number of layers as can be, the longer ones in the middle."""
    short, longer = divmod(config.num_hidden_layers, pp)
    middle = sorted(range(pp), key=lambda s: abs(s - (pp - 1) / 2))[:longer]
    found, first = [], 0
    for s in range(pp):
        last = first + short + (s in middle)
        found.append(_stage(config, range(first, last), s == 0, s == pp - 1, context))
        first = last
    return tuple(found)


def _stage(config: ModelConfig, layers: range, first: bool, last: bool, context: int) -> Stage:
    sizes, table = layer_sizes(config)[layers.start : layers.stop], config.vocab_size * config.hidden_size
    kinds: dict[tuple[Flops, float], int] = {}
    for i, size in zip(layers, sizes, strict=True):
        flops = layer_flops(config, i, context)
        used = size.experts // config.num_experts * config.num_experts_per_tok if size.experts else 0
        kind = (flops, 2.0 * used / flops.weights)
        kinds[kind] = kinds.get(kind, 0) + 1
    flops_of = [(number, flops, share) for (flops, share), number in kinds.items()]
    if last:
        flops_of.append((1, Flops(0, 0, 0, 0, 2.0 * table), 0.0))
    kept = {r: [kept_values(config, i, r) for i in layers] for r in RECOMPUTE}
    return Stage(
        len(layers),
        sum(sizes, LayerSize()),
        max(sizes, key=lambda s: s.whole),
        table if first else 0,
        # A tied table is one where a single stage needs it twice, and two copies on two stages.
        table if last and not (first and config.tie_word_embeddings) else 0,
        {r: sum(values) for r, values in kept.items()},
        {r: max(a - b for a, b in zip(kept["none"], values, strict=True)) for r, values in kept.items()},
        sum(size.experts > 0 for size in sizes),
        sum(not config.is_linear(i) for i in layers),
        tuple(flops_of),
    )


def weights_of_rank(stage: Stage, mesh: Mesh) -> tuple[float, float]:
    """(weights that are not experts, weights of experts) of one rank of a stage, before fsdp cuts them."""
    size, tp = stage.size, mesh.tp
    rest = (size.mixer + size.dense + stage.embedding + stage.head) / tp + size.router + size.vectors
    return rest, size.experts / (mesh.ep * tp)


def sharers(mesh: Mesh) -> tuple[int, int]:
    """How many ranks share those weights, and those of experts."""
    return mesh.fsdp * mesh.ep * mesh.cp, mesh.fsdp * mesh.cp


def kept_values(config: ModelConfig, layer: int, recompute: Recompute) -> int:
    """Values a token that one layer keeps for its backward pass (counted in `model/native*.py`).

    none: what enters each norm, product and activation. selective: norms, RoPE, activations and the gathering of
    expert rows are done again. full: only what enters the layer; everything is done again.
    """
    c, d = config, config.hidden_size
    if recompute == "full":
        return d
    slim = recompute == "selective"
    kept = 2 * d if slim else 4 * d  # what enters the two norms, and what leaves them
    if c.is_linear(layer):
        values, gates = c.linear_num_value_heads * c.linear_value_head_dim, 2 * c.linear_num_value_heads
        qkv = 2 * c.linear_num_key_heads * c.linear_key_head_dim + values
        # Projections and the gated output; convolved q, k, v, decays, δ, output, and a state every fourth chunk.
        states = c.linear_num_value_heads * c.linear_key_head_dim * c.linear_value_head_dim // (4 * CHUNK)
        kept += qkv + values + gates + values + (0 if slim else qkv + 2 * gates + 2 * values + states)
    else:
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        gate = q if c.gated_attention else 0
        kept += q + gate + (q + 2 * kv) * (1 if slim else 2) + (0 if slim or not gate else q)
    size, shared = layer_sizes(c)[layer], c.shared_expert_intermediate_size
    if not size.experts:
        return kept + (2 if slim else 3) * c.intermediate_size
    f, k = c.moe_intermediate_size, c.num_experts_per_tok
    kept += c.num_experts + k * (2 * f if slim else d + 3 * f)
    return kept + ((2 if slim else 3) * shared + 2 * d if shared else 0)


def rank_memory(
    config: ModelConfig,
    stage: Stage,
    mesh: Mesh,
    tokens: float,
    in_flight: float,
    hold: bool,
    recompute: Recompute,
    state: State,
    reserve: float,
    loss_chunk: int = 1024,
) -> Memory:
    """Memory of one rank of `stage`.

    `tokens` of a micro-batch on this rank (after cp); `in_flight` micro-batches whose activations are held; `hold`:
    weights and gradients stay whole between micro-batches and only the optimiser is shared (ZeRO-1), else all is
    (ZeRO-3); `reserve` bytes are the runtime's.
    """
    rest, experts = weights_of_rank(stage, mesh)
    share_rest, share_experts = sharers(mesh)
    shard = rest / share_rest + experts / share_experts
    held = rest + experts if hold else shard
    values = tokens / mesh.tp * (in_flight * stage.kept[recompute] + stage.again[recompute])
    buffers = reserve
    if not hold and share_rest > 1:
        layer, table = stage.largest, max(stage.embedding, stage.head) / mesh.tp
        one = (layer.mixer + layer.dense) / mesh.tp + layer.router + layer.experts / (mesh.ep * mesh.tp)
        # Two gathered layers, this one and the next, and one layer's gradients before they are cut.
        buffers += max(2 * state.weight * one + state.gradient * one, (state.weight + state.gradient) * table)
    if mesh.ep > 1:
        rows = tokens * config.num_experts_per_tok / mesh.tp
        buffers += 2 * state.activation * rows * config.hidden_size
    if stage.flops[-1][1].head:
        buffers += min(loss_chunk, tokens) * config.vocab_size / mesh.tp * (4 + state.activation)
        values += 2 * tokens * config.hidden_size / mesh.tp
    return Memory(
        state.weight * held, state.gradient * held, state.optimizer * shard, state.activation * values, buffers
    )

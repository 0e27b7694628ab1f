"""How long a training step takes on a mesh: an estimate whose every assumption is a number here, and is printed.

    t_micro  = Σ FLOPs of a kind / (peak · share of the peak that kind reaches) + communication that nothing hides
    t_step   = t_micro · (m + (p − 1)/v) + weights gathered and gradients summed beyond what hides them + optimiser

with m micro-batches, p pipeline stages (the slowest counts) and v interleaved parts a stage (Megatron-LM, arXiv
2104.04473 §2.2). Volumes are bytes that one rank sends, for a group of n: all-gather and reduce-scatter x·(n − 1)/n of
the whole x, all-reduce twice that, all-to-all x·(n − 1)/n of what a rank holds.

    tp    4 of [tokens, hidden] a layer and pass (arXiv 2205.05198); `tp_hidden` of it behind products
    ep    dispatch and combine of k rows a token, forward and backward; `ep_hidden` of it behind products
    cp    keys and values of the others' tokens (ring), twice more backward; behind attention
    fsdp  ZeRO-3: weights twice and gradients once a micro-batch; ZeRO-1: once a step; behind products
    dp    gradients of the rank's shard, once a step; behind the last backward pass
    pp    hidden states to the next stage and their gradients back; behind products
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from qwill.model.config import ModelConfig
from qwill.model.flops import Flops, backward_flops
from qwill.train.plan_gpus import Gpu
from qwill.train.plan_memory import Recompute, Stage, State, sharers, stages, weights_of_rank
from qwill.train.plan_mesh import AXES, Mesh


def _say(value: float, sentence: str) -> float:
    return field(default=value, metadata={"says": sentence})  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Assumptions:
    """Shares of what is published that a good implementation gets; each says so in words (`sentences`)."""

    products: float = _say(0.55, "products of dense layers and what lies between them reach {:.0%} of the bf16 peak")
    experts: float = _say(0.45, "experts' products, with routing and permuting, {:.0%}")
    attention: float = _say(0.45, "causal attention {:.0%}, only what is under the diagonal counted")
    delta: float = _say(0.20, "Gated DeltaNet's chunks {:.0%}")
    link: float = _say(0.75, "collectives reach {:.0%} of the published link and network rates")
    tp_hidden: float = _say(0.4, "{:.0%} of tensor-parallel communication hides behind products")
    ep_hidden: float = _say(0.6, "{:.0%} of the experts' all-to-all")
    interleave: float = _say(4, "a pipeline stage runs in 1 or {:.0f} interleaved parts, as memory allows")
    selective: float = _say(1.03, "selective recomputation makes a micro-batch {:.2f} times as long")
    usable: float = _say(0.92, "a rank may fill {:.0%} of its GPU's memory")
    reserve: float = _say(3.5e9, "of it {:.1e} bytes are the runtime's (context, collectives)")
    goodput: float = _say(0.90, "{:.0%} of the time goes into steps that count (restarts, checkpoints, evaluation)")

    def sentences(self) -> list[str]:
        return [f.metadata["says"].format(getattr(self, name)) for name, f in self.__dataclass_fields__.items()]


@dataclass(frozen=True)
class Times:
    """Seconds of one step by part, and the bytes one rank sends a step along each axis."""

    compute: float
    bubble: float
    exposed: float
    update: float
    sent: dict[str, float]

    @property
    def step(self) -> float:
        return self.compute + self.bubble + self.exposed + self.update


@dataclass(frozen=True)
class Schedule:
    """What a rank does in a step: `micro_batches` of `tokens` (its own, after cp) each, its stage in `parts`."""

    micro_batches: int
    tokens: float
    hold: bool
    recompute: Recompute
    parts: int = 1


def virtual_stages(config: ModelConfig, pp: int, wish: float) -> int:
    """How many interleaved parts a stage is cut into: not more than its layers."""
    return 1 if pp == 1 else max(1, min(int(wish), config.num_hidden_layers // pp))


def step_time(
    config: ModelConfig, mesh: Mesh, schedule: Schedule, context: int, gpu: Gpu, state: State, a: Assumptions
) -> Times:
    """The estimate for the slowest stage."""
    slowest, forward, backward, attention = slowest_stage(config, mesh.pp, context, a)
    unit = schedule.tokens / mesh.tp / (gpu.tflops * 1e12) * (a.selective if schedule.recompute == "selective" else 1)
    again = forward if schedule.recompute == "full" else 0.0
    forward, backward, attention = forward * unit, (backward + again) * unit, attention * unit
    sent, per_micro, idle = dict.fromkeys(AXES, 0.0), 0.0, forward + backward
    m, micro = schedule.micro_batches, _micro_traffic(config, slowest, mesh, schedule, state)
    for axis, volume in micro.items():
        sent[axis] += m * volume
        seconds = volume / (1e9 * a.link * _rate(axis, mesh, gpu))
        if axis == "tp":
            per_micro += (1 - a.tp_hidden) * seconds
        elif axis == "ep":
            per_micro += (1 - a.ep_hidden) * seconds
        elif axis == "cp":
            per_micro += max(0.0, seconds - attention)
            idle -= min(seconds, attention)
        elif axis == "fsdp":
            per_micro += max(0.0, seconds - idle)
            idle = max(0.0, idle - seconds)
    # One network: what hides behind products leaves less of them for the next to hide behind.
    # What is sent once a step hides behind the first forward or the last backward pass.
    share = idle / (forward + backward)
    once, left = 0.0, {"forward": share * forward, "backward": share * backward}
    for axis, volume, behind in _step_traffic(slowest, mesh, schedule, state):
        sent[axis] += volume
        seconds = volume / (1e9 * a.link * _rate(axis, mesh, gpu))
        once += max(0.0, seconds - left[behind])
        left[behind] = max(0.0, left[behind] - seconds)
    sent["pp"] *= schedule.parts
    busy = forward + backward + per_micro
    rest, experts = weights_of_rank(slowest, mesh)
    share_rest, share_experts = sharers(mesh)
    touched = 2 * (state.optimizer + state.weight + state.gradient) * (rest / share_rest + experts / share_experts)
    return Times(
        compute=m * (forward + backward),
        bubble=busy * (mesh.pp - 1) / schedule.parts,
        exposed=m * per_micro + once,
        update=touched / (gpu.bandwidth * 1e12),
        sent=sent,
    )


@cache
def slowest_stage(config: ModelConfig, pp: int, context: int, a: Assumptions) -> tuple[Stage, float, float, float]:
    """(the stage whose micro-batch takes longest, a token's forward, backward and attention time in FLOPs at peak)."""

    def cost(stage: Stage) -> tuple[float, float]:
        forward = sum(number * _at_peak(flops, share, a) for number, flops, share in stage.flops)
        return forward, sum(number * _at_peak(backward_flops(flops), share, a) for number, flops, share in stage.flops)

    slowest = max(stages(config, pp, context), key=lambda s: sum(cost(s)))
    attention = sum(3 * number * flops.attention for number, flops, _ in slowest.flops) / a.attention
    return slowest, *cost(slowest), attention


def _at_peak(flops: Flops, experts_share: float, a: Assumptions) -> float:
    """FLOPs that the peak would do in the time that these take."""
    dense = flops.weights * (1 - experts_share) + flops.head
    return (
        dense / a.products
        + flops.weights * experts_share / a.experts
        + flops.attention / a.attention
        + (flops.delta + flops.solve) / a.delta
    )


def _micro_traffic(config: ModelConfig, stage: Stage, mesh: Mesh, schedule: Schedule, state: State) -> dict[str, float]:
    """Bytes that one rank sends in one micro-batch, by axis."""
    c, tokens, wide = config, schedule.tokens, state.activation
    hidden = tokens * c.hidden_size * wide
    passes = 3 if schedule.recompute == "full" else 2
    traffic = {
        "tp": 4 * passes * stage.layers * hidden * part(mesh.tp),
        "ep": 2 * passes * stage.sparse * hidden * c.num_experts_per_tok / mesh.tp * part(mesh.ep),
        "cp": 3 * stage.full * tokens * (mesh.cp - 1) * 2 * c.num_key_value_heads * c.head_dim * wide / mesh.tp,
        "pp": 2 * hidden / mesh.tp if mesh.pp > 1 else 0.0,
    }
    if not schedule.hold:
        rest, experts = weights_of_rank(stage, mesh)
        share_rest, share_experts = sharers(mesh)
        # Gathered for the forward and again for the backward pass; gradients scattered.
        traffic["fsdp"] = (2 * state.weight + state.gradient) * (
            rest * part(share_rest) + experts * part(share_experts)
        )
    return traffic


def _step_traffic(stage: Stage, mesh: Mesh, schedule: Schedule, state: State) -> Sequence[tuple[str, float, str]]:
    """(axis, bytes that one rank sends once a step, the pass that hides it)."""
    rest, experts = weights_of_rank(stage, mesh)
    share_rest, share_experts = sharers(mesh)
    found = []
    if schedule.hold:
        spread = rest * part(share_rest) + experts * part(share_experts)
        found += [("fsdp", state.weight * spread, "forward"), ("fsdp", state.gradient * spread, "backward")]
    if mesh.dp > 1:
        shard = rest / share_rest + experts / share_experts
        found.append(("dp", 2 * state.gradient * shard * part(mesh.dp), "backward"))
    return found


def part(n: int) -> float:
    return (n - 1) / n


def _rate(axis: str, mesh: Mesh, gpu: Gpu) -> float:
    """GB/s that one rank sends along an axis. Ranks are laid out tp, ep, cp, fsdp, dp, pp, from near to far."""
    near = {"tp": 1, "ep": mesh.tp, "cp": mesh.tp * mesh.ep}
    stride = near.get(axis, 1)
    extent = {"tp": mesh.tp, "ep": mesh.ep, "cp": mesh.cp}.get(axis)
    if axis == "fsdp":
        stride, extent = mesh.tp, mesh.ep * mesh.cp * mesh.fsdp
    elif axis == "dp":
        stride, extent = mesh.tp * mesh.ep * mesh.cp * mesh.fsdp, mesh.dp
    elif axis == "pp":
        stride, extent = mesh.ranks // mesh.pp, mesh.pp
    assert extent is not None
    if stride * extent <= gpu.node:
        return gpu.link
    if axis in ("ep", "cp", "pp"):
        return gpu.network
    # Ranks of a group that lie in one node send with all their network cards.
    return min(gpu.link, gpu.network * max(1, gpu.node // stride))

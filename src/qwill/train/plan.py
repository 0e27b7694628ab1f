"""What training and serving a model would take: every mesh that fits, ranked by the estimated time of a step."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product

from qwill.base.errors import ConfigError
from qwill.model.config import ModelConfig
from qwill.model.flops import training_flops
from qwill.train.plan_gpus import Gpu
from qwill.train.plan_memory import RECOMPUTE, Memory, State, rank_memory, stages
from qwill.train.plan_mesh import Mesh, meshes
from qwill.train.plan_time import Assumptions, Schedule, Times, step_time, virtual_stages

_training_flops = cache(training_flops)


@dataclass(frozen=True)
class Job:
    """`rows` sequences of `context` tokens a step on `ranks` GPUs, until `tokens` are read."""

    ranks: int
    gpu: Gpu
    context: int
    rows: int
    tokens: float

    @property
    def batch_tokens(self) -> int:
        return self.rows * self.context


@dataclass(frozen=True)
class Estimate:
    """One way to run a job: `memory` of the rank that needs most, `times` of a step, `utilisation` of the bf16 peak
    (FLOPs of the model only, attention causal, nothing recomputed counted)."""

    mesh: Mesh
    schedule: Schedule
    memory: Memory
    times: Times
    utilisation: float
    fits: bool


def evaluate(config: ModelConfig, mesh: Mesh, schedule: Schedule, job: Job, state: State, a: Assumptions) -> Estimate:
    memory = peak_memory(config, mesh, schedule, job.context, state, a)
    times = step_time(config, mesh, schedule, job.context, job.gpu, state, a)
    peak = job.ranks * job.gpu.tflops * 1e12
    utilisation = _training_flops(config, job.context) * job.batch_tokens / (peak * times.step)
    return Estimate(mesh, schedule, memory, times, utilisation, memory.total <= a.usable * job.gpu.memory * 1e9)


def peak_memory(
    config: ModelConfig, mesh: Mesh, schedule: Schedule, context: int, state: State, a: Assumptions
) -> Memory:
    """Of the stage that needs most: the first has most in flight, the last the head, one in the middle more layers."""
    v, every = schedule.parts, stages(config, mesh.pp, context)
    longest = max(range(mesh.pp), key=lambda s: every[s].layers)
    found = []
    for s in sorted({0, longest, mesh.pp - 1}):
        # Interleaved one-forward-one-backward (arXiv 2104.04473 §2.2) has (p − 1)/(p·v) more in flight.
        in_flight = (mesh.pp - s) * (1 + (mesh.pp - 1) / (mesh.pp * v) if v > 1 else 1)
        found.append(
            rank_memory(
                config, every[s], mesh, schedule.tokens, min(schedule.micro_batches, in_flight), schedule.hold,
                schedule.recompute, state, a.reserve,
            )
        )  # fmt: skip
    return max(found, key=lambda m: m.total)


def schedules(config: ModelConfig, mesh: Mesh, job: Job, a: Assumptions) -> list[Schedule]:
    """Ways to run a mesh: rows a micro-batch, what is kept whole between micro-batches, what is done again, and a
    pipeline's stages interleaved (a shorter bubble) or not (fewer activations in flight)."""
    rows, found, micro = job.rows // mesh.readers, [], 1
    parts = {1, virtual_stages(config, mesh.pp, a.interleave)}
    holds = (False, True) if mesh.fsdp * mesh.ep * mesh.cp > 1 else (True,)
    while rows % micro == 0 and micro * job.context <= max(job.context, 65536):
        tokens = micro * job.context / mesh.cp
        found += [Schedule(rows // micro, tokens, *way) for way in product(holds, RECOMPUTE, sorted(parts))]
        micro *= 2
    return found


def best(config: ModelConfig, mesh: Mesh, job: Job, state: State, a: Assumptions) -> Estimate:
    """The quickest way that fits in memory; if none does, the one that needs least."""
    room = a.usable * job.gpu.memory * 1e9
    sizes = [(peak_memory(config, mesh, s, job.context, state, a).total, s) for s in schedules(config, mesh, job, a)]
    ways = [schedule for size, schedule in sizes if size <= room] or [min(sizes, key=lambda pair: pair[0])[1]]
    found = [evaluate(config, mesh, schedule, job, state, a) for schedule in ways]
    return min(found, key=_order)


def _order(estimate: Estimate) -> tuple[float, int, float]:
    """Quickest first; of those that no estimate tells apart (0.1 %), the one with the fewest axes, then the leanest."""
    axes = sum(size > 1 for size in asdict(estimate.mesh).values())
    return round(math.log(estimate.times.step), 3), axes, estimate.memory.total


def rank_meshes(config: ModelConfig, job: Job, state: State, a: Assumptions) -> tuple[list[Estimate], list[Estimate]]:
    """(meshes that fit in memory, quickest first; the others, the one that lacks least first).

    Raises ConfigError when no mesh fits the model at all.
    """
    every = [best(config, m, job, state, a) for m in meshes(config, job.ranks, job.context, job.rows, job.gpu.node)]
    if not every:
        raise ConfigError(
            f"--gpus {job.ranks}: no mesh of that many ranks fits this model and {job.rows} sequences of "
            f"{job.context:,} tokens a step; try a number of GPUs or a --batch-tokens with other divisors."
        )
    fitting = sorted((e for e in every if e.fits), key=_order)
    return fitting, sorted((e for e in every if not e.fits), key=lambda e: e.memory.total)


@dataclass(frozen=True)
class Duration:
    tokens_a_day: float
    days: float
    gpu_hours: float


def duration(job: Job, step_seconds: float, goodput: float) -> Duration:
    """How long the job takes when a step takes `step_seconds` and `goodput` of the time goes into steps."""
    a_day = job.batch_tokens / step_seconds * 86400 * goodput
    return Duration(a_day, job.tokens / a_day, 24 * job.ranks * job.tokens / a_day)


def duration_at(config: ModelConfig, job: Job, utilisation: float, goodput: float = 1.0) -> Duration:
    """The same from a utilisation that was measured: the share of the bf16 peak, FLOPs of the model only."""
    rate = job.ranks * job.gpu.tflops * 1e12 * utilisation
    return duration(job, training_flops(config, job.context) * job.batch_tokens / rate, goodput)

"""How `qwill plan` shows what it worked out: size, FLOPs, cache and serving, then the meshes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qwill.base.errors import ConfigError
from qwill.model.config import ModelConfig
from qwill.model.flops import backward_flops, forward_flops, kv_cache_bytes
from qwill.model.shipped import find_config
from qwill.model.size import count
from qwill.train.plan import Estimate, Job, best, duration, duration_at, rank_meshes
from qwill.train.plan_gpus import find_gpu
from qwill.train.plan_memory import State
from qwill.train.plan_mesh import AXES, check_mesh, only_planned, parse_mesh
from qwill.train.plan_serve import servings
from qwill.train.plan_time import Assumptions

if TYPE_CHECKING:
    from qwill.train.plan_check import Checked

UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022 (arXiv 2203.15556), table 3
GB = 1e9


def plan(
    given: str,
    gpus: int,
    gpu: str,
    tokens: str | None,
    context: int | None,
    batch_tokens: str | None,
    mesh: str | None,
    check: bool,
    utilisation: float | None,
    show: int,
    as_json: bool,
) -> int:
    """Print the plan; raises ModelError and ConfigError, each with one sentence."""
    name, config = find_config(given)
    size = count(config)
    length = min(4096, config.max_position_embeddings) if context is None else context
    horizon = quantity("--tokens", tokens) if tokens else float(TOKENS_PER_PARAMETER * size.active)
    # Llama 3 405B read 16 M tokens a step for most of its 15.6 T, and 4 M before (arXiv 2407.21783 §3.4.1).
    batch = quantity("--batch-tokens", batch_tokens) if batch_tokens else 2.0**24 if horizon >= 5e12 else 2.0**22
    job = Job(gpus, find_gpu(gpu), length, max(1, round(batch / length)), horizon)
    state, assumed = State(), Assumptions()
    checked: list[Checked] = []
    if check and mesh is None:
        raise ConfigError("--check runs one mesh; say which with --mesh, such as --mesh fsdp=8.")
    if mesh is None:
        fitting, others = rank_meshes(config, job, state, assumed)
    else:
        chosen = parse_mesh(mesh)
        check_mesh(config, chosen, gpus, length, job.rows, job.gpu.node)
        estimate = best(config, chosen, job, state, assumed)
        fitting, others = ([estimate], []) if estimate.fits else ([], [estimate])
        if check:
            from qwill.train.plan_check import run_on_meta

            checked = run_on_meta(config, chosen, length)
    if as_json:
        record = _record(name, config, job, fitting, others, utilisation, state, assumed)
        if check:
            record["checked"] = [asdict(c) | {"agrees": c.agrees} for c in checked]
        print(json.dumps(record, indent=2))
        return 0
    _show_model(name, config, job)
    _show_meshes(config, job, fitting, others, show, state, assumed)
    if utilisation is not None:
        _show_duration(f"at {utilisation:.1%} of the peak, as given", duration_at(config, job, utilisation))
    _show_checked(checked)
    print("\nassumed: " + "; ".join(assumed.sentences()) + ".")
    print(
        f"{job.gpu.name}: {job.gpu.tflops:g} TFLOP/s bf16, {job.gpu.memory:g} GB at {job.gpu.bandwidth:g} TB/s, "
        f"{job.gpu.link:g} GB/s in a node of {job.gpu.node}, {job.gpu.network:g} GB/s beyond ({job.gpu.source})."
    )
    return 0


def quantity(option: str, text: str) -> float:
    """`36T`, `4M`, `1e9` as a number; raises ConfigError."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in UNITS and text else (text, "")
    try:
        value = float(number) * UNITS[unit]
    except ValueError:
        value = 0.0
    if not 0 < value < 1e20:
        raise ConfigError(f"{option} {text}: expected a number of tokens above 0, such as 36T, 500M or 1e9.")
    return value


def _show_model(name: str, config: ModelConfig, job: Job) -> None:
    size, forward = count(config), forward_flops(config, job.context)
    backward = backward_flops(forward).total
    print(f"{name} ({config.model_type}, {config.num_hidden_layers} layers, width {config.hidden_size})")
    print(f"  parameters   {size.total:,} total, {size.active:,} active, {size.embedding:,} of them embedding and head")
    parts = [("weights", forward.weights), ("attention", forward.attention), ("head", forward.head)]
    parts += [("DeltaNet", forward.delta + forward.solve)] if forward.delta else []
    print(
        f"  FLOPs/token  {(forward.total + backward) / GB:,.2f} G to train at {job.context:,} tokens: forward "
        f"{forward.total / GB:,.2f} ({', '.join(f'{k} {v / forward.total:.0%}' for k, v in parts)}), "
        f"backward {backward / GB:,.2f}"
    )
    token, request = kv_cache_bytes(config)
    fixed = f" + {request:,} B whatever its length" if request else ""
    print(f"  KV cache     {token:,} B/token, {(token * job.context + request) / GB:,.2f} GB/request of "
          f"{job.context:,} tokens{fixed} (bf16)")  # fmt: skip
    for s in servings(config, job.gpu, job.context):
        many = "1 request" if s.requests == 1 else f"{s.requests:,} requests"
        print(
            f"  serve {s.precision:<6} {s.gpus} × {job.gpu.name}: {s.weights / GB:,.1f} GB of weights, room for {many} "
            f"of {job.context:,} tokens, at most {s.tokens_a_second:,.0f} tokens/s each"
        )


def _show_meshes(
    config: ModelConfig, job: Job, fitting: list[Estimate], others: list[Estimate], show: int, state: State,
    assumed: Assumptions,
) -> None:  # fmt: skip
    print(
        f"\ntraining on {job.ranks:,} × {job.gpu.name}: {job.tokens:,.4g} tokens, {job.batch_tokens:,} a step "
        f"({job.rows:,} × {job.context:,}), {state.weight} + {state.gradient} + {state.optimizer} B a weight "
        "(bf16 weights, fp32 gradients, AdamW)"
    )
    print(f"  {len(fitting)} meshes fit, {len(others)} need more memory than a GPU has")
    if not fitting:
        e = others[0]
        print(
            f"  the leanest, {e.mesh}, needs {e.memory.total / GB:.1f} GB a rank; "
            f"{assumed.usable * job.gpu.memory:.1f} are there. More GPUs, or a shorter --context, would help."
        )
        return
    shown = fitting[:show]
    marks = {e.mesh: " *" if only_planned(config, e.mesh) else "" for e in shown}
    times = [["mesh", "rows", "again", "whole", "parts", "step s", "of peak", "tokens/day", "days", "GPU-hours"]]
    for e in shown:
        d = duration(job, e.times.step, assumed.goodput)
        rows = job.rows // e.mesh.readers // e.schedule.micro_batches
        whole = "weights" if e.schedule.hold else "-"
        figures = f"{e.times.step:.2f}", f"{e.utilisation:.0%}"
        way = str(rows), e.schedule.recompute, whole, str(e.schedule.parts)
        times.append([f"{e.mesh}{marks[e.mesh]}", *way, *figures,
                      f"{d.tokens_a_day:.3g}", f"{d.days:,.4g}", f"{d.gpu_hours:,.4g}"])  # fmt: skip
    _table(times)
    axes = [axis for axis in AXES if any(e.times.sent[axis] for e in shown)]
    print("\n  GB a rank, and GB that it sends a step along each axis")
    parts = [["mesh", "memory", "=", "weights", "gradients", "optimiser", "activations", "buffers",
              *(f"sent {axis}" for axis in axes)]]  # fmt: skip
    for e in shown:
        m = e.memory
        memory = [f"{x / GB:.1f}" for x in (m.weights, m.gradients, m.optimizer, m.activations, m.buffers)]
        sent = [f"{e.times.sent[axis] / GB:,.1f}" for axis in axes]
        parts.append([f"{e.mesh}{marks[e.mesh]}", f"{m.total / GB:.1f}", "=", *memory, *sent])
    _table(parts)
    if any(marks.values()):
        print("  * planned only: `qwill pretrain` has no pipeline; tp × cp must divide a DeltaNet's key heads")
    _show_duration(f"with {fitting[0].mesh}", duration(job, fitting[0].times.step, assumed.goodput))


def _show_checked(checked: list[Checked]) -> None:
    if not checked:
        return
    print("\n  ran on the meta device, one sequence forward and backward, each kind of stage (no communication):")
    for c in checked:
        word = "as planned" if c.agrees else "NOT as planned"
        print(
            f"  stage {c.stage}: {c.layers} layers, {c.weights:,} weights (planned {c.planned_weights:,.0f}), "
            f"{c.flops / 1e12:,.2f} TFLOP of {c.tokens:,} tokens (planned {c.planned_flops / 1e12:,.2f}): {word}"
        )


def _table(rows: list[list[str]]) -> None:
    """Columns as wide as they need, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  " + "  ".join([row[0].ljust(widths[0]), *cells]).rstrip())


def _show_duration(how: str, d: Any) -> None:
    print(f"\n  {how}: {d.tokens_a_day:,.3g} tokens a day, {d.days:,.4g} days, {d.gpu_hours:,.4g} GPU-hours")


def _record(
    name: str, config: ModelConfig, job: Job, fitting: list[Estimate], others: list[Estimate],
    utilisation: float | None, state: State, assumed: Assumptions,
) -> dict[str, Any]:  # fmt: skip
    forward, (token, request) = forward_flops(config, job.context), kv_cache_bytes(config)

    def mesh(e: Estimate) -> dict[str, Any]:
        found: dict[str, Any] = {"mesh": asdict(e.mesh), "schedule": asdict(e.schedule), "fits": e.fits}
        found["only_planned"] = only_planned(config, e.mesh)
        found["memory_bytes"] = asdict(e.memory) | {"total": e.memory.total}
        found["seconds"] = {k: v for k, v in asdict(e.times).items() if k != "sent"} | {"step": e.times.step}
        found["sent_bytes"], found["utilisation"] = e.times.sent, e.utilisation
        return found | asdict(duration(job, e.times.step, assumed.goodput))

    record: dict[str, Any] = {
        "name": name,
        "parameters": asdict(count(config)),
        "flops_a_token": {"forward": asdict(forward), "backward": asdict(backward_flops(forward))},
        "kv_cache_bytes": {"token": token, "request": request},
        "serving": [asdict(s) for s in servings(config, job.gpu, job.context)],
        "job": asdict(job),
        "bytes_a_weight": asdict(state),
        "assumptions": asdict(assumed) | {"sentences": assumed.sentences()},
        "meshes": [mesh(e) for e in fitting],
        "too_large": [{"mesh": asdict(e.mesh), "memory_bytes": e.memory.total} for e in others],
    }
    if utilisation is not None:
        record["at_utilisation"] = {"utilisation": utilisation, **asdict(duration_at(config, job, utilisation))}
    return record

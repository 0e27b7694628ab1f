"""The one training loop: pretraining and supervised fine-tuning differ only in the batches they hand to it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qwill.base.errors import TrainingError
from qwill.base.progress import MetricsLog
from qwill.base.stage import StageContext
from qwill.model.transformer import Transformer
from qwill.train.checkpoint import Checkpoints
from qwill.train.optim import make_optimizers, rate_factor, set_rates
from qwill.train.recompute import recomputing
from qwill.train.replicas import ALONE, Replicas
from qwill.train.settings import OptimizerConfig, ScheduleConfig, StepConfig
from qwill.train.step import StepResult, backward, split

if TYPE_CHECKING:
    from qwill.train.parallel import Parallel
    from qwill.train.sharded_checkpoint import ShardedCheckpoints

LOAD_MEMORY = 0.98  # expert load is averaged over about the last 50 steps


@dataclass
class History:
    """What the report shows of a run; lives in the checkpoints, so an interrupted run reports the same."""

    curve: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    expert_load: list[list[float]] = field(default_factory=list)
    tokens: int = 0

    def thinned(self, points: int = 400) -> dict[str, Any]:
        """At most `points` points of the curve, each the mean of the steps it stands for."""
        size = max(1, math.ceil(len(self.curve) / points))
        groups = [self.curve[i : i + size] for i in range(0, len(self.curve), size)]
        curve = [{k: sum(p[k] for p in g) / len(g) for k in g[0]} | {"step": g[-1]["step"]} for g in groups]
        return {
            "curve": curve,
            "validation": self.validation,
            "expert_load": self.expert_load,
            "tokens": self.tokens,
        }


def train(
    model: Transformer,
    steps: int,
    step_data: Callable[[int], Any],
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
    balance: float,
    ctx: StageContext,
    title: str,
    validate: Callable[[int], dict[str, Any]] | None = None,
    validate_every: int = 0,
    checkpoint_seconds: float = 20.0,
    how: StepConfig = StepConfig(),  # noqa: B008 (frozen)
    parallel: Parallel | None = None,
    compute: Callable[[Any], StepResult] | None = None,
    replicas: Replicas = ALONE,
) -> History:
    """Train in place; resumes from ctx.work and leaves checkpoints there, every `checkpoint_seconds` and at the end
    (math.inf: none). With `parallel`, which holds `model`, every rank calls this with the same arguments, and rank 0
    alone writes metrics. `compute` adds a step's gradients where they aren't those of next-token prediction; its steps
    need a `source` and a number of `tokens`. With `replicas` it adds those of this rank's share and gives the results
    of the whole step; here, too, every rank calls this.

    Raises TrainingError on a loss or gradient that is not finite, naming the step and its batch; the last checkpoint,
    which is good, stays where it is.
    """
    optimizers = make_optimizers(model, optimizer, parallel)
    if parallel is None:
        kept: Checkpoints | ShardedCheckpoints = Checkpoints(ctx.work, model, optimizers, replicas)
    else:
        kept = parallel.checkpoints(ctx.work, optimizers)
    history, first = History(), 0
    if (found := kept.load()) is not None:
        first, extra = found
        history = History(**extra)  # type: ignore[arg-type]
    rank = replicas.rank if parallel is None else parallel.mesh.rank
    log = MetricsLog(ctx.metrics_path, resume_step=first) if rank == 0 else None
    model.train()
    saved_at = time.monotonic()
    with (
        ctx.display.stage(title, total=steps, unit="step", budget_s=ctx.budget_s) as bar,
        recomputing(model, how.recompute),
    ):
        bar.update(first)
        for step in range(first, steps):
            began, data = time.monotonic(), step_data(step)
            factor = rate_factor(step, steps, schedule)
            set_rates(optimizers, factor)
            if compute is not None:
                done = compute(data)
                replicas.sum_gradients(model)
                norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer.clip, foreach=True))
            elif parallel is None:
                done = backward(model, split(data, how.micro_batches), balance, how.balance_over, ctx.dtype)
                norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer.clip, foreach=True))
            else:
                done = parallel.backward(data, balance, how, ctx.dtype)
                norm = parallel.clip(optimizer.clip)
            loss, numbers = done.loss, done.numbers()
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise TrainingError(
                    f"{title}: the {'loss' if not math.isfinite(loss) else 'gradient'} of step {step} is not finite "
                    f"({data.source}); stopped, and the last checkpoint, if one was made, is in {ctx.work}; look at "
                    "that batch, or lower the learning rates."
                )
            for o in optimizers:
                o.step()
                o.zero_grad(set_to_none=True)
            if parallel is not None:
                parallel.zero_gradients()
            history.tokens += data.tokens
            history.curve.append({"step": step + 1, **numbers, "gradient_norm": norm, "rate": factor})
            _remember_load(history, done.load_LE)
            if log is not None:
                speed = data.tokens / (time.monotonic() - began)
                log.log(
                    step + 1, **numbers, gradient_norm=norm, rate=factor, tokens=history.tokens, tokens_per_second=speed
                )  # fmt: skip
            bar.update(step + 1, loss=loss, tokens=history.tokens)
            if validate is not None and validate_every and (step + 1) % validate_every == 0 and step + 1 < steps:
                history.validation.append({"step": step + 1, **validate(step + 1)})
                model.train()
                if parallel is not None:
                    parallel.release()
            due = time.monotonic() - saved_at > checkpoint_seconds
            if (due if parallel is None else parallel.agree(due)) and step + 1 < steps:
                kept.save(step + 1, vars(history))
                saved_at = time.monotonic()
    if first < steps and checkpoint_seconds < math.inf:
        kept.save(steps, vars(history))
    kept.finish()
    return history


def _remember_load(history: History, load_LE: Tensor | None) -> None:
    if load_LE is None:
        return
    now = [(load_E / load_E.sum()).tolist() for load_E in load_LE]
    if not history.expert_load:
        history.expert_load = now
    else:
        history.expert_load = [
            [LOAD_MEMORY * a + (1 - LOAD_MEMORY) * b for a, b in zip(old, new, strict=True)]
            for old, new in zip(history.expert_load, now, strict=True)
        ]

"""What the processes of `test_parallel.py` run: the same training as one process, cut over one mesh after the other.

    torchrun --nproc-per-node 4 parallel_ranks.py RESULT.json JOB.json

A job is a list of {"mesh": {...}, "model": name, "optimizer": name, "dtype": name, "micro_batches": n, ...}; rank 0
writes, for each, its loss and gradient norm of every step and the largest difference of weights from one process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from qwill.model import ops
from qwill.model.batch import Batch
from qwill.model.config import ModelConfig
from qwill.model.transformer import Transformer
from qwill.train.mesh import make_mesh, resolve_mesh
from qwill.train.optim import make_optimizers, rate_factor, set_rates
from qwill.train.parallel import Parallel, parallelize
from qwill.train.settings import MeshConfig, OptimizerConfig, ScheduleConfig
from qwill.train.step import StepData, backward, split

VOCAB = 48
MODELS = {
    "qwen3": ModelConfig("qwen3", VOCAB, 24, 2, 4, 2, 8, 36),
    "untied": ModelConfig("qwen3", VOCAB, 24, 2, 4, 2, 8, 36, attention_bias=True, tie_word_embeddings=False),
    "llama": ModelConfig("llama", VOCAB, 24, 2, 4, 4, 6, 36),
    "qwen3_moe": ModelConfig(
        "qwen3_moe", VOCAB, 24, 3, 4, 2, 8, 20, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=12,
        mlp_only_layers=(1,),
    ),
}  # fmt: skip
SCHEDULE = ScheduleConfig(0.2, 0.4)
BALANCE = 0.05


def fresh(name: str, dtype: torch.dtype) -> Transformer:
    """Every parameter redrawn, norms and biases too, so that nothing is trivial."""
    model = Transformer(MODELS[name])
    g = torch.Generator().manual_seed(0)
    model.init_weights(g)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):
                p.add_(torch.rand(p.shape, generator=g) - 0.5)
    return model.to(dtype)


def step_data(step: int, sequences: int, dtype: torch.dtype) -> StepData:
    """Sequences of uneven lengths, weights that differ (some are 0), and every third step shorter than the others."""
    g = torch.Generator().manual_seed(step)
    count = sequences - 1 if step % 3 == 2 else sequences
    lengths = torch.randint(3, 14, (count,), generator=g).tolist()
    ids = [torch.randint(0, VOCAB, (n,), generator=g) for n in lengths]
    weight = torch.randint(0, 4, (sum(lengths),), generator=g).to(dtype)
    targets = torch.randint(0, VOCAB, (sum(lengths),), generator=g)
    return StepData(Batch.pack(ids), targets, weight / weight.sum(), f"batch {step}")


def run(job: dict[str, Any], model: Transformer, parallel: Parallel | None) -> list[list[float]]:
    dtype = getattr(torch, job["dtype"])
    optimizers = make_optimizers(
        model, OptimizerConfig(job.get("optimizer", "adamw"), 3e-3, 0.01, weight_decay=0.1, clip=0.5), parallel
    )
    out = []
    for step in range(job["steps"]):
        set_rates(optimizers, rate_factor(step, job["steps"], SCHEDULE))
        data = step_data(step, job.get("sequences", 9), dtype)
        if parallel is None:
            parts = split(data, job["micro_batches"])
            done = backward(model, parts, BALANCE, job.get("over", "running"))
            numbers = torch.tensor([done.loss, done.balance or 0.0], dtype=torch.float64)
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5))
        else:
            parts = parallel.deal(data, job["micro_batches"])
            done = backward(
                model, parts, BALANCE, job.get("over", "running"),
                step_tokens=len(data.targets_N), pool=parallel.sum,
            )  # type: ignore[arg-type]  # fmt: skip
            numbers = parallel.sum(torch.tensor([done.loss, done.balance or 0.0], dtype=torch.float64))
            parallel.sum_gradients()
            norm = parallel.clip(0.5)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if parallel is not None:
            parallel.zero_gradients()
        out.append([*numbers.tolist(), norm])
    return out


def compare(job: dict[str, Any]) -> dict[str, Any]:
    dtype = getattr(torch, job["dtype"])
    alone = fresh(job["model"], dtype)
    expected = run(job, alone, None)
    model = fresh(job["model"], dtype)
    mesh = make_mesh(resolve_mesh(MeshConfig(**job["mesh"]), dist.get_world_size()))
    parallel = parallelize(model, mesh)
    held = sum(s.local.numel() for s in parallel.shards)
    found = run(job, model, parallel)
    whole = dict(alone.named_parameters())
    weights = max(float((parallel.gather(s) - whole[s.name].detach()).abs().max()) for s in parallel.shards)
    return {"expected": expected, "found": found, "weights": weights, "held": held,
            "whole": sum(p.numel() for p in whole.values())}  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    result, jobs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    out = []
    for job in jobs:
        ops.use_native(job["dtype"] == "float32")
        out.append(compare(job))
        if dist.get_rank() == 0:
            result.write_text(json.dumps(out))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

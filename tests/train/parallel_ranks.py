"""What the processes of `test_parallel.py` do.

    python parallel_ranks.py PROCESSES FOLDER

FOLDER/jobs.json lists jobs. {"do": "compare", "mesh": {...}, "model": name, …} trains on the mesh and alone and records
every step's loss, balancing loss and gradient norm of both, and the largest difference of weights. {"do": "train", …}
runs the whole training loop with checkpoints in FOLDER/<at>; "die": [rank, step] ends that rank there by SIGKILL.
Results go to FOLDER/results.json. Processes are forked once everything is imported.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.model import ops
from qwill.model.batch import Batch
from qwill.model.config import ModelConfig
from qwill.model.initial import init_weights
from qwill.model.transformer import Transformer
from qwill.train.loop import train
from qwill.train.mesh import make_mesh, resolve_mesh
from qwill.train.optim import make_optimizers, rate_factor, set_rates
from qwill.train.parallel import Parallel, parallelize
from qwill.train.ranks import join
from qwill.train.settings import MeshConfig, OptimizerConfig, ScheduleConfig, StepConfig
from qwill.train.step import StepData, backward, split

VOCAB = 48
EXPERTS: dict[str, Any] = {
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 8,
}  # fmt: skip
DELTA: dict[str, Any] = {
    "layer_types": ("linear_attention", "full_attention", "linear_attention"), "partial_rotary_factor": 0.5,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 6, "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}  # fmt: skip
MODELS = {
    "qwen3": ModelConfig("qwen3", VOCAB, 24, 2, 4, 2, 8, 36),
    "untied": ModelConfig("qwen3", VOCAB, 24, 2, 4, 2, 8, 36, attention_bias=True, tie_word_embeddings=False),
    "llama": ModelConfig("llama", VOCAB, 24, 2, 4, 4, 6, 36),
    "qwen3_moe": ModelConfig(
        "qwen3_moe", VOCAB, 24, 3, 4, 2, 8, 20, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=12,
        mlp_only_layers=(1,),
    ),
    "qwen2": ModelConfig("qwen2", VOCAB, 24, 2, 4, 2, 8, 36, qkv_bias=True),
    "qwen2_moe": ModelConfig("qwen2_moe", VOCAB, 24, 2, 4, 2, 8, 20, qkv_bias=True, **EXPERTS, norm_topk_prob=False),
    "qwen3_next": ModelConfig("qwen3_next", VOCAB, 24, 3, 4, 2, 8, 20, **EXPERTS, **DELTA),
    "qwen3_5_text": ModelConfig("qwen3_5_text", VOCAB, 24, 3, 4, 2, 8, 20, mtp_layers=1, **DELTA),
    "qwen3_5_moe_text": ModelConfig(
        "qwen3_5_moe_text", VOCAB, 24, 3, 4, 2, 8, 20, tie_word_embeddings=False, mtp_layers=1, **EXPERTS, **DELTA
    ),
}  # fmt: skip
SCHEDULE = ScheduleConfig(0.2, 0.4)
BALANCE = 0.05
CLIP = 0.5


def fresh(name: str, dtype: torch.dtype, seed: int = 0) -> Transformer:
    """Every parameter redrawn, norms and biases too, so that nothing is trivial."""
    model = Transformer(MODELS[name])
    g = torch.Generator().manual_seed(seed)
    init_weights(model, g)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
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


def optimizer_config(job: dict[str, Any]) -> OptimizerConfig:
    # Tiny DeltaNets at the others' rates are chaotic: gradients jump a hundredfold, and rounding grows with them.
    scale = 0.01 if MODELS[job["model"]].has_linear else 1.0
    return OptimizerConfig(job.get("optimizer", "muon"), 3e-3 * scale, 0.01 * scale, weight_decay=0.1, clip=CLIP)


def steps_of(job: dict[str, Any], model: Transformer, parallel: Parallel | None) -> list[list[float]]:
    """Loss, balancing loss and gradient norm of every step."""
    dtype = getattr(torch, job.get("dtype", "float64"))
    how = StepConfig(job.get("micro_batches", 2), job.get("over", "running"), job.get("recompute", "none"))
    optimizers = make_optimizers(model, optimizer_config(job), parallel)
    out = []
    for step in range(job["steps"]):
        set_rates(optimizers, rate_factor(step, job["steps"], SCHEDULE))
        data = step_data(step, job.get("sequences", 12), dtype)
        if parallel is None:
            done = backward(model, split(data, how.micro_batches), BALANCE, how.balance_over)
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP))
        else:
            done = parallel.backward(data, BALANCE, how)
            norm = parallel.clip(CLIP)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if parallel is not None:
            parallel.zero_gradients()
        out.append([done.loss, done.balance or 0.0, norm])
    return out


@cache
def alone(said: str) -> tuple[list[list[float]], Transformer]:
    job = json.loads(said)
    model = fresh(job["model"], getattr(torch, job.get("dtype", "float64")))
    return steps_of(job, model, None), model


def compare(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    dtype = getattr(torch, job.get("dtype", "float64"))
    model = fresh(job["model"], dtype)
    parallel = parallelize(model, make_mesh(resolve_mesh(MeshConfig(**job["mesh"]), dist.get_world_size())))
    found = steps_of(job, model, parallel)
    whole = {s.name: parallel.gather(s) for s in parallel.shards}
    if dist.get_rank():
        return {}
    expected, single = alone(json.dumps({k: v for k, v in job.items() if k not in ("mesh", "do")}))
    weights = max(float((whole[name] - p.detach()).abs().max()) for name, p in single.named_parameters())
    held = {s.name: s.local.numel() / p.numel() for s, p in zip(parallel.shards, single.parameters(), strict=True)}
    return {"expected": expected, "found": found, "weights": weights, "held": held}


def run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The training loop in full. Where there is a checkpoint, the model in memory is another one."""
    dtype, place = getattr(torch, job.get("dtype", "float64")), folder / job["at"]
    work = place / "work"
    work.mkdir(parents=True, exist_ok=True)
    model = fresh(job["model"], dtype, seed=99 if any(work.iterdir()) else 0)
    dist.barrier()
    parallel = parallelize(model, make_mesh(resolve_mesh(MeshConfig(**job["mesh"]), dist.get_world_size())))
    context = StageContext(place, work, {}, 0, 1, Display(quiet=True), None, place / "metrics.jsonl")

    def data(step: int) -> StepData:
        if job.get("die") == [dist.get_rank(), step]:
            os.kill(os.getpid(), signal.SIGKILL)
        return step_data(step, 12, dtype)

    history = train(
        model, job["steps"], data, optimizer_config(job), SCHEDULE, BALANCE, context, "test",
        checkpoint_seconds=job.get("checkpoint_seconds", 0.0), how=StepConfig(2), parallel=parallel,
    )  # fmt: skip
    return {"curve": history.curve}


def rank_main(rank: int, folder: Path) -> None:
    os.environ["RANK"] = str(rank)
    torch.set_num_threads(1)
    ranks = join()

    def work() -> None:
        out = []
        for job in json.loads((folder / "jobs.json").read_text()):
            ops.use_native(job.get("dtype") == "float32")
            out.append({"compare": compare, "train": run}[job["do"]](job, folder))
            if rank == 0:
                (folder / "results.json").write_text(json.dumps(out))

    ranks.together(work)
    os._exit(0)


def main(processes: int, folder: Path, work: Callable[[int, Path], None] = rank_main) -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    os.environ |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = []
    for rank in range(processes):
        if (child := os.fork()) == 0:
            try:
                work(rank, folder)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        children.append(child)
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    (folder / "ended.json").write_text(json.dumps(ended))
    return max(map(abs, ended))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))

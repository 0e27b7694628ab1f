"""Training at 32,768 tokens with context parallel: the loss of one process, and what each rank needs for it.

    python benchmarks/context_parallel.py [--tokens 32768] [--ranks 2] [--steps 3]

A tiny qwen3_moe (width 32, 2 layers) is trained on sequences of 32k tokens by one process and by `--ranks` gloo
processes on this machine, from the same weights on the same data, in float32 with native kernels and in float64.
Printed: loss and gradient norm of every step, their differences, seconds a step and peak memory of a rank. Ranks share
the machine's cores, so seconds say nothing of speed-up.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from qwill.model import ops
from qwill.model.batch import Batch
from qwill.model.config import ModelConfig
from qwill.model.initial import init_weights
from qwill.model.transformer import Transformer
from qwill.train.mesh import make_mesh, resolve_mesh
from qwill.train.optim import make_optimizers
from qwill.train.parallel import Parallel, parallelize
from qwill.train.ranks import join
from qwill.train.settings import MeshConfig, OptimizerConfig, StepConfig
from qwill.train.step import StepData, backward

VOCAB = 512


def config(tokens: int) -> ModelConfig:
    return ModelConfig(
        "qwen3_moe", VOCAB, 32, 2, 2, 1, 16, 0, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
        max_position_embeddings=tokens, rope_theta=1e6,
    )  # fmt: skip


def data(step: int, tokens: int, dtype: torch.dtype) -> StepData:
    """One sequence of all tokens, in which each stretch comes again half the context later."""
    g = torch.Generator().manual_seed(step)
    half = torch.randint(0, VOCAB, (tokens // 2 + 1,), generator=g)
    ids = torch.cat([half, half])[: tokens + 1]
    weight = torch.full((tokens,), 1 / tokens, dtype=dtype)
    return StepData(Batch.pack([ids[:-1]]), ids[1:], weight, f"step {step}")


def train(tokens: int, steps: int, name: str, parallel: Parallel | None, model: Transformer) -> dict[str, object]:
    dtype = getattr(torch, name)
    optimizers = make_optimizers(model, OptimizerConfig("muon"), parallel)
    curve, began = [], time.perf_counter()
    for step in range(steps):
        part = data(step, tokens, dtype)
        if parallel is None:
            done = backward(model, [part], 0.01, "running")
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        else:
            done = parallel.backward(part, 0.01, StepConfig())
            norm = parallel.clip(1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if parallel is not None:
            parallel.zero_gradients()
        curve.append((done.loss, norm))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"curve": curve, "seconds": (time.perf_counter() - began) / steps, "peak_mib": peak}


def run(rank: int, world: int, arguments: argparse.Namespace, name: str, out: Path) -> None:
    torch.set_num_threads(1)
    ops.use_native(name == "float32")
    model = Transformer(config(arguments.tokens))
    init_weights(model, torch.Generator().manual_seed(0))
    model = model.to(getattr(torch, name))
    if world == 1:
        result = train(arguments.tokens, arguments.steps, name, None, model)
    else:
        os.environ["RANK"] = str(rank)

        def work() -> dict[str, object]:
            parallel = parallelize(model, make_mesh(resolve_mesh(MeshConfig(cp=world), world)))
            return train(arguments.tokens, arguments.steps, name, parallel, model)

        result = join().together(work)
    (out / f"{world}-{rank}-{name}.json").write_text(json.dumps(result))
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"], choices=["float32", "float64"])
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        out = Path(folder)
        for name in arguments.dtypes:
            for world in (1, arguments.ranks):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", 0))
                    port = s.getsockname()[1]
                os.environ |= {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                children = []
                for rank in range(world):
                    if (child := os.fork()) == 0:
                        try:
                            run(rank, world, arguments, name, out)
                        finally:
                            os._exit(1)
                    children.append(child)
                if any([os.waitpid(child, 0)[1] for child in children]):
                    sys.exit(f"a process of {world} failed")
            alone, many = (json.loads((out / f"{w}-0-{name}.json").read_text()) for w in (1, arguments.ranks))
            print(f"{name}, {arguments.tokens} tokens, {arguments.ranks} ranks")
            for step, (a, b) in enumerate(zip(alone["curve"], many["curve"], strict=True)):
                print(f"  step {step}: loss {a[0]:.9f} and {b[0]:.9f} (|Δ| {abs(a[0] - b[0]):.1e}), "
                      f"gradient norm {a[1]:.6f} (|Δ| {abs(a[1] - b[1]):.1e})")  # fmt: skip
            for w, r in ((1, alone), (arguments.ranks, many)):
                print(f"  {w} process(es): {r['seconds']:.1f} s a step, peak {r['peak_mib']:.0f} MiB a rank")


if __name__ == "__main__":
    main()

"""Peak memory and time of a training step: kept or recomputed activations, whole or in micro-batches.

    .venv/bin/python benchmarks/training_memory.py [--rows 16] [--width 512]

A process a set-up (benchmarks/pretraining.py's dense model, without an optimiser): the growth of its peak resident size
over the model's weights and gradients, and the processor time of a step, median of three.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

SETUPS = [(1, "none"), (4, "none"), (1, "layer"), (4, "layer")]


def resident() -> float:
    """Peak resident MiB of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(parts: int, recompute: str, rows: int, width: int, threads: int) -> None:
    import torch
    from pretraining import DENSE

    from qwill.model.batch import Batch
    from qwill.model.initial import init_weights
    from qwill.model.transformer import Transformer
    from qwill.train.recompute import recomputing
    from qwill.train.step import StepData, backward, split

    torch.set_num_threads(threads)
    model = Transformer(DENSE)
    init_weights(model, torch.Generator().manual_seed(0))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    tokens = torch.randint(0, DENSE.vocab_size, (rows, width + 1), generator=torch.Generator().manual_seed(1))
    count = rows * width
    data = StepData(Batch.rows(tokens[:, :-1]), tokens[:, 1:].reshape(-1), torch.full((count,), 1 / count), "random")
    before, seconds, loss = resident(), [], 0.0
    with recomputing(model, recompute):  # type: ignore[arg-type]
        for _ in range(3):
            started = time.process_time()
            loss = backward(model, split(data, parts), 0.0, "running").loss
            seconds.append(time.process_time() - started)
    print(json.dumps({"mib": resident() - before, "seconds": statistics.median(seconds), "loss": loss}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worker", nargs=2, metavar=("PARTS", "RECOMPUTE"))
    a = parser.parse_args()
    if a.worker:
        work(int(a.worker[0]), a.worker[1], a.rows, a.width, a.threads)
        return
    print(f"{a.rows} × {a.width} tokens\n\n| micro-batches | recompute | MiB over weights and gradients | s a step |")
    print("|---|---|---|---|")
    for parts, recompute in SETUPS:
        command = [sys.executable, __file__, "--rows", str(a.rows), "--width", str(a.width), "--threads"]
        command += [str(a.threads), "--worker", str(parts), recompute]
        made = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"| {parts} | {recompute} | {made['mib']:.0f} | {made['seconds']:.2f} |", flush=True)


if __name__ == "__main__":
    main()

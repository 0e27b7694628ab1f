"""Our side of benchmarks/pretraining.py: one model in the step that `qwill pretrain` takes, told line by line.

`go`: a round of ROUND_STEPS steps, answered with its seconds. `peak`: GFLOP/s of a large matrix product, PyTorch's and
ours. `profile`: seconds of a step by what they are spent on, from a clock around every native kernel.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from qwill.model import native, native_losses, native_products, ops
from qwill.model.batch import Batch
from qwill.model.files import load_model
from qwill.train.step import StepData, backward

ROUND_STEPS = 3
SIDE = 2048
PARTS = ("matrix products", "attention", "elementwise", "loss: products", "loss: the rest", "optimiser", "other")
PRODUCTS = ("products", "products_of", "outer_products", "pack_weights", "pack_rows")


class Run:
    """The model, its tokens and its optimiser."""

    def __init__(self, folder: str, rows: int, width: int) -> None:
        self.model = load_model(folder).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, self.model.config.vocab_size, (rows, width + 1), generator=generator)
        weight = torch.full((rows * width,), 1.0 / (rows * width))
        self.data = StepData(Batch.rows(tokens[:, :-1]), tokens[:, 1:].reshape(-1), weight, "random tokens")

    def gradients(self) -> float:
        balance = self.model.config.router_aux_loss_coef
        result = backward(self.model, [self.data], balance, "running")
        return result.loss + balance * (result.balance or 0.0)

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> float:
        loss = self.gradients()
        self.update()
        return loss


def peak() -> dict[str, float]:
    """GFLOP/s of a SIDE³ product, best of five: by torch.mm and by our kernel."""
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    out = {}
    for name, multiply in (("torch", torch.mm), ("ours", lambda a, b: ops.multiply(a[None], b[None], True))):
        multiply(a, b)
        best = float("inf")
        for _ in range(5):
            started = time.perf_counter()
            multiply(a, b)
            best = min(best, time.perf_counter() - started)
        out[name] = 2 * SIDE**3 / best / 1e9
    return out


@contextmanager
def clocks(spent: dict[str, float]) -> Iterator[None]:
    """Adds up the seconds of each kernel by PARTS; the loss's kernels apart, as it makes its gradients in one go."""
    call, in_loss = native.call, False

    def timed(name: str, *arguments: Any) -> None:
        started = time.perf_counter()
        call(name, *arguments)
        if in_loss:
            part = "loss: products" if name in PRODUCTS else "loss: the rest"
        elif name in PRODUCTS:
            part = "matrix products"
        else:
            part = "attention" if name.startswith("attention") else "elementwise"
        spent[part] += time.perf_counter() - started

    loss = native.cross_entropy

    def timed_loss(*arguments: Any) -> Any:
        nonlocal in_loss
        started, before = time.perf_counter(), spent["loss: products"] + spent["loss: the rest"]
        in_loss = True
        try:
            return loss(*arguments)
        finally:
            in_loss = False
            kernels = spent["loss: products"] + spent["loss: the rest"] - before
            spent["loss: the rest"] += time.perf_counter() - started - kernels

    native.call = native_products.call = native_losses.call = timed
    native.cross_entropy = timed_loss
    try:
        yield
    finally:
        native.call = native_products.call = native_losses.call = call
        native.cross_entropy = loss


def profile(run: Run) -> dict[str, float]:
    """Seconds of a step, by PARTS, mean over ROUND_STEPS; `other` is what no clock stood around (autograd, Python,
    indexing and adding in PyTorch)."""
    spent = dict.fromkeys(PARTS, 0.0)
    whole = time.perf_counter()
    for _ in range(ROUND_STEPS):
        with clocks(spent):
            run.gradients()
        started = time.perf_counter()
        run.update()
        spent["optimiser"] += time.perf_counter() - started
    whole = time.perf_counter() - whole
    spent["other"] = whole - sum(spent.values())
    return {name: seconds / ROUND_STEPS for name, seconds in spent.items()}


def main(folder: str, rows: int, width: int, threads: int) -> None:
    torch.set_num_threads(threads)
    run = Run(folder, rows, width)
    first = run.step()
    run.step()
    print(json.dumps({"ready": True, "loss": first}), flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "peak":
            answer = peak()
        elif word == "profile":
            answer = profile(run)
        else:
            started = time.perf_counter()
            for _ in range(ROUND_STEPS):
                run.step()
            answer = {"seconds": time.perf_counter() - started}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))

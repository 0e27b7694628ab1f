"""Loading and saving a model folder: against a plain read and a plain write of the same bytes, and transformers.

    .venv/bin/python benchmarks/loading.py [--peer-python PYTHON_WITH_TRANSFORMERS] [--mebibytes 800]

A qwen3_moe model is written once, as float32. Then, in turns, each time in a process of its own with its modules
imported beforehand and fresh memory (what a page costs at its first touch is part of loading):

- read: the file into memory, in pieces of 4 MiB; load: `load_model`; peer: `from_pretrained`, experts fused as its own.
- write: the model's bytes to a file, then fsync; save: `save_model`, which waits for the disk too.

Warm: the file is in the page cache. Cold: it was dropped from it before. Growth is the largest resident memory over
that before the load or save, by the model's bytes. Rounds with more than 10 % of the CPU stolen are thrown away.
Claim: loading at least 0.8 times as quick as a plain read, in at most 1.1 times the model's memory; saving takes at
most 0.1 of it besides the model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from compare import MOST_STOLEN, write_section

from qwill.base.device import cpu_steal

PIECE = 4 << 20
PEER = """
import json, sys, time
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeForCausalLM
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
before, started = peak(), time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
print(json.dumps({"seconds": time.perf_counter() - started, "growth": peak() - before}))
"""


def peak() -> int:
    """The largest resident memory of this process so far, bytes."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def work(what: str, folder: Path, threads: int) -> None:
    """One measurement: seconds and growth of the largest resident memory."""
    import torch

    from qwill.model import load_model, save_model
    from qwill.model.transformer import Transformer  # noqa: F401  (imported outside the measured time)

    torch.set_num_threads(threads)
    file = folder / "model.safetensors"

    def read() -> object:
        memory = torch.empty(file.stat().st_size, dtype=torch.uint8)
        view, at = memory.numpy().data, 0
        with open(file, "rb", buffering=0) as f:
            while count := f.readinto(view[at : at + PIECE]):
                at += count
        return memory

    def write() -> object:
        with tempfile.NamedTemporaryFile(dir=folder.parent, buffering=0) as f:
            for p in parameters:
                f.write(p)
            os.fsync(f.fileno())
        return None

    def save() -> object:
        with tempfile.TemporaryDirectory(dir=folder.parent) as target:
            save_model(model, Path(target))
        return None

    if what in ("write", "save"):
        model = load_model(folder)
        parameters = [p.detach().view(-1).numpy().data for p in model.parameters()]
    # What a process has once touched and given back would hide growth of up to its size.
    steps: dict[str, Callable[[], object]] = {
        "read": read, "load": lambda: load_model(folder), "write": write, "save": save,
    }  # fmt: skip
    before, started = peak(), time.perf_counter()
    kept = steps[what]()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "growth": peak() - before}))
    del kept


def drop(path: Path) -> None:
    """Leave a file's pages out of the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def make(folder: Path, mebibytes: int) -> int:
    """Write a model of about that size; its bytes."""
    import torch

    from qwill.model import ModelConfig, save_model
    from qwill.model.initial import init_weights
    from qwill.model.transformer import Transformer

    layers = max(1, round(mebibytes / 88))
    config = ModelConfig(
        "qwen3_moe", 16384, 768, layers, 12, 4, 64, 0, num_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=1152, tie_word_embeddings=False,
    )  # fmt: skip
    model = Transformer(config)
    init_weights(model, torch.Generator().manual_seed(0))
    save_model(model, folder)
    return sum(p.nbytes for p in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python")
    parser.add_argument("--mebibytes", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to write the model; on the disk that is to be measured")
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    parser.add_argument("--worker", nargs=2, metavar=("WHAT", "FOLDER"))
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker[0], Path(arguments.worker[1]), arguments.threads)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name) / "model"
        size = make(folder, arguments.mebibytes)
        file = folder / "model.safetensors"
        own = [sys.executable, __file__, "--threads", str(arguments.threads), "--worker"]
        commands = {what: [*own, what, str(folder)] for what in ("read", "load", "write", "save")}
        if arguments.peer_python:
            commands["peer"] = [arguments.peer_python, "-c", PEER, str(folder)]
        order = [("read", True), ("load", True), ("read", False), ("load", False), ("write", False), ("save", False)]
        order += [("peer", False)] if arguments.peer_python else []
        seconds: dict[tuple[str, bool], list[float]] = {key: [] for key in order}
        growth: dict[str, float] = {}
        dropped, most_stolen = 0, 0.0
        while min(map(len, seconds.values())) < arguments.rounds and dropped < arguments.rounds:
            before, taken = cpu_steal(), []
            for what, cold in order:
                if cold:
                    drop(file)
                else:
                    file.read_bytes()
                done = subprocess.run(commands[what], stdout=subprocess.PIPE, text=True, check=True)
                said = json.loads(done.stdout.splitlines()[-1])
                taken.append(said["seconds"])
                growth[what] = max(growth.get(what, 0), said["growth"] / size)
            after = cpu_steal()
            stolen = (after[0] - before[0]) / max(1, after[1] - before[1])
            if stolen > MOST_STOLEN:
                dropped += 1
                continue
            most_stolen = max(most_stolen, stolen)
            for key, value in zip(order, taken, strict=True):
                seconds[key].append(value)

    def speed(what: str, cold: bool) -> str:
        rates = [size / 2**30 / s for s in seconds[what, cold]]
        return f"{statistics.median(rates):.2f} GiB/s ({min(rates):.2f} to {max(rates):.2f})"

    def ratio(mine: str, plain: str, cold: bool) -> tuple[float, str]:
        ratios = [p / m for m, p in zip(seconds[mine, cold], seconds[plain, cold], strict=True)]
        middle = statistics.median(ratios)
        return middle, f"{middle:.2f}× ({min(ratios):.2f} to {max(ratios):.2f})"

    rows = ["| | plain | ours | ours to plain |", "|---|---|---|---|"]
    met = True
    for label, mine, plain, cold in (
        ("load, file cached", "load", "read", False), ("load, file not cached", "load", "read", True),
        ("save", "save", "write", False),
    ):  # fmt: skip
        middle, shown = ratio(mine, plain, cold)
        met = met and (middle >= 0.8 or mine == "save")
        rows.append(f"| {label} | {speed(plain, cold)} | {speed(mine, cold)} | {shown} |")
    met = met and growth["load"] <= 1.1 and growth["save"] <= 0.1
    body = (
        f"A qwen3_moe folder of {size / 2**20:.0f} MiB, float32, {arguments.threads} threads; each measurement in a "
        f"process of its own; {len(seconds[order[0]])} rounds, {dropped} dropped for stolen CPU, at most "
        f"{100 * most_stolen:.1f} % stolen in the rest.\n\n" + "\n".join(rows) + "\n\nMemory beyond what was there "
        f"before, by the model's bytes: load {growth['load']:.2f}, save {growth['save']:.2f}"
    )
    if arguments.peer_python:
        body += f"; transformers' from_pretrained {growth['peer']:.2f}, at {speed('peer', False)}, file cached"
    body += f". Claims (load at 0.8 of a plain read, in 1.1 of the memory, save in 0.1): {'met' if met else 'MISSED'}."
    print(body)
    if not arguments.dry:
        write_section("Loading and saving a model folder", body)


if __name__ == "__main__":
    main()

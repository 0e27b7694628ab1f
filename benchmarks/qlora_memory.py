"""Memory of training an adapter: on float32 weights, on 8 bits, on 4 bits; and what the numbers are worth.

    .venv/bin/python benchmarks/qlora_memory.py [--rows 2] [--width 128]

SmolLM2-135M's weights as three folders, a process for each: MiB that its weights take, the most that a step (forward,
backward, recomputed layer by layer) takes beyond them, processor seconds of the step, and how far the adapter's
gradient is from the one on the floats that the integers stand for (relative, float32).
Claim (issue 8): a base that stays integers takes their memory and no more than one matrix of floats on top.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KINDS = ("float32", "int8", "int4")


def resident() -> float:
    """MiB of this process now."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize() / 2**20


def peak() -> float:
    """The most that it was since `forget_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Linux's way to start again: reading files takes memory, too."""
    Path("/proc/self/clear_refs").write_text("5")


def make(folder: Path) -> None:
    import torch

    import qwill
    from qwill.model.files import save_model
    from qwill.model.quantize import Scheme, quantize_folder

    torch.set_num_threads(1)
    lm = qwill.load("smollm2")
    save_model(lm.model, folder / "float32", lm.tokenizer)
    quantize_folder(folder / "float32", folder / "int8", scheme=Scheme(8, None, "int-quantized"))
    quantize_folder(folder / "float32", folder / "int4", scheme=Scheme(4, 32, "pack-quantized"))


def work(folder: Path, kind: str, rows: int, width: int) -> None:
    import torch

    from qwill.model import ops
    from qwill.model.batch import Batch
    from qwill.model.files import load_model
    from qwill.model.lora import attach, new_adapter
    from qwill.model.lora_config import LoraConfig
    from qwill.train.recompute import recomputing

    torch.set_num_threads(1)
    begun = resident()
    quantized = kind != "float32"
    model = load_model(folder / kind, quantized=quantized)
    weights = resident() - begun
    tokens = torch.randint(0, 40_000, (rows, width), generator=torch.Generator().manual_seed(1))

    def step(model: Any) -> dict[str, Any]:
        adapter = new_adapter(model, LoraConfig(rank=8), torch.Generator().manual_seed(0))
        with torch.no_grad():
            for part in adapter.parts.values():
                part.b.normal_(0, 0.01, generator=torch.Generator().manual_seed(2))
        attach(model, adapter)
        with recomputing(model, "layer"):
            hidden_ND = model(Batch.rows(tokens)).hidden_ND
            weight_N = torch.full((rows * width,), 1 / (rows * width))
            total, _ = ops.cross_entropy(hidden_ND, model.head_weight_VD, tokens.flatten().roll(-1), weight_N)
            total.backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    forget_peak()
    started, before = time.process_time(), resident()
    own = step(model)
    told = {"weights": weights, "step": peak() - before, "seconds": time.process_time() - started}
    if quantized:
        other = step(load_model(folder / kind))
        told["error"] = max(float((own[n] - g).norm() / g.norm()) for n, g in other.items())
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    parser.add_argument("--worker", nargs=2, metavar=("FOLDER", "KIND"))
    a = parser.parse_args()
    if a.worker:
        work(Path(a.worker[0]), a.worker[1], a.rows, a.width)
        return
    lines = [
        "| weights | MiB of weights | MiB of a step beyond | s a step | gradient's error |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        for kind in KINDS:
            command = [sys.executable, __file__, "--rows", str(a.rows), "--width", str(a.width), "--worker", name, kind]
            made = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
            error = f"{made['error']:.1e}" if "error" in made else "(it is the measure)"
            lines.append(f"| {kind} | {made['weights']:.0f} | {made['step']:.0f} | {made['seconds']:.1f} | {error} |")
            print(lines[-1], flush=True)
    if a.write:
        from compare import write_section

        about = f"SmolLM2-135M, adapter of rank 8 on every projection, {a.rows} × {a.width} tokens, one thread; "
        about += "`benchmarks/qlora_memory.py --write`. The embedding, 108 MiB, stays float32 in all three."
        write_section("Memory of an adapter's training on integers (QLoRA)", about + "\n\n" + "\n".join(lines))


if __name__ == "__main__":
    main()

"""Memory of real training runs on this machine against `qwill.train.plan_local`'s estimate.

    .venv/bin/python benchmarks/plan_memory.py [--only NAME]

Each configuration trains for two steps of the real loop's step (`train/step.py`, AdamW, clipping) in a fresh process,
one thread, float32, native kernels. Growth is the peak of resident memory less what was resident before the model
was made, after a tiny model of the same kind has trained. Claim: runs that grow by 2 GB and more, dense and sparse, at
several context lengths, are within 10 % of the estimate.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from compare import write_section

GB = 1e9
PARTS = ("weights", "gradients", "optimizer", "activations", "buffers", "total")
BASE = {"vocab_size": 8192, "head_dim": 64, "tie_word_embeddings": True, "hidden_act": "silu",
        "hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 1024}  # fmt: skip
SPARSE = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 256}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 64,
         "linear_value_head_dim": 64, "linear_conv_kernel_dim": 4, "partial_rotary_factor": 0.25}  # fmt: skip
WIDE = {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8}
# name: (config.json beside BASE, sequences, tokens of each)
RUNS: dict[str, tuple[dict[str, Any], int, int]] = {
    "dense, 256": ({"model_type": "qwen3"}, 64, 256),
    "dense, 4096": ({"model_type": "qwen3"}, 4, 4096),
    "dense, many weights": (
        {"model_type": "qwen3", **WIDE, "num_hidden_layers": 12, "intermediate_size": 3072}, 1, 256),
    "dense, a large untied vocabulary": (
        {"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 512, "tie_word_embeddings": False}, 1, 512),
    "sparse, 512": ({"model_type": "qwen3_moe", **SPARSE}, 20, 512),
    "sparse, 2048": ({"model_type": "qwen3_moe", **SPARSE}, 5, 2048),
    "sparse, many weights": (
        {"model_type": "qwen3_moe", "hidden_size": 512, "num_attention_heads": 8, "num_experts": 32,
         "num_experts_per_tok": 2, "moe_intermediate_size": 512}, 1, 256),
    "shared expert, 1024": ({"model_type": "qwen2_moe", **SPARSE, "shared_expert_intermediate_size": 512}, 9, 1024),
    "Gated DeltaNet, 2048": ({"model_type": "qwen3_5_text", **DELTA}, 8, 2048),
}  # fmt: skip


def resident() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def work(name: str) -> None:
    """One run in this process; prints what it grew by, and the estimate."""
    import torch

    from qwill.model import native
    from qwill.model.batch import Batch
    from qwill.model.config import ModelConfig
    from qwill.model.initial import init_weights
    from qwill.model.transformer import Transformer
    from qwill.train.optim import make_optimizers
    from qwill.train.plan_local import local_memory
    from qwill.train.settings import OptimizerConfig
    from qwill.train.step import StepData, backward

    def train(config: ModelConfig, rows: int, context: int) -> None:
        model = Transformer(config)
        init_weights(model, torch.Generator().manual_seed(0))
        optimizers = make_optimizers(model, OptimizerConfig(optimizer="adamw"))
        tokens = torch.randint(0, config.vocab_size, (rows, context + 1), generator=torch.Generator().manual_seed(1))
        weight = torch.full((rows * context,), 1.0 / (rows * context))
        data = StepData(Batch.rows(tokens[:, :-1]), tokens[:, 1:].reshape(-1), weight, "random tokens")
        for _ in range(2):
            backward(model, [data], 0.01, "running")
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

    raw, rows, context = RUNS[name]
    config = ModelConfig.from_hf(BASE | raw)
    torch.set_num_threads(1)
    assert native.libraries(), "the native kernels could not be built"
    # Code that a first step loads is no memory of the model.
    train(config.with_(hidden_size=64, vocab_size=64, num_hidden_layers=4, layer_types=config.layer_types[:4]), 1, 64)
    before = resident()
    train(config, rows, context)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    estimate = local_memory(config, rows * context)
    print(json.dumps({"grown": grown, "estimate": asdict(estimate) | {"total": estimate.total}}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=RUNS, help="Measure one run, and record nothing.")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return
    lines, worst = [], 0.0
    for name in [arguments.only] if arguments.only else RUNS:
        command = [sys.executable, __file__, "--worker", name]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        estimate, grown, (_, rows, context) = found["estimate"], found["grown"], RUNS[name]
        difference = estimate["total"] / grown - 1
        worst = max(worst, abs(difference))
        cells = " | ".join(f"{estimate[part] / GB:.2f}" for part in PARTS)
        lines.append(f"| {name} | {rows} × {context} | {grown / GB:.2f} | {cells} | {difference:+.1%} |")
        print(lines[-1], flush=True)
    if not arguments.only:
        head = f"| run | tokens | grown, GB | {' | '.join(PARTS)} | estimate |\n|{'---|' * (len(PARTS) + 4)}"
        verdict = "reached" if worst <= 0.1 else "missed"
        said = f"Estimated memory of training against measured growth, within 10 %: {verdict} (furthest {worst:.1%})."
        write_section("Planned and measured memory", "\n".join([said, "", head, *lines]))


if __name__ == "__main__":
    main()

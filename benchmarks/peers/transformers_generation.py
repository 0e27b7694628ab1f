"""The peer's side of benchmarks/generation.py: transformers' `generate`. Needs torch, transformers."""

import json
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM


def main(folder: str, rows: int, prompt: int, new: int, threads: int, experts: str) -> None:
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, experts_implementation=experts).eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, model.config.vocab_size, (rows, prompt), generator=generator)
    mask = torch.ones_like(tokens)

    @torch.inference_mode()
    def generate(count: int, **settings: object) -> torch.Tensor:
        # No end of text, so that both sides make exactly the same number of tokens.
        limits = {"max_new_tokens": count, "min_new_tokens": count, "eos_token_id": None, "pad_token_id": 0}
        return model.generate(tokens, attention_mask=mask, **limits, **settings)[:, prompt:]

    sampled = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    greedy = generate(6, do_sample=False).tolist()
    print(json.dumps({"ready": True, "greedy": greedy, "version": transformers.__version__}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        made = generate(new, **sampled)
        seconds = time.perf_counter() - started
        assert made.shape == (rows, new)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:6]), sys.argv[6])

"""The peer's side of benchmarks/generation.py: transformers' `generate`. Needs torch, transformers."""

import json
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM


def main(job: dict, experts: str) -> None:
    torch.set_num_threads(job["threads"])
    model = AutoModelForCausalLM.from_pretrained(
        job["folder"], dtype=torch.float32, experts_implementation=experts
    ).eval()
    prompts, batch, most = torch.tensor(job["prompts"]), job["batch"], job["most"]

    @torch.inference_mode()
    def generate(rows: torch.Tensor, **settings: object) -> list[list[int]]:
        mask = torch.ones_like(rows)
        out = model.generate(rows, attention_mask=mask, pad_token_id=0, **settings)
        return out[:, rows.shape[1] :].tolist()

    def until_stop(ids: list[int], stop: set[int]) -> int:
        return next((i + 1 for i, token in enumerate(ids) if token in stop), len(ids))

    def rollouts(samples: int, stop: list[int]) -> int:
        """Tokens of `samples` replies to each prompt, batch by batch, each counted up to its stop."""
        ends = {"eos_token_id": stop} if stop else {"eos_token_id": None, "min_new_tokens": most}
        sampled = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": most}
        total, a_time = 0, batch // samples
        for i in range(0, len(prompts), a_time):
            made = generate(prompts[i : i + a_time], num_return_sequences=samples, **sampled, **ends)
            total += sum(until_stop(ids, set(stop)) for ids in made)
        return total

    greedy = generate(prompts, do_sample=False, max_new_tokens=6, eos_token_id=None)
    print(json.dumps({"ready": True, "greedy": greedy, "version": transformers.__version__}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        tokens = rollouts(job["samples"], job["stop"])
        seconds = time.perf_counter() - started
        # Replies are as long as chance has it: seconds for a fixed number of tokens are what compares.
        print(json.dumps({"seconds": seconds * job["tokens"] / tokens, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])

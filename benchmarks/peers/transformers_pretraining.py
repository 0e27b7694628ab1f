"""The peer's side of benchmarks/pretraining.py: transformers' own class in the same loop. Needs torch, transformers."""

import json
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM

ROUND_STEPS = 3


def main(folder: str, rows: int, width: int, threads: int, variant: str) -> None:
    torch.set_num_threads(threads)
    experts, _, compiled = variant.partition("+")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, experts_implementation=experts).train()
    sparse = hasattr(model.config, "num_experts")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model) if compiled else model
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, model.config.vocab_size, (rows, width + 1), generator=generator)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].reshape(-1)
    extra = {"output_router_logits": True} if sparse else {}

    def step() -> float:
        # The loss outside the class, as the class would shift the labels once more; the class adds nothing to it here.
        out = forward(inputs, use_cache=False, **extra)
        loss = torch.nn.functional.cross_entropy(out.logits.view(-1, out.logits.shape[-1]), targets)
        if sparse:
            from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

            config = model.config
            balance = load_balancing_loss_func(out.router_logits, config.num_experts, config.num_experts_per_tok)
            loss = loss + config.router_aux_loss_coef * balance
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    first = step()
    step()
    print(json.dumps({"ready": True, "loss": first, "version": transformers.__version__}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(ROUND_STEPS):
            step()
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])

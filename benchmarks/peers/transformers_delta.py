"""The peer's side of benchmarks/delta.py: transformers' PyTorch code for the rule. Needs torch, transformers."""

import json
import sys
import time

import torch
import transformers
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule


def main(tokens: int, key_heads: int, heads: int, width: int, threads: int) -> None:
    torch.set_num_threads(threads)
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, tokens, h, width, generator=g) for h in (key_heads, key_heads, heads))
    log_decay, beta = (torch.rand(1, tokens, heads, generator=g) for _ in range(2))
    log_decay, projection = -log_decay, torch.randn(1, tokens, heads, width, generator=g)
    leaves = [x.requires_grad_() for x in (q, k, v, log_decay, beta)]

    def step() -> float:
        out, _ = torch_chunk_gated_delta_rule(*leaves[:3], g=log_decay, beta=beta, use_qk_l2norm_in_kernel=True)
        out.backward(projection)
        size = float(out.detach().norm()) + sum(float(x.grad.norm()) for x in leaves)
        for x in leaves:
            x.grad = None
        return size

    size = step()
    print(json.dumps({"ready": True, "size": size, "version": transformers.__version__}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        step()
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""AdamW and Muon, and which parameter gets which.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces a matrix's momentum by its nearest orthogonal
matrix: fewer tokens to the same loss than AdamW. Embeddings, head, norms, biases and routers stay with AdamW.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qwill.base.errors import TrainingError
from qwill.model import ops
from qwill.model.config import ModelConfig
from qwill.model.transformer import Transformer
from qwill.train.settings import OptimizerConfig, ScheduleConfig

if TYPE_CHECKING:
    from qwill.train.parallel import Parallel

# Newton–Schulz steps p(x) = a·x + b·x³ + c·x⁵ that bring singular values from [1e-3, 1] near 1 (Polar Express,
# arXiv 2505.16932, table 1); the last pair is repeated for further steps.
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)

# Parameters of two and three axes that are left to AdamW: routers, gates of one row, convolutions along time.
NOT_MATRICES = ("mlp.gate.weight", "shared_expert_gate.weight", "conv1d")


def orthogonalize(g: Tensor, steps: int) -> Tensor:
    """The nearest (semi-)orthogonal matrix of g, for each matrix of a batch [..., rows, columns]."""
    x = g.mT if g.shape[-2] > g.shape[-1] else g
    x = x.reshape(-1, *x.shape[-2:])
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-7)
    for a, b, c in POLAR_EXPRESS[:steps]:
        gram = ops.multiply(x, x, transposed=True)
        # gram is symmetric: its own transpose
        x = a * x + ops.multiply(b * gram + c * ops.multiply(gram, gram, transposed=True), x)
    return (x.mT if g.shape[-2] > g.shape[-1] else x).reshape(g.shape)


def decay_and_update(p: nn.Parameter, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Decay the weight, take the gradient into its momentum, and return Nesterov's look ahead."""
    if not state:
        state["momentum"] = torch.zeros_like(p)
    buffer = state["momentum"].lerp_(grad, 1 - group["momentum"])
    p.mul_(1 - group["lr"] * group["weight_decay"])
    return grad.lerp(buffer, group["momentum"])


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled by 0.2·sqrt(max(rows, columns)) so that one rate fits AdamW's scale
    (Moonlight, arXiv 2502.16982, eq. 4). `parts` cuts fused matrices into the model's own: q, k, v; gate, up."""

    def __init__(
        self, params: list[dict[str, Any]], lr: float, momentum: float, weight_decay: float, steps: int
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = decay_and_update(p, p.grad, self.state[p], group)
                for part, target in zip(
                    update.split(group["parts"], dim=-2), p.split(group["parts"], dim=-2), strict=True
                ):
                    rows, columns = part.shape[-2:]
                    scale = 0.2 * max(rows, columns) ** 0.5
                    target.add_(orthogonalize(part, group["steps"]), alpha=-group["lr"] * scale)


def row_parts(name: str, rows: int, config: ModelConfig) -> tuple[int, ...]:
    """How many rows each of the model's own matrices has in the fused parameter `name` (transformer.py)."""
    c = config
    if name.endswith("qkv_proj.weight"):
        heads, kv_heads = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        return (heads, kv_heads, kv_heads, heads) if c.gated_attention else (heads, kv_heads, kv_heads)
    if name.endswith("linear_attn.in_proj.weight"):
        keys, heads = c.linear_num_key_heads * c.linear_key_head_dim, c.linear_num_value_heads
        return (keys, keys, *[heads * c.linear_value_head_dim] * 2, heads, heads)
    if name.endswith(("gate_up", "gate_up_proj.weight")):
        return (rows // 2, rows // 2)
    return (rows,)


def make_optimizers(
    model: Transformer, config: OptimizerConfig, parallel: Parallel | None = None
) -> list[torch.optim.Optimizer]:
    """The optimisers of every parameter that asks for gradients; frozen ones (under an adapter) are left alone. With
    `parallel` they work on this rank's shards.

    Raises TrainingError when nothing is to be trained, or a weight that is has fewer bits than float32: an update is
    often smaller than bfloat16's step at the weight (2^-8 of it) and would be rounded away.
    """
    matrices: dict[tuple[int, ...], list[nn.Parameter]] = {}
    vectors, embeddings = [], []
    if parallel is None:
        named = [(name, p, tuple(p.shape)) for name, p in model.named_parameters()]
    else:
        named = [(s.name, s.local, s.whole) for s in parallel.shards]
    for name, p, shape in named:
        if not p.requires_grad or name.startswith("mtp."):  # nothing is computed from the head that predicts ahead
            continue
        if p.dtype not in (torch.float32, torch.float64):
            raise TrainingError(
                f"the weight {name} is {str(p.dtype).removeprefix('torch.')}, in which small updates vanish; load the "
                "model as float32 (`dtype: bfloat16` still computes matrix products in bfloat16)."
            )
        if name in ("embed_tokens.weight", "lm_head.weight"):
            embeddings.append(p)
        elif p.ndim < 2 or name.endswith(NOT_MATRICES) or ".updates." in name:  # the last: of an adapter
            vectors.append(p)
        else:
            matrices.setdefault(row_parts(name, shape[-2], model.config), []).append(p)
    adam_groups = [
        {"params": vectors, "lr": config.learning_rate, "weight_decay": 0.0},
        {"params": embeddings, "lr": config.embedding_rate or config.learning_rate, "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw" and matrices:
        every = [p for group in matrices.values() for p in group]
        adam_groups.append({"params": every, "lr": config.matrix_rate, "weight_decay": config.weight_decay})
    adam_groups = [g for g in adam_groups if g["params"]]
    if not adam_groups and not matrices:
        raise TrainingError("no weight of the model asks for gradients, so there is nothing to train; unfreeze some.")
    optimizers: list[torch.optim.Optimizer] = []
    if adam_groups:  # fused: 4 to 8 times quicker on a CPU than foreach (LOG.md, 2026-11-24)
        adam = torch.optim.AdamW(adam_groups, betas=(config.beta1, config.beta2), eps=1e-10, fused=True)
        optimizers.append(adam)
    if config.optimizer == "muon" and matrices:
        groups = [{"params": ps, "parts": list(parts)} for parts, ps in matrices.items()]
        settings = (config.matrix_rate, config.momentum, config.weight_decay, config.newton_schulz_steps)
        if parallel is None:
            optimizers.append(Muon(groups, *settings))
        else:
            from qwill.train.muon_shards import ShardedMuon

            optimizers.append(ShardedMuon(groups, *settings, parallel))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def rate_factor(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """What the peak rates are multiplied by at step `step` (from 0) of `steps`."""
    warm = max(1, round(schedule.warmup * steps))
    cool = round(schedule.decay * steps)
    factor = min(1.0, (step + 1) / warm)
    if cool and step >= steps - cool:
        left = (steps - step) / (cool + 1)
        if schedule.shape == "cosine":
            left = (1 - math.cos(math.pi * left)) / 2
        factor = min(factor, schedule.final + (1 - schedule.final) * left)
    return factor


def set_rates(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor

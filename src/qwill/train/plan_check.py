"""Run a mesh for real, without memory: every pipeline stage's rank is built on the meta device with the shapes that the
mesh leaves it, and goes forward and backward through one micro-batch.

What is checked: that the model's own code accepts the shards (heads, columns, experts, vocabulary rows), that they hold
as many weights as the plan says, and that the products they do are the plan's FLOPs as `torch.utils.flop_counter` sees
them. What is not: communication, and the keys of other ranks' tokens (cp: a rank's own tokens see each other only).
On the meta device nothing has a value, so routing is taken as balanced: k rows a token for the rank's experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from qwill.model import ops
from qwill.model.batch import Batch
from qwill.model.config import ModelConfig
from qwill.model.flops import Flops, backward_flops, layer_flops
from qwill.model.transformer import Experts, Transformer
from qwill.train.plan_memory import stages, weights_of_rank
from qwill.train.plan_mesh import Mesh

LOSS_CHUNK = 1024


@dataclass(frozen=True)
class Checked:
    """What the rank of one stage has and does for one micro-batch of `tokens`, and what the plan says."""

    stage: int
    layers: int
    tokens: int
    weights: int
    planned_weights: float
    flops: float
    planned_flops: float

    @property
    def agrees(self) -> bool:
        """To 1 % in FLOPs and 0.1 % in weights: the plan takes biases and filters as whole on every tp rank."""
        flops, weights = self.flops / self.planned_flops, self.weights / self.planned_weights
        return abs(flops - 1) < 0.01 and abs(weights - 1) < 0.001


def run_on_meta(config: ModelConfig, mesh: Mesh, context: int) -> list[Checked]:
    """One sequence through a rank of every stage that differs from those before it; nothing is allocated."""
    found, seen, first = [], set(), 0
    for number, stage in enumerate(stages(config, mesh.pp, context)):
        kind = (stage.flops, stage.embedding, stage.head, stage.size)
        if kind not in seen:
            seen.add(kind)
            found.append(_run(config, mesh, context, number, range(first, first + stage.layers)))
        first += stage.layers
    return found


def rank_model(config: ModelConfig, mesh: Mesh, layers: range, head: bool) -> Transformer:
    """A rank's shard of those layers, as a Transformer on the meta device, bfloat16; the router is whole."""
    c, tp = config, mesh.tp
    own = c.with_(
        num_hidden_layers=len(layers),
        layer_types=c.layer_types[layers.start : layers.stop],
        mlp_only_layers=tuple(n for n, i in enumerate(layers) if not c.is_sparse(i)),
        decoder_sparse_step=1,
        num_attention_heads=c.num_attention_heads // tp,
        num_key_value_heads=c.num_key_value_heads // tp,
        intermediate_size=c.intermediate_size // tp,
        moe_intermediate_size=c.moe_intermediate_size // tp,
        shared_expert_intermediate_size=c.shared_expert_intermediate_size // tp,
        linear_num_key_heads=c.linear_num_key_heads // tp,
        linear_num_value_heads=c.linear_num_value_heads // tp,
        vocab_size=c.vocab_size // tp,
        tie_word_embeddings=c.tie_word_embeddings or not head,
        mtp_layers=0,
    )
    with torch.device("meta"):
        model = Transformer(own)
        for layer in model.layers:
            if isinstance(layer.mlp, Experts):
                for name in ("gate_up", "down"):
                    whole = getattr(layer.mlp, name)
                    setattr(layer.mlp, name, nn.Parameter(torch.empty(c.num_experts // mesh.ep, *whole.shape[1:])))
    return model.to(torch.bfloat16)


class _Balanced(TorchFunctionMode):
    """Counting needs values; on the meta device the counts' shape is all there is."""

    def __torch_function__(self, f: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if f is torch.bincount:
            return args[0].new_empty((kwargs or {})["minlength"])
        return f(*args, **(kwargs or {}))


def _grouped_flops(a_shape: Any, b_shape: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Rows in groups times a matrix of each group's [E, D, F]; or the gradient of those matrices, from rows twice."""
    rows, inner = (a_shape[-2], a_shape[-1])
    return int(2 * rows * inner * b_shape[-1])


def _run(config: ModelConfig, mesh: Mesh, context: int, number: int, layers: range) -> Checked:
    last = number == mesh.pp - 1
    tokens, model = context // mesh.cp, rank_model(config, mesh, layers, last)
    batch = Batch.rows(torch.empty(1, tokens, dtype=torch.int64, device="meta"))
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: _grouped_flops})
    with sdpa_kernel(SDPBackend.MATH), counter, _Balanced():
        x_ND = torch.empty(tokens, config.hidden_size, dtype=torch.bfloat16, device="meta", requires_grad=True)
        if number == 0:
            x_ND = model.embed_tokens(batch.tokens_N)
        hidden_ND = model._run(model.layers, model.norm, x_ND, batch, None).hidden_ND
        if last:
            targets_N, weight_N = torch.empty_like(batch.tokens_N), hidden_ND.new_empty(tokens)
            result, _ = ops.cross_entropy(hidden_ND, model.head_weight_VD, targets_N, weight_N, chunk=LOSS_CHUNK)
        else:
            result = hidden_ND.sum()
        result.backward()
    held = {name: p.numel() for name, p in model.named_parameters()}
    # The norm at the end belongs to the last stage; a table is on the stage that uses it.
    spare = [] if last else ["norm.weight"]
    spare += ["embed_tokens.weight"] if number and not (last and model.lm_head is None) else []
    stage = stages(config, mesh.pp, context)[number]
    planned = [layer_flops(config, i, tokens, causal=False) for i in layers]
    both = sum(_products(f) + _products(backward_flops(f)) for f in planned)
    if last:
        # Logits of more than one chunk are made again for the backward pass, and not kept (ops.cross_entropy).
        both += (6.0 if tokens <= LOSS_CHUNK else 8.0) * config.vocab_size * config.hidden_size
    router = sum(2.0 * 3 * (1 - 1 / mesh.tp) * _router(model, n) for n in range(len(layers)))
    return Checked(
        number,
        len(layers),
        tokens,
        sum(n for name, n in held.items() if name not in spare),
        sum(weights_of_rank(stage, mesh)) + (config.hidden_size if last else 0),
        counter.get_total_flops(),
        tokens * (both / mesh.tp + router),
    )


def _products(f: Flops) -> float:
    return f.total - f.solve


def _router(model: Transformer, layer: int) -> int:
    """Weights of what tensor parallelism leaves whole."""
    mlp = model.layers[layer].mlp
    if not isinstance(mlp, Experts):
        return 0
    gates: list[Tensor | None] = [mlp.gate.weight, mlp.shared_expert_gate.weight if mlp.shared_expert_gate else None]
    return sum(g.numel() for g in gates if g is not None)

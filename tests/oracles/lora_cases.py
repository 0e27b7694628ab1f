"""Adapters made from seeds: the oracle gives them to PEFT, and the tests compare with what it said."""

import torch
from torch import Tensor

from qwill.model.lora import Adapter, LowRank, new_adapter, projections
from qwill.model.lora_config import EVERY, LoraConfig
from qwill.model.transformer import Transformer

TOKENS = torch.randint(0, 61, (2, 11), generator=torch.Generator().manual_seed(4))
STACKED = ("experts.gate_up_proj", "experts.down_proj")
OURS = {
    "dense": ("dense_tied_bias", LoraConfig(rank=3, alpha=5, ranks={"k_proj": 1}, alphas={"layers.1.mlp.up_proj": 9})),
    "dense_rslora": ("dense", LoraConfig(rank=4, alpha=3, targets=("o_proj", "gate_proj"), rslora=True)),
    "experts": ("moe", LoraConfig(rank=2, alpha=3)),
    "experts_rslora": ("moe", LoraConfig(rank=4, alpha=3, targets=("q_proj", "gate_proj", "up_proj"), rslora=True)),
    "dense_and_sparse": ("moe_mixed", LoraConfig(rank=2, alpha=3, targets=(*EVERY, "mlp.gate"))),
    "shared_experts": ("hybrid", LoraConfig(rank=2, alpha=3, ranks={"gate_proj.weight": 3})),
    "shared_down": ("hybrid", LoraConfig(rank=2, alpha=3, targets=("shared_expert.down_proj",))),
    "single_experts": ("moe", LoraConfig(rank=2, alpha=3, targets=EVERY)),
    "stacked_experts": ("moe", LoraConfig(rank=2, alpha=3, targets=("q_proj", "v_proj"), parameters=STACKED)),
    "hybrid": ("hybrid", LoraConfig(rank=2, alpha=3, targets=("q_proj", "in_proj_ba", "o_proj"), parameters=STACKED)),
    "stacked_rslora": ("moe", LoraConfig(rank=4, alpha=3, targets=("k_proj",), parameters=STACKED[1:], rslora=True)),
}


def drawn(name: str, model: Transformer) -> Adapter:
    """The adapter of that name, A and B drawn."""
    adapter, g = new_adapter(model, OURS[name][1]), torch.Generator().manual_seed(11)
    if name == "single_experts":
        adapter = _one_by_one(model, OURS[name][1])
    with torch.no_grad():
        for part in adapter.parts.values():
            part.a.copy_(torch.randn(part.a.shape, generator=g) * 0.4)
            part.b.copy_(torch.randn(part.b.shape, generator=g) * 0.2)
    return adapter


def _one_by_one(model: Transformer, config: LoraConfig) -> Adapter:
    """As PEFT wrote them before transformers stacked experts, and still reads them."""
    parts = {}
    for module, t in projections(model).items():
        if module.rpartition(".")[2] in config.targets:
            stack = (t.experts,) if t.experts else ()
            a, b = torch.zeros(*stack, config.rank, t.inputs), torch.zeros(*stack, t.outputs, config.rank)
            parts[module] = LowRank(a, b, config.scale_of(module), t.rows_O)
    return Adapter(config, parts)


def probe(logits: Tensor) -> Tensor:
    """What the logits are summed with, so that each of them counts."""
    return torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))

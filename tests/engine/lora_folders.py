"""Adapters for tiny models, strong enough that each of them says something else, and the models that they make."""

import copy

import torch

from qwill.model.lora import merge, new_adapter
from qwill.model.lora_config import LoraConfig
from qwill.model.lora_files import load_adapter, save_adapter

DENSE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SPARSE = (*DENSE, "gate")
SHAPES = [  # rank, alpha, which projections
    (3, 6.0, 7), (8, 8.0, 3), (17, 20.0, 8), (1, 4.0, 8),
]  # fmt: skip


def write_adapter(model, folder, number, strength=0.8):
    """An adapter in a folder; the rank and the projections depend on its number."""
    rank, alpha, count = SHAPES[number % len(SHAPES)]
    names = SPARSE if model.config.num_experts else DENSE
    if model.config.has_linear:
        names = ("in_proj_qkvz", "out_proj", *names)
    generator = torch.Generator().manual_seed(100 + number)
    adapter = new_adapter(model, LoraConfig(rank, alpha, names[-count:] if number % 2 else names[:count]), generator)
    with torch.no_grad():
        for part in adapter.parts.values():
            part.b.copy_(torch.randn(part.b.shape, generator=generator) * strength)
    save_adapter(adapter, folder)
    return folder


def merged(model, folder):
    """The model with the adapter in its weights."""
    other = copy.deepcopy(model)
    merge(other, load_adapter(other, folder))
    return other.eval()

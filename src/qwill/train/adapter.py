"""A stage's adapter: put on before training, saved beside the model and merged into it afterwards.

A start that is stored as integers stays integers while an adapter on it is trained (QLoRA, arXiv 2305.14314). The model
that comes out is floats, like every other that training makes: each matrix multiplied out, the adapter added.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from qwill.base.artifact import read_manifest
from qwill.base.errors import ConfigError
from qwill.base.stage import StageContext
from qwill.model.files import read_config
from qwill.model.lora import Adapter, attach, merge, new_adapter
from qwill.model.lora_config import LoraConfig
from qwill.model.lora_files import save_adapter
from qwill.model.project import Quantized
from qwill.model.transformer import Transformer


def start_weights(start: Path, config: LoraConfig | None) -> Literal["float", "stored"]:
    """How a stage loads its starting model: integers as they are stored, if an adapter is to be trained on it. Raises
    ConfigError for integers that would have to be trained themselves."""
    if not start.is_dir() or read_config(start).quantization_config is None:
        return "float"
    if config is None:
        raise ConfigError(
            f"{start} is quantised, and integers can't be trained; add `lora: {{rank: 16}}` to train an adapter on it, "
            "or start from the model that it was made from."
        )
    return "stored"


def begin_adapter(model: Transformer, config: LoraConfig | None, seed: int) -> Adapter | None:
    """A new adapter on the model, the only thing with gradients; None where none is asked for."""
    if config is None:
        return None
    adapter = new_adapter(model, config, torch.Generator().manual_seed(seed))
    attach(model, adapter)
    return adapter


def finish_adapter(model: Transformer, adapter: Adapter | None, start: Path, ctx: StageContext) -> None:
    """Write the adapter to the artifact's folder `adapter`, naming the model `start` that it is for, and merge it. On
    integers it stays, and `save_model` merges one matrix at a time."""
    if adapter is None:
        return
    known = read_manifest(start) if start.is_dir() else None
    save_adapter(adapter, ctx.out / "adapter", known.content_id if known else None, {"recipe_id": ctx.recipe_id})
    if not any(isinstance(module, Quantized) for module in model.modules()):
        merge(model, adapter)

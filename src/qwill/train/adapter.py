"""A stage's adapter: put on before training, saved beside the model and merged into it afterwards."""

from __future__ import annotations

from pathlib import Path

import torch

from qwill.base.artifact import read_manifest
from qwill.base.stage import StageContext
from qwill.model.lora import Adapter, attach, merge, new_adapter
from qwill.model.lora_config import LoraConfig
from qwill.model.lora_files import save_adapter
from qwill.model.transformer import Transformer


def begin_adapter(model: Transformer, config: LoraConfig | None, seed: int) -> Adapter | None:
    """A new adapter on the model, the only thing with gradients; None where none is asked for."""
    if config is None:
        return None
    adapter = new_adapter(model, config, torch.Generator().manual_seed(seed))
    attach(model, adapter)
    return adapter


def finish_adapter(model: Transformer, adapter: Adapter | None, start: Path, ctx: StageContext) -> None:
    """Write the adapter to the artifact's folder `adapter`, naming the model `start` that it is for, and merge it."""
    if adapter is None:
        return
    known = read_manifest(start) if start.is_dir() else None
    save_adapter(adapter, ctx.out / "adapter", known.content_id if known else None, {"recipe_id": ctx.recipe_id})
    merge(model, adapter)

"""A model and its adapter made one model folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from qwill.base.artifact import content_id, identify, recipe_id, seal
from qwill.base.device import numeric_libraries
from qwill.base.files import new_folder

VERSION = 1


def merge_folders(model: Path, adapter: Path, out: Path) -> dict[str, int]:
    """Write the model with the adapter merged in, in the type its weights are stored in, with its tokenizer.

    The result is an artifact made from the model; its configuration names the adapter by content id. Returns counts:
    projections, and bytes of the weights' files. Nothing is left behind when it fails.
    """
    import torch

    from qwill.model.files import load_model, save_model, stored_dtype
    from qwill.model.lora import merge
    from qwill.model.lora_files import load_adapter
    from qwill.model.quantize import COPIED

    dtype = stored_dtype(model)
    merged = load_model(model, dtype)
    change = load_adapter(merged, adapter)
    merge(merged, change)
    made: dict[str, Any] = {
        "stage": "merge", "stage_version": VERSION, "config": {"adapter": content_id(adapter)[0]}, "seed": 0,
        "libraries": numeric_libraries(), "threads": torch.get_num_threads(), "dtype": dtype,
    }  # fmt: skip
    identity = recipe_id(inputs={"model": identify(model).content_id}, **made)
    with new_folder(out) as folder:
        save_model(merged, folder, metadata={"recipe_id": identity})
        for name in COPIED:
            if (model / name).is_file():
                shutil.copyfile(model / name, folder / name)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        counts = {"projections": len(change.parts), "bytes": size}
        seal(folder, kind="model", recipe=identity, inputs={"model": model}, metrics=counts, **made)
    return counts

"""A model and its adapter made one model folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from qwill.base.artifact import content_id, read_manifest, recipe_id, seal
from qwill.base.device import numeric_libraries
from qwill.base.files import new_folder

VERSION = 1


def merge_folders(model: Path, adapter: Path, out: Path) -> dict[str, int]:
    """Write the model with the adapter merged in, in the type its weights are stored in, with its tokenizer.

    Where the model is an artifact, so is the result, and its lineage goes on through it; the adapter is named by its
    content id. Returns counts: projections, and bytes of the weights' files. Nothing is left behind when it fails.
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
    manifest, metadata = read_manifest(model), None
    if manifest is not None:
        made: dict[str, Any] = {
            "stage": "merge", "stage_version": VERSION, "config": {"adapter": content_id(adapter)[0]}, "seed": 0,
            "libraries": numeric_libraries(), "threads": torch.get_num_threads(), "dtype": dtype,
        }  # fmt: skip
        metadata = {"recipe_id": recipe_id(inputs={"model": manifest.content_id}, **made)}
    with new_folder(out) as folder:
        save_model(merged, folder, metadata=metadata)
        for name in COPIED:
            if (model / name).is_file():
                shutil.copyfile(model / name, folder / name)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        counts = {"projections": len(change.parts), "bytes": size}
        if metadata is not None:
            seal(folder, kind="model", recipe=metadata["recipe_id"], inputs={"model": model}, metrics=counts, **made)
    return counts

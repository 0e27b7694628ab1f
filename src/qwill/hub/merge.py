"""A model and its adapter made one model folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from qwill.base.artifact import read_manifest, recipe_id, seal
from qwill.base.device import numeric_libraries
from qwill.base.files import new_folder

VERSION = 1


def merge_folders(model: Path, adapter: Path, out: Path) -> dict[str, int]:
    """Write the model with the adapter merged in, in the type its weights are stored in, with its tokenizer.

    Where both are artifacts, so is the result, and its lineage goes on through them. Returns counts: projections, and
    the bytes of the model's files. Nothing is left behind when it fails.
    """
    import torch

    from qwill.model.files import load_model, save_model, stored_dtype
    from qwill.model.lora import merge
    from qwill.model.lora_files import load_adapter
    from qwill.model.quantize import COPIED

    merged = load_model(model, stored_dtype(model))
    change = load_adapter(merged, adapter)
    merge(merged, change)
    parents = {"model": model, "adapter": adapter}
    manifests = {name: read_manifest(folder) for name, folder in parents.items()}
    known = {name: manifest.content_id for name, manifest in manifests.items() if manifest is not None}
    made = {
        "stage": "merge", "stage_version": VERSION, "seed": 0, "libraries": numeric_libraries(),
        "threads": torch.get_num_threads(), "dtype": str(stored_dtype(model)),
    }  # fmt: skip
    identity = recipe_id(inputs=known, config={}, **made) if len(known) == len(parents) else None
    with new_folder(out) as folder:
        save_model(merged, folder, metadata={"recipe_id": identity} if identity else None)
        for name in COPIED:
            if (model / name).is_file():
                shutil.copyfile(model / name, folder / name)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        counts = {"projections": len(change.parts), "bytes": size}
        if identity:
            seal(folder, kind="model", recipe=identity, inputs=parents, config={}, metrics=counts, **made)
    return counts

"""`qwill merge`: a model and its adapter, one folder."""

from __future__ import annotations

import json
from pathlib import Path

from qwill.base.errors import ModelError
from qwill.base.resolve import resolve
from qwill.hub.merge import merge_folders


def merge(model: str, adapter: Path, out: Path, as_json: bool) -> int:
    """Merge and print what came of it."""
    folder = resolve(model)
    if not folder.is_dir():
        raise ModelError(f"{model}: is no Hugging Face model folder; an adapter goes into one.")
    if out.exists() and out.resolve() in (folder.resolve(), adapter.resolve()):
        raise ModelError(f"{out}: is what is to be merged; choose another folder to write.")
    counts = merge_folders(folder, adapter, out)
    if as_json:
        print(json.dumps({"folder": str(out), **counts}, indent=2))
    else:
        print(f"{out}: {folder} with {counts['projections']} projections of {adapter}, {counts['bytes']:,} bytes")
    return 0

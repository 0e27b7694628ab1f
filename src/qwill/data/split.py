"""The held-out part: chosen by the hash of a document's text, and free of text that training sees.

A document is held out when its hash lies below a cut, so membership depends on the text and hardly on the
rest of the corpus: the cut is the least that gives the wanted bytes. Near duplicates are gone by then, but a
paragraph quoted inside a longer document is none; so candidates that share runs of 10 units with training
text go to the training part instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qwill.data.units import distinct, ngram_hashes

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class HeldOut:
    """`share` of a language's bytes is held out, at least `min_bytes`, yet at most `max_bytes` and `max_share`. `run`:
    units; a candidate with more than `max_overlap` of its runs (0..1) in training text is not held out."""

    share: float = 0.035
    min_bytes: int = 150_000
    max_bytes: int = 50_000_000
    max_share: float = 0.2
    run: int = 10
    max_overlap: float = 0.1


def candidates(sizes: NDArray[np.int64], keys: NDArray[np.uint8], config: HeldOut) -> tuple[NDArray[np.int64], str]:
    """Documents of one language that might be held out, and the cut in hexadecimal: the first key not below.

    sizes [n]: bytes. keys [n, 16]: `units.text_key` as bytes. Of fewer than two documents none is."""
    total = int(sizes.sum())
    target = min(max(config.share * total, config.min_bytes), config.max_bytes, config.max_share * total)
    words = np.ascontiguousarray(keys).view(">u8")  # so that numbers compare as the bytes do
    order = np.lexsort((words[:, 1], words[:, 0]))
    before = np.concatenate(([0], np.cumsum(sizes[order])))[:-1]
    count = min(int(np.count_nonzero(before < target)), len(order) - 1)
    if count <= 0:
        return np.empty(0, dtype=np.int64), ""
    return np.sort(order[:count]), keys[order[count]].tobytes().hex()


def runs(unit_hashes: Hashes, config: HeldOut) -> Hashes:
    """The hashes of a document's runs of `config.run` units."""
    return ngram_hashes(unit_hashes, config.run)


def settle(candidate_runs: Sequence[Hashes], seen: Hashes, config: HeldOut) -> list[int]:
    """Which candidates stay held out, given each one's runs and those runs (sorted) that training text holds.

    A candidate that goes to training brings its runs with it, so this goes on until it settles."""
    kept = list(range(len(candidate_runs)))
    while True:
        back = [i for i in kept if _overlap(candidate_runs[i], seen) > config.max_overlap]
        if not back:
            return kept
        kept = [i for i in kept if i not in set(back)]
        seen = distinct(np.concatenate([seen, *(candidate_runs[i] for i in back)]))


def present(grams: Hashes, wanted: Hashes) -> NDArray[np.bool_]:
    """Which of `grams` are among `wanted` (sorted)."""
    if not len(wanted):
        return np.zeros(len(grams), dtype=bool)
    place = np.minimum(np.searchsorted(wanted, grams), len(wanted) - 1)
    return np.asarray(wanted[place] == grams)


def _overlap(grams: Hashes, seen: Hashes) -> float:
    return float(np.mean(present(grams, seen))) if len(grams) else 0.0

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
    """`share` of a language's bytes is held out, at least `min_bytes`, yet at most `max_share`. `run`: units;
    a candidate with more than `max_overlap` of its runs (0..1) in training text is not held out."""

    share: float = 0.035
    min_bytes: int = 150_000
    max_share: float = 0.2
    run: int = 10
    max_overlap: float = 0.1


@dataclass(frozen=True)
class Choice:
    """Indices held out; `cut`, the first hash (hexadecimal) that is not below; `returned`, candidates that
    training got."""

    heldout: list[int]
    cut: str
    returned: int


def choose(sizes: Sequence[int], keys: Sequence[bytes], units: Sequence[Hashes], config: HeldOut) -> Choice:
    """Which documents of one language to hold out, given their bytes, text keys and unit hashes.

    Of fewer than two documents none is.
    """
    total = sum(sizes)
    target = min(max(config.share * total, config.min_bytes), config.max_share * total)
    order = sorted(range(len(keys)), key=lambda i: keys[i])
    candidates, held = list[int](), 0
    while len(candidates) < len(order) - 1 and held < target:
        candidates.append(order[len(candidates)])
        held += sizes[candidates[-1]]
    cut = keys[order[len(candidates)]].hex() if candidates else ""
    chosen = _without_overlap(candidates, units, config)
    return Choice(sorted(chosen), cut, len(candidates) - len(chosen))


def _without_overlap(candidates: list[int], units: Sequence[Hashes], config: HeldOut) -> list[int]:
    """Candidates that share little with all other documents, which changes as candidates join these: until it
    settles."""
    held = set(candidates)
    seen = _runs([units[i] for i in range(len(units)) if i not in held], config.run)
    kept = list(candidates)
    while True:
        back = [i for i in kept if _overlap(ngram_hashes(units[i], config.run), seen) > config.max_overlap]
        if not back:
            return kept
        kept = [i for i in kept if i not in set(back)]
        seen = distinct(np.concatenate((seen, _runs([units[i] for i in back], config.run))))


def _runs(documents: Sequence[Hashes], run: int) -> Hashes:
    grams = [ngram_hashes(document, run) for document in documents]
    return distinct(np.concatenate(grams)) if grams else np.empty(0, dtype=np.uint64)


def _overlap(grams: Hashes, seen: Hashes) -> float:
    if not len(grams) or not len(seen):
        return 0.0
    place = np.minimum(np.searchsorted(seen, grams), len(seen) - 1)
    return float(np.mean(seen[place] == grams))

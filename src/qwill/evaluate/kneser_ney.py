"""Interpolated modified Kneser–Ney n-grams over integer symbols: a baseline that language models must beat.

Chen & Goodman (1998), "An empirical study of smoothing techniques for language modeling", TR-10-98, the
method they found best: three discounts for each order, lower orders from continuation counts, interpolated
down to the uniform distribution over the alphabet. (The single discount of Kneser & Ney 1995 is weaker.)
Documents start with one boundary symbol; an n-gram that begins with it can't be
extended to the left, so it keeps its raw count (as in KenLM, Heafield et al. 2013). No end of document is
predicted, which favours the baseline: all probability goes to symbols that are scored.

An n-gram is interned as (id of its first n-1 symbols, last symbol) in one int64, so any order and any
vocabulary fit, and everything is sorting and counting in NumPy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import DataError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Documents = Sequence[NDArray[np.integer]]

# Held-out symbols are scored in blocks, so that memory is bounded by the model and not by the text.
SCORE_BLOCK = 1 << 20


@dataclass(frozen=True)
class Level:
    """All n-grams of one order; an id is a place in the sorted `keys`, -1 an n-gram that was never seen.

    `share` is (a - D(a))/total of each n-gram, from its adjusted count a and the total of its context;
    `backoff`, by the id of the context in the order below, is the mass left for the order below, 1 where
    nothing ever followed. Both end in one entry more, for the id -1: share 0, backoff 1.
    """

    keys: Ints
    share: Floats
    backoff: Floats
    discounts: tuple[float, float, float]


@dataclass(frozen=True)
class KneserNey:
    alphabet: int
    levels: tuple[Level, ...]

    @classmethod
    def fit(cls, sequences: Documents, order: int, alphabet: int) -> "KneserNey":
        """Count the documents `sequences` (1-D arrays of symbols in [0, alphabet)) into an n-gram model.

        Order 5 takes about 1.5 s and, where most n-grams are distinct, 170 MB at the peak for each million
        symbols on one core. Raises DataError for an order or alphabet below 1 and for a symbol outside the
        alphabet.
        """
        if order < 1 or alphabet < 1:
            raise DataError(f"Kneser–Ney got order {order} and alphabet {alphabet}; expected 1 or more of both.")
        text, place = _with_boundaries(sequences, alphabet)
        radix = alphabet + 1
        ids = text  # of the n-gram that ends at each position; only meaningful where place >= n - 1
        keys: Ints = np.arange(radix, dtype=np.int64)
        counts = np.bincount(text, minlength=radix)
        counts[alphabet] = 0  # a boundary is a context and never predicted
        # An unigram's context is the empty one, id 0; a longer one's is part of its key.
        context: Ints = np.zeros(radix, dtype=np.int64)
        contexts = 1
        begins = np.zeros(radix, dtype=bool)
        levels = []
        for n in range(2, order + 1):
            ends = np.flatnonzero(place >= n - 1)
            packed = ids[ends - 1].astype(np.int64) * radix + text[ends]
            longer_keys, where, longer_ids, longer_counts = _intern(packed)
            last = ends[where]  # where one occurrence of each distinct n-gram ends
            continuation = np.bincount(ids[last], minlength=len(keys))
            levels.append(_discounted(keys, context, contexts, np.where(begins, counts, continuation)))
            contexts = len(keys)
            ids = np.zeros(len(text), dtype=np.int32)
            ids[ends] = longer_ids
            keys, counts = longer_keys, longer_counts
            context = keys // radix
            begins = place[last] == n - 1
        levels.append(_discounted(keys, context, contexts, counts))
        return cls(alphabet, tuple(levels))

    def symbol_bits(self, sequences: Documents) -> Floats:
        """-log2 of the probability of each symbol, for all documents one after another."""
        blocks: list[Floats] = []
        batch: list[NDArray[np.integer]] = []
        size = 0
        for sequence in sequences:
            batch.append(sequence)
            size += len(sequence)
            if size >= SCORE_BLOCK:
                blocks.append(self._score(batch))
                batch, size = [], 0
        blocks.append(self._score(batch))
        return np.concatenate(blocks)

    def bits(self, sequence: NDArray[np.integer]) -> float:
        """Total bits of one document, from its start."""
        return float(self.symbol_bits([sequence]).sum())

    def _score(self, sequences: Documents) -> Floats:
        text, place = _with_boundaries(sequences, self.alphabet)
        probability = np.full(len(text), 1.0 / self.alphabet)
        # Id of the n-gram that ends at each position; read only where the n-gram lies within its document.
        ids: Ints = np.zeros(len(text), dtype=np.int64)
        for n, level in enumerate(self.levels, start=1):
            ends = np.flatnonzero(place >= max(1, n - 1))
            context = ids[ends - 1] if n > 1 else np.zeros(len(ends), dtype=np.int64)
            grams = _find(level.keys, context * (self.alphabet + 1) + text[ends])
            probability[ends] = level.share[grams] + level.backoff[context] * probability[ends]
            if n == 1:
                ids = text.astype(np.int64)  # the boundary too: it is a context
            else:
                ids[ends] = grams
        bits: Floats = -np.log2(probability[place > 0])
        return bits


def byte_kn_bits_per_byte(train_docs: Sequence[bytes], heldout_docs: Sequence[bytes], order: int = 5) -> float:
    """Bits per byte of a byte n-gram fitted on `train_docs`, for the bytes of `heldout_docs`."""
    model = KneserNey.fit([_as_bytes(doc) for doc in train_docs], order, 256)
    return _bits_per_byte(model, [_as_bytes(doc) for doc in heldout_docs], sum(map(len, heldout_docs)))


def token_kn_bits_per_byte(
    train_docs: Documents, heldout_docs: Documents, heldout_bytes: int, vocab_size: int, order: int = 5
) -> float:
    """Bits per byte of a token n-gram: `heldout_bytes` is the UTF-8 length of the text behind
    `heldout_docs`."""
    return _bits_per_byte(KneserNey.fit(train_docs, order, vocab_size), heldout_docs, heldout_bytes)


def _bits_per_byte(model: KneserNey, heldout: Documents, heldout_bytes: int) -> float:
    if heldout_bytes < 1:
        raise DataError("Kneser–Ney got no held-out bytes; give a larger held-out split.")
    return float(model.symbol_bits(heldout).sum()) / heldout_bytes


def _as_bytes(document: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(document, dtype=np.uint8)


def _with_boundaries(sequences: Documents, alphabet: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """All documents in one array, each behind one boundary (the symbol `alphabet`), and each symbol's
    place."""
    lengths = np.array([len(sequence) + 1 for sequence in sequences], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    if total >= 2**31:
        raise DataError(f"Kneser–Ney got {total} symbols, expected fewer than 2^31; fit it on fewer documents.")
    text = np.full(total, alphabet, dtype=np.int32)
    for index, (start, sequence) in enumerate(zip(starts, sequences, strict=True)):
        if len(sequence) and not 0 <= sequence.min() <= sequence.max() < alphabet:
            wrong = sequence.min() if sequence.min() < 0 else sequence.max()
            raise DataError(
                f"document {index} holds symbol {wrong}, expected 0 to {alphabet - 1}; "
                "give the alphabet (vocabulary size) that it was encoded with."
            )
        text[start + 1 : start + 1 + len(sequence)] = sequence
    place = np.arange(total, dtype=np.int32)
    place -= np.repeat(starts, lengths).astype(np.int32)
    return text, place


def _intern(packed: Ints) -> tuple[Ints, Ints, NDArray[np.int32], Ints]:
    """Sorted distinct keys, where one of each is, the id of each element, and how often each key occurs."""
    order = np.argsort(packed)
    ordered = packed[order]
    first = np.ones(len(packed), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(first)
    ids = np.empty(len(packed), dtype=np.int32)
    ids[order] = np.cumsum(first, dtype=np.int32) - np.int32(1)
    return ordered[starts], order[starts], ids, np.diff(starts, append=len(packed))


def _find(keys: Ints, wanted: Ints) -> Ints:
    """The place of each wanted key in the sorted `keys`, -1 where it is not there."""
    if not len(keys):
        return np.full(len(wanted), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


def _discounted(keys: Ints, context: Ints, contexts: int, counts: Ints) -> Level:
    discounts = _discounts(counts)
    discount = np.array([0.0, *discounts])[np.minimum(counts, 3)]
    total = np.bincount(context, weights=counts, minlength=contexts)
    left = np.bincount(context, weights=discount, minlength=contexts)
    backoff = np.divide(left, total, out=np.ones(contexts), where=total > 0)
    kept = counts - discount
    share = np.divide(kept, total[context], out=np.zeros(len(keys)), where=counts > 0)
    return Level(keys, np.append(share, 0.0), np.append(backoff, 1.0), discounts)


def _discounts(counts: Ints) -> tuple[float, float, float]:
    """D1, D2, D3+ from the counts of counts (Chen & Goodman 1998, modified Kneser–Ney).

    Where they are undefined or leave no mass (tiny or artificial data): one discount t1/(t1 + 2·t2) for all
    (Ney, Essen & Kneser 1994), and where that is undefined too, KenLM's fallback of 0.5, 1 and 1.5.
    """
    t1, t2, t3, t4 = (int(np.count_nonzero(counts == n)) for n in (1, 2, 3, 4))
    if not t1 or not t2:
        return 0.5, 1.0, 1.5
    single = t1 / (t1 + 2 * t2)
    if t3:
        modified = (single, 2 - 3 * single * t3 / t2, 3 - 4 * single * t4 / t3)
        if min(modified) > 0:
            return modified
    return single, single, single

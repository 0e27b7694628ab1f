"""MinHash signatures and the band keys by which near duplicates meet.

Near duplicates are found by MinHash (Broder 1997) with locality-sensitive hashing in bands (Leskovec, Rajaraman,
Ullman, chapter 3): two documents whose sets of shingles have Jaccard similarity s share at least one of b bands of r
rows with probability 1 - (1 - s^r)^b. The defaults are FineWeb's (Penedo et al. 2024, section 3.4): shingles of 5
words, 14 bands of 8 rows, so 77 % of pairs at 0.75, 92 % at 0.8 and all but one in 2,000 at 0.9.

Two modes, the same law:

- `parity`: signatures bit-equal to datatrove 0.10.1's. Words are those of the simplified text (`simplify.py`), a
  shingle is the 64-bit hash of its words joined by spaces, and a hash function is (x a + b mod 2^64) mod (2^61 - 1),
  the wrap-around being datatrove's.
- `fast`: words are those of the text as it is, hashed letter by letter without regard to case, width, accents and
  traditional or simplified form (`letter_hashes.py`); a shingle is a mix of its words' hashes, and a hash function is
  x a + b modulo 2^32, a odd: a permutation, so that two shingles meet only where their 32-bit hashes do.

A document of fewer words than a shingle has no signature and is nobody's near duplicate; exact duplicates see to it.
The inner loops are in minhash.c; the functions here define them and are used where no compiler is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qwill.data import native_minhash
from qwill.data.letter_hashes import word_hashes
from qwill.data.simplify import simplify
from qwill.data.split_texts import Places, SplitTexts, Words, end_to_end, running, split_text, split_texts
from qwill.data.units import mix, ngram_hashes

Hashes = NDArray[np.uint64]

PRIME = np.uint64((1 << 61) - 1)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class MinHash:
    """How near duplicates are sought.

    ngram: words a shingle. bands, rows: see above. seed: of the hash functions. mode: see above. hash: of a shingle in
    parity mode, 64 bits. verify: None trusts every shared band, as FineWeb does; a similarity (0..1) makes a shared
    band a proposal only, and the pair counts if the Jaccard similarity estimated from their signatures reaches it.
    """

    ngram: int = 5
    bands: int = 14
    rows: int = 8
    seed: int = 1
    mode: Literal["parity", "fast"] = "parity"
    hash: Literal["xxhash", "sha1"] = "xxhash"
    verify: float | None = None

    @property
    def functions(self) -> int:
        return self.bands * self.rows


@dataclass(frozen=True)
class BandKeys:
    """What deduplication keeps of n documents.

    keys: uint64 [n, bands], equal where all rows of a band are. sketches: uint8 [n, bands * rows], the low byte of
    every value of the signature, from which similarity is estimated (b-bit minwise hashing, Li & König 2010).
    has: bool [n], whether there is a signature; without one the other two are zeros.
    """

    keys: Hashes
    sketches: NDArray[np.uint8]
    has: NDArray[np.bool_]


def band_keys(texts: Sequence[str], words: Sequence[Words | None] | None, settings: MinHash, rule: str) -> BandKeys:
    """The band keys of documents of one language; those of a document do not depend on the others.

    `words`: of each text, where they are known already. `rule`: of `words.split_words`, by which they are split where
    they are not; parity mode always splits, since datatrove's words are those of the simplified text."""
    if settings.mode == "parity":
        return keys_of(*exact_signatures(split_texts([simplify(text) for text in texts], rule), settings), settings)
    known = words or [None] * len(texts)
    parts = (split_text(text, rule) if own is None else own for text, own in zip(texts, known, strict=True))
    return keys_of(*fast_signatures(*word_hashes(end_to_end(parts)), settings), settings)


def keys_of(signatures: NDArray[Any], has: NDArray[np.bool_], settings: MinHash) -> BandKeys:
    """Band keys and sketches of signatures [n, bands * rows], uint64 or uint32."""
    if signatures.shape[1] != settings.functions:
        raise ValueError(f"signatures of {signatures.shape[1]} values; expected bands x rows = {settings.functions}")
    rows = signatures.reshape(len(signatures), settings.bands, settings.rows)
    keys = np.zeros(rows.shape[:2], dtype=np.uint64)
    for row in range(settings.rows):
        keys = mix(keys * _MULTIPLIER + rows[:, :, row])
    sketches = signatures.astype(np.uint8)
    keys[~has], sketches[~has] = 0, 0
    return BandKeys(keys, sketches, has)


def similarity(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Jaccard similarity estimated from the sketches [n, functions] of n pairs.

    Its standard error is sqrt(s (1 - s) / functions): 0.04 at 0.7 with 112 functions. One in 256 bytes agrees by
    chance, which is taken off."""
    agree = (a == b).mean(axis=1, dtype=np.float32)
    return np.clip((agree - np.float32(1 / 256)) / np.float32(255 / 256), 0, 1)


# Parity mode


@cache
def _exact_functions(settings: MinHash) -> tuple[Hashes, Hashes]:
    """a and b of each hash function, drawn as datatrove draws them."""
    generator = np.random.RandomState(settings.seed)
    a = generator.randint(1, PRIME, dtype=np.uint64, size=settings.functions)
    return a, generator.randint(0, PRIME, dtype=np.uint64, size=settings.functions)


def exact_signatures(split: SplitTexts, settings: MinHash) -> tuple[Hashes, NDArray[np.bool_]]:
    """(signatures uint64 [n, functions], has bool [n]) in parity mode, of the words of the simplified texts."""
    counts = np.diff(split.offsets)
    within = running(np.maximum(counts - settings.ngram + 1, 0))
    shingles = _shingles(split, int(within[-1]), settings)
    a, b = _exact_functions(settings)
    library = native_minhash.library()
    if library is None:
        return least_exact(shingles, within, a, b), counts >= settings.ngram
    result = np.empty((len(counts), settings.functions), dtype=np.uint64)
    native_minhash.call(library.minhash_exact, shingles, within, len(counts), a, b, settings.functions, result)
    return result, counts >= settings.ngram


def least_exact(shingles: Hashes, offsets: Places, a: Hashes, b: Hashes) -> Hashes:
    """[documents, functions]: the least of (x a + b mod 2^64) mod (2^61 - 1) over a document's shingles x; all ones
    for a document without any."""
    result = np.full((len(offsets) - 1, len(a)), np.iinfo(np.uint64).max)
    for d in np.flatnonzero(np.diff(offsets)).tolist():
        own = shingles[offsets[d] : offsets[d + 1]]
        for k in range(len(a)):
            result[d, k] = ((own * a[k] + b[k]) % PRIME).min()
    return result


def _shingles(split: SplitTexts, count: int, settings: MinHash) -> Hashes:
    """The 64-bit hashes of the `count` shingles of all documents, one document after another."""
    n, library = settings.ngram, native_minhash.library() if settings.hash == "xxhash" else None
    if library is None:
        told = (" ".join(own[i : i + n]) for own in split.strings() for i in range(len(own) - n + 1))
        return np.fromiter((_digest(shingle, settings.hash) for shingle in told), dtype=np.uint64, count=count)
    counts = np.diff(split.offsets)
    most = int(counts.max(initial=0))
    # Words never overlap, so a document's have no more characters than there are.
    text = np.empty(4 * len(split.points) + most, dtype=np.uint8)
    begin, end, result = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(count, np.uint64)
    native_minhash.call(
        library.minhash_ngrams, split.points, split.starts, split.ends, split.offsets, len(counts), n, text, begin, end,
        result,
    )  # fmt: skip
    return result


def _digest(shingle: str, name: str) -> int:
    data = shingle.encode("utf-8", "surrogatepass")
    if name == "sha1":
        return int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:8], "little")
    import xxhash

    return xxhash.xxh64_intdigest(data)


# Fast mode


@cache
def _fast_functions(settings: MinHash) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    generator = np.random.Generator(np.random.PCG64(settings.seed))
    a = generator.integers(0, 1 << 31, size=settings.functions, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return a, generator.integers(0, 1 << 32, size=settings.functions, dtype=np.uint32)


def fast_signatures(hashes: Hashes, offsets: Places, settings: MinHash) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """(signatures uint32 [n, functions], has bool [n]) in fast mode, of the hashes of the words of all documents end to
    end (`word_hashes`; other 64-bit hashes of units will do) and each document's offset [n + 1]."""
    counts = np.diff(offsets)
    a, b = _fast_functions(settings)
    library = native_minhash.library()
    if library is None:
        return least_fast(hashes, offsets, settings.ngram, a, b), counts >= settings.ngram
    result = np.empty((len(counts), settings.functions), dtype=np.uint32)
    told = hashes, offsets, len(counts), settings.ngram, a, b, settings.functions, result
    native_minhash.call(library.minhash_fast, *told)
    return result, counts >= settings.ngram


def least_fast(
    hashes: Hashes, offsets: Places, n: int, a: NDArray[np.uint32], b: NDArray[np.uint32]
) -> NDArray[np.uint32]:
    """[documents, functions]: the least of x a + b mod 2^32 over the upper halves x of a document's n-gram hashes; all
    ones for a document without any."""
    result = np.full((len(offsets) - 1, len(a)), np.iinfo(np.uint32).max)
    for d in range(len(offsets) - 1):
        shingles = (ngram_hashes(hashes[offsets[d] : offsets[d + 1]], n) >> np.uint64(32)).astype(np.uint32)
        if len(shingles):
            for k in range(len(a)):
                result[d, k] = (shingles * a[k] + b[k]).min()
    return result

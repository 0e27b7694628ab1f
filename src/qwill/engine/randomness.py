"""Counter-based random numbers: a sequence's draws depend on its name, never on the batch it sits in.

Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), vectorised in NumPy. A
draw is a pure function of (seed, prompt index, sample index, step), so slots, refills and prompt order can't
change what is sampled.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MULTIPLIER = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


Word = int | NDArray[Any]  # 64 bits


def philox(counter: NDArray[np.uint32], key: tuple[Word, Word]) -> NDArray[np.uint32]:
    """Ten Philox rounds over counters [..., 4] of 32-bit words under a 64-bit key (two words, or two arrays of them
    [...]): random words [..., 4].
    """
    x0, x1, x2, x3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(10):
        a, b = x0 * _MULTIPLIER[0], x2 * _MULTIPLIER[1]
        x0, x1, x2, x3 = (b >> _32) ^ x1 ^ np.uint64(k0), b & _LOW, (a >> _32) ^ x3 ^ np.uint64(k1), a & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack((x0, x1, x2, x3), axis=-1).astype(np.uint32)


def uniforms(
    seed: Word, prompt: ArrayLike, sample: ArrayLike, step: ArrayLike, purpose: ArrayLike = 0
) -> NDArray[np.float64]:
    """Uniform numbers strictly inside (0, 1) with 52 random bits, one for each broadcast (seed, prompt, sample,
    step, purpose); for another `purpose` others that are independent of these.

    The indices are taken modulo 2^32 and the seed modulo 2^64.
    """
    words = np.broadcast_arrays(*(np.asarray(x, dtype=np.int64) for x in (step, sample, prompt, purpose)))
    counter = np.stack(words, axis=-1).astype(np.uint32)
    random = philox(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)).astype(np.uint64)
    bits = (random[..., 0] << np.uint64(20)) | (random[..., 1] >> np.uint64(12))
    return (bits.astype(np.float64) + 0.5) * 2.0**-52

"""Weights that quantisers find hard, the same to the bit in the oracle and the tests."""

import numpy as np


def awkward_weights() -> np.ndarray:
    """[600, 256] float32: any size, ties, halves, zeros, signs that tie for the largest, almost nothing."""
    rng = np.random.default_rng(5)
    weights = rng.integers(-(2**20), 2**20, (600, 256)).astype(np.float32) / 2**20
    weights *= np.float32(2) ** rng.integers(-12, 12, (600, 1)).astype(np.float32)
    weights[0] = 0
    weights[1, :32] = 0
    weights[2] = np.float32(2) ** -40
    weights[3, ::2] *= -1
    weights[4, 5] = -(weights[4].max() * 2)
    weights[4, 9] = weights[4, 5] * -1  # as large as its negative: the first counts
    weights[4, 40] = weights[4].max() * 3
    weights[4, 41] = -weights[4, 40]
    for row in range(10, 74):
        weights[row, ::2] = np.arange(-64, 64) * np.float32(0.5)  # halves of a scale of 32 / 127 and of 4
    for row in range(80, 90):
        weights[row] = np.tile(np.arange(-16, 16) * np.float32(0.25), 8)
        weights[row, 0::32] = 127.0 if row % 2 else -127.0  # scale 1: every quarter and half falls on itself
    return weights

"""What one model gains over another in bits per byte: the ratio, and intervals that cover as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qwill.evaluate.bits_per_byte import Compression, over_seeds, paired_gain


def test_the_gain_is_the_difference_of_bits_per_byte() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(50, 900, 40).astype(float)
    a, b = (sizes * rng.uniform(low, 3, (3, 40)) for low in (1.0, 1.2))
    found = paired_gain(a, b, sizes)
    of_each = [
        Compression(y, sizes).bits_per_byte - Compression(x, sizes).bits_per_byte for x, y in zip(a, b, strict=True)
    ]
    assert found.of_each_seed == pytest.approx(of_each) and found.gain == pytest.approx(np.mean(of_each))
    assert found.lower < found.gain < found.upper and found.seeds_lower < found.gain < found.seeds_upper
    back = paired_gain(b, a, sizes)
    assert (back.gain, back.lower, back.upper) == pytest.approx((-found.gain, -found.upper, -found.lower))


def test_what_both_share_does_not_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    sizes = np.full(50, 100.0)
    hard = rng.uniform(0, 300, 50)
    found = paired_gain((hard + 100)[None], (hard + 110)[None], sizes)
    assert (found.gain, found.lower, found.upper) == pytest.approx((0.1, 0.1, 0.1))
    assert math.isnan(found.seeds_lower)


def test_long_documents_save_more_bits_and_that_is_no_uncertainty() -> None:
    sizes = np.array([10.0, 200.0, 3000.0])
    found = paired_gain(np.zeros((2, 3)), np.tile(0.1 * sizes, (2, 1)), sizes)
    assert (found.lower, found.upper) == pytest.approx((0.1, 0.1))


def test_the_interval_over_documents_covers_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(2), 0
    for _ in range(600):
        sizes = rng.lognormal(5, 0.7, 60)
        saved = sizes * rng.normal(0.05, 0.2, 60)
        found = paired_gain(np.zeros((1, 60)), saved[None], sizes)
        covered += found.lower <= 0.05 <= found.upper
    assert 0.91 <= covered / 600 <= 0.98


def test_the_interval_over_seeds_is_students() -> None:
    lower, upper = over_seeds([1.0, 2.0, 3.0])
    assert (lower, upper) == pytest.approx((2 - 4.302652729911275 / 3**0.5, 2 + 4.302652729911275 / 3**0.5))

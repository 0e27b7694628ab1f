"""xz as a baseline: the formula, checked on data whose answer is known."""

import lzma
import random

import pytest

from qwill.base.errors import DataError
from qwill.evaluate.compression import xz_bits_per_byte


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def test_noise_costs_eight_bits_and_what_was_seen_costs_nothing():
    train = noise(0, 50_000)
    assert xz_bits_per_byte(train, noise(1, 50_000)) == pytest.approx(8.0, abs=0.02)
    assert xz_bits_per_byte(train, train[:40_000]) < 0.5


def test_matches_the_formula():
    train, heldout = b"one two three four five. " * 400, b"five four three two one. " * 40
    sizes = [len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) for data in (train + heldout, train)]
    assert xz_bits_per_byte(train, heldout) == 8 * (sizes[0] - sizes[1]) / len(heldout)
    assert xz_bits_per_byte(b"", heldout) > xz_bits_per_byte(train, heldout)


def test_the_dictionary_reaches_far_back():
    # 9 MiB between the two copies: beyond the 8 MiB dictionary of xz's default preset, within 64 MiB.
    train = noise(2, 4_000) + bytes(9 * 1024 * 1024)
    assert xz_bits_per_byte(train, train[:4_000]) < 1


def test_nothing_held_out_is_refused():
    with pytest.raises(DataError, match="no held-out bytes"):
        xz_bits_per_byte(b"abc", b"")

"""Block formats against ggml's own loops, one weight after the other in Python floats."""

import struct

import numpy as np
import pytest

from qwill.model.ggml_blocks import BLOCKS, TYPE_NAMES, dequantize


def half(block: bytes, at: int) -> float:
    return struct.unpack_from("<e", block, at)[0]


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def q8_0(b: bytes) -> list[float]:
    return [half(b, 0) * signed(b[2 + j]) for j in range(32)]


def q4(b: bytes, first: int, offset: int, minimum: float) -> list[float]:
    y = [0.0] * 32
    for j in range(16):
        y[j] = ((b[first + j] & 0x0F) - offset) * half(b, 0) + minimum
        y[j + 16] = ((b[first + j] >> 4) - offset) * half(b, 0) + minimum
    return y


def scale_min_k4(j: int, q: bytes) -> tuple[int, int]:
    if j < 4:
        return q[j] & 63, q[j + 4] & 63
    return (q[j + 4] & 0xF) | ((q[j - 4] >> 6) << 4), (q[j + 4] >> 4) | ((q[j] >> 6) << 4)


def q4_k(b: bytes) -> list[float]:
    d, least, scales, qs = half(b, 0), half(b, 2), b[4:16], b[16:]
    y: list[float] = []
    for j in range(0, 256, 64):
        group, q = j // 32, qs[j // 2 : j // 2 + 32]
        s1, m1 = scale_min_k4(group, scales)
        s2, m2 = scale_min_k4(group + 1, scales)
        y += [d * s1 * (x & 0xF) - least * m1 for x in q]
        y += [d * s2 * (x >> 4) - least * m2 for x in q]
    return y


def q6_k(b: bytes) -> list[float]:
    ql, qh, sc, d = b[:128], b[128:192], b[192:208], half(b, 208)
    y = [0.0] * 256
    for n in range(2):
        for l in range(32):
            low, up, high = ql[64 * n + l], ql[64 * n + l + 32], qh[32 * n + l]
            for part, q in enumerate(
                (
                    (low & 0xF) | (((high >> 0) & 3) << 4),
                    (up & 0xF) | (((high >> 2) & 3) << 4),
                    (low >> 4) | (((high >> 4) & 3) << 4),
                    (up >> 4) | (((high >> 6) & 3) << 4),
                )
            ):
                y[128 * n + 32 * part + l] = d * signed(sc[8 * n + l // 16 + 2 * part]) * (q - 32)
    return y


LOOPS = {
    "F32": lambda b: [struct.unpack("<f", b)[0]],
    "F16": lambda b: [half(b, 0)],
    "BF16": lambda b: [struct.unpack("<f", b"\0\0" + b)[0]],
    "Q8_0": q8_0,
    "Q4_0": lambda b: q4(b, 2, 8, 0.0),
    "Q4_1": lambda b: q4(b, 4, 0, half(b, 2)),
    "Q4_K": q4_k,
    "Q6_K": q6_k,
}
# Where a block has float16 scales.
HALVES = {"F16": [0], "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q4_K": [0, 2], "Q6_K": [208]}


def random_blocks(kind: str, count: int, seed: int) -> bytes:
    """Random bytes, with scales that are finite."""
    rng = np.random.default_rng(seed)
    size = BLOCKS[kind].bytes
    blocks = rng.integers(0, 256, (count, size), np.uint8)
    for at in HALVES.get(kind, []):
        blocks[:, at : at + 2] = rng.normal(size=(count, 1)).astype("<f2").view(np.uint8)
    if kind == "F32":
        blocks = rng.normal(size=(count, 1)).astype("<f4").view(np.uint8)
    if kind == "BF16":
        blocks = rng.normal(size=(count, 1)).astype("<f4").view(np.uint8)[:, 2:]
    return blocks.tobytes()


def test_every_format_is_covered() -> None:
    assert set(LOOPS) == set(BLOCKS) <= set(TYPE_NAMES.values())


@pytest.mark.parametrize("kind", BLOCKS)
def test_equals_the_loop(kind: str) -> None:
    block = BLOCKS[kind]
    data = random_blocks(kind, 40, seed=len(kind))
    got = dequantize(np.frombuffer(data, np.uint8), kind)
    assert got.dtype == np.float32 and got.shape == (40 * block.weights,) and got.flags.writeable
    for i in range(40):
        said = np.array(LOOPS[kind](data[i * block.bytes : (i + 1) * block.bytes]))
        mine = got[i * block.weights : (i + 1) * block.weights]
        # Rounding of float32 sums is relative to their terms, which are at most a few times the block's largest.
        np.testing.assert_allclose(mine, said, rtol=1e-6, atol=2e-6 * np.abs(said).max())


@pytest.mark.parametrize("kind", [k for k in BLOCKS if BLOCKS[k].weights > 1])
def test_every_bit_of_a_block_counts(kind: str) -> None:
    """Turning over any bit of a block changes some weight: no part of it is left unread."""
    block = np.frombuffer(random_blocks(kind, 1, seed=3), np.uint8)
    before = dequantize(block, kind)
    bits = [1 << i for i in range(8)]
    for at in range(block.size):
        for bit in bits:
            changed = block.copy()
            changed[at] ^= bit
            with np.errstate(all="ignore"):
                after = dequantize(changed, kind)
            assert not np.array_equal(before, after, equal_nan=True), (at, bit)

"""Weights as GGML stores them, to float32 and back: plain and half floats, and the block formats of GGUF files.

A block holds 32 or 256 neighbouring weights of a row with their scales; all numbers are little-endian. Source: the
`block_*` structures and the `dequantize_row_*` and `quantize_row_*_ref` functions of ggml (ggml-common.h,
ggml-quants.c). `blocks.c` has the way to float32 again, for speed.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwill.model import native_library
from qwill.model.packed import Codes

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Block:
    """How many weights a block holds, and in how many bytes."""

    weights: int
    bytes: int


BLOCKS = {
    "F32": Block(1, 4), "F16": Block(1, 2), "BF16": Block(1, 2), "Q8_0": Block(32, 34), "Q4_0": Block(32, 18),
    "Q4_1": Block(32, 20), "Q4_K": Block(256, 144), "Q6_K": Block(256, 210),
}  # fmt: skip

# The types' numbers in a file; those that Qwill can't read are here to be called by their names.
TYPE_NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


NUMBERS = {name: number for number, name in TYPE_NAMES.items()}
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
AT_ONCE = 1 << 20  # weights of a tensor that are on their way at one time


def row_bytes(weights: int, kind: str) -> int:
    """Bytes of a row of weights, a whole number of blocks."""
    return weights // BLOCKS[kind].weights * BLOCKS[kind].bytes


def dequantize_to(data: Bytes, kind: str, out: Tensor) -> None:
    """Fill `out`, contiguous and of any float type, with the weights in `data`; no other memory of its size is taken.

    The same numbers as `dequantize`.
    """
    flat = out.view(-1)
    if kind in PLAIN:
        flat.copy_(torch.from_numpy(data).view(PLAIN[kind]))
    elif native_library.suits(flat):
        blocks = len(data) // BLOCKS[kind].bytes
        name = f"dequantize_{kind.lower()}"
        native_library.call(name, ctypes.c_void_p(data.ctypes.data), flat, blocks, native_library.threads())
    else:
        for at in range(0, len(flat), AT_ONCE):
            some = data[row_bytes(at, kind) : row_bytes(at + AT_ONCE, kind)]
            flat[at : at + AT_ONCE].copy_(torch.from_numpy(dequantize(some, kind)))


def dequantize(data: Bytes, kind: str) -> Floats:
    """The weights in whole blocks of bytes, one after the other, as a new flat float32 array."""
    if kind == "F32":
        return data.view("<f4").astype(np.float32)
    if kind == "F16":
        return data.view("<f2").astype(np.float32)
    if kind == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    blocks = data.reshape(-1, BLOCKS[kind].bytes)
    return {"Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k, "Q6_K": _q6_k}[kind](blocks).reshape(-1)


CODED = {"Q8_0": (8, False), "Q4_0": (4, False), "Q4_1": (4, True)}  # bits, and whether there are minima


def codes(data: Bytes, kind: str, shape: tuple[int, ...]) -> Codes:
    """The blocks of a tensor [..., O, I] of a `CODED` kind as the same numbers in other order; nothing is rounded."""
    bits, minima = CODED[kind]
    blocks = len(data) // BLOCKS[kind].bytes
    floats = [torch.empty(*shape[:-1], shape[-1] // 32, dtype=torch.float16) for _ in range(1 + minima)]
    values = torch.empty(*shape[:-1], shape[-1] * bits // 8, dtype=torch.int8 if bits == 8 else torch.uint8)
    if native_library.suits(torch.empty(0)):
        pointer = ctypes.c_void_p(data.ctypes.data)
        native_library.call(
            "take_apart", pointer, bits, int(minima), values, floats[0], floats[-1], blocks, native_library.threads()
        )
    else:
        rows = torch.from_numpy(data.reshape(blocks, -1).copy())
        for i, part in enumerate(floats):
            part.view(-1).copy_(rows[:, 2 * i : 2 * i + 2].contiguous().view(torch.float16)[:, 0])
        raw = rows[:, 2 + 2 * minima :]
        if bits == 4:  # a byte of GGML holds codes j and j + 16 of its block, one of ours two neighbours
            both = torch.cat((raw & 15, raw >> 4), dim=1)
            raw = both[:, ::2] | both[:, 1::2] << 4
        values.view(-1).copy_(raw.flatten().view(values.dtype))
    if not minima:
        return Codes(bits, shape[-1], values, floats[0])
    return Codes(bits, shape[-1], values, floats[0], torch.full(floats[0].shape, -8, dtype=torch.int8), floats[1])


def _half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of every block."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)[:, 0]


def _nibbles(packed: Bytes) -> Floats:
    """[..., n] bytes → [..., 2, n]: all low halves, then all high halves."""
    out = np.empty((*packed.shape[:-1], 2, packed.shape[-1]), np.float32)
    out[..., 0, :] = packed & 15
    out[..., 1, :] = packed >> 4
    return out


def _q8_0(blocks: Bytes) -> Floats:
    """scale · q, q a signed byte."""
    return blocks[:, 2:].view(np.int8) * _half(blocks, 0)[:, None]


def _q4_0(blocks: Bytes) -> Floats:
    """scale · (q − 8)."""
    out = _nibbles(blocks[:, 2:])
    out -= 8
    out *= _half(blocks, 0)[:, None, None]
    return out


def _q4_1(blocks: Bytes) -> Floats:
    """scale · q + minimum."""
    out = _nibbles(blocks[:, 4:])
    out *= _half(blocks, 0)[:, None, None]
    out += _half(blocks, 2)[:, None, None]
    return out


def _q4_k(blocks: Bytes) -> Floats:
    """Eight groups of 32 in a block: (scale · s_i) · q − (minimum · m_i), s and m six bits each."""
    s, m, rest = (blocks[:, a : a + 4] for a in (4, 8, 12))
    # Groups 0-3 have their six bits in one byte; 4-7 have four bits in `rest` and two at the top of those bytes.
    scales = np.concatenate([s & 63, (rest & 15) | (s >> 6 << 4)], axis=1) * _half(blocks, 0)[:, None]
    minima = np.concatenate([m & 63, (rest >> 4) | (m >> 6 << 4)], axis=1) * _half(blocks, 2)[:, None]
    out = _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    out *= scales[:, :, None]
    out -= minima[:, :, None]
    return out


def _q6_k(blocks: Bytes) -> Floats:
    """Sixteen groups of 16 in a block: (scale · s_i) · (q − 32), four low bits of q apart from the two high ones."""
    low = np.empty((len(blocks), 2, 4, 32), np.uint8)
    packed = blocks[:, :128].reshape(-1, 2, 2, 32)
    low[:, :, :2], low[:, :, 2:] = packed & 15, packed >> 4
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    out = (low | (high << 4)).reshape(-1, 16, 16).astype(np.float32)
    out -= 32
    scales = blocks[:, 192:208].view(np.int8) * _half(blocks, 208)[:, None]
    out *= scales[:, :, None]
    return out


def quantize(weights: Floats, kind: str) -> Bytes:
    """The bytes of flat, finite float32 weights, whole blocks of them: what ggml's reference quantiser makes.

    Writes F32, F16, BF16, Q8_0 and Q4_0. Scales and F16 weights that a half can't hold come out as infinities.
    """
    if kind in PLAIN:
        return torch.from_numpy(weights).to(PLAIN[kind]).view(torch.uint8).numpy()
    return {"Q8_0": _to_q8_0, "Q4_0": _to_q4_0}[kind](weights.reshape(-1, 32)).reshape(-1)


def _scaled(blocks: Floats, scale: Floats) -> Floats:
    """blocks · (1 / scale), as ggml has it: not blocks / scale, which rounds otherwise. A scale that is 0, or so small
    that its inverse is infinite, is 0 as a half: its block's weights become 0 whatever q is."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    inverse[np.isinf(inverse)] = 0
    return blocks * inverse[:, None]


def _halves(scale: Floats) -> Bytes:
    with np.errstate(over="ignore"):
        return scale.astype("<f2").view(np.uint8).reshape(-1, 2)


def _to_q8_0(blocks: Floats) -> Bytes:
    """scale = largest / 127; q rounded, halves away from zero."""
    scale = np.abs(blocks).max(1) / np.float32(127)
    q = _scaled(blocks, scale)
    whole = np.trunc(q)
    whole += np.trunc(2 * (q - whole))
    return np.concatenate([_halves(scale), whole.astype(np.int8).view(np.uint8)], axis=1)


def _to_q4_0(blocks: Floats) -> Bytes:
    """scale = (the weight largest in size, with its sign) / −8, which thus has q = 0; q = ⌊w/scale + 8.5⌋ up to 15."""
    largest = blocks[np.arange(len(blocks)), np.abs(blocks).argmax(1)]
    scale = largest / np.float32(-8)
    q = np.minimum((_scaled(blocks, scale) + np.float32(8.5)).astype(np.int8), 15).view(np.uint8)
    return np.concatenate([_halves(scale), q[:, :16] | q[:, 16:] << 4], axis=1)

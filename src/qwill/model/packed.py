"""Quantised matrices: integer codes with a step for each row or each group of a row, and compressed-tensors' packing.

weight = (value − zero) · scale + minimum. In memory a value of 8 bits is an int8; two of 4 bits share a byte (the first
in the low half, stored as value + 8); in `pack-quantized` files codes lie in int32 words, the first in the lowest bits,
stored as value + 2^(bits−1).

Shape suffixes: O rows (outputs), I columns (inputs), G groups of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Codes:
    """Quantised matrices [..., O, I]; `values` are int8 [..., O, I] or, with 4 bits, uint8 [..., O, ceil(I/2)];
    `scale`, `zero` (int8; None: 0) and `minimum` (as `scale`; None: 0) are [..., O, G], G a divisor of I."""

    bits: int
    columns: int
    values: Tensor
    scale: Tensor
    zero: Tensor | None = None
    minimum: Tensor | None = None

    @classmethod
    def of(cls, values: Tensor, scale: Tensor, bits: int, zero: Tensor | None = None) -> Codes:
        """Codes of int8 values [..., O, I]."""
        return cls(bits, values.shape[-1], values if bits == 8 else close_nibbles(values), scale, zero)

    def integers(self) -> Tensor:
        """The values as int8 [..., O, I]."""
        return self.values if self.bits == 8 else open_nibbles(self.values)[..., : self.columns]

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights [..., O, I] that the codes stand for, multiplied out in float32 (float64 if that is asked)."""
        wide = dtype if dtype == torch.float64 else torch.float32
        grouped = self.integers().to(wide).unflatten(-1, (self.scale.shape[-1], -1))
        if self.zero is not None:
            grouped = grouped - self.zero.to(wide)[..., None]
        grouped = grouped * self.scale.to(wide)[..., None]
        if self.minimum is not None:
            grouped = grouped + self.minimum.to(wide)[..., None]
        return grouped.flatten(-2).to(dtype)


@dataclass(frozen=True)
class Kind:
    """How a matrix is quantised: bits, scales of a row and their type, whether there are zero points and minima."""

    bits: int
    groups: int
    scale: torch.dtype
    zeros: bool
    minima: bool = False


def empty_codes(kind: Kind, shape: tuple[int, ...], device: str = "cpu") -> Codes:
    """Codes [..., O, I] of that shape; they have memory but no values yet."""

    def empty(width: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(*shape[:-1], width, dtype=dtype, device=device)

    values = empty(shape[-1], torch.int8) if kind.bits == 8 else empty(-(-shape[-1] // 2), torch.uint8)
    zero = empty(kind.groups, torch.int8) if kind.zeros else None
    minimum = empty(kind.groups, kind.scale) if kind.minima else None
    return Codes(kind.bits, shape[-1], values, empty(kind.groups, kind.scale), zero, minimum)


def close_nibbles(values: Tensor) -> Tensor:
    """int8 from −8 to 7 → uint8, two neighbours to a byte."""
    shifted = torch.nn.functional.pad((values + 8).to(torch.uint8), (0, values.shape[-1] % 2))
    return shifted[..., 0::2] | (shifted[..., 1::2] << 4)


def open_nibbles(packed: Tensor) -> Tensor:
    """The int8 values of `close_nibbles`, and one more where their number was odd."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2).to(torch.int8) - 8


def pack(values_OI: Tensor, bits: int) -> Tensor:
    """int8 codes of 4 or 8 bits → int32 words [O, ceil(I·bits/32)]."""
    if bits == 8:
        data = (values_OI.to(torch.int16) + 128).to(torch.uint8)
    else:
        data = close_nibbles(values_OI)
    return torch.nn.functional.pad(data, (0, -data.shape[1] % 4)).contiguous().view(torch.int32)


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The int8 codes of `pack`, [O, columns]."""
    data = packed.contiguous().view(torch.uint8)
    if bits == 8:
        return (data[:, :columns].to(torch.int16) - 128).to(torch.int8)
    return open_nibbles(data)[:, :columns]

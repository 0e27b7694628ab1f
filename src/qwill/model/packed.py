"""Four int8 values in an int32 word, as compressed-tensors' `pack-quantized` stores 8-bit weights."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_bytes(values_OI: Tensor) -> Tensor:
    """int8 → int32 [O, ceil(I/4)], four to a word, the first in the lowest byte, each stored as value + 128."""
    shifted = (values_OI.to(torch.int16) + 128).to(torch.uint8)
    padded = torch.nn.functional.pad(shifted, (0, -shifted.shape[1] % 4))
    return padded.contiguous().view(torch.int32)


def unpack_bytes(packed: Tensor, shape: tuple[int, int]) -> Tensor:
    """The int8 values of `pack_bytes`, [O, I]."""
    return (packed.contiguous().view(torch.uint8)[:, : shape[1]].to(torch.int16) - 128).to(torch.int8)

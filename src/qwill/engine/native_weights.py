"""Weights laid out for `forward.c`: float32 in panels, or quantised codes with their scales as `codes.h` wants them.

Shape letters: C outputs (columns of the product), I inputs, E experts, G groups of a row, P panels, F feed-forward.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qwill.base.native_build import compile_library
from qwill.model.byte_scales import as_bytes, from_bytes
from qwill.model.packed import Codes
from qwill.model.project import Quantized

if TYPE_CHECKING:
    from collections.abc import Callable

WIDE, SPAN = 32, 32  # as in codes.h
FLOATS, HALVES, BYTES = range(3)
HALF_WIDE = WIDE // 2


@cache
def library() -> ctypes.CDLL | None:
    return compile_library("lay_out.c", "qwill.engine")


class CodesStruct(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int64) for n in ("columns", "k", "groups", "bits", "kind", "per_scale", "scales")]
    _fields_ += [(n, ctypes.c_void_p) for n in ("codes", "scale", "minimum", "lines")]


class Matrix(ctypes.Structure):
    _fields_ = [("codes", CodesStruct), ("packed", ctypes.c_void_p), ("bias", ctypes.c_void_p)]
    _fields_ += [("columns", ctypes.c_int64), ("k", ctypes.c_int64), ("plain", ctypes.c_int64)]


def suits_codes(codes: Codes | Quantized) -> bool:
    """Whether rows divide into scales as `codes.h` wants them: one for all of a row, or for whole groups of 32."""
    groups = codes.scale.shape[-1]
    return groups == 1 or (codes.columns // groups) % SPAN == 0


def lay_out(codes: Codes, half: int, fresh: Callable[..., Tensor]) -> tuple[CodesStruct, list[Tensor]]:
    """The structure that `codes.h` reads, and the memory that it points into.

    With `half` = F the rows [2F, I] (or [E, 2F, I]) are gate and up: 16 rows of each in a panel, and panels in pairs.
    """
    lib = library()
    assert lib is not None
    values = codes.values if codes.values.dim() == 3 else codes.values[None]
    experts, columns, _ = values.shape
    width = codes.columns
    scale_ECG = codes.scale.reshape(experts, columns, -1)
    minimum_ECG = _minimum(codes, 128 if codes.bits == 8 else 8)
    groups = -(-width // SPAN)
    panels = 2 * -(-half // WIDE) if half else -(-columns // WIDE)
    packed = fresh((experts, panels, groups * SPAN * codes.bits // 32, WIDE), torch.int32)
    for source, target in zip(values.contiguous(), packed, strict=True):
        sizes = [ctypes.c_int64(size) for size in (columns, width, codes.bits, half, panels)]
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (source, target)]
        lib.lay_codes(pointers[0], *sizes, pointers[1], torch.get_num_threads())
    parts = [scale_ECG] if minimum_ECG is None else [scale_ECG, minimum_ECG.expand_as(scale_ECG)]
    kind, made, line = _held(parts)
    kept = [packed, *(_scales(part, half, panels, part.dtype, fresh) for part in made)]
    if kind == BYTES:
        lines = [_scales(part, half, panels, torch.float32, fresh) for part in line]
        kept.append(fresh((experts, panels, 4, WIDE)).copy_(torch.cat(lines, dim=2)))
    scales = scale_ECG.shape[-1]
    struct = CodesStruct(
        columns=columns, k=width, groups=groups, bits=codes.bits, kind=kind, per_scale=-(-groups // scales),
        scales=scales, codes=packed.data_ptr(), scale=kept[1].data_ptr(),
        minimum=kept[2].data_ptr() if len(parts) > 1 else None, lines=kept[3].data_ptr() if kind == BYTES else None,
    )  # fmt: skip
    return struct, kept


def _held(parts: list[Tensor]) -> tuple[int, list[Tensor], list[Tensor]]:
    """How scales (and minima) [E, C, G] lie, and what of them: as bytes with base and step [E, C, 1] of every row, if
    they are such (`byte_scales.py`); as half floats, if those hold them; else as floats."""
    if len(parts) == 2 and all(part.dtype == torch.float32 for part in parts):
        found = [as_bytes(part) for part in parts]
        if all(torch.equal(from_bytes(*of), part) for of, part in zip(found, parts, strict=True)):
            return BYTES, [of[0] for of in found], [of[i] for of in found for i in (1, 2)]
    if all(_fits_half(part) for part in parts):
        return HALVES, [part.half() for part in parts], []
    return FLOATS, [part.float() for part in parts], []


def _minimum(codes: Codes, offset: int) -> Tensor | None:
    """What the code 0 of `codes.h` stands for, where that isn't −offset · scale."""
    if codes.zero is None and codes.minimum is None:
        return None
    zero = 0 if codes.zero is None else codes.zero.float()
    lowest = (-offset - zero) * codes.scale.float()
    lowest = lowest if codes.minimum is None else lowest + codes.minimum.float()
    return lowest.reshape(-1, lowest.shape[-2], lowest.shape[-1])


def _fits_half(t: Tensor) -> bool:
    return t.dtype == torch.float16 or bool((t.half().float() == t.float()).all())


def _scales(scale_ECG: Tensor, half: int, panels: int, kind: torch.dtype, fresh: Callable[..., Tensor]) -> Tensor:
    """[E, panels, scales, WIDE]; zeros where there is no row, so that what is not there gives nothing."""
    experts, _, count = scale_ECG.shape
    out = fresh((experts, panels, count, WIDE), kind).zero_()
    if half:
        gate_up = scale_ECG.new_zeros(experts, 2, panels * HALF_WIDE, count)
        gate_up[:, :, :half] = scale_ECG.unflatten(1, (2, half))
        rows = gate_up.unflatten(2, (panels, HALF_WIDE)).transpose(1, 2).flatten(1, 3)
    else:
        rows = torch.nn.functional.pad(scale_ECG, (0, 0, 0, panels * WIDE - scale_ECG.shape[1]))
    return out.copy_(rows.unflatten(1, (panels, WIDE)).transpose(2, 3))

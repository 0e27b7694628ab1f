"""Weights laid out for `forward.c`: float32 in panels, or quantised codes with their scales as `codes.h` wants them.

Shape letters: C outputs (columns of the product), I inputs, E experts, G groups of a row, P panels, F feed-forward.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qwill.model.packed import Codes
from qwill.model.project import Quantized

if TYPE_CHECKING:
    from collections.abc import Callable

WIDE, SPAN, STEPS = 32, 32, 8  # as in codes.h
HALF_WIDE = WIDE // 2


class CodesStruct(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int64) for n in ("columns", "k", "groups", "bits", "narrow", "per_scale", "scales")]
    _fields_ += [(n, ctypes.c_void_p) for n in ("codes", "scale", "minimum")]


class Matrix(ctypes.Structure):
    _fields_ = [("codes", CodesStruct), ("packed", ctypes.c_void_p), ("bias", ctypes.c_void_p)]
    _fields_ += [("columns", ctypes.c_int64), ("k", ctypes.c_int64)]


def suits_codes(codes: Codes | Quantized) -> bool:
    """Whether rows divide into scales as `codes.h` wants them: one for all of a row, or for whole groups of 32."""
    groups = codes.scale.shape[-1]
    return groups == 1 or (codes.columns // groups) % SPAN == 0


def lay_out(codes: Codes, half: int, fresh: Callable[..., Tensor]) -> tuple[CodesStruct, list[Tensor]]:
    """The structure that `codes.h` reads, and the memory that it points into.

    With `half` = F the rows [2F, I] (or [E, 2F, I]) are gate and up: 16 rows of each in a panel, and panels in pairs.
    """
    values_ECI = codes.integers()
    values_ECI = values_ECI if values_ECI.dim() == 3 else values_ECI[None]
    experts, columns, width = values_ECI.shape
    scale_ECG = codes.scale.reshape(experts, columns, -1)
    offset = 128 if codes.bits == 8 else 8
    minimum_ECG = _minimum(codes, offset)
    narrow = all(_fits_half(t) for t in (scale_ECG, minimum_ECG) if t is not None)
    kind = torch.float16 if narrow else torch.float32
    groups = -(-width // SPAN)
    panels = 2 * -(-half // WIDE) if half else -(-columns // WIDE)

    # Neighbours of a row in words of four codes.
    shape = (experts, panels, groups, STEPS, WIDE) if codes.bits == 8 else (experts, panels, groups, STEPS // 2, WIDE)
    packed = fresh(shape, torch.int32)
    for e in range(experts):
        u_CI = _padded(values_ECI[e].to(torch.int16).add_(offset).to(torch.uint8), groups * SPAN, half, panels, offset)
        if codes.bits == 4:
            u_CI = u_CI.view(-1, groups * SPAN // 8, 2, 4)
            u_CI = (u_CI[:, :, 0] | (u_CI[:, :, 1] << 4)).flatten(1)
        words = u_CI.contiguous().view(torch.int32).view(panels, WIDE, groups, -1)
        packed[e].copy_(words.permute(0, 2, 3, 1))
    kept = [packed, _scales(scale_ECG, half, panels, kind, fresh)]
    if minimum_ECG is not None:
        kept.append(_scales(minimum_ECG.expand_as(scale_ECG), half, panels, kind, fresh))
    scales = scale_ECG.shape[-1]
    struct = CodesStruct(
        columns=columns, k=width, groups=groups, bits=codes.bits, narrow=int(narrow), per_scale=-(-groups // scales),
        scales=scales, codes=packed.data_ptr(), scale=kept[1].data_ptr(),
        minimum=kept[2].data_ptr() if len(kept) > 2 else None,
    )  # fmt: skip
    return struct, kept


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


def _padded(rows_CI: Tensor, width: int, half: int, panels: int, fill: int) -> Tensor:
    """[panels · WIDE, width]: rows in the order of the panels, `fill` where there are none."""
    columns = rows_CI.shape[0]
    if rows_CI.shape[1] == width and not half and columns == panels * WIDE:
        return rows_CI
    out = rows_CI.new_full((panels * WIDE, width), fill)
    if not half:
        out[:columns, : rows_CI.shape[1]] = rows_CI
        return out
    by_panel = out.view(panels, 2, HALF_WIDE, width)
    whole, rest = divmod(half, HALF_WIDE)
    for i, part in enumerate(rows_CI.split(half)):
        by_panel[:whole, i, :, : part.shape[1]] = part[: whole * HALF_WIDE].view(whole, HALF_WIDE, -1)
        if rest:
            by_panel[whole, i, :rest, : part.shape[1]] = part[whole * HALF_WIDE :]
    return out


def _scales(scale_ECG: Tensor, half: int, panels: int, kind: torch.dtype, fresh: Callable[..., Tensor]) -> Tensor:
    """[E, panels, scales, WIDE]; zeros where there is no row, so that what is not there gives nothing."""
    experts, _, count = scale_ECG.shape
    out = fresh((experts, panels, count, WIDE), kind)
    for e in range(experts):
        rows = _padded(scale_ECG[e].to(kind), count, half, panels, 0)
        out[e].copy_(rows.view(panels, WIDE, count).transpose(1, 2))
    return out

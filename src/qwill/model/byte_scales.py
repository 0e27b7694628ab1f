"""Scales and minima as bytes: of fitted four bits (5 a weight, fitted.py) it makes 4.5, which is what decoding reads.

A row's scales are base + byte · step, and so are its minima; the least of them is byte 0 and the greatest 255. Of
neighbouring bytes those are taken whose codes, chosen anew, come nearest to the weights: with codes that were chosen
for them it costs less than halves do. `fitted.c` does the same on a CPU, to the same bits.

Shape suffixes: E experts, O rows (outputs), I columns (inputs), G groups of a row, S columns of a group, N groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qwill.model import native_library
from qwill.model.fitted import AT_ONCE, SIZE, TOP, importance, sum_of
from qwill.model.packed import Codes, close_nibbles

MOVES = (0, -1, 1)


def as_bytes(x_EOG: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(bytes [..., O, G], base, step [..., O, 1]) with x ≈ base + bytes · step.

    A step has 16 bits, so that its products with bytes are exact, and is found again from what `from_bytes` gives
    (unless a row's range is below a hundredth of its numbers)."""
    base_EO1 = x_EOG.amin(-1, keepdim=True)
    step_EO1 = (x_EOG.amax(-1, keepdim=True) - base_EO1) / 255
    step_EO1 = ((step_EO1.view(torch.int32) + 128) & -256).view(torch.float32)
    bytes_EOG = ((x_EOG - base_EO1) / step_EO1.clamp(min=1e-30)).round().clamp(0, 255)
    return bytes_EOG.to(torch.uint8), base_EO1, step_EO1


def from_bytes(bytes_EOG: Tensor, base_EO1: Tensor, step_EO1: Tensor) -> Tensor:
    """float32; only the sum is rounded."""
    return bytes_EOG.float() * step_EO1 + base_EO1


def with_byte_scales(fitted: Codes, weight_OI: Tensor) -> Codes:
    """The fitted codes of these weights with scales and minima, float32, that `as_bytes` and `from_bytes` leave as they
    are."""
    assert fitted.minimum is not None
    wide_OI = weight_OI.float().contiguous()
    lines = [as_bytes(part.float()) for part in (fitted.scale, fitted.minimum)]
    scale_OG, minimum_OG = (torch.empty_like(line[0], dtype=torch.float32) for line in lines)
    out = Codes(4, fitted.columns, torch.empty_like(fitted.values), scale_OG, fitted.zero, minimum_OG)
    rows, groups = scale_OG.shape
    if native_library.suits(wide_OI):
        given = [part.contiguous() for line in lines for part in line]
        native_library.call(
            "round_scales", wide_OI, rows, groups, *given, out.values, scale_OG, minimum_OG, native_library.threads()
        )
        return out
    for start in range(0, rows, at_once := max(1, AT_ONCE // fitted.columns)):
        part = slice(start, start + at_once)
        w_SN = wide_OI[part].reshape(-1, SIZE).T.contiguous()
        q_SN, scale_OG[part], minimum_OG[part] = _rounded(w_SN, *([t[part] for t in line] for line in lines))
        out.values[part] = close_nibbles((q_SN.T.reshape(-1, fitted.columns) - 8).to(torch.int8))
    return out


def _rounded(w_SN: Tensor, scales: list[Tensor], minima: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Codes from 0 to 15, and scale and minimum [O, G]."""
    best_OG = torch.full_like(scales[0], torch.inf, dtype=torch.float32)
    codes_SN, counts_SN = torch.zeros_like(w_SN), importance(w_SN)
    best_scale_OG, best_minimum_OG = torch.zeros_like(best_OG), torch.zeros_like(best_OG)
    for up in MOVES:
        for aside in MOVES:
            scale_OG = from_bytes(_moved(scales[0], up), *scales[1:])
            minimum_OG = from_bytes(_moved(minima[0], aside), *minima[1:])
            scale_N, minimum_N = scale_OG.flatten(), minimum_OG.flatten()
            q_SN = ((w_SN - minimum_N) * (1 / scale_N.clamp(min=1e-30))).round_().clamp_(0, TOP)
            error_N = sum_of(counts_SN * (q_SN * scale_N + minimum_N - w_SN).square_())
            error_OG = error_N.view_as(best_OG)
            better_OG = error_OG < best_OG
            best_OG = torch.where(better_OG, error_OG, best_OG)
            codes_SN = torch.where(better_OG.flatten(), q_SN, codes_SN)
            best_scale_OG = torch.where(better_OG, scale_OG, best_scale_OG)
            best_minimum_OG = torch.where(better_OG, minimum_OG, best_minimum_OG)
    return codes_SN, best_scale_OG, best_minimum_OG


def _moved(bytes_OG: Tensor, by: int) -> Tensor:
    """Neighbouring bytes; the ends of a row stay, because base and step are found by them again."""
    ends_OG = (bytes_OG == 0) | (bytes_OG == 255)
    return torch.where(ends_OG, bytes_OG.int(), (bytes_OG.int() + by).clamp(1, 254))

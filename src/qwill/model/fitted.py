"""Four bits with a scale and a minimum for each group of 32, fitted: what `held.hold` makes of floats for computing.

Better than rounding to the even grid between a group's ends: several ranges are tried, each with the scale and the
minimum of least squares for its codes (as llama.cpp's `make_qkx2_quants` does). Scales and minima are then rounded to
bytes between the least and the greatest of their row, so that a weight takes 4.5 bits; of neighbouring bytes those are
taken whose codes, chosen anew, come nearest.

Shape suffixes: O rows (outputs), I columns (inputs), G groups of a row, S columns of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qwill.base.errors import ModelError
from qwill.model.packed import Codes

SIZE, TOP = 32, 15
RANGES = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7)  # of what lies between a group's ends
AT_ONCE = 1 << 17  # weights: what is tried with them stays in the processor's cache


def fit_minima(weight_OI: Tensor) -> Codes:
    """weight ≈ (values + 8) · scale + minimum, both float32 as `from_bytes` makes them. Raises ModelError where rows do
    not divide."""
    columns = weight_OI.shape[1]
    if columns % SIZE:
        raise ModelError(f"rows of {columns} weights do not divide into groups of {SIZE}; load them as floats.")
    pieces = [part.float().unflatten(1, (-1, SIZE)) for part in weight_OI.split(max(1, AT_ONCE // columns))]
    parts = [_rounded(piece, *_fit(piece)[1:]) for piece in pieces]
    values, scale, minimum = (torch.cat(found) for found in zip(*parts, strict=True))
    codes = Codes.of(values, scale, 4, torch.full(scale.shape, -8, dtype=torch.int8, device=scale.device))
    codes.minimum = minimum
    return codes


def _fit(w_OGS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values [O, I], scale and minimum [O, G]."""
    low, high = w_OGS.amin(2, keepdim=True), w_OGS.amax(2, keepdim=True)
    total = w_OGS.sum(2, keepdim=True)
    best = torch.full_like(low, torch.inf)
    codes, scale, minimum = torch.zeros_like(w_OGS), torch.zeros_like(low), torch.zeros_like(low)
    for part in RANGES:
        step = ((high - low) * (part / TOP)).half().float()
        start = (high + low) / 2 - step * (TOP / 2)
        for _ in range(2):  # the codes of a range, and those of what was fitted to them
            q = ((w_OGS - start) / step.clamp(min=1e-30)).round_().clamp_(0, TOP)
            sum_q, sum_qq, sum_wq = (t.sum(2, keepdim=True) for t in (q, q * q, q * w_OGS))
            spread = SIZE * sum_qq - sum_q * sum_q
            slope = (SIZE * sum_wq - sum_q * total) / spread.clamp(min=1)
            step = torch.where(spread > 0, slope, step).half().float()
            start = ((total - step * sum_q) / SIZE).half().float()
            error = (q * step + start - w_OGS).square_().sum(2, keepdim=True)
            better = error < best
            best = torch.where(better, error, best)
            codes, scale, minimum = (
                torch.where(better, new, old) for new, old in ((q, codes), (step, scale), (start, minimum))
            )
    return (codes.flatten(1) - 8).to(torch.int8), scale[..., 0].half(), minimum[..., 0].half()


def as_bytes(x_EOG: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(bytes [..., O, G], base, step [..., O, 1]) with x ≈ base + bytes · step: the least of a row is byte 0, the
    greatest 255. A step has 16 bits, so that its products with bytes are exact, and is found again from what `from_bytes` gives
    (unless a row's range is below a hundredth of its numbers)."""
    base_EO1 = x_EOG.amin(-1, keepdim=True)
    step_EO1 = (x_EOG.amax(-1, keepdim=True) - base_EO1) / 255
    step_EO1 = ((step_EO1.view(torch.int32) + 128) & -256).view(torch.float32)
    codes_EOG = ((x_EOG - base_EO1) / step_EO1.clamp(min=1e-30)).round().clamp(0, 255)
    return codes_EOG.to(torch.uint8), base_EO1, step_EO1


def from_bytes(codes_EOG: Tensor, base_EO1: Tensor, step_EO1: Tensor) -> Tensor:
    """float32; only the sum is rounded."""
    return codes_EOG.float() * step_EO1 + base_EO1


def _rounded(w_OGS: Tensor, scale_OG: Tensor, minimum_OG: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values [O, I], and scale and minimum [O, G] as `from_bytes` makes them."""
    lines = [as_bytes(part.float()) for part in (scale_OG, minimum_OG)]
    best_OG = torch.full_like(scale_OG, torch.inf, dtype=torch.float32)
    codes_OGS, best_scale_OG, best_minimum_OG = torch.zeros_like(w_OGS), best_OG, best_OG
    for up in (0, -1, 1):
        for aside in (0, -1, 1):
            scale_OG = from_bytes(_moved(lines[0][0], up), *lines[0][1:])
            minimum_OG = from_bytes(_moved(lines[1][0], aside), *lines[1][1:])
            scale_OG1, minimum_OG1 = scale_OG[..., None], minimum_OG[..., None]
            q_OGS = ((w_OGS - minimum_OG1) / scale_OG1.clamp(min=1e-30)).round_().clamp_(0, TOP)
            error_OG = (q_OGS * scale_OG1 + minimum_OG1 - w_OGS).square_().sum(2)
            better_OG = error_OG < best_OG
            best_OG = torch.where(better_OG, error_OG, best_OG)
            codes_OGS = torch.where(better_OG[..., None], q_OGS, codes_OGS)
            best_scale_OG = torch.where(better_OG, scale_OG, best_scale_OG)
            best_minimum_OG = torch.where(better_OG, minimum_OG, best_minimum_OG)
    return (codes_OGS.flatten(1) - 8).to(torch.int8), best_scale_OG, best_minimum_OG


def _moved(bytes_OG: Tensor, by: int) -> Tensor:
    """Neighbouring bytes; the ends of a row stay, because base and step are found by them again."""
    ends_OG = (bytes_OG == 0) | (bytes_OG == 255)
    return torch.where(ends_OG, bytes_OG.int(), (bytes_OG.int() + by).clamp(1, 254))

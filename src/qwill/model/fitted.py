"""Four bits with a scale and a minimum for each group of 32, fitted: what `held.hold` makes of floats for computing.

Like GGML's Q4_1 in what it can say, and better than rounding to the even grid between a group's ends: several ranges
are tried, each with the scale and the minimum of least squares for its codes (as llama.cpp's `make_qkx2_quants` does).

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
    """weight ≈ (values + 8) · scale + minimum, both half floats. Raises ModelError where rows do not divide."""
    columns = weight_OI.shape[1]
    if columns % SIZE:
        raise ModelError(f"rows of {columns} weights do not divide into groups of {SIZE}; load them as floats.")
    parts = [_fit(part.float().unflatten(1, (-1, SIZE))) for part in weight_OI.split(max(1, AT_ONCE // columns))]
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

"""Four bits with a scale and a minimum for each group of 32, fitted: what `held.hold` makes of floats for computing.

Like GGML's Q4_1 in what it can say (byte_scales.py makes less of it), and better than rounding to the even grid between
a group's ends: several ranges are tried, each with the scale and the minimum of least squares for its codes, in
which larger weights count more (as llama.cpp's `make_qkx2_quants` does).
`fitted.c` does the same on a CPU, to the same bits.

Shape suffixes: O rows (outputs), I columns (inputs), S columns of a group, N groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qwill.base.errors import ModelError
from qwill.model import native_library
from qwill.model.packed import Codes, Kind, close_nibbles, empty_codes

SIZE, TOP = 32, 15
RANGES = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7)  # of what lies between a group's ends
SPREAD = 1e-5  # of codes that aren't all the same, against the sum of their squares
AT_ONCE = 1 << 17  # weights: what is tried with them stays in the processor's cache


def fit_minima(weight_OI: Tensor) -> Codes:
    """weight ≈ (values + 8) · scale + minimum, both half floats. Raises ModelError where rows do not divide."""
    rows, columns = weight_OI.shape
    groups = columns // SIZE
    if columns % SIZE:
        raise ModelError(f"rows of {columns} weights do not divide into groups of {SIZE}; load them as floats.")
    kind = Kind(4, groups, torch.float16, zeros=True, minima=True)
    codes = empty_codes(kind, (rows, columns), str(weight_OI.device))
    assert codes.zero is not None and codes.minimum is not None
    codes.zero.fill_(-8)
    wide = weight_OI.float().contiguous()
    if native_library.suits(wide):
        found = (codes.values, codes.scale, codes.minimum)
        native_library.call("fit_minima", wide, rows * groups, *found, native_library.threads())
        return codes
    for start in range(0, rows, at_once := max(1, AT_ONCE // columns)):
        part = slice(start, start + at_once)
        q_SN, scale_N, minimum_N = _fit(wide[part].reshape(-1, SIZE).T.contiguous())
        codes.values[part] = close_nibbles((q_SN.T.reshape(-1, columns) - 8).to(torch.int8))
        codes.scale[part], codes.minimum[part] = (t.view(-1, groups) for t in (scale_N, minimum_N))
    return codes


def importance(w_SN: Tensor) -> Tensor:
    """What an error at each weight counts: |w| and its mean over the group (llama.cpp takes the root mean square)."""
    return w_SN.abs() + sum_of(w_SN.abs()) / SIZE


def _fit(w_SN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes from 0 to 15, scale and minimum; half floats, held as floats."""
    counts_SN = importance(w_SN)
    low, high, all_counts, total = w_SN.amin(0), w_SN.amax(0), sum_of(counts_SN), sum_of(counts_SN * w_SN)
    best = torch.full_like(low, torch.inf)
    codes, scale, minimum = torch.zeros_like(w_SN), torch.zeros_like(low), torch.zeros_like(low)
    for part in RANGES:
        step = ((high - low) * (part / TOP)).half().float()
        start = (high + low) / 2 - step * (TOP / 2)
        for _ in range(2):  # the codes of a range, and those of what was fitted to them
            q = ((w_SN - start) * (1 / step.clamp(min=1e-30))).round_().clamp_(0, TOP)
            weighed = counts_SN * q
            sum_q, sum_qq, sum_wq = sum_of(weighed), sum_of(weighed * q), sum_of(weighed * w_SN)
            whole = all_counts * sum_qq
            spread = whole - sum_q * sum_q
            slope = (all_counts * sum_wq - sum_q * total) / spread
            step = torch.where(spread > whole * SPREAD, slope, step).half().float()  # less is but rounding
            start = ((total - step * sum_q) / all_counts.clamp(min=1e-30)).half().float()
            error = sum_of(counts_SN * (q * step + start - w_SN).square_())
            better = error < best
            best = torch.where(better, error, best)
            codes, scale, minimum = (
                torch.where(better, new, old) for new, old in ((q, codes), (step, scale), (start, minimum))
            )
    return codes, scale, minimum


def sum_of(t_SN: Tensor) -> Tensor:
    """Over a group's columns in an order of its own: neighbours, then the sums of neighbours, and so on."""
    while len(t_SN) > 1:
        t_SN = t_SN[::2] + t_SN[1::2]
    return t_SN[0]

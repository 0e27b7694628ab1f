"""`fitted.c` against the definitions in fitted.py and byte_scales.py: the same bits, whatever the weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwill.model import native_library
from qwill.model.byte_scales import as_bytes, from_bytes, with_byte_scales
from qwill.model.fitted import fit_minima
from qwill.model.packed import Codes

pytestmark = pytest.mark.skipif(native_library.libraries() is None, reason="no C compiler: there is no other form")

LARGE = [65504.0, -65520.0, 1e6, 3e38, -3e38, torch.inf, -torch.inf, torch.nan]
EDGES = [0.0, -0.0, 1e-45, -1e-30, 6e-8, 1.5, -7.0, *LARGE]


def fitted(w: torch.Tensor) -> list[Codes]:
    """With scales and minima as halves, and as bytes."""
    halves = fit_minima(w)
    return [halves, with_byte_scales(halves, w)]


def defined(w: torch.Tensor) -> list[Codes]:
    native_library.enable(False)
    try:
        return fitted(w)
    finally:
        native_library.enable(True)


def bits(both: list[Codes]) -> list[torch.Tensor]:
    found = []
    for codes in both:
        assert codes.zero is not None and codes.minimum is not None
        kind = torch.int16 if codes.scale.dtype == torch.float16 else torch.int32
        found += [codes.values, codes.zero, *(t.view(kind) for t in (codes.scale, codes.minimum))]
    return found


@given(
    rows=st.integers(1, 40), groups=st.integers(1, 5), size=st.integers(-9, 36), offset=st.floats(-100, 100),
    edges=st.lists(st.sampled_from(EDGES), max_size=6), rounded=st.booleans(), seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)  # fmt: skip
def test_both_forms_give_the_same_bits(
    rows: int, groups: int, size: int, offset: float, edges: list[float], rounded: bool, seed: int, dtype: torch.dtype
) -> None:
    """Of any spread and offset, with ties (whole numbers), and with what is no number or too large."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, 32 * groups, generator=generator) + offset
    w = (w.round() if rounded else w * 10.0**size).to(dtype)
    for value in edges:
        i, j = (int(torch.randint(n, (1,), generator=generator)) for n in w.shape)
        w[i, j : j + int(torch.randint(1, 40, (1,), generator=generator))] = value
    for mine, wanted in zip(bits(fitted(w)), bits(defined(w)), strict=True):
        assert torch.equal(mine, wanted)


def test_many_rows_on_two_threads_and_rows_that_lie_apart() -> None:
    w = torch.randn(3000, 160, generator=torch.Generator().manual_seed(1))[::2, :96]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = bits(fitted(w))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found, bits(defined(w)), strict=True))
    pieces = [bits(fitted(part)) for part in w.split(7)]
    assert all(torch.equal(a, torch.cat(b)) for a, b in zip(found, zip(*pieces, strict=True), strict=True))


def test_the_codes_are_the_best_of_the_ranges() -> None:
    """Worked out in float64: of every range the nearest codes and the least squares for them, and once more from
    there; of all that the least error. What an error counts grows with the weight."""
    w = torch.randn(60, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    made, ratios = fit_minima(w.float()).dense(torch.float64), []
    for row, got in zip(w, made, strict=True):
        counts = row.abs() + row.abs().mean()
        found = []
        for part in (1, 0.94, 0.88, 0.82, 0.76, 0.7):
            step = (row.max() - row.min()) * part / 15
            start = (row.max() + row.min()) / 2 - step * 7.5
            for _ in range(2):
                q = ((row - start) / step).round().clamp(0, 15)
                a = torch.stack((q, torch.ones_like(q)), 1) * counts.sqrt()[:, None]
                step, start = torch.linalg.lstsq(a, (row * counts.sqrt())[:, None], driver="gelsd").solution[:, 0]
                found.append(float((counts * (q * step + start - row).square()).sum()))
        ratios.append(float((counts * (got - row).square()).sum()) / min(found))
    # Steps and starts are halves there, which costs a little, and now and then leads to other codes.
    assert sum(ratios) / len(ratios) < 1.002 and sorted(ratios)[-2] < 1.02


@given(rows=st.integers(1, 6), groups=st.integers(1, 6), size=st.integers(-6, 3), seed=st.integers(0, 999))
def test_bytes_are_found_again_in_what_they_stand_for(rows: int, groups: int, size: int, seed: int) -> None:
    """So that the kernel can read bytes, and no third array goes with the codes."""
    w = torch.randn(rows, 32 * groups, generator=torch.Generator().manual_seed(seed)) * 10.0**size
    codes = fitted(w)[1]
    assert codes.minimum is not None
    for part in (codes.scale, codes.minimum):
        again = from_bytes(*as_bytes(part))
        wide_enough = part.amax(1) - part.amin(1) >= part.abs().amax(1) / 100
        assert torch.equal(again[wide_enough], part[wide_enough])


def test_bytes_cost_no_more_than_halves() -> None:
    """In the whole, with rows and groups of different spread; because codes are chosen anew for neighbours."""
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(300, 1024, generator=generator) * torch.rand(300, 1, generator=generator)
    w *= torch.exp(torch.randn(300, 32, generator=generator) / 3).repeat_interleave(32, 1)
    halves, small = ((codes.dense() - w).square().sum() for codes in fitted(w))
    assert float(small) <= 1.002 * float(halves)

"""The fit finds constants that were put in, its intervals cover them, and the multiplier is the one that was made."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scaling_fit import Curve, Study, analyse, cells_of, cost, draws, fit, frontier, interval, multiplier, seed_spread
from scaling_plot import draw
from scaling_report import section

from qwill.base.errors import DataError

M, T = 1e6, 1e12
TRUE = Curve(e=0.9, a=1.5, b=0.2, residual=0.0)
BUDGETS = np.array([1.0, 2.0, 4.0, 8.0, 16.0]) * T
# Active weights, horizons and seeds; the last two sizes are worse than the first two by PENALTY at the same compute.
RUNGS = ((0.4, (0.5, 1.0, 2.0, 4.0), 3), (0.8, (2.0, 4.0), 3), (1.6, (0.25, 0.5), 1), (3.2, (0.25,), 1))
PENALTY = 0.3
BEST = [(f"n{n}", d * M) for n, horizons, _ in RUNGS[:1] for d in horizons] + [("n0.8", 4.0 * M)]

curves = st.builds(
    Curve, e=st.floats(0.0, 2.0), a=st.floats(0.2, 3.0), b=st.floats(0.05, 1.0), residual=st.just(0.0)
)  # fmt: skip


def made_up(generator: np.random.Generator, gain: float, noise: float, spread: float) -> list[dict[str, Any]]:
    """Points of both kinds: the sparse one learns as if it had `gain` times the compute. Each document has its own
    difficulty (the same for all models) and its own noise; each run is shifted by its seed."""
    bytes_ = {k: generator.integers(200, 2000, 60).astype(float) for k in ("en", "zh")}
    hard = {k: generator.normal(0, 0.3, 60) for k in bytes_}
    # Centred, so that the true loss of the documents at hand is what the formula says.
    hard = {k: v - (v @ bytes_[k]) / bytes_[k].sum() for k, v in hard.items()}
    points = []
    for kind in ("dense", "sparse"):
        for n, horizons, seeds in RUNGS:
            for seed in range(seeds):
                shift = generator.normal(0, spread)
                for d in horizons:
                    flops = 6 * n * d * M * M
                    loss = float(TRUE.loss(np.array(flops * (gain if kind == "sparse" else 1.0)))) + shift
                    loss += PENALTY * ((f"n{n}", d * M) not in BEST)
                    bits = {k: b * (loss + hard[k] + generator.normal(0, noise, 60)) for k, b in bytes_.items()}
                    points.append({
                        "kind": kind, "rung": f"n{n}", "seed": seed, "active": n * M, "tokens": d * M,
                        "flops": flops, "document_bits": {k: v.tolist() for k, v in bits.items()},
                        "document_bytes": {k: v.tolist() for k, v in bytes_.items()},
                        "bits_per_byte": {k: float(v.sum() / bytes_[k].sum()) for k, v in bits.items()},
                    })  # fmt: skip
    return points


POINTS = 2 * sum(len(h) * s for _, h, s in RUNGS)
CELLS = sum(len(h) for _, h, _ in RUNGS)


@given(curves)
def test_the_fit_finds_the_constants_that_were_put_in(true: Curve) -> None:
    found = fit(BUDGETS, true.loss(BUDGETS))
    assert [found.e, found.a, found.b] == pytest.approx([true.e, true.a, true.b], rel=0.01, abs=0.01)
    assert found.residual < 1e-5


def test_the_fit_finds_constants_under_noise() -> None:
    generator = np.random.default_rng(0)
    many = np.geomspace(0.1, 100, 25) * T
    found = [fit(many, TRUE.loss(many) + generator.normal(0, 2e-3, len(many))) for _ in range(40)]
    for name in ("e", "a", "b"):
        values = [getattr(f, name) for f in found]
        assert np.median(values) == pytest.approx(getattr(TRUE, name), rel=0.05), name
    assert 1.7e-3 < np.median([f.residual for f in found]) < 2.1e-3


@given(curves, st.floats(0.0, 0.5))
def test_the_constant_never_falls_below_zero(true: Curve, bend: float) -> None:
    # A curve that falls faster and faster, which the formula cannot say: E stays at zero.
    assert fit(BUDGETS, 5.0 + true.loss(BUDGETS) - bend * np.log2(BUDGETS / T) ** 2).e >= 0


def test_too_few_budgets_are_refused() -> None:
    with pytest.raises(DataError, match="3 budgets cannot tell three constants apart"):
        fit(BUDGETS[[0, 0, 1, 2]], TRUE.loss(BUDGETS[[0, 0, 1, 2]]))


def test_the_frontier_has_the_cells_that_none_betters() -> None:
    study = Study.of(made_up(np.random.default_rng(7), 1.3, 0.0, 0.0))
    cells = cells_of(study)
    assert len(cells) == CELLS
    best = [
        (study.points[c["dense"][0]]["rung"], study.points[c["dense"][0]]["tokens"]) for c in frontier(study, cells)
    ]
    assert best == BEST
    for cell in cells:
        seeds = [[study.points[i]["seed"] for i in cell[k]] for k in ("dense", "sparse")]
        assert seeds[0] == seeds[1]


def test_a_cell_without_all_seeds_of_both_kinds_is_left_out() -> None:
    points = made_up(np.random.default_rng(7), 1.3, 0.0, 0.0)
    study = Study.of([p for p in points if (p["kind"], p["rung"], p["seed"]) != ("sparse", "n0.8", 1)])
    assert len(cells_of(study)) == CELLS - 2


@given(curves, st.floats(0.5, 2.0))
def test_the_multiplier_is_the_one_that_was_made(dense: Curve, gain: float) -> None:
    sparse = Curve(dense.e, dense.a * gain**-dense.b, dense.b, 0.0)
    found = multiplier(dense, sparse, BUDGETS, BUDGETS[0] / 2.1, BUDGETS[-1] * 2.1)
    assert found == pytest.approx(np.full(5, gain), rel=1e-3)
    # What the sparse model needs must have been trained: not less than the least, not more than the most.
    inside = np.isfinite(multiplier(dense, sparse, BUDGETS, BUDGETS[0], BUDGETS[-1]))
    needed = BUDGETS / gain
    assert (inside | (needed < BUDGETS[0] * 1.001) | (needed > BUDGETS[-1] * 0.999)).all()
    assert (~inside | (needed > BUDGETS[0] * 0.999) & (needed < BUDGETS[-1] * 1.001)).all()


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    level = np.array([4e12])
    curve_hits, pair_hits, widths, studies = 0, 0, [], 25
    for study_seed in range(studies):
        points = made_up(generator, gain=1.0, noise=0.05, spread=0.01)
        study = Study.of(points)
        cells = cells_of(study)
        best = frontier(study, cells)
        compute = np.array([study.points[c["dense"][0]]["flops"] for c in best])
        # The documents' difficulty is common to all points and no error of the curve: it is held at what it is.
        again = draws(Study.of([p | {"document_bits": _plain(p)} for p in points]), 40, study_seed)
        found = interval(
            np.array(
                [fit(compute, np.array([x["mean"][c["dense"]].mean() for c in best])).loss(level)[0] for x in again]
            )
        )
        assert found is not None
        curve_hits += found[0] <= TRUE.loss(level)[0] <= found[1]
        widths.append(found[1] - found[0])
        first = cells[0]
        between = interval(
            np.array(
                [x["mean"][first["sparse"]].mean() - x["mean"][first["dense"]].mean() for x in draws(study, 40, 9)]
            )
        )
        assert between is not None
        pair_hits += between[0] <= 0.0 <= between[1]
    # 95 % intervals of 40 draws hold about nine times in ten.
    assert 0.8 * studies <= curve_hits and 0.8 * studies <= pair_hits
    assert np.mean(widths) < 0.05  # covering by being wide is no art


def _plain(point: dict[str, Any]) -> dict[str, list[float]]:
    """Every document at its point's own bits per byte: what is left to draw is the seed."""
    return {k: [b * point["bits_per_byte"][k] for b in point["document_bytes"][k]] for k in point["document_bytes"]}


def test_the_spread_of_seeds_is_found() -> None:
    generator = np.random.default_rng(2)
    found = [seed_spread(Study.of(made_up(generator, 1.0, 0.0, 0.02)))["mean"] for _ in range(30)]
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(0.02, rel=0.15)


def test_what_all_models_find_hard_cancels_in_differences() -> None:
    study = Study.of(made_up(np.random.default_rng(3), 1.0, 0.0, 0.0))
    dense = study.mask(kind="dense")
    for losses in draws(study, 20, 0):
        assert losses["mean"][dense] == pytest.approx(losses["mean"][~dense], abs=1e-12)
    assert np.std([losses["mean"][0] for losses in draws(study, 50, 0)]) > 0.01


def test_the_analysis_says_what_was_put_in_and_can_be_drawn() -> None:
    points = made_up(np.random.default_rng(4), gain=1.4, noise=0.01, spread=0.002)
    result = analyse(points, resamples=40)
    known = [x for x in result["curves"]["mean"]["levels"] if x["multiplier"] is not None]
    assert len(known) >= 3
    for level in known:
        assert level["multiplier"] == pytest.approx(1.4, abs=0.1)
        low, high = level["multiplier_interval"]
        assert low - 0.05 < 1.4 < high + 0.05 and high - low < 0.3
    assert [tuple(x) for x in result["frontier"]] == BEST
    assert all(c["mean"]["difference"] < 0 for c in result["cells"]) and len(result["cells"]) == CELLS
    assert {c["seeds"] for c in result["cells"]} == {1, 3}
    svg = draw(result, points)
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r">[^<]*<", "><", svg))
    tags = [e.tag.rpartition("}")[2] for e in ElementTree.fromstring(svg).iter()]
    assert tags.count("rect") == POINTS // 2 + 1 + 1  # a square for each sparse point, the legend's and the paper
    assert tags.count("circle") == POINTS // 2 + 1 + CELLS
    assert tags.count("polygon") == 2


def test_points_of_different_documents_are_refused() -> None:
    points = made_up(np.random.default_rng(5), 1.0, 0.0, 0.0)
    points[5] = points[5] | {"document_bytes": {"en": [1.0] * 60, "zh": [1.0] * 60}}
    with pytest.raises(DataError, match=r"dense n0\.4 seed 1 was scored on other documents"):
        Study.of(points)
    with pytest.raises(DataError, match="no finished runs"):
        Study.of([])


def test_the_section_has_a_row_for_each_pair_and_disclaims_the_rest() -> None:
    points = made_up(np.random.default_rng(6), gain=1.4, noise=0.01, spread=0.002)
    clock = {"steps": 10, "wall": 2.0, "cpu": 1.0}
    points = [p | {"steps": 5, "clock": clock | {"cpu": 1.5 if p["kind"] == "sparse" else 1.0}} for p in points]
    result = analyse(points, resamples=12)
    spent = cost(points)
    assert {c["ratio"] for c in spent.values()} == {1.5}
    mine = [p for p in points if p["rung"] == "n0.8" and p["kind"] == "dense"]
    each = points[0]["tokens"] / 5
    assert spent["n0.8"]["dense"] == pytest.approx(len(mine) * 1.0 / (len(mine) * 10 * each) * M)
    rates = [p | {"rate_factor": f} for p in points if p["rung"] == "n0.4" and p["tokens"] == 1e6 for f in (1.0, 3.0)]
    text = section(result | {"cost": spent, "rates": rates, "points": points, "rate_factor": 3.0})
    assert "nan" not in text and "None" not in text and "extrapolated" in text
    assert len(re.findall(r"^\| \d\.\d\d M \|", text, re.M)) == len(result["cells"]) == CELLS
    for cell in result["cells"]:
        assert f"{cell['mean']['difference']:+.3f} [{cell['mean']['interval'][0]:+.3f}" in text
    assert "×1 " in text and "The ladder has ×3 for both kinds" in text

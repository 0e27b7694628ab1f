"""The fit finds constants that were put in, its intervals cover them, and the multiplier is the one that was made."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scaling_fit import Box, Fit, Study, analyse, cost, draws, fit, frontier, interval, multiplier, seed_spread
from scaling_plot import draw
from scaling_report import section

from qwill.base.errors import DataError

M = 1e6
TRUE = Fit(e=0.9, a=0.5, b=0.6, alpha=0.45, beta=0.3, residual=0.0)
RUNGS = ((0.3, (0.5, 1.0, 2.0), 3), (0.7, (0.5, 1.0, 2.0), 3), (1.3, (0.5, 1.0, 2.0), 1), (4.0, (0.25, 0.5, 1.0), 1))
N = np.array([n * M for n, horizons, seeds in RUNGS for _ in range(seeds) for _ in horizons])
D = np.array([d * M for _, horizons, seeds in RUNGS for _ in range(seeds) for d in horizons])
BOX = Box(float(N.min()), float(N.max()), float(D.min()), float(D.max()))

constants = st.builds(
    Fit, e=st.floats(0.0, 2.0), a=st.floats(0.1, 1.0), b=st.floats(0.1, 1.0), alpha=st.floats(0.1, 1.0),
    beta=st.floats(0.1, 1.0), residual=st.just(0.0),
)  # fmt: skip


def made_up(generator: np.random.Generator, gain: float, noise: float, spread: float) -> list[dict[str, Any]]:
    """Points of both kinds: the sparse one learns as if it had read `gain` times the tokens. Each document has its own
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
                    loss = float(TRUE.loss(n * M, d * M * (gain if kind == "sparse" else 1.0))) + shift
                    bits = {k: b * (loss + hard[k] + generator.normal(0, noise, 60)) for k, b in bytes_.items()}
                    points.append({
                        "kind": kind, "rung": f"n{n}", "seed": seed, "active": n * M, "tokens": d * M,
                        "flops": 6 * n * d * M * M, "document_bits": {k: v.tolist() for k, v in bits.items()},
                        "document_bytes": {k: v.tolist() for k, v in bytes_.items()},
                        "bits_per_byte": {k: float(v.sum() / bytes_[k].sum()) for k, v in bits.items()},
                    })  # fmt: skip
    return points


@settings(max_examples=20)
@given(constants)
def test_the_fit_finds_the_curve_that_was_put_in(true: Fit) -> None:
    found = fit(N, D, true.loss(N, D))
    n, d = np.meshgrid(np.geomspace(N.min(), N.max(), 9), np.geomspace(D.min(), D.max(), 9))
    assert np.abs(found.loss(n, d) - true.loss(n, d)).max() < 1e-3


def test_the_fit_finds_constants_under_noise() -> None:
    generator = np.random.default_rng(0)
    found = [fit(N, D, TRUE.loss(N, D) + generator.normal(0, 1e-3, len(N))) for _ in range(20)]
    for name, close in (("e", 0.15), ("a", 0.12), ("b", 0.12), ("alpha", 0.1), ("beta", 0.1)):
        values = [getattr(f, name) for f in found]
        assert abs(np.median(values) - getattr(TRUE, name)) < close * getattr(TRUE, name), name
    assert 0.5e-3 < np.median([f.residual for f in found]) < 1.2e-3


@settings(max_examples=20)
@given(constants, st.floats(0.2, 5.0))
def test_coefficients_never_fall_below_zero(true: Fit, slope: float) -> None:
    # More data that hurts is nothing the formula can say; the best it can say still has no negative part.
    found = fit(N, D, true.loss(N, D) + slope * D / D.max())
    assert min(found.e, found.a, found.b) >= 0


@pytest.mark.parametrize("keep", [slice(0, 5), D < 0.6e6, N < 0.5e6])
def test_too_few_points_are_refused(keep: Any) -> None:
    with pytest.raises(DataError, match="train at least six"):
        fit(N[keep], D[keep], TRUE.loss(N, D)[keep])


def test_the_frontier_is_the_least_loss_inside_the_box() -> None:
    compute = np.geomspace(*BOX.compute, 15)
    found = frontier(TRUE, compute, BOX, points=400)
    for c, value in zip(compute, found, strict=True):
        sizes = np.geomspace(BOX.n_low, BOX.n_high, 3000)
        horizons = c / 6 / sizes
        allowed = (horizons >= BOX.d_low * 0.999) & (horizons <= BOX.d_high * 1.001)
        brute = TRUE.loss(sizes[allowed], horizons[allowed]).min()
        assert value == pytest.approx(brute, abs=2e-3)
    assert (np.diff(found) < 0).all()
    outside = frontier(TRUE, np.array([BOX.compute[0] * 0.9, BOX.compute[1] * 1.1]), BOX)
    assert np.isnan(outside).all()


@settings(max_examples=10)
@given(st.floats(0.5, 2.0))
def test_the_multiplier_is_the_one_that_was_made(gain: float) -> None:
    better = Fit(TRUE.e, TRUE.a, TRUE.b * gain**-TRUE.beta, TRUE.alpha, TRUE.beta, 0.0)
    # Wide enough that no border stands between the two: then the best size is the same for `gain` times the tokens.
    box = Box(1e3, 1e12, 1e3, 1e12)
    found = multiplier(TRUE, better, np.array([2e12, 8e12, 32e12]), box)
    low, high = sorted((gain ** (TRUE.alpha / (TRUE.alpha + TRUE.beta)), gain))
    # On the frontier a gain in tokens counts for less than itself and for more than nothing; see below for the value.
    exact = [_needed(better, c, box) / c for c in (2e12, 8e12, 32e12)]
    assert found == pytest.approx(exact, rel=0.02)
    assert (found >= low * 0.98).all() and (found <= high * 1.02).all()


def _needed(better: Fit, compute: float, box: Box) -> float:
    """The dense compute for the sparse loss, by bisection."""
    wanted = float(frontier(better, np.array([compute]), box, 1000)[0])
    low, high = compute / 10, compute * 10
    for _ in range(60):
        middle = (low * high) ** 0.5
        if float(frontier(TRUE, np.array([middle]), box, 1000)[0]) > wanted:
            low = middle
        else:
            high = middle
    return low


def test_a_multiplier_beyond_the_box_is_not_given() -> None:
    far = Fit(TRUE.e, TRUE.a, TRUE.b / 100, TRUE.alpha, TRUE.beta, 0.0)
    assert np.isnan(multiplier(TRUE, far, np.array([6e12]), BOX)).all()


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    hits, widths, level = 0, [], np.array([4e12])
    truth = float(frontier(TRUE, level, BOX)[0])
    cells = 0
    for study_seed in range(16):
        points = made_up(generator, gain=1.0, noise=0.05, spread=0.01)
        study = Study.of(points)
        dense = study.mask(kind="dense")
        n, d = study.column("active")[dense], study.column("tokens")[dense]
        drawn = draws(study, 30, study_seed)
        # The documents' difficulty is common to all points and not noise of the curve: it is held at what it is.
        base = Study.of([p | {"document_bits": _plain(p)} for p in points])
        again = draws(base, 30, study_seed)
        found = interval(np.array([frontier(fit(n, d, x["mean"][dense]), level, BOX)[0] for x in again]))
        assert found is not None
        hits += found[0] <= truth <= found[1]
        widths.append(found[1] - found[0])
        differences = np.array([x["mean"][~dense][0] - x["mean"][dense][0] for x in drawn])
        between = interval(differences)
        assert between is not None
        cells += between[0] <= 0.0 <= between[1]
    assert hits >= 12 and cells >= 12
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
    points = made_up(np.random.default_rng(4), gain=1.6, noise=0.01, spread=0.002)
    result = analyse(points, resamples=12)
    assert result["box"]["n_high"] == 4e6
    for level in result["curves"]["mean"]["levels"]:
        if level["multiplier"] is not None:
            low, high = level["multiplier_interval"]
            assert low - 0.1 <= level["multiplier"] <= high + 0.1
            assert 1.1 < level["multiplier"] < 1.9
    assert all(c["mean"]["difference"] < 0 for c in result["cells"]) and len(result["cells"]) == 12
    assert {c["seeds"] for c in result["cells"]} == {1, 3}
    svg = draw(result, points)
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r">[^<]*<", "><", svg))
    tags = [e.tag.rpartition("}")[2] for e in ElementTree.fromstring(svg).iter()]
    assert tags.count("rect") == 24 + 1 + 1  # a square for each sparse point, the legend's and the paper
    assert tags.count("circle") == 24 + 1 + len(result["cells"])
    assert tags.count("polygon") == 2


def test_points_of_different_documents_are_refused() -> None:
    points = made_up(np.random.default_rng(5), 1.0, 0.0, 0.0)
    points[3] = points[3] | {"document_bytes": {"en": [1.0] * 60, "zh": [1.0] * 60}}
    with pytest.raises(DataError, match=r"dense n0\.3 seed 1 was scored on other documents"):
        Study.of(points)
    with pytest.raises(DataError, match="no finished runs"):
        Study.of([])


def test_the_section_has_a_row_for_each_pair_and_disclaims_the_rest() -> None:
    points = made_up(np.random.default_rng(6), gain=1.6, noise=0.01, spread=0.002)
    clock = {"steps": 10, "wall": 2.0, "cpu": 1.0}
    points = [p | {"steps": 5, "clock": clock | {"cpu": 1.5 if p["kind"] == "sparse" else 1.0}} for p in points]
    result = analyse(points, resamples=12)
    spent = cost(points)
    assert {c["ratio"] for c in spent.values()} == {1.5}
    assert spent["n0.3"]["dense"] == pytest.approx(3 * 3 * 1.0 / (3 * 3 * 10 * points[0]["tokens"] / 5) * 1e6)
    rates = [p | {"rate_factor": f} for p in points if p["rung"] == "n0.3" and p["tokens"] == 1e6 for f in (1.0, 3.0)]
    text = section(result | {"cost": spent, "rates": rates, "points": points, "rate_factor": 3.0})
    assert "nan" not in text and "None" not in text and "extrapolated" in text
    assert len(re.findall(r"^\| \d\.\d\d M \|", text, re.M)) == len(result["cells"]) == 12
    for cell in result["cells"]:
        assert f"{cell['mean']['difference']:+.3f} [{cell['mean']['interval'][0]:+.3f}" in text
    assert "×1 " in text and "The ladder has ×3 for both kinds" in text

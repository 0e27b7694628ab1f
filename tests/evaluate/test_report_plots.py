import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.numbers import percent, short
from qwill.evaluate.plots import (
    WIDTH,
    Bar,
    Estimate,
    Series,
    arc_diagram,
    bar_chart,
    heat_map,
    interval_chart,
    line_chart,
    nice_ticks,
    thin,
)

numbers = st.floats(-1e9, 1e9, allow_nan=False)
shares = st.floats(0.0, 1.0)


def elements(svg: str, tag: str) -> list[ElementTree.Element]:
    """All elements of a plot, which must be well-formed, with numbers that a browser can draw."""
    assert not re.search(r"\b(nan|inf)\b", re.sub(r">[^<]*<", "><", svg))
    return [element for element in ElementTree.fromstring(svg).iter() if element.tag == tag]


@given(numbers, st.floats(1e-6, 1e9), st.integers(2, 8))
def test_ticks_are_round_lie_inside_and_are_evenly_spaced(low: float, width: float, count: int) -> None:
    high = low + width
    ticks = nice_ticks(low, high, count)
    slack = 1e-6 * max(abs(low), abs(high), width)
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    assert len(ticks) <= count + 2
    steps = [b - a for a, b in pairwise(ticks)]
    if steps and width > 1e-3 * max(abs(low), 1):
        assert max(steps) - min(steps) <= 1e-6 * max(steps)
        digits = f"{steps[0]:.3e}".partition("e")[0]
        assert digits in ("1.000", "2.000", "5.000", "10.000")


def test_short_numbers() -> None:
    assert [short(v) for v in (0, 0.25, 3, 1200, 9_120_000, 2.5e9)] == ["0", "0.25", "3", "1.2k", "9.12M", "2.5G"]


@given(st.lists(st.tuples(numbers, shares), max_size=900), st.integers(1, 300))
def test_thinning_bounds_the_points_and_keeps_the_range(points: list[tuple[float, float]], most: int) -> None:
    thinned = thin(points, most)
    assert len(thinned) <= most
    if len(points) <= most:
        assert thinned == points
    else:
        ys = [y for _, y in points]
        assert all(min(ys) - 1e-9 <= y <= max(ys) + 1e-9 for _, y in thinned)


@given(st.lists(st.lists(shares, min_size=1, max_size=50), min_size=1, max_size=3), st.booleans())
def test_lines_stay_inside_the_picture_and_higher_is_higher(curves: list[list[float]], from_zero: bool) -> None:
    series = [Series(f"<{i}>", list(enumerate(ys)), "s-en") for i, ys in enumerate(curves)]
    svg = line_chart("a & b", series, "step", "loss", from_zero)
    lines = elements(svg, "polyline")
    assert len(lines) == len(curves)
    for line, ys in zip(lines, curves, strict=True):
        drawn = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        assert all(0 <= x <= WIDTH and 0 <= y <= 208 for x, y in drawn)
        assert drawn[ys.index(max(ys))][1] <= drawn[ys.index(min(ys))][1]


def test_a_line_without_finite_points_says_so() -> None:
    svg = line_chart("loss", [Series("loss", [(1, math.nan)], "s-en")], "step", "loss")
    assert "no points were recorded" in svg and not elements(svg, "polyline")


@given(st.lists(st.lists(st.tuples(shares, shares, shares), min_size=1, max_size=2), min_size=1, max_size=5))
def test_whiskers_hold_their_dot(cells: list[list[tuple[float, float, float]]]) -> None:
    rows = [
        (f"row {i}", [Estimate(m, lo, hi, "s-en") for lo, m, hi in map(sorted, row)]) for i, row in enumerate(cells)
    ]
    svg = interval_chart("accuracy", rows, "share", lambda v: f"{v:.2f}", (0.0, 1.0))
    whiskers = [e for e in elements(svg, "line") if "whisker" in e.attrib["class"]]
    dots = elements(svg, "circle")
    assert len(whiskers) == len(dots) == sum(map(len, cells))
    for whisker, dot in zip(whiskers, dots, strict=True):
        assert float(whisker.attrib["x1"]) <= float(dot.attrib["cx"]) <= float(whisker.attrib["x2"])
        assert whisker.attrib["y1"] == dot.attrib["cy"]


def test_an_estimate_without_interval_has_no_whisker_and_chinese_another_shape() -> None:
    svg = interval_chart("r", [("a", [Estimate(3.0, None, None, "s-zh")])], "x", str)
    assert not [e for e in elements(svg, "line") if "whisker" in e.attrib["class"]]
    assert len(elements(svg, "rect")) == 1 and not elements(svg, "circle")
    assert "nothing was measured" in interval_chart("r", [], "x", str)


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=6))
def test_bars_are_as_long_as_their_values(values: list[float]) -> None:
    svg = bar_chart("bits", [Bar(str(v), v, "s-en") for v in values], "bits", str)
    widths = [float(bar.attrib["width"]) for bar in elements(svg, "rect")]
    scale = max(widths) / max(values)
    assert all(abs(width - max(value * scale, 1)) < 0.11 for width, value in zip(widths, values, strict=True))
    assert "nothing was measured" in bar_chart("bits", [], "bits", str)


@given(st.integers(1, 6), st.integers(1, 64), st.randoms(use_true_random=False))
def test_heat_maps_have_a_cell_each_and_even_load_is_half_strength(layers: int, experts: int, rng) -> None:
    svg = heat_map("load", [[1 / experts] * experts for _ in range(layers)], "layer", "expert")
    assert [cell.attrib["fill-opacity"] for cell in elements(svg, "rect")] == ["0.50"] * (layers * experts)
    busy = [[1.0] + [0.0] * (experts - 1)]
    strengths = [float(c.attrib["fill-opacity"]) for c in elements(heat_map("load", busy, "l", "e"), "rect")]
    assert strengths == ([1.0] if experts > 1 else [0.5]) + [0.0] * (experts - 1)


def test_an_empty_heat_map_says_so() -> None:
    assert "nothing was recorded" in heat_map("load", [], "layer", "expert")


@given(st.lists(st.sets(st.integers(0, 19)), min_size=1, max_size=12))
def test_arcs_join_the_rows_they_should(wanted: list[set[int]]) -> None:
    parents = [sorted(p for p in row if p < child) for child, row in enumerate(wanted)]
    svg = arc_diagram(parents, ["s-en"] * len(parents), 54, 112)
    joined = []
    for path in elements(svg, "path"):
        xs = [float(v) for v in re.findall(r"[MC ](-?[\d.]+) -?[\d.]+", path.attrib["d"])]
        assert min(xs[1:3]) * 0.75 + 100 * 0.25 >= 0  # the curve's leftmost point is inside the picture
        start, end = re.findall(r"[\d.]+", path.attrib["d"])[1], re.findall(r"[\d.]+", path.attrib["d"])[-1]
        joined.append((float(start) // 54, float(end) // 54))
    assert joined == [(p, child) for child, row in enumerate(parents) for p in row]
    assert len(elements(svg, "circle")) == len(parents)


@pytest.mark.parametrize(
    "draw", [lambda t: bar_chart(t, [Bar(t, 1, "s")], t, str), lambda t: heat_map(t, [[1.0]], t, t)]
)
def test_labels_are_escaped(draw) -> None:
    elements(draw('<b> & "c"'), "rect")


def test_percents_say_all_and_nothing_only_where_it_is_so() -> None:
    assert [percent(v) for v in (0, 1, 0.997, 0.003, 0.5, 0.984)] == ["0 %", "100 %", "99.7 %", "0.3 %", "50 %", "98 %"]

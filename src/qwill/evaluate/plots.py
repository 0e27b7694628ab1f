"""Inline SVG plots for the report: strings without scripts, fonts or colours of their own.

Every plot is drawn 340 units wide, about the width of a phone, so that its text is readable there and two or three
stand side by side on a desktop. Colours come from CSS classes (`s-en`, `s-zh`, `s-base`, …), so light and dark need no
second drawing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from qwill.base.numbers import short

WIDTH = 340
MOST_POINTS = 240


@dataclass(frozen=True)
class Series:
    """A line: `points` are (x, y) in order of x; `css` is the class that colours it."""

    name: str
    points: Sequence[tuple[float, float]]
    css: str


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; `upper` and `lower` may be None where none is known."""

    value: float
    lower: float | None
    upper: float | None
    css: str


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    css: str


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) that lie in [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def thin(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: means over neighbours, so that a long noisy curve becomes a readable one."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    blocks = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in block) / len(block), sum(y for _, y in block) / len(block)) for block in blocks]


def _svg(height: float, title: str, body: Sequence[str]) -> str:
    # The title is the accessible name of the picture; its numbers are in the tables of the report.
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", css: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def line_chart(title: str, series: Sequence[Series], x_label: str, y_label: str, from_zero: bool = False) -> str:
    """Lines over steps. The range of y is that of the data, with a little air, unless `from_zero`."""
    left, right, top, bottom, height = 40, 10, 22, 32, 208
    lines = [(line, thin([(x, y) for x, y in line.points if math.isfinite(y)])) for line in series]
    everything = [point for _, points in lines for point in points]
    if not everything:
        return _svg(40, title, [_text(WIDTH / 2, 24, "no points were recorded", "middle", "label")])
    xs, ys = [x for x, _ in everything], [y for _, y in everything]
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = (min(0.0, min(ys)) if from_zero else min(ys)), max(ys)
    air = 0.06 * (y_high - y_low) or abs(y_high) * 0.1 or 1.0
    y_low, y_high = (y_low if from_zero else y_low - air), y_high + air

    def across(x: float) -> float:
        return left + (x - x_low) / ((x_high - x_low) or 1.0) * (WIDTH - left - right)

    def down(y: float) -> float:
        return top + (y_high - y) / (y_high - y_low) * (height - top - bottom)

    body = [_text(2, 12, y_label, css="label")]
    for tick in nice_ticks(y_low, y_high):
        body.append(_line(left, down(tick), WIDTH - right, down(tick), "gridline"))
        body.append(_text(left - 6, down(tick) + 4, short(tick), "end", "tick"))
    for tick in nice_ticks(x_low, x_high):
        body.append(_text(across(tick), height - bottom + 15, short(tick), "middle", "tick"))
    body.append(_text(WIDTH - right, height - 3, x_label, "end", "label"))
    for line, points in lines:
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
        body.append(f'<polyline points="{path}" class="line {line.css}"/>')
        if points:
            body.append(f'<circle cx="{across(points[-1][0]):.1f}" cy="{down(points[-1][1]):.1f}" r="3.2" ')
            body.append(f'class="dot {line.css}"/>')
    return _svg(height, title, body)


def interval_chart(
    title: str,
    rows: Sequence[tuple[str, Sequence[Estimate]]],
    x_label: str,
    show: Callable[[float], str],
    domain: tuple[float, float] | None = None,
) -> str:
    """Dots with whiskers. A row holds one estimate for each series; they share the row's label."""
    left, right, top, line_height, gap = 66, 62, 6, 20, 12
    estimates = [estimate for _, members in rows for estimate in members]
    ends = [
        value for e in estimates for value in (e.value, e.lower, e.upper) if value is not None and math.isfinite(value)
    ]
    if not ends:
        return _svg(40, title, [_text(WIDTH / 2, 24, "nothing was measured", "middle", "label")])
    low, high = domain or (min(ends), max(ends))
    if domain is None:
        air = 0.05 * (high - low) or 1.0
        low, high = low - air, high + air

    def across(value: float) -> float:
        return left + (min(max(value, low), high) - low) / ((high - low) or 1.0) * (WIDTH - left - right)

    heights = [max(1, len(members)) * line_height + gap for _, members in rows]
    foot = top + sum(heights)
    body = []
    for tick in nice_ticks(low, high):
        body.append(_line(across(tick), top, across(tick), foot, "gridline"))
        body.append(_text(across(tick), foot + 14, show(tick), "middle", "tick"))
    body.append(_text(WIDTH - 4, foot + 30, x_label, "end", "label"))
    y = float(top)
    for (label, members), row_height in zip(rows, heights, strict=True):
        body.append(_text(left - 10, y + row_height / 2 + 4, label, "end", "name"))
        for index, e in enumerate(members):
            middle = y + gap / 2 + (index + 0.5) * line_height
            if e.lower is not None and e.upper is not None:
                body.append(_line(across(e.lower), middle, across(e.upper), middle, f"whisker {e.css}"))
            body.append(_mark(across(e.value), middle, e.css))
            body.append(_text(WIDTH - 4, middle + 4, show(e.value), "end", f"value {e.css}"))
        y += row_height
    return _svg(foot + 34, title, body)


def _mark(x: float, y: float, css: str) -> str:
    # Languages differ in shape as well as colour, for readers who see no difference between the colours.
    if css == "s-zh":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" rx="1" class="dot {css}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.6" class="dot {css}"/>'


def bar_chart(title: str, bars: Sequence[Bar], x_label: str, show: Callable[[float], str]) -> str:
    """Horizontal bars from zero, with their values."""
    left, right, row_height = 92, 50, 30
    if not bars:
        return _svg(40, title, [_text(WIDTH / 2, 24, "nothing was measured", "middle", "label")])
    longest = max(bar.value for bar in bars) or 1.0
    body = []
    for index, bar in enumerate(bars):
        y = index * row_height
        width = bar.value / longest * (WIDTH - left - right)
        body.append(_text(left - 10, y + 19, bar.label, "end", "name"))
        body.append(
            f'<rect x="{left}" y="{y + 5}" width="{max(width, 1):.1f}" height="20" rx="3" class="bar {bar.css}"/>'
        )
        body.append(_text(left + width + 7, y + 19.5, show(bar.value), "start", "value"))
    body.append(_text(left, len(bars) * row_height + 14, x_label, "start", "label"))
    return _svg(len(bars) * row_height + 20, title, body)


def heat_map(title: str, shares: Sequence[Sequence[float]], row_name: str, column_name: str) -> str:
    """One cell for each share of a row's total; an even share is half strength, twice an even share is full."""
    if not shares or not shares[0]:
        return _svg(40, title, [_text(WIDTH / 2, 24, "nothing was recorded", "middle", "label")])
    left, top = 28, 20
    columns = max(len(row) for row in shares)
    width = (WIDTH - left) / columns
    height = min(26.0, max(14.0, width))
    body = [_text(left, 11, f"{column_name} →", "start", "label")]
    body.append(
        f'<text transform="translate(11 {top + 4}) rotate(90)" text-anchor="start" class="label">'
        f"{escape(row_name)} →</text>"
    )
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            x, y = left + column * width, top + row * height
            strength = min(1.0, 0.5 * share * len(values))
            body.append(
                f'<rect x="{x + 0.75:.1f}" y="{y + 0.75:.1f}" width="{width - 1.5:.1f}" height="{height - 1.5:.1f}" '
                f'rx="2" class="cell" fill-opacity="{strength:.2f}"><title>{escape(row_name)} {row}, '
                f"{escape(column_name)} {column}: {100 * share:.1f} %</title></rect>"
            )
            if width >= 26:
                css = "on-cell strong" if strength > 0.62 else "on-cell"
                body.append(_text(x + width / 2, y + height / 2 + 3.6, f"{100 * share:.0f}", "middle", css))
    return _svg(top + len(shares) * height + 4, title, body)


def arc_diagram(parents: Sequence[Sequence[int]], css: Sequence[str], row_height: int, width: int = 112) -> str:
    """The left side of a lineage: one dot a row and an arc from each row to the earlier rows it was made from.

    Drawn in pixels, not scaled: the rows beside it are HTML of exactly `row_height`. A long arc reaches further out;
    an arc has the colour (`css`) of the row that it comes from.
    """
    rows = len(parents)
    x = width - 12
    farthest = max((child - parent for child, row in enumerate(parents) for parent in row), default=1)
    body = []
    for child, row in enumerate(parents):
        for parent in row:
            start, end = (parent + 0.5) * row_height, (child + 0.5) * row_height
            # A Bézier curve's middle lies three quarters of the way to its control points.
            reach = 18 + ((x - 4) / 0.75 - 18) * ((child - parent) / farthest) ** 0.6
            body.append(
                f'<path d="M{x} {start:.1f} C{x - reach:.1f} {start:.1f} {x - reach:.1f} {end:.1f} {x} {end:.1f}" '
                f'class="arc {css[parent]}"/>'
            )
    for row_index in range(rows):
        body.append(
            f'<circle cx="{x}" cy="{(row_index + 0.5) * row_height:.1f}" r="5.5" class="knot {css[row_index]}"/>'
        )
    return (
        f'<svg class="arcs" width="{width}" height="{rows * row_height}" role="img" '
        f'aria-label="which artifact was made from which">{"".join(body)}</svg>'
    )

"""The picture of the scaling study: loss against compute, and what sparsity changes at each size; one SVG for a page.

Colours follow the reader's theme, and the kinds differ in shape too, for readers who see no difference in colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from qwill.evaluate.plots import nice_ticks

WIDTH, HEIGHT, TOP, FOOT = 860, 400, 56, 46
PANELS = ((52, 500), (580, 846))  # left and right edges
MARKS = {"dense": "s-dense", "sparse": "s-sparse"}
STYLE = """
svg { --paper: #ffffff; --ink: #1d2127; --soft: #5c6470; --rule: #e4dfd5; --dense: #1f5fa8; --sparse: #c2431b;
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
@media (prefers-color-scheme: dark) { svg { --paper: #1c1f25; --ink: #e8e6e1; --soft: #a9b0ba; --rule: #3a3f48;
  --dense: #6fa8ec; --sparse: #f0825c; } }
.paper { fill: var(--paper); } text { fill: var(--soft); font-variant-numeric: tabular-nums; }
.title { fill: var(--ink); font-weight: 600; font-size: 13px; } .grid { stroke: var(--rule); }
.s-dense { --c: var(--dense); } .s-sparse { --c: var(--sparse); }
.curve { fill: none; stroke: var(--c); stroke-width: 2.2; } .band { fill: var(--c); opacity: .16; }
.run { fill: none; stroke: var(--c); stroke-width: .8; opacity: .45; } .dot { fill: var(--c); }
.zero { stroke: var(--soft); stroke-dasharray: 4 3; } .whisker { stroke: var(--ink); } .mean { fill: var(--ink); }
.size { fill: none; stroke: var(--ink); stroke-width: 1; opacity: .55; }
"""


class Axes:
    """Where numbers lie in a panel; `x` is logarithmic, `y` too if asked."""

    def __init__(self, edges: tuple[int, int], xs: Sequence[float], ys: Sequence[float], log_y: bool) -> None:
        self.left, self.right = edges
        self.turn = math.log if log_y else float
        air = 0.05 * math.log(max(xs) / min(xs))
        self.x_low, self.x_high = math.log(min(xs)) - air, math.log(max(xs)) + air
        low, high = self.turn(min(ys)), self.turn(max(ys))
        self.y_low, self.y_high = low - 0.06 * (high - low), high + 0.06 * (high - low)

    def x(self, value: float) -> float:
        return self.left + (math.log(value) - self.x_low) / (self.x_high - self.x_low) * (self.right - self.left)

    def y(self, value: float) -> float:
        share = (self.turn(value) - self.y_low) / (self.y_high - self.y_low)
        return float(HEIGHT - FOOT - share * (HEIGHT - FOOT - TOP))

    def at(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)

    def frame(self, title: str, x_label: str, x_ticks: dict[float, str], y_ticks: dict[float, str]) -> list[str]:
        out = [_text(self.left - 40, 22, title, "title")]
        for value, name in y_ticks.items():
            y = self.y(value)
            out.append(f'<line x1="{self.left}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            out.append(_text(self.left - 6, y + 4, name, anchor="end"))
        for value, name in x_ticks.items():
            out.append(_text(self.x(value), HEIGHT - FOOT + 17, name, anchor="middle"))
        return [*out, _text(self.right, HEIGHT - 8, x_label, anchor="end")]


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(text)}</text>'


def mark(x: float, y: float, kind: str) -> str:
    """A circle for dense, a square for sparse."""
    if kind == "sparse":
        return f'<rect x="{x - 3.2:.1f}" y="{y - 3.2:.1f}" width="6.4" height="6.4" class="dot s-sparse"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" class="dot s-dense"/>'


def powers(low: float, high: float, factor: float) -> list[float]:
    """Powers of two times `factor` inside [low, high]."""
    return [factor * 2.0**i for i in range(-12, 40) if low <= factor * 2.0**i <= high]


def draw(result: dict[str, Any], points: Sequence[dict[str, Any]]) -> str:
    """The whole picture, from `scaling_fit.analyse` and the points that it was made of."""
    body = [*_against_compute(result["curves"]["mean"], points), *_differences(result["cells"])]
    title = "Bits per byte against training compute, dense and sparse models of equal active size"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
        f"<title>{title}</title><style>{STYLE}</style>"
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" class="paper"/>{"".join(body)}</svg>\n'
    )


def loss_of(point: dict[str, Any]) -> float:
    """Bits per byte, the mean of the languages."""
    values = point["bits_per_byte"].values()
    return float(sum(values) / len(values))


def _against_compute(curves: dict[str, Any], points: Sequence[dict[str, Any]]) -> list[str]:
    xs, ys = [p["flops"] for p in points], [loss_of(p) for p in points]
    axes = Axes(PANELS[0], xs, ys, log_y=True)
    ticks = {c: f"{c / 1e12:.3g}" for c in powers(min(xs), max(xs), 1e12)}
    body = axes.frame(
        "Bits per byte (en, zh: mean)", "training compute, 10¹² FLOPs (6 · active weights · tokens)", ticks,
        {t: f"{t:.3g}" for t in nice_ticks(min(ys), max(ys), 6)},
    )  # fmt: skip
    for i, (kind, css) in enumerate(MARKS.items()):
        inside = [
            (c, v, *band)
            for c, v, band in zip(curves["compute"], curves[kind]["loss"], curves[kind]["band"], strict=True)
        ]
        edge = [(c, low) for c, _, low, _ in inside] + [(c, high) for c, _, _, high in reversed(inside)]
        body.append(f'<polygon points="{axes.at(edge)}" class="band {css}"/>')
        body.append(f'<polyline points="{axes.at([(c, v) for c, v, _, _ in inside])}" class="curve {css}"/>')
        runs: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for p in points:
            if p["kind"] == kind:
                runs.setdefault((p["rung"], p["seed"]), []).append((p["flops"], loss_of(p)))
        for run in runs.values():
            body.append(f'<polyline points="{axes.at(sorted(run))}" class="run {css}"/>')
            body += [mark(axes.x(x), axes.y(y), kind) for x, y in run]
        body.append(mark(axes.right - 178, TOP + 2 + 17 * i, kind))
        body.append(_text(axes.right - 168, TOP + 6 + 17 * i, f"{kind}: runs, frontier, 95 %"))
    return body


def _differences(cells: Sequence[dict[str, Any]]) -> list[str]:
    ends = [e for c in cells for e in (*c["mean"]["interval"], c["mean"]["difference"], 0.0)]
    xs = [c["tokens"] for c in cells]
    axes = Axes(PANELS[1], xs, ends, log_y=False)
    ticks = {t: f"{t / 2**20:.3g}" for t in powers(min(xs), max(xs), 2**20)}
    body = axes.frame(
        "Sparse − dense, same active size", "training tokens, 2²⁰", ticks,
        {t: f"{t:+.2f}" if t else "0" for t in nice_ticks(min(ends), max(ends), 6)},
    )  # fmt: skip
    y = axes.y(0.0)
    body.append(f'<line x1="{axes.left}" x2="{axes.right}" y1="{y:.1f}" y2="{y:.1f}" class="zero"/>')
    rungs = list(dict.fromkeys(c["rung"] for c in sorted(cells, key=lambda c: c["active"])))
    for i, rung in enumerate(rungs):
        mine = sorted((c for c in cells if c["rung"] == rung), key=lambda c: c["tokens"])
        # Sizes share horizons: side by side, or their whiskers would cover each other.
        shift = 3.5 * (i - (len(rungs) - 1) / 2)
        at = [(axes.x(c["tokens"]) + shift, axes.y(c["mean"]["difference"])) for c in mine]
        body.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in at)}" class="size"/>')
        for (x, y), c in zip(at, mine, strict=True):
            low, high = (axes.y(v) for v in c["mean"]["interval"])
            body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" class="whisker"/>')
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2.0 + 0.6 * i:.1f}" class="mean"/>')
        # Names above and below by turns, and inside the panel, as ends of lines lie close together.
        x, y = at[-1]
        side, up = (-6, "end") if x > axes.right - 40 else (6, "start"), i % 2 == 1
        body.append(_text(x + side[0], y - 6 if up else y + 15, f"{mine[0]['active'] / 1e6:.2g} M", anchor=side[1]))
    return body

"""What the points of the scaling study say: fitted curves, what sparsity gains, and how sure that is.

Loss against compute is L(C) = E + a·(C/1e12)^-b for each kind (Kaplan et al. 2020, arXiv 2001.08361, with the constant
of Hoffmann et al. 2022, arXiv 2203.15556), through the cells (size, horizon) that no cell of less compute betters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import DataError

Array = NDArray[np.float64]
EXPONENTS = (0.01, 2.0)
UNIT = 1e12


@dataclass(frozen=True)
class Curve:
    """The three constants; `residual` is the root mean square of what is left, in the unit of the loss."""

    e: float
    a: float
    b: float
    residual: float

    def loss(self, compute: Array) -> Array:
        return self.e + self.a * (compute / UNIT) ** -self.b


def fit(compute: Array, loss: Array) -> Curve:
    """Least squares with E from zero up. For a given exponent the rest is linear; it is searched on ever finer grids.

    Raises DataError for fewer than four different budgets.
    """
    if len(set(compute.tolist())) < 4:
        raise DataError(
            f"{len(set(compute.tolist()))} budgets cannot tell three constants apart; train at least four of which "
            "none is bettered by a smaller one."
        )
    low, high = np.log(EXPONENTS)
    middle, width = (low + high) / 2, (high - low) / 2
    for _ in range(7):
        logs = np.clip(np.linspace(middle - width, middle + width, 33), low, high)
        e, a, left = _linear(compute, loss, np.exp(logs))
        i = int((left**2).sum(1).argmin())
        middle, width = float(logs[i]), width / 8
    return Curve(float(e[i]), float(a[i]), float(np.exp(middle)), float(np.sqrt((left[i] ** 2).mean())))


def _linear(compute: Array, loss: Array, exponents: Array) -> tuple[Array, Array, Array]:
    """E from zero up and `a` for each exponent, and what they leave of each loss [exponents, losses]."""
    x = (compute / UNIT) ** -exponents[:, None]
    centred = x - x.mean(1, keepdims=True)
    a = centred @ (loss - loss.mean()) / (centred**2).sum(1)
    e = loss.mean() - a * x.mean(1)
    a = np.where(e < 0, x @ loss / (x * x).sum(1), a)
    e = np.maximum(e, 0.0)
    return e, a, loss - e[:, None] - a[:, None] * x


def multiplier(dense: Curve, sparse: Curve, compute: Array, low: float, high: float) -> Array:
    """How many times the compute of a sparse model a dense one of this compute has for the same loss; above 1, sparsity
    saves. NaN where the sparse one's would lie outside [low, high], which were trained."""
    grid = np.geomspace(low, high, 400)
    curve = sparse.loss(grid)
    wanted = dense.loss(compute)
    needed = np.interp(-wanted, -curve, np.log(grid), left=np.nan, right=np.nan)
    return compute / np.exp(needed)


@dataclass(frozen=True)
class Study:
    """Points of one kind or of both, ready to be drawn again: `bits[language]` is [points, documents]."""

    points: list[dict[str, Any]]
    bits: dict[str, Array]
    bytes_: dict[str, Array]

    @classmethod
    def of(cls, points: Sequence[dict[str, Any]]) -> Study:
        """Raises DataError when the points were not scored on the same documents."""
        if not points:
            raise DataError("there are no finished runs in the ladder; train some before asking what they say.")
        languages = sorted(points[0]["document_bits"])
        for p in points:
            if p["document_bytes"] != points[0]["document_bytes"]:
                raise DataError(
                    f"{p['kind']} {p['rung']} seed {p['seed']} was scored on other documents than the rest; delete its "
                    "folder and train it again."
                )
        return cls(
            list(points),
            {k: np.array([p["document_bits"][k] for p in points], dtype=np.float64) for k in languages},
            {k: np.array(points[0]["document_bytes"][k], dtype=np.float64) for k in languages},
        )

    def column(self, name: str) -> Array:
        return np.array([p[name] for p in self.points], dtype=np.float64)

    def mask(self, **wanted: Any) -> NDArray[np.bool_]:
        return np.array([all(p[k] == v for k, v in wanted.items()) for p in self.points])

    def losses(self, weights: dict[str, Array] | None = None) -> dict[str, Array]:
        """Bits per byte of each point by language, and their mean; `weights` counts how often a document was drawn."""
        out = {}
        for k, bits in self.bits.items():
            w = np.ones(bits.shape[1]) if weights is None else weights[k]
            out[k] = (bits @ w) / (self.bytes_[k] @ w)
        return out | {"mean": np.mean(list(out.values()), axis=0)}


def seed_spread(study: Study) -> dict[str, float]:
    """Standard deviation between seeds (same kind, size, horizon and documents), pooled; NaN where no cell has two."""
    cells: dict[tuple[Any, ...], list[int]] = {}
    for i, p in enumerate(study.points):
        cells.setdefault((p["kind"], p["rung"], p["tokens"]), []).append(i)
    several = [c for c in cells.values() if len(c) > 1]
    free = sum(len(c) - 1 for c in several)
    return {
        k: float(np.sqrt(sum(((v[c] - v[c].mean()) ** 2).sum() for c in several) / free)) if free else float("nan")
        for k, v in study.losses().items()
    }


def draws(study: Study, count: int, seed: int) -> list[dict[str, Array]]:
    """Losses of all points, `count` times: documents drawn again (the same for every point, so what all models find
    hard cancels), and a shift for each run as large as seeds differ. All horizons of a run share its shift."""
    generator = np.random.default_rng(seed)
    spread = seed_spread(study)
    runs = sorted({(p["kind"], p["rung"], p["seed"]) for p in study.points})
    row = np.array([runs.index((p["kind"], p["rung"], p["seed"])) for p in study.points])
    out = []
    for _ in range(count):
        weights = {
            k: generator.multinomial(len(b), np.full(len(b), 1 / len(b))).astype(np.float64)
            for k, b in study.bytes_.items()
        }
        # One draw a run: the languages of a run are shifted together.
        shift = generator.standard_normal(len(runs))[row]
        out.append({k: v + shift * np.nan_to_num(spread[k]) for k, v in study.losses(weights).items()})
    return out


def interval(values: Array, confidence: float = 0.95) -> tuple[float, float] | None:
    """Percentile interval; None when more than a tenth of the values are NaN, for then it would be of a selection."""
    known = values[np.isfinite(values)]
    if len(known) < 0.9 * len(values):
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


Cell = dict[str, NDArray[np.int64]]


def cells_of(study: Study) -> list[Cell]:
    """The points of each size and horizon by kind, where both kinds have the same seeds."""
    out = []
    for rung, tokens in dict.fromkeys((p["rung"], p["tokens"]) for p in study.points):
        cell = {k: np.flatnonzero(study.mask(kind=k, rung=rung, tokens=tokens)) for k in ("dense", "sparse")}
        dense, sparse = ({study.points[i]["seed"] for i in c} for c in cell.values())
        if dense and dense == sparse:
            out.append(cell)
    return out


def frontier(study: Study, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that no cell of less compute betters, least compute first, judged by the mean of both kinds so that
    they are the same for both."""
    loss, flops = study.losses()["mean"], study.column("flops")
    out: list[Cell] = []
    best = np.inf
    for cell in sorted(cells, key=lambda c: float(flops[c["dense"][0]])):
        mean = float(np.mean([loss[i].mean() for i in cell.values()]))
        if mean < best:
            best = mean
            out.append(cell)
    return out


def analyse(points: Sequence[dict[str, Any]], resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Everything that the report says, from the points of both kinds: `cells` (pairs of runs) and `curves` (fits)."""
    study = Study.of(points)
    found, again = study.losses(), draws(study, resamples, seed)
    cells = cells_of(study)
    best = frontier(study, cells)
    flops = study.column("flops")
    compute = {k: np.array([flops[c[k][0]] for c in best]) for k in ("dense", "sparse")}
    low, high = float(compute["dense"].min()), float(compute["dense"].max())
    grid, levels = np.geomspace(low, high, 60), np.array(_round_levels(low, high))

    def fits(losses: Array) -> dict[str, Curve]:
        return {k: fit(compute[k], np.array([losses[c[k]].mean() for c in best])) for k in compute}

    result: dict[str, Any] = {"seed_spread": seed_spread(study), "resamples": resamples}
    result["cells"] = [_pair(study, cell, found, again) for cell in cells]
    result["frontier"] = [[study.points[c["dense"][0]][k] for k in ("rung", "tokens")] for c in best]
    for name, losses in found.items():
        fitted, drawn = fits(losses), [fits(x[name]) for x in again]
        curves: dict[str, Any] = {"compute": grid.tolist()}
        for kind, curve in fitted.items():
            band = np.array([f[kind].loss(grid) for f in drawn])
            curves[kind] = {
                "constants": vars(curve),
                "intervals": {c: interval(np.array([getattr(f[kind], c) for f in drawn])) for c in ("e", "a", "b")},
                "loss": curve.loss(grid).tolist(),
                "band": [interval(column) for column in band.T],
            }
        gains = np.array([f["sparse"].loss(levels) - f["dense"].loss(levels) for f in drawn])
        factor = multiplier(fitted["dense"], fitted["sparse"], levels, low, high)
        factors = np.array([multiplier(f["dense"], f["sparse"], levels, low, high) for f in drawn])
        curves["levels"] = [
            {
                "compute": c,
                "dense": float(fitted["dense"].loss(levels)[i]),
                "sparse": float(fitted["sparse"].loss(levels)[i]),
                "difference_interval": interval(gains[:, i]),
                "multiplier": float(factor[i]) if np.isfinite(factor[i]) else None,
                "multiplier_interval": interval(factors[:, i]),
            }
            for i, c in enumerate(levels.tolist())
        ]
        result.setdefault("curves", {})[name] = curves
    return result


def _round_levels(low: float, high: float) -> list[float]:
    """Powers of two of 1e12 FLOPs that lie inside."""
    return [2.0**i * 1e12 for i in range(-8, 24) if low <= 2.0**i * 1e12 <= high]


def _pair(study: Study, cell: Cell, found: dict[str, Array], again: list[dict[str, Array]]) -> dict[str, Any]:
    """Means over seeds of dense and sparse at the same size, horizon and seeds; their difference with its interval."""
    dense, sparse = cell["dense"], cell["sparse"]
    first = study.points[dense[0]]
    out: dict[str, Any] = {k: first[k] for k in ("rung", "tokens", "active", "flops")} | {"seeds": len(dense)}
    for name, v in found.items():
        drawn = np.array([losses[name][sparse].mean() - losses[name][dense].mean() for losses in again])
        out[name] = {
            "dense": float(v[dense].mean()), "sparse": float(v[sparse].mean()),
            "difference": float(v[sparse].mean() - v[dense].mean()), "interval": interval(drawn),
            "by_seed": (v[sparse] - v[dense]).tolist(),
        }  # fmt: skip
    return out


def cost(points: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Processor seconds for a million training tokens, by size and kind, and how much more the sparse one costs."""
    out: dict[str, dict[str, float]] = {}
    for rung in dict.fromkeys(p["rung"] for p in points):
        spent = {}
        for kind in ("dense", "sparse"):
            clocks = [p["clock"] for p in points if p["rung"] == rung and p["kind"] == kind]
            steps = sum(c["steps"] for c in clocks)
            if steps:
                each = next(p["tokens"] / p["steps"] for p in points)
                spent[kind] = sum(c["cpu"] for c in clocks) / (steps * each) * 1e6
        if len(spent) == 2:
            out[rung] = spent | {"ratio": spent["sparse"] / spent["dense"]}
    return out

"""What the points of the scaling study say: fitted curves, what sparsity gains, and how sure that is.

L(N, D) = E + A·(N/1e6)^-α + B·(D/1e6)^-β for each kind (Hoffmann et al. 2022, arXiv 2203.15556, eq. 2), least squares,
coefficients from zero up. The curve of loss against compute is its least loss for C = 6·N·D over sizes and horizons
between the smallest and the largest that were trained: no other is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from qwill.base.errors import DataError

Array = NDArray[np.float64]
EXPONENTS = (0.02, 3.0)  # of both, searched on a grid of logarithms
UNIT = 1e6


@dataclass(frozen=True)
class Fit:
    """The five constants; `residual` is the root mean square of what is left, in the unit of the loss."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float
    residual: float

    def loss(self, n: Array | float, d: Array | float) -> Array:
        return np.asarray(
            self.e + self.a * (np.asarray(n) / UNIT) ** -self.alpha + self.b * (np.asarray(d) / UNIT) ** -self.beta
        )


@dataclass(frozen=True)
class Box:
    """The sizes and horizons that were trained, smallest and largest."""

    n_low: float
    n_high: float
    d_low: float
    d_high: float

    @property
    def compute(self) -> tuple[float, float]:
        return 6 * self.n_low * self.d_low, 6 * self.n_high * self.d_high


def fit(n: Array, d: Array, loss: Array) -> Fit:
    """Least squares. For given exponents the rest is linear; they are searched on a grid and refined from its best.

    Raises DataError with fewer than six points, or without three sizes and three horizons.
    """
    if len(loss) < 6 or len(set(n.tolist())) < 3 or len(set(d.tolist())) < 3:
        raise DataError(
            f"{len(loss)} points of {len(set(n.tolist()))} sizes and {len(set(d.tolist()))} horizons cannot tell five "
            "constants apart; train at least six, of three sizes and three horizons."
        )
    grid = np.geomspace(*EXPONENTS, 13)
    pairs = np.array(list(product(grid, grid)))
    start = pairs[int((_linear(n, d, loss, pairs)[1] ** 2).sum(1).argmin())]
    found = least_squares(
        lambda logs: _linear(n, d, loss, np.exp(logs)[None])[1][0],
        np.log(start), bounds=np.log(EXPONENTS), xtol=1e-10, ftol=1e-10, gtol=1e-12,
    )  # fmt: skip
    constants, left = _linear(n, d, loss, np.exp(found.x)[None])
    e, a, b = constants[0].tolist()
    alpha, beta = np.exp(found.x).tolist()
    return Fit(e, a, b, alpha, beta, float(np.sqrt((left**2).mean())))


def _linear(n: Array, d: Array, loss: Array, pairs: Array) -> tuple[Array, Array]:
    """E, A, B from zero up for each pair of exponents, and what they leave of each loss.

    E or A may be zero; B is not, for more data helps.
    """
    columns = [np.ones((len(pairs), len(n))), (n / UNIT) ** -pairs[:, :1], (d / UNIT) ** -pairs[:, 1:]]
    x = np.stack(columns, axis=-1)
    constants, least = np.zeros((len(pairs), 3)), np.full(len(pairs), np.inf)
    for subset in ([0, 1, 2], [1, 2], [0, 2], [2]):
        part = x[:, :, subset]
        gram = part.mT @ part + 1e-13 * np.eye(len(subset))
        solved = np.linalg.solve(gram, (part.mT @ loss)[..., None])[..., 0]
        squares = ((loss - (part @ solved[..., None])[..., 0]) ** 2).sum(1)
        better = (solved >= 0).all(1) & (squares < least)
        least[better] = squares[better]
        full = np.zeros((len(pairs), 3))
        full[:, subset] = solved
        constants[better] = full[better]
    return constants, loss - (x @ constants[..., None])[..., 0]


def frontier(curve: Fit, compute: Array, box: Box, points: int = 128) -> Array:
    """Least loss at each compute, over sizes inside the box whose horizon C / 6N is inside it too; NaN if none is."""
    n = np.geomspace(box.n_low, box.n_high, points)[None]
    # The ends are inside: what rounding does to them must not put them out.
    d = compute[:, None] / (6 * n)
    inside = (d >= box.d_low * (1 - 1e-9)) & (d <= box.d_high * (1 + 1e-9))
    losses = np.where(inside, curve.loss(n, d), np.inf).min(axis=1)
    return np.where(np.isfinite(losses), losses, np.nan)


def multiplier(dense: Fit, sparse: Fit, compute: Array, box: Box) -> Array:
    """How many times a sparse model's compute a dense one needs for the same loss; NaN where the box does not reach.

    Above 1: sparsity saves compute. Both curves are frontiers inside the same box.
    """
    grid = np.geomspace(*box.compute, 400)
    curve = np.minimum.accumulate(frontier(dense, grid, box))
    wanted = frontier(sparse, compute, box)
    needed = np.exp(np.interp(-wanted, -curve, np.log(grid), left=np.nan, right=np.nan))
    return needed / compute


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

    def box(self) -> Box:
        n, d = self.column("active"), self.column("tokens")
        # Sizes of the two kinds differ by their routers, so the box is that of sizes which both have, nearly.
        return Box(float(n.min()), float(n.max()), float(d.min()), float(d.max()))

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


def _known(values: Array) -> list[float | None]:
    """For JSON, which has no NaN."""
    return [v if np.isfinite(v) else None for v in values.tolist()]


def analyse(points: Sequence[dict[str, Any]], resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Everything that the report says, from the points of both kinds: `cells` (pairs of runs) and `curves` (fits)."""
    study = Study.of(points)
    box = study.box()
    found, again = study.losses(), draws(study, resamples, seed)
    side = {kind: study.mask(kind=kind) for kind in ("dense", "sparse")}
    n, d = study.column("active"), study.column("tokens")

    def fits(losses: dict[str, Array], name: str) -> dict[str, Fit]:
        return {kind: fit(n[m], d[m], losses[name][m]) for kind, m in side.items()}

    result: dict[str, Any] = {"box": vars(box), "seed_spread": seed_spread(study), "resamples": resamples}
    result["cells"] = _cells(study, found, again)
    flops = study.column("flops")
    grid = np.geomspace(flops.min(), flops.max(), 60)
    levels = np.array(_round_levels(flops.min(), flops.max()))
    for name in found:
        fitted = fits(found, name)
        drawn = [fits(losses, name) for losses in again]
        curves: dict[str, Any] = {"compute": grid.tolist()}
        for kind, curve in fitted.items():
            band = np.array([frontier(f[kind], grid, box) for f in drawn])
            curves[kind] = {
                "constants": vars(curve),
                "intervals": {
                    c: interval(np.array([getattr(f[kind], c) for f in drawn]))
                    for c in ("e", "a", "b", "alpha", "beta")
                },
                "loss": _known(frontier(curve, grid, box)),
                "band": [list(interval(column) or (None, None)) for column in band.T],
            }
        gain = {kind: _known(frontier(f, levels, box)) for kind, f in fitted.items()}
        gains = np.array([frontier(f["sparse"], levels, box) - frontier(f["dense"], levels, box) for f in drawn])
        factor = _known(multiplier(fitted["dense"], fitted["sparse"], levels, box))
        factors = np.array([multiplier(f["dense"], f["sparse"], levels, box) for f in drawn])
        curves["levels"] = [
            {
                "compute": c,
                "dense": gain["dense"][i],
                "sparse": gain["sparse"][i],
                "difference_interval": interval(gains[:, i]),
                "multiplier": factor[i],
                "multiplier_interval": interval(factors[:, i]),
            }
            for i, c in enumerate(levels.tolist())
        ]
        result.setdefault("curves", {})[name] = curves
    return result


def _round_levels(low: float, high: float) -> list[float]:
    """Powers of two of 1e12 FLOPs that lie inside."""
    return [2.0**i * 1e12 for i in range(-8, 24) if low <= 2.0**i * 1e12 <= high]


def _cells(study: Study, found: dict[str, Array], again: list[dict[str, Array]]) -> list[dict[str, Any]]:
    """Dense and sparse at the same size, horizon and seeds: means over seeds, and the difference with its interval."""
    out = []
    for rung, tokens in dict.fromkeys((p["rung"], p["tokens"]) for p in study.points):
        dense, sparse = (study.mask(kind=k, rung=rung, tokens=tokens) for k in ("dense", "sparse"))
        seeds = [{study.points[i]["seed"] for i in np.flatnonzero(m)} for m in (dense, sparse)]
        if not seeds[0] or seeds[0] != seeds[1]:
            continue
        first = study.points[int(np.flatnonzero(dense)[0])]
        cell: dict[str, Any] = {
            "rung": rung, "tokens": tokens, "active": first["active"], "flops": first["flops"], "seeds": len(seeds[0]),
        }  # fmt: skip
        for name, v in found.items():
            drawn = np.array([losses[name][sparse].mean() - losses[name][dense].mean() for losses in again])
            cell[name] = {
                "dense": float(v[dense].mean()), "sparse": float(v[sparse].mean()),
                "difference": float(v[sparse].mean() - v[dense].mean()), "interval": interval(drawn),
            }  # fmt: skip
        out.append(cell)
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

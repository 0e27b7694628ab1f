"""From many small runs to a mixture: draw candidates, fit what they cost, propose the cheapest.

The way of RegMix (Liu et al. 2024, arXiv 2407.01492): mixtures are drawn around the natural one, a regression learns
the held-out loss from the shares, and the proposal is the mean of the best of many drawn mixtures by that regression,
so it never leaves the region in which there were runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FLOOR = 0.005  # shares below it count as this much where their logarithm is taken
PENALTIES = tuple(10.0**k for k in np.arange(-4, 2.5, 0.5))
DRAWS, BEST = 20_000, 100
# RegMix draws with concentrations from 0.1 to 5 times the natural shares (its §3.1).
LEAST_SPREAD, MOST_SPREAD = 0.5, 8.0


def draw_mixtures(natural: Floats, most: Floats, count: int, seed: int) -> Floats:
    """[count, groups] shares. Dirichlet around `natural` (flattened, so that small groups are tried too), no share
    above `most`; row i is the same however many are drawn."""
    rows = []
    centre = natural**0.5 / (natural**0.5).sum()
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        spread = LEAST_SPREAD * (MOST_SPREAD / LEAST_SPREAD) ** rng.random()
        rows.append(hold_down(rng.dirichlet(np.maximum(centre * len(natural) * spread, 1e-3)), most))
    return np.array(rows).reshape(count, len(natural))


def hold_down(shares: Floats, most: Floats) -> Floats:
    """`shares` with none above `most`: what is cut off goes to the others in proportion."""
    shares = shares / shares.sum()
    held = np.zeros(len(shares), dtype=bool)
    while (over := (shares > most * (1 + 1e-12)) & ~held).any():
        held |= over
        free = shares[~held].sum()
        if not free:  # there is too little of everything: as much as there is
            return most / most.sum()
        shares = np.where(held, most, shares * max(0.0, 1 - most[held].sum()) / free)
    return shares


@dataclass(frozen=True)
class Fit:
    """One language's held-out loss as a function of the shares. `form`: what stands in for a share (`linear`, or `log`
    for diminishing returns: the data-mixing laws are of that kind, Ye et al. 2024, arXiv 2403.16952). `left_out`: the
    standard error of prediction for a run that was left out; `explained`: 1 - its square over the losses' variance."""

    form: str
    penalty: float
    intercept: float
    slopes: Floats
    left_out: float
    explained: float

    def predict(self, shares_RG: Floats) -> Floats:
        return np.asarray(self.intercept + features(shares_RG, self.form) @ self.slopes)


def features(shares_RG: Floats, form: str) -> Floats:
    return shares_RG if form == "linear" else np.log(np.maximum(shares_RG, FLOOR))


def fit(shares_RG: Floats, losses_R: Floats) -> Fit:
    """Ridge regression; form and penalty are those that predict runs best that are left out, one at a time."""
    best: Fit | None = None
    for form, penalty in product(("linear", "log"), PENALTIES):
        x_RG = features(shares_RG, form)
        mean_G, scale = x_RG.mean(0), float(x_RG.std()) or 1.0
        z_RG = (x_RG - mean_G) / scale
        inverse_GG = np.linalg.inv(z_RG.T @ z_RG + penalty * np.eye(z_RG.shape[1]))
        slopes = inverse_GG @ z_RG.T @ (losses_R - losses_R.mean())
        miss_R = losses_R - losses_R.mean() - z_RG @ slopes
        # The residual of a run that the fit has not seen, without fitting again (Allen 1974, Technometrics 16).
        leverage_R = ((z_RG @ inverse_GG) * z_RG).sum(1) + 1 / len(losses_R)
        error = float(np.sqrt(np.mean((miss_R / (1 - leverage_R)) ** 2)))
        if best is None or error < best.left_out:
            explained = 1 - error**2 / float(losses_R.var() or 1.0)
            start = float(losses_R.mean() - mean_G @ slopes / scale)
            best = Fit(form, penalty, start, slopes / scale, error, explained)
    assert best is not None
    return best


def propose(fits: dict[str, Fit], importance: dict[str, float], natural: Floats, most: Floats, seed: int) -> Floats:
    """Shares with the least weighted loss as the fits see it: the mean of the best draws."""
    shares_RG = draw_mixtures(natural, most, DRAWS, seed)
    total = sum(importance[language] for language in fits)
    cost_R = sum((importance[k] / total * f.predict(shares_RG) for k, f in fits.items()), np.zeros(DRAWS))
    mean = shares_RG[np.argsort(cost_R, kind="stable")[:BEST]].mean(0)
    return hold_down(mean, most)

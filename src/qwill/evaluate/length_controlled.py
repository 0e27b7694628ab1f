"""Length-controlled win rate: how often a model would win if its replies were no longer than its rival's.

Judges like long replies. AlpacaEval 2 (Dubois, Galambosi, Liang & Hashimoto 2024, arXiv:2404.04475) fits
P(win) = σ(a·x + b), x = tanh(difference of lengths / its standard deviation), and reports σ(b), the chance of a win
at equal lengths. This is its model without instruction difficulties ("length_controlled_minimal"), the one that needs
no numbers computed for AlpacaEval's own 805 prompts, so it works on any prompts. Beside alpaca_eval's number, which a
penalty pulls towards one half, stands the plain maximum likelihood with its interval: by the sandwich
(White 1982) or by resampling prompts (Efron 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwill.base.errors import DataError
from qwill.evaluate.l1_logistic import fit_l1_logistic
from qwill.evaluate.statistics import Interval, bounded_interval, student_quantile

Floats = NDArray[np.float64]

FOLDS = 5
STRENGTHS = np.logspace(-4, 4, 10)  # of the data against the penalty, among which cross-validation chooses
CLIP = 1e-15  # of probabilities, before their logarithm
NEWTON_STEPS = 60
SMALL_STEP = 1e-10
UNSETTLED = (
    "alpaca_eval's solver doesn't settle on these prompts, which are few or nearly separated: its number is where it "
    "stops."
)
SAME = 1e-4  # of x between -1 and 1: tanh makes the same of any two large differences, but for its last digits
NO_SPREAD = 1e-9  # of log-odds: nothing but rounding
NO_SPREAD_REASON = (
    "The judge said just what the fit expects of every prompt, such as a tie of all: no spread shows, and the interval "
    "is Wilson's of so many prompts."
)
RIDGE = 1e-6  # keeps a resample that is separated finite: its win rate is then 0 or 1 to five digits
BOOTSTRAP_BLOCK = 1 << 20


@dataclass(frozen=True)
class LengthControlled:
    """Shares in [0, 1] of prompts that the model wins, a tie being half.

    `raw`: as judged. `win_rate`: as alpaca_eval's minimal model gives it, from `strength` (its C, chosen by
    cross-validation); None where it can't be computed. `unpenalised`: maximum likelihood, with the standard error of
    that share by the sandwich, and the interval made on the log-odds with Student's t, n - 2 degrees of freedom; None
    where the likelihood has no maximum, and Wilson's where no spread shows. `bootstrap` is the percentile interval of
    the same, where asked for, and `bootstrap_stderr` the spread. `length_effect`: log-odds that x = 1, a much longer
    reply, adds to a win.
    `reason`: None, or a sentence or two saying why a number is missing, rests on the penalty alone or isn't
    alpaca_eval's.
    """

    raw: float
    win_rate: float | None
    strength: float | None
    unpenalised: float | None
    stderr: float | None
    interval: Interval | None
    bootstrap: Interval | None
    bootstrap_stderr: float | None
    length_effect: float | None
    length_effect_stderr: float | None
    n: int
    reason: str | None


def length_controlled(
    preference: ArrayLike,
    length: ArrayLike,
    rival_length: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 0,
    seed: int = 0,
) -> LengthControlled:
    """The length-controlled win rate of a model against a rival, from one row a prompt.

    `preference`: 1 where the model won, 0 where the rival did, 0.5 a tie; a judge's probability is fine. `length` and
    `rival_length`: of the two replies, in characters (alpaca_eval's unit) or any other that is the same for both.
    `resamples`: how often to resample prompts for the bootstrap, 0 for not at all; 1000 will do.

    Raises DataError for lists of different lengths, NaN, a preference outside [0, 1] or a negative length. Data that
    the model can't be fitted to are no error: see `reason`.
    """
    y = _column("preference", preference, None)
    mine = _column("length", length, len(y))
    theirs = _column("rival_length", rival_length, len(y))
    _within("preference", y, 0.0, 1.0)
    _within("length", mine, 0.0, np.inf)
    _within("rival_length", theirs, 0.0, np.inf)
    if not len(y):
        raise DataError("there are no judged prompts, expected at least 5; judge some first.")
    if resamples < 0:
        raise DataError(f"resamples is {resamples}, expected 0 or more; 1000 will do.")
    difference = theirs - mine
    raw, n = float(y.mean()), len(y)
    if reason := _not_fitted(difference):
        return LengthControlled(raw, None, None, None, None, None, None, None, None, None, n, reason)
    if (difference == difference[0]).all():
        x = np.sign(difference)  # what tanh makes of a division by no deviation
    else:
        x = np.tanh(difference / difference.std(ddof=1))
    win_rate, strength, settled = _cross_validated(x, y)
    reason = " ".join(filter(None, [_no_maximum(x, y), _one_sided_fold(y), None if settled else UNSETTLED])) or None
    if _no_maximum(x, y):
        return LengthControlled(raw, win_rate, strength, None, None, None, None, None, None, None, n, reason)
    a, b, covariance = _maximum_likelihood(x, y)
    stderr_a, stderr_b = np.sqrt(np.diag(covariance)).tolist()
    share = float(_sigmoid(np.array(b)))
    half = student_quantile(confidence, n - 2) * stderr_b
    low, high = _sigmoid(np.array([b - half, b + half])).tolist()
    if stderr_b < NO_SPREAD:
        low, high = bounded_interval(share, 0.0, n, confidence)
        reason = " ".join(filter(None, [NO_SPREAD_REASON, reason]))
    bootstrap, spread = _bootstrap(difference, y, confidence, resamples, seed) if resamples else (None, None)
    return LengthControlled(
        raw, win_rate, strength, share, share * (1 - share) * stderr_b, Interval(low, high), bootstrap, spread,
        # x falls with the model's length, the effect is told for what rises with it
        -a, stderr_a, n, reason,
    )  # fmt: skip


def _not_fitted(difference: Floats) -> str | None:
    if len(difference) < FOLDS:
        return (
            f"{len(difference)} prompts are too few, expected at least {FOLDS}: the penalty is chosen on {FOLDS} parts "
            "of them."
        )
    if not difference.any():
        return "Both replies have the same length for every prompt: there is nothing to control, take the raw win rate."
    return None


def _no_maximum(x: Floats, y: Floats) -> str | None:
    """Why the likelihood grows without end: a threshold of x parts wins from losses (Albert & Anderson 1984)."""
    won, lost = x[y > 0], x[y < 1]
    why = "the likelihood has no maximum, the win rate rests on the penalty alone, and there is no interval"
    if not len(lost):
        return f"The model won every prompt: {why}."
    if not len(won):
        return f"The model lost every prompt: {why} (alpaca_eval's solver takes losses alone for wins and says 50 %)."
    if np.ptp(x) < SAME:
        return (
            "The lengths differ by the same amount for every prompt: what length does and what the model does can't be "
            "told apart, and how the win rate is shared out between them rests on the penalty alone."
        )
    if won.min() >= lost.max() or won.max() <= lost.min():
        longer = "longer" if won.max() <= lost.min() else "shorter"
        return f"The {longer} reply won every prompt beyond some difference of lengths, perfect separation: {why}."
    return None


def _one_sided_fold(y: Floats) -> str | None:
    """alpaca_eval's solver turns the sign round where all votes it is given are losses."""
    if y.any() and any(not y[_fold(len(y)) != part].any() for part in range(FOLDS)):
        return (
            "All wins are in one fifth of the prompts: fitted on the rest alpaca_eval takes losses for wins, so its "
            "number is another; more prompts are needed."
        )
    return None


def _fold(n: int) -> NDArray[np.int64]:
    """The part of each prompt: every fifth is in one, as scikit-learn's GroupKFold deals them out."""
    return np.arange(n) % FOLDS


def _cross_validated(x: Floats, y: Floats) -> tuple[float, float, bool]:
    """σ(b) of the L1-penalised fit, the strength whose log-likelihood of left-out prompts is greatest, and whether all
    fits on the way there settled."""
    fold, scores, settled = _fold(len(y)), np.zeros(len(STRENGTHS)), True
    for part in range(FOLDS):
        out = fold == part
        for i, (a, b, ended) in enumerate(fit_l1_logistic(x[~out], y[~out], STRENGTHS.tolist())):
            settled = settled and ended
            chance = np.clip(_sigmoid(a * x[out] + b), CLIP, 1 - CLIP)
            scores[i] += np.mean(y[out] * np.log(chance) + (1 - y[out]) * np.log(1 - chance))
    strength = float(STRENGTHS[np.argmax(scores)])
    ((_, b, ended),) = fit_l1_logistic(x, y, [strength])
    return float(_sigmoid(np.array(b))), strength, settled and ended


def _maximum_likelihood(x: Floats, y: Floats) -> tuple[float, float, Floats]:
    """a, b and their covariance H⁻¹BH⁻¹·n/(n - 2); the factor is the usual one for two fitted numbers."""
    a, b = _newton(x[None], y[None], np.ones((1, len(y))), ridge=0.0)[0].tolist()
    chance = _sigmoid(a * x + b)
    features = np.stack([x, np.ones_like(x)], axis=1)
    inverse = np.linalg.inv((features * (chance * (1 - chance))[:, None]).T @ features)
    spread = (features * ((y - chance) ** 2)[:, None]).T @ features
    covariance: Floats = inverse @ spread @ inverse * len(y) / (len(y) - 2)
    return a, b, covariance


def _newton(x: Floats, y: Floats, weight: Floats, ridge: float) -> Floats:
    """(a, b) of each row's weighted logistic regression, [rows, 2]; all of [rows, n]."""
    fitted = np.zeros((len(x), 2))
    ridge_I = max(ridge, 1e-12) * np.eye(2)

    def value(ab: Floats) -> Floats:
        odds = ab[:, :1] * x + ab[:, 1:]
        found: Floats = (weight * (y * odds - np.logaddexp(0.0, odds))).sum(axis=1) - ridge / 2 * (ab**2).sum(axis=1)
        return found

    before = value(fitted)
    for _ in range(NEWTON_STEPS):
        chance = _sigmoid(fitted[:, :1] * x + fitted[:, 1:])
        residual, curvature = weight * (y - chance), weight * chance * (1 - chance)
        gradient = np.stack([(residual * x).sum(axis=1), residual.sum(axis=1)], axis=1) - ridge * fitted
        cross, whole = (curvature * x).sum(axis=1), curvature.sum(axis=1)
        hessian = np.stack([(curvature * x * x).sum(axis=1), cross, cross, whole], axis=1).reshape(-1, 2, 2) + ridge_I
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        for _ in range(40):
            after = value(fitted + step)
            worse = after < before - 1e-12 * np.abs(before)
            if not worse.any():
                break
            step[worse] /= 2
        fitted, before = fitted + step, after
        if np.abs(step).max() < SMALL_STEP:
            break
    return fitted


def _bootstrap(difference: Floats, y: Floats, confidence: float, resamples: int, seed: int) -> tuple[Interval, float]:
    """Percentile interval and standard deviation of σ(b) over resampled prompts, lengths scaled anew in each."""
    generator, n = np.random.Generator(np.random.PCG64(seed)), len(y)
    shares = np.empty(resamples)
    rows = max(1, BOOTSTRAP_BLOCK // n)
    for start in range(0, resamples, rows):
        stop = min(resamples, start + rows)
        drawn = generator.integers(0, n, size=(stop - start, n))
        gap = difference[drawn]
        spread = gap.std(axis=1, ddof=1)
        scaled = np.divide(gap, spread[:, None], out=np.zeros_like(gap), where=spread[:, None] > 0)
        fitted = _newton(np.tanh(scaled), y[drawn], np.ones_like(gap), RIDGE)
        shares[start:stop] = _sigmoid(fitted[:, 1])
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(shares, [tail, 1 - tail]).tolist()
    return Interval(lower, upper), float(shares.std(ddof=1)) if resamples > 1 else 0.0


def _column(name: str, values: ArrayLike, length: int | None) -> Floats:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name} holds something that is no number; give one number for each prompt.") from None
    if array.ndim != 1 or (length is not None and len(array) != length):
        wanted = "one number for each prompt" if length is None else f"{length} numbers, one for each preference"
        raise DataError(f"{name} has shape {array.shape}, expected {wanted}.")
    for row in np.flatnonzero(~np.isfinite(array)).tolist():
        raise DataError(f"{name}[{row}] is {array[row]}, expected a finite number; leave out prompts not judged.")
    return array


def _within(name: str, array: Floats, low: float, high: float) -> None:
    for row in np.flatnonzero((array < low) | (array > high)).tolist():
        wanted = f"{low:g} or more" if np.isinf(high) else f"a number from {low:g} to {high:g}"
        raise DataError(f"{name}[{row}] is {array[row]:g}, expected {wanted}; repair that prompt.")


def _sigmoid(odds: Floats) -> Floats:
    found: Floats = 0.5 * (1.0 + np.tanh(0.5 * odds))
    return found


def lengths(replies: Sequence[str]) -> list[int]:
    """Characters of each reply, the unit of alpaca_eval."""
    return [len(reply) for reply in replies]

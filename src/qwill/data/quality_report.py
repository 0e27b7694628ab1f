"""What held-out texts say of a classifier: how well it ranks (AUC) and whether its probabilities mean what they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Z = 1.959963984540054  # of a 95 % interval
BINS = 10


def sigmoid(logits: Floats | float) -> Floats:
    """1 / (1 + e^-x), without overflow at either end."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, dtype=np.float64))))


def auc(scores: Floats, labels: Floats) -> dict[str, float]:
    """Chance that a good text scores above a bad one (ties count half), with DeLong's 95 % interval (DeLong, DeLong and
    Clarke-Pearson 1988, Biometrics 44), on the logit scale so that it stays within 0 and 1.

    With no pair out of order the interval of any such formula is empty; then the lower end is that of the chance
    0.05^(1/k), k texts of the smaller set: what is still likely to show none out of order.
    """
    good, bad = np.sort(scores[labels > 0]), np.sort(scores[labels <= 0])
    over = (np.searchsorted(bad, good) + np.searchsorted(bad, good, side="right")) / (2 * len(bad))
    under = 1 - (np.searchsorted(good, bad) + np.searchsorted(good, bad, side="right")) / (2 * len(good))
    value = float(over.mean())
    variance = float(over.var(ddof=1) / len(good) + under.var(ddof=1) / len(bad))
    if value in (0.0, 1.0):
        edge = 0.05 ** (1 / min(len(good), len(bad)))
        return {"auc": value, "lower": edge if value else 0.0, "upper": 1.0 if value else 1 - edge}
    logit, half = math.log(value / (1 - value)), Z * math.sqrt(variance) / (value * (1 - value))
    return {"auc": value, "lower": float(sigmoid(logit - half)), "upper": float(sigmoid(logit + half))}


def recalibration(logits: Floats, labels: Floats) -> tuple[float, float, float, float]:
    """Slope and intercept of labels on logits (logistic regression, both sets weighted equally) and their standard
    errors: Cox's test of calibration (1958, Biometrika 45), where a calibrated classifier has slope 1, intercept 0; and
    Platt's way of making one calibrated (1999). Labels are pulled in as Platt does, so a separable set has an answer.
    """
    positives = float((labels > 0).sum())
    negatives = len(labels) - positives
    target = np.where(labels > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    weight = np.where(labels > 0, len(labels) / (2 * positives), len(labels) / (2 * negatives))
    # In units of the logits' own spread; Newton's steps are halved while they make the loss larger.
    spread = float(logits.std()) or 1.0
    x = np.stack([logits / spread, np.ones_like(logits)])
    at: Floats = np.zeros(2)

    def loss(at: Floats) -> float:
        z = at @ x
        return float(np.sum(weight * (np.logaddexp(0.0, z) - target * z)))

    bread: Floats = np.eye(2)
    for _ in range(100):
        p = sigmoid(at @ x)
        slope = (weight * (p - target)) @ x.T
        bread = np.asarray(np.linalg.inv((x * (weight * p * (1 - p))) @ x.T + 1e-9 * np.eye(2)), dtype=np.float64)
        step = bread @ slope
        while loss(at - step) > loss(at) and np.abs(step).max() > 1e-12:
            step = step / 2
        at = at - step
        if np.abs(step).max() <= 1e-12:
            break
    # The weights are no counts of texts, so the variance is the sandwich one (Huber 1967; White 1982).
    p = sigmoid(at @ x)
    meat = (x * (weight * (p - (labels > 0))) ** 2) @ x.T
    errors = np.sqrt(np.diag(bread @ meat @ bread))
    return float(at[0] / spread), float(at[1]), float(errors[0] / spread), float(errors[1])


def held_out_report(logits: Floats, labels: Floats) -> dict[str, Any]:
    """AUC, Cox's slope and intercept, expected calibration error and Brier score, and ten bins of equally many texts,
    the bad set weighted so that both count the same."""
    scores = sigmoid(logits)
    good = labels > 0
    weight = np.where(good, 0.5 / good.sum(), 0.5 / (~good).sum())
    slope, intercept, slope_error, intercept_error = recalibration(logits, labels)
    bins = []
    for chosen in np.array_split(np.argsort(scores, kind="stable"), BINS):
        if len(chosen):
            w = weight[chosen]
            share = float((w * good[chosen]).sum() / w.sum())
            size = float(w.sum() ** 2 / (w**2).sum())  # as many equally weighted texts (Kish 1965)
            lower, upper = _wilson(share, size)
            score = float((w * scores[chosen]).sum() / w.sum())
            row = {"texts": len(chosen), "score": score, "good": share, "lower": lower, "upper": upper}
            bins.append(row | {"weight": float(w.sum())})
    return {
        "good_texts": int(good.sum()),
        "bad_texts": int((~good).sum()),
        **auc(scores, labels),
        "calibration_slope": slope,
        "calibration_slope_interval": [slope - Z * slope_error, slope + Z * slope_error],
        "calibration_intercept": intercept,
        "calibration_intercept_interval": [intercept - Z * intercept_error, intercept + Z * intercept_error],
        "calibration_error": sum(b["weight"] * abs(b["score"] - b["good"]) for b in bins),
        "brier": float((weight * (scores - good) ** 2).sum()),
        "bins": bins,
    }


def _wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval (1927), for a number of trials that need not be whole."""
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)

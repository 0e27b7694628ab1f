"""The standard normal's quantile. A file of its own that imports next to nothing: ratings start with it."""

import math

from qwill.base.errors import DataError


def normal_quantile(confidence: float) -> float:
    """The z for which a standard normal lies within ±z with probability `confidence` (1.96 for 0.95)."""
    if not 0.0 < confidence < 1.0:
        raise DataError(f"confidence is {confidence}, expected a number between 0 and 1, such as 0.95.")
    # Newton's method on the logarithm of the two tails' probability, which is concave in z: from 0 it never overshoots.
    tails, z = 1.0 - confidence, 0.0
    for _ in range(60):
        left = math.erfc(z / math.sqrt(2.0))
        step = math.log(left / tails) * left / (math.sqrt(2.0 / math.pi) * math.exp(-z * z / 2.0))
        z += step
        if abs(step) < 1e-15 * (1.0 + z):
            break
    return z

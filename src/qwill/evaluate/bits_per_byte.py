"""How well a model compresses text: bits per byte of UTF-8, with its uncertainty over documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qwill.evaluate.statistics import student_quantile
from qwill.model.text_bits import text_bits
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer


@dataclass
class Compression:
    """`bits` and `bytes_` of each document; `bits_per_byte` is their ratio of sums, `stderr` the ratio estimator's
    standard error with documents as the sampling unit (Cochran, Sampling Techniques, §6.4)."""

    bits: np.ndarray
    bytes_: np.ndarray

    @property
    def bits_per_byte(self) -> float:
        return float(self.bits.sum() / self.bytes_.sum())

    @property
    def stderr(self) -> float:
        n = len(self.bits)
        if n < 2:
            return math.nan
        residual = self.bits - self.bits_per_byte * self.bytes_
        return float(math.sqrt(residual.var(ddof=1) / n) / self.bytes_.mean())


def bits_per_byte(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    width: int,
    batch_tokens: int = 8192,
    progress: Callable[[int], None] | None = None,
) -> Compression:
    """`text_bits` of each text, beside its size. `progress` gets the number of bytes done."""
    sizes = np.array([len(text.encode()) for text in texts], dtype=np.float64)

    def tell(share: float) -> None:
        if progress is not None:
            progress(int(sizes.sum() * share))

    return Compression(text_bits(model, tokenizer, texts, width, batch_tokens, tell), sizes)


@dataclass(frozen=True)
class Gain:
    """Bits per byte of b minus those of a, above 0 where a is better: over all seeds, with two 95 % intervals: over
    documents (seeds averaged), and over seeds (Student's t of each seed's own gain; NaN for one seed)."""

    gain: float
    lower: float
    upper: float
    seeds_lower: float
    seeds_upper: float
    of_each_seed: list[float]


def paired_gain(bits_a: NDArray[np.float64], bits_b: NDArray[np.float64], bytes_: NDArray[np.float64]) -> Gain:
    """What `a` gains over `b` on the same documents: bits [seeds, documents] of each, bytes [documents].

    The gain is a ratio of sums, its interval over documents that of the ratio estimator (Cochran, Sampling Techniques,
    §6.4) of each document's difference, averaged over seeds: what makes a document hard for both cancels.
    """
    saved_SD = bits_b - bits_a
    documents = saved_SD.shape[1]
    saved_D, size = saved_SD.mean(0), float(bytes_.sum())
    gain = float(saved_D.sum() / size)
    of_each = (saved_SD.sum(1) / size).tolist()
    half = math.nan
    if documents > 1:
        error = math.sqrt((saved_D - gain * bytes_).var(ddof=1) * documents) / size
        half = student_quantile(0.95, documents - 1) * error
    return Gain(gain, gain - half, gain + half, *over_seeds(of_each), of_each)


def over_seeds(values: list[float]) -> tuple[float, float]:
    """95 % Student-t interval of the mean of one number a seed; NaN for one seed."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return math.nan, math.nan
    half = student_quantile(0.95, count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean - half, mean + half

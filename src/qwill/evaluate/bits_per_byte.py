"""How well a model compresses text: bits per byte of UTF-8, with its uncertainty over documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

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

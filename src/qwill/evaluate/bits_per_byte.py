"""How well a model compresses text: bits per byte of UTF-8, with its uncertainty over documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qwill.model.batch import Batch
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


def windows(length: int, width: int) -> list[tuple[int, int, int]]:
    """(first, last + 1, first scored) of overlapping windows: all but the first have width/2 tokens of context."""
    out = [(0, min(width, length), 0)]
    while out[-1][1] < length:
        end = min(out[-1][1] + width // 2, length)
        out.append((end - width, end, out[-1][1]))
    return out


@torch.inference_mode()
def bits_per_byte(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    width: int,
    batch_tokens: int = 8192,
    progress: Callable[[int], None] | None = None,
) -> Compression:
    """Score each text from its `<|endoftext|>` on; texts longer than `width` in windows that overlap by half.

    The end of a document is not scored, as it is not a byte of it. `progress` gets the number of bytes done.
    """
    end_id = tokenizer.special("<|endoftext|>")
    streams = [torch.tensor([end_id, *ids]) for ids in tokenizer.encode_batch(list(texts))]
    jobs = [(d, *w) for d, s in enumerate(streams) for w in windows(len(s) - 1, width) if len(s) > 1]
    jobs.sort(key=lambda j: (j[1] - j[2], j[0], j[1]))
    bits, sizes = np.zeros(len(texts)), np.array([len(t.encode()) for t in texts], dtype=np.float64)
    # Windows overlap, so bytes are counted by the share of the work.
    done, whole = 0, sum(b - a for _, a, b, _ in jobs)
    while jobs:
        part, size = [], 0
        while jobs and size + jobs[0][2] - jobs[0][1] <= max(batch_tokens, width):
            part.append(jobs.pop(0))
            size += part[-1][2] - part[-1][1]
        batch = Batch.pack([streams[d][a:b] for d, a, b, _ in part])
        targets = torch.cat([streams[d][a + 1 : b + 1] for d, a, b, _ in part])
        hidden = model(batch).hidden_ND
        _, loss_N = model.cross_entropy(hidden, targets, torch.ones(len(targets)))
        for (d, a, _, first), losses in zip(part, loss_N.split([b - a for _, a, b, _ in part]), strict=True):
            bits[d] += float(losses[first - a :].double().sum()) / math.log(2)
        done += size
        if progress is not None:
            progress(int(sizes.sum() * done / whole))
    return Compression(bits, sizes)

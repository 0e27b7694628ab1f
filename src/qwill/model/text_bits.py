"""How surprising texts are to a model: the bits that it needs for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from qwill.model.batch import Batch
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer


def windows(length: int, width: int) -> list[tuple[int, int, int]]:
    """(first, last + 1, first scored) of overlapping windows: all but the first have width/2 tokens of context."""
    out = [(0, min(width, length), 0)]
    while out[-1][1] < length:
        end = min(out[-1][1] + width // 2, length)
        out.append((end - width, end, out[-1][1]))
    return out


@torch.inference_mode()
def text_bits(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    width: int,
    batch_tokens: int = 8192,
    progress: Callable[[float], None] | None = None,
) -> NDArray[np.float64]:
    """Bits [len(texts)] from each text's `<|endoftext|>` on; texts longer than `width` in windows that overlap by half.

    The end of a document is not scored, as it is not a byte of it. With the native kernels a text's bits do not depend
    on the others, to the last bit. `progress` gets the share of the work done.
    """
    end_id = tokenizer.special("<|endoftext|>")
    streams = [torch.tensor([end_id, *ids]) for ids in tokenizer.encode_batch(list(texts))]
    jobs = [(d, *w) for d, s in enumerate(streams) for w in windows(len(s) - 1, width) if len(s) > 1]
    jobs.sort(key=lambda j: (j[1] - j[2], j[0], j[1]))
    bits = np.zeros(len(texts))
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
            progress(done / whole)
    return bits

"""`sampler.c`: draws and penalties on a CPU, one sweep where PyTorch makes eight. Definitions: sampler.py and edits.py.

Shape letters: B rows, V vocabulary, W words of 32 bits, R rows that are drawn again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qwill.base.native_build import compile_library
from qwill.model import native, native_library

if TYPE_CHECKING:
    from qwill.engine.edits import Seen
    from qwill.engine.sampling import Sampling

Drawn = tuple[Tensor, Tensor, Tensor, Tensor]  # tokens, own and sampled log-probabilities [B], whole sums [B, 2]


@cache
def library() -> ctypes.CDLL | None:
    found = compile_library("sampler.c", "qwill.engine", native_library.ROWS)
    if found is not None:
        size, pointer, degrees, threads = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float, ctypes.c_int
        rest: list[Any] = [*[size] * 3, pointer, size, degrees, *[pointer] * 5, threads]
        found.draw.argtypes, found.draw_again.argtypes = [pointer, pointer, *rest], [pointer, pointer, *rest]
        found.penalise.argtypes = [pointer, size, size, *[pointer] * 5, threads]
        for function in (found.draw, found.draw_again, found.penalise):
            function.restype = None
    return found


def suits(logits_BV: Tensor) -> bool:
    return native.suits(logits_BV) and library() is not None


def draw(
    logits_BV: Tensor,
    edited_BV: Tensor | None,
    uniforms_B: Tensor,
    temperature: float,
    vocab_size: int | None,
    allowed_BW: Tensor | None,
) -> Drawn:
    """`sampler.sample` without truncation. Whole sums are of use for `draw_again` where nothing was edited."""
    lib, (rows, vocab) = library(), logits_BV.shape
    assert lib is not None and (edited_BV is None or allowed_BW is None)
    logits_BV = logits_BV.contiguous()
    edited_BV = None if edited_BV is None else edited_BV.contiguous()
    uniforms_B = uniforms_B.contiguous() if temperature else torch.full((rows,), -1.0, dtype=torch.float64)
    own_B, sampled_B, wholes_B2 = torch.empty(rows), torch.empty(rows), torch.empty((rows, 2), dtype=torch.float64)
    tokens_B = torch.empty(rows, dtype=torch.int64)
    limit = min(vocab_size or vocab, vocab)
    words = 0 if allowed_BW is None else allowed_BW.shape[1]
    mask_BW = None if allowed_BW is None else allowed_BW.contiguous()
    lib.draw(
        logits_BV.data_ptr(), None if edited_BV is None else edited_BV.data_ptr(), rows, vocab,
        min(limit, 32 * words) if words else limit, None if mask_BW is None else mask_BW.data_ptr(), words,
        temperature or 1.0, uniforms_B.data_ptr(), tokens_B.data_ptr(), own_B.data_ptr(), sampled_B.data_ptr(),
        wholes_B2.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return tokens_B, own_B, sampled_B, wholes_B2


def draw_again(
    drawn: Drawn,
    rows: Sequence[int],
    logits_BV: Tensor,
    uniforms_R: Tensor,
    temperature: float,
    vocab_size: int | None,
    allowed_RW: Tensor,
) -> None:
    """Changes `drawn`, as `sampler.sample_again` does."""
    lib, vocab = library(), logits_BV.shape[1]
    assert lib is not None
    count, words = allowed_RW.shape
    if not temperature:
        uniforms_R = torch.full((count,), -1.0, dtype=torch.float64)
    places_R, (tokens_B, own_B, sampled_B, wholes_B2) = torch.tensor(rows), drawn
    lib.draw_again(
        logits_BV.data_ptr(), places_R.data_ptr(), count, vocab, min(vocab_size or vocab, vocab, 32 * words),
        allowed_RW.data_ptr(), words, temperature or 1.0, uniforms_R.data_ptr(), tokens_B.data_ptr(),
        own_B.data_ptr(), sampled_B.data_ptr(), wholes_B2.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip


def penalised(logits_BV: Tensor, settings: Sequence[Sampling], seen: Sequence[Seen | None]) -> Tensor:
    """A copy with the penalties of `edits.penalise`."""
    lib, (rows, vocab) = library(), logits_BV.shape
    assert lib is not None
    logits_BV = logits_BV.contiguous()
    out_BV = torch.empty_like(logits_BV)
    ids_B = np.array([0 if s is None else s.ids.ctypes.data for s in seen], dtype=np.int64)
    counts_B = np.array([0 if s is None else s.counts.ctypes.data for s in seen], dtype=np.int64)
    sizes_B = np.array([0 if s is None else len(s.ids) for s in seen], dtype=np.int64)
    penalties_B3 = np.array(
        [(s.repetition_penalty, s.presence_penalty, s.frequency_penalty) for s in settings], dtype=np.float32
    )
    arrays = (ids_B, counts_B, sizes_B, penalties_B3)
    lib.penalise(
        logits_BV.data_ptr(), rows, vocab, *(a.ctypes.data for a in arrays), out_BV.data_ptr(), torch.get_num_threads()
    )
    return out_BV

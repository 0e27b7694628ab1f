"""A pass as the executor wants it, and what its logits say about a prompt.

Shape letters as in executor.py; B rows of logits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from collections.abc import Sequence as Items

import numpy as np
import torch
from torch import Tensor

from qwill.engine.executor import Step
from qwill.engine.request import TokenLogprob
from qwill.engine.scheduler import Piece, Sequence


def step_of(pieces: Items[Piece], scored: Collection[Sequence], states: bool) -> tuple[Step, list[tuple[int, int]]]:
    """The step, and which rows of its logits each piece has: (first, last + 1). A piece whose sequence is `scored` has
    one for each token, another one for its last token if that is its sequence's last."""
    tokens: list[int] = []
    positions: list[int] = []
    wanted: list[int] = []
    borders, rows = [0], []
    for p in pieces:
        s, end, start = p.sequence, p.start + p.count, borders[-1]
        tokens += s.tokens[p.start : end]
        positions += range(p.start, end)
        borders.append(start + p.count)
        first = start if s in scored else borders[-1] - (end == len(s.tokens))
        rows.append((len(wanted), len(wanted) + borders[-1] - first))
        wanted += range(first, borders[-1])
    tables = np.full((len(pieces), max(len(p.sequence.blocks) for p in pieces)), -1, dtype=np.int32)
    for row, p in zip(tables, pieces, strict=True):
        row[: len(p.sequence.blocks)] = p.sequence.blocks
    step = Step(
        tokens_N=torch.tensor(tokens),
        positions_N=torch.tensor(positions),
        cu_seqlens=torch.tensor(borders, dtype=torch.int32),
        lengths_R=torch.tensor([p.start for p in pieces]),
        tables_RM=torch.from_numpy(tables),
        states_R=torch.tensor([p.sequence.state if states else -1 for p in pieces]),
        rows=torch.tensor(wanted, dtype=torch.int64),
        adapters_R=torch.full((len(pieces),), -1),
    )
    return step, rows


def prompt_scores(
    logits_BV: Tensor, prompt: Items[int], start: int, known: int, temperature: float, alternatives: int
) -> list[TokenLogprob]:
    """Log-probabilities of the prompt's tokens from number `known` on, as far as the logits reach, which follow its
    tokens from number `start` on. (A prompt that was preempted is computed again: `known` is then ahead.)"""
    end = min(start + len(logits_BV) + 1, len(prompt))
    if known >= end:
        return []
    targets_B = torch.tensor(prompt[known:end], device=logits_BV.device)
    own_BV = (logits_BV[known - 1 - start : end - 1 - start] / temperature).log_softmax(1)
    chosen = own_BV.gather(1, targets_B[:, None])[:, 0].tolist()
    return [
        TokenLogprob(token, value, value, top)
        for token, value, top in zip(targets_B.tolist(), chosen, tops(own_BV, alternatives), strict=True)
    ]


def tops(own_BV: Tensor, count: int) -> Iterator[list[tuple[int, float]]]:
    """Each row's likeliest ids with their log-probabilities."""
    values, ids = own_BV.topk(min(count, own_BV.shape[1]), dim=1)
    for row, numbers in zip(values.tolist(), ids.tolist(), strict=True):
        yield list(zip(numbers, row, strict=True))

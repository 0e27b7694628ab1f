"""A pass as the executor wants it, and what its logits say about a prompt.

Shape letters as in executor.py; B rows of logits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from collections.abc import Sequence as Items

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwill.engine.executor import Step
from qwill.engine.replies import Running
from qwill.engine.request import TokenLogprob
from qwill.engine.scheduler import Piece, Sequence


def step_of(
    pieces: Items[Piece],
    scored: Mapping[Sequence, int],
    embedded: Collection[Sequence],
    states: bool,
    tables: NDArray[np.int32],
) -> tuple[Step, list[tuple[int, int]]]:
    """The step, and which rows of its logits each piece has: (first, last + 1). A piece whose sequence is `scored` has
    one for each token from that number of its sequence on, another one for its last token if that is its sequence's
    last, and for each drafted one; one that is `embedded` has none, but a hidden state there. `tables` is kept from
    pass to pass: in row `Sequence.state` that sequence's blocks, of which only new ones are noted here."""
    sequences = [p.sequence for p in pieces]
    starts, slots, known = [p.start for p in pieces], [s.state for s in sequences], [len(s.blocks) for s in sequences]
    for s, now in zip(sequences, known, strict=True):
        if s.placed < now:
            tables[s.state, s.placed : now] = s.blocks[s.placed :]
            s.placed = now
    borders, tokens = [0], list[int]()
    rows, wanted, hidden = list[tuple[int, int]](), list[int](), list[int]()
    for s, p in zip(sequences, pieces, strict=True):
        if p.count == 1:
            tokens.append(s.tokens[p.start])
        else:
            tokens += s.tokens[p.start : p.start + p.count]
        tokens += p.drafts
        end = len(tokens)
        done = p.start + p.count == len(s.tokens)
        first = end - done * (1 + len(p.drafts))
        if s in scored:
            first = min(first if done else end, borders[-1] + max(0, scored[s] - p.start))
        if done and s in embedded:
            hidden.append(end - 1)
            first = end
        borders.append(end)
        rows.append((len(wanted), len(wanted) + end - first))
        wanted += range(first, end)
    lengths_R, slots_R, cu_seqlens = np.array(starts), np.array(slots), np.array(borders, dtype=np.int32)
    shift_R = lengths_R - cu_seqlens[:-1]
    each = len(tokens) == len(pieces)
    numbers = [s.adapter for s in sequences]
    none_R = torch.full((len(pieces),), -1)
    drafts = [len(p.drafts) for p in pieces]
    step = Step(
        tokens_N=torch.tensor(tokens),
        positions_N=torch.from_numpy(lengths_R if each else np.arange(end) + shift_R.repeat(np.diff(cu_seqlens))),
        cu_seqlens=torch.from_numpy(cu_seqlens),
        lengths_R=torch.from_numpy(lengths_R),
        tables_RM=torch.from_numpy(tables[:, : max(known)][slots_R]),
        states_R=torch.from_numpy(slots_R) if states else none_R,
        rows=torch.tensor(wanted, dtype=torch.int64),
        hidden_rows=torch.tensor(hidden) if hidden else None,
        adapters_R=torch.tensor(numbers) if max(numbers) >= 0 else none_R,
        drafts_R=torch.tensor(drafts) if any(drafts) else None,
    )
    return step, rows


def score_prompts(
    pieces: Items[Piece], logits: Tensor, rows: Items[tuple[int, int]], requests: Mapping[str, Running]
) -> None:
    """Add what a pass says of the prompts whose log-probabilities are wanted."""
    for piece, (first, last) in zip(pieces, rows, strict=True):
        s = piece.sequence
        running = requests[s.request]
        if s.reuse or not scores(piece, running):
            continue
        assert running.prompt_logprobs is not None
        warm = running.request.sampling.temperature or 1.0
        known, count = running.prompt_logprobs, running.request.prompt_logprobs or 0
        known += prompt_scores(logits[first:last], s.tokens[: s.prompt], piece.start, len(known), warm, count)
        if len(running.prompt_logprobs) == s.prompt:
            s.reuse, s.chunk = True, None


def scores(piece: Piece, running: Running) -> bool:
    """Whether log-probabilities of the prompt are still wanted from this piece."""
    return piece.start < piece.sequence.prompt and running.prompt_logprobs is not None


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

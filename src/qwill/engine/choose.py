"""A token for every reply that wants one: those of equal settings are drawn at once, each with its own random stream.

Shape letters: B rows of a draw, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from qwill.engine.edits import allow, penalise
from qwill.engine.randomness import uniforms
from qwill.engine.replies import Reply
from qwill.engine.sampler import Sampled, sample, unpacked

DRAWS = 64  # uniform numbers made at a time for a reply


def choose(
    replies: Sequence[Reply], rows: Sequence[int], logits: Tensor, vocab_size: int, masks_BW: Tensor | None
) -> Iterator[tuple[list[Reply], Tensor, Sampled]]:
    """The next token of each reply after `logits[rows]`, group by group: (replies, their logits, what was drawn).
    `masks_BW`: bits of the ids that each reply may say (all of them where it isn't constrained). What is drawn for a
    reply depends on nothing but its own logits, settings and random stream."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, reply in enumerate(replies):
        running = reply.running
        groups.setdefault((running.draw, "" if running.plain else reply.edited), []).append(i)
    for (_, edited), members in groups.items():
        part, chosen = [replies[i] for i in members], [rows[i] for i in members]
        own_BV = logits if chosen == list(range(len(logits))) else logits[chosen]
        sampling = part[0].running.request.sampling
        uniforms_B = _uniforms(part).to(logits.device) if sampling.temperature else torch.zeros(len(part))
        allowed_BW = masks_BW[members] if masks_BW is not None and edited else None
        edited_BV = _edited(own_BV, part, vocab_size, allowed_BW) if edited == "edited" else None
        if edited_BV is not None:
            allowed_BW = None
        yield part, own_BV, sample(own_BV, uniforms_B, sampling, vocab_size, edited_BV, allowed_BW)


def _edited(own_BV: Tensor, part: Sequence[Reply], vocab_size: int, allowed_BW: Tensor | None) -> Tensor:
    edited_BV, vocab = own_BV.clone(), own_BV.shape[1]
    penalise(edited_BV, [reply.running.request.sampling for reply in part], [reply.seen for reply in part])
    allowed_BV = None if allowed_BW is None else unpacked(allowed_BW, vocab)
    for i, (row_V, reply) in enumerate(zip(edited_BV, part, strict=True)):
        request = reply.running.request
        stops = request.stop_ids if reply.produced < request.sampling.min_tokens else ()
        allowed_V = allowed_BV[i] if allowed_BV is not None and reply.guide is not None else None
        allow(row_V, vocab_size, allowed_V, stops, reply.running.answer if reply.forced else None)
    return edited_BV


def _uniforms(part: Sequence[Reply]) -> Tensor:
    fresh = [reply for reply in part if reply.draws_of != reply.produced // DRAWS]
    if fresh:
        seeds, streams, numbers, firsts = (
            np.array(values)[:, None]
            for values in zip(
                *(
                    (np.uint64(r.running.request.seed % 2**64), r.running.request.stream, r.sequence.sample,
                     r.produced // DRAWS * DRAWS)
                    for r in fresh
                ),
                strict=True,
            )
        )  # fmt: skip
        made = uniforms(seeds, streams, numbers, firsts + np.arange(DRAWS)).tolist()
        for reply, draws in zip(fresh, made, strict=True):
            reply.draws, reply.draws_of = draws, reply.produced // DRAWS
    return torch.tensor([reply.draws[reply.produced % DRAWS] for reply in part], dtype=torch.float64)

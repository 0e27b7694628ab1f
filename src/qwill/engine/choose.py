"""A token for every reply that wants one: those of equal settings are drawn at once, each with its own random stream.

A constraint's mask costs more than a draw. So where its law allows that, a constrained reply draws among all tokens and
then asks whether that one may come; only if not, it draws again (with another number of its stream) among those that
may. With probabilities p, of which the allowed ones sum to Z, token t comes first with p(t), or after a refusal with
(1 − Z)·p(t)/Z: p(t)/Z altogether, just as if it had been drawn under the mask. The likeliest token, if allowed, is the
likeliest of the allowed. Truncation, which depends on what is allowed, and log-probabilities need the mask.

Shape letters: B rows of a draw, V vocabulary, W words of 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from qwill.base.errors import DataError
from qwill.engine.edits import adjusted, allow
from qwill.engine.randomness import uniforms
from qwill.engine.replies import Edited, Reply
from qwill.engine.sampler import Sampled, Sampling, distribution, sample, sample_again, support, unpacked
from qwill.engine.speculate import verify

DRAWS = 64  # uniform numbers made at a time for a reply
FIRST, AGAIN, ACCEPT, DRAFT = range(4)  # the purposes of a reply's random numbers


def choose(
    replies: Sequence[Reply], rows: Sequence[int], logits: Tensor, vocab_size: int
) -> Iterator[tuple[list[Reply], Tensor, Sampled]]:
    """The next token of each reply after `logits[rows]`, group by group: (replies, their logits, what was drawn).
    What is drawn for a reply depends on nothing but its own logits, settings and random stream. A reply whose
    constraint can't be followed any further has its `failure` set."""
    groups: dict[tuple[str, Edited], list[int]] = {}
    for i, reply in enumerate(replies):
        running = reply.running
        plain = running.plain and not reply.proposed
        groups.setdefault((running.draw, "" if plain else reply.edited), []).append(i)
    for (_, edited), members in groups.items():
        part, chosen = [replies[i] for i in members], [rows[i] for i in members]
        own_BV = logits if chosen == list(range(len(logits))) else logits[chosen]
        drawn = _draw(own_BV, part, vocab_size, edited)
        if edited == "checked":
            drawn = _checked(drawn, own_BV, part, vocab_size)
        yield part, own_BV, drawn


def _draw(own_BV: Tensor, part: Sequence[Reply], vocab_size: int, edited: Edited) -> Sampled:
    sampling = part[0].running.request.sampling
    uniforms_B = _uniforms(part, sampling, FIRST, own_BV.device)
    allowed_BW = _masks(part, vocab_size) if edited not in ("", "checked") else None
    edited_BV = _edited(own_BV, part, vocab_size, allowed_BW) if edited in ("edited", "proposed") else None
    if edited_BV is not None:
        allowed_BW = None
    asked = part[0].running.request.support
    if edited != "proposed" or edited_BV is None:
        return sample(own_BV, uniforms_B, sampling, vocab_size, edited_BV, allowed_BW, asked)
    drawn = _verified(own_BV, edited_BV, part, vocab_size, uniforms_B)
    if asked:
        drawn = replace(drawn, support=support(own_BV, drawn.tokens_B, sampling, vocab_size, edited_BV, None))
    return drawn


def _checked(drawn: Sampled, own_BV: Tensor, part: Sequence[Reply], vocab_size: int) -> Sampled:
    """What was drawn among all tokens, where it may come; else drawn again among those that may."""
    tokens = drawn.tokens_B.tolist()
    # The guide is there: without one a reply isn't "checked".
    wrong = [i for i, reply in enumerate(part) if reply.guide and not reply.guide.take(tokens[i])]
    if not wrong:
        return drawn
    refused = [part[i] for i in wrong]
    sampling, allowed_RW = part[0].running.request.sampling, _masks(refused, vocab_size)
    assert allowed_RW is not None
    uniforms_R = _uniforms(refused, sampling, AGAIN, own_BV.device)
    return sample_again(drawn, wrong, own_BV, uniforms_R, sampling, vocab_size, allowed_RW)


def _uniforms(part: Sequence[Reply], sampling: Sampling, purpose: int, device: torch.device) -> Tensor:
    return randoms(part, purpose).to(device) if sampling.temperature else torch.zeros(len(part))


def _verified(own_BV: Tensor, edited_BV: Tensor, part: Sequence[Reply], vocab_size: int, uniforms_B: Tensor) -> Sampled:
    """The token of each reply beside its draft, which was drawn from a known distribution."""
    sampling, device = part[0].running.request.sampling, own_BV.device
    target_BV = distribution(edited_BV, sampling, vocab_size)[:, :vocab_size]
    proposed_BV = torch.stack([reply.proposed[0] for reply in part])
    drafts_B = torch.tensor([reply.drafts[0] for reply in part], device=device)
    tokens_B = verify(target_BV, proposed_BV, drafts_B, randoms(part, ACCEPT).to(device), uniforms_B)
    own_B = (own_BV / sampling.temperature).log_softmax(dim=1).gather(1, tokens_B[:, None])[:, 0]
    return Sampled(tokens_B, own_B, target_BV.gather(1, tokens_B[:, None])[:, 0].log().float())


def _edited(own_BV: Tensor, part: Sequence[Reply], vocab_size: int, allowed_BW: Tensor | None) -> Tensor:
    settings = [reply.running.request.sampling for reply in part]
    edited_BV = adjusted(own_BV, settings, [reply.seen for reply in part])
    allowed_BV = None if allowed_BW is None else unpacked(allowed_BW, own_BV.shape[1])
    for i, (row_V, reply) in enumerate(zip(edited_BV, part, strict=True)):
        stops = reply.running.request.stop_ids if reply.produced < reply.running.request.sampling.min_tokens else ()
        allowed_V = allowed_BV[i] if allowed_BV is not None and reply.guide is not None else None
        allow(row_V, vocab_size, allowed_V, stops, reply.forced)
    return edited_BV


def _masks(part: Sequence[Reply], vocab_size: int) -> Tensor | None:
    """Bits of what each reply may say next, int32 [B, W], if one of them is constrained."""
    guides = [reply.guide for reply in part]
    if not any(guides):
        return None
    from qwill.engine.constrain import fill_masks

    masks_BW = np.empty((len(part), vocab_size // 32 + 1), dtype=np.int32)
    try:
        fill_masks(guides, masks_BW)
    except DataError:  # whose?
        for i, (reply, guide) in enumerate(zip(part, guides, strict=True)):
            try:
                fill_masks([guide], masks_BW[i : i + 1])
            except DataError as error:
                reply.failure = str(error)
    return torch.from_numpy(masks_BW)


def randoms(part: Sequence[Reply], purpose: int, ahead: int = 0) -> Tensor:
    """A uniform number for the next token of each reply, or for the one `ahead` tokens after it; float64 [B]."""
    places = [reply.produced + ahead for reply in part]
    fresh = [
        (r, i // DRAWS) for r, i in zip(part, places, strict=True)
        if purpose not in r.draws or r.draws[purpose][0] != i // DRAWS
    ]  # fmt: skip
    if fresh:
        # A reply that is checked is likely to be drawn again: that costs hardly more than the first numbers alone.
        both = purpose == FIRST and any(reply.guide for reply, _ in fresh)
        purposes = (FIRST, AGAIN) if both else (purpose,)
        names = [
            (np.uint64(r.running.request.seed % 2**64), r.running.request.stream, r.sequence.sample, run * DRAWS)
            for r, run in fresh
        ]
        seeds, streams, numbers, firsts = (np.array(values)[:, None, None] for values in zip(*names, strict=True))
        steps = firsts + np.arange(DRAWS)
        made = uniforms(seeds, streams, numbers, steps, np.array(purposes)[:, None]).tolist()
        for (reply, run), of_purposes in zip(fresh, made, strict=True):
            reply.draws.update((p, (run, draws)) for p, draws in zip(purposes, of_purposes, strict=True))
    numbers_B = [r.draws[purpose][1][i % DRAWS] for r, i in zip(part, places, strict=True)]
    return torch.tensor(numbers_B, dtype=torch.float64)

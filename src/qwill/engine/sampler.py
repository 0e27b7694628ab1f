"""Choosing the next token: temperature, top-k, top-p and min-p, for a whole batch of rows at once.

One uniform number a row is turned into a token by inverting the cumulative distribution. Every row is treated
on its own, so what is chosen for a sequence depends on its logits and its uniform alone. Shape letters: B
rows, V vocabulary, C candidates, P blocks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from qwill.engine import native_sampler
from qwill.engine.sampling import Sampling
from qwill.engine.support import Ranges, one_range, ranges_of

BLOCK = 64  # the cumulative sum is searched in two levels: V/BLOCK block sums, then one block
FIRST_CANDIDATES = 128  # enough for most top-p nuclei; rows that need more are sorted again with more
__all__ = ["Sampled", "Sampling", "sample", "sample_again", "support"]


@dataclass(frozen=True)
class Sampled:
    """Chosen tokens [B] (int64) with two float32 log-probabilities [B].

    `logprobs` is log_softmax(logits / temperature) of the model's own logits over the whole vocabulary
    (temperature 1 when greedy), which is what a trainer recomputes. `sampled_logprobs` is that of the
    distribution really drawn from: after penalties, truncation and a vocabulary limit; it is 0 when greedy.
    Without any of these the two are the same. `support`: see `support`, if it was asked for. `wholes_B2`: what
    `sample_again` needn't sum again, if there is something.
    """

    tokens_B: Tensor
    logprobs_B: Tensor
    sampled_logprobs_B: Tensor
    support: list[Ranges] | None = None
    wholes_B2: Tensor | None = None


def sample(
    logits_BV: Tensor,
    uniforms_B: Tensor,
    sampling: Sampling,
    vocab_size: int | None = None,
    edited_BV: Tensor | None = None,
    allowed_BW: Tensor | None = None,
    asked: bool = False,
) -> Sampled:
    """Draw one token a row from float32 logits with one float64 uniform a row.

    `edited_BV`: the logits to draw from, where they were penalised, biased or masked (−inf, `edits.py`). Ids from
    `vocab_size` on (a padded embedding's spare rows) are never drawn, nor those without a bit in `allowed_BW` (int32,
    the least significant bit first; at least one of each row must be set). Greedy takes the lowest id among equals.
    `asked`: whether `support` is wanted, too.
    """
    drawn = _sample(logits_BV, uniforms_B, sampling, vocab_size, edited_BV, allowed_BW, asked)
    if asked and drawn.support is None:
        drawn = replace(drawn, support=support(logits_BV, drawn.tokens_B, sampling, vocab_size, edited_BV, allowed_BW))
    return drawn


def _sample(
    logits_BV: Tensor,
    uniforms_B: Tensor,
    sampling: Sampling,
    vocab_size: int | None,
    edited_BV: Tensor | None,
    allowed_BW: Tensor | None,
    asked: bool,
) -> Sampled:
    whole = sampling.temperature == 0 or not sampling.truncates  # truncation keeps the likeliest token
    if whole and (edited_BV is None or allowed_BW is None) and native_sampler.suits(logits_BV):
        found = native_sampler.draw(logits_BV, edited_BV, uniforms_B, sampling.temperature, vocab_size, allowed_BW)
        return Sampled(*found[:3], wholes_B2=found[3])
    if allowed_BW is not None:
        edited_BV = _masked(logits_BV if edited_BV is None else edited_BV, allowed_BW)
    warm = sampling.temperature in (0, 1)
    own_BV = logits_BV if warm else logits_BV / sampling.temperature
    drawn_BV = own_BV
    if edited_BV is not None:
        drawn_BV = edited_BV if warm else edited_BV / sampling.temperature
    if vocab_size is not None and vocab_size < drawn_BV.shape[1]:
        drawn_BV = drawn_BV[:, :vocab_size]
    among: list[Ranges] | None = None
    if sampling.temperature == 0:
        tokens_B = drawn_BV.argmax(dim=1)
        sampled_B = torch.zeros_like(own_BV[:, 0])
    elif sampling.truncates:
        tokens_B, sampled_B, among = _draw_truncated(drawn_BV, uniforms_B, sampling, asked)
    else:
        tokens_B, sampled_B = _draw(drawn_BV, uniforms_B)
        if drawn_BV is own_BV:
            return Sampled(tokens_B, sampled_B, sampled_B)
    return Sampled(tokens_B, _at(own_BV, tokens_B) - own_BV.logsumexp(dim=1), sampled_B, among)


def sample_again(
    drawn: Sampled,
    rows: Sequence[int],
    logits_BV: Tensor,
    uniforms_R: Tensor,
    sampling: Sampling,
    vocab_size: int | None,
    allowed_RW: Tensor,
) -> Sampled:
    """`drawn`, which `sample` drew from the logits as they are, with these rows drawn once more, now under masks: as
    `sample` would with `logits_BV[rows]`, but nothing is copied. `drawn` itself may change."""
    if drawn.wholes_B2 is not None and logits_BV.is_contiguous():
        out = (drawn.tokens_B, drawn.logprobs_B, drawn.sampled_logprobs_B, drawn.wholes_B2)
        native_sampler.draw_again(out, rows, logits_BV, uniforms_R, sampling.temperature, vocab_size, allowed_RW)
        return drawn
    again = sample(logits_BV[rows], uniforms_R, sampling, vocab_size, None, allowed_RW)
    at_R = torch.tensor(rows, device=logits_BV.device)
    return Sampled(
        drawn.tokens_B.index_copy(0, at_R, again.tokens_B),
        drawn.logprobs_B.index_copy(0, at_R, again.logprobs_B),
        drawn.sampled_logprobs_B.index_copy(0, at_R, again.sampled_logprobs_B),
    )


def unpacked(bits_BW: Tensor, vocab: int) -> Tensor:
    """Bit masks as bool [B, vocab]; ids behind the last word are False."""
    shifts_32 = torch.arange(32, dtype=torch.int32, device=bits_BW.device)
    allowed_BV = (bits_BW[:, :, None] >> shifts_32 & 1).bool().flatten(1)[:, :vocab]
    return F.pad(allowed_BV, (0, vocab - allowed_BV.shape[1]))


def _masked(logits_BV: Tensor, allowed_BW: Tensor) -> Tensor:
    return logits_BV.masked_fill(~unpacked(allowed_BW.to(logits_BV.device), logits_BV.shape[1]), float("-inf"))


def _at(values_BV: Tensor, tokens_B: Tensor) -> Tensor:
    return values_BV.gather(1, tokens_B[:, None])[:, 0]


def _draw(logits_BV: Tensor, uniforms_B: Tensor) -> tuple[Tensor, Tensor]:
    """Invert the cumulative distribution in two levels; about three passes over the logits and no sort."""
    rows = logits_BV.shape[0]
    top_B = logits_BV.amax(dim=1)
    weights_BV = (logits_BV - top_B[:, None]).exp_()
    spare = -weights_BV.shape[1] % BLOCK
    if spare:
        weights_BV = F.pad(weights_BV, (0, spare))
    weights_BPC = weights_BV.view(rows, -1, BLOCK)
    blocks_BP = weights_BPC.sum(dim=2).double().cumsum(dim=1)
    total_B = blocks_BP[:, -1]
    target_B1 = (uniforms_B * total_B)[:, None]
    block_B = (blocks_BP <= target_B1).sum(dim=1).clamp_(max=blocks_BP.shape[1] - 1)
    before_B = torch.where(block_B > 0, _at(blocks_BP, (block_B - 1).clamp(min=0)), 0.0)
    inside_BC = weights_BPC[torch.arange(rows, device=block_B.device), block_B].double().cumsum(dim=1)
    # A block's float32 sum can exceed its float64 one by a rounding: keep the target inside, on a token with
    # weight.
    inside_B1 = (target_B1 - before_B[:, None]).minimum(inside_BC[:, -1:] * (1 - 1e-12))
    tokens_B = block_B * BLOCK + (inside_BC <= inside_B1).sum(dim=1)
    return tokens_B, _at(logits_BV, tokens_B) - top_B - total_B.log().float()


def _draw_truncated(
    logits_BV: Tensor, uniforms_B: Tensor, sampling: Sampling, asked: bool
) -> tuple[Tensor, Tensor, list[Ranges] | None]:
    """Draw among each row's best candidates after top-k, top-p and min-p: tokens, their log-probabilities there, and if
    `asked` what there was to draw."""
    tokens_B = torch.empty(logits_BV.shape[0], dtype=torch.int64, device=logits_BV.device)
    logprobs_B = torch.empty(logits_BV.shape[0], device=logits_BV.device)
    places = []
    for rows, ids_BC, values_BC, kept_BC in _candidates(logits_BV, sampling):
        tokens_B[rows], logprobs_B[rows] = _draw_sorted(ids_BC, values_BC, kept_BC, uniforms_B[rows])
        if asked:
            places.append(_places(rows, ids_BC, values_BC, kept_BC, logits_BV.shape[1]))
    return tokens_B, logprobs_B, _ranges(places, logits_BV) if asked else None


def _places(rows: Tensor, ids_BC: Tensor, values_BC: Tensor, kept_BC: Tensor, vocab: int) -> Tensor:
    """The places in [B, V] of candidates that stay and are possible at all."""
    row_P, column_P = (kept_BC & (values_BC > float("-inf"))).nonzero().unbind(1)
    return rows[row_P] * vocab + ids_BC[row_P, column_P]


def _ranges(places: list[Tensor], logits_BV: Tensor) -> list[Ranges]:
    place_P = torch.cat(places).sort().values.cpu().numpy()
    rows, vocab = logits_BV.shape
    return ranges_of(place_P // vocab, place_P % vocab, rows)


def support(
    logits_BV: Tensor,
    tokens_B: Tensor,
    sampling: Sampling,
    vocab_size: int | None = None,
    edited_BV: Tensor | None = None,
    allowed_BW: Tensor | None = None,
) -> list[Ranges]:
    """The ids that `sample` with the same arguments draws from, each row's as rising ranges (first id, last + 1): what
    truncation, masks and the vocabulary leave. When greedy those are `tokens_B`, which it drew, alone."""
    if sampling.temperature == 0:
        return [one_range(token, token + 1) for token in tokens_B.tolist()]
    drawn_BV = logits_BV if edited_BV is None else edited_BV
    if allowed_BW is not None:
        drawn_BV = _masked(drawn_BV, allowed_BW)
    drawn_BV = drawn_BV[:, :vocab_size]
    if sampling.truncates:
        warm_BV = drawn_BV if sampling.temperature == 1 else drawn_BV / sampling.temperature
        return _ranges([_places(*found, drawn_BV.shape[1]) for found in _candidates(warm_BV, sampling)], drawn_BV)
    if edited_BV is None and allowed_BW is None:
        return [one_range(0, drawn_BV.shape[1])] * len(drawn_BV)
    return _ranges([(drawn_BV > float("-inf")).flatten().nonzero()[:, 0]], drawn_BV)


def _candidates(logits_BV: Tensor, sampling: Sampling) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Which rows, with the ids and logits of their best candidates and which of these stay; every row once."""
    vocab, rows = logits_BV.shape[1], torch.arange(logits_BV.shape[0], device=logits_BV.device)
    if sampling.top_k:
        yield rows, *_kept(logits_BV, min(sampling.top_k, vocab), None, sampling)[:3]
        return
    top_B1 = logits_BV.amax(dim=1, keepdim=True)
    total_B = (logits_BV - top_B1).exp_().sum(dim=1)
    candidates = min(FIRST_CANDIDATES, vocab)
    while rows.numel():
        ids_BC, values_BC, kept_BC, complete_B = _kept(logits_BV[rows], candidates, total_B[rows], sampling)
        done = complete_B if candidates < vocab else torch.ones_like(complete_B)
        yield rows[done], ids_BC[done], values_BC[done], kept_BC[done]
        rows, candidates = rows[~done], min(candidates * 8, vocab)


def _truncated(warm_BV: Tensor, sampling: Sampling) -> Tensor:
    """What top-k, top-p and min-p leave, bool [B, V]."""
    chosen_BV = torch.zeros_like(warm_BV, dtype=torch.bool)
    for rows, ids_BC, _, kept_BC in _candidates(warm_BV, sampling):
        chosen_BV[rows] = chosen_BV[rows].scatter(1, ids_BC, kept_BC)
    return chosen_BV


def distribution(drawn_BV: Tensor, sampling: Sampling, vocab_size: int) -> Tensor:
    """The probabilities by which `sample` draws from these (edited) logits, float64 [B, V]; the temperature is above
    0."""
    warm_BV = drawn_BV / sampling.temperature
    warm_BV[:, vocab_size:] = float("-inf")
    weights_BV = (warm_BV - warm_BV.amax(dim=1, keepdim=True)).exp_()
    if sampling.truncates:
        weights_BV *= _truncated(warm_BV, sampling)
    probabilities_BV = weights_BV.double()
    return probabilities_BV / probabilities_BV.sum(dim=1, keepdim=True)


def _kept(
    logits_BV: Tensor, candidates: int, total_B: Tensor | None, sampling: Sampling
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Best candidates in falling order, which of them stay (a prefix), and whether the cut lies before the
    last one.

    `total_B` is the whole row's sum of exp(logit - best); None means that the candidates are all there is
    (top-k came first).
    """
    values_BC, ids_BC = logits_BV.topk(candidates, dim=1)
    weights_BC = (values_BC - values_BC[:, :1]).exp()
    before_BC = weights_BC.double().cumsum(dim=1) - weights_BC
    total_B1 = weights_BC.double().sum(dim=1, keepdim=True) if total_B is None else total_B[:, None].double()
    kept_BC = weights_BC >= sampling.min_p
    if sampling.top_p < 1:
        kept_BC &= before_BC < sampling.top_p * total_B1
    kept_BC[:, 0] = True
    return ids_BC, values_BC, kept_BC, ~kept_BC[:, -1]


def _draw_sorted(ids_BC: Tensor, values_BC: Tensor, kept_BC: Tensor, uniforms_B: Tensor) -> tuple[Tensor, Tensor]:
    weights_BC = (values_BC - values_BC[:, :1]).exp() * kept_BC
    below_BC = weights_BC.double().cumsum(dim=1)
    total_B1 = below_BC[:, -1:]
    place_B = (below_BC <= uniforms_B[:, None] * total_B1).sum(dim=1, keepdim=True)
    place_B.clamp_(max=ids_BC.shape[1] - 1)
    below_best_B = values_BC.gather(1, place_B)[:, 0].double() - values_BC[:, 0].double()
    return ids_BC.gather(1, place_B)[:, 0], (below_best_B - total_B1[:, 0].log()).float()

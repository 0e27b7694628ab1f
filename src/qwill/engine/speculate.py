"""Speculative decoding: tokens that a cheap guess proposes are checked in one pass, and the replies' law stays what it
was.

A pass over a sequence's last token and k drafted ones gives the logits after each of them. They are gone through in
order: at each place a token is chosen by everything that has a say there (penalties, mask, truncation, as without
drafts), and if it is the drafted one the next place's logits are good too. So a pass gives 1 to k + 1 tokens.

How a token is chosen beside a draft d:

- A draft that was guessed for certain (look-up, forced by a grammar, a draft model's likeliest): the token is drawn as
  always, from the same random number. What comes is what would have come without drafts, and d is taken with p(d).
- A draft that was drawn from a distribution q: Leviathan et al. (arXiv 2211.17192), Chen et al. (arXiv 2302.01318).
  d is taken with probability min(1, p(d)/q(d)); otherwise the token is drawn from max(0, p − q), normalised. The sum is
  p again: q(t)·min(1, p(t)/q(t)) + Σ max(0, q − p) · max(0, p(t) − q(t)) / Σ max(0, p − q) = min(p, q) + max(0, p − q),
  as both sums are equal.

Keys and values of drafts that weren't taken lie behind what counts as computed; the next pass writes over them.
Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qwill.engine.engine_settings import NgramSpec


class History:
    """A sequence's tokens, to be searched."""

    def __init__(self) -> None:
        self._tokens_N, self._count = np.empty(0, dtype=np.int64), 0

    def propose(self, tokens: Sequence[int], spec: NgramSpec, most: int) -> list[int]:
        """At most `most` tokens that may follow `tokens`, which only ever grow; none if the end was never seen."""
        if len(tokens) > len(self._tokens_N):
            self._tokens_N = np.concatenate([self._tokens_N, np.empty(len(tokens), dtype=np.int64)])
        self._tokens_N[self._count : len(tokens)] = tokens[self._count :]
        self._count = count = len(tokens)
        known_N = self._tokens_N[:count]
        ends, length = np.flatnonzero(known_N[:-1] == known_N[-1]), 1
        while ends.size and length < spec.longest:
            longer = ends[ends >= length]
            longer = longer[known_N[longer - length] == known_N[count - 1 - length]] if length < count else longer[:0]
            if not longer.size:
                break
            ends, length = longer, length + 1
        if not ends.size or length < spec.shortest:
            return []
        start = int(ends[-1]) + 1
        # Where the earlier place runs into the end it repeats itself, and so may what follows.
        period = count - start
        return [int(known_N[start + i % period]) for i in range(most)]


def invert(weights_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """The token of each row in whose share of the weights' sum the uniform number falls, int64 [B]."""
    below_BV = weights_BV.double().cumsum(1)
    target_B1 = (uniforms_B[:, None] * below_BV[:, -1:]).minimum(below_BV[:, -1:] * (1 - 1e-12))
    return (below_BV <= target_B1).sum(1).clamp_(max=weights_BV.shape[1] - 1)


def verify(target_BV: Tensor, proposed_BV: Tensor, drafts_B: Tensor, accept_B: Tensor, draw_B: Tensor) -> Tensor:
    """A token a row with the law `target_BV`, which is the draft if `drafts_B` were drawn from `proposed_BV` as often
    as can be. Both are probabilities (float64); `accept_B` and `draw_B` two uniform numbers a row, int64 [B] out."""
    target_B, proposed_B = (x.gather(1, drafts_B[:, None])[:, 0] for x in (target_BV, proposed_BV))
    tokens_B = drafts_B.clone()
    refused = (~(accept_B * proposed_B < target_B)).nonzero()[:, 0]
    if refused.numel():
        rest_RV = (target_BV[refused] - proposed_BV[refused]).clamp_(min=0)
        empty_R1 = rest_RV.sum(1, keepdim=True) <= 0  # equal up to rounding, of which the refusal came
        tokens_B[refused] = invert(torch.where(empty_R1, target_BV[refused], rest_RV), draw_B[refused])
    return tokens_B

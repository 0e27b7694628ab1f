"""Sequences whose common beginnings are held once: which token stands where, and the way there and back.

Token-wise work (norms, projections, feed-forwards, experts) is done once for a shared token; what mixes tokens
(attention, the convolution and state of Gated DeltaNet) sees every sequence whole.

Letters: N tokens, L ≥ N places of the sequences laid end to end, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

WORTH = 16  # laying tokens out costs about as much as computing one place in so many


@dataclass(frozen=True)
class Shared:
    """token_L: the token at each place. place_N: one place of each token. again: (token, place, count), runs of all
    other places, at which tokens stand in order."""

    token_L: Tensor
    place_N: Tensor
    again: tuple[tuple[int, int, int], ...]

    def to(self, device: torch.device | str) -> Shared:
        return Shared(self.token_L.to(device), self.place_N.to(device), self.again)


def share_beginnings(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Shared]:
    """(token ids, their places in their sequences, how they make up the sequences).

    In the order of their ids, sequences share the most with the one before them.
    """
    ids = [torch.as_tensor(s, dtype=torch.int64) for s in sequences]
    starts = [0, *torch.tensor([len(x) for x in ids]).cumsum(0).tolist()]
    tokens, positions, places, again = [], [], [], []
    rows: list[Tensor] = [ids[0][:0]] * len(ids)  # the token at each place of each sequence
    count = 0
    before = None
    for i in sorted(range(len(ids)), key=lambda i: list(sequences[i])):
        common = 0 if before is None else _common(ids[before], ids[i])
        own = torch.arange(count, count + len(ids[i]) - common)
        rows[i] = own if before is None else torch.cat([rows[before][:common], own])
        tokens.append(ids[i][common:])
        positions.append(torch.arange(common, len(ids[i])))
        places.append(starts[i] + positions[-1])
        breaks = (rows[i][:common].diff() != 1).nonzero().flatten() + 1
        for a, b in pairwise([0, *breaks.tolist(), common] if common else []):
            again.append((int(rows[i][a]), starts[i] + a, b - a))
        count += len(own)
        before = i
    return torch.cat(tokens), torch.cat(positions), Shared(torch.cat(rows), torch.cat(places), tuple(again))


def _common(a: Tensor, b: Tensor) -> int:
    """How many ids two sequences have in common from their first on."""
    least = min(len(a), len(b))
    differ = (a[:least] != b[:least]).nonzero()
    return int(differ[0]) if len(differ) else least


class _Lay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shared: Shared) -> Tensor:
        ctx.shared = shared
        return x.index_select(0, shared.token_L)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None]:
        # Runs instead of an index_add, which goes row by row on a CPU and in any order on an accelerator.
        d_x = d_out.index_select(0, ctx.shared.place_N)
        for token, place, count in ctx.shared.again:
            d_x[token : token + count] += d_out[place : place + count]
        return d_x, None


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shared: Shared) -> Tensor:
        ctx.shared = shared
        return x.index_select(0, shared.place_N)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None]:
        d_x = d_out.new_zeros(len(ctx.shared.token_L), *d_out.shape[1:])
        return d_x.index_copy_(0, ctx.shared.place_N, d_out), None


def lay_out(x_NC: Tensor, shared: Shared | None) -> Tensor:
    """What tokens have, [N, …], at every place, [L, …]."""
    return x_NC if shared is None else _Lay.apply(x_NC, shared)


def take_back(x_LC: Tensor, shared: Shared | None) -> Tensor:
    """[N, …] of [L, …], which is the same at all places of a token."""
    return x_LC if shared is None else _Take.apply(x_LC, shared)

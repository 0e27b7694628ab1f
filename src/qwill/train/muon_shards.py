"""Muon on a mesh: a matrix is orthogonalised whole, by one of the ranks that hold shares of it.

Ranks that cut the same matrices take turns: of each G matrices every rank gets one, all G at once in one all-to-all,
and sends the shares of its result back. The work is divided by G, and a rank holds one whole matrix at a time.
Batches of matrices (experts) cut between matrices need nothing of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qwill.train.collectives import exchange_rows
from qwill.train.optim import Muon, decay_and_update, orthogonalize
from qwill.train.parallel import Parallel, Shard, cut_shard, place_shard
from qwill.train.shards import Ranges, shape_of


class ShardedMuon(Muon):
    """`Muon` over the shards of a `Parallel`; the same steps as in one process."""

    def __init__(
        self, params: list[dict[str, Any]], lr: float, momentum: float, weight_decay: float, steps: int,
        parallel: Parallel,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, momentum, weight_decay, steps)
        self.parallel = parallel
        self.shards = {s.local: s for s in parallel.shards}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            together: dict[tuple[str, ...], list[tuple[nn.Parameter, Tensor]]] = {}
            for p in group["params"]:
                update = decay_and_update(p, p.grad, self.state[p], group)
                together.setdefault(self._cutting(self.shards[p]), []).append((p, update))
            for axes, work in together.items():
                for p, direction in self._directions(axes, work, group["parts"], group["steps"]):
                    p.add_(direction, alpha=-group["lr"])

    def _cutting(self, shard: Shard) -> tuple[str, ...]:
        """The axes that cut through matrices, and not between those of a batch."""
        inner = {axis for c in shard.cuts if c.dim >= len(shard.whole) - 2 for axis in c.axes}
        return tuple(a for a in shard.axes if a in inner)

    def _directions(
        self, axes: tuple[str, ...], work: Sequence[tuple[nn.Parameter, Tensor]], parts: list[int], steps: int
    ) -> list[tuple[nn.Parameter, Tensor]]:
        mesh = self.parallel.mesh
        group, places, me = mesh.group(*axes), mesh.members(*axes), mesh.index(*axes)
        if group is None:
            return [(p, direction(update, parts, steps)) for p, update in work]
        out = []
        for start in range(0, len(work), len(places)):
            turn = work[start : start + len(places)]
            every: list[Ranges] = []  # the shares of the matrix that is this rank's turn
            if me < len(turn):
                every = [self.shards[turn[me][0]].ranges(mesh, place) for place in places]
            send = [update.numel() for _, update in turn] + [0] * (len(places) - len(turn))
            receive = [torch.Size(shape_of(r)).numel() for r in every] or [0] * len(places)
            pieces = exchange_rows(torch.cat([u.flatten() for _, u in turn]), send, receive, group)
            result = pieces[:0]
            if every:
                whole = pieces.new_empty(self._whole(turn[me]))
                first = _outer(every[me], whole.ndim)
                for ranges, piece in zip(every, pieces.split(receive), strict=True):
                    place_shard(whole, first + ranges[len(first) :], piece.view(shape_of(ranges)))
                made = direction(whole, parts, steps)
                result = torch.cat([cut_shard(made, first + r[len(first) :]).flatten() for r in every])
            shares = exchange_rows(result, receive, send, group)
            for (p, update), share in zip(turn, shares.split(send[: len(turn)]), strict=True):
                out.append((p, share.view_as(update)))
        return out

    def _whole(self, item: tuple[nn.Parameter, Tensor]) -> tuple[int, ...]:
        """Whole matrices, as many of a batch as this rank has."""
        return (*item[1].shape[:-2], *self.shards[item[0]].whole[-2:])


def _outer(ranges: Ranges, ndim: int) -> Ranges:
    """The batch dimensions counted from 0: ranks that cut matrices hold the same ones."""
    return tuple(((0, sum(n for _, n in dim)),) for dim in ranges[: ndim - 2])


def direction(update: Tensor, parts: list[int], steps: int) -> Tensor:
    """Each part of a matrix orthogonalised and scaled, as `Muon` has it."""
    done = []
    for part in update.split(parts, dim=-2):
        done.append(orthogonalize(part, steps) * (0.2 * max(part.shape[-2:]) ** 0.5))
    return torch.cat(done, dim=-2)

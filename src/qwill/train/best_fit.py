"""Best-fit packing: which examples a step takes, so that hardly any room is left over.

Every example once an epoch, in an order drawn by the seed, each into the fullest step that still has room for it
(best fit; Johnson et al. 1974). Not longest first, as pretraining documents are packed (best-fit decreasing, Ding et
al., arXiv 2404.10830): that puts long examples with long ones, and the loss, a mean over a step's trained tokens, then
weighs short conversations twice as much. Best fit in drawn order fills steps as well (LOG.md).
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Packing:
    """`steps`: places in the list of examples. `fill`: the share of the steps' room that tokens take, over the epochs
    that were packed. `epoch_steps`: steps of each of them."""

    steps: list[list[int]]
    fill: float
    epoch_steps: list[int]


def pack_best_fit(
    lengths: Sequence[int], room: int, seed: int, *, steps: int | None = None, epochs: int | None = None
) -> Packing:
    """Steps of at most `room` tokens for so many `epochs`, or the first `steps` of as many epochs as they take.

    An example longer than `room` is a step of its own.
    """
    plan: list[list[int]] = []
    counts: list[int] = []
    while len(counts) < epochs if epochs is not None else len(plan) < (steps or 0):
        packed = pack_epoch(lengths, room, seed, len(counts))
        plan += packed
        counts.append(len(packed))
    fill = len(counts) * sum(lengths) / sum(max(room, sum(lengths[i] for i in step)) for step in plan)
    return Packing(plan if epochs is not None else plan[:steps], fill, counts)


def pack_epoch(lengths: Sequence[int], room: int, seed: int, epoch: int) -> list[list[int]]:
    """Every example once, in steps of at most `room` tokens, in an order drawn by seed and epoch."""
    draw = random.Random(f"{seed}/sft/{epoch}")
    order = list(range(len(lengths)))
    draw.shuffle(order)
    steps: list[list[int]] = []
    spaces: list[int] = []  # how much room the open steps have left, each number once, ascending
    by_space: dict[int, list[int]] = {}
    for i in order:
        at = bisect_left(spaces, lengths[i])
        if at == len(spaces):
            step, left = len(steps), room - lengths[i]
            steps.append([])
        else:
            space = spaces[at]
            step, left = by_space[space].pop(), space - lengths[i]
            if not by_space[space]:
                del by_space[space], spaces[at]
        steps[step].append(i)
        if left > 0:
            if left not in by_space:
                by_space[left] = []
                insort(spaces, left)
            by_space[left].append(step)
    draw.shuffle(steps)
    return steps

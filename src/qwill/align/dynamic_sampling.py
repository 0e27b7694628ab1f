"""DAPO's dynamic sampling (arXiv 2503.14476 §3.2): in place of groups that teach nothing others are drawn.

All is drawn by seed, step and number of the draw, so that an interrupted step is drawn again as it was.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from qwill.align.rollouts import Rollout


def alike(group: list[Rollout]) -> bool:
    """Whether a group's known rewards are all the same, so that none is better than the others."""
    return len({r.reward for r in group if not math.isnan(r.reward)}) < 2


def redraw(
    groups: list[list[Rollout]],
    chosen: list[int],
    rows: list[dict[str, Any]],
    most: int,
    draw: Callable[[list[int], list[int], int], list[list[Rollout]]],
    seed: str,
) -> tuple[list[list[Rollout]], list[int], int]:
    """(groups, the rows that they belong to, how many were drawn in all). In place of each group that is `alike`, up to
    `most` times, a prompt of its language that the step has not had; what is still alike then stays.

    `draw(rows, places, first)` makes the groups of some rows for these places of the step; `first` is the random stream
    of the first of them.
    """
    groups, chosen, tried, drawn = list(groups), list(chosen), set(chosen), len(groups)
    for again in range(most):
        places = [k for k, group in enumerate(groups) if alike(group)]
        others: list[tuple[int, int]] = []
        for language in sorted({rows[chosen[k]]["language"] for k in places}):
            mine = [k for k in places if rows[chosen[k]]["language"] == language]
            pool = [i for i, row in enumerate(rows) if row["language"] == language and i not in tried]
            picked = random.Random(f"{seed}/{language}/{again}").sample(pool, min(len(pool), len(mine)))
            others += zip(mine, picked, strict=False)
        if not others:
            break
        made = draw([i for _, i in others], [k for k, _ in others], drawn)
        drawn += len(others)
        for (k, i), group in zip(others, made, strict=True):
            tried.add(i)
            if not alike(group):
                groups[k], chosen[k] = group, i
    return groups, chosen, drawn

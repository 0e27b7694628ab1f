"""Which models a set of votes can compare at all: the graph behind a Bradley–Terry fit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import DataError


@dataclass(frozen=True)
class Comparability:
    """`groups`: models that votes connect; ratings of different groups can't be compared.

    `separated`: models that won or lost everything against the rest of their group, so that a likelihood
    without a prior would rate them infinite.
    """

    groups: list[list[str]]
    separated: list[str]


def comparability(models: Sequence[str], beats: NDArray[np.bool_]) -> Comparability:
    """From beats[i, j], true where model i took any share of a win from model j (a tie is both ways).

    Ford (1957): the likelihood has a maximum when from every model a chain of wins leads to every other.
    Where it does not, the largest set of models within which it does keeps its meaning and the others of the
    group are named; if no one set is the largest, all of the group.
    """
    groups, separated = [], []
    for group in _classes(beats | beats.T, range(len(models))):
        groups.append([models[i] for i in group])
        sets = sorted(_classes(beats, group), key=len, reverse=True)
        kept = sets[0] if len(sets) == 1 or len(sets[0]) > len(sets[1]) else []
        separated += [models[i] for i in group if i not in set(kept)]
    return Comparability(groups, separated)


def refuse_incomparable(found: Comparability) -> None:
    """Raise DataError naming the models for which plain maximum likelihood has no answer."""
    if len(found.groups) > 1:
        listed = "; ".join(_some(group) for group in found.groups[:5])
        raise DataError(
            f"no vote connects these {len(found.groups)} groups of models, so they can't be compared: "
            f"{listed}; "
            "add votes between them, rate each alone, or give a prior such as 0.1."
        )
    if found.separated:
        raise DataError(
            f"perfect separation: {_some(found.separated)} won or lost every vote against the rest, "
            "so no finite rating fits; add votes or give a prior such as 0.1."
        )


def _classes(edges: NDArray[np.bool_], nodes: Sequence[int]) -> list[list[int]]:
    """Sets of nodes that reach one another along `edges` (strong components), in order of their first
    node."""
    found: list[list[int]] = []
    left = set(nodes)
    while left:
        start = min(left)
        both = _reached(edges, start) & _reached(edges.T, start)
        found.append(sorted(left & set(np.flatnonzero(both).tolist())))
        left -= set(found[-1])
    return found


def _reached(edges: NDArray[np.bool_], start: int) -> NDArray[np.bool_]:
    reached = np.zeros(len(edges), dtype=bool)
    reached[start] = True
    frontier = reached
    while frontier.any():
        frontier = edges[frontier].any(axis=0) & ~reached
        reached = reached | frontier
    return reached


def _some(names: list[str]) -> str:
    return ", ".join(map(str, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

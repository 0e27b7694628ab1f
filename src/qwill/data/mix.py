"""How often each document goes into the corpus, so that labels have the shares that a mixture asks for.

A mixture gives target shares for the values of one label or several (language, register, source, quality, domain …),
each label's shares for itself. Documents with the same values of all these labels are a cell; the cells' shares are
those nearest to the natural ones (least Kullback-Leibler divergence) that have the wanted totals: iterative
proportional fitting (Deming and Stephan 1940, Annals of Mathematical Statistics 11). A cell is filled in order of its
documents' keys (hashes), whole passes first, so a smaller budget's corpus is contained in a larger one's.

What can't be met is reported and never made up for by something else: a value without documents leaves its share of
the budget empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import ConfigError, DataError

Floats = NDArray[np.float64]

ROUNDS = 1000  # of proportional fitting; it stops when no share moves by more than 1e-12


@dataclass(frozen=True)
class MixSettings:
    """weights: label → value → share; a label's shares are divided by their sum. Documents with a value that its label
    does not name are left out. caps: label → value → largest share of the whole. budget: size of the whole, in the unit
    of the sizes (bytes or tokens); where it is left out, what uses every document once, or as near to that as
    max_repeats allows. max_repeats: how often a document may stand in the corpus (Muennighoff et al. 2023, arXiv
    2305.16264: up to four times is nearly as good as new text)."""

    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    caps: dict[str, dict[str, float]] = field(default_factory=dict)
    budget: int | None = None
    max_repeats: int = 4

    def __post_init__(self) -> None:
        for label, shares in self.weights.items():
            if not shares or any(share < 0 for share in shares.values()) or not sum(shares.values()):
                raise ConfigError(f"weights.{label} is {shares}; expected shares of 0 and more, one of them above 0.")
        for label, caps in self.caps.items():
            for value, cap in caps.items():
                if not 0 <= cap <= 1:
                    raise ConfigError(f"caps.{label}.{value} is {cap}; expected a share from 0 to 1.")
        if self.budget is not None and self.budget < 1:
            raise ConfigError(f"budget is {self.budget}; expected 1 or more, or nothing.")
        if self.max_repeats < 1:
            raise ConfigError(f"max_repeats is {self.max_repeats}; expected 1 or more.")


@dataclass(frozen=True)
class Mix:
    """`copies` [n]: how often each document goes in, 0 for not at all. `report`: budget, total, and for every cell and
    every named value what was wanted, what is there (`available`, once) and given, and why less (`limited_by`)."""

    copies: NDArray[np.int32]
    report: dict[str, Any]


def mix(
    sizes: NDArray[np.int64], labels: Mapping[str, Sequence[str]], keys: NDArray[np.uint64], settings: MixSettings
) -> Mix:
    """Copies of `n` documents from their sizes [n], the labels that the settings name (a value each), and keys [n].

    The documents' order does not matter, as long as keys differ. Raises DataError for a label that is not there.
    """
    used = list(dict.fromkeys((*settings.weights, *settings.caps)))
    for label in used:
        if label not in labels:
            known = ", ".join(sorted(labels)) or "none"
            raise DataError(f"the mixture names the label {label!r}, and documents have {known}.")
    codes = {label: np.unique(np.asarray(labels[label], dtype=str), return_inverse=True) for label in used}
    named = np.ones(len(sizes), dtype=bool)
    for label, weights in settings.weights.items():
        values, code = codes[label]
        named &= np.isin(values, list(weights))[code]
    table = np.stack([codes[label][1] for label in used], 1) if used else np.zeros((len(sizes), 1), np.int64)
    cells, cell = np.unique(table[named], axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    available = np.bincount(cell, weights=sizes[named], minlength=len(cells)).astype(np.float64)
    members = [[str(codes[label][0][row[i]]) for i, label in enumerate(used)] for row in cells]
    groups = {label: np.array([row[i] for row in members], dtype=str) for i, label in enumerate(used)}
    shares = _shares(available, groups, settings)
    room = available * settings.max_repeats
    budget = settings.budget
    if budget is None:
        asked = shares > 0
        once, most = available[asked] / shares[asked], room[asked] / shares[asked]
        budget = int(np.floor(min(once.max(), most.min()) + 1e-6)) if asked.any() else 0
    target = np.minimum(np.floor(shares * budget + 1e-6), room).astype(np.int64)

    copies = np.zeros(len(sizes), dtype=np.int32)
    inside = np.flatnonzero(named)
    order = np.lexsort((keys[inside], cell))
    bounds = np.searchsorted(cell[order], np.arange(len(cells) + 1))
    for number, (first, last) in enumerate(pairwise(bounds.tolist())):
        chosen = inside[order[first:last]]
        copies[chosen] = _fill(sizes[chosen], int(target[number]))
    given = np.bincount(cell, weights=sizes[named] * copies[named], minlength=len(cells)).astype(np.float64)
    largest = np.zeros(len(cells))
    np.maximum.at(largest, cell, sizes[named])
    report = _report(budget, settings, used, groups, shares, available, given, largest)
    report["left_out"] = {"documents": int((~named).sum()), "size": int(sizes[~named].sum())}
    report["documents"] = int((copies > 0).sum())
    return Mix(copies, report)


def _fill(sizes: NDArray[np.int64], target: int) -> NDArray[np.int32]:
    """Whole passes over the documents, then the longest beginning that still fits."""
    total = int(sizes.sum())
    passes, rest = divmod(target, total) if total else (0, 0)
    more = np.cumsum(sizes) <= rest
    return (passes + more).astype(np.int32)


def _shares(available: Floats, groups: Mapping[str, NDArray[np.str_]], settings: MixSettings) -> Floats:
    """Share of each cell. No value of a label gets more than its target or its cap; less where cells are missing."""
    if not available.sum():
        return np.zeros(len(available))
    shares = available / available.sum()
    targets = {
        label: {value: weight / sum(weights.values()) for value, weight in weights.items()}
        for label, weights in settings.weights.items()
    }
    for _ in range(ROUNDS):
        before = shares
        for label, wanted in targets.items():
            shares = shares * _factor(shares, groups[label], wanted, at_most=False)
        for label, caps in settings.caps.items():
            shares = _capped(shares, groups[label], caps)
        if np.abs(shares - before).max() < 1e-12:
            break
    # Where targets contradict each other, or cells are missing, the fitting settles for one label at another's cost.
    limits = [(label, wanted) for label, wanted in (*targets.items(), *settings.caps.items())]
    return shares * np.min([np.ones(len(shares)), *(_factor(shares, groups[k], v, True) for k, v in limits)], axis=0)


def _factor(shares: Floats, values: NDArray[np.str_], wanted: Mapping[str, float], at_most: bool) -> Floats:
    """What to multiply each cell by so that each named value has its share (`at_most`: no more than that)."""
    factor = np.ones(len(shares))
    for value, share in wanted.items():
        own = values == value
        total = float(shares[own].sum())
        if total > 0:
            factor[own] = min(1.0, share / total) if at_most else share / total
    return factor


def _capped(shares: Floats, values: NDArray[np.str_], caps: Mapping[str, float]) -> Floats:
    """Values above their cap brought down to it, and what they lose given to all others in proportion, again and again
    while that lifts another above its own."""
    total = float(shares.sum())
    held = np.zeros(len(shares), dtype=bool)
    out = shares
    for _ in range(len(caps) + 1):
        over = [v for v, cap in caps.items() if float(out[values == v].sum()) > cap * total * (1 + 1e-12)]
        if not over:
            break
        held |= np.isin(values, over)
        kept = sum(caps[v] for v in set(values[held].tolist())) * total
        free = float(shares[~held].sum())
        out = shares.copy()
        for value in set(values[held].tolist()):
            own = values == value
            out[own] *= caps[value] * total / float(shares[own].sum())
        if free > 0:
            out[~held] *= (total - kept) / free
    return out


def _report(
    budget: int, settings: MixSettings, used: Sequence[str], groups: Mapping[str, NDArray[np.str_]],
    shares: Floats, available: Floats, given: Floats, largest: Floats,
) -> dict[str, Any]:  # fmt: skip
    cells = []
    for i in range(len(shares)):
        wanted = shares[i] * budget
        row: dict[str, Any] = {label: str(groups[label][i]) for label in used}
        row |= {"wanted": round(float(wanted)), "available": int(available[i]), "given": int(given[i])}
        cells.append(row | _limit(float(wanted), float(available[i]), float(given[i]), float(largest[i]), settings))
    values = []
    for label, weights in settings.weights.items():
        for value, weight in sorted(weights.items()):
            own = groups[label] == value
            wanted, got = weight / sum(weights.values()) * budget, float(given[own].sum())
            row = {"label": label, "value": value, "share": got / budget if budget else 0.0}
            row |= {"wanted": round(wanted), "available": int(available[own].sum()), "given": int(got)}
            short = _limit(wanted, float(available[own].sum()), got, float(largest[own].sum()), settings)
            if short.get("limited_by") == "other labels' targets and caps" and not own.any():
                short["limited_by"] = "no documents"
            values.append(row | short)
    total = int(given.sum())
    return {
        "budget": budget,
        "total": total,
        "shortfall": budget - total,
        "repeats": float(total / available[given > 0].sum()) if total else 0.0,
        "values": values,
        "cells": cells,
    }


def _limit(wanted: float, available: float, given: float, rounding: float, settings: MixSettings) -> dict[str, Any]:
    """`shortfall` and what caused it; nothing for less than the largest document, which is rounding."""
    if wanted - given <= rounding + 1:
        return {}
    if not available:
        why = "no documents"
    elif wanted > available * settings.max_repeats:
        why = "max_repeats"
    else:
        why = "other labels' targets and caps"
    return {"shortfall": round(wanted - given), "limited_by": why}

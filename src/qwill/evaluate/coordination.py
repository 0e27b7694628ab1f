"""Voters who act together (stub)."""

from __future__ import annotations

from collections.abc import Sequence

from qwill.evaluate.votes import Vote


def ring_voters(votes: Sequence[Vote]) -> frozenset[str]:
    return frozenset()

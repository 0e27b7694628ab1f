"""How often the 95 % intervals of ratings hold the truth: 10,000 simulated arenas of each kind.

    .venv/bin/python benchmarks/arena_coverage.py [--replications 10000]

Models with known strengths; every pair meets 50 times; ties are generated, and the expected points of a vote are
Bradley–Terry's; ratings and truths are centred. Each arena goes through `fit_ratings` with its defaults (plain), the
votes weighted by LMArena's pair weights with unequal numbers a pair, or with a prior of 0.1; or through
`bootstrap_ratings`. The share of (arena, model) intervals that hold the truth is to lie in 94 to 96 %.
"""

from __future__ import annotations

import argparse
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from compare import verdict, write_section

from qwill.evaluate.arena import CENTRE, POINTS, Ratings, fit_ratings, pair_weights
from qwill.evaluate.arena_bootstrap import bootstrap_ratings

NOMINAL, LOW, HIGH = 0.95, 0.94, 0.96
VOTES_A_PAIR = 50
BLOCK = 250


@dataclass(frozen=True)
class Arena:
    """`spread`: strengths lie evenly between ±spread in log-odds; `ties`: share of ties between equal models."""

    models: int
    spread: float
    ties: float
    how: str = "plain"


ARENAS = [
    *(Arena(models, spread, ties) for models in (3, 5, 10) for spread in (0.0, 0.8, 1.5) for ties in (0.0, 0.3)),
    Arena(5, 0.8, 0.3, "weighted"),
    Arena(10, 0.8, 0.3, "weighted"),
    Arena(5, 0.8, 0.3, "prior 0.1"),
    Arena(5, 1.5, 0.3, "prior 0.1"),
    Arena(5, 0.8, 0.3, "bootstrap"),
]


def draw(arena: Arena, rng: np.random.Generator) -> tuple[list[str], list[str], np.ndarray]:
    """Votes of one arena; a tie takes as much from both sides, so the expected points stay Bradley–Terry's."""
    strength = np.linspace(-arena.spread, arena.spread, arena.models)
    a, b = np.triu_indices(arena.models, 1)
    # Weights only matter where pairs meet unequally often; the rarest still meet 50 times.
    times = rng.integers(1, 4, len(a)) if arena.how == "weighted" else 1
    a, b = np.repeat(a, VOTES_A_PAIR * times), np.repeat(b, VOTES_A_PAIR * times)
    chance = 1 / (1 + np.exp(strength[b] - strength[a]))
    tied = arena.ties * 2 * np.minimum(chance, 1 - chance)
    u = rng.random(len(a))
    outcome = np.where(u < chance - tied / 2, 1.0, np.where(u < chance + tied / 2, 0.5, 0.0))
    names = [f"m{i:02}" for i in range(arena.models)]
    return [names[i] for i in a], [names[i] for i in b], outcome


def rate(arena: Arena, votes: tuple[list[str], list[str], np.ndarray], seed: int) -> Ratings:
    if arena.how == "bootstrap":
        return bootstrap_ratings(*votes, resamples=1000, seed=seed)
    weights = pair_weights(votes[0], votes[1]) if arena.how == "weighted" else None
    return fit_ratings(*votes, weights=weights, prior=0.1 if arena.how == "prior 0.1" else 0.0)


def count(arena: Arena, first: int, arenas: int) -> tuple[np.ndarray, float]:
    """How many of `arenas` intervals of each model held the truth, and the mean half-width."""
    truth = CENTRE + POINTS * np.linspace(-arena.spread, arena.spread, arena.models)
    held, width = np.zeros(arena.models), 0.0
    for number in range(first, first + arenas):
        found = rate(arena, draw(arena, np.random.default_rng([arena.models, number])), number)
        held += (found.lower <= truth) & (truth <= found.upper)
        width += float(np.mean(found.upper - found.lower)) / 2
    return held, width / arenas


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--replications", type=int, default=10_000)
    replications = parser.parse_args().replications
    lines, ok, started = [], True, time.monotonic()
    with ProcessPoolExecutor(2) as pool:
        for arena in ARENAS:
            blocks = list(pool.map(partial(count, arena, arenas=BLOCK), range(0, replications, BLOCK)))
            held = np.sum([block[0] for block in blocks], axis=0)
            shares, n = held / (BLOCK * len(blocks)), BLOCK * len(blocks)
            share = float(shares.mean())
            # Intervals of one arena depend on one another: the error is at most that of one interval an arena.
            error = math.sqrt(share * (1 - share) / n)
            ok &= LOW <= share <= HIGH
            lines.append(
                f"| {arena.models} | ±{POINTS * arena.spread:.0f} | {100 * arena.ties:.0f} % | {arena.how} | {n:,} | "
                f"{np.mean([block[1] for block in blocks]):.0f} | {100 * share:.2f} ± {100 * error:.2f} % | "
                f"{100 * shares.min():.2f} to {100 * shares.max():.2f} % |"
            )
            print(lines[-1], f"{time.monotonic() - started:.0f} s", flush=True)
    table = "\n".join(lines)
    body = f"""Simulated arenas in which every pair meets {VOTES_A_PAIR} times (weighted: 50, 100 or 150 times,
each vote with LMArena's weight): strengths are evenly spaced, ties are generated, ratings centred; sandwich intervals
of 95 % with the defaults of `fit_ratings`. The share of intervals that hold the truth, over all arenas and models, and
that of the models with the lowest and the highest share.

| models | strengths | ties between equals | intervals | arenas | half-width | held | models |
|---|---|---|---|---|---|---|---|
{table}

{verdict("coverage between 94 and 96 %, averaged over the models, in each of these", ok)}"""
    write_section("Coverage of ratings' intervals (`arena_coverage.py`)", body)


if __name__ == "__main__":
    main()

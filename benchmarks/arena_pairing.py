"""Votes until every model's interval is narrow enough: pairs chosen by `next_pair` against pairs drawn uniformly.

    .venv/bin/python benchmarks/arena_pairing.py [--seeds 40]

Simulated arenas of 20 models; a vote's outcome is drawn by Bradley–Terry with ties. Both policies see the same models
and go through the same code (`add_vote`, `ratings_now`): the sandwich's 95 % intervals, the widest of which is to fall
to the width asked for (100 rating points, ±50; looked at every 20 votes). For newcomers the votes that the others had
before are not counted. Claim: at least 30 % fewer votes than uniform pairing.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from compare import verdict, write_section

from qwill.evaluate.arena import POINTS
from qwill.evaluate.arena_online import LiveRatings, add_model, add_vote, live_ratings, ratings_now, start_ratings
from qwill.evaluate.arena_pairing import next_pair

MODELS, WIDTH, LOOK, LIMIT, CLAIM, TIES = 20, 100.0, 20, 100_000, 0.30, 0.4


@dataclass(frozen=True)
class Scenario:
    """Strengths are normal with this standard deviation in log-odds; `newcomers` join others that have had `before`
    votes each; `claimed` where the claim is made."""

    name: str
    spread: float
    newcomers: int = MODELS
    before: int = 0
    claimed: bool = True


SCENARIOS = [
    Scenario("all new, strengths N(0, 1)", 1.0),
    Scenario("all new, strengths N(0, 1.5²)", 1.5),
    Scenario("4 newcomers among 16 that have 1,000 votes each, N(0, 0.75²)", 0.75, 4, 1000),
    Scenario("1 newcomer among 19 that have 1,000 votes each, N(0, 0.75²)", 0.75, 1, 1000),
    Scenario("all new, strengths N(0, 0.75²)", 0.75, claimed=False),
    Scenario("all new, strengths N(0, 0.5²)", 0.5, claimed=False),
]


def vote(strength: np.ndarray, i: int, j: int, rng: np.random.Generator) -> float:
    chance = 1 / (1 + math.exp(strength[j] - strength[i]))
    tied = TIES * min(chance, 1 - chance)
    u = rng.random()
    return 1.0 if u < chance - tied / 2 else 0.5 if u < chance + tied / 2 else 0.0


def begin(scenario: Scenario, strength: np.ndarray, names: list[str], rng: np.random.Generator) -> LiveRatings:
    if scenario.newcomers == MODELS:
        return start_ratings(names)
    old = rng.permutation(MODELS)[scenario.newcomers :]
    count = scenario.before * len(old) // 2
    first = rng.integers(0, len(old), count)
    second = (first + rng.integers(1, len(old), count)) % len(old)
    pairs = [(int(old[i]), int(old[j])) for i, j in zip(first, second, strict=True)]
    outcomes = [vote(strength, i, j, rng) for i, j in pairs]
    state = live_ratings([names[i] for i, _ in pairs], [names[j] for _, j in pairs], outcomes)
    for name in names:
        if name not in state.models:
            state = add_model(state, name)
    return state


def votes_needed(scenario: Scenario, active: bool, seed: int) -> int:
    models, pairs, voters = (np.random.default_rng([seed, stream]) for stream in range(3))
    strength = models.normal(0, scenario.spread, MODELS)
    names = [f"m{i:02}" for i in range(MODELS)]
    state = begin(scenario, strength, names, models)
    for count in range(1, LIMIT):
        a, b = next_pair(state, pairs, explore=0.1 if active else 1.0)
        state = add_vote(state, a, b, vote(strength, int(a[1:]), int(b[1:]), voters))
        if count % LOOK == 0:
            found = ratings_now(state)
            if (found.upper - found.lower).max() <= WIDTH:
                return count
    return LIMIT


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=40)
    seeds = parser.parse_args().seeds
    lines, met, started = [], True, time.monotonic()
    with ProcessPoolExecutor(2) as pool:
        for scenario in SCENARIOS:
            uniform, active = (
                list(pool.map(partial(votes_needed, scenario, policy), range(seeds))) for policy in (False, True)
            )
            saved = [1 - ours / theirs for ours, theirs in zip(active, uniform, strict=True)]
            share, error = statistics.mean(saved), statistics.stdev(saved) / math.sqrt(seeds)
            met &= share >= CLAIM or not scenario.claimed
            lines.append(
                f"| {scenario.name} | {statistics.median(uniform):,.0f} | {statistics.median(active):,.0f} | "
                f"{100 * share:.1f} ± {100 * error:.1f} % | {100 * min(saved):.0f} to {100 * max(saved):.0f} % |"
            )
            print(lines[-1], f"{time.monotonic() - started:.0f} s", flush=True)
    table = "\n".join(lines)
    body = f"""Votes until the widest 95 % interval of {MODELS} models is {WIDTH:.0f} rating points, over {seeds} seeds:
median votes with uniform and with active pairing (a tenth of its pairs still uniform), mean share of votes saved on the
same seed with its standard error, and the range over seeds. One unit of strength is {POINTS:.0f} points.

| arena | uniform | active | fewer votes | seeds |
|---|---|---|---|---|
{table}

{verdict("30 % fewer votes in the first four", met)} The closer the models, the less there is to choose: with equal
strengths uniform pairing is the best design, so at N(0, 0.5²) no rule could save 30 %."""
    write_section("Active pairing (`arena_pairing.py`)", body)


if __name__ == "__main__":
    main()

"""Random verdicts of a judge, in NumPy alone: for the oracle and for the benchmark."""

import numpy as np


def draw(n: int, kind: str, seed: int) -> tuple[list[float], list[int], list[int]]:
    generator = np.random.default_rng([seed, n])
    rival = generator.integers(50, 2000, n)
    own = (rival * generator.lognormal(generator.normal(0, 0.4), 0.6, n)).astype(int)
    if kind == "one length":
        own = rival
    if kind == "one difference":
        own = rival + 7
    gap = (rival - own).astype(float)
    x = np.tanh(gap / gap.std(ddof=1)) if gap.std() else gap
    chance = 1 / (1 + np.exp(-(generator.normal(-1, 1) * x + generator.normal(0, 1.5))))
    votes = (generator.random(n) < chance).astype(float)
    if kind == "share":
        votes = np.clip(chance + generator.normal(0, 0.2, n), 0, 1).round(4)
    elif kind == "ties":
        votes = np.where(generator.random(n) < 0.2, 0.5, votes)
    elif kind in ("all won", "all lost"):
        votes = np.full(n, float(kind == "all won"))
    elif kind == "separated":
        votes = (x > 0.1).astype(float)
    elif kind == "few wins":
        votes = np.where((n - 1 - np.arange(n)) % 5 == 2, 1.0, 0.0)
    return votes.tolist(), own.tolist(), rival.tolist()

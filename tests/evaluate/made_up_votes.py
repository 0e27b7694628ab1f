"""Made-up crowds of voters, honest or not."""

from __future__ import annotations

import math
import random

from qwill.evaluate.votes import Vote

STRENGTH = {"ash": 0.0, "birch": 0.4, "cedar": 0.8, "elm": -0.3, "fir": 1.1, "oak": -0.8}


def honest(
    seed: int,
    voters: int = 100,
    each: tuple[int, int] = (5, 40),
    taste: float = 0.4,
    ties: float = 0.2,
    homes: int = 0,
    fans: float = 0.0,
) -> list[Vote]:
    """Voters whose own strengths differ from the crowd's with standard deviation `taste`; `homes`: addresses that
    several share, 0 for one each; `fans`: how many give one model five times the odds."""
    rng = random.Random(seed)
    votes: list[Vote] = []
    for voter in range(voters):
        own = {name: value + rng.gauss(0, taste) for name, value in STRENGTH.items()}
        if fans and rng.random() < fans:
            own[rng.choice(sorted(STRENGTH))] += math.log(5)
        address = f"home-{rng.randrange(homes)}" if homes else f"own-{voter}"
        for _ in range(rng.randint(*each)):
            a, b = rng.sample(sorted(STRENGTH), 2)
            chance = 1 / (1 + math.exp(own[b] - own[a]))
            outcome = "tie" if rng.random() < ties else "a" if rng.random() < chance else "b"
            votes.append(vote(len(votes), f"honest-{voter}", a, b, outcome, address))
    rng.shuffle(votes)
    return numbered(votes)


def ring(
    seed: int, target: str, accounts: int, each: int, addresses: int = 1, loyalty: float = 1.0, against: bool = False
) -> list[Vote]:
    """Accounts that vote for the target (or against it) wherever it stands, and else at random."""
    rng = random.Random(f"ring/{seed}")
    votes: list[Vote] = []
    for account in range(accounts):
        done = 0
        while done < each:
            a, b = rng.sample(sorted(STRENGTH), 2)
            outcome = rng.choice(["a", "b"])
            if target in (a, b):
                done += 1
                if rng.random() < loyalty:
                    outcome = "a" if (a == target) != against else "b"
            votes.append(vote(len(votes), f"bot-{account}", a, b, outcome, f"bots-{account % addresses}"))
    return numbered(votes)


def mixed(seed: int, *crowds: list[Vote]) -> list[Vote]:
    votes = [vote for crowd in crowds for vote in crowd]
    random.Random(f"mixed/{seed}").shuffle(votes)
    return numbered(votes)


def vote(number: int, voter: str, a: str, b: str, outcome: str, address: str = "", **more: object) -> Vote:
    return Vote(
        id=f"{voter}/{number}", sequence=number + 1, time=number * 1000, battle=f"{voter}/{number}", voter=voter,
        outcome=outcome, model_a=a, model_b=b, address=address, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def numbered(votes: list[Vote]) -> list[Vote]:
    from dataclasses import replace

    return [replace(one, sequence=i, time=i * 1000) for i, one in enumerate(votes, start=1)]

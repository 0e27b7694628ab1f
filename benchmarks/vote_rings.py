"""Rings of accounts among honest voters: how many are found, and how often an honest arena is suspected.

    .venv/bin/python benchmarks/vote_rings.py [--rings 50] [--arenas 200] [--dry]

Simulated arenas of six models and 100 honest voters with 5 to 40 votes each, a fifth ties. Voters have tastes of their
own, prompts favour models, some prompts are shared. A ring's accounts vote for their model wherever it stands,
and on other pairs at random or honestly. The rule of before (Hoeffding's bound on each voter and a binomial tail over
the crowd) is read from git and sees the same votes.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

from compare import verdict, write_section

from qwill.evaluate import coordination
from qwill.evaluate.votes import Vote

BEFORE = "b9b1b24"
STRENGTH = {"ash": 0.0, "birch": 0.4, "cedar": 0.8, "elm": -0.3, "fir": 1.1, "oak": -0.8}
TIES, SHARED_PROMPTS, PROMPT_TASTE = 0.2, 20, 0.5
MINUTE = 60_000


@dataclass(frozen=True)
class Crowd:
    """Honest voters: `taste` is the standard deviation of their own strengths; `fans` of them have one model that they
    prefer by `fan` log-odds; `split`: the taste for one model is this wide; `homes`: addresses that several share;
    `repeats`: how likely a voter asks their last prompt again."""

    name: str = "tastes of 0.4"
    voters: int = 100
    taste: float = 0.4
    fans: float = 0.0
    fan: float = 1.6
    split: float | None = None
    homes: int = 0
    repeats: float = 0.0
    each: tuple[int, int] = (5, 40)


@dataclass(frozen=True)
class Ring:
    """`accounts` with `each` votes on the target, from so many `addresses`; `loyalty`: how often they vote as they
    should; `honestly`: votes on other pairs are honest ones; `minutes`: they act within, None: over all the time."""

    name: str
    accounts: int
    each: int
    addresses: int
    target: str = "ash"
    against: bool = False
    loyalty: float = 1.0
    honestly: bool = False
    minutes: int | None = None
    prompt: bool = False


CROWDS = [
    Crowd(),
    Crowd("no taste", taste=0.0),
    Crowd("tastes of 0.8", taste=0.8),
    Crowd("one voter in ten a fan of some model (odds times 5)", fans=0.1),
    Crowd("one model that divides people (taste of 0.8 for it)", split=0.7),
    Crowd("15 addresses for all", homes=15),
    Crowd("half of the votes on the prompt of before", repeats=0.5),
    Crowd("30 voters", voters=30),
    Crowd("400 voters", voters=400),
    Crowd("one model that divides people far more (taste of 1.3 for it)", split=1.2),
]
RINGS = [
    Ring("10 × 10, own addresses, for the fourth of six", 10, 10, 10),
    Ring("10 × 10, own addresses, for the last", 10, 10, 10, "oak"),
    Ring("10 × 10, own addresses, for the second", 10, 10, 10, "cedar"),
    Ring("10 × 10, own addresses, against the first", 10, 10, 10, "fir", True),
    Ring("10 × 10, own addresses, one vote in ten the other way", 10, 10, 10, loyalty=0.9),
    Ring("10 × 10, own addresses, honest on other pairs", 10, 10, 10, honestly=True),
    Ring("10 × 10, own addresses, within half an hour", 10, 10, 10, minutes=30),
    Ring("10 × 10, own addresses, one prompt", 10, 10, 10, prompt=True),
    Ring("10 × 10, one address", 10, 10, 1),
    Ring("10 × 10, two addresses", 10, 10, 2),
    Ring("20 × 5, own addresses", 20, 5, 20),
    Ring("30 × 3, own addresses", 30, 3, 30),
    Ring("5 × 20, own addresses", 5, 20, 5),
    Ring("5 × 10, own addresses", 5, 10, 5),
    Ring("5 × 10, one address", 5, 10, 1),
]


def honest_votes(crowd: Crowd, seed: int) -> list[Vote]:
    rng = random.Random(f"{crowd.name}/{seed}")
    divisive = rng.choice(sorted(STRENGTH))
    votes: list[Vote] = []
    for voter in range(crowd.voters):
        own = {name: value + rng.gauss(0, crowd.taste) for name, value in STRENGTH.items()}
        if crowd.split is not None:
            own[divisive] += rng.gauss(0, crowd.split)
        if rng.random() < crowd.fans:
            own[rng.choice(sorted(STRENGTH))] += crowd.fan
        address = f"home-{rng.randrange(crowd.homes)}" if crowd.homes else f"own-{voter}"
        prompt = ""
        for _ in range(rng.randint(*crowd.each)):
            if not (prompt and rng.random() < crowd.repeats):
                shared = rng.random() < 0.3
                prompt = f"shared-{rng.randrange(SHARED_PROMPTS)}" if shared else f"own-{voter}-{len(votes)}"
            votes.append(honest_vote(rng, own, prompt, f"honest-{voter}", address, rng.randrange(14 * 24 * 60)))
    return votes


def honest_vote(rng: random.Random, own: dict[str, float], prompt: str, voter: str, address: str, minute: int) -> Vote:
    a, b = rng.sample(sorted(STRENGTH), 2)
    better = [own[name] + random.Random(f"{prompt}/{name}").gauss(0, PROMPT_TASTE) for name in (a, b)]
    chance = 1 / (1 + math.exp(better[1] - better[0]))
    outcome = "tie" if rng.random() < TIES else "a" if rng.random() < chance else "b"
    return made(voter, a, b, outcome, address, prompt, minute)


def ring_votes(ring: Ring, seed: int) -> list[Vote]:
    rng = random.Random(f"{ring.name}/{seed}")
    votes: list[Vote] = []
    start = rng.randrange(13 * 24 * 60)
    for account in range(ring.accounts):
        done = 0
        while done < ring.each:
            minute = start + rng.randrange(ring.minutes) if ring.minutes else rng.randrange(14 * 24 * 60)
            who, address = f"bot-{account}", f"bots-{account % ring.addresses}"
            prompt = "ours" if ring.prompt else f"bot-{account}-{len(votes)}"
            vote = honest_vote(rng, STRENGTH, prompt, who, address, minute)
            side = ring.target == vote.model_a
            if ring.target in (vote.model_a, vote.model_b):
                done += 1
                if rng.random() < ring.loyalty:
                    vote = replace(vote, outcome="a" if side != ring.against else "b")
            elif not ring.honestly:
                vote = replace(vote, outcome=rng.choice("ab"))
            votes.append(vote)
    return votes


def made(voter: str, a: str, b: str, outcome: str, address: str, prompt: str, minute: int) -> Vote:
    return Vote("", 0, minute * MINUTE, "", voter, outcome, a, b, address=address, prompt=prompt)


def log_of(*parts: Sequence[Vote]) -> list[Vote]:
    """All votes in the order of their times, numbered."""
    votes = sorted((vote for part in parts for vote in part), key=lambda vote: (vote.time, vote.voter))
    return [replace(vote, id=f"v{i}", battle=f"b{i}", sequence=i) for i, vote in enumerate(votes, start=1)]


def rule(which: str) -> Callable[[Sequence[Vote]], frozenset[str]]:
    """What accuses voters: `now`, or the file of the rule of before."""
    if which == "now":
        return coordination.ring_voters
    if which not in sys.modules:
        spec = importlib.util.spec_from_file_location(which, which)
        assert spec is not None and spec.loader is not None
        module: ModuleType = importlib.util.module_from_spec(spec)
        sys.modules[which] = module  # its dataclasses look there for their types
        spec.loader.exec_module(module)
    found: Callable[[Sequence[Vote]], frozenset[str]] = sys.modules[which].ring_voters
    return found


def ring_found(ring: Ring, which: str, seed: int) -> tuple[bool, int]:
    """Whether half of the accounts are accused at least; how many honest voters are."""
    accused = rule(which)(log_of(honest_votes(CROWDS[0], seed), ring_votes(ring, seed)))
    bots = sum(name.startswith("bot") for name in accused)
    return 2 * bots >= ring.accounts, len(accused) - bots


def suspected(crowd: Crowd, which: str, seed: int) -> int:
    return len(rule(which)(log_of(honest_votes(crowd, seed))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rings", type=int, default=50)
    parser.add_argument("--arenas", type=int, default=200)
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    args = parser.parse_args()
    root = Path(__file__).parent.parent
    path = f"{BEFORE}:src/qwill/evaluate/coordination.py"
    text = subprocess.run(["git", "show", path], cwd=root, check=True, capture_output=True).stdout
    lines, honest, powers, alarms = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2) as pool:
        before = Path(folder) / "rule_before.py"
        before.write_bytes(text)
        for ring in RINGS:
            results = [list(pool.map(partial(ring_found, ring, w), range(args.rings))) for w in (str(before), "now")]
            found = [sum(hit for hit, _ in result) / args.rings for result in results]
            wrong = [sum(count for _, count in result) / args.rings for result in results]
            powers.append(found)
            shares = " | ".join(f"{100 * share:.0f} %" for share in found)
            lines.append(f"| {ring.name} | {shares} | {wrong[0]:.2f} | {wrong[1]:.2f} |")
            print(lines[-1], flush=True)
        for crowd in CROWDS:
            counts = [list(pool.map(partial(suspected, crowd, w), range(args.arenas))) for w in (str(before), "now")]
            alarms.append([sum(count > 0 for count in result) / args.arenas for result in counts])
            told = [f"{sum(n > 0 for n in result)}, {sum(result)} voters" for result in counts]
            honest.append(f"| {crowd.name} | {' | '.join(told)} |")
            print(honest[-1], flush=True)
    # The last crowd breaks what the test supposes (evidence.CAP), and is shown to say what happens then.
    most, level = max(alarm for _, alarm in alarms[:-1]), coordination.ALPHA
    met = powers[0][1] >= 0.8 and most <= level
    claim = (
        f"rings of 10 × 10 from addresses of their own found in 80 % of arenas at least ({100 * powers[0][1]:.0f} %), "
        f"and no more than {100 * level:g} % of honest arenas of any kind but the last suspected "
        f"({100 * most:.1f} % at most)"
    )
    body = f"""Six models, 100 honest voters with 5 to 40 votes. A ring of "10 × 10" has 10 accounts with 10 votes each
on its model (of about 30; 100 of some 850 votes on it); it counts as found when half of its accounts are accused.
{args.rings} arenas a line; *honest accused*: mean number of honest voters accused beside the ring.

| ring | found before | now | honest accused before | now |
|---|---|---|---|---|
{chr(10).join(lines)}

Honest arenas in which anybody is suspected, of {args.arenas}, and how many voters; the family-wise level is
{100 * level:g} % an arena. In the last line one model divides people three times as much as
the others, where the test supposes twice at most:

| crowd | before | now |
|---|---|---|
{chr(10).join(honest)}

{verdict(claim, met)} A ring for the best models is hard to see: whoever votes for what wins anyway looks honest."""
    if not args.dry:
        write_section("Rings of voters (`vote_rings.py`)", body)


if __name__ == "__main__":
    main()

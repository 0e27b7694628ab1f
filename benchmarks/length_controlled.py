"""Length-controlled win rates against alpaca_eval's minimal model, and whether their intervals cover.

    .venv/bin/python benchmarks/length_controlled.py --peer-python PYTHON_WITH_ALPACA_EVAL

(`pip install alpaca-eval==0.6.6 scikit-learn==1.9.1 statsmodels==0.15.0`, without a network: of the table that
alpaca_eval downloads the minimal formula reads nothing.) Random sets of 5 to 805 prompts: verdicts, ties, shares of a
win, one-sided and separated ones. Claims: within 1e-4 wherever its solver says that it converged, else a reason is
named; and nominal 95 % intervals of the plain likelihood cover 94 to 96 % of 10,000 replications for each of nine true
win rates.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from compare import verdict, write_section

import qwill.evaluate.length_controlled as ours
from qwill.base.files import write_text

ORACLES = Path(__file__).parents[1] / "tests" / "oracles"
SIZES = (5, 6, 10, 20, 60, 200, 805)
KINDS = ("binary", "ties", "share", "binary", "ties", "share", "separated", "all won", "all lost", "few wins")
PEER = """
import json, sys, tempfile
sys.path.insert(0, sys.argv[2])
import pandas as pd
import make_judges_oracle as oracle
with tempfile.TemporaryDirectory() as folder:
    oracle.stand_in(folder)
    sets, answers = json.load(open(sys.argv[1])), []
    for votes, own, rival in sets:
        answers.append(oracle.length_controlled(votes, own, rival))
    print(json.dumps({"answers": answers}))
"""


def draw_sets(count: int, seed: int) -> list[tuple[list[float], list[int], list[int]]]:
    sys.path.insert(0, str(ORACLES))
    from judge_cases import draw

    generator = np.random.default_rng(seed)
    return [draw(int(generator.choice(SIZES)), KINDS[i % len(KINDS)], seed + i) for i in range(count)]


def parity(peer_python: str, count: int) -> tuple[str, bool]:
    sets = draw_sets(count, 1000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sets.json"
        write_text(path, json.dumps(sets))
        command = [peer_python, "-W", "ignore", "-c", PEER, str(path), str(ORACLES)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peer = json.loads(said.splitlines()[-1])
    found = [ours.length_controlled(*each) for each in sets]
    gaps: list[float] = []
    reasons: Counter[str] = Counter()
    agree = turned = 0
    for one, other in zip(found, peer["answers"], strict=True):
        gap = abs(one.win_rate - other["win_rate"]) if "win_rate" in other and one.win_rate is not None else np.inf
        if one.reason is None:
            gaps.append(gap)
            continue
        reasons[_short(one.reason)] += 1
        agree += gap <= 1e-4
        turned += gap > 1e-4 and ("lost every prompt" in one.reason or "one fifth" in one.reason)
    named = "; ".join(f"{reason} {number}" for reason, number in reasons.most_common())
    met = max(gaps) <= 1e-4
    text = (
        f"{count} random sets of {SIZES[0]} to {SIZES[-1]} prompts. {len(gaps)} have no reason against them: "
        f"the largest difference of a win rate is **{max(gaps):.1e}**. A reason is named for "
        f"{count - len(gaps)} ({named}). {agree} of those agree all the same; on {turned} alpaca_eval's solver takes "
        f"losses alone for wins, in the whole or in a fold (it says 50 % where every prompt was lost); "
        f"{count - len(gaps) - agree - turned} are left. " + verdict("within 1e-4 or a reason named", met)
    )
    return text, met


def _short(reason: str) -> str:
    for words, name in (
        ("lost every prompt", "every prompt lost:"), ("won every prompt:", "every prompt won:"),
        ("perfect separation", "perfect separation:"), ("one fifth", "all wins in one fifth of the prompts:"),
        ("doesn't settle", "its solver doesn't settle:"), ("too few", "too few prompts:"),
    ):  # fmt: skip
        if words in reason:
            return name
    return "lengths:"


def coverage(replications: int, prompts: int) -> tuple[str, bool]:
    """Share of sandwich intervals that hold the true win rate at equal lengths, for each true rate."""
    generator, shares = np.random.default_rng(7), {}
    patched, ours._cross_validated = ours._cross_validated, lambda x, y: (0.5, 1.0, True)  # type: ignore[assignment]
    try:
        for rate in np.arange(1, 10) / 10:
            held = count = 0
            for _ in range(replications):
                rival = generator.integers(100, 1500, prompts)
                own = (rival * generator.lognormal(0.2, 0.5, prompts)).astype(int)
                gap = (rival - own).astype(float)
                odds = np.log(rate / (1 - rate)) - np.tanh(gap / gap.std(ddof=1))
                won = (generator.random(prompts) < 1 / (1 + np.exp(-odds))).astype(float)
                interval = ours.length_controlled(won, own, rival).interval
                if interval is not None:
                    held, count = held + (interval.lower <= rate <= interval.upper), count + 1
            shares[round(float(rate), 1)] = held / count
    finally:
        ours._cross_validated = patched
    mean = float(np.mean(list(shares.values())))
    each = ", ".join(f"{rate:g}: {100 * share:.1f}" for rate, share in shares.items())
    text = (
        f"Intervals of the plain likelihood, {replications} replications of {prompts} prompts for each true win rate "
        f"at equal lengths, in %: {each}; on average **{100 * mean:.2f} %**. "
        + verdict("94 to 96 %", 0.94 <= mean <= 0.96)
    )
    return text, 0.94 <= mean <= 0.96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--replications", type=int, default=10_000)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--dry", action="store_true", help="print only")
    given = parser.parse_args()
    equal, held = parity(given.peer_python, given.sets), coverage(given.replications, given.prompts)
    body = f"{equal[0]}\n\n{held[0]}"
    print(body)
    if not given.dry:
        write_section("Length-controlled win rate against alpaca_eval", body)


if __name__ == "__main__":
    main()

"""Ratings and their intervals against arena-rank 0.1.1: how far apart, and how fast, from start-up to the last number.

    .venv/bin/python benchmarks/arena_speed.py --peer-python PYTHON_WITH_ARENA_RANK

(a) Eight sets of votes with ties and uneven pairs, plain and style-controlled, weighted by pairs or not, arena-rank at
ftol 1e-16 and gtol 1e-13: ratings within 1e-6 and ends of intervals within 1e-4. arena-rank stops when its loss no
longer changes in its last digit, which can be before its gradient is small: the gradient at both answers is given, and
with ftol 0 the gradient alone stops it. (b) 20 models and 20,000 votes: seconds of a new process that reads the
file and writes ratings and intervals, the sides alternating; at least 50 times. On a machine that does other work too
the ratio of CPU times is the steadier one. (c) 2 million votes over 300 models, by ours, from a file: under 10 s and
2 GB. (d) arena-rank's own loss at both answers, and where its own code goes from other starts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from compare import Rounds, spread, verdict, write_section

from qwill.base.device import cpu_steal

PEER = Path(__file__).parent / "peers" / "arena_rank_ratings.py"
OURS = Path(__file__).parent / "arena_rating.py"
ATTEMPTS = Path(__file__).parent / "peers" / "arena_rank_attempts.py"
# What pip writes for the command `qwill`.
COMMAND = "import sys\nfrom qwill.cli.start import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
FEATURES = ("tokens", "headers", "bold")
RATINGS, ENDS, FASTER, SECONDS, BYTES = 1e-6, 1e-4, 50.0, 10.0, 2e9
RESTARTED = "restarted 20 times, from its last answer"
POINTS = 400 / math.log(10)
WINNERS = np.array(["model_b", "tie", "model_a"])


def write_votes(path: Path, seed: int, models: int, votes: int, style: bool) -> None:
    """Votes with ties, uneven pairs, and replies whose style leans on the outcome."""
    rng = np.random.default_rng(seed)
    strength, popular = rng.normal(0, 0.8, models), rng.dirichlet(np.full(models, 5.0))
    a, b = rng.choice(models, votes, p=popular), rng.choice(models, votes, p=popular)
    while (same := a == b).any():
        b[same] = rng.choice(models, int(same.sum()), p=popular)
    features = rng.uniform(-1, 1, (votes, len(FEATURES))).round(4)
    chance = 1 / (1 + np.exp(strength[b] - strength[a] - features @ [0.6, 0.2, -0.1]))
    points = np.where(rng.random(votes) < 0.25, 1, np.where(rng.random(votes) < chance, 2, 0))
    names, winners = [f"model-{i:03}" for i in range(models)], WINNERS[points].tolist()
    with open(path, "w", encoding="utf-8") as file:
        for i, j, winner, numbers in zip(a.tolist(), b.tolist(), winners, features.tolist(), strict=True):
            row = {"model_a": names[i], "model_b": names[j], "winner": winner}
            row |= dict(zip(FEATURES, numbers, strict=True)) if style else {}
            file.write(json.dumps(row) + "\n")


def run(python: str, script: str, *arguments: str) -> tuple[float, float]:
    """(seconds, seconds of CPU) of a process. As with an installed package, compiled modules are kept for next time."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([python, script, *arguments], check=True, env=kept, **quiet)  # type: ignore[call-overload]
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def gradient(votes: Path, answer: dict, style: bool) -> float:
    """Largest derivative of the mean log-likelihood at an answer: how far from its maximum it stopped."""
    from qwill.evaluate.arena import checked_votes
    from qwill.evaluate.arena_likelihood import sigmoid
    from qwill.evaluate.arena_table import read_votes

    table = read_votes(votes, features=FEATURES if style else ())
    columns = (table.model_a, table.model_b, table.outcome, table.features or None)
    _, found, ridge = checked_votes(*columns, None, 0.0)
    point = np.concatenate([(np.array(answer["rating"]) - 1000) / POINTS, answer["coefficients"]])
    residual = found.outcome - sigmoid(found.log_odds(point))
    return float(np.abs(found.score(residual) - ridge * point).max() / len(table.outcome))


def parity(peer: str, folder: Path) -> tuple[list[str], dict[str, float]]:
    """Rows of the table, and the largest distances with arena-rank's ftol at 1e-16 and at 0."""
    lines, worst = [], {"ratings": 0.0, "ends": 0.0, "ratings at ftol 0": 0.0}
    for seed, (models, votes) in enumerate([(20, 20_000), (8, 2_000)]):
        path = folder / f"parity{seed}.jsonl"
        write_votes(path, seed, models, votes, style=True)
        for options in ([], ["--reweighted"], ["--style"], ["--style", "--reweighted"]):
            answers = []
            for side in ([sys.executable, str(OURS)], [peer, str(PEER)]):
                for tight in ([], ["--ftol0"])[: 1 if str(OURS) in side else 2]:
                    out = folder / "answer.json"
                    extra = ["--tight", *tight] if str(PEER) in side else []
                    run(side[0], side[1], *side[2:], str(path), str(out), *options, *extra)
                    answers.append(json.loads(out.read_text()))
            ours, theirs, exact = answers
            assert ours["models"] == theirs["models"]
            gaps = {
                name: [float(np.abs(np.array(ours[name]) - other[name]).max()) for other in (theirs, exact)]
                for name in ("rating", "lower", "upper")
            }
            slopes = "" if "--reweighted" in options else " / ".join(
                f"{gradient(path, answer, '--style' in options):.0e}" for answer in (ours, theirs)
            )  # fmt: skip
            ends = max(gaps["lower"][0], gaps["upper"][0])
            worst["ratings"] = max(worst["ratings"], gaps["rating"][0])
            worst["ratings at ftol 0"] = max(worst["ratings at ftol 0"], gaps["rating"][1])
            worst["ends"] = max(worst["ends"], ends)
            kind = ("style-controlled" if "--style" in options else "plain") + (
                ", weighted" * ("--reweighted" in options)
            )
            lines.append(
                f"| {models} models, {votes:,} votes | {kind} | {gaps['rating'][0]:.1e} | {ends:.1e} | "
                f"{gaps['rating'][1]:.1e} | {slopes} |"
            )
            print(lines[-1], flush=True)
    return lines, worst


def attempts(peer: str, folder: Path) -> str:
    """A paragraph and a table: arena-rank's own loss, and its derivatives, at our answer and wherever its code ends."""
    path, ours, out = folder / "parity0.jsonl", folder / "ours.json", folder / "attempts.json"
    run(sys.executable, str(OURS), str(path), str(ours), "--style")
    run(peer, str(ATTEMPTS), str(path), str(ours), str(out))
    table = json.loads(out.read_text())
    lines = []
    for name, found in table.items():
        cells = []
        for part in ("above", "gradient", "apart"):
            values = [one[part] for one in found]
            least, most = f"{min(values):.1e}", f"{max(values):.1e}"
            cells.append(least if len(found) == 1 else f"{least} to {most}, last {values[-1]:.1e}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    first, mine = table["arena-rank"][0], table["ours"][0]
    digit = float(np.spacing(mine["loss"]))
    rows = "\n".join(lines)
    lowest = verdict(
        "arena-rank's own loss is lowest at our answer, to 1e-6 points",
        table["Newton on its loss"][0]["apart"] < RATINGS,
    )
    reached = verdict("arena-rank, restarted, ends there too", table[RESTARTED][-1]["apart"] < RATINGS)
    return f"""Which of the two is the optimum? arena-rank's loss and its derivatives by JAX, in its own process
(`peers/arena_rank_attempts.py`; style-controlled, 20 models, 20,000 votes): the largest derivative is
{mine["gradient"]:.1e} at our answer and {first["gradient"]:.1e} at arena-rank's, whose
loss is {first["above"]:.1e} higher.
The last digit of that loss, {mine["loss"]:.6f}, is worth {digit:.1e} in float64, so its L-BFGS sees no change any more
and stops. The same code, unedited, from other starts and with the same tolerances (loss above the lowest in extended
precision, the smallest and the largest of several fits, and the last of them):

| answer | loss above the lowest | largest derivative | ratings apart from ours |
|---|---|---|---|
{rows}

{lowest}
{reached}"""


def race(peer: str, folder: Path, rounds: int) -> tuple[Rounds, list[float], list[float]]:
    """Rounds of `qwill arena rate` and arena-rank; the seconds of `fit_ratings` in the same rounds; and how many times
    the CPU time of the command arena-rank took in each."""
    path, result, fitted, used = folder / "race.jsonl", Rounds(), [], []
    command = folder / "qwill"
    command.write_text(COMMAND)
    write_votes(path, 1, 20, 20_000, style=False)
    for kept in range(rounds + 1):
        before = cpu_steal()
        ours, own_cpu = run(sys.executable, str(command), "arena", "rate", str(path), "--json")
        theirs, their_cpu = run(peer, str(PEER), str(path), str(folder / "theirs.json"), "--tight")
        numpy, _ = run(sys.executable, str(OURS), str(path), str(folder / "ours.json"))
        after = cpu_steal()
        print(
            f"qwill {ours:.3f} s ({own_cpu:.3f} CPU), fit_ratings {numpy:.3f} s, arena-rank {theirs:.2f} s "
            f"({their_cpu:.2f} CPU)",
            flush=True,
        )
        if kept:  # the first round fills the disk cache
            result.ours.append(ours)
            result.peer.append(theirs)
            fitted.append(numpy)
            used.append(their_cpu / own_cpu)
            result.stolen = max(result.stolen, (after[0] - before[0]) / max(1, after[1] - before[1]))
    return result, fitted, used


def large(folder: Path) -> tuple[float, float]:
    """(seconds, peak bytes) of a process that rates 2 million votes over 300 models."""
    path = folder / "large.jsonl"
    write_votes(path, 2, 300, 2_000_000, style=False)
    started = time.perf_counter()
    command = [sys.executable, str(OURS), str(path), str(folder / "large.json")]
    pid = os.spawnv(os.P_NOWAIT, sys.executable, command)
    _, status, used = os.wait4(pid, 0)
    assert status == 0
    return time.perf_counter() - started, used.ru_maxrss * 1024.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rounds, fitted, used = race(options.peer_python, folder, options.rounds)
        seconds, peak = large(folder)
        print(f"{seconds:.1f} s, {peak / 1e9:.2f} GB", flush=True)
        lines, worst = parity(options.peer_python, folder)
        optimum = attempts(options.peer_python, folder)
    busy = os.getloadavg()[1]
    table = "\n".join(lines)
    ours, theirs = statistics.median(rounds.ours), statistics.median(rounds.peer)
    numpy = statistics.median(p / f for p, f in zip(rounds.peer, fitted, strict=True))
    body = f"""20 models, 20,000 votes with ties, from the start of a process to ratings and intervals:
`qwill arena rate` {ours:.3f} s, arena-rank 0.1.1 {theirs:.2f} s:
{spread(rounds.ratios)}, at most {100 * rounds.stolen:.1f} % of the CPU stolen,
load average {busy:.1f}{" (other work ran beside it)" if busy > 1.5 else ""}. CPU time, user and system: {spread(used)}.
{verdict("50×, by the command", statistics.median(rounds.ratios) >= FASTER)}
The command rates so few models without NumPy (`arena_small.py`) and before click is imported (`cli/start.py`); a script
that calls `read_votes` and `fit_ratings` takes {statistics.median(fitted):.3f} s, {numpy:.0f} times less
than arena-rank, most of it NumPy's import.

2 million votes over 300 models, from a file of JSON lines: {seconds:.1f} s, peak {peak / 1e9:.2f} GB.
{verdict("10 s and 2 GB", seconds < SECONDS and peak < BYTES)}

Largest distance from arena-rank at ftol 1e-16 and gtol 1e-13, in rating points; with ftol 0; and the largest derivative
of the mean log-likelihood at our answer and at arena-rank's (where no weights change it).

| votes | kind | ratings | ends of intervals | ratings, ftol 0 | gradient, ours / arena-rank |
|---|---|---|---|---|---|
{table}

{verdict("ratings within 1e-6 at ftol 1e-16", worst["ratings"] < RATINGS)}
{verdict("ratings within 1e-6 where arena-rank runs to its maximum (ftol 0)", worst["ratings at ftol 0"] < RATINGS)}
{verdict("intervals within 1e-4", worst["ends"] < ENDS)}

{optimum}"""
    write_section("Ratings against arena-rank (`arena_speed.py`)", body)


if __name__ == "__main__":
    main()

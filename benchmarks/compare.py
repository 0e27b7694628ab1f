"""What the benchmarks share: two workers that take turns in one process tree, stolen CPU, what a stage is run with, and
benchmarks/RESULTS.md."""

from __future__ import annotations

import json
import math
import platform
import re
import statistics
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qwill.base.device import cpu_steal, machine
from qwill.base.files import write_text
from qwill.base.progress import Display
from qwill.base.stage import StageContext

RESULTS = Path(__file__).parent / "RESULTS.md"
MOST_STOLEN = 0.10


class Worker:
    """A process that says one JSON line when it is ready (`first`) and one for each line that it is sent."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.first = self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith('{"'):  # trainers print dictionaries of Python's between
                return json.loads(line)
        raise SystemExit(f"{self.process.args}: ended before it answered; run it by hand to see why.")

    def ask(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self._read()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


@dataclass
class Rounds:
    """Seconds of each round that counts, in pairs; `stolen` is the largest share of CPU stolen in one of them."""

    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    stolen: float = 0.0
    dropped: int = 0

    @property
    def ratios(self) -> list[float]:
        return [p / o for o, p in zip(self.ours, self.peer, strict=True)]


def take_turns(workers: dict[str, Worker], rounds: int) -> tuple[dict[str, list[float]], float, int]:
    """A B C A B C …: (seconds of each worker in each round that counts, largest share stolen in one, rounds dropped).

    A round in which more than 10 % of the CPU was stolen is thrown away (at most `rounds` of them).
    """
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    most, kept, dropped = 0.0, 0, 0
    while kept < rounds and dropped < rounds:
        before = cpu_steal()
        now = {name: worker.ask("go")["seconds"] for name, worker in workers.items()}
        after = cpu_steal()
        stolen = (after[0] - before[0]) / max(1, after[1] - before[1])
        if stolen > MOST_STOLEN:
            dropped += 1
            continue
        kept, most = kept + 1, max(most, stolen)
        for name, value in now.items():
            seconds[name].append(value)
    return seconds, most, dropped


def alternate(ours: Worker, peer: Worker, rounds: int) -> Rounds:
    """`take_turns` of two."""
    seconds, stolen, dropped = take_turns({"ours": ours, "peer": peer}, rounds)
    return Rounds(seconds["ours"], seconds["peer"], stolen, dropped)


def spread(ratios: list[float]) -> str:
    """`1.50× (median of 8 alternating rounds, 1.40 to 1.60, standard error 0.020)`, the median in bold."""
    error = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan
    return (
        f"**{statistics.median(ratios):.2f}×** (median of {len(ratios)} alternating rounds, {min(ratios):.2f} to "
        f"{max(ratios):.2f}, standard error {error:.3f})"
    )


def stage_context(folder: Path, inputs: dict[str, Path], seed: int) -> StageContext:
    """What a stage is run with in a new `folder`: `out`, `work` and metrics.jsonl lie in it."""
    (folder / "work").mkdir(parents=True)
    (folder / "out").mkdir()
    return StageContext(folder / "out", folder / "work", inputs, seed, 2, Display(), None, folder / "metrics.jsonl")


def verdict(claim: str, met: bool) -> str:
    return f"Claim {claim}: {'met' if met else 'MISSED'}."


def describe(rounds: Rounds, what: str, work: float, unit: str, claim: float) -> str:
    """A paragraph with both speeds, the median ratio and its spread (smallest, largest, standard error)."""
    ours, peer = (work / statistics.median(s) for s in (rounds.ours, rounds.peer))
    return (
        f"{what}.\n\nOurs {ours:.0f} {unit}, peer {peer:.0f} {unit}: {spread(rounds.ratios)}. {rounds.dropped} rounds "
        f"dropped for stolen CPU, at most {100 * rounds.stolen:.1f} % stolen in the rest. "
        + verdict(f"{claim}×", statistics.median(rounds.ratios) >= claim)
    )


def write_section(title: str, body: str) -> None:
    """Replace (or append) the section `title` of RESULTS.md, with machine and versions under it."""
    text = RESULTS.read_text() if RESULTS.exists() else "# Benchmark results\n"
    here = machine()
    versions = ", ".join(f"{n} {version(n)}" for n in ("torch", "numpy", "tokenizers"))
    foot = (
        f"_{here['processor']}, {here['cores']} cores, {here['memory_gib']} GiB, {', '.join(map(str, here['flags']))}; "  # type: ignore[arg-type]
        f"Python {platform.python_version()}, {versions}._"
    )
    section = f"## {title}\n\n{body.strip()}\n\n{foot}\n"
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.S | re.M)
    if pattern.search(text):
        text = pattern.sub(lambda _: section + "\n", text)
    else:
        text = text.rstrip() + "\n\n" + section
    write_text(RESULTS, text.rstrip() + "\n")

"""Does sparsity pay here? A ladder of dense and sparse models of equal active size on a real corpus.

    .venv/bin/python benchmarks/scaling.py runs/evening --work runs/scaling    (after `make evening`; under 90 minutes)

Reads the corpus and tokenizer of that run and trains on one thread: first a comparison of rates at three sizes, then
the ladder. Killed, it goes on where it was when it is started again. Leaves WORK/scaling.json, a picture and a section
of RESULTS.md; `--report` makes them of the runs that are finished and trains nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from compare import write_section
from scaling_fit import analyse, cost
from scaling_plot import draw
from scaling_report import section
from scaling_runs import KINDS, Data, Rung, run_one, sample_documents

from qwill.base.files import read_json, write_json, write_text
from qwill.data.packing import tokenize_corpus
from qwill.text.tokenizer import Tokenizer

M = 2**20
RATE_FACTOR = 3.0  # of the ladder, on the rates of recipes/evening.yaml
# Sizes, seeds and rates in the order of training: where time runs out, the last are missed least. First rates are
# compared, later once more at a longer horizon, where lower ones do better. A run that comes again with longer
# horizons goes on from its trunk.
RUNS = (
    *((Rung(32, 3, (M // 2,)), 1, factor) for factor in (0.5, 1.0, 2.0, 4.0)),
    *((Rung(96, 4, (M // 4,)), 1, factor) for factor in (1.0, 2.0, 4.0)),
    *((Rung(192, 5, (M // 8,)), 1, factor) for factor in (2.0, 4.0)),
    (Rung(32, 3, (M // 2, M, 2 * M, 4 * M)), 1, RATE_FACTOR),
    (Rung(64, 3, (M // 2, M, 2 * M, 4 * M)), 1, RATE_FACTOR),
    (Rung(96, 4, (M // 2, M)), 1, RATE_FACTOR),
    (Rung(32, 3, (M // 2, M, 2 * M)), 2, RATE_FACTOR),
    (Rung(64, 3, (M // 2, M)), 2, RATE_FACTOR),
    (Rung(192, 5, (M // 8, M // 4)), 1, RATE_FACTOR),
    (Rung(32, 3, (M // 2, M, 2 * M)), 3, RATE_FACTOR),
    (Rung(32, 3, (2 * M,)), 1, 1.5),
    (Rung(64, 3, (M // 2, M)), 3, RATE_FACTOR),
    (Rung(128, 5, (M // 4, M // 2)), 1, RATE_FACTOR),
    (Rung(96, 4, (M // 2, M, 2 * M)), 1, RATE_FACTOR),
    (Rung(128, 5, (M // 4, M // 2, M)), 1, RATE_FACTOR),
)
HELDOUT_BYTES = 160_000
RESAMPLES = 1000


def plan() -> list[tuple[str, str, Rung, int, float]]:
    """(folder, kind, rung, seed, rate factor) of every run, kinds taking turns."""
    return [
        (f"{r.name}-{k}-{seed}" if f == RATE_FACTOR else f"rate-{r.name}-{k}-{f:g}", k, r, seed, f)
        for r, seed, f in RUNS
        for k in KINDS
    ]


def train_all(run: Path, work: Path) -> None:
    torch.set_num_threads(1)
    tokenizer = Tokenizer.load(run / "tokenizer")
    store = tokenize_corpus(run / "corpus" / "train.parquet", tokenizer, work / "tokens")
    data = Data(store, tokenizer, sample_documents(run / "corpus", HELDOUT_BYTES))
    for name, kind, rung, seed, factor in plan():
        started = time.monotonic()
        points = run_one(work / name, kind, rung, seed, factor, data)
        losses = [{k: round(v, 4) for k, v in p["bits_per_byte"].items()} for p in points]
        print(f"{name}: {json.dumps(losses)} in {time.monotonic() - started:.0f} s", flush=True)


def finished(work: Path) -> list[dict[str, Any]]:
    """Every point that both kinds have, whatever its rate."""
    found = {}
    for name, kind, rung, *_ in plan():
        twin = name.replace(f"-{kind}-", f"-{KINDS[1 - KINDS.index(kind)]}-")
        for horizon in rung.horizons:
            point, other = (work / n / "points" / f"{horizon}.json" for n in (name, twin))
            if point.exists() and other.exists():
                found[name, horizon] = read_json(point)
    return list(found.values())


def report(work: Path, picture: Path) -> None:
    every = finished(work)
    ladder = [p for p in every if p["rate_factor"] == RATE_FACTOR]
    compared = {(p["rung"], p["tokens"]) for p in every if p["rate_factor"] != RATE_FACTOR}
    told = ("kind", "rung", "tokens", "rate_factor", "bits_per_byte")
    result = analyse(ladder, RESAMPLES) | {
        "cost": cost(ladder),
        "rate_factor": RATE_FACTOR,
        "rates": [{k: p[k] for k in told} for p in every if p["seed"] == 1 and (p["rung"], p["tokens"]) in compared],
        "points": [{k: v for k, v in p.items() if not k.startswith("document_")} for p in ladder],
    }
    write_json(work / "scaling.json", result)
    write_text(picture, draw(result, ladder))
    body = section(result)
    print(body)
    write_section("Scaling: dense and sparse", body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run: its corpus and tokenizer are read")
    parser.add_argument("--work", type=Path, required=True, help="folder for the models, their points and the result")
    parser.add_argument("--report", action="store_true", help="train nothing, say what the finished runs say")
    parser.add_argument("--picture", type=Path, default=Path("docs/images/scaling.svg"))
    arguments = parser.parse_args()
    if not arguments.report:
        train_all(arguments.run, arguments.work)
    report(arguments.work, arguments.picture)


if __name__ == "__main__":
    main()

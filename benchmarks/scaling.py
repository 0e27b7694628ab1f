"""Does sparsity pay here? A ladder of dense and sparse models of equal active size on a real corpus.

    .venv/bin/python benchmarks/scaling.py runs/evening --work runs/scaling      (after `make evening`; 75 minutes)

Reads the corpus and tokenizer of that run and trains on one thread: first the rates at the smallest size, then the
ladder. Killed, it goes on where it was when it is started again. Leaves WORK/scaling.json, a picture and a section of
RESULTS.md; `--report` makes them of the runs that are finished and trains nothing.
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
# Factors on the rates of recipes/evening.yaml that are compared, at three sizes and short horizons; then the one taken.
RATES = (
    (Rung(32, 3, (M // 2,)), (0.5, 1.0, 2.0, 4.0)),
    (Rung(96, 4, (M // 4,)), (1.0, 2.0, 4.0)),
    (Rung(192, 5, (M // 8,)), (2.0, 4.0)),
)
RATE_FACTOR = 3.0
# Sizes with their seeds, in the order of training: where time runs out, the last are missed least. A size that comes
# again with the same seed and longer horizons goes on from its trunk.
LADDER = (
    (Rung(32, 3, (M // 2, M, 2 * M, 4 * M)), 1),
    (Rung(64, 3, (M // 2, M, 2 * M, 4 * M)), 1),
    (Rung(96, 4, (M // 2, M)), 1),
    (Rung(32, 3, (M // 2, M, 2 * M)), 2),
    (Rung(64, 3, (M // 2, M)), 2),
    (Rung(192, 5, (M // 8, M // 4)), 1),
    (Rung(128, 5, (M // 4, M // 2)), 1),
    (Rung(32, 3, (M // 2, M, 2 * M)), 3),
    (Rung(64, 3, (M // 2, M)), 3),
    (Rung(96, 4, (M // 2, M, 2 * M)), 1),
    (Rung(128, 5, (M // 4, M // 2, M)), 1),
)
HELDOUT_BYTES = 160_000
RESAMPLES = 1000


def plan() -> list[tuple[str, str, Rung, int, float]]:
    """(folder, kind, rung, seed, rate factor) of every run, kinds taking turns."""
    rates = [(f"rate-{r.name}-{k}-{f:g}", k, r, 1, f) for r, factors in RATES for f in factors for k in KINDS]
    return rates + [(f"{r.name}-{k}-{seed}", k, r, seed, RATE_FACTOR) for r, seed in LADDER for k in KINDS]


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


def finished(work: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Points of the ladder that both kinds have, and those of the comparison of rates."""
    found = {}
    for name, kind, rung, *_ in plan():
        twin = name.replace(f"-{kind}-", f"-{KINDS[1 - KINDS.index(kind)]}-")
        for horizon in rung.horizons:
            point, other = (work / n / "points" / f"{horizon}.json" for n in (name, twin))
            if point.exists() and other.exists():
                found[name, horizon] = read_json(point)
    return tuple(  # type: ignore[return-value]
        [point for (name, _), point in found.items() if name.startswith("rate-") == rate] for rate in (False, True)
    )


def report(work: Path, picture: Path) -> None:
    points, rates = finished(work)
    result = analyse(points, RESAMPLES) | {"cost": cost(points)}
    result["rates"] = [{k: p[k] for k in ("kind", "rung", "tokens", "rate_factor", "bits_per_byte")} for p in rates]
    result["points"] = [{k: v for k, v in p.items() if not k.startswith("document_")} for p in points]
    write_json(work / "scaling.json", result)
    write_text(picture, draw(result, points))
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

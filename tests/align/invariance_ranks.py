"""What two processes do for `test_invariances.py`: every algorithm on both, and alone on one of them.

    python -m tests.align.invariance_ranks FOLDER

FOLDER/results.json gets, for each algorithm, how far the gradients of steps, a training, and what one process makes of
its last checkpoint but one are from one process's; `twice` is the distance where both ranks compute every unit, and
`own` where each is content with the reference point of its own units (KTO). `meshes` are fine-tuning's others.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.align.invariances import SFT, STEPS, WHOLE, Case, Preferences, Result, cases, label
from tests.train import parallel_ranks

from qwill.align import offline
from qwill.train.loop import History
from qwill.train.ranks import join
from qwill.train.replicas import ALONE, Replicas
from qwill.train.sharded_checkpoint import found

WINDOWS = ([*range(8)], [6, 1, 3], [5])  # in the last one rank has nothing to do


def differences(a: tuple[dict[str, torch.Tensor], History], b: tuple[dict[str, torch.Tensor], History]) -> float:
    """The largest of weights and logged numbers."""
    assert a[0].keys() == b[0].keys() and len(a[1].curve) == len(b[1].curve) == STEPS
    largest = [float((x - b[0][name]).abs().max()) for name, x in a[0].items()]
    for p, q in zip(a[1].curve, b[1].curve, strict=True):
        assert p.keys() == q.keys()
        largest += [abs(p[k] - q[k]) / (1 + abs(p[k])) for k in p]
    return max(largest)


def gradients(case: Case, replicas: Replicas) -> float:
    return max(case.gradient(units, 60, replicas).distance(case.gradient(units, WHOLE)) for units in WINDOWS)


def compare(case: Case, number: int, replicas: Replicas, folder: Path) -> dict[str, float]:
    gradient = gradients(case, replicas)
    place = folder / "many" / label(case)
    made = case.train(place, replicas)
    replicas.gather("done")
    if replicas.rank != number % replicas.count:
        return {}  # the other one computes it alone
    training = differences(made, case.train(folder / str(number)))
    # As if both had been killed before the last step: one process goes on from their checkpoint.
    newest, kept = found(place / "work")
    shutil.rmtree(newest) if newest.is_dir() else newest.unlink()
    assert f"{STEPS - 1:08d}" in kept.name
    return {"gradient": gradient, "training": training, "resumed": differences(made, case.train(place, seed=9))}


def faults(replicas: Replicas) -> dict[str, float]:
    """Seeded ones."""
    case = Preferences("kto")
    expected = case.gradient(WINDOWS[0], WHOLE)

    def distance() -> float:
        found = case.gradient(WINDOWS[0], 60, replicas)
        return Result(found.gradients, {}).distance(Result(expected.gradients, {}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replicas, "deal", lambda self, units, size: list(units))
        twice = distance()
    with pytest.MonkeyPatch.context() as patch:
        mine = replicas.places(8)
        patch.setattr(
            offline.Offline, "reference_point",
            lambda self, units: original(Preferences("kto").work(WHOLE), [units[i] for i in mine]),
        )  # fmt: skip
        own = distance()
    return {"twice": twice, "own": own}


original: Any = offline.Offline.reference_point


def rank_main(rank: int, folder: Path) -> None:
    os.environ["RANK"] = str(rank)
    torch.set_num_threads(1)
    ranks = join()
    replicas = Replicas(rank, ranks.world)

    def work() -> None:
        compared: dict[str, dict[str, float]] = {}
        for number, (dense, sparse) in enumerate(zip(cases(), cases("moe", 0.3), strict=True)):
            case = sparse if number % 3 == 0 else dense
            compared[label(case)] = compare(case, number, replicas, folder)
        meshes = {axis: SFT(axis, "moe", 0.3, {"axis": axis}) for axis in ("fsdp", "ep", "cp", "tp")}
        far = {axis: gradients(case, replicas) for axis, case in meshes.items()}
        seeded = faults(replicas)
        every = replicas.gather(compared)
        if rank == 0:
            out = {name: every[i % ranks.world][name] for i, name in enumerate(compared)}
            (folder / "results.json").write_text(json.dumps(out | {"faults": seeded, "meshes": far}))

    ranks.together(work)
    os._exit(0)


if __name__ == "__main__":
    assert ALONE.count == 1
    sys.exit(parallel_ranks.main(2, Path(sys.argv[1]), rank_main))

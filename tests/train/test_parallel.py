"""Training on several ranks follows one process; dead ranks are named; checkpoints move from mesh to mesh.

One launch of 2 and one of 4 processes (gloo) train all meshes, so that starting is paid for once (parallel_ranks.py).
What is compared is the whole of a training: 20 steps of micro-batches, tied embeddings, weight decay, clipping,
sequences of uneven lengths that leave ranks uneven shares, and steps of uneven size.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.parallel_ranks import BALANCE, SCHEDULE, fresh, optimizer_config, step_data

from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.train.loop import train
from qwill.train.settings import StepConfig
from qwill.train.sharded_checkpoint import found, open_checkpoint
from qwill.train.step import StepData

HERE = Path(__file__).parent
EXACT, SINGLE = 1e-8, 1e-4  # float64, float32
WHOLE = ("o_proj.bias", "gate.weight", "mtp.fc.weight")  # what tensor parallelism does not cut, beside norms

TWO = [
    {"mesh": {"dp": 2}, "model": "qwen3"},
    {"mesh": {"fsdp": 2}, "model": "qwen3", "recompute": "layer"},
    {"mesh": {"tp": 2}, "model": "qwen3"},
    {"mesh": {"cp": 2}, "model": "qwen3"},
    {"mesh": {"ep": 2}, "model": "qwen3_moe", "over": "exact"},
    {"mesh": {"tp": 2}, "model": "qwen3_moe", "optimizer": "adamw"},
    {"mesh": {"fsdp": 2}, "model": "untied", "optimizer": "adamw"},
    {"mesh": {"tp": 2}, "model": "untied"},
    {"mesh": {"tp": 2}, "model": "llama"},
    {"mesh": {"cp": 2}, "model": "qwen2"},
    {"mesh": {"tp": 2}, "model": "qwen2_moe"},
    {"mesh": {"dp": 2}, "model": "qwen3_next"},
    {"mesh": {"tp": 2}, "model": "qwen3_next"},
    {"mesh": {"ep": 2}, "model": "qwen3_next"},
    {"mesh": {"cp": 2}, "model": "qwen3_next"},
    {"mesh": {"fsdp": 2}, "model": "qwen3_5_moe_text"},
    {"mesh": {"tp": 2}, "model": "qwen3_5_text"},
    {"mesh": {"fsdp": 2}, "model": "qwen3_moe", "dtype": "float32"},
    {"mesh": {"tp": 2}, "model": "qwen3_moe", "dtype": "float32"},
    {"mesh": {"ep": 2}, "model": "qwen3_moe", "dtype": "float32"},
    {"mesh": {"cp": 2}, "model": "qwen3_moe", "dtype": "float32"},
]
FOUR = [
    {"mesh": mesh, "model": "qwen3_moe"}
    for mesh in (
        {"fsdp": 4}, {"fsdp": 2, "tp": 2}, {"fsdp": 2, "ep": 2}, {"fsdp": 2, "cp": 2}, {"dp": 2, "cp": 2},
        {"tp": 2, "ep": 2}, {"dp": 2, "ep": 2}, {"dp": 2, "fsdp": 2},
    )
]  # fmt: skip


def label(job: dict[str, Any]) -> str:
    mesh = "×".join(f"{a}{n}" for a, n in job["mesh"].items())
    return "-".join([mesh, *(str(v) for k, v in job.items() if k != "mesh")])


def launch(processes: int, jobs: list[dict[str, Any]], folder: Path) -> subprocess.CompletedProcess[str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_WORLD_SIZE")}
    return subprocess.run(
        [sys.executable, str(HERE / "parallel_ranks.py"), str(processes), str(folder)],
        env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Label of each job → what rank 0 recorded."""
    out: dict[str, dict[str, Any]] = {}
    for processes, jobs in ((2, TWO), (4, FOUR)):
        folder = tmp_path_factory.mktemp(f"ranks{processes}")
        done = launch(processes, [job | {"do": "compare", "steps": 20} for job in jobs], folder)
        assert done.returncode == 0, done.stderr[-4000:]
        out |= dict(zip(map(label, jobs), json.loads((folder / "results.json").read_text()), strict=True))
    return out


@pytest.mark.parametrize("job", TWO + FOUR, ids=label)
def test_a_mesh_trains_as_one_process_does(job: dict[str, Any], trained: dict[str, dict[str, Any]]) -> None:
    result = trained[label(job)]
    bound = SINGLE if job.get("dtype") == "float32" else EXACT
    assert len(result["found"]) == len(result["expected"]) == 20
    for here, alone in zip(result["found"], result["expected"], strict=True):
        assert here == pytest.approx(alone, rel=bound, abs=bound)
    assert result["weights"] < (1e-3 if job.get("dtype") == "float32" else EXACT)
    assert result["expected"][0][0] != result["expected"][-1][0]
    if job["model"] == "qwen3_moe":
        assert result["expected"][0][1] > 1.5  # the balancing loss takes part


@pytest.mark.parametrize("job", TWO + FOUR, ids=label)
def test_a_rank_holds_its_share(job: dict[str, Any], trained: dict[str, dict[str, Any]]) -> None:
    held, mesh = trained[label(job)]["held"], job["mesh"]
    fsdp, cp, tp, ep = (mesh.get(axis, 1) for axis in ("fsdp", "cp", "tp", "ep"))
    for name, share in held.items():
        if name.endswith("shared_expert_gate.weight"):
            continue  # one row, which FSDP2 cannot cut
        cut = 1 if "norm" in name or name.endswith(WHOLE) else tp
        # Router and shared expert are sharded with the experts' module, over fsdp and cp.
        beside = name.endswith("mlp.gate.weight") or "shared_expert" in name
        expected = 1 / (fsdp * cp * cut * (1 if beside else ep))
        # FSDP2 rounds up to whole rows (or experts; 6 of them over 4 ranks are 2, 2, 2 and 0).
        assert expected - 1e-9 <= share <= 1.4 * expected, name


def curve(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(row.pop("tokens_per_second") > 0 for row in rows)  # which may differ
    return rows


TRAIN = {"do": "train", "model": "qwen3_moe", "steps": 6}


def test_a_killed_rank_ends_the_others_and_the_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    mesh = {"mesh": {"fsdp": 2}}
    assert launch(2, [TRAIN | mesh | {"at": "whole"}], tmp_path).returncode == 0
    began = time.monotonic()
    killed = launch(2, [TRAIN | mesh | {"at": "cut", "die": [1, 4]}], tmp_path)
    assert time.monotonic() - began < 60
    assert json.loads((tmp_path / "ended.json").read_text()) == [2, -9]
    assert "qwill: rank 1 (process " in killed.stderr and "has died; rank 0 ends too" in killed.stderr
    assert "Traceback" not in killed.stderr
    assert len(curve(tmp_path / "cut")) == 4
    # Another mesh, and one process, read the same checkpoint; and ranks read one of one process.
    for name in ("tp", "alone"):
        shutil.copytree(tmp_path / "cut", tmp_path / name)
    train_alone(tmp_path / "alone")
    with pytest.raises(KeyboardInterrupt):
        train_alone(tmp_path / "begun alone", until=3)
    places = (("fsdp", "cut"), ("tp", "tp"), ("ep", "begun alone"))
    resumed = launch(2, [TRAIN | {"mesh": {axis: 2}, "at": at} for axis, at in places], tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert all(open_checkpoint(found(tmp_path / at / "work")[0]).step == 6 for _, at in places)
    for name in ("tp", "alone", "begun alone"):
        for a, b in zip(curve(tmp_path / name), curve(tmp_path / "whole"), strict=True):
            assert a == pytest.approx(b, abs=EXACT), name


def train_alone(place: Path, until: int = 99) -> None:
    """The same training in one process, from whatever checkpoint is there; stops when it asks for step `until`."""
    (place / "work").mkdir(parents=True, exist_ok=True)
    context = StageContext(place, place / "work", {}, 0, 1, Display(quiet=True), None, place / "metrics.jsonl")
    model = fresh("qwen3_moe", torch.float64, seed=99 if any((place / "work").iterdir()) else 0)

    def data(step: int) -> StepData:
        if step == until:
            raise KeyboardInterrupt
        return step_data(step, 12, torch.float64)

    train(
        model, 6, data, optimizer_config(TRAIN), SCHEDULE, BALANCE, context, "test", checkpoint_seconds=0.0,
        how=StepConfig(2),
    )  # fmt: skip

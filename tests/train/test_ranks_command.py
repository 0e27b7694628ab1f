"""`qwill pretrain` on two ranks: the model of one process, made once; what goes wrong is said once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from tests.engine.tiny import byte_tokenizer

from qwill.base.artifact import need_manifest, seal
from qwill.base.files import read_json

RECIPE = """
name: ranks
seed: 3
threads: 2
folder: {folder}
base:
  inputs: {{corpus: {inputs}/corpus, tokenizer: {inputs}/tokenizer}}
  depth: 1
  experts: 2
  experts_per_token: 1
  steps: {steps}
  batch_rows: 4
  row_tokens: 32
  context: 64
  validations: 1
  validation_bytes: 100
  heldout_bytes: 1000
  baselines: []
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    rng = random.Random(0)
    words = ["the", "a", "sea", "ship", "sails", "under", "stars", "你好", "世界"]
    (folder / "corpus").mkdir()
    for part, count in (("train", 60), ("heldout", 6)):
        rows = [{"id": str(i), "text": " ".join(rng.choices(words, k=40)), "language": "en"} for i in range(count)]
        pq.write_table(pa.Table.from_pylist(rows), folder / "corpus" / f"{part}.parquet")
    byte_tokenizer().save(folder / "tokenizer")
    for name in ("corpus", "tokenizer"):
        seal(
            folder / name, kind=name, stage=name, stage_version=1, recipe="qw1-0", config={}, seed=0, inputs={},
            threads=2, dtype="float32", metrics={}, libraries={},
        )  # fmt: skip
    return folder


def recipe(place: Path, inputs: Path, steps: int = 6, extra: str = "") -> Path:
    place.mkdir(exist_ok=True)
    path = place / "recipe.yaml"
    path.write_text(RECIPE.format(folder=place / "run", inputs=inputs, steps=steps) + extra)
    return path


def start(processes: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """The command as `torchrun` would start it, without torchrun's own process."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    out = []
    for rank in range(processes):
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        if processes > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)}
            environment |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-m", "qwill.cli.main", *arguments]
        pipe = subprocess.PIPE
        out.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
    return out


def finish(started: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """Exit codes, and all that was printed."""
    printed = [p.communicate(timeout=300) for p in started]
    return [p.returncode for p in started], "".join(a + b for a, b in printed)


def curve(place: Path) -> list[dict[str, Any]]:
    lines = (place / "run/logs/base/metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_second"} for line in lines]


def test_two_ranks_make_the_model_of_one_process(tmp_path: Path, inputs: Path) -> None:
    alone, many = tmp_path / "alone", tmp_path / "many"
    codes, said = finish(start(1, "pretrain", str(recipe(alone, inputs))))
    assert codes == [0], said
    codes, said = finish(start(2, "pretrain", str(recipe(many, inputs, extra="  mesh: {fsdp: 2}\n")), "--json"))
    assert codes == [0, 0], said
    one, two = (need_manifest(place / "run/base") for place in (alone, many))
    assert two.recipe_id == one.recipe_id  # the mesh is no part of it: each would find the other's work done
    assert two.metrics["bits_per_byte"]["en"] == pytest.approx(one.metrics["bits_per_byte"]["en"], abs=2e-3)
    for a, b in zip(curve(alone), curve(many), strict=True):
        assert {k: b[k] for k in a} == pytest.approx(a, abs=1e-4, rel=1e-4)
    first, second = (load_file(place / "run/base/model.safetensors") for place in (alone, many))
    assert first.keys() == second.keys()
    assert all(first[name].shape == second[name].shape for name in first)
    assert not list((many / "run/.work").glob("base-*"))
    # Made already: nothing is trained again, in one process or two.
    codes, said = finish(start(2, "pretrain", str(many / "recipe.yaml")))
    assert codes == [0, 0] and "made already" in said


def test_a_rank_killed_while_the_command_runs_is_named_and_the_command_goes_on(tmp_path: Path, inputs: Path) -> None:
    path = recipe(tmp_path / "killed", inputs, steps=100_000)
    started = start(2, "pretrain", str(path))
    metrics = tmp_path / "killed/run/logs/base/metrics.jsonl"
    for _ in range(1200):
        if metrics.exists() and metrics.stat().st_size:
            break
        time.sleep(0.1)
    started[1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    codes, said = finish(started)
    assert codes == [2, -9], said
    assert time.monotonic() - began < 60
    assert f"rank 1 (process {started[1].pid} on " in said and "has died; rank 0 ends too" in said
    assert "Traceback" not in said
    assert not (tmp_path / "killed/run/base").exists()  # nothing half made


@pytest.mark.parametrize(
    ("verb", "extra", "said"),
    [
        ("quantize", "", "`qwill quantize` works in one process; start it without torchrun"),
        ("pretrain", "  mesh: {tp: 3}\n", "mesh: tp 3 needs 3 processes, and there are 2"),
        ("pretrain", "  mesh: {tp: 2}\n", "mesh: tp is 2, and num_key_value_heads is 1"),
        ("pretrain", "  mesh: {sp: 2}\n", "sp"),
        ("pretrain", "  batch_rows: 1\n", "cannot be cut into 1 × 2 parts"),
    ],
)
def test_what_does_not_fit_is_said_once_and_ends_every_rank(
    tmp_path: Path, inputs: Path, verb: str, extra: str, said: str
) -> None:
    path = recipe(tmp_path / "r", inputs)
    text = path.read_text()
    if "batch_rows" in extra:
        text = text.replace("  batch_rows: 4\n", "")
    path.write_text(text + extra)
    codes, printed = finish(start(2, verb, str(path)))
    assert codes == [2, 2], printed
    assert printed.count(said) == 1, printed
    assert "Traceback" not in printed


def test_the_mesh_is_no_part_of_what_a_stage_is(tmp_path: Path, inputs: Path) -> None:
    """A recipe that names a mesh finds what one process has made of it, and is not started in one process itself."""
    place = tmp_path / "p"
    codes, said = finish(start(1, "pretrain", str(recipe(place, inputs, extra="  mesh: {dp: 2}\n"))))
    assert codes == [2] and "needs 2 processes, and there is 1" in said
    shutil.rmtree(place / "run")
    codes, said = finish(start(2, "pretrain", str(place / "recipe.yaml")))
    assert codes == [0, 0], said
    codes, said = finish(start(1, "pretrain", str(place / "recipe.yaml")))
    assert codes == [0] and "made already" in said
    assert "mesh" not in read_json(place / "run/base/qwill.json")["config"]

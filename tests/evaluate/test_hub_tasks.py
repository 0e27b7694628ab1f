"""Tasks whose data are on the Hugging Face Hub, from a Hub on this machine to the results of `qwill eval`.

The command runs in processes of its own: where the Hub is, is read when `huggingface_hub` is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.model.gguf_models import tiny

from qwill.base.artifact import read_manifest
from qwill.evaluate.task import box_names, load_task
from qwill.model import save_model

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
from fake_hub import BOX, FakeHub  # noqa: E402

NAMES = [name for name in box_names() if "hub" in load_task(name).source]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    made, tokenizer = tiny("qwen3")
    save_model(made, folder / "tiny", tokenizer)
    return folder / "tiny"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(BOX) as found:
        yield found


def command(hub: FakeHub, here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`qwill` in `here`, with a cache of its own."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(here / "cache"), "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "qwill.cli.main", *words],
        capture_output=True, text=True, cwd=here, env=environment, encoding="utf-8",
    )  # fmt: skip


def evaluated(hub: FakeHub, here: Path, model: Path, tasks: str, *more: str) -> subprocess.CompletedProcess[str]:
    return command(hub, here, "eval", str(model), "--tasks", tasks, "--limit", "2", "--json", *more)


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_task_of_the_hub_and_which_data_it_was(hub: FakeHub, model: Path, tmp_path: Path) -> None:
    found = told(evaluated(hub, tmp_path, model, ",".join(NAMES)))
    assert {name: of["examples"] for name, of in found["tasks"].items()} == dict.fromkeys(NAMES, 2)
    assert all(of["available"] == 12 for of in found["tasks"].values())
    manifest = read_manifest(tmp_path / found["folder"])
    assert manifest is not None and {s["registry"] for s in manifest.sources} == {"hub"}
    assert {s["name"]: s["version"] for s in manifest.sources} == {name: hub.commit(name) for name in BOX}
    gsm8k = [s for s in manifest.sources if s["name"] == "openai/gsm8k"]
    assert sorted(s["source"][0] for s in gsm8k) == ["main/test", "main/train"]
    assert all(len(s["sha256"]) == 64 for s in manifest.sources)
    checks = command(hub, tmp_path, "lineage", found["folder"], "--verify").stdout
    assert checks.count("intact    data set ") == len(manifest.sources) and "intact    data set openai/gsm8k " in checks
    for file in (tmp_path / "cache").rglob("main/test/0000.parquet"):
        file.write_bytes(b"other")
    done = command(hub, tmp_path, "lineage", found["folder"], "--verify")
    assert done.returncode == 2 and "main/test: was changed in the Hub's cache" in done.stdout + done.stderr
    task = manifest.config["tasks"]["gsm8k"]
    assert task["source"]["revision"] == task["shots"]["source"]["revision"] == hub.commit("openai/gsm8k")


def test_other_data_are_another_result(hub: FakeHub, model: Path, tmp_path: Path) -> None:
    before = told(evaluated(hub, tmp_path, model, "ceval"))
    first = hub.commit("ceval/ceval-exam")
    val = [dict(row) | {"question": f"新{row['question']}"} for row in BOX["ceval/ceval-exam"]["computer_network/val"]]
    second = hub.publish("ceval/ceval-exam", dict(BOX["ceval/ceval-exam"]) | {"computer_network/val": val})
    after = told(evaluated(hub, tmp_path, model, "ceval"))
    assert first != second and before["recipe_id"] != after["recipe_id"] and before["folder"] != after["folder"]
    # The first data by their commit: the same recipe, so nothing is made again, and nothing is asked of the Hub.
    text = (ROOT / "src" / "qwill" / "evaluate" / "box" / "ceval.yaml").read_text(encoding="utf-8")
    named = tmp_path / "ceval.yaml"
    for split in ("val", "dev"):
        text = text.replace(f"split: {split}}}", f"split: {split}, revision: {first}}}")
    named.write_text(text, encoding="utf-8")
    asked = len(hub.asked)
    again = told(evaluated(hub, tmp_path, model, str(named)))
    assert again["recipe_id"] == before["recipe_id"] and again["content_id"] == before["content_id"]
    assert not any("ceval" in path for path in hub.asked[asked:])


def test_a_hub_that_does_not_answer(model: Path, tmp_path: Path) -> None:
    """What was fetched once is enough; else one sentence, exit code 2, and nothing is left behind."""
    with FakeHub(BOX) as hub:
        before = told(evaluated(hub, tmp_path, model, "cmmlu", "--out", "out"))
    assert told(evaluated(hub, tmp_path, model, "cmmlu", "--out", "out"))["content_id"] == before["content_id"]
    refused(evaluated(hub, tmp_path, model, "cmmlu,aime", "--out", "none"), "task aime: Maxwell-Jia/AIME_2024 can't be")
    assert not (tmp_path / "none").exists() and not (tmp_path / ".work").exists()


def test_what_the_hub_does_not_have(hub: FakeHub, model: Path, tmp_path: Path) -> None:
    text = (ROOT / "src" / "qwill" / "evaluate" / "box" / "aime.yaml").read_text(encoding="utf-8")
    for number, (source, says) in enumerate(
        (
            ("{hub: no/such}", "has no data set no/such, or it is private; check source.hub"),
            ("{hub: Maxwell-Jia/AIME_2024, split: tset}", "AIME_2024 has no default/tset"),
            ("{hub: Maxwell-Jia/AIME_2024, revision: v9}", "has no revision v9"),
        )
    ):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text.replace("{hub: Maxwell-Jia/AIME_2024, split: train}", source), encoding="utf-8")
        refused(evaluated(hub, tmp_path, model, str(path)), says)


def refused(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == 2 and done.stdout == ""
    (sentence,) = done.stderr.strip().splitlines()
    assert says in sentence and sentence.endswith(".")

"""Alignment and fine-tuning through the command line on two ranks: what one process makes; what ends all, said once."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.align.preference_rows import TOKENIZER, VOCAB, rows, write
from tests.engine.tiny import tiny_model
from tests.train.test_ranks_command import finish, start

from qwill.base.artifact import need_manifest
from qwill.base.files import write_jsonl
from qwill.model.files import save_model

REWARD = """
def odd(prompts, completions, **columns):
    return [float(sum(map(ord, text if isinstance(text, str) else text[-1]["content"])) % 2) for text in completions]
"""
STAGES = {
    "sft": (
        "sft",
        "inputs: {{base: {0}/model, dialogues: {0}/talks.jsonl}}\n  steps: 5\n  batch_tokens: 150\n  max_tokens: 100\n"
        "  heldout: 0.2\n  mesh: {{{1}}}\n",
    ),
    "dpo": (
        "preferred",
        "inputs: {{sft: {0}/model, preferences: {0}/pairs.jsonl}}\n  steps: 4\n  pairs: 5\n  loss: kto\n"
        "  heldout: 0.25\n  lora: {{rank: 2}}\n  mesh: {{{1}}}\n",
    ),
    "grpo": (
        "aligned",
        "inputs: {{sft: {0}/model, tasks: {0}/prompts.jsonl}}\n  steps: 3\n  prompts: 3\n  samples: 4\n"
        "  max_tokens: 12\n  kl: 0.1\n  algorithm: gspo\n  mesh: {{{1}}}\n"
        "  rewards: [{{name: odd, function: '{0}/reward.py:odd'}}]\n",
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_model(tiny_model("moe", VOCAB, 200), folder / "model", TOKENIZER)
    write(folder / "pairs.jsonl", rows(24))
    write_jsonl(folder / "prompts.jsonl", [{"prompt": f"{i}?", "language": ("en", "zh")[i % 2]} for i in range(6)])
    (folder / "reward.py").write_text(REWARD)
    draw = random.Random(1)
    talks = [(f"{a}+{b}", str(a + b)) for a, b in ((draw.randrange(50), draw.randrange(50)) for _ in range(12))]
    roles = ("user", "assistant")
    write_jsonl(
        folder / "talks.jsonl",
        [{"messages": [{"role": r, "content": c} for r, c in zip(roles, talk, strict=True)]} for talk in talks],
    )
    return folder


def recipe(place: Path, inputs: Path, verb: str, mesh: str = "", **changes: Any) -> Path:
    place.mkdir()
    stage, text = STAGES[verb]
    lines = text.format(inputs, mesh)
    for name, value in changes.items():
        lines = "\n".join(f"  {name}: {value}" if x.startswith(f"  {name}:") else x for x in lines.split("\n"))
    path = place / "recipe.yaml"
    path.write_text(f"name: ranks\nseed: 3\nthreads: 1\nfolder: {place}/run\n{stage}:\n  {lines}")
    return path


def curve(place: Path, verb: str) -> list[dict[str, float]]:
    lines = (place / "run/logs" / STAGES[verb][0] / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_second"} for line in lines]


@pytest.mark.parametrize("verb", STAGES)
def test_two_ranks_make_what_one_process_makes(tmp_path: Path, inputs: Path, verb: str) -> None:
    for place, processes in (("one", 1), ("two", 2)):
        mesh = "tp: 2" if (place, verb) == ("two", "sft") else ""
        codes, said = finish(start(processes, verb, str(recipe(tmp_path / place, inputs, verb, mesh)), "--json"))
        assert codes == [0] * processes, said
    one, two = (need_manifest(tmp_path / place / "run" / STAGES[verb][0]) for place in ("one", "two"))
    assert one.recipe_id == two.recipe_id and one.metrics.keys() == two.metrics.keys()
    for name, value in one.metrics.items():
        assert two.metrics[name] == pytest.approx(value, abs=1e-3), name
    for a, b in zip(curve(tmp_path / "one", verb), curve(tmp_path / "two", verb), strict=True):
        assert b == pytest.approx(a, abs=1e-4, rel=1e-4)
    a, b = (load_file(tmp_path / place / "run" / STAGES[verb][0] / "model.safetensors") for place in ("one", "two"))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-3, rtol=0)


def test_a_rank_that_is_killed_is_named_and_ends_the_other(tmp_path: Path, inputs: Path) -> None:
    started = start(2, "grpo", str(recipe(tmp_path / "r", inputs, "grpo", steps=100_000)))
    metrics = tmp_path / "r/run/logs/aligned/metrics.jsonl"
    for _ in range(1200):
        if metrics.exists() and metrics.stat().st_size:
            break
        time.sleep(0.1)
    started[1].send_signal(signal.SIGKILL)
    codes, said = finish(started)
    assert codes == [2, -9], said
    assert f"rank 1 (process {started[1].pid} on " in said and "has died; rank 0 ends too" in said
    assert "Traceback" not in said and not (tmp_path / "r/run/aligned").exists()


@pytest.mark.parametrize(
    ("verb", "mesh", "said"),
    [
        ("dpo", "fsdp: 2", "mesh: fsdp is 2, and `qwill dpo` works with a whole model on every rank; leave fsdp out"),
    ],
)
def test_a_mesh_that_is_not_covered_is_said_once(tmp_path: Path, inputs: Path, verb: str, mesh: str, said: str) -> None:
    codes, printed = finish(start(2, verb, str(recipe(tmp_path / "r", inputs, verb, mesh))))
    assert codes == [2, 2] and printed.count(said) == 1 and "Traceback" not in printed, printed

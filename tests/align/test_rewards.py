"""Rewards of the user's own: sums, TRL's signature, and what a function that raises, hangs or gives NaN costs."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from tests.align.preference_rows import TOKENIZER as BYTES
from tests.align.preference_rows import VOCAB, write
from tests.align.tiny_rl import TOKENIZER, config, model
from tests.engine.tiny import tiny_model
from tests.train.tiny_training import context

from qwill.align import grpo
from qwill.align.grpo import train_grpo
from qwill.align.prompts import problems
from qwill.align.rewards import Rewards
from qwill.align.sample_rollouts import roll_out
from qwill.align.settings import GRPOConfig, RewardPart
from qwill.base.config import identity_of
from qwill.base.errors import ConfigError, DataError, QwillError, TrainingError
from qwill.model.files import save_model

CODE = """
import math, sys, time

def length(prompts, completions, **columns):
    return [len(c) for c in completions]

def told(prompts, completions, id, weight, **columns):
    assert prompts == ["say"] and id == ["7"]
    return [weight[0]]

def spoken(prompts, completions, **columns):
    assert prompts[0][0]["role"] == "user"
    return [float(completions[0][0]["content"] == "hi")]

def moody(prompts, completions, **columns):
    text = completions[0]
    if text == "raise":
        raise ValueError("no")
    if text == "hang":
        time.sleep(60)
    return {"nan": [math.nan], "many": [1, 2], "none": [None], "text": "x"}.get(text, [0.5])

def piped(prompts, completions, **columns):
    import subprocess
    return [len(subprocess.run(["cat"], capture_output=True).stdout) + len(sys.stdin.read())]

def begins(prompts, completions, path, **columns):
    import subprocess
    child = subprocess.Popen(["sleep", "300"])
    with open(path[0], "w") as file:
        file.write(str(child.pid))
    return [time.sleep(300) if completions[0] == "hang" else 1.0]

def broken(prompts, completions, **columns):
    return 1 / 0
"""
ROW = {"id": "7", "prompt": "say", "language": "en", "weight": -2.5}


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(CODE)
    return str(tmp_path / "mine.py")


def test_a_weighted_sum_of_functions_with_trls_signature(code: str) -> None:
    parts = [RewardPart("a", 0.5, f"{code}:length"), RewardPart("b", 2.0, f"{code}:told")]
    with Rewards(parts) as rewards:
        found = rewards(ROW, "four", True)
        assert found == {"a": 4.0, "b": -2.5} and rewards.total(found) == 2.0 - 5.0
    with Rewards([RewardPart("c", 1.0, f"{code}:spoken")]) as rewards:
        assert rewards({**ROW, "prompt": [{"role": "user", "content": "x"}]}, "hi", True) == {"c": 1.0}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("raise", "raised ValueError: no in line 18 of mine.py"),
        ("nan", "gave nan; expected a finite number"),
        ("many", "gave [1, 2]; expected a list with one number"),
        ("none", "expected a list with one number"),
        ("text", "gave 'x'; expected a list with one number"),
        ("hang", "took more than 1 s for one reply"),
    ],
)
def test_a_failure_costs_one_sample_and_is_said_once(code: str, reply: str, said: str) -> None:
    shown: list[str] = []
    with Rewards([RewardPart("moody", 1.0, f"{code}:moody", seconds=1.0)], shown.append) as rewards:
        assert math.isnan(rewards(ROW, reply, True)["moody"])
        assert rewards(ROW, "fine", True) == {"moody": 0.5}
        assert math.isnan(rewards.total(rewards(ROW, "nan", True)))
        assert rewards.failures == {"moody": 2}
    assert len(shown) == 1 and said in shown[0] and "problem 7" in shown[0] and "\n" not in shown[0]


def test_a_function_reads_nothing_from_its_standard_input(code: str) -> None:
    """What it starts would read the next request, or wait for one."""
    with Rewards([RewardPart("piped", 1.0, f"{code}:piped", seconds=10.0)]) as rewards:
        assert [rewards(ROW, "x", True)["piped"] for _ in range(3)] == [0.0] * 3


@pytest.mark.parametrize("reply", ["hang", "fine"])
def test_what_a_function_started_ends_with_it(code: str, tmp_path: Path, reply: str) -> None:
    path = tmp_path / "pid"
    with Rewards([RewardPart("begins", 1.0, f"{code}:begins", seconds=2.0)], lambda _: None) as rewards:
        rewards(ROW | {"path": str(path)}, reply, True)
    deadline = time.monotonic() + 10
    while alive(int(path.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(path.read_text()))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_ten_in_a_row_stop(code: str) -> None:
    with Rewards([RewardPart("broken", 1.0, f"{code}:broken")], lambda _: None) as rewards:
        for _ in range(9):
            assert math.isnan(rewards(ROW, "x", True)["broken"])
        with pytest.raises(TrainingError, match=r"raised ZeroDivisionError.*10th time in a row"):
            rewards(ROW, "x", True)
    with Rewards([RewardPart("moody", 1.0, f"{code}:moody")], lambda _: None) as rewards:
        for i in range(40):
            rewards(ROW, "fine" if i % 10 == 9 else "nan", True)


def own_rows(count: int = 4) -> list[dict[str, Any]]:
    return [{"id": str(i), "prompt": f"{i}?", "language": ("en", "zh")[i % 2]} for i in range(count)]


def test_training_goes_on_without_the_samples_that_failed(tmp_path: Path, code: str) -> None:
    """A reward that fails for every reply of odd length."""
    Path(code).write_text(
        "def odd(prompts, completions, **columns):\n    n = len(completions[0])\n"
        "    return [float('nan') if n % 2 else float(n % 4)]\n"
    )
    parts = (RewardPart("odd", 1.0, f"{code}:odd"),)
    taught: list[list[Any]] = []
    settings = config(rewards=parts, algorithm="grpo", steps=3)
    with Rewards(parts, lambda _: None) as rewards, pytest.MonkeyPatch.context() as patch:
        original = grpo.update
        patch.setattr(grpo, "update", lambda m, o, r, *c: taught.append(r) or original(m, o, r, *c))
        history = train_grpo(model("dense"), TOKENIZER, own_rows(), settings, context(tmp_path), rewards=rewards)
    assert taught and all(not math.isnan(r.reward) for step in taught for r in step)
    for point in history.curve:
        assert all(math.isfinite(v) for v in point.values())
        assert 0 < point["reward_failed"] < 1 and point["reward_part_odd"] == pytest.approx(point["reward"])


def test_a_reward_model_is_a_reward(tmp_path: Path) -> None:
    import torch

    save_model(tiny_model("dense", VOCAB, 200), tmp_path / "rm", BYTES, score_D=torch.randn(32))
    with Rewards([RewardPart("rm", 1.0, model=str(tmp_path / "rm"))]) as rewards:
        one, two = (rewards(ROW, text, True)["rm"] for text in ("good", "bad"))
        assert one != two and rewards(ROW, "good", True)["rm"] == pytest.approx(one)
        groups = roll_out(model("dense"), TOKENIZER, own_rows(), config(), 0, 0, rewards)
    assert len({r.reward for g in groups for r in g}) > 10


def test_prompts_of_your_own(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"prompt": "a"}, {"prompt": [{"role": "user", "content": "b"}]}])
    assert [(r["id"], r["language"]) for r in problems(path, False)] == [("1", "other"), ("2", "other")]
    with pytest.raises(DataError, match="line 1 has no 'key' to verify"):
        problems(path, True)
    with pytest.raises(DataError, match="line 1: prompt: expected text or a list"):
        problems(write(tmp_path / "q.jsonl", [{"text": "a"}]), False)
    with pytest.raises(DataError, match="holds no prompt"):
        problems(write(tmp_path / "e.jsonl", []), False)


def test_what_a_reward_is_made_of_is_part_of_the_recipe(code: str) -> None:
    settings = GRPOConfig(rewards=(RewardPart("f", 1.0, f"{code}:length"),))
    before = identity_of(settings)
    Path(code).write_text(CODE + "\n# changed\n")
    assert identity_of(settings) != before and identity_of(GRPOConfig()) == identity_of(GRPOConfig(rewards=()))


def test_impossible_rewards_are_refused(tmp_path: Path, code: str) -> None:
    for part in ({"name": "mine"}, {"function": "a.py:b", "model": "c"}, {"function": "a.py:b", "seconds": 0.0}):
        with pytest.raises(ConfigError):
            RewardPart(**part)
    with pytest.raises(ConfigError, match="give each a name of its own"):
        GRPOConfig(rewards=(RewardPart(), RewardPart()))
    for target, said in ((f"{code}:nothing", "no function"), (str(tmp_path / "no.py") + ":f", "no such file")):
        with pytest.raises(QwillError, match=said):
            Rewards([RewardPart("f", 1.0, target)])

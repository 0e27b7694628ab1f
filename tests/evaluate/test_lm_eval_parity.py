"""What lm-eval's `hf` model said of made-up tasks, recorded (tests/oracles/make_lm_eval_oracle.py), is what we say."""

import json
from pathlib import Path

import pytest
from tests.oracles.lm_eval_cases import TASKS, write_checkpoint, write_tasks

from qwill.engine.language_model import load
from qwill.evaluate.run_task import EvalSettings, evaluate
from qwill.evaluate.task import Score, load_task

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "lm_eval.json").read_text(encoding="utf-8"))["tasks"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module")
def model(place):
    return load(write_checkpoint(place / "model"))


@pytest.mark.parametrize("name", TASKS)
def test_as_lm_eval(place, model, name):
    task = load_task(write_tasks(place)[name])

    def exact_match(example, reply):
        return Score(float(reply == example.answer))

    found = evaluate(model, task, EvalSettings(chat=TASKS[name][2]), score=exact_match)
    theirs = ORACLE[name]
    assert len(found.rows) == len(theirs["rows"]) > 0
    for ours, peer in zip(found.rows, theirs["rows"], strict=True):
        assert ours.get("asked", ours["prompt"]) == peer["context"]
        if task.kind == "choice":
            assert ours["logprobs"] == pytest.approx([reply[0] for reply in peer["replies"]], abs=1e-4)
            assert ours["greedy"] == [reply[1] for reply in peer["replies"]]
        else:
            assert [reply["text"] for reply in ours["replies"]] == peer["replies"]
    for metric in found.metrics:
        wanted = (
            theirs["mass"] if metric == "mass" else theirs["scores"]["exact_match" if metric == "score" else metric]
        )
        assert found.mean(metric) == pytest.approx(wanted, abs=1e-4 if metric == "mass" else 1e-12), metric


def test_the_record_holds_what_it_is_for():
    """Some choices were greedy, some prompts were cut, some replies are not empty: else little would be compared."""
    rows = [row for task in ORACLE.values() for row in task["rows"]]
    assert any(reply[1] for row in rows for reply in row["replies"] if isinstance(reply, list))
    assert sum(len(row["replies"][0]) > 2 for row in rows if isinstance(row["replies"][0], str)) > 3

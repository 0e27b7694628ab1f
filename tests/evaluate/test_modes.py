"""Worked-out thinking leads to the answer; the stage `modes` asks in every mode and counts what obeys."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.tiny import tiny_model

from qwill.base.errors import ConfigError
from qwill.base.files import read_json, write_jsonl
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.evaluate.modes import MODES, ModesConfig, ask, page, run, summarise
from qwill.evaluate.task_data import TasksConfig, make_tasks
from qwill.evaluate.tasks import FAMILIES, LANGUAGES, demonstrate, draw_problem, verify
from qwill.model.files import save_model
from qwill.text.thinking import asked_to_think
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters

_EQUATION = re.compile(r"((?:[0-9]+ ?[+-] ?)+[0-9]+) ?= ?([0-9]+)")
_COMPARISON = re.compile(r"([0-9]) ?([<>=]) ?([0-9])(?![0-9])")


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(FAMILIES), st.sampled_from(LANGUAGES), st.integers(0, 2**32))
def test_every_step_is_true_and_the_last_one_is_the_answer(family: str, language: str, seed: int) -> None:
    problem = draw_problem(family, random.Random(seed))
    plain = demonstrate(problem, language, random.Random(seed))
    shown = demonstrate(problem, language, random.Random(seed), worked=True)
    assert (shown.prompt, shown.answer) == (plain.prompt, plain.answer)
    assert verify({"key": problem.key, "language": language}, f"<think>\n{shown.thinking}\n</think>\n\n{shown.answer}")
    for terms, result in _EQUATION.findall(shown.thinking):
        signs = [part.strip() for part in re.split(r"([+-])", terms)]
        value = int(signs[0])
        for sign, number in zip(signs[1::2], signs[2::2], strict=True):
            value += int(number) if sign == "+" else -int(number)
        assert value == int(result), shown.thinking
    if family == "add":
        assert shown.thinking.rstrip(".。").endswith(shown.answer)
    if family in ("add", "split", "digits", "sort", "reverse", "compare"):
        assert shown.thinking != plain.thinking
        assert all(character.isascii() for character in shown.thinking) == (language == "en")
    if family == "compare":
        assert all({"<": a < b, ">": a > b, "=": a == b}[sign] for a, sign, b in _COMPARISON.findall(shown.thinking))


def test_columns_carry_and_borrow() -> None:
    from qwill.evaluate.worked import worked_out

    assert worked_out("add", ("958", "67"), "en", "", "1025", "") == (
        "958 + 67, from the right. 8 + 7 = 15, write 5, carry 1. 5 + 6 + 1 = 12, write 2, carry 1. "
        "9 + 1 = 10, write 0, carry 1. Write 1 in front. That makes 1025."
    )
    assert worked_out("split", ("402",), "zh", "", "135和267", "") == (
        "先取135。402-135，从右边起。12-5=7，写7。借1。9-3=6，写6。借1。3-1=2，写2。得267。"
    )


def test_a_mode_is_asked_as_it_says() -> None:
    tasks = [{"prompt": f"q{i}", "answer": f"a{i}"} for i in range(3)]
    assert ask(tasks, 0, "thinking") == [{"role": "user", "content": "q0"}]
    talk = ask(tasks, 0, "think_then_no_think")
    assert [m["content"] for m in talk] == ["q2 /think", "a2", "q0 /no_think"]
    thinks = {mode: asked_to_think(ask(tasks, 1, mode), MODES[mode][0]) for mode in MODES}
    assert thinks == {
        "thinking": True, "not_thinking": False, "think_switch": True, "no_think_switch": False,
        "think_then_no_think": False, "no_think_then_think": True, "budget": True,
    }  # fmt: skip


def test_the_stage_counts_every_mode_and_shows_its_intervals(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_trained({to_characters(bytes([b])): b for b in range(256)}, [])
    model = tmp_path / "one"
    model.mkdir()
    save_model(tiny_model("dense", tokenizer.padded_vocab_size, 300, 0), model, tokenizer)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "work").mkdir()
    tasks = make_tasks(TasksConfig(demonstrations=5, rl=5, heldout=6, weights={"add": 1.0}), 1)
    write_jsonl(tmp_path / "tasks" / "heldout.jsonl", tasks["heldout"])
    inputs = {"one": model, "tasks": tmp_path / "tasks"}
    ctx = StageContext(tmp_path / "out", tmp_path / "work", inputs, 1, 1, Display(quiet=True), None, tmp_path / "m")
    config = ModesConfig(("one",), problems=2, max_tokens=20, thinking_budget=3)
    counts = run(config, ctx)
    summary = read_json(tmp_path / "out" / "summary.json")
    assert set(summary["one"]) == set(MODES) and set(summary["one"]["thinking"]) == set(LANGUAGES)
    assert counts["accuracy_thinking_en"] == 0 and summary["one"]["thinking"]["en"]["accuracy_interval"][1] > 0.5
    assert "thinking within the budget of 3 tokens" in (tmp_path / "out" / "report.html").read_text()
    (model / "model.safetensors").unlink()
    assert run(config, ctx) == counts  # what was answered is kept
    with pytest.raises(ConfigError, match="models"):
        ModesConfig(())
    write_jsonl(tmp_path / "tasks" / "heldout.jsonl", [r for r in tasks["heldout"] if r["language"] == "en"])
    rows = [{"model": "<m>", "mode": "thinking", "language": "en", "correct": True, "obeyed": True, "tokens": 3}]
    assert "&lt;m&gt;" in page(summarise(rows, ["<m>"]), config)


def test_worked_tasks_are_only_what_is_asked_for() -> None:
    short, long = (make_tasks(TasksConfig(20, 5, 5, thinking_share=1.0, worked=w), 1) for w in (False, True))
    assert [r["prompt"] for r in short["demonstrations"]] == [r["prompt"] for r in long["demonstrations"]]
    assert [r["thinking"] for r in short["demonstrations"]] != [r["thinking"] for r in long["demonstrations"]]
    assert short["heldout"] == long["heldout"]

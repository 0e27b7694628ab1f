"""The pages of `qwill eval` in a real browser: what is shown, filtered, and in which language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.browser import CHROMIUM, Browser, Page, page

from qwill.evaluate import eval_report
from qwill.evaluate.comparison import compare
from qwill.evaluate.eval_report import comparison_page, p_text, results_page
from qwill.evaluate.task_scores import summarise

browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
HOSTILE = "</script><script>document.title='x'</script><img src=x onerror=\"document.title='x'\">"


def choice(place: int, right: bool, language: str = "en") -> dict[str, Any]:
    return {
        "task": "pick", "id": f"p{place}", "language": language, "category": "", "cluster": "",
        "prompt": f"Question {place}",
        "choices": ["yes", "no, and that at some length"], "gold": [0], "answer": "yes",
        "logprobs": [-1.0, -2.0] if right else [-3.0, -2.0], "greedy": [right, False],
        "scores": {"acc": float(right), "acc_norm": float(right)},
    }  # fmt: skip


def reply(place: int, text: str, score: float, thought: str = "") -> dict[str, Any]:
    said = {"text": text, "score": score, "detail": "says so", "finish": "stop"} | (
        {"reasoning": thought} if thought else {}
    )
    return {
        "task": "say", "id": f"s{place}", "language": "zh", "category": "greetings", "cluster": "", "prompt": "问候我",
        "answer": "你好", "replies": [said], "scores": {"score": score},
    }  # fmt: skip


A = [choice(i, i % 2 == 0, "en" if i < 6 else "zh") for i in range(10)] + [
    reply(0, "你好！", 1.0, "想一想"),
    reply(1, HOSTILE, 0.0),
]
B = [choice(i, True, "en" if i < 6 else "zh") for i in range(10)] + [reply(0, "", 0.0), reply(1, "再见", 0.0)]
METRICS = {"pick": "acc", "say": "score"}


def both() -> str:
    return comparison_page("first", HOSTILE, compare(A, B, METRICS), A, B, METRICS)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    tasks = {name: [row for row in rows if row["task"] == name] for name in METRICS}
    metrics = {"pick": ["acc", "acc_norm"], "say": ["score"]}
    return {"model": "first", "tasks": {name: summarise(own, metrics[name]) for name, own in tasks.items()}}


def shown(opened: Page) -> list[str]:
    found: list[str] = opened.run(
        "[...document.querySelectorAll('.example')].filter((e) => e.offsetParent)"
        ".map((e) => e.querySelector('.id').textContent)"
    )
    return found


def choose(opened: Page, name: str, value: str) -> None:
    box = f"document.querySelector('[data-filter={name}]')"
    opened.run(f"{box}.value = {json.dumps(value)}; {box}.dispatchEvent(new Event('input', {{bubbles: true}}))")


@browser
def test_the_examples_on_which_two_models_differ(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(both(), encoding="utf-8")
    with page(tmp_path / "page.html") as opened:
        assert shown(opened) == ["p1", "p3", "p5", "p7", "p9", "s0"] and opened.run("document.title") != "x"
        choose(opened, "outcome", "a")
        assert shown(opened) == ["s0"] and opened.text("#count") == "1 / 6"
        choose(opened, "outcome", "")
        choose(opened, "language", "zh")
        assert shown(opened) == ["p7", "p9", "s0"]
        choose(opened, "task", "pick")
        assert shown(opened) == ["p7", "p9"]
        choose(opened, "task", ""), choose(opened, "language", "")
        opened.run("document.getElementById('words').focus()")
        opened.type("你好！")
        assert shown(opened) == ["s0"]
        assert opened.count(".taken") == 10 and opened.count("td.ok:not(.num)") == 10
        opened.click("#switch")
        assert opened.run("document.documentElement.lang") == "zh-Hans"
        assert "不同之处" in opened.run("document.body.innerText") and "differ" not in opened.run(
            "document.body.innerText"
        )
        assert not opened.errors


@browser
def test_one_model_on_a_phone_in_the_dark(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(results_page(summary(A), A), encoding="utf-8")
    own = Browser()
    try:
        opened = own.page(width=390, height=800, dark=True, languages="zh-CN")
        opened.goto((tmp_path / "page.html").as_uri())
        assert len(shown(opened)) == 12 and "得分" in opened.run("document.body.innerText")
        choose(opened, "outcome", "wrong")
        assert shown(opened) == ["p1", "p3", "p5", "p7", "p9", "s1"]
        assert opened.run("document.documentElement.scrollWidth") <= 390
        assert not opened.errors
    finally:
        own.close()


def test_what_a_page_has_no_room_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_report, "MOST", 8)
    html = results_page(summary(A), A)
    assert html.count('<article class="card example"') == 6 and "6 of 12" in html and "6 / 12" in html
    monkeypatch.setattr(eval_report, "LONGEST", 3)
    assert "Que … (+7)" in results_page(summary(A), A)


def test_a_page_depends_on_its_arguments_alone_and_says_when_nothing_differs() -> None:
    assert both() == both()
    assert HOSTILE not in both()
    found = compare(A, A, METRICS)
    html = comparison_page("one", "two", found, A, A, METRICS)
    assert "There is no example" in html and "is better" not in html


@pytest.mark.parametrize(("metric", "place"), [("acc", 0), ("acc_norm", 1), ("acc_bytes", 2), ("mass", 0)])
def test_the_choice_that_is_marked_is_the_metrics(metric: str, place: int) -> None:
    row = {"choices": ["ab", "abcdef", "什么什么"], "logprobs": [-2.0, -4.0, -5.0], "gold": [0]}
    taken = [choice["models"][0]["taken"] for choice in eval_report._choices([row], metric)]
    assert taken.index(True) == place and sum(taken) == 1


def test_p_values_are_readable() -> None:
    assert [p_text(p) for p in (1e-9, 0.00012, 0.0312, 0.51, 1.0)] == ["<0.0001", "0.0001", "0.0312", "0.51", "1.00"]

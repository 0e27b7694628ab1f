"""The page of rollouts, in a real browser too: filters, keys, search, and nothing that a model wrote becomes markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.browser import CHROMIUM, page
from tests.evaluate import test_report
from tests.evaluate.test_report import Page as Html
from tests.evaluate.test_report import make_run
from tests.train.tiny_training import context

from qwill.base.files import read_json, write_json, write_jsonl
from qwill.evaluate import rollouts_page as of_page
from qwill.evaluate.report import ReportConfig, run
from qwill.evaluate.report_training import curves_of
from qwill.evaluate.rollouts_page import rollouts_page

HOSTILE = "</article></script><script>alert(1)</script><img src=x onerror=alert(2)> ${1} {{ 7*7 }}"


def lines(steps: int = 3) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": HOSTILE}}}
    made = []
    for step in range(1, steps + 1):
        for k, language in enumerate(("en", "zh")):
            for reward in (1.0, 0.0):
                said = [{"role": "assistant", "content": f"说{step}" if k else f"said {step} {HOSTILE}"}]
                if reward:
                    said = [
                        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": HOSTILE},
                        {"role": "tool", "name": "add", "content": HOSTILE},
                        *said,
                    ]
                made.append({
                    "step": step, "id": f"{language}{step}-{reward:g}", "language": language, "prompt": HOSTILE,
                    "said": said, "reward": reward, "parts": {"right": reward, "brief": None},
                    "advantage": reward - 0.5, "tokens": 7, "turns": len(said) // 2 + 1, "truncated": not reward,
                })  # fmt: skip
    return made


def test_what_a_model_wrote_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_report, "VOID", {*test_report.VOID, "input"})
    html = rollouts_page("a <b>title", {"aligned": lines()})
    read = Html(html)
    assert [tag for tag, name, _ in read.attributes if name == "src"] == [] and "49" not in read.text
    assert html.count("<script") == 1 and "<img" not in html and "default-src 'none'" in html
    assert HOSTILE in read.text and html == rollouts_page("a <b>title", {"aligned": lines()})
    assert "http" not in html.replace("http-equiv", "")


def test_a_long_run_is_thinned_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_page, "MOST", 5)
    html = rollouts_page("t", {"aligned": lines()})
    assert html.count("<article") == 4 and "4 of 12 rollouts" in html


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_rollouts_are_browsed_by_filters_and_keys(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(rollouts_page("t", {"aligned": lines()}), encoding="utf-8")
    with page(tmp_path / "page.html") as opened:
        assert opened.text("#count") == "12 / 12"

        def choose(name: str, value: str) -> None:
            box = f"document.querySelector('[data-filter={name}]')"
            opened.run(f"{box}.value = {json.dumps(value)}; {box}.dispatchEvent(new Event('input', {{bubbles: true}}))")

        def current() -> str:
            return opened.text(".example.current .id")

        choose("step", "2")
        assert opened.text("#count") == "4 / 12"
        choose("language", "zh")
        choose("outcome", "better")
        assert opened.text("#count") == "1 / 12"
        choose("outcome", "")
        opened.press("j")
        assert current() == "zh2-1"
        opened.press("ArrowRight")
        assert current() == "zh2-0"
        opened.press("j")
        assert current() == "zh2-0", "there is no next one"
        opened.press("k")
        assert current() == "zh2-1" and opened.count(".example.current") == 1
        choose("step", "")
        opened.press("/")
        opened.type("说3")
        assert opened.text("#count") == "2 / 12"
        opened.press("j")
        assert opened.run("document.activeElement.id") == "words", "a key in the search box is text"
        opened.press("Escape")
        assert opened.run("document.activeElement === document.body")
        opened.click("#next")
        opened.click("#switch")
        assert "组内奖励" in opened.run("document.body.innerText")
        assert not opened.errors


def test_the_report_links_the_page_and_shows_every_curve(tmp_path: Path) -> None:
    inputs = make_run(tmp_path / "run", problems=20)
    write_jsonl(inputs["aligned"] / "rollouts.jsonl", lines())
    training = read_json(inputs["aligned"] / "training.json")
    ratios = {f"ratio_{name}": 1.0 for name in ("least", "p01", "p50", "p99", "most")}
    for point in training["curve"]:
        point |= {"reward_part_right": 0.4, "kl": 0.01, "kl_start": 0.02, "clipped": 0.1, "gap": 1e-6, "length": 9.0}
        point |= {"gradient_norm": 1.0, "turns": 1.5, "reward_failed": 0.0, **ratios}
    write_json(inputs["aligned"] / "training.json", training)
    ctx = context(tmp_path / "report", inputs)
    run(ReportConfig(), ctx)
    html = (ctx.out / "report.html").read_text(encoding="utf-8")
    assert '<a href="rollouts.html">' in html and "aligned: 12" in html and "<script" not in html
    for title in ("reward by part", "KL", "clipped", "ratio to the rollout", "rollout against trainer", "turns"):
        assert f"<figcaption>{title}" in html, title
    assert (ctx.out / "rollouts.html").read_text(encoding="utf-8") == rollouts_page(
        ReportConfig().title, {"aligned": lines()}
    )


def test_curves_without_numbers_are_left_out_and_languages_are_told_from_parts() -> None:
    (loss,) = curves_of("base", [{"step": 1, "loss": 2.0, "gradient_norm": 1.0}])
    assert loss.title == "loss"
    point = {"step": 1, "reward": 0.5, "reward_en": 0.5, "reward_zh": 0.5, "reward_failed": 0.0, "reward_part_a": 0.1}
    found = {plot.title: [key for key, _, _ in plot.lines] for plot in curves_of("aligned", [point])}
    assert found == {"reward": ["reward_en", "reward_zh"], "reward by part": ["reward_part_a"]}

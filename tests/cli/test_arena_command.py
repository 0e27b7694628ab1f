"""`qwill arena rate`: what it prints, as text and as JSON, and how it ends on votes that can't be rated."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from qwill.cli.main import main
from qwill.evaluate.arena import POINTS


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    """y wins 3 of 4 from x, in English; the same the other way about in Chinese."""
    rows = []
    for prompt, turned in (("What is the capital of Peru?", False), ("秘鲁的首都是哪里？", True)):
        for i in range(40):
            outcome = "b" if (i % 4 > 0) != turned else "a"
            replies = {"reply_a": "word " * (5 + i % 3), "reply_b": "word " * (6 + i % 5)}
            rows.append({"model_a": "x", "model_b": "y", "outcome": outcome, "prompt": prompt, "voter": f"v{i % 10}"})
            rows[-1] |= replies
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["arena", "rate", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json(votes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    even = result(capsys, str(votes))
    assert [row["rating"] for row in even["ratings"]] == pytest.approx([1000, 1000])
    assert even["win_matrix"]["battles"] == [[0, 80], [80, 0]]
    english = result(capsys, str(votes), "--category", "en")
    first, second = english["ratings"]
    assert (first["model"], first["rank"], first["votes"], first["points"]) == ("y", 1, 40, 30)
    assert first["rating"] - second["rating"] == pytest.approx(POINTS * math.log(3), abs=1e-3)
    assert second["rank"] == 2
    moved = result(capsys, str(votes), "--category", "en", "--anchor", "x=1114")
    assert moved["ratings"][1]["rating"] == pytest.approx(1114)
    for end in ("lower", "upper"):
        shifts = [a[end] - b[end] for a, b in zip(moved["ratings"], english["ratings"], strict=True)]
        assert shifts == pytest.approx([1114 - second["rating"]] * 2)
    assert set(result(capsys, str(votes), "--style")["features"]) == {"length", "headers", "bold", "lists"}


def test_bootstrap_clusters_weights_and_prior(votes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(votes), "--category", "zh", "--bootstrap", "300"]
    one = result(capsys, *arguments)
    assert one == result(capsys, *arguments) != result(capsys, *arguments, "--seed", "1")
    plain = result(capsys, str(votes), "--category", "zh")
    assert one["ratings"][0]["stderr"] == pytest.approx(plain["ratings"][0]["stderr"], rel=0.2)
    assert "300 resamples of votes" in one["notes"][1]
    assert "300 resamples of clusters" in result(capsys, *arguments, "--cluster", "voter")["notes"][1]
    assert result(capsys, str(votes), "--weight-pairs", "--prior", "1")["ratings"][0]["rating"] == pytest.approx(1000)


def test_text(votes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["arena", "rate", str(votes), "--category", "en", "--style", "--cluster", "voter"]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0].split()[:3] == ["rank", "model", "rating"] and lines[1].split()[:2] == ["1", "y"]
    assert "Taken out of the ratings: length, headers, bold, lists." in shown and "'voter'" in shown


@pytest.mark.parametrize(
    ("rows", "arguments", "words"),
    [
        (None, ["--anchor", "z=1000"], "the anchor 'z' is not among the 2 rated models: x, y."),
        (None, ["--anchor", "x"], "--anchor is 'x', expected a model and its rating"),
        (None, ["--anchor", "x=high"], "expected a model and its rating"),
        (None, ["--anchor", "x=nan"], "expected a number such as 1000"),
        (None, ["--category", "fun"], "there is no category 'fun'"),
        (None, ["--feature", "tone"], "line 1: the feature 'tone' is missing"),
        (["x y a", "z w b"], [], "no vote connects these 2 groups"),
        (["x y a", "x y a"], [], "perfect separation: x, y"),
        (["x y a", "x y b", "x z a", "y z a", "z y b"], [], "perfect separation: z"),
        (["x y a", "x x b"], [], "line 2: 'x' meets itself"),
        (["x y a", "x y b"], ["--bootstrap", "50"], "of 50 resamples a model won or lost every vote"),
        ([], [], "there are no votes in it"),
    ],
)
def test_what_cannot_be_rated_is_one_sentence(
    votes: Path, rows: list[str] | None, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if rows is not None:
        names = ("model_a", "model_b", "outcome")
        made = [json.dumps(dict(zip(names, row.split(), strict=True))) + "\n" for row in rows]
        votes.write_text("".join(made), encoding="utf-8")
    assert main(["arena", "rate", str(votes), *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and not said.out
    if "perfect separation" in words or "groups" in words:
        assert main(["arena", "rate", str(votes), "--prior", "0.1"]) == 0
        assert ("can't be compared" in capsys.readouterr().out) == ("groups" in words)

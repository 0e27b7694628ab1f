"""`qwill eval compare` of models that answered in one recipe, or in two, or in a recipe and in `qwill eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.made_up_run import make_run

from qwill.base.artifact import seal
from qwill.base.files import read_json, read_jsonl, write_json, write_jsonl
from qwill.cli.main import main
from qwill.evaluate.scores import compare as compared_by_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    make_run(root, problems=60)
    return root


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(run / "results" / "results.jsonl")]


def sealed(folder: Path, rows: list[dict[str, Any]], stage: str = "results", **config: Any) -> Path:
    """Results in a folder, as the stage writes them."""
    folder.mkdir(parents=True)
    write_jsonl(folder / "results.jsonl", rows)
    if stage == "eval":
        write_json(folder / "summary.json", {"tasks": {"bilingual": {"metrics": ["score"]}}})
    seal(
        folder, kind="results", stage=stage, stage_version=1, recipe="qw1-0", inputs={}, config=config, seed=0,
        libraries={}, threads=1, dtype="float32", metrics={},
    )  # fmt: skip
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["eval", "compare", *words, "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def sentence(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["eval", "compare", *words]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("qwill: ") and told.err.count("\n") == 1
    return told.err


def test_two_models_of_one_recipe_say_what_the_recipe_says(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = str(run / "results")
    found = said(capsys, f"{results}:aligned", f"{results}:sft")
    assert (found["a"]["model"], found["b"]["model"]) == ("aligned", "sft") and not any(
        "asked alike" in note or "answered by" in note for note in found["notes"]
    )
    lines = {(line["task"], line["language"]): line for line in found["lines"]}
    assert set(lines) == {(task, part) for task in ("bilingual", "bilingual_sampled") for part in ("", "en", "zh")}
    greedy = {
        name: [row for row in rows_of(run) if row["model"] == name and row["kind"] == "greedy"]
        for name in ("sft", "aligned")
    }
    for language in ("en", "zh"):
        sides = [[row for row in greedy[name] if row["language"] == language] for name in ("sft", "aligned")]
        wanted, line = compared_by_recipe(sides[0], sides[1], 0.05), lines["bilingual", language]
        for name in ("difference", "lower", "upper", "p_value"):
            assert line[name] == pytest.approx(wanted[name], abs=1e-12)
        assert (line["only_a"], line["only_b"]) == (wanted["gained"], wanted["lost"])
        assert line["n"] == line["clusters"] == 60 and line["test"] == "exact McNemar"
    both = lines["bilingual", ""]
    # The same problems in both languages: pairs of rows are not independent.
    assert (both["n"], both["clusters"], both["test"]) == (120, 60, "exact sign flips of clusters")
    assert lines["bilingual_sampled", ""]["metric"] == "score" and both["better"] == "a"


def test_the_page_shows_a_recipes_replies(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, results = tmp_path / "page.html", str(run / "results")
    said(capsys, f"{results}:base", f"{results}:int8", "--tasks", "bilingual", "--html", str(page))
    assert "<bdi>int8</bdi>" in page.read_text(encoding="utf-8")


def test_two_recipes_are_paired_by_question_and_not_by_id(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another order and other ids, fewer problems, other settings: what both were asked counts."""
    rows = [row for row in rows_of(run) if row["model"] in ("sft", "aligned") and row["kind"] == "greedy"]
    kept = rows[::-1][10:]
    renamed = [row | {"id": f"other-{number}"} for number, row in enumerate(kept)]
    folder = sealed(tmp_path / "there" / "results", renamed, max_tokens=96)
    found = said(capsys, f"{run / 'results'}:sft", f"{folder}:sft", "--tasks", "bilingual")
    line = found["lines"][0]
    assert line["difference"] == 0 and line["only_a"] == line["only_b"] == 0
    assert line["n"] == sum(row["model"] == "sft" for row in kept)
    # Both are called sft, so their folders tell them apart.
    assert (found["a"]["model"], found["b"]["model"]) == (str(run / "results"), str(folder))
    assert any("bilingual.generate.max_tokens" in note for note in found["notes"])


def test_a_recipes_model_against_one_that_qwill_eval_asked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in rows_of(run) if row["model"] == "sft" and row["kind"] == "greedy"]
    own = [
        {
            "task": "bilingual", "id": str(number), "language": row["language"], "prompt": row["prompt"],
            "cluster": row["key"], "answer": None, "scores": {"score": float(row["correct"][0])}, "replies": [],
        }
        for number, row in enumerate(rows[5:])
    ]  # fmt: skip
    settings = {"settings": {"chat": False, "shots": 0}, "tasks": {"bilingual": {"generate": {"max_tokens": 96}}}}
    folder = sealed(tmp_path / "own", own, "eval", **settings)
    found = said(capsys, f"{run / 'results'}:sft", str(folder))
    assert found["lines"][0]["n"] == len(rows) - 5 and found["lines"][0]["difference"] == 0
    assert [note.split(": ")[1].split(" is ")[0] for note in found["notes"] if "asked alike" in note] == ["chat"]


def test_what_cannot_be_compared_is_one_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = str(run / "results")
    rows = [row for row in rows_of(run) if row["model"] == "sft" and row["kind"] == "greedy"]
    others = sealed(tmp_path / "others", [row | {"prompt": f"{row['prompt']} (again)"} for row in rows])
    twice = sealed(tmp_path / "twice", [rows[0], rows[0] | {"id": "again"}])
    broken = sealed(tmp_path / "broken", [*rows[:2], rows[2] | {"correct": ["yes"]}])
    keyless = sealed(tmp_path / "keyless", [{name: value for name, value in rows[0].items() if name != "key"}])
    empty = sealed(tmp_path / "empty", [])
    nameless = sealed(tmp_path / "nameless", [{"kind": "greedy"}])
    for words, says in (
        ((results, results), "holds several models (base, sft, aligned, int8); name one: "),
        ((f"{results}:sftt", results), "holds no model 'sftt'; did you mean sft?"),
        ((f"{results}:sft", str(others)), "task bilingual: the two results have no question in common (120 and 120)"),
        ((f"{results}:sft", str(twice)), "ask the same of sft"),
        ((f"{results}:sft", str(broken)), "line 3: `correct` is ['yes']; expected true or false for each"),
        ((str(keyless), results), "line 1 has no proper `key`"),
        ((str(empty), results), "holds no answers to problems"),
        ((str(nameless), results), "line 1 has no proper `model`"),
        ((f"{run / 'arena'}:sft", results), "holds no results of a recipe, so no 'sft' of it"),
        ((str(run / "tasks"), results), "is an artifact of the kind tasks; expected results"),
        ((f"{results}:sft", f"{results}:aligned", "--tasks", "boolq"), "has no task 'boolq'"),
        ((f"{tmp_path / 'nowhere'}:sft", results), "no such model or artifact"),
    ):
        assert says in sentence(capsys, *words), words


def test_two_revisions_of_a_task_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def made(name: str, prompt: str, revision: str) -> str:
        row = {"task": "bilingual", "id": "0", "language": "en", "prompt": prompt, "scores": {"score": 1.0}}
        source = {"hub": "org/name", "revision": revision}
        return str(sealed(tmp_path / name, [row], "eval", tasks={"bilingual": {"source": source}}))

    old, new, changed = made("old", "1 + 1", "a1"), made("new", "1 + 1", "b2"), made("changed", "1 + 2", "a1")
    told = sentence(capsys, old, new)
    assert "task bilingual is of two revisions" in told and "a1" in told and "b2" in told
    told = sentence(capsys, old, changed)
    assert "task bilingual is of two revisions: example 0 is another question" in told and "prompt differs" in told
    assert read_json(Path(old) / "summary.json")["tasks"]

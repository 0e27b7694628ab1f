"""`qwill eval`: what it makes, that it goes on where it was killed, and what it says of two results."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.gguf_models import tiny

from qwill.base.artifact import MANIFEST, read_manifest, verify
from qwill.cli.main import main
from qwill.evaluate.task import load_examples, load_task
from qwill.hub.lineage import trace
from qwill.model import save_model

EXAMPLES = Path(__file__).parents[2] / "examples" / "eval"
TASK = """\
name: sums
about: little sums
source: {jsonl: sums.jsonl}
languages: [en, zh]
kind: choice
prompt: "{{ q }}"
choices: "{{ choices }}"
answer: "{{ gold }}"
metrics: [acc, acc_norm]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that know nothing, each of its own mind."""
    folder = tmp_path_factory.mktemp("models")
    model, tokenizer = tiny("qwen3")
    save_model(model, folder / "one", tokenizer)
    with torch.no_grad():
        model.embed_tokens.weight.copy_(model.embed_tokens.weight.flip(0))
    save_model(model, folder / "other", tokenizer)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "id": f"q{i}",
            "q": f"{i} + {i} =" if i % 2 else f"{i}加{i}等于",
            "language": "en" if i % 2 else "zh",
            "choices": [str(2 * i), str(2 * i + 1), "什么"],
            "gold": 0,
        }
        for i in range(24)
    ]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "sums.yaml").write_text(TASK, encoding="utf-8")
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_results_are_an_artifact(models: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "eval", str(models / "one"), "--tasks", "sums.yaml")
    folder = Path(found["folder"])
    assert folder.parent == Path("runs/evals") and folder.name.startswith("one-")
    manifest = read_manifest(folder)
    assert manifest is not None and manifest.kind == "results" and manifest.content_id == found["content_id"]
    assert verify(folder) == [] and not list(folder.parent.glob(".work/*"))
    assert [ancestor.stage for ancestor in trace(folder, [models])] == ["eval", "elsewhere"]
    assert set(manifest.config["tasks"]["sums"]["files"]) == {"sums.jsonl"}
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 24 and all(len(row["logprobs"]) == 3 for row in rows)
    score = found["tasks"]["sums"]["all"]["acc"]
    assert score["mean"] == sum(row["scores"]["acc"] for row in rows) / 24 == manifest.metrics["sums.acc"]
    assert score["method"] == "wilson" and set(found["tasks"]["sums"]["languages"]) == {"en", "zh"}
    # The same again: nothing is asked, whoever calls it and wherever the model lies.
    before = (folder / MANIFEST).stat().st_mtime_ns
    assert main(["eval", str(models / "one"), "--tasks", "sums.yaml"]) == 0
    shown = capsys.readouterr()
    assert (folder / MANIFEST).stat().st_mtime_ns == before and "made already" in shown.err
    assert "95 % interval" in shown.out and "sums" in shown.out
    # Another seed, limit or line of the file is another result.
    (here / "sums.jsonl").write_text((here / "sums.jsonl").read_text().replace("3 + 3", "3 plus 3"))
    again = said(capsys, "eval", str(models / "one"), "--tasks", "sums.yaml")
    assert again["recipe_id"] != found["recipe_id"]


def test_results_that_were_changed_are_made_again(models: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("eval", str(models / "one"), "--tasks", "sums.yaml", "--out", "done")
    first = said(capsys, *command)
    rows = Path("done/results.jsonl")
    rows.write_text(rows.read_text(encoding="utf-8").replace('"acc": 0.0', '"acc": 1.0'), encoding="utf-8")
    assert said(capsys, *command) == first and verify(Path("done")) == []
    # Another kind of results, a recipe's, is nobody's to replace, and not to be compared like this.
    manifest = json.loads(Path("done/qwill.json").read_text(encoding="utf-8"))
    Path("done/qwill.json").write_text(json.dumps(manifest | {"stage": "results"}), encoding="utf-8")
    for words, says in (
        (command, "holds no results of `qwill eval`"),
        (("eval", "compare", "done", "done"), "line 1 has no proper `model`"),
    ):
        assert main(list(words)) == 2
        assert says in capsys.readouterr().err


def test_two_runs_make_the_same_artifact_and_a_killed_one_goes_on(
    models: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwill.evaluate import run_choices, run_task

    command = ("eval", str(models / "one"), "--tasks", "sums.yaml", "--out")
    whole = said(capsys, *command, "whole")
    kept, asked = run_task.KeptRows.add, []

    def dies(self: Any, row: dict[str, Any]) -> None:
        kept(self, row)
        asked.append(row["id"])
        if len(asked) == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_choices, "TOGETHER", 4)
    monkeypatch.setattr(run_task.KeptRows, "add", dies)
    assert main([*command, "cut"]) == 130
    assert not Path("cut").exists()
    assert said(capsys, *command, "cut")["content_id"] == whole["content_id"]
    assert len(asked) == 24 and len(set(asked)) == 24


def test_compare_says_what_differs(models: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "other"):
        said(capsys, "eval", str(models / name), "--tasks", "sums.yaml", "--out", name)
    found = said(capsys, "eval", "compare", "one", "other", "--html", "out/apart.html")
    assert [(line["task"], line["language"]) for line in found["lines"]] == [
        ("sums", ""),
        ("sums", "en"),
        ("sums", "zh"),
    ]
    assert found["a"]["model"] == "one" and found["b"]["content_id"] == read_manifest(Path("other")).content_id  # type: ignore[union-attr]
    line = found["lines"][0]
    page = Path("out/apart.html").read_text(encoding="utf-8")
    assert page.count('<article class="card example"') == line["only_a"] + line["only_b"] > 0
    assert main(["eval", "compare", "one", "other", "--metric", "acc_norm"]) == 0
    shown = capsys.readouterr().out
    assert "acc_norm" in shown and "no difference shown" in shown and "3 comparisons were made" in shown
    assert not any("asked" in note for note in found["notes"])
    (here / "sums.yaml").write_text(TASK + 'delimiter: ""\n', encoding="utf-8")
    said(capsys, "eval", str(models / "one"), "--tasks", "sums.yaml", "--shots", "2", "--limit", "9", "--out", "shots")
    page = here / "asked.html"
    notes = said(capsys, "eval", "compare", "one", "shots", "--html", str(page))["notes"]
    assert [note.partition(": ")[2].partition(" is")[0] for note in notes if "asked alike" in note] == [
        "shots",
        "sums.delimiter",
    ]
    assert "提问方式不同：shots" in page.read_text(encoding="utf-8")
    same = said(capsys, "eval", "compare", "one", "one")
    assert {line["better"] for line in same["lines"]} == {""} and same["a"]["model"] == same["b"]["model"] == "one"


def test_what_cannot_be_done_is_a_sentence(models: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = str(models / "one")
    assert main(["eval", one, "--tasks", "sums.yaml", "--out", "done"]) == 0
    (here / "other.yaml").write_text(TASK.replace("about: little sums", "about: others"))
    (here / "renamed.yaml").write_text(TASK.replace("name: sums", "name: others"))
    assert main(["eval", one, "--tasks", "renamed.yaml", "--out", "renamed"]) == 0
    (here / "gone.yaml").write_text(TASK.replace("sums.jsonl", "gone.jsonl"))
    (here / "full").mkdir()
    (here / "full" / "mine.txt").write_text("precious")
    capsys.readouterr()
    for words, says in (
        (["eval", one], "no task is named"),
        (["eval", one, "--tasks", "sums"], "there is no task 'sums'"),
        (["eval", one, "a=b", "--tasks", "sums.yaml"], "is a model; use options"),
        (["eval", one, "--tasks", "sums.yaml,other.yaml"], "two tasks that call themselves 'sums'"),
        (["eval", one, "--tasks", "gone.yaml"], "gone.jsonl is not there"),
        (["eval", one, "--tasks", "sums.yaml", "--thinking"], "thinking needs the chat template"),
        (["eval", one, "--tasks", "sums.yaml", "--out", "full"], "holds no results"),
        (["eval", one, "--tasks", "sums.yaml", "--out", "sums.jsonl"], "holds no results"),
        (["eval", "done", "--tasks", "sums.yaml"], "kind results; expected a model"),
        (["eval", "nothing", "--tasks", "sums.yaml"], "nothing: no such model"),
        (["eval", "recipe.yaml", "--tasks", "sums"], "--tasks is for a model, and recipe.yaml is a recipe"),
        (["eval", "compare", "done", one], "holds no qwill.json"),
        (["eval", "compare", "done", "renamed"], "no task in common"),
        (["eval", "compare", "done", "done", "--tasks", "x"], "has no task 'x'"),
        (["eval", "compare", "done", "done", "--metric", "f1"], "task sums has no metric 'f1'; it has acc, acc_norm"),
    ):
        assert main(words) == 2, words
        assert says in capsys.readouterr().err, words
    assert (here / "full" / "mine.txt").read_text() == "precious"
    rows = Path("done/results.jsonl")
    rows.write_text(rows.read_text(encoding="utf-8").replace('"acc": ', '"oops": ', 1), encoding="utf-8")
    assert main(["eval", "compare", "done", "done"]) == 2
    assert "its score acc is None" in capsys.readouterr().err
    rows.write_text("[]\n")
    assert main(["eval", "compare", "done", "done"]) == 2
    assert "line 1 holds list" in capsys.readouterr().err


def test_the_examples_of_the_guide_are_tasks(models: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capitals = str(EXAMPLES / "capitals.yaml")
    found = said(capsys, "eval", str(models / "one"), "--tasks", capitals, "--shots", "1")["tasks"]["capitals"]
    assert found["examples"] == 8 and set(found["languages"]) == {"en", "zh"}
    task = load_task(EXAMPLES / "haiku.yaml")
    example = load_examples(task)[3]
    assert example.prompt == "用三行诗写春雨，只写诗。" and example.language == "zh"
    specification = spec_from_file_location("haiku", EXAMPLES / "haiku.py")
    assert specification is not None and specification.loader is not None
    specification.loader.exec_module(haiku := module_from_spec(specification))
    assert haiku.three_lines(example, "春雨\n\n夜\n花") == (1.0, "3 lines")


def test_the_box_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for task in said(capsys, "eval", "tasks")["tasks"]:
        assert task["about"] and task["kind"] in ("choice", "generate")
    assert main(["eval", "tasks"]) == 0

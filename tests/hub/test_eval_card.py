"""Scores in a model's card: what the Hub reads of them, and that all else of the card stays as it is."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from family import make_family
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.gguf_models import tiny

from qwill.base.artifact import Manifest, content_id, identify
from qwill.base.errors import ArtifactError, DataError
from qwill.cli.main import main
from qwill.evaluate.eval_results import Results
from qwill.hub import eval_card
from qwill.hub.card import refresh_cards
from qwill.hub.eval_card import BEGIN, END, KEY, hub_results, kept_scores, write_card
from qwill.model import save_model

OWN = """\
---
license: mit  # mine
# what it is for
tags:
- small

pipeline_tag: text-generation
---
# A model of mine

It says “你好”.   \n\n<!-- qwill eval is a command -->
"""
OTHERS = """\
---
model-index:
- name: theirs
  results:
  - task: {type: text-generation}
    dataset: {name: GSM8K, type: gsm8k}
    metrics: [{type: accuracy, value: 12.5, verified: false}]
# the end
license: mit
---
Text.
"""


def results(model: str, task: str = "boolq", mean: float = 0.625, more: dict[str, Any] | None = None) -> Results:
    one = {"mean": mean, "lower": mean - 0.1, "upper": mean + 0.1, "stderr": 0.05, "n": 80, "method": "wilson"}
    config = {"settings": {"limit": 0, "shots": None, "weights": "float", **(more or {})}, "tasks": {task: {}}}
    manifest = Manifest(
        "results", "eval", 1, "qw1-r", "qw1-c", {"model": model}, config, 0, {}, 1, "float32", {}, {}, {}
    )
    summary = {"tasks": {task: {"metrics": ["acc", "acc_norm"], "all": {"acc": one, "acc_norm": one}}}}
    return Results(Path("out"), manifest, "mine", [], summary)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made, tokenizer = tiny("qwen3")
    save_model(made, tmp_path / "above" / "model", tokenizer)
    return tmp_path / "above" / "model"


def text_of(folder: Path) -> str:
    return (folder / "README.md").read_bytes().decode()


def without_scores(text: str) -> str:
    """The card less the lines of `model-index` and of the table."""
    begin, end = text.index("model-index:"), text.index(BEGIN)
    front = text[begin:].splitlines(keepends=True)
    rest = next(n for n, line in enumerate(front[1:], start=1) if line[0] not in " -" or line.rstrip() == "---")
    kept = text[:begin] + "".join(front[rest:])
    end = kept.index(BEGIN)
    return (kept[:end] + kept[kept.index(END) + len(END) :]).rstrip()


@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_all_else_of_the_card_stays(model: Path, line: str) -> None:
    own = OWN.replace("\n", line)
    (model / "README.md").write_bytes(own.encode())
    before, found = content_id(model)[0], results(identify(model).content_id)
    assert write_card(model, found)
    text = text_of(model)
    assert without_scores(text) == own.rstrip() and content_id(model)[0] == before
    assert line == "\n" or "\n" not in text.replace("\r\n", "")
    assert "| boolq |  | acc | 62.5 | 52.5 – 72.5 | 80 |" in text
    # Again, and again from another copy of the same card: the same bytes, and not even a new file.
    stamp = (model / "README.md").stat().st_mtime_ns
    assert not write_card(model, found) and text_of(model) == text
    assert (model / "README.md").stat().st_mtime_ns == stamp
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_the_hub_reads_the_metadata(model: Path) -> None:
    (model / "README.md").write_text(OWN, encoding="utf-8")
    write_card(model, results(identify(model).content_id, more={"shots": 5, "chat": True}))
    data = ModelCard.load(model / "README.md").data
    assert data.license == "mit" and data.model_name == "mine" and data.eval_results is not None
    first, second = data.eval_results
    assert (first.task_type, first.dataset_name, first.dataset_type) == ("text-generation", "boolq", "boolq")
    assert (first.metric_type, first.metric_name, first.metric_value) == ("accuracy", "acc", 0.625)
    assert first.metric_args is not None and first.metric_args["lower"] == pytest.approx(0.525)
    assert first.dataset_args is not None and first.dataset_args["shots"] == 5 and second.metric_type == "acc_norm"


def test_scores_add_up_and_old_ones_are_replaced(model: Path) -> None:
    mine = identify(model).content_id
    (model / "README.md").write_text(OTHERS, encoding="utf-8")

    def own() -> list[tuple[str, float, dict[str, Any]]]:
        (entry,) = yaml.safe_load(text_of(model).split("---\n")[1])[KEY]
        assert entry["name"] == "theirs" and entry["results"][0]["dataset"] == {"name": "GSM8K", "type": "gsm8k"}
        return [(r["dataset"]["name"], r["metrics"][0]["value"], r["dataset"]["args"]) for r in entry["results"][1:]]

    # One of other weights, as if they had been trained on.
    eval_card._replace(
        model, eval_card._updated(text_of(model), "theirs", hub_results(results("qw1-old", "piqa", 0.9)))
    )
    assert [name for name, _, _ in own()] == ["piqa"]
    write_card(model, results(mine, "boolq", 0.5))
    write_card(model, results(mine, "hellaswag", 0.25))
    write_card(model, results(mine, "boolq", 0.7, {"shots": 5}))
    write_card(model, results(mine, "boolq", 0.625))
    assert [(name, value, args.get("shots")) for name, value, args in own()] == [
        ("boolq", 0.625, None), ("hellaswag", 0.25, None), ("boolq", 0.7, 5),
    ]  # fmt: skip
    text = text_of(model)
    assert (
        text.count(BEGIN) == 1 and "# the end\nlicense: mit\n---" in text and "| boolq | shots 5 | acc | 70.0" in text
    )


def test_a_card_that_is_not_there_is_made(model: Path, tmp_path: Path) -> None:
    (model / "README.md").unlink(missing_ok=True)
    assert write_card(model, results(identify(model).content_id))
    assert ModelCard.load(model / "README.md").data.eval_results
    life = make_family(tmp_path / "life", "ab" * 32)
    sft = life / "sft"
    (sft / "README.md").unlink(missing_ok=True)
    write_card(sft, results(identify(sft).content_id))
    assert "## How it was made" in text_of(sft) and "| boolq |" in text_of(sft)
    # A run of the recipe writes the card anew, and the scores stay.
    refresh_cards([sft], {})
    assert "| boolq |" in text_of(sft) and ModelCard.load(sft / "README.md").data.eval_results
    assert kept_scores("---\n[", "new") == "new" == kept_scores("", "new")


def test_two_writers_lose_nothing_and_a_killed_one_leaves_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = identify(model).content_id
    (model.parent / ".model.README.md.killed.tmp").write_text("half")
    names = [f"task{number}" for number in range(12)]
    threads = [threading.Thread(target=write_card, args=(model, results(mine, name))) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(f"| {name} |" in text_of(model) for name in names)
    assert [path.name for path in model.parent.iterdir()] == ["model"] and identify(model).content_id == mine
    before = text_of(model)

    def fails(one: str, other: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="No space"):
        write_card(model, results(mine, "last"))
    assert text_of(model) == before and [path.name for path in model.parent.iterdir()] == ["model"]


words = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)


@given(
    st.dictionaries(st.text("abcdefgh_", min_size=1, max_size=6), words | st.integers() | st.lists(words, max_size=3)),
    st.lists(words, max_size=6),
    st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_any_card_keeps_its_fields_and_its_text(fields: dict[str, Any], lines: list[str], place: int) -> None:
    items = list(fields.items())
    index = [{"name": "x", "results": []}] if place else None
    if index:
        items.insert(min(place, len(items)), (KEY, index))
    front = yaml.safe_dump(dict(items), sort_keys=False, allow_unicode=True) if items else ""
    body = "\n".join(lines)
    card = f"---\n{front}---\n{body}"
    made = eval_card._updated(card, "m", hub_results(results("qw1-m")))
    again = eval_card._updated(made, "m", hub_results(results("qw1-m")))
    assert again == made
    found = eval_card._parsed(eval_card._split(made)[0])
    assert {name: value for name, value in found.items() if name != KEY} == fields
    assert len(found[KEY]) == 1 and len(found[KEY][0]["results"]) == 1
    assert eval_card._split(made)[1].startswith(body)


SPOILT: dict[str, tuple[str, str]] = {
    "open": ("---\nlicense: mit\n", "line 1 begins metadata that no line of --- ends"),
    "yaml": ("---\nlicense: mit\ntags: [a\n---\n", "is not valid YAML"),
    "list": ("---\n- a\n---\n", "its metadata is a list"),
    "index": ("---\nmodel-index: 3\n---\n", "`model-index` is none as the Hub reads it"),
    "flow": ("---\n{license: mit}\n---\n", "can't be added to; write one key a line"),
    "marks": (f"{BEGIN}\n", "of these there are 1 and 0; leave one pair, or none"),
    "turned": (f"{END}\n{BEGIN}\n", "of these there are 1 and 1"),
}
TASK = 'name: t\nsource: {jsonl: t.jsonl}\nkind: choice\nprompt: "{{ q }}"\nchoices: [a, b]\nanswer: 0\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.yaml").write_text(TASK)
    (tmp_path / "t.jsonl").write_text('{"q": "1"}\n{"q": "2"}\n')
    return tmp_path


def test_the_command_writes_it_even_where_the_results_were_made_before(
    model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", str(model), "--tasks", "t.yaml", "--out", "out"]
    assert main(command) == 0
    copy = here / "published"
    shutil.copytree(model, copy)
    for folder in (model, copy):
        assert main([*command, "--card", str(folder), "--json"]) == 0
        shown = capsys.readouterr()
        assert "made already" in shown.err and "scores written" in shown.err
        found = json.loads(shown.out[shown.out.index("{\n") :])["tasks"]["t"]["all"]["acc"]["mean"]
        assert ModelCard.load(folder / "README.md").data.eval_results[0].metric_value == found  # type: ignore[index]
    assert main([*command, "--card", str(model)]) == 0
    assert "scores written" not in capsys.readouterr().err


@pytest.mark.parametrize("case", SPOILT)
def test_a_card_that_cannot_be_read_is_a_sentence_before_the_work(
    model: Path, here: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    card, says = SPOILT[case]
    (model / "README.md").write_text(card)
    assert main(["eval", str(model), "--tasks", "t.yaml", "--out", "out", "--card", str(model)]) == 2
    told = capsys.readouterr().err
    assert says in told and "README.md" in told and told.count("\n") == 1
    assert (model / "README.md").read_text() == card and not Path("out").exists() and not Path(".work").exists()


def test_folders_that_are_not_the_models(model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, tokenizer = tiny("qwen3_moe")
    save_model(other, here / "other", tokenizer)
    for folder, says in (
        ("gone", "--card: gone is no folder"),
        ("other", "and the model that is scored is qw1-"),
        (".", "holds no config.json"),
    ):
        assert main(["eval", str(model), "--tasks", "t.yaml", "--out", "out", "--card", folder]) == 2
        told = capsys.readouterr().err
        assert says in told and told.count("\n") == 1, told
    assert not Path("out").exists()
    with pytest.raises(ArtifactError, match="the scores are of qw1-x"):
        write_card(model, results("qw1-x"))
    (model / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        write_card(model, results(identify(model).content_id))


def test_an_own_result_that_was_spoilt_is_left_to_its_owner(model: Path) -> None:
    """Numbers that someone has taken out are no reason to fail."""
    mine = identify(model).content_id

    def spoil(change: Callable[[dict[str, Any]], None]) -> None:
        (one,) = hub_results(results(mine))
        change(one)
        front = yaml.safe_dump({KEY: [{"name": "m", "results": [one]}]})
        (model / "README.md").write_text(f"---\n{front}---\n")
        assert write_card(model, results(mine, "piqa"))
        assert "| piqa |" in text_of(model) and "| boolq |" not in text_of(model)

    spoil(lambda one: one["metrics"][0].pop("args"))
    spoil(lambda one: one["metrics"][0].update(value="good"))
    spoil(lambda one: one.update(metrics=None))
    spoil(lambda one: one["dataset"].pop("name"))

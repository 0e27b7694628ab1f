import json
from pathlib import Path

import pytest
from family import make_family

from qwill.base.artifact import need_manifest
from qwill.cli.main import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QWILL_CACHE", str(tmp_path / "cache"))
    return make_family(Path("runs"), "ab" * 32)


def test_the_tree_names_every_ancestor_source_and_place(life: Path, capsys: Captured) -> None:
    assert main(["lineage", "runs/life/int8"]) == 0
    shown = capsys.readouterr().out
    for stage in ("int8", "sft", "base", "corpus", "dialogues", "tasks"):
        assert f"runs/life/{stage}" in shown and need_manifest(life / stage).content_id[:16] in shown
    assert "texts 1.2: a, b (package, CC-BY)" in shown and "bits per byte en 2.345" in shown
    assert shown.count("see above") == 1


def test_json_is_the_whole_way_back(life: Path, capsys: Captured) -> None:
    assert main(["lineage", "runs/life/sft", "--json"]) == 0
    first, *others = json.loads(capsys.readouterr().out)["artifacts"]
    assert first["content_id"] == need_manifest(life / "sft").content_id and first["folder"] == "runs/life/sft"
    assert {other["stage"] for other in others} == {"base", "corpus", "dialogues", "tasks"}
    assert [s["name"] for other in others for s in other["sources"]] == ["texts"]


def test_an_artifact_may_be_named_by_the_beginning_of_its_content_id(life: Path, capsys: Captured) -> None:
    assert main(["lineage", need_manifest(life / "base").content_id[:14], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["artifacts"][0]["stage"] == "base"


def test_documents_are_shown(capsys: Captured) -> None:
    assert main(["lineage", "runs/life/sft", "--documents", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["documents"]
    assert sorted(row["id"] for row in rows) == ["d-1", "doc-0", "doc-1", "rl-1", "talk-1"]
    assert main(["lineage", "runs/life/sft", "--document", "doc-3"]) == 0
    shown = capsys.readouterr().out
    assert "text 3 你好" in shown and "doc-3 · a · en · runs/life/corpus/train.parquet" in shown
    assert main(["lineage", "runs/life/sft", "--document", "doc-9"]) == 2
    assert "doc-9" in capsys.readouterr().err


def test_verify_names_what_was_changed_and_what_was_not_found(life: Path, capsys: Captured) -> None:
    assert main(["lineage", "runs/life/int8", "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "nothing was changed · 6 hashed again, 1 not found" in shown and "not found package texts 1.2" in shown
    with open(life / "tasks/rl.jsonl", "a") as f:
        f.write("\n")
    assert main(["lineage", "runs/life/int8", "--verify"]) == 2
    shown = capsys.readouterr().out
    assert "rl.jsonl was changed" in shown and "1 changed" in shown
    assert main(["lineage", "runs/life/int8", "--verify", "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["intact"] is False and [c["name"].split()[0] for c in answer["checks"] if c["problems"]] == ["tasks"]

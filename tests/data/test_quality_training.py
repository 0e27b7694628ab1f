"""From files that a user names to a classifier in a folder, by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.data.test_quality import made_up

from qwill.base.errors import ConfigError, DataError
from qwill.cli.main import main
from qwill.data.quality import load_quality, score_batch
from qwill.data.quality_training import make_quality


def write(path: Path, good: bool, count: int) -> Path:
    texts = [text for _, text in made_up("en", good, count, 1)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_the_command_trains_on_the_files_that_a_config_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = {name: [{"name": name, "path": str(write(tmp_path / f"{name}.jsonl", name == "good", 300))}] for name in
            ("good", "bad")}  # fmt: skip
    config = tmp_path / "quality.yaml"
    config.write_text(json.dumps(sets | {"languages": ["en"]}))
    assert main(["data", "quality", str(config), "settings.bits=12", "--out", str(tmp_path / "model")]) == 0
    assert "en: AUC" in capsys.readouterr().out
    model = load_quality(tmp_path / "model")
    assert model.settings.bits == 12 and model.report["en"]["auc"] > 0.95
    assert [origin["paths"] for origin in model.made_from["good"]] == [["good.jsonl"]]
    good, bad = (score_batch(model, [t for _, t in made_up("en", side, 40, 7)], "en").mean() for side in (True, False))
    assert good > 0.7 > 0.3 > bad


def test_too_few_texts_leave_the_folder_as_it_was(tmp_path: Path) -> None:
    few, many = write(tmp_path / "few.jsonl", True, 20), write(tmp_path / "many.jsonl", False, 60)
    sets = {"good": [{"name": "a", "path": str(few)}], "bad": [{"name": "b", "path": str(many)}]}
    with pytest.raises(DataError, match="the good set has 20 different texts in 'en'"):
        make_quality(sets | {"languages": ["en"]}, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(ConfigError, match=r"quality\.bad is missing"):
        make_quality({"good": []}, tmp_path / "model")

"""The classifier's score in a corpus: in every record, as a threshold, and as a label that a mixture can name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.data.test_quality import made_up

from qwill.base.progress import Display
from qwill.data import CorpusArtifact, curate
from qwill.data.quality import QualitySettings, load_quality, save_quality, score_batch, train_quality


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that knows English only, and a file of good, bad and Chinese texts."""
    folder = tmp_path_factory.mktemp("quality")
    sides = [made_up("en", good, 300, 1) for good in (True, False)]
    save_quality(train_quality(*sides, QualitySettings(bits=12)), folder / "model")
    texts = [t for good in (True, False) for _, t in made_up("en", good, 40, 5)]
    texts += [f"{t}。人们在山上看见了河流" for _, t in made_up("zh", True, 20, 5)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return folder


def corpus(folder: Path, out: Path, score: dict[str, Any], **more: Any) -> CorpusArtifact:
    config = {
        "sources": [{"name": "texts", "path": str(folder / "texts.jsonl")}], "filters": [], "near": None,
        "score": {"quality": str(folder / "model"), **score}, "heldout": {"share": 0.05, "min_bytes": 1}, "workers": 1,
    }  # fmt: skip
    return curate(config | more, out, Display(quiet=True))


def test_every_record_has_its_score_and_a_language_that_is_unknown_to_it_has_none(folder: Path, tmp_path: Path) -> None:
    model = load_quality(folder / "model")
    records = list(corpus(folder, tmp_path / "out", {}))
    assert {r.language for r in records} == {"en", "zh"}
    for record in records:
        if record.language == "en":
            assert record.scores["quality"] == float(score_batch(model, [record.text], "en")[0])
        else:
            assert record.scores.get("quality") is None


def test_the_threshold_drops_what_lies_below_it(folder: Path, tmp_path: Path) -> None:
    every = {r.id: r for r in corpus(folder, tmp_path / "all", {})}
    kept = {r.id for r in corpus(folder, tmp_path / "some", {"min_quality": 0.5})}
    assert kept == {i for i, r in every.items() if r.language == "zh" or r.scores["quality"] >= 0.5}
    assert len(kept) < len(every)


def test_a_mixture_may_name_tenths_of_quality(folder: Path, tmp_path: Path) -> None:
    best = {"q9": 1.0}
    out = corpus(folder, tmp_path / "out", {}, mixture={"weights": {"quality": best}}, languages=["en"])
    scores = [r.scores["quality"] for r in out.records("train")]
    assert scores and min(scores) >= 0.9

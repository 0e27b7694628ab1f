"""A file of a data set on the Hub becomes a path, and every trouble one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from qwill.base.errors import ArtifactError
from qwill.base.resolve import resolve


def test_a_reference_is_taken_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def download(repository: str, path: str, *, repo_type: str, revision: str | None) -> str:
        asked.append((repository, path, repo_type, revision))
        return str(tmp_path / "there.parquet")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for reference in ("hub:org/name/data/train.jsonl", "hub:org/name/default/train/0000.parquet@refs/convert/parquet"):
        assert resolve(reference) == tmp_path / "there.parquet"
    assert asked == [
        ("org/name", "data/train.jsonl", "dataset", None),
        ("org/name", "default/train/0000.parquet", "dataset", "refs/convert/parquet"),
    ]


class Offline(errors.LocalEntryNotFoundError):
    def __init__(self) -> None:
        Exception.__init__(self, "offline")


class Missing(errors.RepositoryNotFoundError):
    def __init__(self) -> None:
        Exception.__init__(self, "404")


class NoFile(errors.EntryNotFoundError):
    def __init__(self) -> None:
        Exception.__init__(self, "404")


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (Offline(), "can't be reached and the file is not in its cache"),
        (Missing(), "has no data set org/name"),
        (NoFile(), "org/name has no file a.jsonl at main"),
        (OSError("the line is cut\nand more"), r"\(the line is cut\)"),
    ],
)
def test_every_trouble_is_one_sentence(monkeypatch: pytest.MonkeyPatch, raised: Exception, words: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ArtifactError, match=words) as caught:
        resolve("hub:org/name/a.jsonl")
    assert str(caught.value).startswith("hub:org/name/a.jsonl: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("reference", ["hub:", "hub:org", "hub:org/name", "hub:org/name/", "hub:org/name/a b"])
def test_a_reference_that_names_no_file_is_refused(reference: str) -> None:
    with pytest.raises(ArtifactError, match="expected hub:ORG/NAME/PATH"):
        resolve(reference)

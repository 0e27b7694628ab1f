"""The example of a corpus of one's own: what the guide says of it comes true, from the command line on."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qwill.base.files import read_jsonl
from qwill.cli.main import main
from qwill.data.documents import CorpusArtifact
from qwill.data.inspection import inspect
from qwill.data.retrace import retrace
from qwill.workflow.recipe import load_recipe
from qwill.workflow.summary import try_next

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example curated in a folder of its own, as from the root of the checkout."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "examples").symlink_to(ROOT / "examples")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["curate", "examples/curate/curate.yaml", "corpus.workers=1"]) == 0
        assert main(["curate", "examples/curate/pages", "--out", "runs/pages", "corpus.workers=1"]) == 0
    finally:
        os.chdir(before)
    return folder / "runs" / "curate-example" / "corpus"


def rejects(corpus: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for _, row in read_jsonl(corpus / "rejects.jsonl")}


def test_what_is_worth_keeping_is_kept(corpus: Path) -> None:
    records = {record.id: record for record in CorpusArtifact(corpus)}
    expected = {"pages/bread.html", "pages/tea.html", "pages/bamboo.html", "pages/mid-autumn.html"}
    expected |= {"notes/0000006", "notes/0000007"}
    assert expected <= records.keys()
    assert records["pages/tea.html"].labels["encoding"] == "gb18030"
    assert {record.language for record in records.values()} == {"en", "zh"}
    poems = [record for record in records.values() if record.register == "verse"]
    assert sorted(record.language for record in poems) == ["en", "zh"]
    text = "\n".join(record.text for record in records.values())
    for gone in ("202 555 0143", "13800138000", "Cookies", "not text", "Home |"):
        assert gone not in text
    assert "500 grams of flour" in text and "杀青" in text


def test_each_reject_says_why(corpus: Path) -> None:
    gone = {identity: row["step"] for identity, row in rejects(corpus).items()}
    steps = set(gone.values())
    assert gone["pages/empty-shop.html"] and gone["pages/advert.html"]
    assert {"unreadable", "exact_duplicates", "near_duplicates", "language"} <= steps
    assert [identity for identity, step in gone.items() if step == "unreadable"] == ["notes/0000005"]
    assert {i for i, step in gone.items() if step == "near_duplicates"} <= {"pages/tides.html", "pages/tides-copy.html"}
    for identity in gone:
        found = inspect(corpus, identity)
        assert [step["step"] for step in found["steps"] if step["decision"] == "dropped"] == [gone[identity]]


def test_the_files_are_those_of_the_guide(corpus: Path) -> None:
    guide = (ROOT / "docs" / "en" / "curation.md").read_text(encoding="utf-8")
    names = {path.name for path in corpus.iterdir()} - {"run.json", "sources.json"}
    missing = {name for name in names if f"`{name}`" not in guide}
    assert not missing
    assert {"report.html", "train.parquet", "heldout.parquet", "rejects.parquet", "qwill.json"} <= names
    report = (corpus / "report.html").read_text(encoding="utf-8")
    assert "How the tide comes in" in report and "gb18030" in report


def test_the_report_accounts_for_every_document(corpus: Path) -> None:
    funnel = json.loads((corpus / "funnel.json").read_text(encoding="utf-8"))
    read = sum(steps[0]["documents"] for steps in funnel["languages"].values())
    kept = sum(steps[-1]["documents"] for steps in funnel["languages"].values())
    assert kept == len(CorpusArtifact(corpus))
    assert read == kept + len(rejects(corpus))
    assert set(funnel["registers"]) == {"web", "essay", "verse"}


def test_a_document_is_read_again_and_seen_step_by_step(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corpus.parents[2])
    seen = retrace(corpus, "pages/bread.html")
    assert [one.step for one in seen] == ["extract", "repair", "language", "filter", "redact"]
    assert seen[0].page is not None and "<nav>" in seen[0].page and "<nav>" not in seen[0].text
    assert "202 555 0143" in seen[-2].text and "ring <PHONE> in" in seen[-1].text
    kept = {record.id: record for record in CorpusArtifact(corpus)}["pages/bread.html"]
    assert (seen[-1].text, seen[-1].language) == (kept.text, kept.language)
    assert {name: value for name, value in seen[-1].scores.items() if name in kept.scores} == kept.scores
    short = retrace(corpus, "pages/empty-shop.html")
    assert short[-1].dropped is not None
    assert short[-1].dropped[0] == rejects(corpus)["pages/empty-shop.html"]["step"]
    broken = retrace(corpus, "notes/0000005")
    assert [one.dropped and one.dropped[0] for one in broken] == ["unreadable"]


def test_what_to_try_next_is_the_corpus(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corpus.parents[2])
    report, look = try_next(load_recipe(Path("examples/curate/curate.yaml")))
    assert report == "xdg-open runs/curate-example/corpus/report.html"
    assert main(look.split()[1:]) == 0


def test_a_folder_without_a_recipe_gives_the_same_pages(corpus: Path) -> None:
    own = {record.id: record.text for record in CorpusArtifact(corpus.parents[1] / "pages" / "corpus")}
    pages = {record.id: record.text for record in CorpusArtifact(corpus) if record.source == "pages"}
    assert own == pages

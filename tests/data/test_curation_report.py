"""The corpus's report: its numbers are those of the files, and no text that it shows can do anything but be read."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.made_up_corpus import HOSTILE, limits_of_part, scores_of, write_corpus_files

from qwill.base.errors import DataError
from qwill.base.files import write_jsonl
from qwill.data import curation_report
from qwill.data.curation_report import FILES, write_report
from qwill.data.documents import Document
from qwill.data.funnel import size_of
from qwill.data.report_examples import bad_view, clusters_view, differences, pages_view, visible
from qwill.data.scores import write_scores


class Parsed(HTMLParser):
    """Elements with their attributes, the text outside of scripts, and what scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts = "", list[str]()
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Document]]:
    folder = tmp_path_factory.mktemp("corpus")
    made = write_corpus_files(folder)
    write_report(folder, "A made-up corpus " + HOSTILE[0])
    return folder, made


@pytest.fixture(scope="module")
def parsed(corpus: tuple[Path, list[Document]]) -> Parsed:
    return Parsed((corpus[0] / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data(parsed: Parsed) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(parsed.scripts[0])
    return result


def test_texts_cannot_become_markup_or_script(parsed: Parsed) -> None:
    tags = {tag for tag, _ in parsed.elements}
    assert tags.isdisjoint({"img", "iframe", "object", "link", "base", "form"})
    assert [attributes.get("type") for tag, attributes in parsed.elements if tag == "script"] == [
        "application/json",
        None,
    ]
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    policy = next(a["content"] for t, a in parsed.elements if t == "meta" and a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not re.search(r"(https?:)?//(?!www\.w3\.org/2000/svg)", "".join(str(a) for _, a in parsed.elements))
    assert HOSTILE[0] in parsed.text and HOSTILE[1] in parsed.text
    assert "7 * 7" in parsed.text and "49" not in HOSTILE[1]
    assert not set(parsed.text) & set("\u202e\u2066\x00\x07\x1b\ufeff")


def test_the_pages_columns_are_those_of_the_funnel(corpus: tuple[Path, list[Document]], data: dict[str, Any]) -> None:
    funnel = json.loads((corpus[0] / "funnel.json").read_text(encoding="utf-8"))
    assert len(data["columns"]) == len(funnel["columns"])
    for shown, column in zip(data["columns"], funnel["columns"], strict=True):
        assert {k: shown[k] for k in ("source", "language", "register")} == {
            k: column[k] for k in shown if k != "steps"
        }
        for (documents, size, dropped, gone, _, added, reasons), step in zip(
            shown["steps"], column["steps"], strict=True
        ):
            assert (documents, size) == (step["documents"], step["bytes"])
            assert (dropped, gone) == (step.get("dropped_documents", 0), step.get("dropped_bytes", 0))
            assert added == step.get("added_bytes", 0)
            assert {r: n for r, (n, _) in reasons.items()} == step.get("reasons", {})
            assert {r: n for r, (_, n) in reasons.items()} == step.get("reason_bytes", {})


def test_the_written_numbers_are_those_of_the_funnel(corpus: tuple[Path, list[Document]], parsed: Parsed) -> None:
    funnel = json.loads((corpus[0] / "funnel.json").read_text(encoding="utf-8"))
    said = [attributes["title"] for tag, attributes in parsed.elements if tag == "td" and attributes.get("title")]
    for registers in funnel["registers"].values():
        for steps in registers.values():
            for before, step in pairwise(steps):
                if step["dropped_documents"]:
                    assert any(
                        s and s.startswith(f"{step['dropped_documents']:,} / {before['documents']:,} · ") for s in said
                    )
    kept = sum(steps[-1]["documents"] for steps in funnel["languages"].values())
    assert f"{kept:,} (" in parsed.text


def test_cells_say_what_any_threshold_would_drop(corpus: tuple[Path, list[Document]], data: dict[str, Any]) -> None:
    """Sums over the page's cells, below each of its edges, against plain counting over the documents."""
    seen = 0
    for score in data["scores"]:
        edges = [float(edge) for edge in score["edges"]]
        assert edges == sorted(edges)
        for part in score["parts"]:
            limit = limits_of_part(part["language"], part["register"]).get(score["name"])
            assert (part["least"], part["most"]) == ((limit.least, limit.most) if limit else (None, None))
            own = [
                document
                for document in corpus[1]
                if (document.language, document.register) == (part["language"], part["register"])
            ]
            for place, edge in enumerate(edges):
                below = [document for document in own if document.scores[score["name"]] < edge]
                cells = [cell for cell in part["cells"] if cell[0] < place]
                assert sum(sum(cell[1:4]) for cell in cells) == len(below)
                assert sum(cell[1] for cell in cells) == sum(document.reject is None for document in below)
                assert sum(sum(cell[4:7]) for cell in cells) == sum(map(size_of, below))
                seen += 1
            for bound in (b for b in (part["least"], part["most"]) if b is not None):
                assert bound in edges or math.nextafter(bound, math.inf) in edges
    assert seen > 500


def test_a_report_is_the_same_bytes_each_time_and_small(corpus: tuple[Path, list[Document]]) -> None:
    first = (corpus[0] / "report.html").read_bytes()
    write_report(corpus[0], "A made-up corpus " + HOSTILE[0])
    assert (corpus[0] / "report.html").read_bytes() == first
    assert len(first) < 600_000


def test_a_page_that_would_be_too_large_shows_less(
    corpus: tuple[Path, list[Document]], data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curation_report, "LARGEST", 1)
    smaller = json.loads(Parsed(write_report(corpus[0]).read_text(encoding="utf-8")).scripts[0])
    write_report(corpus[0], "A made-up corpus " + HOSTILE[0])
    assert len(json.dumps(smaller)) < 0.6 * len(json.dumps(data))
    for a, b in zip(smaller["scores"], data["scores"], strict=True):
        assert [sum(c[1] for c in p["cells"]) for p in a["parts"]] == [
            sum(c[1] for c in p["cells"]) for p in b["parts"]
        ]


@pytest.mark.parametrize("missing", [*FILES, "all"])
def test_a_page_is_whole_without_a_file(tmp_path: Path, missing: str) -> None:
    write_corpus_files(tmp_path)
    for name, file in FILES.items():
        if missing in (name, "all"):
            (tmp_path / file).unlink(missing_ok=True)
    page = Parsed(write_report(tmp_path).read_text(encoding="utf-8"))
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    assert sections == [
        "funnel",
        "registers",
        "steps",
        "sweep",
        "duplicates",
        "extraction",
        "redaction",
        "decontamination",
        "mixture",
    ]
    if missing == "all":
        for sentence in (
            "has no scores.json",
            "No duplicates were found",
            "No page was extracted",
            "Nothing was redacted",
        ):
            assert sentence in page.text


def test_files_that_make_no_sense_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="funnel"):
        write_report(tmp_path)
    write_corpus_files(tmp_path)
    (tmp_path / "clusters.jsonl").write_text('{"size": 3}\n')
    with pytest.raises(DataError, match="no field 'kept'"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


texts = st.text(st.sampled_from("ab \n.，潮水\x00\u202e\ud800"), max_size=60)


@given(texts, texts)
def test_differences_lose_nothing(old: str, new: str) -> None:
    left, right = differences(old, new)
    assert "".join(text for _, text in left) == old
    assert "".join(text for _, text in right) == new
    assert [t for kind, t in left if kind == "same"] == [t for kind, t in right if kind == "same"]
    if old == new:
        assert {kind for kind, _ in left + right} <= {"same"}


def test_differences_of_one_token_over_and_over_are_found_at_once() -> None:
    old, new = "。！" * 350 + "x", "。！" * 350 + "y"
    left, right = differences(old, new)
    assert left == [("same", "。！" * 350), ("gone", "x")]
    assert right == [("same", "。！" * 350), ("new", "y")]


@given(st.text(max_size=50), st.integers(1, 60))
def test_what_is_shown_can_be_seen_and_is_bounded(text: str, most: int) -> None:
    shown = visible(text, most)
    assert not [c for c in shown if (ord(c) < 32 and c not in "\t\n") or c in "\u202a\u202e\u2066\u2069\x7f\ufeff"]
    assert shown.encode().decode() == shown
    assert shown.endswith("…") == (len(text) > most) or text[:most].endswith("…")


def test_personal_data_in_what_was_dropped_is_masked(tmp_path: Path) -> None:
    made = write_corpus_files(tmp_path)
    number = "13800138000"
    for document in made:
        if document.reject is not None and document.language == "zh":
            document.text = f"电话 {number}，" + document.text
    write_scores(tmp_path / "scores.json", [scores_of(made)])
    page = {
        "id": "webs/1",
        "source": "webs",
        "language": "zh",
        "before": f"<p>电话 {number}</p>",
        "after": f"电话 {number}",
    }
    write_jsonl(tmp_path / "extraction.jsonl", [page])
    assert number in (tmp_path / "scores.json").read_text(encoding="utf-8")
    shown = write_report(tmp_path).read_text(encoding="utf-8")
    assert number not in shown and "PHONE" in shown


def test_clusters_come_by_size_and_pages_take_turns() -> None:
    document = {"id": "a", "source": "s", "text": "one two"}
    clusters = [
        {"step": "near_duplicates", "size": size, "language": "en", "kept": document, "dropped": [document]}
        for size in (2, 9, 4)
    ]
    shown = clusters_view(clusters)
    assert [view["size"] for view in shown] == ["9", "4", "2"]
    assert [view["more"] for view in shown] == [7, 2, 0]
    rows = [
        {"id": f"{s}{i}", "source": s, "encoding": "utf-8", "before": "b", "after": "a"} for s in "xy" for i in range(3)
    ]
    assert [view["id"] for view in pages_view(rows)] == ["x0", "y0", "x1", "y1", "x2", "y2"]


def test_bad_records_are_named_from_their_file_or_the_rejects() -> None:
    rejects = [
        {"id": "s/1", "step": "unreadable", "value": "line 3 is not JSON"},
        {"id": "s/2", "step": "repair", "value": 0},
    ]
    assert bad_view([], rejects) == [{"id": "s/1", "reason": "line 3 is not JSON"}]
    assert bad_view([{"id": "s/9", "reason": "cut off"}], rejects) == [{"id": "s/9", "reason": "cut off"}]

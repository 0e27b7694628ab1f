"""The report in a real browser: its sums, its sweep, its languages, on a desktop and on a phone."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.browser import CHROMIUM, Page, page
from tests.data.made_up_corpus import HOSTILE, limits_of_part, write_corpus_files

from qwill.data.curation_report import write_report
from qwill.data.documents import Document

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Document]]:
    folder = tmp_path_factory.mktemp("corpus")
    documents = write_corpus_files(folder)
    return write_report(folder, "A made-up corpus"), documents


def choose(opened: Page, section: str, number: int, value: str) -> None:
    box = f"document.querySelectorAll('#{section} select')[{number}]"
    opened.run(f"{box}.value = {json.dumps(value)}; {box}.dispatchEvent(new Event('change'))")


def rows(opened: Page, table: str, names: tuple[str, ...]) -> list[list[Any]]:
    of = ", ".join(f"row.dataset.{name}" for name in names)
    found: list[list[Any]] = opened.run(
        f"[...document.querySelectorAll('{table} tr[data-{names[0]}]')].map((row) => [{of}])"
    )
    return found


def test_the_page_on_a_desktop(made: tuple[Path, list[Document]]) -> None:
    path, documents = made
    funnel = json.loads((path.parent / "funnel.json").read_text(encoding="utf-8"))
    with page(path) as opened:
        # Whole, then one language, then a register of it.
        steps = rows(opened, "#step-table", ("step", "documents", "bytes", "dropped"))
        totals = [sum(s[i]["bytes"] for s in funnel["languages"].values()) for i in range(len(steps))]
        assert [int(row[2]) for row in steps] == totals
        choose(opened, "step-choices", 0, "zh")
        choose(opened, "step-choices", 1, "verse")
        steps = rows(opened, "#step-table", ("step", "documents", "bytes", "dropped"))
        expected = [
            (s["documents"], s["bytes"], s.get("dropped_documents", 0)) for s in funnel["registers"]["verse"]["zh"]
        ]
        assert [(int(a), int(b), int(c)) for _, a, b, c in steps] == expected

        # The sweep: verse is short of full stops; without that rule's least value it is saved.
        opened.run("document.querySelector('#rule-table tr[data-name=\"fineweb.line_punct_ratio\"]').click()")
        choose(opened, "rule-choices", 0, "zh")
        opened.run("document.querySelector('#rule-table tr[data-name=\"fineweb.line_punct_ratio\"]').click()")
        before = rows(opened, "#rule", ("failing", "saved", "lost"))
        assert before == [[str(failing(documents, r, 0.12)), "0", "0"] for r in ("verse", "web")] + [before[-1]]
        slide(opened, "0")
        after = rows(opened, "#rule", ("failing", "saved", "lost"))
        assert after == [["0", str(alone(documents, r)), "0"] for r in ("verse", "web")] + [after[-1]]
        assert int(after[0][1]) > 0 and int(after[2][1]) == int(after[0][1]) + int(after[1][1])
        # Up to an edge above: what passed every rule and lies below it is dropped.
        slide(opened, "slider.max - 3")
        least = opened.run("rule.least")
        lost = [["verse", 0], ["web", 0]]
        for document in documents:
            if (
                document.language == "zh"
                and document.reject is None
                and document.scores["fineweb.line_punct_ratio"] < least
            ):
                lost[document.register == "web"][1] += 1  # type: ignore[operator]
        assert [int(row[2]) for row in rows(opened, "#rule", ("failing", "saved", "lost"))[:2]] == [n for _, n in lost]

        # The Chinese page; and nothing of a document's text was run or fetched.
        opened.run("document.getElementById('switch').click()")
        assert opened.run("getComputedStyle(document.querySelector('h2 [data-l=en]')).display") == "none"
        assert opened.run("document.querySelector('h2 [data-l=zh]').offsetWidth") > 0
        assert opened.run("document.title") == "A made-up corpus"
        assert opened.run("document.images.length") == 0
        assert HOSTILE[0] in opened.run("document.body.textContent")
        assert opened.errors == []


def slide(opened: Page, place: str) -> None:
    opened.run(
        "(() => { const slider = document.getElementById('slide-least'); "
        f"slider.value = {place}; slider.dispatchEvent(new Event('input')); }})()"
    )


def failing(documents: list[Document], register: str, least: float) -> int:
    own = [d for d in documents if (d.language, d.register) == ("zh", register)]
    return sum(d.scores["fineweb.line_punct_ratio"] < least for d in own)


def alone(documents: list[Document], register: str) -> int:
    """Documents that the rule on punctuation alone drops."""
    found = 0
    for document in documents:
        if (document.language, document.register) == ("zh", register) and document.reject is not None:
            wrong = {
                name
                for name, limit in limits_of_part("zh", register).items()
                if (limit.least is not None and document.scores[name] < limit.least)
                or (limit.most is not None and document.scores[name] > limit.most)
            }
            found += wrong == {"fineweb.line_punct_ratio"}
    return found


@pytest.mark.parametrize("width", [390, 1100])
def test_nothing_is_wider_than_the_page(made: tuple[Path, list[Document]], width: int) -> None:
    with page(made[0], width) as opened:
        assert opened.run("window.innerWidth") == width
        assert opened.run("document.documentElement.scrollWidth") <= opened.run("document.documentElement.clientWidth")
        assert opened.errors == []

"""Evaluation questions kept out of training text.

A document leaks a question when it holds a run of `n` units of it (13 words of an English question, as GPT-3 asks, 20
characters of a Chinese one), whatever the case, width, spacing, punctuation and Chinese script: units and runs are
compared as `fold` has them. Fewer never count, with one exception: a question that is itself shorter, of at least
`whole` units, counts as a whole. Generated questions share their phrasing, so a run that stands in more than `shared`
questions is a template and no evidence; of a question that is template all through only the whole counts. Questions
shorter than `whole` occur by chance and are not sought in running text (`Index.unsought` says how many these are).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from qwill.data.documents import Document, Reject
from qwill.data.fold import fold
from qwill.data.question_index import Index, Overlap, build_index, whole_hash
from qwill.data.questions import Question, read_questions
from qwill.data.unit_hashes import Hashes, places, run_hashes, unit_hashes

__all__ = [
    "DecontaminateSettings", "Index", "Leak", "Overlap", "Question", "build_index", "cut_leaks", "decontaminate_batch",
    "find_leaks", "find_leaks_batch", "leak", "read_questions",
]  # fmt: skip

# A unit that no folded text has, since that has no capitals: no run goes from one document into the next.
_JOINT = "A"


@dataclass(frozen=True)
class Leak:
    """`text[start:end]` of a document, `span` as it is written there, shares `units` units with a question of a set."""

    question: str
    set: str
    start: int
    end: int
    span: str
    units: int


@dataclass(frozen=True)
class DecontaminateSettings:
    """Section `decontaminate` of a curation. sets: files or folders of evaluation questions. action: `drop` the
    document, or `cut` the paragraphs that hold the leak and keep the rest."""

    sets: list[str] = field(default_factory=list)
    overlap: Overlap = field(default_factory=Overlap)
    action: Literal["drop", "cut"] = "drop"


def _shared_runs(index: Index, document: Hashes) -> list[tuple[int, int, int]]:
    """(first unit, last unit + 1, question) of every longest run that document and question share and that tells."""
    found, reached = set[tuple[int, int, int]](), dict[int, int]()
    for n, table in index.runs.items():
        grams = run_hashes(document, n)
        for at in table.where(grams).tolist():
            for place in table.of(grams[at]):
                # The same question further along is the same run: they differ by the same offset.
                if reached.get(place - at, -1) >= at + n:
                    continue
                number = int(np.searchsorted(index.bounds, place, side="right")) - 1
                first, last = int(index.bounds[number]), int(index.bounds[number + 1])
                back = _common(document[:at][::-1], index.units[first:place][::-1])
                size = back + _common(document[at:], index.units[place:last])
                reached[place - at] = at - back + size
                found.add((at - back, at - back + size, number))
    whole = index.overlap.whole
    grams = run_hashes(document, whole) if len(index.starts.hashes) else document[:0]
    for at in index.starts.where(grams).tolist():
        for size in index.starts.of(grams[at]):
            if at + size <= len(document):
                for number in index.wholes.of(whole_hash(document[at : at + size]))[:1]:
                    found.add((at, at + size, number))
    return sorted(found)


def _common(a: Hashes, b: Hashes) -> int:
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size


def find_leaks(index: Index, text: str) -> list[Leak]:
    """Every run of `text` that a question has too, the longest, in order; of questions that read the same as a whole
    one is named where only the whole tells."""
    if not index.ids:
        return []
    runs = _shared_runs(index, unit_hashes(fold(text)))
    spans = places(text, [(first, last) for first, last, _ in runs]) if runs else []
    return [
        Leak(index.ids[number], index.sets[number], start, end, text[start:end], last - first)
        for (first, last, number), (start, end) in zip(runs, spans, strict=True)
    ]


def leak(index: Index, text: str) -> Leak | None:
    """The first of them, or None."""
    return next(iter(find_leaks(index, text)), None)


def find_leaks_batch(index: Index, texts: Sequence[str]) -> list[list[Leak]]:
    """`find_leaks` of each; the batch is passed over once, and only what has something is looked at by itself."""
    if not index.ids:
        return [[] for _ in texts]
    units = unit_hashes(f"\n{_JOINT}\n".join(fold(text) for text in texts))
    joints = np.flatnonzero(units == unit_hashes(_JOINT))
    suspects = set[int]()
    for n, table in (*index.runs.items(), (index.overlap.whole, index.starts)):
        if len(table.hashes):
            suspects.update(np.searchsorted(joints, table.where(run_hashes(units, n))).tolist())
    return [find_leaks(index, text) if place in suspects else [] for place, text in enumerate(texts)]


def cut_leaks(index: Index, text: str) -> tuple[str, list[Leak]]:
    """`text` without the lines that hold a leak, and the leaks. Where the rest closes up to another, that goes too."""
    leaks, new = list[Leak](), find_leaks(index, text)
    while new:
        leaks += new
        text = "".join(_other_lines(text, [(found.start, found.end) for found in new])).strip("\n")
        new = find_leaks(index, text)
    return text, leaks


def _other_lines(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[str]:
    waiting, position, reach = sorted(spans, reverse=True), 0, 0
    for line in text.splitlines(keepends=True):
        end = position + len(line)
        while waiting and waiting[-1][0] < end:
            reach = max(reach, waiting.pop()[1])
        if reach <= position:
            yield line
        position = end


def decontaminate_batch(
    documents: Iterable[Document], index: Index, settings: DecontaminateSettings
) -> list[dict[str, Any]]:
    """Mark the documents that leak as rejected, or cut the paragraphs. Returns a row for each leak, for the report: id
    of the document, question, set, start, end, span, units, and what was done.

    A document of which nothing is left after cutting is rejected."""
    documents = list(documents)
    rows = list[dict[str, Any]]()
    for document, leaks in zip(documents, find_leaks_batch(index, [d.text for d in documents]), strict=True):
        if not leaks:
            continue
        done, text = settings.action, document.text
        if settings.action == "cut":
            text, leaks = cut_leaks(index, document.text)
            done = "cut" if text else "drop"
        rows += [{"id": document.id, "action": done} | vars(found) for found in leaks]
        if done == "cut":
            document.change("decontamination", text)
            document.scores["decontaminate.cut"] = float(len(leaks))
        else:
            first = leaks[0]
            value = f"{first.set}, {first.question}: {first.span}" if first.set else f"{first.question}: {first.span}"
            document.reject = Reject("decontamination", "holds an evaluation question", value)
    return rows

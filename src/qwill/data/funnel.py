"""The account of a curation: what went in, what each step dropped and why, what came out; and a sample of
what went.

Every document is counted in one column (its language) of its source from the first step to the last, so that
for each column and step

    documents before = documents after + dropped,      bytes before + bytes added by repair = bytes after + dropped.

The account is closed against the documents that were kept: what does not add up raises.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from qwill.data.documents import Document

STEPS = (
    "unreadable",
    "repair",
    "language",
    "quality",
    "exact_duplicates",
    "near_duplicates",
    "decontamination",
)
EXCERPT = 600  # characters of a sampled reject

Column = tuple[str, str]  # source, language


class Funnel:
    """Counts documents as they are read and as they are dropped, by one of `steps`."""

    def __init__(self, steps: Sequence[str] = STEPS) -> None:
        self.steps = steps
        self.raw: dict[Column, Counter[str]] = defaultdict(Counter)
        self.repaired: dict[Column, Counter[str]] = defaultdict(Counter)
        self.dropped: dict[tuple[Column, str], Counter[str]] = defaultdict(Counter)
        self.dropped_bytes: dict[tuple[Column, str], Counter[str]] = defaultdict(Counter)
        self.rejects: list[Document] = []

    def read(self, document: Document) -> None:
        """Count a document that has been repaired and judged; `reject` says whether and why it goes
        already."""
        column = document.source, document.language
        self.raw[column].update(documents=1, bytes=document.raw_bytes)
        if document.reject is None or document.reject.step != "unreadable":
            added = document.bytes - document.raw_bytes
            self.repaired[column].update(documents=int(document.repaired), bytes=added)
        if document.reject is not None:
            self.drop(document)

    def drop(self, document: Document) -> None:
        """Count a document that goes; its `reject` is set."""
        assert document.reject is not None
        key = (document.source, document.language), document.reject.step
        self.dropped[key][document.reject.reason] += 1
        self.dropped_bytes[key][document.reject.reason] += document.bytes
        self.rejects.append(document)

    def close(self, kept: Iterable[Document]) -> dict[str, Any]:
        """The whole account as plain data: `languages` and `sources`, each a list of steps for each language.

        Raises AssertionError when read minus dropped is not what was kept, in documents or in bytes.
        """
        expected: dict[Column, Counter[str]] = defaultdict(Counter)
        for document in kept:
            expected[document.source, document.language].update(documents=1, bytes=document.bytes)
        for column in self.raw:
            last = self._steps([column])[-1]
            found = last["documents"], last["bytes"]
            assert found == (expected[column]["documents"], expected[column]["bytes"]), (
                column,
                found,
                expected[column],
            )
        languages = sorted({language for _, language in self.raw})
        sources = sorted({source for source, _ in self.raw})
        return {
            "languages": {code: self._steps([c for c in self.raw if c[1] == code]) for code in languages},
            "sources": {
                name: {code: self._steps([(name, code)]) for code in languages if (name, code) in self.raw}
                for name in sources
            },
        }

    def _steps(self, columns: list[Column]) -> list[dict[str, Any]]:
        documents = sum(self.raw[c]["documents"] for c in columns)
        size = sum(self.raw[c]["bytes"] for c in columns)
        steps: list[dict[str, Any]] = [{"step": "raw", "documents": documents, "bytes": size}]
        for name in self.steps:
            reasons: Counter[str] = sum((self.dropped[c, name] for c in columns), Counter())
            reason_bytes: Counter[str] = sum((self.dropped_bytes[c, name] for c in columns), Counter())
            row: dict[str, Any] = {"step": name}
            if name == "repair":
                row["changed_documents"] = sum(self.repaired[c]["documents"] for c in columns)
                row["added_bytes"] = sum(self.repaired[c]["bytes"] for c in columns)
                size += row["added_bytes"]
            documents -= reasons.total()
            size -= sum(reason_bytes.values())
            row |= {
                "documents": documents,
                "bytes": size,
                "dropped_documents": reasons.total(),
                "dropped_bytes": sum(reason_bytes.values()),
                "reasons": dict(sorted(reasons.items())),
                "reason_bytes": dict(sorted(reason_bytes.items())),
            }
            steps.append(row)
        return steps

    def sample(self, each: int) -> list[dict[str, Any]]:
        """Up to `each` rejects of every source, language, step and reason, no text twice: the lowest hashes of ids."""
        groups: dict[tuple[str, ...], dict[str, Document]] = defaultdict(dict)
        for document in sorted(self.rejects, key=lambda d: _order(d.id)):
            assert document.reject is not None
            step, reason = document.reject.step, document.reject.reason
            groups[document.source, document.language, step, reason].setdefault(document.text, document)
        rows = list[dict[str, Any]]()
        for (source, language, step, reason), documents in sorted(groups.items()):
            for document in list(documents.values())[:each]:
                assert document.reject is not None
                rows.append(
                    {
                        "id": document.id,
                        "source": source,
                        "language": language,
                        "step": step,
                        "reason": reason,
                        "value": document.reject.value,
                        "text": document.text[:EXCERPT],
                    }
                )
        return rows


def _order(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()

"""The account of a curation: what went in, what each step changed and dropped and why, what came out; and a sample of
what went.

Every document is counted in one column (its source, language and register) from the first step to the last, so that for
each column and step

    documents before = documents after + dropped,      bytes before + bytes added = bytes after + dropped,

where a step that cuts text adds a negative number of bytes. Accounts of parts of the documents add up to the account of
all of them, in any grouping and order. An account is closed against the documents that were kept: what does not add up
raises.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qwill.data.documents import Document
from qwill.data.sampling import Lowest, by_hash, excerpt

STEPS = (
    "unreadable",
    "repair",
    "language",
    "quality",
    "exact_duplicates",
    "near_duplicates",
    "decontamination",
)

Column = tuple[str, str, str]  # source, language, register
PLACES = {"source": 0, "language": 1, "register": 2}
Key = tuple[str, str, str, str, str, str]  # a column; read, changed, dropped or kept; step; reason


def size_of(document: Document) -> int:
    """Bytes of a document after the steps so far, also of a reject of which only an excerpt is left."""
    return document.raw_bytes + sum(document.changed.values())


class Account:
    """Counts documents and bytes as they are read, changed, dropped (by one of `steps`) and kept.

    `each`: how many rejects to show of every source, language, register, step and reason."""

    def __init__(self, steps: Sequence[str] = STEPS, each: int = 5) -> None:
        self.steps = tuple(steps)
        self._counts: dict[Key, list[int]] = defaultdict(lambda: [0, 0])
        self._rejects = Lowest(each)

    def read(self, document: Document) -> None:
        """Count a document that has gone through the first steps: `changed` says what they added to its raw bytes, and
        `reject`, where it is set, that it goes already."""
        size = document.raw_bytes
        self._count(document, "read", "", "", size)
        for step, added in document.changed.items():
            self.change(document, step, added)
            size += added
        if document.reject is not None:
            self._drop(document, size)

    def change(self, document: Document, step: str, added: int) -> None:
        """Count that `step` altered the text and thereby added so many bytes, or cut them."""
        assert step in self.steps, step
        self._count(document, "changed", step, "", added)

    def drop(self, document: Document) -> None:
        """Count a document that goes, with the text that it has now; its `reject` is set."""
        self._drop(document, document.bytes)

    def _drop(self, document: Document, size: int) -> None:
        reject = document.reject
        assert reject is not None and reject.step in self.steps, reject
        self._count(document, "dropped", reject.step, reject.reason, size)
        group = document.source, document.language, document.register, reject.step, reject.reason
        rank = by_hash(document.id)
        if self._rejects.wants(group, rank):
            names = dict(zip(("source", "language", "register", "step", "reason"), group, strict=True))
            row = {"id": document.id, **names, "value": reject.value, "text": excerpt(document.text)}
            self._rejects.add(group, rank, row | {"bytes": size, "scores": document.scores})

    def keep(self, document: Document) -> None:
        """Count a document of the finished corpus."""
        self._count(document, "kept", "", "", document.bytes)

    def withdraw(self, document: Document) -> None:
        """Count a document that goes though it was kept before; its `reject` is set."""
        count = self._counts[document.source, document.language, document.register, "kept", "", ""]
        count[0] -= 1
        count[1] -= document.bytes
        self._drop(document, document.bytes)

    def _count(self, document: Document, what: str, step: str, reason: str, size: int) -> None:
        count = self._counts[document.source, document.language, document.register, what, step, reason]
        count[0] += 1
        count[1] += size

    def merge(self, other: Account) -> None:
        """Take in the account of other documents, kept with the same steps."""
        assert self.steps == other.steps, (self.steps, other.steps)
        for key, (documents, size) in other._counts.items():
            count = self._counts[key]
            count[0] += documents
            count[1] += size
        self._rejects.merge(other._rejects)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads; equal accounts give equal data."""
        counts = [[*key, *count] for key, count in sorted(self._counts.items())]
        return {"steps": list(self.steps), "counts": counts, "rejects": self._rejects.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Account:
        result = cls(value["steps"])
        for row in value["counts"]:
            result._counts[tuple(row[:6])] = list(row[6:])
        result._rejects = Lowest.from_json(value["rejects"])
        return result

    def close(self, kept: Iterable[Document] = ()) -> dict[str, Any]:
        """The whole account as plain data. Each list of steps starts with what was read:

        languages: {language: steps}; registers and sources: {name: {language: steps}};
        columns: one {source, language, register, steps} for each that occurs.

        kept: documents that `keep` has not been told of. Raises AssertionError when read minus dropped is not what was
        kept, in documents or in bytes, in any column."""
        for document in kept:
            self.keep(document)
        columns: dict[Column, list[tuple[str, str, str, int, int]]] = defaultdict(list)
        for (source, language, register, what, step, reason), (documents, size) in sorted(self._counts.items()):
            columns[source, language, register].append((what, step, reason, documents, size))
        steps = {column: self._steps(rows) for column, rows in columns.items()}
        for column, rows in columns.items():
            last = steps[column][-1]
            kept_rows = [row for row in rows if row[0] == "kept"]
            out = [sum(row[3] for row in kept_rows), sum(row[4] for row in kept_rows)]
            assert [last["documents"], last["bytes"]] == out, (column, last, out)

        def summed(**where: str) -> list[dict[str, Any]]:
            """The steps of all columns of such a source, language or register."""
            chosen = [(PLACES[name], value) for name, value in where.items()]
            of = [rows for column, rows in columns.items() if all(column[place] == value for place, value in chosen)]
            return self._steps([row for rows in of for row in rows])

        def by_language(what: str) -> dict[str, dict[str, list[dict[str, Any]]]]:
            result: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
            for name, code in sorted({(column[PLACES[what]], column[1]) for column in columns}):
                result[name][code] = summed(**{what: name, "language": code})
            return dict(result)

        return {
            "languages": {code: summed(language=code) for code in sorted({c[1] for c in columns})},
            "registers": by_language("register"),
            "sources": by_language("source"),
            "columns": [
                {
                    "source": source,
                    "language": language,
                    "register": register,
                    "steps": steps[source, language, register],
                }
                for source, language, register in sorted(columns)
            ],
        }

    def _steps(self, rows: Sequence[tuple[str, str, str, int, int]]) -> list[dict[str, Any]]:
        documents = sum(row[3] for row in rows if row[0] == "read")
        size = sum(row[4] for row in rows if row[0] == "read")
        result: list[dict[str, Any]] = [{"step": "raw", "documents": documents, "bytes": size}]
        for name in self.steps:
            row: dict[str, Any] = {"step": name}
            changed = [r for r in rows if r[0] == "changed" and r[1] == name]
            if changed or name == "repair":
                row["changed_documents"] = sum(r[3] for r in changed)
                row["added_bytes"] = sum(r[4] for r in changed)
                size += row["added_bytes"]
            reasons: dict[str, int] = defaultdict(int)
            reason_bytes: dict[str, int] = defaultdict(int)
            for what, step, reason, count, dropped in rows:
                if what == "dropped" and step == name:
                    reasons[reason] += count
                    reason_bytes[reason] += dropped
            documents -= sum(reasons.values())
            size -= sum(reason_bytes.values())
            result.append(
                row
                | {
                    "documents": documents,
                    "bytes": size,
                    "dropped_documents": sum(reasons.values()),
                    "dropped_bytes": sum(reason_bytes.values()),
                    "reasons": dict(sorted(reasons.items())),
                    "reason_bytes": dict(sorted(reason_bytes.items())),
                }
            )
        return result

    def sample(self) -> list[dict[str, Any]]:
        """The rejects to show: of every source, language, register, step and reason those of lowest hash of id, no
        excerpt twice."""
        return self._rejects.rows()

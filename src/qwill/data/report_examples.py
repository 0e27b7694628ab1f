"""The corpus report's documents: duplicates with their differences marked, pages before and after extraction, what was
unreadable, redacted or taken out for an evaluation's sake.

Everything shown was written by strangers: `visible` makes what cannot be seen, or would turn the page around, readable.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import islice
from typing import Any

from qwill.base.numbers import megabytes
from qwill.data.report_funnel import language_name

View = dict[str, Any]
Piece = tuple[str, str]  # same, gone or new; the text

MOST_CLUSTERS, CLUSTER_TEXT = 30, 700  # characters of a shown duplicate
MOST_PAIRS = 20_000  # of equal tokens in two texts
MOST_PAGES, PAGE_SOURCE, PAGE_TEXT = 16, 1600, 900
MOST_BAD, MOST_LEAKS, MOST_REDACTED = 60, 60, 24
_TOKENS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|\s+|.", re.DOTALL)
# Controls of C0 and C1 but for tab and line feed, and what overrides or isolates the direction of writing.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]")


def visible(text: object, most: int = 600) -> str:
    """A text of at most `most` characters whose control characters are pictures (␀) or codes ([U+202E])."""
    plain = str(text)
    cut = plain[:most].encode("utf-8", "replace").decode()
    return _UNSEEN.sub(lambda found: _picture(ord(found.group())), cut) + ("…" if len(plain) > most else "")


@lru_cache(maxsize=1 << 15)
def masked(text: str, language: str) -> str:
    """A text without personal data: what is dropped before redaction is shown to whoever gets the report."""
    from qwill.data.redact import redact

    return redact(text, language=language).text


def _picture(code: int) -> str:
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else f"[U+{code:04X}]"


def differences(old: str, new: str) -> tuple[list[Piece], list[Piece]]:
    """`old` in pieces that are the same or gone in `new`, and `new` in pieces that are the same or new."""
    a, b = _TOKENS.findall(old), _TOKENS.findall(new)
    left, right = list[Piece](), list[Piece]()
    for tag, a1, a2, b1, b2 in _operations(a, b):
        if a2 > a1:
            left.append(("same" if tag == "equal" else "gone", "".join(a[a1:a2])))
        if b2 > b1:
            right.append(("same" if tag == "equal" else "new", "".join(b[b1:b2])))
    return left, right


def _operations(a: Sequence[str], b: Sequence[str]) -> Iterable[tuple[str, int, int, int, int]]:
    counts = Counter(a)
    if sum(counts[token] for token in b) <= MOST_PAIRS:
        return SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    # A text of one token over and over would take difflib minutes: what the ends have in common must do.
    shortest = min(len(a), len(b))
    head = next((i for i in range(shortest) if a[i] != b[i]), shortest)
    tail = next((i for i in range(shortest - head) if a[-1 - i] != b[-1 - i]), shortest - head)
    return [
        ("equal", 0, head, 0, head),
        ("replace", head, len(a) - tail, head, len(b) - tail),
        ("equal", len(a) - tail, len(a), len(b) - tail, len(b)),
    ]


def clusters_view(clusters: Iterable[Mapping[str, Any]]) -> list[View]:
    """The largest clusters of clusters.jsonl: what was kept, and each shown duplicate with how it differs."""
    views = list[View]()
    for cluster in sorted(clusters, key=lambda c: (-c["size"], c["kept"]["id"]))[:MOST_CLUSTERS]:
        kept = visible(cluster["kept"]["text"], CLUSTER_TEXT)
        dropped = [
            {
                "id": visible(duplicate["id"], 200),
                "similarity": f"{duplicate['similarity']:.2f}" if duplicate.get("similarity") is not None else "",
                "pieces": differences(kept, visible(duplicate["text"], CLUSTER_TEXT))[1],
            }
            for duplicate in cluster["dropped"][:3]
        ]
        first = visible(cluster["dropped"][0]["text"], CLUSTER_TEXT) if cluster["dropped"] else kept
        views.append(
            {
                "step": cluster["step"].replace("_", " "),
                "size": f"{cluster['size']:,}",
                "bytes": megabytes(cluster["bytes"]) if cluster.get("bytes") else "",
                "language": language_name(cluster["language"]),
                "register": cluster.get("register", ""),
                "id": visible(cluster["kept"]["id"], 200),
                "pieces": differences(kept, first)[0],
                "dropped": dropped,
                "more": max(0, cluster["size"] - 1 - len(dropped)),
            }
        )
    return views


def pages_view(rows: Sequence[Mapping[str, Any]]) -> list[View]:
    """From extraction.jsonl: source and text side by side, sources and encodings taking turns."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row.get("source", ""), row.get("encoding", "")].append(row)
    chosen = islice(
        (group[i] for i in range(len(rows)) for _, group in sorted(groups.items()) if i < len(group)), MOST_PAGES
    )
    return [
        {
            "id": visible(row["id"], 200),
            "encoding": row.get("encoding", ""),
            "declared": row.get("declared", ""),
            "sizes": f"{megabytes(row['raw_bytes'])} → {megabytes(row['bytes'])}" if row.get("raw_bytes") else "",
            "before": visible(masked(row["before"][: 2 * PAGE_SOURCE], row.get("language", "")), PAGE_SOURCE),
            "after": visible(masked(row["after"], row.get("language", "")), PAGE_TEXT),
        }
        for row in chosen
    ]


def encodings_view(rows: Iterable[Sequence[Any]]) -> list[View]:
    """From encodings.json, [source, declared, used, documents]: over all sources, the commonest first."""
    total: Counter[tuple[str, str]] = Counter()
    for _, declared, used, documents in rows:
        total[declared or "", used] += documents
    return [
        {"declared": visible(declared, 60), "used": visible(used, 60), "documents": f"{count:,}"}
        for (declared, used), count in sorted(total.items(), key=lambda item: (-item[1], item[0]))
    ]


def bad_view(bad: Sequence[Mapping[str, Any]], rejects: Iterable[Mapping[str, Any]]) -> list[View]:
    """Records that could not be read, by name: from bad.jsonl, or else from the sampled rejects."""
    named = [(row["id"], row["reason"]) for row in bad]
    named = named or [(row["id"], row["value"]) for row in rejects if row["step"] == "unreadable"]
    return [{"id": visible(name, 200), "reason": visible(reason, 200)} for name, reason in named[:MOST_BAD]]


def redaction_view(redaction: Mapping[str, Any] | None) -> View | None:
    """From redaction.json, rows [language, kind, documents, occurrences]: by kind (rows) and language (columns)."""
    if not redaction:
        return None
    counts = {(kind, code): (documents, found) for code, kind, documents, found in redaction["counts"]}
    columns = sorted({code for _, code in counts})
    rows = [
        {"kind": kind.replace("_", " "), "cells": [counts.get((kind, code), (0, 0)) for code in columns]}
        for kind in sorted({kind for kind, _ in counts})
    ]
    samples = [
        {"id": visible(row["id"], 200), "kind": row.get("kind", ""), "text": visible(row["text"], 300)}
        for row in (redaction.get("samples") or [])[:MOST_REDACTED]
    ]
    return {"languages": [language_name(code) for code in columns], "rows": rows, "samples": samples}


def leaks_view(sets: Sequence[Mapping[str, Any]], leaks: Sequence[Mapping[str, Any]]) -> View:
    """From decontamination.json and leaks.jsonl: which sets were met, and the matched spans."""
    met = Counter(leak.get("set") or "" for leak in leaks)
    return {
        "sets": [
            {
                "name": visible(row["name"], 120),
                "questions": f"{row['questions']:,}",
                "too_short": f"{row.get('too_short', 0):,}",
                "documents": f"{row.get('documents', met[row['name']]):,}",
            }
            for row in sets
        ],
        "total": len(leaks),
        "rows": [
            {
                "id": visible(leak["id"], 200),
                "set": visible(leak.get("set") or "", 120),
                "question": visible(leak.get("question", ""), 120),
                "span": visible(leak["span"], 300),
                "pieces": _around(leak),
            }
            for leak in leaks[:MOST_LEAKS]
        ],
    }


def _around(leak: Mapping[str, Any]) -> list[Piece]:
    """The document around the match, the match marked; nothing where the text is not at hand."""
    text, start, end = leak.get("text"), leak.get("start"), leak.get("end")
    if not text or start is None or end is None or not 0 <= start <= end <= len(text):
        return []
    return [("same", visible(text[:start])), ("new", visible(text[start:end])), ("same", visible(text[end:]))]

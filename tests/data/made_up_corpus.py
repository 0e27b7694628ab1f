"""The files of a corpus artifact as curation writes them, made from plain rules, with hostile texts among them."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwill.base.files import write_json, write_jsonl
from qwill.data.documents import Document, Reject
from qwill.data.funnel import Account
from qwill.data.scores import Limit, Scores, write_scores

STEPS = (
    "unreadable",
    "extract",
    "repair",
    "language",
    "gopher_quality",
    "fineweb",
    "near_duplicates",
    "decontamination",
)
PARTS = (("en", "web", 400), ("en", "reference", 120), ("zh", "web", 300), ("zh", "verse", 60), ("ar", "web", 40))
HOSTILE = (
    "</script><script>document.title = 'broken'</script>",
    "<!-- <script> -->{{ 7 * 7 }} &amp; <img src=x onerror=alert(1)>",
    "\u202edetrevni\u2066 \x00\x07\x1b[31m \u2028 \ufeff",
    "x" * 5000,
    "quotes \" ' ` \\u003c \\",
)
_LIMITS = {
    "gopher_quality.words": Limit(50, 100_000),
    "gopher_quality.mean_word_length": Limit(3.0, 10.0),
    "gopher_quality.alphabetic": Limit(least=0.8),
    "fineweb.line_punct_ratio": Limit(least=0.12),
    "fineweb.char_dup_ratio": Limit(most=0.01),
    "language_score": Limit(0.65, step="language"),
}
_SAID = {
    "en": "The tide comes in over the flats and the boats lift from the mud one after another. ",
    "zh": "潮水漫过滩涂，一只只小船从泥里浮起来。",
    "ar": "يدخل المد فوق السهول الطينية وترتفع القوارب واحدا تلو الآخر. ",
}


def limits_of_part(language: str, register: str) -> dict[str, Limit]:
    own = dict(_LIMITS)
    if language == "zh":
        own |= {"gopher_quality.mean_word_length": Limit(1.0, 5.0), "fineweb.char_dup_ratio": Limit(most=0.1)}
    return own


def documents() -> list[Document]:
    made = []
    for language, register, number in PARTS:
        for i in range(number):
            luck = random.Random(f"{language}{register}{i}")
            text = HOSTILE[i] if i < len(HOSTILE) else _SAID[language] * luck.randint(1, 6) + str(i)
            scores = {
                "gopher_quality.words": float(luck.choice([20, 45, 49, 50, 51, 80, 300, 2500])),
                "gopher_quality.mean_word_length": luck.gauss(4.6 if language != "zh" else 1.7, 0.7),
                "gopher_quality.alphabetic": min(1.0, luck.gauss(0.9, 0.05)),
                # Verse ends few lines with a full stop.
                "fineweb.line_punct_ratio": luck.random() * (0.2 if register == "verse" else 1.0),
                "fineweb.char_dup_ratio": max(0.0, luck.gauss(-0.02, 0.03)),
                "language_score": 1 - luck.random() ** 6,
                "toxicity": luck.choice([0.0, 0.0, 0.0, 0.01]),
            }
            changed = {"extract": -3 * len(text.encode()), "repair": 0}
            size = len(text.encode())
            identity = f"{register}s/{language}{i:07d}"
            document = Document(
                identity, f"{register}s", register, language, text, 4 * size, scores=scores, changed=changed
            )
            document.reject = _reject(document, limits_of_part(language, register), luck)
            made.append(document)
    for i in range(3):
        text = HOSTILE[i]
        made.append(
            Document(
                f"webs/broken{i}", "webs", "web", "other", text, len(text.encode()),
                reject=Reject("unreadable", "record not readable", f"line {i} is not JSON {HOSTILE[0]}"),
            )
        )  # fmt: skip
    return made


def _reject(document: Document, limits: dict[str, Limit], luck: random.Random) -> Reject | None:
    for step in ("language", "gopher_quality", "fineweb"):
        for name, limit in limits.items():
            value = document.scores[name]
            low = limit.least is not None and value < limit.least
            if (limit.step or name.split(".")[0]) == step and (low or (limit.most is not None and value > limit.most)):
                return Reject(step, f"{name.split('.')[-1]} too {'low' if low else 'high'}", value)
    if luck.random() < 0.06:
        return Reject("near_duplicates", "nearly the same", "0.91 like webs/0000009")
    if luck.random() < 0.01:
        return Reject("decontamination", "holds an evaluation question", "q1: the tide comes in")
    return None


def account_of(made: Sequence[Document]) -> Account:
    account = Account(STEPS, each=3)
    for document in made:
        account.read(document)
        if document.reject is None:
            account.keep(document)
    return account


def scores_of(made: Sequence[Document]) -> Scores:
    scores = Scores({(language, register): limits_of_part(language, register) for language, register, _ in PARTS})
    scores.add(made)
    return scores


def write_corpus_files(folder: Path) -> list[Document]:
    """All files that a report reads, in `folder`; returns the documents."""
    folder.mkdir(parents=True, exist_ok=True)
    made = documents()
    account = account_of(made)
    write_json(folder / "funnel.json", account.close() | {"mixture": mixture()})
    write_jsonl(folder / "rejects.jsonl", account.sample())
    write_scores(folder / "scores.json", [scores_of(made)])
    write_jsonl(folder / "clusters.jsonl", clusters())
    write_jsonl(folder / "extraction.jsonl", pages())
    write_json(folder / "encodings.json", [["webs", "gb2312", "gb18030", 12], ["webs", "", "utf-8", 700]])
    write_json(folder / "redaction.json", redaction())
    sets = [{"name": "questions.jsonl", "questions": 1319, "too_short": 4, "documents": 2}]
    write_json(folder / "decontamination.json", {"sets": sets})
    write_jsonl(folder / "leaks.jsonl", leaks())
    return made


def clusters() -> list[dict[str, Any]]:
    text = _SAID["en"] * 4
    changed = text.replace("one after another", "one by one", 2)
    rows: list[dict[str, Any]] = [
        {"id": f"webs/{i}", "source": "webs", "text": changed + HOSTILE[i], "similarity": 0.9 - i / 100}
        for i in range(3)
    ]
    english = {"step": "near_duplicates", "size": 17, "bytes": 9000, "language": "en", "register": "web"}
    chinese = {"step": "exact_duplicates", "size": 3, "bytes": 300, "language": "zh", "register": "verse"}
    kept = {"id": "webs/9", "source": "webs", "text": text}
    verse = {"id": "verses/1", "source": "verses", "text": _SAID["zh"] * 3}
    other = {"id": "verses/7", "source": "verses", "text": _SAID["zh"] * 2 + "月亮也升起来了。", "similarity": 0.8}
    return [chinese | {"kept": verse, "dropped": [other]}, english | {"kept": kept, "dropped": rows}]


def pages() -> list[dict[str, Any]]:
    body = f"<html><body><nav>Home | About</nav><p>{_SAID['en']}</p>{HOSTILE[0]}</body></html>"
    row = {"source": "webs", "declared": "gb2312", "encoding": "gb18030", "raw_bytes": len(body), "bytes": 85}
    return [row | {"id": f"webs/{i}", "before": body, "after": _SAID["en"] + HOSTILE[2]} for i in range(3)]


def redaction() -> dict[str, Any]:
    samples = [{"id": "webs/3", "language": "en", "kind": "email", "text": "write to <EMAIL> today" + HOSTILE[1]}]
    return {"counts": [["en", "email", 11, 12], ["en", "phone", 2, 3], ["zh", "phone", 9, 9]], "samples": samples}


def leaks() -> list[dict[str, Any]]:
    text = "before " + _SAID["en"] + HOSTILE[0]
    start = len("before ")
    row = {"language": "en", "set": "questions.jsonl", "question": "q1", "span": "the tide comes in", "text": text}
    return [
        row | {"id": "webs/40", "start": start, "end": start + 17, "action": "dropped"},
        {"id": "webs/41", "language": "en", "set": HOSTILE[0], "question": "q2", "span": HOSTILE[2]},
    ]


def mixture() -> dict[str, Any]:
    values = [
        {"label": "language", "value": "en", "share": 0.5, "wanted": 50000, "available": 90000, "given": 49990},
        {"label": "language", "value": "zh", "share": 0.3, "wanted": 50000, "available": 10000, "given": 30000,
         "shortfall": 20000, "limited_by": "max_repeats"},
    ]  # fmt: skip
    return {"budget": 100000, "total": 79990, "shortfall": 20010, "repeats": 1.4, "values": values, "cells": []}

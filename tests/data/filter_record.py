"""What datatrove says about the documents of tests/oracles/filters_*.jsonl.xz, and where we say something else."""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from qwill.data import c4, families, fineweb, gopher_quality, gopher_repetition
from qwill.data.languages import language
from qwill.data.words import count_sentences, split_words

RECORDS = Path(__file__).parents[1] / "oracles"
CODES = ("en", "zh")
LONG = 50_000
MODULES: dict[str, Any] = {
    "gopher_repetition": gopher_repetition,
    "gopher_quality": gopher_quality,
    "c4": c4,
    "fineweb": fineweb,
}

# The preset "other" of the record, benchmarks/peers/datatrove_filters.py: limits that neither language has.
OTHER = {
    "all": {
        "c4": {
            "filter_no_terminal_punct": True,
            "remove_citations": False,
            "min_num_sentences": 2,
            "min_words_per_line": -1,
            "max_word_length": 20,
            "filter_javascript": False,
            "filter_policy": False,
            "filter_lorem_ipsum": False,
        },
        "fineweb": {
            "line_punct_exclude_zero": True,
            "line_punct_thr": 0.5,
            "short_line_length": 20,
            "short_line_thr": 0.4,
            "stop_chars": [".", "。", ","],
        },
        "gopher_repetition": {
            "dup_line_frac": None,
            "top_n_grams": [[1, 0.2]],
            "dup_n_grams": [[3, 0.3], [1, 0.9]],
        },
        "gopher_quality": {
            "min_doc_words": 0,
            "max_doc_words": 200,
            "max_bullet_lines_ratio": None,
            "min_stop_words": 4,
        },
    }
}
OTHER_FAMILIES = ("c4", "fineweb", "gopher_repetition", "gopher_quality")


def presets() -> dict[str, tuple[tuple[str, ...], dict[str, object]]]:
    """Name → (families in order, their limits)."""
    return {
        "en": (language("en").families, families.resolve_limits(language("en"))),
        "zh": (language("zh").families, families.resolve_limits(language("zh"))),
        "other": (OTHER_FAMILIES, families.resolve_limits(language("en"), "", OTHER)),
    }


@cache
def rows(code: str) -> list[dict[str, Any]]:
    """The record of a language, a document each."""
    lines = lzma.decompress((RECORDS / f"filters_{code}.jsonl.xz").read_bytes()).decode().split("\n")
    return [json.loads(line) for line in lines if line]


@dataclass(frozen=True)
class Asked:
    """A family asked about a text: `said` is what datatrove answered, `left` the text that C4 leaves if it keeps it."""

    family: str
    text: str
    words: list[str]
    code: str
    limits: object
    said: dict[str, Any]
    left: str

    def difference(self) -> str:
        """ "" where we say the same, else what differs."""
        module = MODULES[self.family]
        if self.family == "c4":
            rule = language(self.code).words
            values, left = module.measure(self.text, lambda line: _sentences(line, rule), self.limits)
        else:
            values, left = module.measure(self.text, self.words, self.limits), self.left
        if unequal := unequal_values(values, self.said):
            return unequal
        found = module.decide(values, self.limits)
        reason = found[0] if found else ""
        if self.said["reason"] not in (reason, "crash"):
            return f"reason: {reason!r} instead of {self.said['reason']!r}"
        return "" if left == self.left or reason else f"text: {left!r} instead of {self.left!r}"


@cache
def _sentences(line: str, rule: str) -> int:
    return count_sentences(line, rule)


def unequal_values(ours: dict[str, float], said: dict[str, Any]) -> str:
    """Names and numbers of the first value that is not datatrove's to the last bit. One it did not reach is free."""
    for name, value in said.items():
        if name in ("reason", "text") or ours[name] == value or (math.isnan(ours[name]) and math.isnan(value)):
            continue
        return f"{name}: {ours[name]!r} instead of {value!r}"
    return ""


def said_by(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}


@cache
def asked(code: str) -> list[Asked]:
    """Every family of every preset about every document, each about the text that those before it leave."""
    told = language(code)
    found = []
    for row in rows(code):
        words: dict[str, list[str]] = {}
        for preset, (order, limits) in presets().items():
            text = row["text"]
            for family in order:
                left, said = text, said_by(row, f"{preset}.{family}.")
                if family == "c4" and not said["reason"]:
                    _, left = c4.measure(text, lambda line: 0, limits[family])  # type: ignore[arg-type]
                if text not in words:
                    words[text] = split_words(text, told.words)
                # n-grams of 100,000 words take seconds by the definition: those are asked of `judge_batch` alone.
                if family != "gopher_repetition" or len(text) < LONG:
                    found.append(Asked(family, text, words[text], code, limits[family], said, left))
                text = left
    return found


def differences(code: str, family: str) -> Iterator[str]:
    return (told for one in asked(code) if one.family == family and (told := one.difference()))

"""datatrove's side of filter_parity.py and of the record tests/oracles/filters_*.jsonl.xz: decisions and values.

requirements: datatrove==0.10.1 spacy==3.8.18 jieba==0.42.1 nltk
run by the benchmark: python datatrove_filters.py DOCUMENTS.jsonl SAID.jsonl CODE

Values come from datatrove's own expressions: a filter is built with probes for limits, which note what they are
compared with and let the document go on. Decisions come from the filters with their real limits, one after the other.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import datatrove.utils.text as words
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

# The texts of one document are split again and again here; datatrove itself remembers five.
words.split_into_parts = lru_cache(4096)(words.split_into_parts.__wrapped__)

FILTERS = {
    "gopher_repetition": GopherRepetitionFilter,
    "gopher_quality": GopherQualityFilter,
    "c4": C4QualityFilter,
    "fineweb": FineWebQualityFilter,
}
TOKENIZERS = {"en": "eng_Latn", "zh": "cmn_Hani"}
CMN_STOP_WORDS = list("的年在月是和日了於·為有被人中为他與後也而由")

# Name → [(family, arguments)]: FineWeb's pipeline for English (datatrove's examples/fineweb.py), FineWeb-2's for
# cmn_Hani (its fineweb-2-pipeline.py and configs/cmn_Hani.yml), and unusual limits, for the settings those leave alone.
PRESETS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "en": [
        ("gopher_repetition", {}),
        ("gopher_quality", {}),
        ("c4", {"filter_no_terminal_punct": False}),
        ("fineweb", {}),
    ],
    "zh": [
        (
            "gopher_repetition",
            {
                "dup_para_frac": 0,
                "dup_line_char_frac": 0,
                "dup_para_char_frac": 0,
                "dup_line_frac": 0.287,
                "top_n_grams": [[2, 0.256], [3, 0.201], [4, 0.171]],
                "dup_n_grams": [[5, 0.198], [6, 0.182], [7, 0.167], [8, 0.154], [9, 0.14], [10, 0.127]],
            },
        ),
        (
            "fineweb",
            {"short_line_thr": 999, "char_duplicates_ratio": 0.1, "line_punct_thr": 0.106, "new_line_ratio": 0.178},
        ),
        (
            "gopher_quality",
            {
                "max_avg_word_length": 5,
                "min_avg_word_length": 1,
                "stop_words": CMN_STOP_WORDS,
                "max_non_alpha_words_ratio": 0.735,
                "min_stop_words": 2,
            },
        ),
    ],
    "other": [
        (
            "c4",
            {
                "filter_no_terminal_punct": True,
                "remove_citations": False,
                "min_num_sentences": 2,
                "min_words_per_line": -1,
                "max_word_length": 20,
                "filter_javascript": False,
                "filter_policy": False,
                "filter_lorem_ipsum": False,
            },
        ),
        (
            "fineweb",
            {
                "line_punct_exclude_zero": True,
                "line_punct_thr": 0.5,
                "short_line_length": 20,
                "short_line_thr": 0.4,
                "stop_chars": [".", "。", ","],
            },
        ),
        ("gopher_repetition", {"dup_line_frac": None, "top_n_grams": [[1, 0.2]], "dup_n_grams": [[3, 0.3], [1, 0.9]]}),
        (
            "gopher_quality",
            {"min_doc_words": 0, "max_doc_words": 200, "max_bullet_lines_ratio": None, "min_stop_words": 4},
        ),
    ],
}


class Probe:
    """A limit that nothing exceeds: it notes what it is compared with."""

    __array_ufunc__ = None  # so that numpy's numbers leave the comparison to it

    def __init__(self, values: dict[str, float], name: str) -> None:
        self.values, self.name = values, name

    def __lt__(self, value: float) -> bool:  # asked for `value > limit`
        self.values.setdefault(self.name, float(value))
        return False

    __gt__ = __lt__


def repetition_values(text: str, arguments: dict[str, Any], code: str) -> dict[str, float]:
    values: dict[str, float] = {"characters": float(len(text))}
    names = ("dup_para_frac", "dup_para_char_frac", "dup_line_frac", "dup_line_char_frac")
    usual = {"top_n_grams": ((2, 0), (3, 0), (4, 0)), "dup_n_grams": tuple((n, 0) for n in range(5, 11))}
    probes: dict[str, Any] = {name: Probe(values, name) for name in names}
    for name, told in (("top_n_grams", "top_{}_gram"), ("dup_n_grams", "duplicated_{}_n_grams")):
        probes[name] = [(n, Probe(values, told.format(n))) for n, _ in arguments.get(name, usual[name])]
    GopherRepetitionFilter(**probes, language=TOKENIZERS[code]).filter(Document(text=text, id=""))
    return values


def quality_values(text: str, arguments: dict[str, Any], code: str) -> dict[str, float]:
    values: dict[str, float] = {}
    symbols: dict[str, float] = {}

    class Symbols(Probe):  # one limit for two values: hashes first, ellipses second
        def __lt__(self, value: float) -> bool:
            symbols["hashes" if not symbols else "ellipses"] = float(value)
            return False

        __gt__ = __lt__

    names = {
        "min_doc_words": "words",
        "max_doc_words": "words",
        "min_avg_word_length": "mean_word_length",
        "max_avg_word_length": "mean_word_length",
        "max_bullet_lines_ratio": "bullets",
        "max_ellipsis_lines_ratio": "ellipsis_lines",
        "max_non_alpha_words_ratio": "alphabetic",
        "min_stop_words": "stop_words",
    }
    probes: dict[str, Any] = {setting: Probe(values, name) for setting, name in names.items()}
    probes |= {"max_symbol_word_ratio": Symbols(values, ""), "stop_words": arguments.get("stop_words")}
    with suppress(ZeroDivisionError):  # without words or lines: what comes after is not said
        GopherQualityFilter(**probes, language=TOKENIZERS[code]).filter(Document(text=text, id=""))
    return values | symbols


def fineweb_values(text: str, arguments: dict[str, Any], code: str) -> dict[str, float]:
    values: dict[str, float] = {}
    names = {
        "line_punct_thr": "line_punct_ratio",
        "short_line_thr": "short_line_ratio",
        "char_duplicates_ratio": "char_dup_ratio",
        "new_line_ratio": "list_ratio",
    }
    probes: dict[str, Any] = {setting: Probe(values, name) for setting, name in names.items()}
    probes |= {name: arguments[name] for name in ("stop_chars", "short_line_length") if name in arguments}
    if "stop_chars" in probes:
        probes["stop_chars"] = tuple(probes["stop_chars"])
    FineWebQualityFilter(**probes, language=TOKENIZERS[code]).filter(Document(text=text, id=""))
    return values


def c4_values(text: str, arguments: dict[str, Any], code: str) -> dict[str, float]:
    """The number of the first line that drops the document is how many lines datatrove had counted by then."""
    values: dict[str, float] = {}
    off = {"filter_lorem_ipsum": False, "filter_curly_bracket": False}
    limits = arguments | off | {"min_num_sentences": Probe(values, "sentences")}
    _, lines = run_c4(text, limits, code)
    for name in ("total", "kept"):
        values["lines" if name == "total" else "lines_kept"] = float(lines[f"line-{name}"])
    for name in ("too_long_word", "no_terminal_punc", "too_few_words", "javascript", "policy"):
        values["lines_" + name.replace("punc", "punct")] = float(lines[f"line-filter-{name}"])
    for name in ("lorem_ipsum", "curly_bracket"):
        reason, lines = run_c4(text, arguments | off | {f"filter_{name}": True, "min_num_sentences": -1}, code)
        values[f"{name}_line"] = float(lines["line-total"]) if reason == name else 0.0
    return values


def run_c4(text: str, arguments: dict[str, Any], code: str) -> tuple[str | None, Counter[str]]:
    lines: Counter[str] = Counter()
    step = C4QualityFilter(**arguments, language=TOKENIZERS[code])
    step.stat_update = lambda *names, **_: lines.update(names)
    said = step.filter(Document(text=text, id=""))
    return (None if said is True else said[1]), lines


VALUES = {
    "gopher_repetition": repetition_values,
    "gopher_quality": quality_values,
    "c4": c4_values,
    "fineweb": fineweb_values,
}


def judge(text: str, code: str, preset: str) -> dict[str, Any]:
    """{family.reason: datatrove's, "" to keep, "crash"; family.value: …; text: as the filters left it at the end}.

    Every family is asked, on the text that those before it leave where they keep it. A value that datatrove does not
    reach is missing.
    """
    said: dict[str, Any] = {}
    dropped: str | None = None
    for family, arguments in PRESETS[preset]:
        document = Document(text=text, id="")
        given = {k: tuple(v) if k == "stop_chars" else v for k, v in arguments.items()}
        try:
            found = FILTERS[family](**given, language=TOKENIZERS[code]).filter(document)
        except ZeroDivisionError:
            found = (False, "crash")
        said[f"{family}.reason"] = "" if found is True else found[1]
        said |= {f"{family}.{k}": v for k, v in VALUES[family](text, arguments, code).items()}
        text = document.text
        if dropped is None and found is not True:
            dropped = text
    return said | {"text": text if dropped is None else dropped}


def judge_all(text: str, code: str, presets: Iterable[str] = tuple(PRESETS)) -> dict[str, Any]:
    """{preset.family.…: what `judge` says}; preset.text only where it is not the text given."""
    said = {f"{preset}.{k}": v for preset in presets for k, v in judge(text, code, preset).items()}
    return {k: v for k, v in said.items() if not (k.endswith(".text") and v == text)}


def main() -> None:
    documents, target, code = sys.argv[1:4]
    with open(documents, encoding="utf-8") as lines, open(target, "w", encoding="utf-8") as out:
        for line in lines:
            text, presets = json.loads(line)
            out.write(json.dumps(judge_all(text, code, presets)) + "\n")


if __name__ == "__main__":
    main()

"""The four published filter families against datatrove 0.10.1, on real text joined and spoilt.

    .venv/bin/python benchmarks/filter_parity.py --peer-python PYTHON_WITH_DATATROVE_SPACY_AND_JIEBA

At least 10,000 documents a language, English and Chinese: passages, articles and pages of the sources below, joined and
spoilt in forty ways (tests/oracles/filter_documents.py), judged by the English preset (FineWeb's pipeline) and the
Chinese one (FineWeb-2's cmn_Hani) alike. Claims: the same keep or drop, first reason, reason of every family alone,
every value to the last bit, and text after C4; every reason of every filter fires on at least 50 documents a language,
and values lie on both sides of every limit. A source whose package can't be fetched is left out and said.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from compare import write_section

from qwill.base.errors import QwillError
from qwill.base.packages import open_member
from qwill.data import c4, families, fineweb, gopher_quality, gopher_repetition, native_filters
from qwill.data.languages import language
from qwill.data.readers import Raw
from qwill.data.registry_sources import find_source
from qwill.data.words import count_sentences, split_words

sys.path.append(str(Path(__file__).parents[1] / "tests" / "oracles"))
from filter_documents import MUTATIONS, paragraphs_repeated, passages, phrase, repeat_line, repeat_longest, spoilt
from filter_grids import long_document

PEER = Path(__file__).parent / "peers" / "datatrove_filters.py"
MODULES: dict[str, Any] = {
    "gopher_repetition": gopher_repetition,
    "gopher_quality": gopher_quality,
    "c4": c4,
    "fineweb": fineweb,
}
PRESETS = ("en", "zh")
FIRING = 50
LONGEST = 6000  # characters before a document's last line
PAGES = 1200  # of one source, at most: parsing them takes longest
LONG = 54  # documents of more than 100,000 words, half for each preset: they take datatrove a second each

# Reasons begin with → what makes them, when documents spoilt at random are not enough.
AIMED = {
    "dup_para": [paragraphs_repeated],
    "dup_line_frac": [repeat_line],
    "dup_line_char": [repeat_longest],
    "duplicated_": [passages],
    "top_": [phrase],
}

# Source → records that make one document, as (fewest, most).
SOURCES = {
    "en": {
        "boolq": (1, 5), "quac": (1, 1), "c4_demo": (1, 2), "wiki_demo": (1, 2),
        "libreoffice_help_en": (1, 1), "linux_doc": (1, 1),
    },
    "zh": {
        "reviews_positive": (3, 20), "reviews_negative": (2, 15), "words": (8, 40), "characters": (2, 8),
        "sayings": (10, 40), "libreoffice_help_zh": (1, 1), "tang_poems": (2, 8), "song_ci": (1, 6),
    },
}  # fmt: skip


def records(name: str) -> Iterator[str]:
    """Texts of a source, of HTML pages all text. Raises QwillError where the source can't be had."""
    source = find_source(name)
    if not source.many and source.reader is not None:
        read = source.reader(open_member(source.package.archive(), source.member), name)
        yield from (record.text for record in read if isinstance(record, Raw))
        return
    paths = source.paths()
    random.Random(name).shuffle(paths)
    for path in paths:
        if source.reader is None:
            yield page_text(path.read_bytes().decode("utf-8", "replace"))
        else:
            read = source.reader(path.read_bytes(), path.name)
            yield from (record.text for record in read if isinstance(record, Raw))


def page_text(html: str) -> str:
    """All text of a page, menus too: a line for every block."""
    import lxml.html

    page = lxml.html.fromstring(html.encode())
    for element in page.xpath("//script | //style"):
        element.drop_tree()
    for element in page.iter("p", "div", "li", "td", "h1", "h2", "h3", "br", "tr", "pre", "title"):
        element.tail = "\n" + (element.tail or "")
    lines = (" ".join(line.split()) for line in page.text_content().split("\n"))
    return "\n".join(line for line in lines if line)


def real_documents(code: str, count: int) -> tuple[list[list[str]], dict[str, int]]:
    """(documents as lines, records joined; how many come from each source)."""
    rng = random.Random(f"parity {code}")
    documents: list[list[str]] = []
    counts: dict[str, int] = {}
    for name, (fewest, most) in SOURCES[code].items():
        share = min(math.ceil(count / 3), PAGES if find_source(name).reader is None else count)
        try:
            texts = list(islice(records(name), share * most))
        except QwillError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        made, start = [], 0
        while start < len(texts) and len(made) < share:
            end = start + rng.randint(fewest, most)
            lines = [line for text in texts[start:end] for line in text.split("\n")]
            # A long article is shortened, so that a run takes minutes; datatrove itself has no trouble with it.
            before = accumulate(map(len, lines), initial=0)
            made.append([line for line, length in zip(lines, before, strict=False) if length <= LONGEST])
            start = end
        counts[name] = len(made)
        documents += made
    rng.shuffle(documents)
    return documents, counts


def judged(text: str, code: str, preset: str) -> tuple[dict[str, Any], families.Verdict]:
    """({family.reason, family.value}: each family by itself on the text it sees, the whole verdict)."""
    order, limits = PRESET_LIMITS[preset]
    verdict = families.judge_batch([text], language(code), order, limits)[0]
    said: dict[str, Any] = dict(verdict.values)
    for family in order:
        values = {k.removeprefix(f"{family}."): v for k, v in verdict.values.items() if k.startswith(f"{family}.")}
        found = MODULES[family].decide(values, limits[family])
        said[f"{family}.reason"] = found[0] if found else ""
    return said, verdict


PRESET_LIMITS = {code: (language(code).families, families.resolve_limits(language(code))) for code in PRESETS}
ALL_REASONS = {
    f"{family}: {rule.reason}"
    for order, limits in PRESET_LIMITS.values()
    for family, rules in families.rules(limits, order).items()
    for rule in rules
}


def choose(code: str, count: int) -> tuple[list[tuple[str, list[str]]], dict[str, int]]:
    """(text, presets) of `count` documents and those more that it takes for every reason to fire often enough."""
    rng = random.Random(f"spoilt {code}")
    lines, sources = real_documents(code, count)
    texts = [spoilt(rng, rng.choice(lines), code) for _ in range(count)]
    texts += [""] * (FIRING + 2) + [" " * i for i in range(1, FIRING + 3)]
    fired: Counter[str] = Counter()

    def note(text: str) -> set[str]:
        reasons = {
            f"{family}: {said[f'{family}.reason']}"
            for preset in PRESETS
            for said in [judged(text, code, preset)[0]]
            for family in PRESET_LIMITS[preset][0]
        }
        fired.update(reasons)
        return reasons

    for text in texts:
        note(text)
    for _ in range(3 * count):
        lacking = {reason for reason in ALL_REASONS if fired[reason] < FIRING + 5} - {"gopher_quality: gopher_long_doc"}
        if not lacking:
            break
        before = fired.copy()
        aim = sorted(lacking)[0].split(": ")[1]
        mutations = next((told for name, told in AIMED.items() if aim.startswith(name)), MUTATIONS)
        text = spoilt(rng, rng.choice(lines), code, mutations)
        if note(text) & lacking:
            texts.append(text)
        else:
            fired = before
    asked = [(text, list(PRESETS)) for text in texts]
    # The first two have as many words as is allowed, the others one and two more.
    lengths = [100_000, 100_000, *(100_001 + i % 2 for i in range(LONG))]
    long = [(long_document(words, code, rng), [PRESETS[i % 2]]) for i, words in enumerate(lengths)]
    return asked + long, sources


def same(ours: Any, theirs: Any) -> bool:
    return ours == theirs or (isinstance(theirs, float) and math.isnan(theirs) and math.isnan(ours))


def by_definition(text: str, code: str, preset: str) -> families.Verdict:
    """The same from the Python definitions, without the C library."""
    rule = language(code).words
    order, limits = PRESET_LIMITS[preset]
    return families.judge(text, order, limits, lambda t: split_words(t, rule), lambda t: count_sentences(t, rule))


class Account:
    """What was found in one language."""

    def __init__(self, code: str) -> None:
        self.code, self.documents, self.judgements, self.values, self.python = code, 0, 0, 0, 0
        self.wrong: list[str] = []
        self.fired: Counter[str] = Counter()  # by the filter alone, in either preset
        self.first: Counter[str] = Counter()  # as the pipeline's first reason
        self.sides: dict[tuple[str, str], list[int]] = {}  # below, at, above the limit

    def compare(self, text: str, preset: str, theirs: dict[str, Any], number: int) -> None:
        order, limits = PRESET_LIMITS[preset]
        ours, verdict = judged(text, self.code, preset)
        self.judgements += 1
        where = f"{self.code} document {number}, preset {preset}"
        theirs_first = next(((f, theirs[f"{f}.reason"]) for f in order if theirs[f"{f}.reason"]), None)
        if (verdict.drop and verdict.drop[:2]) != theirs_first:
            self.wrong.append(f"{where}: {verdict.drop} instead of {theirs_first}")
        if verdict.text != theirs.get("text", text):
            self.wrong.append(f"{where}: another text after C4")
        for name, value in theirs.items():
            if name != "text":
                self.values += not name.endswith(".reason")
                if not same(ours[name], value):
                    self.wrong.append(f"{where}: {name} is {ours[name]!r} instead of {value!r}")
        if number % 10 == 0 and len(text) < 50_000:
            again = by_definition(text, self.code, preset)
            self.python += 1
            unequal = [k for k, v in again.values.items() if not same(verdict.values[k], v)]
            if unequal or (again.text, again.drop) != (verdict.text, verdict.drop):
                self.wrong.append(f"{where}: the C library is not the definition ({unequal})")
        for family, rules in families.rules(limits, order).items():
            for rule in rules:
                value = theirs.get(f"{family}.{rule.value}")
                if value is not None and not math.isnan(value):
                    counts = self.sides.setdefault((f"{preset} {family}", rule.reason), [0, 0, 0])
                    counts[(value > rule.limit) - (value < rule.limit) + 1] += 1
        if theirs_first:
            self.first[": ".join(theirs_first)] += 1

    def note_fired(self, said: list[dict[str, Any]]) -> None:
        reasons = {f"{k.removesuffix('.reason')}: {v}" for s in said for k, v in s.items() if k.endswith(".reason")}
        self.fired.update(reasons & ALL_REASONS)


def peer_answers(python: str, asked: dict[str, list[tuple[str, list[str]]]], folder: Path) -> dict[str, Path]:
    """Each language by a process of the peer's own; returns the files of answers."""
    processes, answers = [], {}
    for code, documents in asked.items():
        questions, answers[code] = folder / f"{code}.jsonl", folder / f"{code}.said.jsonl"
        questions.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
        command = [python, "-W", "ignore", str(PEER), str(questions), str(answers[code]), code]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        processes.append((code, process))
    for code, process in processes:
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"datatrove on {code} ended with {process.returncode}: {errors[-800:]}")
    return answers


def describe(accounts: list[Account], sources: dict[str, dict[str, int]], seconds: float) -> str:
    lines = []
    for account in accounts:
        told = ", ".join(f"{name} {count:,}" for name, count in sources[account.code].items())
        lines.append(
            f"- {account.code}: {account.documents:,} documents spoilt from {told}; {account.judgements:,} judgements "
            f"by two presets, {account.values:,} values: {len(account.wrong)} differ. Of these judgements "
            f"{account.python:,} were made by the Python definitions too, with the same answers as the C library."
        )
    lines += [
        "",
        "Fired: documents that a filter alone drops for this reason first, in either preset (in brackets: judgements "
        "in which it is the whole pipeline's first reason). Sides: values below / at / above the limit of a preset.",
    ]
    header = "| filter: reason | " + " | ".join(f"{a.code} fired | {a.code} sides" for a in accounts) + " |"
    lines += ["", header, "|" + "---|" * (1 + 2 * len(accounts))]
    for reason in sorted(ALL_REASONS):
        cells = []
        for account in accounts:
            family, name = reason.split(": ")
            sides = [(p, account.sides.get((f"{p} {family}", name))) for p in PRESETS]
            shown = "; ".join(f"{p} {' / '.join(map(str, counts))}" for p, counts in sides if counts)
            cells.append(f"{account.fired[reason]:,} ({account.first[reason]:,}) | {shown}")
        lines.append(f"| {reason} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"datatrove and we took {seconds:.0f} s together; this is no measure of speed."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--documents", type=int, default=10_000, help="a language")
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    assert native_filters.suits("english", PRESET_LIMITS["en"][0], PRESET_LIMITS["en"][1]), "no C library"
    started = time.perf_counter()
    chosen = {code: choose(code, arguments.documents) for code in PRESETS}
    print(f"documents chosen after {time.perf_counter() - started:.0f} s", file=sys.stderr)
    accounts = []
    with tempfile.TemporaryDirectory() as folder:
        asked = {code: documents for code, (documents, _) in chosen.items()}
        answers = peer_answers(arguments.peer_python, asked, Path(folder))
        print(f"datatrove has answered after {time.perf_counter() - started:.0f} s", file=sys.stderr)
        for code, path in answers.items():
            account = Account(code)
            with open(path, encoding="utf-8") as lines:
                for number, ((text, presets), line) in enumerate(zip(chosen[code][0], lines, strict=True)):
                    row = json.loads(line)
                    account.documents += 1
                    said = []
                    for preset in presets:
                        mine = {k.removeprefix(f"{preset}."): v for k, v in row.items() if k.startswith(f"{preset}.")}
                        account.compare(text, preset, mine, number)
                        said.append(mine)
                    account.note_fired(said)
            accounts.append(account)
    body = describe(accounts, {code: sources for code, (_, sources) in chosen.items()}, time.perf_counter() - started)
    print(body)
    for account in accounts:
        print(*account.wrong[:10], sep="\n", file=sys.stderr)
        assert not account.wrong, f"{account.code}: {len(account.wrong)} differences"
        rare = {reason: account.fired[reason] for reason in ALL_REASONS if account.fired[reason] < FIRING}
        assert not rare or arguments.documents < 10_000, f"{account.code}: these reasons fire too rarely: {rare}"
    if not arguments.dry:
        write_section("The same decisions as datatrove", body)


if __name__ == "__main__":
    main()

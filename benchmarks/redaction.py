"""Personal data: recall and false positives by kind and language, what is found in real text, and speed.

    .venv/bin/python benchmarks/redaction.py [--show 20]

Values are planted in sentences as people write them, and hard negatives (tests/data/made_up_personal_data.py,
made_up_look_alikes.py) are looked at for false alarms; the seed is other than the tests'. The real text is that of the
packages that Qwill trains on (`qwill data fetch`), where nothing says what is personal data: `--show` prints findings
with what stands around them, to be judged by eye. Claim: recall at least 0.99, false positives at most 0.1 % a kind.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

from compare import verdict, write_section

from qwill.data.blocks import open_source, parse
from qwill.data.personal_data import KINDS
from qwill.data.records import Raw
from qwill.data.redact import redact
from qwill.data.repair import repair
from qwill.data.sources import SourceChoice
from qwill.evaluate.statistics import wilson

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data"))

from made_up_look_alikes import look_alike  # type: ignore[import-not-found]
from made_up_personal_data import PLANTERS  # type: ignore[import-not-found]

SOURCES = {"boolq": "en", "quac": "en", "c4_demo": "en", "wiki_demo": "en", "reviews_positive": "zh",
           "reviews_negative": "zh", "words": "zh"}  # fmt: skip


def measure(kind: str, language: str, planted: int, negatives: int) -> tuple[int, int]:
    """(planted values found whole, negatives with a finding of the kind)."""
    rng = random.Random(f"benchmark {kind} {language}")
    found = alarms = 0
    for _ in range(planted):
        value, frame = PLANTERS[kind](rng, language)
        start = frame.index("{}")
        spans = redact(frame.replace("{}", value), language=language).spans
        # Brackets around a value may stay.
        found += any(s.kind == kind and s.start <= start + 1 and s.end >= start + len(value) - 1 for s in spans)
    for _ in range(negatives):
        alarms += kind in redact(look_alike(kind, rng, language), language=language).counts
    return found, alarms


def real_text(name: str, language: str, show: int) -> tuple[str, float]:
    """A row of the table, and MB/s."""
    source = open_source(SourceChoice(name))
    records = (record for block in source.blocks() for record in parse(block, source.choice))
    texts = [repair(record.text) for record in records if isinstance(record, Raw)]
    size = sum(len(text.encode()) for text in texts) / 1e6
    started = time.perf_counter()
    results = [redact(text, language=language) for text in texts]
    speed = size / (time.perf_counter() - started)
    counts = Counter(span.kind for result in results for span in result.spans)
    shown = sorted(
        {
            (span.kind, f"{text[: span.start][-40:]}[{text[span.start : span.end]}]{text[span.end :][:20]}")
            for text, result in zip(texts, results, strict=True)
            for span in result.spans
        }
    )
    for kind, context in random.Random(name).sample(shown, min(show, len(shown))):
        print(f"  {name} {kind}: {context!r}")
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "nothing"
    return f"| {name} | {len(texts):,} | {size:.1f} | {found} | {speed:.0f} |", speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planted", type=int, default=4000, help="of each kind and language")
    parser.add_argument("--negatives", type=int, default=12000, help="of each kind and language")
    parser.add_argument("--show", type=int, default=0, help="findings in each real source to print")
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    n, m = arguments.planted, arguments.negatives
    rows, met = list[str](), True
    for kind in KINDS:
        for language in ("en", "zh"):
            found, alarms = measure(kind, language, n, m)
            recall, false = wilson(found, n), wilson(alarms, m)
            met = met and found / n >= 0.99 and alarms / m <= 0.001
            rows.append(
                f"| {kind} | {language} | {found / n:.4f} | {recall.lower:.4f} to {recall.upper:.4f} | "
                f"{100 * alarms / m:.3f} % | {100 * false.lower:.3f} to {100 * false.upper:.3f} % |"
            )
    redact("warm +44 20 7946 0958")
    real = [real_text(name, language, arguments.show)[0] for name, language in SOURCES.items()]
    body = (
        f"{n:,} planted values and {m:,} hard negatives a kind and language, 95 % intervals (Wilson):\n\n"
        "| kind | language | recall | interval | false positives | interval |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n\nReal text after repair, one thread:\n\n"
        "| source | documents | MB | found | MB/s |\n|---|---|---|---|---|\n"
        + "\n".join(real)
        + "\n\n"
        + verdict("recall at least 0.99, false positives at most 0.1 % a kind", met)
    )
    print(body)
    if not arguments.dry:
        write_section("Redaction", body)


if __name__ == "__main__":
    main()

"""Fine-tuning data: masks of generated conversations against the released template, and how full packed steps are.

    python benchmarks/sft_data.py [--conversations 50000] [--dialogues runs/demo/dialogues --base runs/demo/base]

The check of masks is tests/text/test_ten_thousand_conversations.py's, over other and more conversations. Packing is
compared with taking examples in drawn order until the next does not fit (what Qwill did before, and what the other
stages do); lengths are those of the demo's conversations, and drawn ones.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

from compare import verdict, write_section

from qwill.text.chat import training_examples
from qwill.text.tokenizer import Tokenizer
from qwill.train.best_fit import pack_best_fit
from qwill.train.settings import SFTConfig
from qwill.train.sft import plan_steps
from qwill.train.sft_examples import read_examples

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "text"), str(TESTS.parent)]
import test_ten_thousand_conversations as masks  # type: ignore[import-not-found]  # noqa: E402


def conversations(count: int, first: int = 1 << 41) -> tuple[int, Counter[str], float]:
    """(violations, what was among them, seconds of CPU time), of seeds that the tests do not draw."""
    violations, seen, began = 0, Counter[str](), time.process_time()
    for seed in range(first, first + count):
        messages, tools = masks.one(random.Random(seed))
        try:
            masks.check(messages, tools, training_examples(messages, tools, masks.fixture_tokenizer()), seen)
        except AssertionError as error:
            violations += 1
            print(f"seed {seed}: {error}")
    return violations, seen, time.process_time() - began


def drawn_lengths(count: int) -> list[int]:
    """Log-normal, as lengths of conversations are; median 180 tokens, at most 2,048."""
    draw = random.Random(0)
    return [min(2048, int(draw.lognormvariate(5.2, 0.9)) + 2) for _ in range(count)]


def packing_row(name: str, lengths: list[int], room: int) -> str:
    began = time.process_time()
    packed = pack_best_fit(lengths, room, 0, epochs=1)
    seconds, total = time.process_time() - began, sum(lengths)
    plain = _steps_of_an_epoch(lengths, room)
    least = -(-total // room)
    return (
        f"| {name} | {len(lengths):,} | {room:,} | {total / (plain * room):.1%} ({plain:,}) | {packed.fill:.2%} "
        f"({packed.epoch_steps[0]:,}) | {least:,} | {seconds:.2f} |"
    )


def _steps_of_an_epoch(lengths: list[int], room: int) -> int:
    shown, steps = 0, 0
    for step in plan_steps(lengths, len(lengths), room, 0):
        shown, steps = shown + len(step), steps + 1
        if shown == len(lengths):
            return steps
    raise AssertionError("an epoch takes at most as many steps as there are examples")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=50_000)
    parser.add_argument("--dialogues", type=Path)
    parser.add_argument("--base", type=Path)
    args = parser.parse_args()
    violations, seen, seconds = conversations(args.conversations)
    sizes = ((10_000, 4096), (100_000, 4096), (100_000, 8192))
    rows = [packing_row("drawn", drawn_lengths(n), room) for n, room in sizes]
    if args.dialogues and args.base:
        config = SFTConfig()
        found = read_examples(args.dialogues, Tokenizer.load(args.base), config, 0)[0]
        lengths = [len(e.ids) - 1 for e in found.rendered]
        rows += [packing_row("the demo's conversations", lengths, room) for room in (2048, 4096)]
    parts = ", ".join(f"{seen[name]:,} with {what}" for name, what in (
        ("imitations", "imitated special tokens"), ("tools", "tools"), ("chinese", "Chinese"), ("empty", "empty turns"),
    ))  # fmt: skip
    table = "\n".join(rows)
    body = (
        f"{args.conversations:,} generated conversations ({parts}), {seen['turns']:,} trained turns, "
        f"{seen['thinking']:,} of them with a thinking block of their own: **{violations} violations** (a prefix that "
        f"is not the released template's prompt, a trained token that the turn does not say). "
        f"{verdict('no violation', violations == 0)} {seconds:.0f} s of CPU time.\n\n"
        "Packing, steps of at most so many tokens, one epoch; in brackets the number of steps:\n\n"
        "| lengths | examples | room | in drawn order | best fit | steps at least | seconds to pack |\n"
        f"|---|---|---|---|---|---|---|\n{table}\n"
    )
    write_section("Fine-tuning data (`sft_data.py`)", body)
    print(body)


if __name__ == "__main__":
    main()

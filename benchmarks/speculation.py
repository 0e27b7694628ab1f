"""Speculative decoding: tokens a second with and without, and how many drafts are right.

    .venv/bin/python benchmarks/speculation.py [--rounds 8] [--draft MODEL --model MODEL]

SmolLM2-135M (the file's 4-bit codes, native executor) copies a text with small changes (what look-up is for: editing,
quoting, code) and tells a story (what it isn't for), greedy, one request at a time and eight at once. An engine that
looks drafts up and one that doesn't take turns in one process; the replies must be the same tokens, which is checked.
With --draft a smaller model drafts for --model (any references; the same tokenizer).
Rounds with more than 10 % of the CPU stolen are thrown away. No claim is made beyond what is measured.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import torch
from compare import MOST_STOLEN, spread, write_section

from qwill.base.device import cpu_steal
from qwill.engine.engine import Engine
from qwill.engine.engine_settings import DraftSpec, EngineSettings, NgramSpec
from qwill.engine.language_model import LanguageModel, load
from qwill.engine.request import Request
from qwill.engine.sampling import Sampling

WORDS = [
    "river", "stone", "light", "winter", "garden", "market", "letter", "window", "morning", "engine", "silver",
    "people", "answer", "yellow", "travel", "number", "simple", "ocean", "forest", "cloud", "paper", "music", "kitchen",
]  # fmt: skip


def prompts(task: str, count: int, lm: LanguageModel, seed: int) -> list[list[int]]:
    draw, made = random.Random(seed), []
    for _ in range(count):
        words = " ".join(draw.choices(WORDS, k=60))
        asked = f"Repeat this text exactly: {words}" if task == "copy" else f"Tell a story with these words: {words}"
        text = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
        made.append(lm.tokenizer.encode(text + (words[:30] if task == "copy" else "")))
    return made


def timed(engine: Engine, asked: list[list[int]], tokens: int) -> tuple[float, list[list[int]]]:
    """Tokens a second after the prompts, and the replies."""
    replies: dict[str, list[int]] = {str(i): [] for i in range(len(asked))}
    for i, prompt in enumerate(asked):
        engine.add(Request(str(i), prompt, Sampling(max_tokens=tokens, temperature=0, ignore_eos=True)))
    while not all(replies.values()):
        for event in engine.step():
            replies[event.request] += event.token_ids
    begun, known = time.perf_counter(), engine.stats().tokens
    while engine.has_work:
        for event in engine.step():
            replies[event.request] += event.token_ids
    return (engine.stats().tokens - known) / (time.perf_counter() - begun), list(replies.values())


def race(plain: Engine, quick: Engine, lm: LanguageModel, task: str, batch: int, rounds: int, tokens: int) -> str:
    speeds: tuple[list[float], list[float]] = ([], [])
    drafted = accepted = different = dropped = 0
    for engine in (plain, quick):
        timed(engine, prompts(task, 1, lm, 0), 8)
    while len(speeds[0]) < rounds and dropped < rounds:
        asked = prompts(task, batch, lm, 1 + len(speeds[0]) + dropped)
        before, known = cpu_steal(), quick.stats()
        order = (0, 1) if len(speeds[0]) % 2 else (1, 0)
        found = {i: timed((plain, quick)[i], asked, tokens) for i in order}
        after, now = cpu_steal(), quick.stats()
        if (after[0] - before[0]) / max(1, after[1] - before[1]) > MOST_STOLEN:
            dropped += 1
            continue
        for i, speed in enumerate(speeds):
            speed.append(found[i][0])
        drafted, accepted = drafted + now.drafted - known.drafted, accepted + now.accepted - known.accepted
        different += sum(a != b for a, b in zip(found[0][1], found[1][1], strict=True))
    ratios = [b / a for a, b in zip(*speeds, strict=True)]
    without, beside = (statistics.median(speed) for speed in speeds)
    return (
        f"{task}, batch {batch}: {without:.0f} tokens/s without, {beside:.0f} with: {spread(ratios)}. "
        f"{100 * accepted / max(1, drafted):.0f} % of {drafted} drafted tokens were right. "
        f"{different} of {batch * len(ratios)} replies differ. {dropped} rounds dropped."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--draft", help="a smaller model; without it drafts are looked up")
    parser.add_argument("--drafted", type=int, help="most drafted tokens")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lm, small = load(arguments.model), load(arguments.draft) if arguments.draft else None
    spec = DraftSpec(arguments.draft, arguments.drafted or 4) if arguments.draft else NgramSpec(arguments.drafted or 8)
    plain = Engine(lm.model, lm.tokenizer, EngineSettings(max_running=8))
    draft = (small.model, small.tokenizer) if small is not None else None
    quick = Engine(lm.model, lm.tokenizer, EngineSettings(max_running=8, speculate=spec), draft=draft)
    lines = [f"{arguments.model}, {type(quick.executor).__name__}, {spec}, {arguments.threads} threads, greedy."]
    for task in ("copy", "story"):
        for batch in arguments.batches:
            lines.append(race(plain, quick, lm, task, batch, arguments.rounds, arguments.tokens))
            print(lines[-1], flush=True)
    if not arguments.dry:
        write_section(f"Speculative decoding ({'a draft model' if draft else 'look-up'})", "\n\n".join(lines))


if __name__ == "__main__":
    main()

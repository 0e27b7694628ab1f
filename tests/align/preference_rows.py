"""Small preferences for tests: rows, rendered pairs and verdicts, of many lengths."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.engine.tiny import byte_tokenizer

from qwill.align.preference_examples import Pair, Verdict
from qwill.align.replies import render_reply

TOKENIZER = byte_tokenizer()
VOCAB = TOKENIZER.padded_vocab_size


def rows(count: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """To questions of few words: what is chosen is in small letters, what is rejected in capitals or digits."""
    draw = random.Random(seed)
    made = []
    for i in range(count):
        word = "".join(draw.choices("abcdefgh", k=draw.randint(1, 6)))
        prompt = [{"role": "user", "content": f"{i}{word}?"}]
        chosen = word * draw.randint(1, 2)
        rejected = draw.choice([word.upper(), str(draw.randint(0, 99)), "好" * draw.randint(1, 2)])
        made.append({
            "id": f"p{i}", "prompt": prompt, "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}], "language": ("en", "zh")[i % 2],
        })  # fmt: skip
    return made


def write(path: Path, made: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8")
    return path


def pairs(count: int = 8, seed: int = 0) -> list[Pair]:
    return [
        Pair(
            row["id"], row["language"], render_reply(row["prompt"], row["chosen"], TOKENIZER),
            render_reply(row["prompt"], row["rejected"], TOKENIZER),
        )
        for row in rows(count, seed)
    ]  # fmt: skip


def verdicts(count: int = 8, seed: int = 0) -> list[Verdict]:
    made = rows(count, seed)
    return [
        Verdict(
            row["id"], row["language"], render_reply(row["prompt"], row["chosen"], TOKENIZER),
            render_reply(row["prompt"], made[i - 1]["chosen"], TOKENIZER), i % 3 != 0,
        )
        for i, row in enumerate(made)
    ]  # fmt: skip

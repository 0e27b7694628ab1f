"""Runs of words and Chinese characters, written in as many ways as the same words can be."""

from __future__ import annotations

import random
import re

from made_up_text import chinese, full_width, name

from qwill.data.fold import convert
from qwill.data.units import HAN, KANA

_HAN = re.compile(f"[{HAN}{KANA}]")

SPACES = (" ", "  ", "\n", "\t", "\u3000", "\u00a0", " \r\n")
MARKS = (", ", "。", "——", " (", ") ", "/", "…", "“", "！", "-", "《", "、")
INVISIBLE = ("\u200b", "\u00ad", "\ufeff", "\u2060", "\u200d")


def unit(rng: random.Random, kind: str) -> str:
    """A word, or a Chinese character that is common."""
    chinese_one = kind == "zh" or (kind == "mixed" and rng.random() < 0.5)
    return rng.choice(CHARACTERS) if chinese_one else name(rng).lower()


CHARACTERS = sorted({c for seed in range(60) for c in chinese(random.Random(seed)) if c.isalpha()})


def disguised(units: list[str], rng: random.Random) -> str:
    """The units written with other case, width, script, spacing and punctuation, and with invisible characters."""
    case = rng.choice([str.lower, str.upper, str.title, lambda u: "".join(rng.choice([c, c.upper()]) for c in u)])
    joints = rng.choice([(" ",), SPACES, SPACES + MARKS])
    text = ""
    for a, b in zip(["", *units], units, strict=False):
        # Between two words something must part them; beside a Chinese character nothing need.
        parted = bool(a) and not (_HAN.match(a) or _HAN.match(b))
        text += (rng.choice(joints) if parted or (a and rng.random() < 0.3) else "") + case(b)
    if rng.random() < 0.5:
        text = convert(text, "traditional")
    if rng.random() < 0.5:
        text = full_width(text)
    if rng.random() < 0.5:
        text = "".join(c + (rng.choice(INVISIBLE) if rng.random() < 0.2 else "") for c in text)
    return text

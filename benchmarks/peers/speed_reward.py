"""The reward of benchmarks/align_speed.py, for both sides: the share of letters that are vowels."""

from typing import Any


def vowels(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in texts]

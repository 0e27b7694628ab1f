"""A reward for `qwill grpo`: 1 where the last number of a reply is the row's `answer`, 0 elsewhere."""

import re
from typing import Any


def says(text: str, answer: int) -> bool:
    found = re.findall(r"-?\d+", text)
    return bool(found) and int(found[-1]) == answer


def number(prompts: list[Any], completions: list[Any], answer: list[int], **columns: Any) -> list[float]:
    texts = (said if isinstance(said, str) else said[-1]["content"] for said in completions)
    return [float(says(text, wanted)) for text, wanted in zip(texts, answer, strict=True)]

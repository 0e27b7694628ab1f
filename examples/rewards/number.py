"""A reward for `qwill grpo`: 1 for a reply that is just the row's `answer`, a number; 0.2 where it ends so."""

import re
from typing import Any


def number(prompts: list[Any], completions: list[Any], answer: list[int], **columns: Any) -> list[float]:
    out = []
    for said, wanted in zip(completions, answer, strict=True):
        text = (said if isinstance(said, str) else said[-1]["content"]).strip(" .。")
        found = re.findall(r"-?\d+", text)
        out.append(1.0 if text == str(wanted) else 0.2 if found and found[-1] == str(wanted) else 0.0)
    return out

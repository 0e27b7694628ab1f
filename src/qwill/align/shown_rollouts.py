"""`rollouts.jsonl`: a few rollouts of some steps, to be read by people (the report's page of rollouts shows them).

A line holds no time and nothing of the machine, so that the file is part of the artifact; while the stage runs it lies
beside metrics.jsonl, and a resumed run goes on with it as with that.
"""

from __future__ import annotations

import math
from typing import Any

from qwill.align.rollouts import Rollout
from qwill.text.surrogates import all_without_surrogates

MOST = 600  # lines of a run
LONGEST = 8000  # characters of one text; what is cut is said


def shown_steps(steps: int, shown: int) -> int:
    """Every which step is shown, so that a run has at most `MOST` lines."""
    return max(1, math.ceil(steps / max(1, MOST // max(1, shown))))


def shown_rollouts(groups: list[list[Rollout]], rows: list[dict[str, Any]], shown: int) -> list[dict[str, Any]]:
    """The best and the worst rollout of one group after the other, languages in turn, until there are `shown`."""
    by_language: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_language.setdefault(row["language"], []).append(i)
    turns = [(n, language, i) for language, mine in by_language.items() for n, i in enumerate(mine)]
    lines: list[dict[str, Any]] = []
    for _, _, i in sorted(turns):
        known = [r for r in groups[i] if not math.isnan(r.reward)] or groups[i]
        best = max(range(len(known)), key=lambda k: known[k].reward)
        worst = min(range(len(known)), key=lambda k: known[k].reward)
        lines += [shown_line(known[k], rows[i]) for k in dict.fromkeys((best, worst))]
        if len(lines) >= shown:
            break
    return lines[:shown]


def shown_line(r: Rollout, row: dict[str, Any]) -> dict[str, Any]:
    """What is written can be written: halves of pairs that stood alone in a call or a result are U+FFFD."""
    prompt = row["prompt"]
    advantages = r.advantages
    line: dict[str, Any] = {
        "id": str(row["id"]),
        "language": r.language,
        "prompt": _cut(prompt) if isinstance(prompt, str) else [_message(m) for m in prompt],
        "said": [_message(m) for m in r.said],
        "reward": _number(r.reward),
        "parts": {name: _number(value) for name, value in r.parts.items()},
        "advantage": _number(sum(advantages) / len(advantages)) if advantages else None,
        "tokens": r.tokens,
        "turns": sum(m["role"] == "assistant" for m in r.said),
        "truncated": not r.ended,
    }
    cleaned: dict[str, Any] = all_without_surrogates(line)
    return cleaned


def _message(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    told = {"role": message["role"], "content": _cut(content) if isinstance(content, str) else content}
    for name in ("reasoning_content", "tool_calls", "name"):
        if message.get(name):
            value = message[name]
            told[name] = _cut(value) if isinstance(value, str) else value
    return told


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … (+{len(text) - LONGEST})"


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None

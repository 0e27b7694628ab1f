"""Prompts of reinforcement learning and distillation: read from tasks or files, and rendered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwill.align.replies import as_messages
from qwill.base.errors import DataError
from qwill.data.row_files import read_rows
from qwill.evaluate.task_data import load_rows
from qwill.text.chat import render
from qwill.text.tokenizer import Tokenizer


def problems(place: Path, verified: bool) -> list[dict[str, Any]]:
    """The rows to draw prompts from: rl.jsonl of the stage tasks, or a file of your own whose rows have a `prompt`
    (text or messages) and, where replies are `verified`, a `key`. Raises DataError naming file, line and field."""
    if place.is_dir():
        return load_rows(place / "rl.jsonl")
    rows = []
    for number, row in read_rows(place):
        prompt = row.get("prompt")
        if not (isinstance(prompt, str) and prompt.strip()) and not (isinstance(prompt, list) and prompt):
            raise DataError(f"{place}: line {number}: prompt: expected text or a list of messages.")
        if verified and "key" not in row:
            raise DataError(f"{place}: line {number} has no 'key' to verify a reply by; name a reward of your own.")
        rows.append({"id": str(number), "language": "other"} | row)
    if not rows:
        raise DataError(f"{place}: holds no prompt; add rows, or name another file.")
    return rows


def prompt_ids(
    prompt: str | list[dict[str, Any]],
    tokenizer: Tokenizer,
    thinking: bool = False,
    tools: Sequence[dict[str, Any]] = (),
) -> list[int]:
    """A prompt (text of a user, or messages) up to where the assistant begins, by default without thinking."""
    return render(as_messages(prompt), tools, tokenizer=tokenizer, thinking=thinking, generation_prompt=True).ids

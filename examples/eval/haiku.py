"""A scorer of one's own: from 0 to 1, and why."""

from __future__ import annotations

from typing import Any


def three_lines(example: Any, reply: str) -> tuple[float, str]:
    """Half for three lines, half for naming the topic. `example.fields` is the line of the JSONL file."""
    lines = [line for line in reply.splitlines() if line.strip()]
    topic = str(example.fields["topic"]).removeprefix("the ")
    return 0.5 * (len(lines) == 3) + 0.5 * (topic in reply), f"{len(lines)} lines"

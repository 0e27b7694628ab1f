"""Rollouts of reinforcement learning as one self-contained HTML file, read from the rollouts.jsonl of stages.

In English and Chinese; it loads nothing from any network, and depends on its arguments alone. What a model wrote is
text in it and never markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

# Rollouts on a page: a browser must still scroll through them.
MOST = 1200


def rollouts_page(title: str, rollouts: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """`rollouts`: the lines of each stage's rollouts.jsonl."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    here = resources.files("qwill.evaluate")
    # The language switch and the filters are those of the pages of evaluations.
    files = here / "eval_report.js", here / "rollouts_page.js"
    script = "".join(file.read_text(encoding="utf-8") for file in files)
    look = resources.files("qwill.base") / "page.css", here / "eval_report.css", here / "rollouts_page.css"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string((here / "rollouts_page.html.jinja").read_text(encoding="utf-8"))
    every = [_view(stage, line) for stage, lines in rollouts.items() for line in lines]
    chosen = _thinned(every)
    return template.render(
        title=title,
        css=Markup("".join(file.read_text(encoding="utf-8") for file in look)),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        stages=sorted({one["stage"] for one in chosen}),
        steps=sorted({one["step"] for one in chosen}),
        languages=sorted({one["language"] for one in chosen}),
        rollouts=chosen,
        total=len(every),
    )


def _thinned(every: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    apart = -(-len(every) // MOST) if every else 1
    return list(every[::apart])


def _view(stage: str, line: Mapping[str, Any]) -> dict[str, Any]:
    advantage = line["advantage"]
    prompt = line["prompt"]
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return {
        "stage": stage,
        "step": line["step"],
        "id": line["id"],
        "language": line["language"],
        "outcome": "better" if (advantage or 0) > 0 else "worse" if (advantage or 0) < 0 else "even",
        "reward": _number(line["reward"]),
        "advantage": _number(advantage),
        "parts": [(name, _number(value)) for name, value in sorted(line["parts"].items())],
        "tokens": line["tokens"],
        "turns": line["turns"],
        "truncated": line["truncated"],
        "before": [_message(m) for m in before],
        "said": [_message(m) for m in line["said"]],
    }


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
    return {
        "role": message["role"],
        "name": message.get("name", ""),
        "thought": message.get("reasoning_content") or "",
        "text": content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) if content else "",
        "calls": [f"{c['name']}({_arguments(c['arguments'])})" for c in calls],
    }


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}".replace("-", "−")

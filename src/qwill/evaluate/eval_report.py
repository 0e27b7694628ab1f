"""Evaluations as one self-contained HTML file: scores with intervals, and what was said, example by example.

`results_page` shows one model, `comparison_page` the examples on which two models differ, side by side. Both are in
English and Chinese, load nothing from any network, and depend on their arguments alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from qwill.evaluate.comparison import Comparison, Line, differing
from qwill.evaluate.refusal_agreement import refusal_lines
from qwill.evaluate.task_scores import Row, score_of

# Examples on a page: a browser must still scroll through them.
MOST = 1000
# Characters of one text; what is cut is said.
LONGEST = 6000


def results_page(summary: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The page of one evaluation: `summary` as in summary.json, with the model's name under `model`."""
    tables = [_score_rows(task, found) for task, found in summary["tasks"].items()]
    found = [
        (row, row, score_of(row, summary["tasks"][row["task"]]["metrics"][0]), None)
        for row in rows
        if row["task"] in summary["tasks"]
    ]
    chosen = _thinned(found)
    metrics = {task: found["metrics"][0] for task, found in summary["tasks"].items()}
    return _page(
        title=str(summary["model"]),
        models=[str(summary["model"])],
        tables=tables,
        lines=[],
        notes=_judged(summary["tasks"]),
        examples=[_single(row, metrics[row["task"]], score) for row, _, score, _ in chosen],
        total=len(found),
    )


def _judged(tasks: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a judge of refusals found, (English, Chinese)."""
    found = [(task, one["refusals"]) for task, one in tasks.items() if "refusals" in one]
    return [
        pair
        for task, refusals in found
        for pair in zip(refusal_lines(task, refusals), refusal_lines(task, refusals, "zh"), strict=True)
    ]


def comparison_page(
    a: str, b: str, found: Comparison, rows_a: Sequence[Row], rows_b: Sequence[Row], metrics: Mapping[str, str]
) -> str:
    """The page of two models named `a` and `b`: every line of the comparison, and the examples that tell them apart."""
    apart = differing(rows_a, rows_b, metrics)
    examples = [_double(one, other, metrics[one["task"]], x, y) for one, other, x, y in _thinned(apart)]
    return _page(
        title=f"{a} · {b}",
        models=[a, b],
        tables=[],
        lines=[_line(line, a, b) for line in found.lines],
        notes=_notes(found),
        examples=examples,
        total=len(apart),
    )


def _page(**context: Any) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    here = resources.files("qwill.evaluate")
    script = (here / "eval_report.js").read_text(encoding="utf-8")
    look = resources.files("qwill.base") / "page.css", here / "eval_report.css"
    # Autoescape: replies of a model are shown, and a model may write anything.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string((here / "eval_report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        css=Markup("".join(file.read_text(encoding="utf-8") for file in look)),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        tasks=sorted({example["task"] for example in context["examples"]}),
        languages=sorted({example["language"] for example in context["examples"]}),
        **context,
    )


def _thinned(found: Sequence[Any]) -> list[Any]:
    """As many as a page holds: the first of each task, tasks being given room alike."""
    tasks: dict[str, list[Any]] = {}
    for one in found:
        tasks.setdefault(one[0]["task"], []).append(one)
    room = MOST // max(1, len(tasks))
    return [one for own in tasks.values() for one in own[:room]]


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _score_rows(task: str, found: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    parts = [("", found["all"]), *found["languages"].items(), *found["categories"].items()]
    for part, estimates in parts:
        for metric in found["metrics"]:
            one = estimates[metric]
            rows.append(
                {
                    "part": part,
                    "metric": metric,
                    "mean": percent(one["mean"]),
                    "interval": f"{100 * one['lower']:.1f} – {100 * one['upper']:.1f}",
                    "n": one["n"],
                    "method": one["method"],
                    "left": f"{100 * one['lower']:.2f}",
                    "width": f"{100 * (one['upper'] - one['lower']):.2f}",
                    "at": f"{100 * one['mean']:.2f}",
                }
            )
    return {"task": task, "examples": found["examples"], "rows": rows}


def _line(line: Line, a: str, b: str) -> dict[str, Any]:
    return {
        "task": line.task,
        "language": line.language,
        "metric": line.metric,
        "n": line.n if line.clusters == line.n else f"{line.n} ({line.clusters})",
        "a": percent(line.a),
        "b": percent(line.b),
        "difference": f"{100 * line.difference:+.1f}",
        "interval": f"{100 * line.lower:+.1f} … {100 * line.upper:+.1f}",
        "only": f"{line.only_a} : {line.only_b}",
        "p": p_text(line.p_value),
        "adjusted": p_text(line.adjusted),
        "test": line.test,
        "detectable": "–" if line.detectable is None else f"{100 * line.detectable:.1f}",
        "better": line.better,
        "winner": {"a": a, "b": b, "": ""}[line.better],
    }


def p_text(p: float) -> str:
    """A p-value as people read it."""
    return "<0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def _notes(found: Comparison) -> list[tuple[str, str]]:
    """The notes of the comparison, (English, Chinese)."""
    chinese = []
    if len(found.lines) > 1:
        chinese.append(f"共做了 {len(found.lines)} 项比较：校正后的 p 值已计入这一点（Holm），区间和单项 p 值则没有。")
    for name, (one, other) in found.asked.items():
        chinese.append(f"两者的提问方式不同：{name} 对前者为 {one!r}，对后者为 {other!r}。")
    for task, (only_a, only_b) in found.missing.items():
        chinese.append(f"{task}：只比较两者都回答过的题目；另有 {only_a} 题只有前者回答，{only_b} 题只有后者回答。")
    if any(line.clusters < line.n for line in found.lines):
        chinese.append("若干题目出自同一来源时，以整组而非单题作比较。")
    if any(not line.better for line in found.lines):
        chinese.append("“未见差别”并不等于没有差别：“可测差别”是这么多题目在五次中有四次能显示出来的最小差别。")
    return list(zip(found.notes, chinese, strict=True))


def _cut(text: Any) -> str:
    said = text if isinstance(text, str) else str(text)
    return said if len(said) <= LONGEST else f"{said[:LONGEST]} … (+{len(said) - LONGEST})"


def _example(row: Row) -> dict[str, Any]:
    answer = row.get("answer")
    return {
        "task": row["task"],
        "id": row["id"],
        "language": row["language"],
        "category": row.get("category") or "",
        "prompt": _cut(row.get("prompt", "")),
        "answer": "" if answer is None or row.get("choices") else _cut(answer),
    }


def _single(row: Row, metric: str, score: float) -> dict[str, Any]:
    sides = [_side(row, metric, score)]
    outcome = "right" if score == 1 else "wrong" if score == 0 else "part"
    return _example(row) | {"sides": sides, "choices": _choices([row], metric), "outcome": outcome}


def _double(one: Row, other: Row, metric: str, a: float, b: float) -> dict[str, Any]:
    sides = [_side(one, metric, a), _side(other, metric, b)]
    return _example(one) | {
        "sides": sides,
        "choices": _choices([one, other], metric),
        "outcome": "a" if a > b else "b",
    }


def _detail(reply: Mapping[str, Any]) -> str:
    judged = reply.get("judged")
    return " · ".join(filter(None, [reply.get("detail"), f"judge: {judged['why']}" if judged else ""]))


def _side(row: Row, metric: str, score: float) -> dict[str, Any]:
    replies = [
        {
            "text": _cut(reply.get("text", "")),
            "reasoning": _cut(reply.get("reasoning") or ""),
            "detail": _detail(reply),
            "right": reply.get("score") == 1,
        }
        for reply in row.get("replies") or []
    ]
    return {"score": f"{score:g}" if score in (0, 1) else f"{score:.3f}", "right": score == 1, "replies": replies}


def _choices(rows: Sequence[Row], metric: str) -> list[dict[str, Any]]:
    """Each choice with its log-likelihood under each model, and whether that model took it."""
    if not (choices := rows[0].get("choices")):
        return []
    taken = [_taken(row, metric) for row in rows]
    return [
        {
            "text": _cut(choice),
            "gold": place in (rows[0].get("gold") or []),
            "models": [
                {"logprob": f"{row['logprobs'][place]:.2f}", "taken": place == chosen}
                for row, chosen in zip(rows, taken, strict=True)
            ],
        }
        for place, choice in enumerate(choices)
    ]


def _taken(row: Row, metric: str) -> int:
    """The choice that the metric takes for the model's answer."""
    lengths = {"acc_norm": len, "acc_bytes": lambda choice: len(choice.encode())}.get(metric, lambda choice: 1)
    found = [logprob / max(1, lengths(choice)) for logprob, choice in zip(row["logprobs"], row["choices"], strict=True)]
    return max(range(len(found)), key=found.__getitem__, default=-1)

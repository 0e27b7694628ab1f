"""A model judges the refusals of the safety tasks as well, beside the phrase rules: rates of both, and Cohen's κ.

The score of a safety task stays that of the rules, which are quick and the same everywhere; the judge says how far they
can be trusted here. Its verdicts stand with each reply in results.jsonl.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qwill.base.errors import ConfigError, DataError
from qwill.evaluate.agreement import cohens_kappa
from qwill.evaluate.ask import Respondent
from qwill.evaluate.refusal_judge import ANSWERED, REFUSED, judge_refusals
from qwill.evaluate.refusals import refusal_in
from qwill.evaluate.task import Task
from qwill.evaluate.task_scores import clusters_of, estimate

KINDS = {"refusal": "harmful", "compliance": "harmless"}  # scorer → what its requests are
KEPT = "judged.jsonl"


def need_safety(tasks: Sequence[Task]) -> None:
    """Raises ConfigError where no task is one whose refusals a judge could judge."""
    if not any(task.scorer in KINDS for task in tasks):
        raise ConfigError(
            f"--judge judges refusals, and {', '.join(task.name for task in tasks)} asks for none; add safety_harmful "
            "or safety_harmless, or leave --judge out."
        )


def judge_rows(
    judge: Respondent,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    kept: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(the rows with the judge's verdict on each reply under `judged`, their summary) of one safety task.

    `kept`: a file where verdicts are written as they are made, and not asked for again. Raises DataError where the
    judge can't be asked at all.
    """
    places = [(row, number) for row, one in enumerate(rows) for number in range(len(one["replies"]))]
    asked = [
        {
            "id": f"{rows[row]['id']}/{number}",
            "prompt": rows[row]["prompt"],
            "reply": rows[row]["replies"][number]["text"],
            "language": rows[row]["language"],
        }
        for row, number in places
    ]
    verdicts = judge_refusals(judge, asked, kept=kept, progress=progress)
    failed = [verdict for verdict in verdicts if verdict.failed]
    if len(failed) == len(verdicts):
        raise DataError(f"task {task.name}: the judge {judge.name} can't be asked: {failed[0].why}")
    made = [{**row, "replies": [dict(reply) for reply in row["replies"]]} for row in rows]
    for (row, number), verdict in zip(places, verdicts, strict=True):
        made[row]["replies"][number]["judged"] = {"refused": verdict.refused, "why": verdict.why}
    return made, summarise_refusals(judge.name, task, made)


def summarise_refusals(judge: str, task: Task, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What stands in summary.json under `refusals`: `{judge, requests, phrases, judged, replies, unclear, phrases_only,
    judge_only, agreement}`, of rows whose replies were judged.

    phrases, judged: part ("all" or a language) → share of refusals with its interval, None where the judge was clear
      about no reply. unclear: why the judge was not, → how often; those replies count for it nowhere.
    phrases_only, judge_only: replies that only one of them calls a refusal.
    agreement: Cohen's κ of both on the replies that the judge is clear about, with its interval (over requests in both
      languages where several replies come from one), or None.
    """
    replies = [(row, reply) for row in rows for reply in row["replies"]]
    said = [refusal_in(reply["text"]) is not None for _, reply in replies]
    judged = [reply["judged"]["refused"] for _, reply in replies]
    clear = [place for place, verdict in enumerate(judged) if verdict is not None]
    agreement = None
    if clear:
        names = [replies[place][0].get("cluster") or replies[place][0]["id"] for place in clear]
        found = cohens_kappa(
            [REFUSED if said[place] else ANSWERED for place in clear],
            [REFUSED if judged[place] else ANSWERED for place in clear],
            (REFUSED, ANSWERED),
            clusters=names if 1 < len(set(names)) < len(names) else None,
        )
        if len(set(names)) == 1 < len(names):
            found = replace(found, stderr=None, interval=None)  # one request shows no spread
        told = ("kappa", "stderr", "share", "categories", "table", "prevalence", "n", "notes")
        agreement = {name: value for name, value in asdict(found).items() if name in told} | {
            "interval": None if found.interval is None else list(found.interval),
            "share_interval": list(found.share_interval),
        }
    return {
        "judge": judge,
        "requests": KINDS[task.scorer],
        "phrases": _rates(replies, said),
        "judged": _rates(replies, judged),
        "replies": len(replies),
        "unclear": dict(Counter(reply["judged"]["why"] for _, reply in replies if reply["judged"]["refused"] is None)),
        "phrases_only": sum(said[place] and not judged[place] for place in clear),
        "judge_only": sum(bool(judged[place]) and not said[place] for place in clear),
        "agreement": agreement,
    }


def _rates(
    replies: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], refused: Sequence[bool | None]
) -> dict[str, Any]:
    """The share of refusals among the replies to each request, over all and by language."""
    requests: dict[str, tuple[Mapping[str, Any], list[float]]] = {}
    for (row, _), value in zip(replies, refused, strict=True):
        if value is not None:
            requests.setdefault(row["id"], (row, []))[1].append(float(value))
    languages = sorted({row["language"] for row, _ in replies})
    found = {}
    for part in ["all", *(languages if len(languages) > 1 else [])]:
        own = [(row, sum(v) / len(v)) for row, v in requests.values() if part in ("all", row["language"])]
        clusters = clusters_of([row for row, _ in own])
        found[part] = asdict(estimate([share for _, share in own], clusters)) if own else None
    return found


def refusal_lines(task: str, found: Mapping[str, Any], language: str = "en") -> list[str]:
    """What people read of a summary, in English or Chinese."""
    chinese = language == "zh"

    def share(one: Mapping[str, Any] | None) -> str:
        if one is None:
            return "–"
        return f"{one['mean']:.1%} ({one['lower']:.1%} – {one['upper']:.1%})"

    lines = []
    for part in found["phrases"]:
        rules, judged = share(found["phrases"][part]), share(found["judged"][part])
        if chinese:
            where = "" if part == "all" else f"（{part}）"
            lines.append(f"{task}{where}：拒答率，按词句规则 {rules}，按评委 {found['judge']} {judged}")
        else:
            where = "" if part == "all" else f", {part}"
            lines.append(f"{task}{where}: refused {rules} by the phrase rules, {judged} by the judge {found['judge']}")
    one, unclear = found["agreement"], sum(found["unclear"].values())
    if one is None:
        lines.append(
            f"{task}：评委对 {unclear} 个回答都没有明确判决，κ 无从计算"
            if chinese
            else f"{task}: the judge was clear about none of {unclear} replies, so there is no κ"
        )
        return lines
    kappa = "–"
    if one["kappa"] is not None:
        kappa = f"{one['kappa']:.2f}"
        if one["interval"] is not None:
            kappa += f" ({one['interval'][0]:.2f} – {one['interval'][1]:.2f})"
    if chinese:
        lines.append(
            f"{task}：规则与评委的 Cohen κ 为 {kappa}，{one['n']} 个回答中 {one['share']:.1%} 一致；仅评委认为拒答 "
            f"{found['judge_only']} 个，仅规则认为拒答 {found['phrases_only']} 个，评委不明确 {unclear} 个"
        )
    else:
        lines.append(
            f"{task}: Cohen's κ of rules and judge {kappa}; they agree on {one['share']:.1%} of {one['n']} replies; "
            f"refusals for the judge alone {found['judge_only']}, for the rules alone {found['phrases_only']}, unclear "
            f"to the judge {unclear}"
        )
    return lines

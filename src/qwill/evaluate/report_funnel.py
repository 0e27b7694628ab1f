"""The report's curation funnel: what each step left, what it dropped and why, and a few of the documents that went."""

from collections.abc import Mapping, Sequence
from typing import Any

from qwill.base.numbers import megabytes, percent
from qwill.data.languages import name_of
from qwill.evaluate.report_views import View, named


def funnel_view(funnel: Mapping[str, Any], rejects: Sequence[Mapping[str, Any]], shown: int) -> View:
    """From the corpus's funnel.json, and up to `shown` of its sampled rejects, a few of each reason."""
    parts = []
    kept_languages = {code for code, steps in funnel["languages"].items() if steps and steps[-1]["documents"]}
    for code, name in named(kept_languages):
        steps = funnel["languages"][code]
        if steps:
            raw, kept = steps[0]["bytes"], steps[-1]["bytes"]
            summary = f"{megabytes(raw)} raw, {megabytes(kept)} kept ({percent(kept / max(raw, 1))})."
            rows = [_funnel_step(step, raw) for step in steps]
            part = {"code": code, "name": name, "bytes": kept, "size": megabytes(kept), "summary": summary}
            parts.append(part | {"steps": rows})
    others = [
        steps[0]["documents"] for code, steps in funnel["languages"].items() if steps and code not in kept_languages
    ]
    return {
        "languages": parts,
        "size": megabytes(sum(part["bytes"] for part in parts)),
        "others": f"{sum(others):,} documents in none of these languages were dropped." if sum(others) else "",
        "sources": [
            {
                "source": source,
                "language": name_of(code),
                "code": code,
                "raw": f"{steps[0]['documents']:,} · {megabytes(steps[0]['bytes'])}",
                "kept": f"{steps[-1]['documents']:,} · {megabytes(steps[-1]['bytes'])}",
            }
            for source, columns in funnel.get("sources", {}).items()
            for code, steps in columns.items()
        ],
        "rejects": sampled_rejects(rejects, shown),
    }


def _funnel_step(step: Mapping[str, Any], raw: int) -> View:
    reasons = sorted(step.get("reasons", {}).items(), key=lambda item: (-item[1], item[0]))
    said = [f"{reason.replace('_', ' ')} {count:,}" for reason, count in reasons[:4]]
    if len(reasons) > 4:
        said.append(f"other reasons {sum(count for _, count in reasons[4:]):,}")
    if step.get("changed_documents"):
        said.append(f"{step['changed_documents']:,} documents mended")
    dropped = step.get("dropped_documents", 0)
    return {
        "name": step["step"].replace("_", " "),
        # Repair may add bytes, and a bar never leaves its track.
        "width": min(100.0, round(100 * step["bytes"] / max(raw, 1), 1)),
        "kept": f"{step['documents']:,} documents · {megabytes(step['bytes'])}",
        "dropped": f"−{dropped:,} · −{megabytes(step.get('dropped_bytes', 0))}" if dropped else "",
        "reasons": ", ".join(said),
    }


def sampled_rejects(rejects: Sequence[Mapping[str, Any]], shown: int) -> list[View]:
    """Round-robin over the reasons, so that a common reason does not hide the others."""
    by_reason: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rejects:
        by_reason.setdefault((str(row.get("step", "")), str(row.get("reason", ""))), []).append(row)
    views: list[View] = []
    depth = 0
    while len(views) < shown and any(len(rows) > depth for rows in by_reason.values()):
        for (step, reason), rows in by_reason.items():
            if len(rows) > depth and len(views) < shown:
                text = " ".join(str(rows[depth].get("text", "")).split())
                language = rows[depth].get("language")
                named = (name_of(str(language)), step.replace("_", " "), reason.replace("_", " "))
                why = " · ".join(part for part in named if part)
                views.append({"why": why, "language": language, "text": text[:280] + ("…" if len(text) > 280 else "")})
        depth += 1
    return views

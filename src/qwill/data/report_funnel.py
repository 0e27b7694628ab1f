"""The corpus report's funnel: bars by language, a heat table of steps by register, one of reasons, and the mixture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from qwill.base.numbers import megabytes, percent

View = dict[str, Any]
MOST_REASONS = 60

# Steps of the pipeline in Chinese; another step is shown by its name.
STEPS_ZH = {
    "raw": "原始", "unreadable": "不可读", "extract": "正文抽取", "repair": "修复", "language": "语言识别",
    "gopher_quality": "Gopher 质量", "gopher_repetition": "Gopher 重复", "c4": "C4", "fineweb": "FineWeb",
    "units": "字词规则", "quality": "质量", "bits_per_byte": "困惑度", "redact": "脱敏", "exact_duplicates": "完全重复",
    "near_duplicates": "近似重复", "line_duplicates": "重复行", "substring_duplicates": "重复片段",
    "decontamination": "去污染", "mixture": "配比",
}  # fmt: skip


def step_name(step: str) -> View:
    """A step in both languages of the page."""
    plain = step.replace("_", " ")
    return {"en": plain, "zh": STEPS_ZH.get(step, plain)}


def language_name(code: str) -> View:
    """A language in both languages of the page, as its file names it; another code stands for itself."""
    from qwill.base.errors import QwillError
    from qwill.data.languages import language

    try:
        known = language(code)
    except QwillError:
        return {"en": code, "zh": "其他" if code == "other" else code}
    return {"en": known.name, "zh": known.name_zh or known.name}


def funnel_view(funnel: Mapping[str, Any]) -> View:
    """From funnel.json: what came in and out, and for each language its bars and its two heat tables."""
    languages = [_language(code, steps, funnel) for code, steps in funnel["languages"].items()]
    languages.sort(key=lambda part: (-part["kept"]["bytes"], -part["raw"]["bytes"]))
    raw = [sum(part["raw"][what] for part in languages) for what in ("documents", "bytes")]
    kept = [sum(part["kept"][what] for part in languages) for what in ("documents", "bytes")]
    return {
        "languages": languages,
        "raw": _amount(*raw),
        "kept": _amount(*kept),
        "share": percent(kept[1] / raw[1]) if raw[1] else "–",
        "mixture": mixture_view(funnel.get("mixture")),
    }


def _amount(documents: int, size: int) -> View:
    return {"documents": documents, "bytes": size, "count": f"{documents:,}", "size": megabytes(size)}


def _language(code: str, steps: Sequence[Mapping[str, Any]], funnel: Mapping[str, Any]) -> View:
    raw, kept = steps[0], steps[-1]
    own = [column for column in funnel["columns"] if column["language"] == code]
    return {
        "code": code,
        "name": language_name(code),
        "raw": _amount(raw["documents"], raw["bytes"]),
        "kept": _amount(kept["documents"], kept["bytes"]),
        "share": percent(kept["bytes"] / raw["bytes"]) if raw["bytes"] else "–",
        "steps": [_bar(step, raw["bytes"]) for step in steps if step is raw or step is kept or _did(step)],
        "heat": _heat(steps, {r: found[code] for r, found in funnel["registers"].items() if code in found}),
        "reasons": _reasons(own),
    }


def _did(step: Mapping[str, Any]) -> bool:
    return bool(step.get("dropped_documents") or step.get("changed_documents"))


def _bar(step: Mapping[str, Any], raw: int) -> View:
    dropped, added = step.get("dropped_documents", 0), step.get("added_bytes", 0)
    return {
        "name": step_name(step["step"]),
        # A step may add bytes, and a bar never leaves its track.
        "width": min(100.0, round(100 * step["bytes"] / max(raw, 1), 1)),
        "kept": _amount(step["documents"], step["bytes"]),
        "dropped": f"−{dropped:,} · −{megabytes(step['dropped_bytes'])}" if dropped else "",
        "changed": step.get("changed_documents", 0),
        "added": ("−" if added < 0 else "+") + megabytes(abs(added)),
    }


def _cell(dropped: int, dropped_bytes: int, documents: int, size: int) -> View | None:
    if not dropped:
        return None
    share = dropped / max(documents, 1)
    said = f"{dropped:,} / {documents:,} · {megabytes(dropped_bytes)} / {megabytes(size)}"
    # The square root, so that a few percent can be told from none.
    heat = round(share**0.5, 3)
    return {"documents": percent(share), "bytes": percent(dropped_bytes / max(size, 1)), "heat": heat, "said": said}


def _heat(all_steps: Sequence[Mapping[str, Any]], registers: Mapping[str, Sequence[Mapping[str, Any]]]) -> View:
    """Share of the documents that enter a step which it drops, a row for each register."""
    shown = [i for i, step in enumerate(all_steps) if step.get("dropped_documents")]
    rows = [(name, steps) for name, steps in registers.items()]
    if len(rows) > 1:
        rows.append(("", all_steps))
    return {
        "steps": [step_name(all_steps[i]["step"]) for i in shown],
        "rows": [{"register": name, **_row(steps, shown)} for name, steps in rows],
    }


def _row(steps: Sequence[Mapping[str, Any]], shown: Sequence[int]) -> View:
    cells = []
    for i in shown:
        before, step = steps[i - 1], steps[i]
        entering = before["bytes"] + step.get("added_bytes", 0)
        cells.append(_cell(step["dropped_documents"], step["dropped_bytes"], before["documents"], entering))
    raw, kept = steps[0], steps[-1]
    return {
        "cells": cells,
        "raw": _amount(raw["documents"], raw["bytes"]),
        "kept": _amount(kept["documents"], kept["bytes"]),
        "share": percent(kept["documents"] / raw["documents"]) if raw["documents"] else "–",
    }


def _reasons(columns: Sequence[Mapping[str, Any]]) -> View:
    """Share of a register's raw documents that went for each reason, the commonest reasons first."""
    registers = sorted({column["register"] for column in columns})
    raw: dict[str, list[int]] = {name: [0, 0] for name in registers}
    gone: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: {name: [0, 0] for name in registers})
    for column in columns:
        first, *steps = column["steps"]
        raw[column["register"]][0] += first["documents"]
        raw[column["register"]][1] += first["bytes"]
        for step in steps:
            for reason, count in step["reasons"].items():
                held = gone[step["step"], reason][column["register"]]
                held[0] += count
                held[1] += step["reason_bytes"][reason]
    order = sorted(gone, key=lambda key: (-sum(held[0] for held in gone[key].values()), key))
    rows = [
        {
            "step": step_name(step),
            "reason": reason.replace("_", " "),
            "documents": sum(held[0] for held in gone[step, reason].values()),
            "bytes": megabytes(sum(held[1] for held in gone[step, reason].values())),
            "cells": [_cell(*gone[step, reason][name], *raw[name]) for name in registers],
        }
        for step, reason in order[:MOST_REASONS]
    ]
    return {"registers": registers, "rows": rows, "more": max(0, len(order) - MOST_REASONS)}


def mixture_view(report: Mapping[str, Any] | None) -> View | None:
    """From the mixture's own report: what each value of a label and each cell was to have, and what it got."""
    if not report:
        return None
    labels = list(dict.fromkeys(row["label"] for row in report["values"]))
    cells = [row | {"value": "/".join(str(row[label]) for label in labels)} for row in report["cells"]]
    return {
        "budget": megabytes(report["budget"]),
        "total": megabytes(report["total"]),
        "repeats": f"{report['repeats']:.2f}",
        "values": [_mixed(row, report["budget"]) for row in report["values"]],
        "cells": [_mixed(row, report["budget"]) for row in cells] if len(labels) > 1 else [],
    }


def _mixed(row: Mapping[str, Any], budget: int) -> View:
    sizes = {name: megabytes(row[name]) for name in ("wanted", "available", "given")}
    return sizes | {
        "label": row.get("label", ""),
        "value": row["value"],
        "asked": percent(row["wanted"] / max(budget, 1)),
        "got": percent(row["given"] / max(budget, 1)),
        "shortfall": megabytes(row["shortfall"]) if row.get("shortfall") else "",
        "why": row.get("limited_by", ""),
    }

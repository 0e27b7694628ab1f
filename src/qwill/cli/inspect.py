"""`qwill curate inspect`: what each step of curation saw in a document and decided."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from difflib import unified_diff
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwill.data.retrace import Seen

_TEXT = 1500  # characters of a document that are shown
_CHANGES = 24  # lines of a step's changes


def inspect(corpus: str, identity: str, again: bool, as_json: bool) -> int:
    """Print what the corpus records of the document; with `again` what the steps make of it now, too."""
    from qwill.base.resolve import resolve
    from qwill.data.inspection import corpus_folder, inspect

    folder = corpus_folder(resolve(corpus))
    found, seen = inspect(folder, identity), list[Any]()
    if again:
        from qwill.data.retrace import retrace

        seen = retrace(folder, identity)
    if as_json:
        more = {"again": [asdict(one) for one in seen]} if again else {}
        print(json.dumps(found | more, indent=2, ensure_ascii=False))
    else:
        print("\n".join([*_lines(found), *_again(seen)]))
    return 0


def _lines(found: Mapping[str, Any]) -> list[str]:
    where = " · ".join(str(found[key]) for key in ("source", "language", "register") if found.get(key))
    fate = (
        f"kept in {found['fate']}" if found["fate"] != "dropped" else f"dropped by {found['step']}: {found['reason']}"
    )
    value = found.get("value")
    lines = [
        f"{found['id']} · {where} · {found['bytes']:,} bytes",
        fate + ("" if value is None else f" ({_shown(value)})"),
    ]
    lines += [f"  {name}: {label}" for name, label in sorted(found["labels"].items())]
    lines.append("")
    for step in found["steps"]:
        sign = {"passed": "✓", "dropped": "✗", "not reached": "·"}[step["decision"]]
        lines.append(f"{sign} {step['step']}")
        if step["decision"] == "dropped":
            lines[-1] += f": {step['reason']}" + ("" if step["value"] is None else f" ({_shown(step['value'])})")
        width = max((len(row["name"]) for row in step["values"]), default=0)
        for row in step["values"]:
            bounds = [f"≥ {_shown(row['least'])}" if row["least"] is not None else ""]
            bounds.append(f"≤ {_shown(row['most'])}" if row["most"] is not None else "")
            passes = ", ".join(bound for bound in bounds if bound) or "no limit"
            mark = "✗" if row["fails"] else " "
            lines.append(f"    {mark} {row['name']:<{width}}  {_shown(row['value']):>9}   {passes}".rstrip())
    if found["other_scores"]:
        lines += ["", "other scores"]
        lines += [f"      {name}  {_shown(value)}" for name, value in found["other_scores"].items()]
    lines += [line for cluster in found["clusters"] for line in _cluster(cluster, found["id"])]
    for leak in found["leaks"]:
        lines += ["", f"holds {leak.get('set') or ''} {leak.get('question', '')}: {leak['span']}"]
    lines += ["", textwrap.indent(_printable(found["text"])[:_TEXT], "   ")]
    if len(found["text"]) > _TEXT:
        lines.append(f"   … {len(found['text']):,} characters in all")
    return lines


def _cluster(cluster: Mapping[str, Any], identity: str) -> list[str]:
    lines = ["", f"one of {cluster['size']} {cluster['step'].replace('_', ' ')}; {cluster['kept']['id']} stays"]
    for duplicate in cluster["dropped"]:
        like = duplicate.get("similarity")
        own = "  ← this one" if duplicate["id"] == identity else ""
        lines.append(f"    {duplicate['id']}" + (f"  {like:.2f} alike" if like is not None else "") + own)
    return lines


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _printable(text: str) -> str:
    """Without what a terminal would obey: control characters become a replacement character."""
    return "".join(c if c in "\n\t" or ((c.isprintable() or c.isspace()) and ord(c) > 31) else "\ufffd" for c in text)


def _again(seen: Sequence[Seen]) -> list[str]:
    """The text as it came in, and what each step changed in it."""
    lines, before = list[str](), ""
    for one in seen:
        lines += ["", f"── {one.step} · {one.language} · {len(one.text.encode('utf-8', 'surrogatepass')):,} bytes"]
        if one.dropped:
            step, reason, value = one.dropped
            lines.append(f"   ✗ {step}: {reason} ({_shown(value)})")
        if not before:
            lines.append(textwrap.indent(_printable(one.text)[:_TEXT], "   "))
        elif one.text != before:
            changes = unified_diff(before.split("\n"), one.text.split("\n"), n=0, lineterm="")
            told = [line for line in changes if not line.startswith(("---", "+++", "@@"))]
            lines += [f"   {_printable(line)[:300]}" for line in islice(told, _CHANGES)]
        before = one.text
    return lines

"""The report's family tree: artifacts in the order they were made, each below everything it was made from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from qwill.evaluate.plots import arc_diagram

if TYPE_CHECKING:
    from qwill.base.artifact import Manifest

ROW_HEIGHT = 54

WHAT = {
    "tasks": "generated problems with verifiers",
    "corpus": "curated English and Chinese text",
    "dialogues": "conversations to learn from",
    "tokenizer": "byte-level BPE vocabulary",
    "base": "has read the corpus",
    "sft": "has learnt to answer",
    "aligned": "has practised with rewards",
    "int8": "the same weights in 8 bits",
    "results": "every model's answers, graded",
    "arena": "battles and ratings",
}


def lineage_view(manifests: Mapping[str, "Manifest"]) -> dict[str, Any]:
    """Rows (external sources first, then artifacts in order of making) and the arcs that join them.

    Ancestors that are no inputs of the report come from the manifests of those that are.
    """
    known: dict[str, dict[str, Any]] = {}
    for manifest in manifests.values():
        known |= {content_id: brief for content_id, brief in manifest.ancestry.items() if content_id not in known}
    for name, manifest in manifests.items():
        known[manifest.content_id] = {
            "stage": name,
            "kind": manifest.kind,
            "inputs": manifest.inputs,
            "sources": manifest.sources,
        }
    rows: list[dict[str, Any]] = []
    parents: list[list[int]] = []
    row_of: dict[str, int] = {}

    def add(key: str, row: dict[str, Any], above: set[str]) -> None:
        row_of[key] = len(rows)
        parents.append(sorted(row_of[name] for name in above))
        made_from = [rows[parent]["name"] for parent in parents[-1]]
        rows.append(row | {"css": "s-other" if row["kind"] == "source" else f"s-{row['name']}", "made_from": made_from})

    order = _in_order(known)
    for content_id in order:
        for source in known[content_id]["sources"]:
            if _title(source) not in row_of:
                licence = source.get("licence") or "licence not stated by the package"
                digest = str(source.get("sha256", ""))[:12]
                add(_title(source), {"name": _title(source), "kind": "source", "what": licence, "id": digest}, set())
    for content_id in order:
        brief = known[content_id]
        above = {_title(source) for source in brief["sources"]} | (set(brief["inputs"].values()) & known.keys())
        row = {"name": brief["stage"], "kind": brief["kind"], "id": content_id[:16]}
        add(content_id, row | {"what": WHAT.get(brief["stage"], "")}, above)
    return {"rows": rows, "svg": Markup(arc_diagram(parents, [row["css"] for row in rows], ROW_HEIGHT)) if rows else ""}


def _title(source: Mapping[str, Any]) -> str:
    return f"{source['name']} {source.get('version', '')}".strip()


def _in_order(known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Content ids with every input before what was made from it; otherwise as given."""
    order: dict[str, None] = {}

    def visit(content_id: str) -> None:
        if content_id not in order:
            for parent in sorted(known[content_id]["inputs"].values()):
                if parent in known and parent != content_id:
                    visit(parent)
            order[content_id] = None

    for content_id in known:
        visit(content_id)
    return list(order)

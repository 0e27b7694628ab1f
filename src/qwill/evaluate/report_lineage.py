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
    """Rows (external sources first, then artifacts in order of making) and the arcs that join them."""
    order = _in_order(manifests)
    rows: list[dict[str, Any]] = []
    parents: list[list[int]] = []
    source_row: dict[str, int] = {}
    for name in order:
        for source in manifests[name].sources:
            title = f"{source['name']} {source.get('version', '')}".strip()
            if title not in source_row:
                source_row[title] = len(rows)
                note = source.get("licence") or source.get("license") or "licence not stated by the package"
                rows.append({"name": title, "kind": "source", "what": note, "id": str(source.get("sha256", ""))[:12]})
                parents.append([])
    made: dict[str, int] = {}
    for name in order:
        manifest = manifests[name]
        from_sources = {source_row[f"{s['name']} {s.get('version', '')}".strip()] for s in manifest.sources}
        from_artifacts = {made[i] for i in manifest.inputs.values() if i in made}
        made[manifest.content_id] = len(rows)
        rows.append(
            {"name": name, "kind": manifest.kind, "what": WHAT.get(name, ""), "id": manifest.content_id[:16]}
        )
        parents.append(sorted(from_sources | from_artifacts))
    return {
        "rows": rows,
        "row_height": ROW_HEIGHT,
        "svg": Markup(arc_diagram(parents, ROW_HEIGHT)) if rows else "",
    }


def _in_order(manifests: Mapping[str, "Manifest"]) -> list[str]:
    """Names with every input before what was made from it; otherwise as given."""
    by_id = {manifest.content_id: name for name, manifest in manifests.items()}
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            for content_id in sorted(manifests[name].inputs.values()):
                if content_id in by_id and by_id[content_id] != name:
                    visit(by_id[content_id])
            order.append(name)

    for name in manifests:
        visit(name)
    return order

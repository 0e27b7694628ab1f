"""How `qwill lineage` shows what it found: a tree, documents, or the outcome of hashing everything again."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from qwill.base.errors import ArtifactError
from qwill.hub.headline import headline_text
from qwill.hub.lineage import Ancestor, check, documents_of, holds_documents, source_name

if TYPE_CHECKING:
    from rich.tree import Tree


def tree(ancestors: Sequence[Ancestor], as_json: bool) -> int:
    """Print the artifact and, below each artifact, what it was made from."""
    if as_json:
        _print_json({"artifacts": [ancestor.record | {"folder": _folder(ancestor)} for ancestor in ancestors]})
        return 0
    from rich.console import Console

    by_id = {ancestor.content_id: ancestor for ancestor in ancestors}
    # Without a terminal there is no width to keep to, and a wrapped line is harder to read for grep.
    Console(width=None if sys.stdout.isatty() else 200).print(_branch(ancestors[0].content_id, by_id, set()))
    return 0


def _branch(content_id: str, by_id: dict[str, Ancestor], shown: set[str]) -> Tree:
    from rich.markup import escape
    from rich.tree import Tree

    ancestor = by_id[content_id]
    place = escape(_folder(ancestor) or "not found here")
    title = f"[bold]{ancestor.stage}[/bold] ({ancestor.record['kind']}) [cyan]{content_id[:16]}[/cyan] {place}"
    if content_id in shown:
        return Tree(f"{title} [dim]· see above[/dim]")
    shown.add(content_id)
    record = ancestor.record
    made = f"recipe {record['recipe_id'][:16]}, seed {record['seed']}, {record['threads']} threads, {record['dtype']}"
    lines = [title, f"[dim]{made}[/dim]"]
    if numbers := headline_text(ancestor.stage, record["metrics"]):
        lines.append(escape(numbers))
    node = Tree("\n".join(lines), highlight=False)
    for parent in record["inputs"].values():
        node.children.append(_branch(parent, by_id, shown))
    for source in sorted(record["sources"], key=source_name):
        licence = source.get("licence") or "licence not stated by the package"
        kind = "Hub data set" if source.get("registry") == "hub" else "package"
        name = escape(f"{source_name(source)} ({kind}, {licence})")
        node.add(f"[green]{name}[/green] [dim]sha256 {str(source.get('sha256', ''))[:16]}[/dim]")
    return node


def documents(ancestors: Sequence[Ancestor], number: int | None, wanted: str | None, as_json: bool) -> int:
    """Print the first `number` documents of each ancestor that holds any, or the one document whose id is `wanted`."""
    holders = [ancestor for ancestor in ancestors if holds_documents(ancestor)]
    if not holders:
        raise ArtifactError(f"{ancestors[0].stage} was made from no documents.")
    rows: list[dict[str, Any]] = []
    for holder in holders:
        if wanted is None:
            rows += islice(documents_of(holder), number)
        else:
            rows += [row for row in documents_of(holder) if row.get("id") == wanted]
    if wanted is not None and not rows:
        raise ArtifactError(f"no document '{wanted}' among those that {ancestors[0].stage} was made from.")
    if as_json:
        _print_json({"documents": rows})
        return 0
    for row in rows:
        head = " · ".join(str(row[key]) for key in ("id", "source", "language") if row.get(key))
        print(f"── {head} · {row['file']}\n{textwrap.indent(_text(row, short=wanted is None), '   ')}\n")
    return 0


def verification(ancestors: Sequence[Ancestor], as_json: bool) -> int:
    """Hash everything again and print what was changed and what was not found; 2 if anything was changed."""
    checks = check(ancestors)
    problems = [problem for item in checks for problem in item.problems]
    if as_json:
        rows = [{"name": item.name, "found": item.found, "problems": list(item.problems)} for item in checks]
        _print_json({"intact": not problems, "checks": rows})
        return 2 if problems else 0
    for item in checks:
        print(f"{'changed' if item.problems else 'intact' if item.found else 'not found':<10}{item.name}")
        for problem in item.problems:
            print(f"          {problem}")
    missing = sum(not item.found for item in checks)
    looked = f"{len(checks) - missing} hashed again, {missing} not found"
    print(f"\n{len(problems)} changed · {looked}" if problems else f"\nnothing was changed · {looked}")
    return 2 if problems else 0


def _text(row: dict[str, Any], short: bool) -> str:
    if "messages" in row:
        text = "\n".join(f"{message['role']}: {message.get('content')}" for message in row["messages"])
    elif "chosen" in row:
        parts = [*row["prompt"], *({**m, "role": name} for name in ("chosen", "rejected") for m in row[name])]
        text = "\n".join(f"{message['role']}: {message.get('content')}" for message in parts)
        text = f"battle {row.get('battle')}, vote {row.get('vote')}\n{text}" if "battle" in row else text
    elif "prompt" in row:
        text = f"{row['prompt']}\n→ {row.get('answer')}"
    else:
        text = str(row.get("text", ""))
    return textwrap.shorten(text, 400, placeholder=" …") if short else text


def _folder(ancestor: Ancestor) -> str | None:
    return None if ancestor.folder is None else str(ancestor.folder)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))

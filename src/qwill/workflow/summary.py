"""What is shown when a recipe has been run."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from qwill.base.files import read_json, read_jsonl
from qwill.base.progress import clock
from qwill.hub.headline import headline_text
from qwill.workflow.recipe import Recipe
from qwill.workflow.run import RUN, Made


def summary_json(made: Sequence[Made]) -> dict[str, Any]:
    """The same as the table, for programs. `made` says whether the stage was made now; `seconds` is what it took."""
    return {
        "stages": [
            {
                "stage": item.section.name,
                "folder": str(item.folder),
                "made": item.seconds is not None,
                "seconds": _seconds(item),
                "budget_s": item.section.budget_s,
                "content_id": item.manifest.content_id,
                "recipe_id": item.manifest.recipe_id,
                "metrics": item.manifest.metrics,
            }
            for item in made
        ]
    }


def print_summary(recipe: Recipe, made: Sequence[Made]) -> None:
    """A table of the stages, and what to try next with what is there."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=str(recipe.folder), title_justify="left", box=None, pad_edge=False)
    table.add_column("stage")
    table.add_column("time", justify="right")
    table.add_column("planned", justify="right")
    table.add_column("what came of it", overflow="fold")
    table.add_column("content", no_wrap=True)
    for item in made:
        seconds, budget = _seconds(item), item.section.budget_s
        late = "[red]" if budget and seconds > budget else ""
        numbers = headline_text(item.manifest.stage, item.manifest.metrics)
        before = "" if item.seconds is not None else "[dim]made before[/dim]"
        table.add_row(
            item.section.name,
            f"{late}{clock(seconds)}",
            clock(budget) if budget else "",
            " · ".join(part for part in (before, escape(numbers)) if part),
            item.manifest.content_id[:12],
        )
    total = sum(_seconds(item) for item in made)
    planned = sum(item.section.budget_s or 0 for item in made)
    table.add_section()
    table.add_row("all", clock(total), clock(planned) if planned else "", "", "")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print()
    console.print(table)
    if lines := try_next(recipe):
        console.print("\nTry next:")
        for line in lines:
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def try_next(recipe: Recipe) -> list[str]:
    """Commands for what the run has made: the report, a chat with the last model, its lineage; or the corpus alone."""
    lines = []
    for section in ("report", "modes"):
        if (report := recipe.folder / section / "report.html").is_file():
            lines.append(f"xdg-open {shlex.quote(str(report))}")
    models = [s.name for s in recipe.sections if s.stage.kind == "model" and s.stage.name != "int8"]
    models = [name for name in models if (recipe.folder / name / "qwill.json").is_file()]
    if models:
        model = shlex.quote(str(recipe.folder / models[-1]))
        qwill = _command()
        lines += [f"{qwill} chat {model}", f"{qwill} lineage {model}"]
    return lines or _try_with_corpus(recipe.folder / "corpus")


def _try_with_corpus(corpus: Path) -> list[str]:
    """Where nothing was trained: the report of the corpus, and a look at one of the documents that it dropped."""
    lines = []
    if (report := corpus / "report.html").is_file():
        lines.append(f"xdg-open {shlex.quote(str(report))}")
    if (rejects := corpus / "rejects.jsonl").is_file():
        for _, row in islice(read_jsonl(rejects), 1):
            lines.append(f"{_command()} curate inspect {shlex.quote(str(corpus))} {shlex.quote(row['id'])} --again")
    return lines


def _command() -> str:
    """`qwill`, or the path by which it was started where it is not on the PATH (`make demo`)."""
    return shlex.quote(sys.argv[0]) if shutil.which("qwill") is None and Path(sys.argv[0]).name == "qwill" else "qwill"


def _seconds(item: Made) -> float:
    return item.seconds if item.seconds is not None else float(read_json(item.folder / RUN)["seconds"])

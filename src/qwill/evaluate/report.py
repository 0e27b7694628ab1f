"""The stage `report`: everything a run measured, as one self-contained HTML page.

A section whose artifact is missing says so; the page is complete whatever the recipe left out. Its content depends
on the artifacts and the machine only, so the same run gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from qwill.base.artifact import read_manifest
from qwill.base.device import machine
from qwill.base.errors import DataError
from qwill.base.files import read_json, read_jsonl, write_text
from qwill.base.stage import StageContext
from qwill.evaluate import report_views as views
from qwill.evaluate.report_funnel import funnel_view
from qwill.evaluate.report_lineage import lineage_view
from qwill.evaluate.report_overview import machine_rows, overview
from qwill.evaluate.rollouts_page import rollouts_page


@dataclass(frozen=True)
class ReportConfig:
    """`sample_families` are the kinds of problems whose first held-out example is shown with every reply."""

    title: str = "The life of a small bilingual model"
    sample_families: list[str] = field(default_factory=lambda: ["split", "between", "digits", "sort"])
    rejects: int = 12


def run(config: ReportConfig, ctx: StageContext) -> dict[str, Any]:
    """Write report.html from whatever inputs there are; returns which sections have something to show."""
    with ctx.display.stage("report", 1, "page") as bar:
        context = gather(config, ctx.inputs)
        write_text(ctx.out / "report.html", page(context))
        if context["rollouts"]:
            write_text(ctx.out / "rollouts.html", rollouts_page(config.title, rollouts_of(ctx.inputs)))
        bar.update(1)
    sections = ("funnel", "tokenizer", "training", "experts", "compression", "accuracy", "arena", "cost", "samples")
    return {"sections": [name for name in sections if context[name]]}


def page(context: Mapping[str, Any]) -> str:
    """The HTML for a context of `gather`."""
    from jinja2 import Environment, StrictUndefined

    here = resources.files("qwill.evaluate")
    # Autoescape: replies of a model are shown, and a model may write anything.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string((here / "report.html.jinja").read_text(encoding="utf-8"))
    from markupsafe import Markup

    look = resources.files("qwill.base") / "page.css", here / "report.css"
    css = Markup("".join(file.read_text(encoding="utf-8") for file in look))
    return template.render(css=css, **context)


# Where each section's numbers are: artifact, file, and the view that shows them.
SOURCES: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "tokenizer": ("tokenizer", "stats.json", views.tokenizer_view),
    "compression": ("base", "compression.json", views.compression_view),
    "accuracy": ("results", "summary.json", views.accuracy_view),
    "arena": ("arena", "ratings.json", views.arena_view),
    "cost": ("int8", "cost.json", views.cost_view),
}


def gather(config: ReportConfig, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Every section's view, None (or empty) for those without input."""
    context: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for section, (name, file, view) in SOURCES.items():
        content = found[section] = _json(inputs, name, file)
        context[section] = None if content is None else _shown(view, content, inputs[name] / file)
    funnel = _json(inputs, "corpus", "funnel.json")
    rejects = _jsonl(inputs, "corpus", "rejects.jsonl")
    context["funnel"] = None
    if funnel is not None:
        where = inputs["corpus"] / "funnel.json"
        context["funnel"] = _shown(lambda f: funnel_view(f, rejects, config.rejects), funnel, where)
    trainings = {name: t for name in inputs if (t := _json(inputs, name, "training.json")) is not None}
    context["training"] = views.training_view(trainings)
    context["experts"] = views.experts_view(trainings)
    context["rollouts"] = {name: len(lines) for name, lines in rollouts_of(inputs).items()}
    rows = _jsonl(inputs, "results", "results.jsonl")
    models = found["accuracy"]["models"] if found["accuracy"] else []
    context["samples"] = views.samples_view(rows, models, config.sample_families)
    manifests = {name: m for name, folder in inputs.items() if (m := read_manifest(folder)) is not None}
    context["lineage"] = lineage_view(manifests)
    context["machine"] = machine_rows(manifests, machine())
    context["title"] = config.title
    return context | overview(context["funnel"], _parameters(inputs), found)


def rollouts_of(inputs: Mapping[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """What each stage kept of its rollouts."""
    found = {name: _jsonl(inputs, name, "rollouts.jsonl") for name in inputs}
    return {name: lines for name, lines in found.items() if lines}


def _parameters(inputs: Mapping[str, Path]) -> tuple[int, int] | None:
    """(total, active) parameters of the trained model."""
    for name in ("aligned", "sft", "base"):
        if name in inputs and (inputs[name] / "config.json").is_file():
            from qwill.model import count_parameters

            count = count_parameters(inputs[name] / "config.json")
            return count.total, count.active
    return None


def _json(inputs: Mapping[str, Path], name: str, file: str) -> dict[str, Any] | None:
    path = inputs[name] / file if name in inputs else None
    return read_json(path) if path is not None and path.is_file() else None


def _jsonl(inputs: Mapping[str, Path], name: str, file: str) -> list[dict[str, Any]]:
    path = inputs[name] / file if name in inputs else None
    return [row for _, row in read_jsonl(path)] if path is not None and path.is_file() else []


def _shown(view: Callable[[Any], Any], content: dict[str, Any], path: Path) -> Any:
    try:
        return view(content)
    except KeyError as error:
        raise DataError(f"{path} has no field {error}; make it again with this version of Qwill.") from error

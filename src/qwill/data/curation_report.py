"""report.html of a corpus: its funnel, its thresholds and the documents behind them, as one page without a network.

Everything comes from the artifact's own files; a part whose file is missing says so. The texts shown were written by
strangers: they are escaped in the page, held as JSON for its one script, and the page's policy lets no other run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError
from qwill.base.files import read_json, read_jsonl, write_text
from qwill.data import report_examples as examples
from qwill.data.report_funnel import funnel_view, language_name, step_name
from qwill.data.report_scores import columns_data, embedded, scores_data
from qwill.data.scores import read_scores

LARGEST = 2_800_000  # bytes of the page; above, fewer examples and wider bins
FILES = {
    "scores": "scores.json",
    "clusters": "clusters.jsonl",
    "pages": "extraction.jsonl",
    "encodings": "encodings.json",
    "bad": "bad.jsonl",
    "rejects": "rejects.jsonl",
    "redaction": "redaction.json",
    "sets": "decontamination.json",
    "leaks": "leaks.jsonl",
}


def write_report(folder: Path, title: str = "") -> Path:
    """Write report.html into a corpus folder from funnel.json and whatever of FILES is there; returns its path.

    Raises DataError when funnel.json is missing or a file does not have the expected fields."""
    funnel = read_json(folder / "funnel.json")
    try:
        found = {name: _read(folder / file) for name, file in FILES.items()}
        for scale in (1.0, 0.5, 0.25, 0.1):
            text = page(title or f"Corpus {folder.name}", funnel, found, scale)
            if len(text.encode()) <= LARGEST:
                break
    except KeyError as error:
        raise DataError(
            f"{folder}: the corpus's files have no field {error}; curate it again with this version of Qwill."
        ) from error
    write_text(folder / "report.html", text)
    return folder / "report.html"


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    if path.name == FILES["scores"]:
        return read_scores(path)
    return [row for _, row in read_jsonl(path)] if path.suffix == ".jsonl" else read_json(path)


def page(title: str, funnel: Mapping[str, Any], found: Mapping[str, Any], scale: float = 1.0) -> str:
    """The HTML, from the content of funnel.json and of FILES by name (None for a file that is missing)."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    here = resources.files("qwill.data")
    script = (here / "curation_report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    look = resources.files("qwill.base") / "page.css", here / "curation_report.css"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string((here / "curation_report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        title=examples.visible(title, 120),
        css=Markup("".join(file.read_text(encoding="utf-8") for file in look)),
        script=Markup(script),
        digest=digest,
        data=Markup(embedded(_data(funnel, found, scale))),
        **_views(funnel, found),
    )


def _data(funnel: Mapping[str, Any], found: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """What the page's script computes with."""
    codes = sorted({column["language"] for column in funnel["columns"]})
    steps = [step["step"] for step in next(iter(funnel["languages"].values()), [])]
    return {
        "languages": {code: language_name(code) for code in codes},
        "steps": [step_name(step) for step in steps],
        "columns": columns_data(funnel),
        **scores_data(found["scores"] or [], scale),
    }


def _views(funnel: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What the template writes down; None or empty for what the corpus has not."""
    return {
        "funnel": funnel_view(funnel),
        "scored": found["scores"] is not None,
        "clusters": examples.clusters_view(found["clusters"] or []),
        "pages": examples.pages_view(found["pages"] or []),
        "encodings": examples.encodings_view(found["encodings"] or []),
        "bad": examples.bad_view(found["bad"] or [], found["rejects"] or []),
        "redaction": examples.redaction_view(found["redaction"]),
        "leaks": examples.leaks_view((found["sets"] or {"sets": []})["sets"], found["leaks"] or []),
    }

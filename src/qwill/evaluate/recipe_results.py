"""Results of a recipe's stage `results`, one model at a time, in the form that `qwill eval compare` reads.

A recipe keeps the replies of several models in one folder, so a side of a comparison is named `RUN/results:MODEL`. Its
problems are those of the task `bilingual`: greedy replies are that task here, and the sampled ones `bilingual_sampled`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwill.base.artifact import Manifest, need_manifest
from qwill.base.config import nearest
from qwill.base.errors import ConfigError, DataError
from qwill.base.files import read_jsonl
from qwill.base.resolve import resolve
from qwill.evaluate.eval_results import ROWS, Results, read_results
from qwill.evaluate.run_replies import reply_scores

STAGE = "results"
TASKS = {"greedy": "bilingual", "sampled": "bilingual_sampled"}
_FIELDS = {"id": str, "family": str, "language": str, "prompt": str, "key": str, "replies": list, "correct": list}


def read_side(reference: str) -> Results:
    """One side of a comparison: results of `qwill eval`, or `RESULTS:MODEL` of a recipe.

    Raises ArtifactError for what holds no results, ConfigError where a model must be named, or one that is named is
    not there, DataError for broken rows.
    """
    place, colon, model = reference.rpartition(":")
    if not colon or os.path.exists(reference):
        place, model = reference, ""
    folder = resolve(place)
    manifest = need_manifest(folder)
    if manifest.kind == "results" and manifest.stage == STAGE:
        return _of_recipe(folder, manifest, model)
    if model:
        raise ConfigError(f"{reference}: {folder} holds no results of a recipe, so no {model!r} of it; leave that out.")
    return read_results(folder)


def _of_recipe(folder: Path, manifest: Manifest, model: str) -> Results:
    path, known, rows = folder / ROWS, dict[str, None](), []
    for line, row in read_jsonl(path):
        if not isinstance(name := row.get("model"), str):
            raise DataError(f"{path}: line {line} has no proper `model`; run the recipe again.")
        known[name] = None
        if row.get("kind") in TASKS and (not model or name == model):
            rows.append(_row(row, f"{path}: line {line}"))
    if not model and len(known) > 1:
        several = ", ".join(known)
        raise ConfigError(f"{folder} holds several models ({several}); name one: {folder}:{next(reversed(known))}.")
    if model and model not in known:
        raise ConfigError(f"{folder} holds no model {model!r}; {nearest(model, list(known))}")
    if not rows:
        raise DataError(f"{path} holds no answers to problems; run the recipe again.")
    name = model or next(iter(known))
    tasks = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        first, *others = (row["scores"] for row in rows if row["task"] == task)
        tasks[task] = {"metrics": [metric for metric in first if all(metric in scores for scores in others)]}
    return Results(folder, manifest, name, rows, {"model": name, "tasks": tasks}, _asked(manifest.config, list(tasks)))


def _row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    for name, kind in _FIELDS.items():
        if not isinstance(row.get(name), kind):
            raise DataError(f"{where} has no proper `{name}`; run the recipe again.")
    correct = row["correct"]
    if not correct or len(correct) != len(row["replies"]) or not all(isinstance(value, bool) for value in correct):
        raise DataError(f"{where}: `correct` is {correct!r}; expected true or false for each of its replies.")
    return {
        "task": TASKS[row["kind"]],
        "id": row["id"],
        "prompt": row["prompt"],
        "language": row["language"],
        "category": row["family"],
        # The same problem is asked in every language.
        "cluster": row["key"],
        "replies": [{"text": text, "score": float(right)} for text, right in zip(row["replies"], correct, strict=True)],
        "scores": reply_scores([float(right) for right in correct]),
    }


def _asked(config: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """What `qwill eval` says of a run of its own, as far as a recipe has it too."""
    found: dict[str, Any] = {"chat": True, "thinking": False}
    for kind, task in TASKS.items():
        if task in tasks:
            warm = config.get("temperature") if kind == "sampled" else 0.0
            found[f"{task}.generate.temperature"] = warm
            found[f"{task}.generate.max_tokens"] = config.get("max_tokens")
            if kind == "sampled":
                found[f"{task}.samples"] = config.get("samples")
    return {name: value for name, value in found.items() if value is not None}


def by_question(one: Results, other: Results) -> tuple[Results, Results]:
    """Both with rows that are paired by what was asked where one is of a recipe, for its ids are its own."""
    if one.manifest.stage != STAGE and other.manifest.stage != STAGE:
        return one, other
    return replace(one, rows=_named(one)), replace(other, rows=_named(other))


def _named(results: Results) -> list[dict[str, Any]]:
    rows, seen = [], dict[tuple[str, str], str]()
    for row in results.rows:
        if row["task"] not in TASKS.values():
            rows.append(row)
            continue
        asked = hashlib.sha256(f"{row['language']}\0{row.get('prompt')}".encode()).hexdigest()
        if (before := seen.setdefault((row["task"], asked), row["id"])) != row["id"]:
            raise DataError(
                f"{results.folder / ROWS}: {before} and {row['id']} ask the same of {results.model}; expected each "
                "question once. Make the results again."
            )
        rows.append(row | {"question": asked})
    return rows

"""The artifact of `qwill eval`: every row of every task, their summary, a page to read, and a manifest.

results.jsonl   one line for each example: what was asked, what the model said, how it scored
summary.json    task → {examples, metrics, all, languages, categories}, each score with its interval
report.html     the same for people
qwill.json      the model by its content id, task files, settings and seed; `qwill lineage` reads it
run.json        what the model was called, and how long it took
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from qwill.base.artifact import Manifest, identify, need_manifest, read_manifest, recipe_id, seal, verify
from qwill.base.config import to_dict
from qwill.base.errors import ArtifactError, DataError
from qwill.base.files import new_folder, read_json, read_jsonl, sha256_file, write_json, write_jsonl, write_text
from qwill.evaluate.task import Task
from qwill.evaluate.task_scores import Row

STAGE, VERSION = "eval", 1
ROWS, SUMMARY, REPORT, RUN = "results.jsonl", "summary.json", "report.html", "run.json"


@dataclass(frozen=True)
class Plan:
    """What an evaluation comes to before the work is done: all that its recipe id is the hash of.

    model: the folder or file; inputs: the folder, where it is one that a manifest can name. A single file (GGUF, the
    archive of smollm2) is a source, known by its hash.
    """

    model: Path
    inputs: dict[str, Path]
    sources: list[dict[str, Any]]
    config: dict[str, Any]
    seed: int
    libraries: dict[str, str]
    threads: int
    dtype: str
    recipe_id: str


@dataclass(frozen=True)
class Results:
    """An evaluation that has been made: `model` is what its model was called."""

    folder: Path
    manifest: Manifest
    model: str
    rows: list[dict[str, Any]]
    summary: dict[str, Any]

    @property
    def headlines(self) -> dict[str, str]:
        """Task → the metric that models are compared by."""
        return {task: found["metrics"][0] for task, found in self.summary["tasks"].items()}


def task_identity(task: Task) -> dict[str, Any]:
    """A task's settings and the hashes of the files beside it that it names, so that an edit makes another result."""
    config = {name: value for name, value in to_dict(task).items() if name != "folder"}
    files = {}
    for source in (task.source, task.shots.source):
        for setting in ("jsonl", "texts"):
            if source.get(setting):
                files[str(source[setting])] = task.folder / str(source[setting])
    script, colon, _ = task.scorer.rpartition(":")
    if colon and script.endswith(".py"):
        files[script] = task.folder / script
    for name, path in files.items():
        if not path.is_file():
            raise DataError(f"task {task.name} names {name}, and {path} is not there; put it beside the task file.")
    return config | {"files": {name: sha256_file(path) for name, path in sorted(files.items())}}


def pinned(tasks: Sequence[Task]) -> tuple[list[Task], list[dict[str, Any]]]:
    """The tasks with the commits of the Hub's data sets in place of branches, and the data sets and packages that all
    of them are read from.

    Raises SourceError when the Hub has no such data set, or does not answer and this machine has none.
    """
    from qwill.evaluate.hub_rows import pin

    found: list[Task] = []
    origins = dict[str, dict[str, Any]]()

    def fixed(source: dict[str, Any], name: str) -> dict[str, Any]:
        if "hub" in source:
            source, origin = pin(source, name)
            origins[f"{origin['name']} {origin['version']} {origin['source']}"] = origin
        elif "registry" in source or "generated" in source:
            for package in import_module("qwill.evaluate.task_sources").packages_of(source):
                told = {**asdict(package), "source": [], "licence": ""}
                names = origins.setdefault(f"{package.name} {package.version}", told)["source"]
                names += [name] if name not in names else []
        return source

    for task in tasks:
        shots = replace(task.shots, source=fixed(task.shots.source, task.name))
        found.append(replace(task, source=fixed(task.source, task.name), shots=shots))
    return found, list(origins.values())


def make_plan(
    model: Path,
    tasks: Sequence[Task],
    settings: Mapping[str, Any],
    seed: int,
    threads: int,
    dtype: str,
    origins: Sequence[dict[str, Any]] = (),
) -> Plan:
    """`tasks` and `origins` as `pinned` gives them. Raises ArtifactError for a folder that is no model, DataError for a
    task whose file is not there."""
    from qwill.base.device import numeric_libraries

    config: dict[str, Any] = {"tasks": {task.name: task_identity(task) for task in tasks}, "settings": dict(settings)}
    inputs, sources, parents = {}, list(origins), {}
    if model.is_dir():
        if (manifest := identify(model)).kind != "model":
            raise ArtifactError(f"{model} is an artifact of the kind {manifest.kind}; expected a model.")
        inputs, parents = {"model": model}, {"model": manifest.content_id}
    else:
        config["model_file"] = {"name": model.name, "sha256": sha256_file(model)}
        sources.append(config["model_file"])
    libraries = numeric_libraries()
    identity = recipe_id(
        stage=STAGE, stage_version=VERSION, inputs=parents, config=config, seed=seed, libraries=libraries,
        threads=threads, dtype=dtype,
    )  # fmt: skip
    return Plan(model, inputs, sources, config, seed, libraries, threads, dtype, identity)


def finished(folder: Path, plan: Plan) -> bool:
    """Whether the folder holds this very evaluation, unchanged. Raises ArtifactError where it holds something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None or manifest.kind != "results" or manifest.stage != STAGE:
        raise ArtifactError(f"{folder} is there already and holds no results of `qwill eval`; name another with --out.")
    return manifest.recipe_id == plan.recipe_id and not verify(folder)


def write_results(
    folder: Path, plan: Plan, model: str, rows: Sequence[Row], summary: Mapping[str, Any], run: Mapping[str, Any]
) -> Manifest:
    """Write the artifact, whole or not at all; an older one in the folder is replaced."""
    from qwill.evaluate.eval_report import results_page

    metrics = {
        f"{task}.{metric}": found["all"][metric]["mean"]
        for task, found in summary["tasks"].items()
        for metric in found["metrics"]
    }
    with new_folder(folder) as out:
        write_jsonl(out / ROWS, [dict(row) for row in rows])
        write_json(out / SUMMARY, dict(summary))
        write_text(out / REPORT, results_page(summary, rows))
        if plan.sources:
            write_json(out / "sources.json", plan.sources)
        write_json(out / RUN, {"model": model, **run})
        return seal(
            out,
            kind="results",
            stage=STAGE,
            stage_version=VERSION,
            recipe=plan.recipe_id,
            inputs=plan.inputs,
            config=plan.config,
            seed=plan.seed,
            libraries=plan.libraries,
            threads=plan.threads,
            dtype=plan.dtype,
            metrics=metrics,
        )


def asked_otherwise(one: Results, other: Results, tasks: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """What was set otherwise for one than for the other, of the run and of the tasks' files; which examples were asked
    is another matter."""
    found = {}
    places: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = []
    for section, names in (("settings", [""]), ("tasks", tasks)):
        for name in names:
            sides = [results.manifest.config.get(section, {}) for results in (one, other)]
            a, b = (side.get(name, {}) for side in sides) if name else sides
            places.append((f"{name}." if name else "", a, b))
    for prefix, a, b in places:
        for key in sorted((a.keys() | b.keys()) - {"limit", "first", "about", "files"}):
            if a.get(key) != b.get(key):
                found[prefix + key] = a.get(key), b.get(key)
    if one.manifest.seed != other.manifest.seed:
        found["seed"] = one.manifest.seed, other.manifest.seed
    return found


def read_results(folder: Path) -> Results:
    """Results to compare. Raises ArtifactError for an artifact of another kind, DataError for rows that are broken."""
    manifest = need_manifest(folder)
    if manifest.kind != "results":
        raise ArtifactError(f"{folder} is an artifact of the kind {manifest.kind}; expected results of `qwill eval`.")
    if manifest.stage != STAGE:
        raise ArtifactError(
            f"{folder} was made by a recipe, which compares its models itself (see its summary.json); expected results "
            "of `qwill eval MODEL --tasks …`."
        )
    rows = []
    for line, row in read_jsonl(folder / ROWS):
        for name, kind in (("task", str), ("id", str), ("language", str), ("scores", dict)):
            if not isinstance(row.get(name), kind):
                raise DataError(f"{folder / ROWS}: line {line} has no proper `{name}`; run `qwill eval` again.")
        rows.append(row)
    summary = read_json(folder / SUMMARY)
    if not isinstance(summary, dict) or not isinstance(summary.get("tasks"), dict):
        raise DataError(f"{folder / SUMMARY} holds no tasks; run `qwill eval` again.")
    run = read_json(folder / RUN) if (folder / RUN).is_file() else {}
    return Results(folder, manifest, str(run.get("model") or folder.name), rows, summary)

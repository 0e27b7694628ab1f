"""The artifact of `qwill eval`: every row of every task, their summary, a page to read, and a manifest.

results.jsonl   one line for each example: what was asked, what the model said, how it scored
summary.json    task → {examples, metrics, all, languages, categories}, each score with its interval
report.html     the same for people
qwill.json      the model by its content id, task files, settings and seed; `qwill lineage` reads it
run.json        what the model was called, and how long it took
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from qwill.base.artifact import MANIFEST, Manifest, identify, need_manifest, read_manifest, recipe_id, seal, verify
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
    """An evaluation that has been made: `model` is what its model was called, `asked` how it was asked, name → value;
    a task's own settings are `TASK.setting`."""

    folder: Path
    manifest: Manifest
    model: str
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    asked: Mapping[str, Any] = field(default_factory=dict)

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
    judge: Path | str | None = None,
) -> Plan:
    """`tasks` and `origins` as `pinned` gives them; `judge`: the folder or file of a model that judges refusals, or the
    URL and name of one.

    Raises ArtifactError for a folder that is no model, DataError for a task whose file is not there.
    """
    from qwill.base.device import numeric_libraries

    config: dict[str, Any] = {"tasks": {task.name: task_identity(task) for task in tasks}, "settings": dict(settings)}
    inputs: dict[str, Path] = {}
    sources: list[dict[str, Any]] = list(origins)
    parents: dict[str, str] = {}
    for name, place in (("model", model), ("judge", judge)):
        if place is None:
            continue
        if isinstance(place, str):
            config[name] = place
        elif place.is_dir():
            if not any((place / file).is_file() for file in (MANIFEST, "config.json")):
                raise ArtifactError(f"{place} holds no config.json, so it is no model; give a model's folder.")
            if (manifest := identify(place)).kind != "model":
                raise ArtifactError(f"{place} is an artifact of the kind {manifest.kind}; expected a model.")
            inputs[name], parents[name] = place, manifest.content_id
        else:
            sources.append({"name": place.name, "sha256": sha256_file(place)})
            config[f"{name}_file"] = sources[-1]
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
    folder: Path,
    plan: Plan,
    model: str,
    rows: Sequence[Row],
    summary: Mapping[str, Any],
    run: Mapping[str, Any],
    inside: Path | None = None,
) -> Manifest:
    """Write the artifact, whole or not at all; an older one in the folder is replaced. It is written `inside` another
    folder of the same disk, and a killed process leaves it there; else beside its place."""
    from qwill.evaluate.eval_report import results_page

    metrics = {
        f"{task}.{metric}": found["all"][metric]["mean"]
        for task, found in summary["tasks"].items()
        for metric in found["metrics"]
    }
    with new_folder(folder, inside) as out:
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
    is another matter. Where one is of a recipe, of what both tell.

    Raises DataError for a task of the Hub that they had in two revisions.
    """
    names = one.asked.keys() | other.asked.keys()
    if one.manifest.stage != other.manifest.stage:
        names = one.asked.keys() & other.asked.keys()
    found = {}
    for name in sorted(names):
        a, b = one.asked.get(name), other.asked.get(name)
        task, _, setting = name.partition(".")
        if a == b or (setting and task not in tasks):
            continue
        if setting == "source" and isinstance(a, Mapping) and isinstance(b, Mapping) and a.get("hub") == b.get("hub"):
            old, new = a.get("revision"), b.get("revision")
            if old != new:
                raise DataError(
                    f"task {task} is of two revisions: {one.folder} has {old or 'the newest'} and {other.folder} "
                    f"{new or 'the newest'} of {a.get('hub')}; run both with the same `source.revision`."
                )
        found[name] = a, b
    return found


def _asked(manifest: Manifest) -> dict[str, Any]:
    config = manifest.config
    found = dict(config.get("settings", {})) | {"seed": manifest.seed}
    for task, settings in config.get("tasks", {}).items():
        for name, value in settings.items():
            if name == "generate" and isinstance(value, Mapping):
                found |= {f"{task}.{name}.{key}": one for key, one in value.items()}
            else:
                found[f"{task}.{name}"] = value
    unasked = {"limit", "first", "about", "files"}
    return {
        name: value
        for name, value in found.items()
        if name.partition(".")[2] not in unasked | {"name"} and name not in unasked
    }


def read_results(folder: Path) -> Results:
    """Results to compare. Raises ArtifactError for an artifact of another kind, DataError for rows that are broken."""
    manifest = need_manifest(folder)
    if manifest.kind != "results":
        raise ArtifactError(f"{folder} is an artifact of the kind {manifest.kind}; expected results of `qwill eval`.")
    if manifest.stage != STAGE:
        raise ArtifactError(f"{folder} was made by the stage {manifest.stage}; expected results of `qwill eval MODEL`.")
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
    return Results(folder, manifest, str(run.get("model") or folder.name), rows, summary, _asked(manifest))

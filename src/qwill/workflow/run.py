"""Make the stages of a recipe one after the other: skip what is made, go on with what was cut off."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qwill.base.artifact import (
    NOT_CONTENT,
    Manifest,
    from_elsewhere,
    identify,
    need_manifest,
    read_manifest,
    recipe_id,
    seal,
)
from qwill.base.config import identity_of
from qwill.base.device import machine, numeric_libraries, set_threads, training_dtype
from qwill.base.errors import ArtifactError
from qwill.base.files import new_folder, read_json, write_json, write_text
from qwill.base.lock import folder_lock
from qwill.base.progress import Display, clock
from qwill.base.stage import StageContext
from qwill.train.ranks import current
from qwill.workflow.follow import orders
from qwill.workflow.recipe import LOGS, Recipe, Section
from qwill.workflow.stages import load

RUN = "run.json"


@dataclass(frozen=True)
class Made:
    """A finished stage and its artifact; `seconds` spent on it now, None when it had been made before."""

    section: Section
    folder: Path
    manifest: Manifest
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What a section comes to once its inputs are there: everything that its recipe id is the hash of."""

    inputs: dict[str, Path]
    config: dict[str, Any]
    libraries: dict[str, str]
    dtype: str
    recipe_id: str


def run_recipe(recipe: Recipe, only: str | None = None, display: Display | None = None) -> list[Made]:
    """Make every stage of the recipe in `recipe.folder`, or those that are or use the one named `only`; what is made
    already is skipped.

    The process may be killed at any moment: an artifact appears whole or not at all, and what a stage keeps in its
    work folder lets the same command go on to the same content ids.

    Raises ArtifactError when another process works in the folder, or when an input of `only` has not been made.
    """
    display = display or Display()
    sections = [s for s in recipe.sections if only is None or only in (s.name, s.stage.name)]
    made: list[Made] = []
    with folder_lock(recipe.folder):
        for number, section in enumerate(sections, start=1):
            name = section.name
            folder = recipe.folder / name
            plan = make_plan(recipe, section)
            for sentence in dict.fromkeys(_stale(recipe, section)) if only else ():
                display.say(f"note: {sentence}")
            manifest, seconds = finished(folder, plan.recipe_id), None
            if manifest is None:
                budget = f", {clock(section.budget_s)} planned" if section.budget_s else ""
                display.say(f"[{number}/{len(sections)}] {name}{budget}")
                _fetch(section, display)
                started = time.perf_counter()
                manifest = _make(recipe, section, plan, display)
                seconds = time.perf_counter() - started
                display.say(f"  made {folder} in {clock(seconds)} ({manifest.content_id[:12]})")
            else:
                display.say(f"[{number}/{len(sections)}] {name}: made already ({manifest.content_id[:12]})")
            # A run that was killed between the last two steps of `_make` leaves the work of a finished stage.
            _remove(recipe.folder, f".work/.{name}.*", f".work/{name}-{plan.recipe_id}")
            made.append(Made(section, folder, manifest, seconds))
    return made


def make_plan(recipe: Recipe, section: Section) -> Plan:
    """Find the inputs of a section and its recipe id. Raises ArtifactError for an input that has not been made."""
    inputs = {name: section.given.get(name, recipe.folder / section.maker(name)) for name in section.needs}
    for name, folder in inputs.items():
        # A model or a file of rows that is named in the recipe may come from elsewhere, without a manifest.
        known = folder.is_dir() and read_manifest(folder) is not None
        if not known and not (name in section.given and from_elsewhere(folder)):
            if name in section.given and folder.exists():
                raise ArtifactError(
                    f"{section.name}: the input {name} is {folder}, which is no artifact, no model and no file "
                    "or folder of .jsonl or .parquet rows; name another."
                )
            maker = recipe.section(section.maker(name))
            command = f"`qwill {maker.stage.verb} {recipe.path}`" if maker else "the command that makes it"
            raise ArtifactError(f"{section.name} needs {folder}, which is not there; run {command} first.")
    stage, config = section.stage, identity_of(section.config)
    # Over how many ranks a stage is spread is like the machine that it runs on: it changes rounding alone.
    config.pop("mesh", None)
    libraries, dtype = numeric_libraries(stage.libraries), training_dtype(getattr(section.config, "dtype", "float32"))
    identity = recipe_id(
        stage=stage.name,
        stage_version=stage.version,
        inputs={name: identify(folder).content_id for name, folder in inputs.items()},
        config=config,
        seed=section.seed,
        libraries=libraries,
        threads=recipe.threads,
        dtype=dtype,
    )
    return Plan(inputs, config, libraries, dtype, identity)


def _stale(recipe: Recipe, section: Section) -> Iterator[str]:
    """A sentence for each artifact that `section` builds on and that the recipe would now make otherwise."""
    for name in section.needs:
        folder = recipe.folder / section.maker(name)
        maker, manifest = recipe.section(section.maker(name)), read_manifest(folder)
        if maker is None or manifest is None or name in section.given:
            continue
        yield from _stale(recipe, maker)
        try:
            up_to_date = manifest.recipe_id == make_plan(recipe, maker).recipe_id
        except ArtifactError:
            continue  # what it was made from is gone, so there is nothing to compare with
        if not up_to_date:
            command = f"`qwill {maker.stage.verb} {recipe.path}`"
            yield f"{folder} is not what {recipe.path} says now; {command} makes it again."


def finished(folder: Path, identity: str) -> Manifest | None:
    """The manifest of an artifact that was made by this very recipe id and has all its files, by size; else None."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.recipe_id != identity or not (folder / RUN).is_file():
        return None
    there = _sizes(folder)
    recorded = read_json(folder / RUN).get("bytes", {}).items()
    return manifest if all(there.get(name) == size for name, size in recorded) else None


def _fetch(section: Section, display: Display) -> None:
    """Downloads come first and are not counted: they say something of the network and nothing of the stage."""
    if packages := section.packages():
        from qwill.data.sources import fetch

        fetch(packages, display)


def _make(recipe: Recipe, section: Section, plan: Plan, display: Display) -> Manifest:
    began, started = datetime.now(UTC), time.perf_counter()
    stage, name = section.stage, section.name
    work = recipe.folder / ".work" / f"{name}-{plan.recipe_id}"
    resumed = work.is_dir() and any(work.iterdir())
    if resumed:
        display.say("  going on where an earlier run stopped")
    work.mkdir(parents=True, exist_ok=True)
    # Both: a stage may have torch imported already, or import it only when it runs.
    threads = max(1, recipe.threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    function = load(stage.run)
    if "torch" in sys.modules:
        set_threads(threads)
    _remove(recipe.folder, f".work/.{name}.*")
    with new_folder(recipe.folder / name, inside=work.parent) as out:
        context = StageContext(
            out=out,
            work=work,
            inputs=plan.inputs,
            seed=section.seed,
            threads=threads,
            display=display,
            budget_s=section.budget_s,
            metrics_path=recipe.folder / LOGS / name / "metrics.jsonl",
            recipe_id=plan.recipe_id,
            dtype=plan.dtype,
        )
        if (ranks := current()) is not None:
            ranks.tell(orders(name, context))
        metrics = function(section.config, context)
        # Speeds that a stage measured: they may differ between two honest runs, so they stand beside the content.
        speeds = read_json(out / RUN) if (out / RUN).is_file() else {}
        manifest = seal(
            out,
            kind=stage.kind,
            stage=stage.name,
            stage_version=stage.version,
            recipe=plan.recipe_id,
            inputs=plan.inputs,
            config=plan.config,
            seed=section.seed,
            libraries=plan.libraries,
            threads=recipe.threads,
            dtype=plan.dtype,
            metrics=metrics,
        )
        times = {
            "began": began.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - started, 3),
            "resumed": resumed,
            "budget_s": section.budget_s,
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "host": platform.node(),
            "machine": machine(),
        }
        write_json(out / RUN, speeds | times | {"bytes": _sizes(out)})
        if stage.kind == "model":
            from qwill.hub.card import model_card

            write_text(out / "README.md", model_card(out))
    _remove(recipe.folder, f".work/{name}-qw1-*")
    if stage.name == "results":
        _tell_models(recipe, plan)
    return manifest


def _tell_models(recipe: Recipe, plan: Plan) -> None:
    """Put an evaluation's accuracies into the cards of the models of this run (a card is no part of the content)."""
    from qwill.hub.card import refresh_cards

    summary = read_json(recipe.folder / "results" / "summary.json")
    own = [folder for folder in plan.inputs.values() if folder.parent == recipe.folder]
    refresh_cards([folder for folder in own if need_manifest(folder).kind == "model"], summary)


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    return {name: size for name, size in sizes.items() if name not in NOT_CONTENT}


def _remove(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            shutil.rmtree(path)

"""How `qwill eval` makes results: under a lock, example by example, and put in place as a whole.

All that is unfinished lies in one folder beside the results, `.work/eval-ID`: rows as they come, and the results
themselves while they are written. So a process that is killed at any moment leaves the results as they were or done,
the same command goes on with what is there, and the last thing it does is to remove that folder.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwill.base.lock import LOCK, folder_lock
from qwill.base.progress import Display, clock
from qwill.evaluate import eval_results

if TYPE_CHECKING:
    from qwill.evaluate.run_task import EvalSettings
    from qwill.evaluate.task import Task

WORK = "eval"


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"


def make(
    folder: Path,
    plan: eval_results.Plan,
    model: str,
    name: str,
    tasks: Sequence[Task],
    settings: EvalSettings,
    loading: Mapping[str, Any],
    display: Display,
) -> None:
    """Have the results of `plan` in `folder`, whatever is left of an earlier run. `model` is how it was referred to,
    `name` what it is called."""
    work = folder.parent / ".work" / f"{WORK}-{plan.recipe_id}"
    if eval_results.finished(folder, plan) and not work.exists():
        display.say(f"{folder}: made already")
        _leave(work.parent)
        return
    # A lock of its own name: the folder itself is put in place as a whole, and may be gone for a moment.
    with folder_lock(work, of=folder):
        # Asked again, for another process may have made it just now; or one was killed when it had only to tidy up.
        if eval_results.finished(folder, plan):
            display.say(f"{folder}: made already")
        else:
            _remove_half_written(work)
            seconds = _make(folder, work, plan, model, name, tasks, settings, loading, display)
            display.say(f"made {folder} in {clock(seconds)}")
        _tidy(work)


def _make(
    folder: Path,
    work: Path,
    plan: eval_results.Plan,
    model: str,
    name: str,
    tasks: Sequence[Task],
    settings: EvalSettings,
    loading: Mapping[str, Any],
    display: Display,
) -> float:
    """Seconds that it took."""
    from qwill.engine.language_model import load
    from qwill.evaluate.run_task import evaluate
    from qwill.evaluate.task_scores import summarise

    started = time.perf_counter()
    lm = load(model, **loading)
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {"model": name, "tasks": {}}
    for task in tasks:
        with display.stage(task.name, settings.limit, "example") as bar:

            def progress(done: int, total: int, bar: Any = bar) -> None:
                bar.total = total
                bar.update(done)

            found = evaluate(lm, task, settings, work / slug(task.name), plan.recipe_id, progress)
            bar.total = bar.done = len(found.rows)
        summary["tasks"][task.name] = summarise(found.rows, found.metrics) | {
            "available": found.available,
            "cut": sum(bool(row.get("cut")) for row in found.rows),
        }
        rows += found.rows
    seconds = round(time.perf_counter() - started, 3)
    eval_results.write_results(folder, plan, name, rows, summary, {"given": model, "seconds": seconds}, inside=work)
    return seconds


def _remove_half_written(work: Path) -> None:
    """What a killed process had written of the results themselves; the rows stay."""
    for path in work.iterdir():
        if path.name.startswith(".") and path.name != LOCK:
            shutil.rmtree(path)


def _tidy(work: Path) -> None:
    """Remove the folder, its lock file last: until then no other process is at work in it."""
    for path in work.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path)
    (work / LOCK).unlink()
    with suppress(OSError):
        work.rmdir()  # another process may be there already
    _leave(work.parent)


def _leave(above: Path) -> None:
    with suppress(OSError):
        above.rmdir()  # others may be at work there, on other results

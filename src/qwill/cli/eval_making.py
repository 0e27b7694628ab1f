"""How `qwill eval` makes results: under a lock, example by example, and put in place as a whole.

All that is unfinished lies in one folder beside the results, `.work/eval-ID`: rows as they come, and the results
themselves while they are written. So a process that is killed at any moment leaves the results as they were or done,
the same command goes on with what is there, and the last thing it does is to remove that folder.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwill.base.errors import ArtifactError, ConfigError
from qwill.base.lock import LOCK, folder_lock
from qwill.base.progress import Bar, Display, clock
from qwill.evaluate import eval_results

if TYPE_CHECKING:
    from qwill.engine.language_model import LanguageModel
    from qwill.evaluate.ask import Respondent
    from qwill.evaluate.run_task import EvalSettings
    from qwill.evaluate.task import Task

WORK = "eval"
KEPT = "rows.jsonl"  # of `run_task`, which is not imported until there is work


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"


@dataclass(frozen=True)
class Making:
    """What is to be made, and how. `model` is how it was referred to, `name` what it is called; `judge` judges
    refusals."""

    folder: Path
    plan: eval_results.Plan
    model: str
    name: str
    tasks: Sequence[Task]
    settings: EvalSettings
    loading: Mapping[str, Any]
    judge: Respondent | None
    display: Display


def make(asked: Making) -> None:
    """Have the results in the folder, whatever is left of an earlier run."""
    folder, plan, display = asked.folder, asked.plan, asked.display
    work = folder.parent / ".work" / f"{WORK}-{plan.recipe_id}"
    if _finished(folder, plan) and not work.exists():
        display.say(f"{folder}: made already")
        _leave(work.parent)
        return
    with ExitStack() as held:
        try:
            # A lock of its own name: the folder itself is put in place as a whole, and may be gone for a moment.
            held.enter_context(folder_lock(work, of=folder))
        except OSError as error:
            raise _no_place(folder, error) from None
        try:
            # Asked again, for another process may have made it just now; or one was killed when it had only to tidy up.
            if _finished(folder, plan):
                display.say(f"{folder}: made already")
            else:
                _remove_half_written(work)
                seconds = _make(asked, work)
                display.say(f"made {folder} in {clock(seconds)}")
        except BaseException:
            # Each file begins with a line that says what its rows are of.
            if all(path.read_bytes().count(b"\n") < 2 for path in work.glob(f"*/{KEPT}")):
                _tidy(work)  # nothing was answered yet, so there is nothing to go on with
            raise
        _tidy(work)


def _finished(folder: Path, plan: eval_results.Plan) -> bool:
    try:
        return eval_results.finished(folder, plan)
    except OSError as error:
        raise _no_place(folder, error) from None


def _no_place(folder: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"--out: {str(folder)[:200]} can't be made ({error.strerror}); name another folder.")


def _make(asked: Making, work: Path) -> float:
    """Seconds that it took."""
    from qwill.engine.language_model import load
    from qwill.evaluate.refusal_agreement import KEPT as JUDGED
    from qwill.evaluate.refusal_agreement import KINDS, judge_rows
    from qwill.evaluate.run_task import evaluate, prepare
    from qwill.evaluate.task_scores import summarise

    tasks, settings, judge, display = asked.tasks, asked.settings, asked.judge, asked.display
    started = time.perf_counter()
    # All tasks first: a mistake in the last must not show after hours of the others.
    prepared = [prepare(task, settings) for task in tasks]
    lm = _loaded(load, asked.model, asked.loading)
    found: dict[str, list[dict[str, Any]]] = {}
    summary: dict[str, Any] = {"model": asked.name, "tasks": {}}
    for task, ready in zip(tasks, prepared, strict=True):
        with display.stage(task.name, settings.limit, "example") as bar:
            one = evaluate(
                lm, task, settings, work / slug(task.name), asked.plan.recipe_id, _shown(bar), prepared=ready
            )
            bar.total = bar.done = len(one.rows)
        found[task.name] = one.rows
        summary["tasks"][task.name] = summarise(one.rows, one.metrics) | {
            "available": one.available,
            "cut": sum(bool(row.get("cut")) for row in one.rows),
        }
    del lm  # two models at once may be more than there is memory for
    for task in tasks:
        if judge is not None and task.scorer in KINDS:
            with display.stage(f"{task.name}, judged", 0, "question") as bar:
                kept = work / slug(task.name) / JUDGED
                judged, told = judge_rows(judge, task, found[task.name], kept, _shown(bar))
            found[task.name] = judged
            summary["tasks"][task.name]["refusals"] = told
    rows = [row for of_one in found.values() for row in of_one]
    seconds = round(time.perf_counter() - started, 3)
    given = {"given": asked.model, "seconds": seconds}
    eval_results.write_results(asked.folder, asked.plan, asked.name, rows, summary, given, inside=work)
    return seconds


def _loaded(load: Callable[..., LanguageModel], model: str, loading: Mapping[str, Any]) -> LanguageModel:
    import torch

    device = str(loading["device"])
    try:
        # Not only its name: a device that is not there fails when the first number is put on it.
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError(
            f"--device is {device!r}, which this machine does not have; give cpu or leave it out."
        ) from None
    return load(model, **loading)


def _shown(bar: Bar) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done)

    return progress


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

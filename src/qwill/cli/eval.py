"""What `qwill eval` does: ask a model the examples of tasks, keep all it said, compare two such results."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwill.base.errors import ConfigError
from qwill.base.files import write_text
from qwill.base.progress import Display
from qwill.base.resolve import resolve
from qwill.cli.eval_making import Making, make, slug
from qwill.evaluate import eval_results
from qwill.evaluate.eval_results import REPORT, Results

if TYPE_CHECKING:
    from qwill.evaluate.ask import Respondent
    from qwill.evaluate.comparison import Comparison
    from qwill.evaluate.task import Task

EVALS = Path("runs") / "evals"


def is_recipe(given: Path) -> bool:
    return given.suffix.lower() in (".yaml", ".yml")


def of_recipe(recipe: Path, overrides: Sequence[str], others: Sequence[str], as_json: bool) -> int:
    """The recipe's stage. Raises ConfigError for options that only a model takes."""
    from qwill.cli.recipes import run

    if others:
        raise ConfigError(f"{others[0]} is for a model, and {recipe} is a recipe; set it there, or give a model.")
    return run(recipe, overrides, "eval", as_json)


def list_tasks(as_json: bool) -> int:
    """Every task of the box: how it is asked, in which languages, and what it is."""
    from qwill.evaluate.task import box_names, load_task

    found = [load_task(name) for name in box_names()]
    if as_json:
        rows = [
            {name: getattr(task, name) for name in ("name", "kind", "languages", "about", "source")} for task in found
        ]
        print(json.dumps({"tasks": rows}, indent=2, ensure_ascii=False))
        return 0
    width = max((len(task.name) for task in found), default=0)
    for task in found:
        print(f"{task.name:<{width}}  {task.kind:<8}  {','.join(task.languages):<8}  {task.about}")
    print("\nTo score a model: qwill eval MODEL --tasks NAME,NAME. A task of your own is a file: docs/en/evaluation.md")
    return 0


def evaluate_model(
    model: str,
    overrides: Sequence[str],
    names: str | None,
    given: Mapping[str, Any],
    loading: Mapping[str, Any],
    out: Path | None,
    judge: str | None,
    key_env: str | None,
    card: Path | None,
    as_json: bool,
) -> int:
    """Ask, score, keep, print. Killed at any moment, the same command goes on with the example it was at."""
    from qwill.evaluate.run_task import EvalSettings
    from qwill.hub.eval_card import CARD, check_card, write_card

    if overrides:
        raise ConfigError(f"{overrides[0]!r} sets something of a recipe, and {model} is a model; use options for it.")
    settings = EvalSettings(**given)
    tasks = _tasks(names)
    place = resolve(model)
    tasks, origins = eval_results.pinned(tasks)
    respondent, judge_place = _judge(judge, key_env, tasks)
    if card is not None:
        check_card(card, place)
    import torch

    threads = torch.get_num_threads()
    shown = asdict(settings)
    asked = {name: value for name, value in shown.items() if name not in ("seed", "slots", "memory")}
    plan = eval_results.make_plan(
        place, tasks, asked | {"weights": loading["weights"]}, settings.seed, threads, loading["dtype"], origins,
        judge_place,
    )  # fmt: skip
    name = _name(model, place)
    folder = out or EVALS / f"{name}-{plan.recipe_id[4:12]}"
    display = Display()
    make(Making(folder, plan, model, name, tasks, settings, loading, respondent, display))
    results = eval_results.read_results(folder)
    if card is not None and write_card(card, results):
        display.say(f"{card / CARD}: scores written")
    if as_json:
        print(json.dumps(_told(results), indent=2, ensure_ascii=False))
    else:
        _print_scores(results)
    return 0


def _judge(
    judge: str | None, key_env: str | None, tasks: Sequence[Task]
) -> tuple[Respondent | None, Path | str | None]:
    """(whom to ask about refusals, where it lies or what it is called)."""
    if judge is None:
        if key_env:
            raise ConfigError("--key-env is the key of a --judge behind a URL; name that, or leave it out.")
        return None, None
    from qwill.evaluate.ask import respondent
    from qwill.evaluate.refusal_agreement import need_safety

    need_safety(tasks)
    key = None
    if key_env and not (key := os.environ.get(key_env)):
        raise ConfigError(f"--key-env names {key_env}, and there is no such environment variable; set it.")
    found = respondent(judge, key)
    return found, found.identity if judge.startswith(("http://", "https://")) else resolve(judge)


def _tasks(names: str | None) -> list[Task]:
    from qwill.evaluate.task import load_task

    if not names:
        raise ConfigError("no task is named; give --tasks with names out of `qwill eval tasks`, or a .yaml file.")
    tasks: dict[str, Task] = {}
    for name in dict.fromkeys(part.strip() for part in names.split(",") if part.strip()):
        task = load_task(name)
        if task.name in tasks:
            raise ConfigError(f"--tasks names two tasks that call themselves {task.name!r}; rename one of them.")
        tasks[task.name] = task
    if not tasks:
        raise ConfigError(f"--tasks is {names!r}, which names no task; give names out of `qwill eval tasks`.")
    return list(tasks.values())


def _name(model: str, place: Path) -> str:
    """What the model is called in tables: the folder's own name, however it was referred to."""
    return slug(model if model == "smollm2" else os.path.basename(os.path.realpath(place)))


def _told(results: Results) -> dict[str, Any]:
    return {
        "folder": str(results.folder),
        "content_id": results.manifest.content_id,
        "recipe_id": results.manifest.recipe_id,
    } | results.summary


def _print_scores(results: Results) -> None:
    from qwill.evaluate.refusal_agreement import refusal_lines

    width = max([len("task"), *map(len, results.summary["tasks"])])
    print(f"{results.model}\n")
    print(_columns("task", "metric", "score", "95 % interval", "examples", "interval by", width=width))
    for task, found in results.summary["tasks"].items():
        parts = [("", found["all"]), *found["languages"].items()]
        for part, estimates in parts:
            for metric in found["metrics"]:
                one = estimates[metric]
                interval = f"{100 * one['lower']:.1f} to {100 * one['upper']:.1f}"
                score = f"{100 * one['mean']:.1f}"
                name = f"  {part}" if part else task
                print(_columns(name, metric, score, interval, str(one["n"]), one["method"], width=width))
    print()
    for task, found in results.summary["tasks"].items():
        if found["cut"]:
            print(f"{task}: {found['cut']} prompts were longer than the model reads, and lost their beginning.")
        for line in refusal_lines(task, found["refusals"]) if "refusals" in found else []:
            print(line)
    print(f"Every answer: {results.folder / REPORT}")
    print(f"To compare with another model: qwill eval compare {results.folder} OTHER")


def _columns(task: str, metric: str, score: str, interval: str, examples: str, method: str, width: int) -> str:
    return f"{task:<{width}}  {metric:<9}  {score:>6}  {interval:>15}  {examples:>8}  {method}"


def compare_results(
    a: str,
    b: str,
    tasks: str | None,
    metric: str | None,
    alpha: float,
    seed: int,
    html: Path | None,
    as_json: bool,
) -> int:
    """Two results artifacts, in pairs."""
    from qwill.evaluate.comparison import compare
    from qwill.evaluate.recipe_results import by_question, read_side

    one, other = by_question(read_side(a), read_side(b))
    metrics = shared_metrics(one, other, tasks, metric)
    asked = eval_results.asked_otherwise(one, other, list(metrics))
    found = replace(compare(one.rows, other.rows, metrics, alpha, seed), asked=asked)
    name_a, name_b = one.model, other.model
    if name_a == name_b:
        name_a, name_b = one.folder.name, other.folder.name
    if name_a == name_b:
        name_a, name_b = str(one.folder), str(other.folder)
    if html is not None:
        from qwill.evaluate.eval_report import comparison_page

        page = comparison_page(name_a, name_b, found, one.rows, other.rows, metrics)
        try:
            html.parent.mkdir(parents=True, exist_ok=True)
            write_text(html, page)
        except OSError as error:
            raise ConfigError(f"--html: {html} can't be written ({error.strerror}); name another file.") from None
    if as_json:
        print(json.dumps(_comparison_told(one, other, name_a, name_b, found), indent=2, ensure_ascii=False))
    else:
        _print_comparison(name_a, name_b, found)
        if html is not None:
            print(f"The examples on which they differ: {html}")
    return 0


def shared_metrics(one: Results, other: Results, tasks: str | None, metric: str | None) -> dict[str, str]:
    """Task → metric that both have. Raises ConfigError where there is none, or one that is named is not there."""
    shared = [task for task in one.headlines if task in other.headlines]
    wanted = [part.strip() for part in tasks.split(",") if part.strip()] if tasks else shared
    for task in wanted:
        if task not in shared:
            lacking = one if task not in one.headlines else other
            raise ConfigError(f"{lacking.folder} has no task {task!r}; it has {', '.join(sorted(lacking.headlines))}.")
    if not wanted:
        raise ConfigError(f"{one.folder} and {other.folder} have no task in common; run both with the same --tasks.")
    found = {}
    for task in wanted:
        known = one.summary["tasks"][task]["metrics"]
        chosen = metric or known[0]
        for results in (one, other):
            if chosen not in (there := results.summary["tasks"][task]["metrics"]):
                raise ConfigError(f"{results.folder}: task {task} has no metric {chosen!r}; it has {', '.join(there)}.")
        found[task] = chosen
    return found


def _comparison_told(one: Results, other: Results, name_a: str, name_b: str, found: Comparison) -> dict[str, Any]:
    sides = {
        side: {"model": name, "folder": str(results.folder), "content_id": results.manifest.content_id}
        for side, name, results in (("a", name_a, one), ("b", name_b, other))
    }
    return sides | {"alpha": found.alpha, "lines": [asdict(line) for line in found.lines], "notes": found.notes}


def _print_comparison(a: str, b: str, found: Comparison) -> None:
    from qwill.evaluate.eval_report import p_text

    print(f"A: {a}\nB: {b}\n")
    share = f"{100 * (1 - found.alpha):g} % interval"
    table = [["task", "metric", "examples", "A", "B", "A - B", share, "p", "adjusted", "detectable", ""]]
    for line in found.lines:
        table.append(
            [
                f"  {line.language}" if line.language else line.task,
                line.metric,
                str(line.n),
                f"{100 * line.a:.1f}",
                f"{100 * line.b:.1f}",
                f"{100 * line.difference:+.1f}",
                f"{100 * line.lower:+.1f} to {100 * line.upper:+.1f}",
                p_text(line.p_value),
                p_text(line.adjusted),
                "-" if line.detectable is None else f"{100 * line.detectable:.1f}",
                {"a": f"{a} is better", "b": f"{b} is better", "": "no difference shown"}[line.better],
            ]
        )
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        aligned = [
            # Texts begin in one column, numbers end in one.
            f"{cell:<{width}}" if column in (0, 1, len(row) - 1) else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(aligned).rstrip())
    print()
    for note in found.notes:
        print(note)

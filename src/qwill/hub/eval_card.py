"""Scores of `qwill eval` in a model's card: the metadata `model-index` that the Hub reads, and a table for people.

Everything else of README.md stays as it is, byte for byte. Scores of the same task asked in the same way are replaced,
those of other weights go, and what others wrote into `model-index` stays. The table is made from the metadata alone, so
evaluations made one after the other add up.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from qwill.base.artifact import MANIFEST, identify
from qwill.base.errors import ArtifactError, DataError
from qwill.base.files import new_file
from qwill.evaluate.eval_results import Results

CARD, KEY, BY = "README.md", "model-index", "qwill eval"
BEGIN, END = "<!-- qwill eval: scores, begin -->", "<!-- qwill eval: scores, end -->"
_KEY = re.compile(rf"""["']?{KEY}["']?\s*:""")
_TOP = re.compile(r"[^\s#\-]")
# What is so unless it is said, and need not be.
_USUAL: dict[str, Any] = {
    "limit": 0, "first": False, "shots": None, "chat": False, "thinking": False, "samples": 1, "temperature": None,
    "unsafe": False, "weights": "float",
}  # fmt: skip
_METRICS = {"acc": "accuracy"}  # ours → the Hub's name
_ANY = {"dataset": {"name": "", "args": {"by": BY}}, "metrics": []}  # a result, to see whether one can be added


def check_card(folder: Path, model: Path) -> None:
    """Whether scores of `model` may go into the card of `folder`, which is it or a copy of it.

    Raises ArtifactError for a folder of another model or of none, or one that can't be written to.
    """
    if not folder.is_dir():
        raise ArtifactError(f"--card: {folder} is no folder; give that of the model, or of a copy of it.")
    if not model.is_dir():
        raise ArtifactError(
            f"--card: {model} is a single file, and only a model's folder has a card; leave --card out."
        )
    if not any((folder / file).is_file() for file in (MANIFEST, "config.json")):
        raise ArtifactError(f"--card: {folder} holds no config.json, so it is no model; give that of the model.")
    if (card := identify(folder)).kind != "model":
        raise ArtifactError(f"--card: {folder} is an artifact of the kind {card.kind}; expected a model.")
    if folder.resolve() != model.resolve() and card.content_id != (own := identify(model).content_id):
        raise ArtifactError(
            f"--card: {folder} is {card.content_id}, and the model that is scored is {own}; give its own."
        )
    if not os.access(folder, os.W_OK):
        raise ArtifactError(f"--card: {folder} can't be written to; change its permissions, or give a copy.")
    _updated(_read(folder), "", [_ANY])  # a card that can't be read is told before the work


def write_card(folder: Path, results: Results) -> bool:
    """Put the scores into the folder's README.md, whole or not at all; False where they stand there already.

    Raises ArtifactError where the folder is not the model that was scored, DataError, naming the line where there is
    one, for a card whose metadata or marks can't be read.
    """
    scored = results.manifest.inputs.get("model")
    if (here := identify(folder).content_id) != scored:
        raise ArtifactError(f"{folder} is {here}, and the scores are of {scored}; give the folder of that model.")
    with _alone(folder):
        old = _read(folder)
        new = _updated(old, results.model, hub_results(results))
        if new == old and (folder / CARD).exists():
            return False
        _replace(folder, new)
    return True


def kept_scores(old: str, new: str) -> str:
    """A card that is written anew, with the scores of the old one, as far as they can be read."""
    with suppress(DataError):
        for entry in _entries(_parsed(_split(old)[0])):
            if own := [one for one in entry["results"] if _is_own(one)]:
                return _updated(new, str(entry.get("name")), own)
    return new


def hub_results(results: Results) -> list[dict[str, Any]]:
    """An item of `model-index`'s `results` for each task; intervals are in a metric's `args`."""
    config = results.manifest.config
    settings = {
        name: value for name, value in config.get("settings", {}).items() if _USUAL.get(name, value) != value
    } | ({"seed": results.manifest.seed} if results.manifest.seed else {})
    made = []
    for task, found in results.summary["tasks"].items():
        source = config.get("tasks", {}).get(task, {}).get("source", {})
        dataset: dict[str, Any] = {"name": task, "type": str(source.get("hub", task))}
        dataset |= {name: source[name] for name in ("config", "split", "revision") if source.get(name)}
        dataset["args"] = {"by": BY, "model": results.manifest.inputs.get("model"), **settings}
        made.append({"task": {"type": "text-generation"}, "dataset": dataset, "metrics": _metrics(found)})
    return made


def _metrics(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "type": _METRICS.get(metric, metric),
            "value": one["mean"],
            "name": metric,
            "args": {
                "confidence": 0.95, "lower": one["lower"], "upper": one["upper"], "examples": one["n"],
                "interval": one["method"],
            },
        }
        for metric, one in ((metric, found["all"][metric]) for metric in found["metrics"])
    ]  # fmt: skip


# -- the text of a card


def _updated(text: str, model: str, new: Sequence[Mapping[str, Any]]) -> str:
    """The card with these results. DataError for one that can't have any."""
    front, body = _split(text)
    fields = _parsed(front)
    entries, marks = _entries(fields), _marks(body)
    if not entries:
        entries = [{"name": model, "results": []}]
    target = next((entry for entry in entries if any(map(_is_own, entry["results"]))), entries[0])
    target["results"] = _merged(target["results"], new)
    line = "\r\n" if "\r\n" in text else "\n"
    table = _table([one for one in target["results"] if _is_own(one)], line)
    return _with_index(front, fields, entries, line) + _with_block(body, marks, table, line)


def _split(text: str) -> tuple[list[str], str]:
    """(lines of the metadata between the two ---, what follows). No lines where the card has no metadata."""
    lines = text.splitlines(keepends=True)
    if not lines or lines[0].lstrip("\ufeff").rstrip() != "---":
        return [], text
    for number, line in enumerate(lines[1:], start=1):
        if line.rstrip() == "---":
            return lines[: number + 1], "".join(lines[number + 1 :])
    raise DataError(f"{CARD}: line 1 begins metadata that no line of --- ends; end it, or take line 1 out.")


def _parsed(front: Sequence[str]) -> dict[str, Any]:
    try:
        fields = yaml.safe_load("".join(front[1:-1])) if front else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 2}" if mark is not None else "its metadata"
        why = getattr(error, "problem", None) or "not YAML"
        raise DataError(
            f"{CARD}: {where} is not valid YAML ({why}); mend it, then run the same command again."
        ) from None
    if not isinstance(fields := {} if fields is None else fields, dict):
        raise DataError(f"{CARD}: its metadata is a {type(fields).__name__}; expected settings such as `license: mit`.")
    return fields


def _entries(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = fields.get(KEY) or []
    sound = isinstance(entries, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.setdefault("results", []), list)
        and all(isinstance(one, dict) for one in entry["results"])
        for entry in entries
    )
    if not sound:
        raise DataError(
            f"{CARD}: its metadata's `{KEY}` is none as the Hub reads it; expected a list of `name` and `results`. "
            "Mend it, or take it out."
        )
    return list(entries)


def _asked(one: Mapping[str, Any]) -> Mapping[str, Any]:
    """The dataset of a result with how it was asked; the weights apart."""
    dataset = one.get("dataset")
    dataset = dataset if isinstance(dataset, dict) else {}
    arguments = dataset.get("args")
    arguments = arguments if isinstance(arguments, dict) else {}
    return {**dataset, "args": {name: value for name, value in arguments.items() if name != "model"}}


def _model(one: Mapping[str, Any]) -> Any:
    return one["dataset"]["args"].get("model")


def _is_own(one: Mapping[str, Any]) -> bool:
    """Whether `qwill eval` wrote this result, and nobody has spoilt it since."""
    metrics = one.get("metrics")
    return (
        _asked(one)["args"].get("by") == BY
        and "name" in _asked(one)
        and isinstance(metrics, list)
        and all(isinstance(metric, dict) and "name" in metric and _told(metric) for metric in metrics)
    )


def _told(metric: Mapping[str, Any]) -> bool:
    arguments = metric.get("args")
    return isinstance(arguments, dict) and all(
        isinstance(value, int | float)
        for value in (metric.get("value"), *(arguments.get(name) for name in ("lower", "upper", "examples")))
    )


def _merged(old: Sequence[dict[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each new result in the place of one that asked the same, or at the end; own ones of other weights go."""
    left = [dict(one) for one in new]
    found = []
    for one in old:
        if not _is_own(one):
            found.append(one)
        elif same := [other for other in left if _asked(other) == _asked(one)]:
            found.append(same[0])
            left.remove(same[0])
        elif _model(one) == _model(new[0]):
            found.append(one)
    return found + left


def _with_index(
    front: Sequence[str], fields: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], line: str
) -> str:
    """The metadata with another `model-index`, whose lines are the only ones that change."""
    written = yaml.safe_dump({KEY: list(entries)}, sort_keys=False, allow_unicode=True, width=10_000)
    index = [f"{one}{line}" for one in written.splitlines()]
    lines = list(front) or [f"---{line}", f"---{line}"]
    begin = next((n for n, one in enumerate(lines[1:-1], start=1) if _KEY.match(one)), len(lines) - 1)
    end = begin
    if begin < len(lines) - 1:
        end = next((n for n in range(begin + 1, len(lines) - 1) if _TOP.match(lines[n])), len(lines) - 1)
        # Remarks and empty lines before the next key are its own.
        while end > begin + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
            end -= 1
    lines[begin:end] = index
    others = {name: value for name, value in fields.items() if name != KEY}
    with suppress(DataError):
        made = _parsed(lines)
        if {name: value for name, value in made.items() if name != KEY} == others and made[KEY] == list(entries):
            return "".join(lines)
    raise DataError(f"{CARD}: its metadata is written in a way that can't be added to; write one key a line.")


def _marks(body: str) -> tuple[int, int] | None:
    """Where the table stands. DataError for marks that are not one pair."""
    begins, ends = body.count(BEGIN), body.count(END)
    if not begins and not ends:
        return None
    begin, end = body.find(BEGIN), body.find(END)
    if begins != 1 or ends != 1 or end < begin:
        raise DataError(
            f"{CARD}: the scores stand between `{BEGIN}` and `{END}`, and of these there are {begins} and {ends}; "
            "leave one pair, or none."
        )
    return begin, end + len(END)


def _with_block(body: str, marks: tuple[int, int] | None, table: str, line: str) -> str:
    if marks is not None:
        return body[: marks[0]] + table + body[marks[1] :]
    gap = "" if body.endswith(2 * line) else line if body.endswith(line) else 2 * line
    return f"{body}{gap if body else line}{table}{line}"


def _table(results: Sequence[Mapping[str, Any]], line: str) -> str:
    rows = []
    for one in results:
        how = {name: value for name, value in _asked(one)["args"].items() if name != "by"}
        how |= {name: one["dataset"][name] for name in ("config", "split", "revision") if name in one["dataset"]}
        asked = ", ".join(name if value is True else f"{name} {value}" for name, value in how.items())
        for metric in one["metrics"]:
            told = metric["args"]
            rows.append(
                f"| {_cell(one['dataset']['name'])} | {_cell(asked)} | {_cell(metric['name'])} | "
                f"{100 * metric['value']:.1f} | {100 * told['lower']:.1f} – {100 * told['upper']:.1f} | "
                f"{told['examples']} |"
            )
    return line.join(
        [
            BEGIN,
            "## Evaluation · 评测",
            "",
            "Scores in %, with 95 % intervals, by `qwill eval`. 得分以 % 计，附 95 % 区间，由 `qwill eval` 给出。",
            "",
            "| task 任务 | asked 提问方式 | metric 指标 | score 得分 | 95 % | examples 题数 |",
            "|---|---|---|---:|---:|---:|",
            *rows,
            END,
        ]
    )


def _cell(text: object) -> str:
    return " ".join(str(text).replace("|", "\\|").split())


# -- the file


def _read(folder: Path) -> str:
    """The card as it is; one of Qwill's, or a bare one, where there is none."""
    path = folder / CARD
    if not path.exists():
        if (folder / MANIFEST).is_file():
            from qwill.hub.card import model_card

            return model_card(folder)
        return f"---\nlibrary_name: transformers\n---\n\n# {folder.resolve().name}\n"
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8; convert it to UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}); make it a readable file.") from None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer at a time, and no lock file: it would become part of the model's content."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(folder: Path, text: str) -> None:
    """As `files.write_text`, but written beside the folder where that can be, for a file that a kill leaves inside
    would become part of the model's content."""
    target, beside = folder / CARD, folder.resolve().parent
    prefix = f".{folder.resolve().name}.{CARD}."
    place = folder.resolve()
    if os.access(beside, os.W_OK) and beside.stat().st_dev == place.stat().st_dev:
        place = beside
    for old in place.glob(f"{prefix}*.tmp"):
        old.unlink(missing_ok=True)  # of a process that was killed: nobody else writes now
    with new_file(target, place, prefix) as file:
        file.write(text.encode())

"""From graded replies to numbers with uncertainty: accuracy, pass@k, and paired comparisons between models.

Rows are those of results.jsonl: one for each model, problem and kind ("greedy" or "sampled"), with `correct`, a list
with one bool a reply. Pure functions; nothing here runs a model.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from qwill.base.errors import DataError
from qwill.evaluate.statistics import mcnemar_exact, mean_interval, pass_at_k, wilson

Row = Mapping[str, Any]

BETTER, WORSE, UNCLEAR = "better", "worse", "no difference shown"


def accuracy(rows: Sequence[Row]) -> dict[str, Any]:
    """Share of right greedy replies with its 95 % Wilson interval."""
    right = sum(bool(row["correct"][0]) for row in rows)
    interval = wilson(right, len(rows))
    return {
        "correct": right,
        "total": len(rows),
        "accuracy": right / len(rows),
        "lower": interval.lower,
        "upper": interval.upper,
    }


def pass_rate(rows: Sequence[Row], k: int) -> dict[str, Any]:
    """Mean of the unbiased pass@k over problems, with a 95 % interval over problems.

    With as many samples as `k` each problem is a plain success or failure, and the interval is Wilson's; otherwise a
    problem's estimate is a real number and the interval is Student's t over problems: the samples of one problem
    are not independent, so counting them as trials would claim too much.
    """
    estimates = [pass_at_k(len(row["correct"]), sum(row["correct"]), k) for row in rows]
    value = sum(estimates) / len(estimates)
    if all(len(row["correct"]) == k for row in rows):
        interval = wilson(round(sum(estimates)), len(estimates))
        lower, upper = interval.lower, interval.upper
    elif len(estimates) > 1:
        mean = mean_interval(estimates)
        lower, upper = max(0.0, mean.lower), min(1.0, mean.upper)
    else:
        lower, upper = 0.0, 1.0
    return {"problems": len(rows), "value": value, "lower": lower, "upper": upper}


def compare(before: Sequence[Row], after: Sequence[Row], alpha: float) -> dict[str, Any]:
    """Exact McNemar test of two models on the same problems; "better" or "worse" only at p < `alpha`.

    DataError when the two sides do not hold the same problems.
    """
    first = {row["id"]: bool(row["correct"][0]) for row in before}
    second = {row["id"]: bool(row["correct"][0]) for row in after}
    if first.keys() != second.keys() or not first:
        raise DataError("A paired comparison needs both models' replies to the same problems; run `qwill eval` again.")
    gained = sum(second[name] and not right for name, right in first.items())
    lost = sum(right and not second[name] for name, right in first.items())
    p_value = mcnemar_exact(gained, lost)
    verdict = UNCLEAR
    if p_value < alpha:
        verdict = BETTER if gained > lost else WORSE
    return {
        "gained": gained,
        "lost": lost,
        "total": len(first),
        "difference": (gained - lost) / len(first),
        "p_value": p_value,
        "verdict": verdict,
    }


def summarise(rows: Sequence[Row], models: Sequence[str], alpha: float) -> dict[str, Any]:
    """The tables of summary.json. `models` are in order of training; each is compared with the one before it."""
    greedy = _grouped(rows, "greedy")
    sampled = _grouped(rows, "sampled")
    comparisons = []
    for before, after in pairwise(models):
        for language in sorted({language for model, language in greedy if model == after}):
            pair = compare(greedy[before, language], greedy[after, language], alpha)
            comparisons.append({"before": before, "after": after, "language": language} | pair)
    return {
        "models": list(models),
        "alpha": alpha,
        "accuracy": _by_family(greedy, accuracy),
        "pass_at_k": _by_family(sampled, _pass_rates),
        "comparisons": comparisons,
    }


def _pass_rates(rows: Sequence[Row]) -> dict[str, Any]:
    samples = min(len(row["correct"]) for row in rows)
    return {f"pass@{k}": pass_rate(rows, k) for k in sorted({1, samples})}


def _grouped(rows: Sequence[Row], kind: str) -> dict[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["kind"] == kind:
            groups.setdefault((row["model"], row["language"]), []).append(row)
    return groups


def _by_family(groups: Mapping[tuple[str, str], list[Row]], score: Any) -> dict[str, Any]:
    """{model: {language: {"all": score, family: score, …}}}"""
    table: dict[str, Any] = {}
    for (model, language), rows in groups.items():
        families: dict[str, list[Row]] = {"all": rows}
        for row in rows:
            families.setdefault(row["family"], []).append(row)
        cell = {family: score(members) for family, members in families.items()}
        table.setdefault(model, {})[language] = cell
    return table

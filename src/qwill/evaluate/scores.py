"""From graded replies to numbers with uncertainty: accuracy, pass@k, and paired comparisons between models.

Rows are those of results.jsonl: one for each model, problem and kind ("greedy" or "sampled"), with `correct`, a list
with one bool a reply. Pure functions; nothing here runs a model.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from qwill.base.errors import DataError
from qwill.evaluate.comparison import detectable_difference, difference
from qwill.evaluate.statistics import holm, mean_interval, pass_at_k, wilson

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


def compare(before: Sequence[Row], after: Sequence[Row], alpha: float, count: int = 1) -> dict[str, Any]:
    """Two models on the same problems, by `comparison.difference`: what `qwill eval compare` says of them, after less
    before. `count` comparisons stand in one table; `adjusted` is the p-value of one alone until `judged` sees them all.

    DataError when the two sides do not hold the same problems.
    """
    first = {row["id"]: bool(row["correct"][0]) for row in before}
    second = {row["id"]: bool(row["correct"][0]) for row in after}
    if first.keys() != second.keys() or not first:
        raise DataError("A paired comparison needs both models' replies to the same problems; run `qwill eval` again.")
    new, old = ([float(side[name]) for name in first] for side in (second, first))
    found, _ = difference(new, old, None, alpha)
    return {
        "gained": sum(second[name] and not right for name, right in first.items()),
        "lost": sum(right and not second[name] for name, right in first.items()),
        "total": len(first),
        "difference": found.difference,
        "lower": found.lower,
        "upper": found.upper,
        "p_value": found.p_value,
        "detectable": detectable_difference(new, old, None, alpha / count),
    }


def judged(pairs: Sequence[Mapping[str, Any]], alpha: float) -> list[dict[str, Any]]:
    """The comparisons of one table with their `adjusted` p-values (Holm) and verdicts: "better" or "worse" only where
    the adjusted p-value is below `alpha` and the interval leaves zero out."""
    made = []
    for pair, adjusted in zip(pairs, holm([pair["p_value"] for pair in pairs]), strict=True):
        shown = adjusted < alpha and not pair["lower"] <= 0 <= pair["upper"]
        verdict = (BETTER if pair["difference"] > 0 else WORSE) if shown else UNCLEAR
        made.append({**pair, "adjusted": adjusted, "verdict": verdict})
    return made


def summarise(rows: Sequence[Row], models: Sequence[str], alpha: float) -> dict[str, Any]:
    """The tables of summary.json. `models` are in order of training; each is compared with the one before it."""
    greedy = _grouped(rows, "greedy")
    sampled = _grouped(rows, "sampled")
    steps = [
        (before, after, language)
        for before, after in pairwise(models)
        for language in sorted({language for model, language in greedy if model == after})
    ]
    comparisons = [
        {"before": before, "after": after, "language": language}
        | compare(greedy[before, language], greedy[after, language], alpha, len(steps))
        for before, after, language in steps
    ]
    return {
        "models": list(models),
        "alpha": alpha,
        "accuracy": _by_family(greedy, accuracy),
        "pass_at_k": _by_family(sampled, _pass_rates),
        "comparisons": judged(comparisons, alpha),
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

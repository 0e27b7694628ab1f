"""What a judge's verdicts come to: win rates with intervals, how far the judge leans to a place, and whether it agrees
with people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from qwill.base.errors import DataError
from qwill.evaluate.agreement import Agreement, judge_agreement
from qwill.evaluate.judge import Judged
from qwill.evaluate.length_controlled import length_controlled
from qwill.evaluate.statistics import mean_interval, wilson

SHOWN = 80  # characters of a reply without a verdict


def summarise(
    judged: Sequence[Judged],
    model_a: str,
    model_b: str,
    judge: str,
    *,
    human: Mapping[str, Sequence[float]] | None = None,
    weighted: bool = False,
    resamples: int = 0,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """The contents of summary.json; win rates are model a's, a tie being half a win.

    `weighted`: a win counts by its probability (AlpacaEval 2 does so) instead of as the verdict; the judge must give
    log-probabilities. `human`: outcomes of people's votes by pair id, several a pair perhaps. Raises DataError where no
    pair has a verdict, for `weighted` without probabilities, and where no vote is on a judged pair.
    """
    decided = [one for one in judged if one.outcome is not None]
    if not decided:
        why = next((one.error for pair in judged for one in (pair.first, pair.second) if one.error), None)
        why = why or f"it said {judged[0].first.text[:80]!r}" if judged else "there are no pairs"
        raise DataError(f"the judge {judge} gave no verdict on any pair: {why}; take another judge.")
    names = {"model_a": model_a, "model_b": model_b, "judge": judge}
    overall = _rates(decided, weighted, resamples, seed, confidence)
    languages = list(dict.fromkeys(one.pair.language for one in decided))
    summary: dict[str, Any] = names | overall | {
        "pairs": len(judged),
        "judged": len(decided),
        "no_verdict": dict(Counter(_why(one) for one in judged if one.outcome is None)),
        "unreadable": _unreadable(judged),
        "weighted": weighted,
        "confidence": confidence,
        "position": _position(decided, confidence),
        "languages": {
            language: _rates([one for one in decided if one.pair.language == language], weighted, 0, seed, confidence)
            for language in languages
        } if len(languages) > 1 else {},
    }  # fmt: skip
    if human is not None:
        outcomes = {one.pair.id: one.outcome for one in decided if one.outcome is not None}
        plain, linear = judge_agreement(outcomes, human, confidence)
        summary["agreement"] = {"kappa": _agreement(plain), "weighted_kappa": _agreement(linear)}
    summary["better"] = _better(summary, model_a, model_b)
    return summary


def _rates(decided: Sequence[Judged], weighted: bool, resamples: int, seed: int, confidence: float) -> dict[str, Any]:
    outcomes = [one.outcome for one in decided if one.outcome is not None]
    values = outcomes
    if weighted:
        values = [one.share for one in decided if one.share is not None]
        if len(values) < len(decided):
            raise DataError(
                f"the judge told no probabilities for {len(decided) - len(values)} of {len(decided)} pairs, so wins "
                "can't be weighted; leave that out."
            )
    rates: dict[str, Any] = {
        "wins": outcomes.count(1.0), "ties": outcomes.count(0.5), "losses": outcomes.count(0.0), "win_rate": None,
    }  # fmt: skip
    mean = sum(values) / len(values)
    interval = mean_interval(values, confidence) if len(values) > 1 and min(values) < max(values) else None
    if interval is not None:
        bounds = {"stderr": interval.stderr, "lower": max(0.0, interval.lower), "upper": min(1.0, interval.upper)}
    elif mean in (0.0, 1.0):
        # Nothing varies, and yet the true rate may be another: Wilson's interval of so many wins.
        score = wilson(round(mean * len(values)), len(values), confidence)
        bounds = {"stderr": 0.0, "lower": score.lower, "upper": score.upper}
    else:
        bounds = {"stderr": None, "lower": None, "upper": None}  # type: ignore[dict-item]
    rates["win_rate"] = {"mean": mean} | bounds
    controlled = length_controlled(
        values,
        [len(one.pair.reply_a) for one in decided],
        [len(one.pair.reply_b) for one in decided],
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    found = asdict(controlled)
    for name in ("interval", "bootstrap"):
        pair = getattr(controlled, name)
        found[name] = None if pair is None else {"lower": pair.lower, "upper": pair.upper}
    rates["length_controlled"] = found
    return rates


def _position(decided: Sequence[Judged], confidence: float) -> dict[str, Any]:
    """`lean`: how much more often the reply shown first wins than the one shown second, as a share of verdicts, from
    -1 to 1; each pair's two verdicts are one observation. `consistent`: pairs judged alike in both orders."""
    leans = [one.lean for one in decided if one.lean is not None]
    alike = sum(one.consistent for one in decided)
    score = wilson(alike, len(decided), confidence)
    position: dict[str, Any] = {
        "consistent": {"mean": alike / len(decided), "lower": score.lower, "upper": score.upper},
        "lean": {"mean": sum(leans) / len(leans), "lower": None, "upper": None},
        "first": sum(one.lean == 1 for one in decided),
        "second": sum(one.lean == -1 for one in decided),
    }
    if len(leans) > 1 and min(leans) < max(leans):
        found = mean_interval(leans, confidence)
        position["lean"] |= {"lower": max(-1.0, found.lower), "upper": min(1.0, found.upper)}
    return position


def _better(summary: Mapping[str, Any], model_a: str, model_b: str) -> str | None:
    """The model whose win rate is above one half with its whole interval, None if that can't be said."""
    rate = summary["win_rate"]
    if rate["lower"] is None or rate["lower"] <= 0.5 <= rate["upper"]:
        return None
    return model_a if rate["mean"] > 0.5 else model_b


def _unreadable(judged: Sequence[Judged]) -> dict[str, Any]:
    """Replies of the judge, two a pair, in which no verdict could be read, and what some of them begin with."""
    said = [each.text for one in judged for each in (one.first, one.second) if each.shown is None and not each.error]
    return {"replies": len(said), "of": 2 * len(judged), "examples": [text[:SHOWN] for text in said[:3]]}


def _why(one: Judged) -> str:
    return one.first.error or one.second.error or "no verdict could be read in what the judge said"


def _agreement(found: Agreement) -> dict[str, Any]:
    told = asdict(found)
    for name in ("interval", "share_interval"):
        pair = getattr(found, name)
        told[name] = None if pair is None else {"lower": pair.lower, "upper": pair.upper}
    return told

"""`qwill arena rate`: a leaderboard from a file of votes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwill.base.errors import ConfigError
from qwill.evaluate.arena import POINTS, Ratings, anchored, fit_ratings, pair_weights, win_matrix
from qwill.evaluate.arena_table import VoteTable, read_votes

DIGITS = 4  # of a rating, as in ratings.json of the stage `arena`


def rate(
    votes: Path,
    style: bool,
    features: Sequence[str],
    anchor: str | None,
    bootstrap: int | None,
    category: str | None,
    cluster: str | None,
    weight_pairs: bool,
    prior: float,
    confidence: float,
    seed: int,
    as_json: bool,
) -> int:
    """Print the leaderboard; raises DataError and ConfigError, each with one sentence."""
    place = _anchor(anchor)
    table = read_votes(votes, style=style, features=features, cluster=cluster, category=category)
    columns: list[Any] = [table.model_a, table.model_b, table.outcome, table.features or None]
    columns.append(pair_weights(table.model_a, table.model_b) if weight_pairs else None)
    clusters = table.clusters or None
    if bootstrap is None:
        found = fit_ratings(*columns, prior=prior, clusters=clusters, confidence=confidence)
    else:
        from qwill.evaluate.arena_bootstrap import bootstrap_ratings

        found = bootstrap_ratings(
            *columns, resamples=bootstrap, seed=seed, prior=prior, clusters=clusters, confidence=confidence
        )
    if place is not None:
        found = anchored(found, *place)
    how = f"{bootstrap} resamples of {'clusters' if cluster else 'votes'}" if bootstrap else "sandwich"
    notes = _notes(table, found, how, cluster, category, confidence, place, weight_pairs)
    board = leaderboard(table, found)
    if as_json:
        print(json.dumps(board | {"confidence": confidence, "notes": notes}, indent=2, ensure_ascii=False))
    else:
        _print(board, notes, confidence)
    return 0


def leaderboard(table: VoteTable, found: Ratings) -> dict[str, Any]:
    """What is printed as JSON: the models best first, coefficients in points, and the matrix of wins."""
    models, points, battles = win_matrix(table.model_a, table.model_b, table.outcome)
    rows = [
        {
            "rank": int(found.rank[i]),
            "model": model,
            "rating": round(float(found.rating[i]), DIGITS),
            "lower": round(float(found.lower[i]), DIGITS),
            "upper": round(float(found.upper[i]), DIGITS),
            "stderr": round(float(found.stderr[i]), DIGITS),
            "votes": int(battles[i].sum()),
            "points": float(points[i].sum()),
            "separated": model in found.separated,
        }
        for i, model in enumerate(found.models)
    ]
    effects = zip(table.feature_names, found.coefficients, strict=True)
    return {
        "ratings": sorted(rows, key=lambda row: (-row["rating"], row["model"])),
        "features": {name: round(float(POINTS * value), DIGITS) for name, value in effects},
        "groups": found.groups,
        "win_matrix": {"models": models, "points": points.tolist(), "battles": battles.tolist()},
    }


def _anchor(text: str | None) -> tuple[str, float] | None:
    if text is None:
        return None
    name, _, number = text.rpartition("=")
    try:
        return name, float(number if name else "")
    except ValueError:
        raise ConfigError(f"--anchor is '{text}', expected a model and its rating, such as base=1000.") from None


def _notes(
    table: VoteTable,
    found: Ratings,
    how: str,
    cluster: str | None,
    category: str | None,
    confidence: float,
    place: tuple[str, float] | None,
    weight_pairs: bool,
) -> list[str]:
    scale = f"{place[0]} at {place[1]:g}" if place else "centred on 1000"
    among = f" in the category '{category}'" if category else ""
    notes = [
        f"Bradley–Terry, 400/ln 10 points for one unit of log-odds, {scale}; {len(table.outcome)} votes{among}, "
        "a tie or both bad being half a win.",
        f"Intervals of {100 * confidence:g} % ({how}); rank is 1 + the number of models that are surely better.",
    ]
    if cluster:
        notes.append(f"Votes with the same '{cluster}' are not taken for independent.")
    if weight_pairs:
        notes.append("Each vote counts 1/max(votes of its pair, 50).")
    if table.feature_names:
        notes.append("Taken out of the ratings: " + ", ".join(table.feature_names) + ".")
    if found.prior:
        notes.append(f"Regularised by a normal prior of precision {found.prior:g}.")
    if found.separated:
        notes.append("Won or lost every vote against the rest, so rated by the prior: " + ", ".join(found.separated))
    if len(found.groups) > 1:
        listed = "; ".join(", ".join(group) for group in found.groups)
        notes.append(f"No vote connects these groups, so their ratings can't be compared: {listed}.")
    return notes


def _print(board: dict[str, Any], notes: list[str], confidence: float) -> None:
    rows = board["ratings"]
    width = max(5, *(len(row["model"]) for row in rows))
    print(f"rank  {'model':<{width}}  rating  {f'{100 * confidence:g} % interval':>16}   votes")
    for row in rows:
        interval = f"{row['lower']:.0f} to {row['upper']:.0f}"
        print(f"{row['rank']:>4}  {row['model']:<{width}}  {row['rating']:>6.0f}  {interval:>16}  {row['votes']:>6}")
    if board["features"]:
        print("\npoints for one standard deviation more on side a:")
        for name, value in board["features"].items():
            print(f"  {name:<{width}}  {value:+.1f}")
    print()
    for note in notes:
        print(note)

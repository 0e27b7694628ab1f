"""`qwill arena rate`: a leaderboard from a file of votes."""

from __future__ import annotations

import json

from qwill.base.errors import ConfigError
from qwill.evaluate.arena_small import POINTS, SmallRatings, rate_small
from qwill.evaluate.arena_table import VoteTable, read_votes

TYPE_CHECKING = False  # `typing` would take longer to import than the rest
if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from typing import Any

    from qwill.evaluate.arena import Ratings


ALIKE = 1e-3  # rating points: an interval that only rounding keeps open


def rate(
    votes: str | PathLike[str],
    style: bool = False,
    features: Sequence[str] = (),
    anchor: str | None = None,
    bootstrap: int | None = None,
    category: str | None = None,
    cluster: str | None = None,
    weight_pairs: bool = False,
    prior: float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
    as_json: bool = False,
) -> int:
    """Print the leaderboard; raises DataError and ConfigError, each with one sentence."""
    place = _anchor(anchor)
    table = read_votes(votes, style=style, features=features, cluster=cluster, category=category)
    plain = not (style or features or cluster or bootstrap or weight_pairs or prior)
    found = rate_small(table.model_a, table.model_b, table.outcome, confidence) if plain else None
    if found is not None and place is None:
        board = _board(table, found, found.points, found.battles)
    else:
        board = _fitted(table, place, weight_pairs, prior, bootstrap, seed, confidence)
    how = f"{bootstrap} resamples of {'clusters' if cluster else 'votes'}" if bootstrap else "sandwich"
    notes = _notes(table, board, how, cluster, category, confidence, place, weight_pairs, prior)
    if as_json:
        print(json.dumps(board | {"confidence": confidence, "notes": notes}, indent=2, ensure_ascii=False))
    else:
        _print(board, notes, confidence)
    return 0


def _fitted(
    table: VoteTable,
    place: tuple[str, float] | None,
    weight_pairs: bool,
    prior: float,
    bootstrap: int | None,
    seed: int,
    confidence: float,
) -> dict[str, Any]:
    """The leaderboard by NumPy: with weights, features, clusters, a prior, an anchor, or many models."""
    from qwill.evaluate.arena import anchored, fit_ratings, pair_weights, win_matrix

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
    _, points, battles = win_matrix(table.model_a, table.model_b, table.outcome)
    board = _board(table, found, points.tolist(), battles.tolist())
    effects = zip(table.feature_names, found.coefficients, strict=True)
    board["features"] = {name: float(POINTS * value) for name, value in effects}
    return board | {"separated": found.separated, "groups": found.groups}


def _board(
    table: VoteTable, found: Ratings | SmallRatings, points: list[list[float]], battles: list[list[int]]
) -> dict[str, Any]:
    """What is printed as JSON: the models best first, coefficients in points, and the matrix of wins."""
    separated = () if isinstance(found, SmallRatings) else found.separated
    rows = [
        {
            "rank": int(found.rank[i]),
            "model": model,
            "rating": float(found.rating[i]),
            "lower": float(found.lower[i]),
            "upper": float(found.upper[i]),
            "stderr": float(found.stderr[i]),
            "votes": sum(battles[i]),
            "points": sum(points[i]),
            "separated": model in separated,
        }
        for i, model in enumerate(found.models)
    ]
    return {
        "ratings": sorted(rows, key=lambda row: (-row["rating"], row["model"])),
        "features": {},
        "separated": [],
        "groups": [list(found.models)],
        "win_matrix": {"models": list(found.models), "points": points, "battles": battles},
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
    board: dict[str, Any],
    how: str,
    cluster: str | None,
    category: str | None,
    confidence: float,
    place: tuple[str, float] | None,
    weight_pairs: bool,
    prior: float,
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
    if any(row["stderr"] < ALIKE for row in board["ratings"]):
        notes.append("An interval without width comes from votes that are all alike, such as ties; it is no certainty.")
    if prior:
        notes.append(f"Regularised by a normal prior of precision {prior:g}.")
    if board["separated"]:
        notes.append("Won or lost every vote against the rest, so rated by the prior: " + ", ".join(board["separated"]))
    if len(board["groups"]) > 1:
        listed = "; ".join(", ".join(group) for group in board["groups"])
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

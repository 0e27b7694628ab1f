"""Leaderboards from a log of votes: which votes count, who stands where, and how that came about.

All of it is a pure function of the votes in their order, so that a log replayed anywhere gives the same ratings to the
last bit. What does not count (a reply that said who it was, voters who seem to act together) is kept in the log, and is
said. Whether votes under suspicion count is for the caller to choose; the same log gives the same answer either way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from qwill.base.errors import DataError
from qwill.evaluate.arena_style import STYLE
from qwill.evaluate.coordination import Suspicion, suspicions
from qwill.evaluate.votes import Vote

ALL = "all"
POINTS = 40  # of a history at most
Note = dict[str, str]  # language → sentence


@dataclass(frozen=True)
class Counted:
    """The votes that count; how many do not, by reason; who is under suspicion, and whether that leaves votes out."""

    votes: list[Vote]
    set_aside: dict[str, int]
    suspicions: tuple[Suspicion, ...] = ()
    leave_out: bool = True

    @property
    def blind(self) -> int:
        return len(self.votes) + self.set_aside["coordinated"]

    @property
    def rings(self) -> frozenset[str]:
        """The voters under suspicion."""
        return frozenset(voter for one in self.suspicions for voter in one.voters)


def counted(votes: Sequence[Vote], leave_out: bool = True) -> Counted:
    """Leave out votes that were not blind and, unless `leave_out` is false, those of voters who seem to act together.

    Who acts together is looked for at a few lengths of the log only (`checkpoint`), as a function of the log must be
    that is asked for after each vote.
    """
    blind = [vote for vote in votes if not vote.leaks]
    found = tuple(suspicions(blind[: checkpoint(len(blind))]))
    return with_votes(Counted([], {"leak": 0, "coordinated": 0}, found, leave_out), votes)


def with_votes(found: Counted, added: Sequence[Vote]) -> Counted:
    """`counted` of these votes too, where that many more don't reach the next `checkpoint`; in place of the old."""
    out = found.rings if found.leave_out else frozenset[str]()
    kept = [vote for vote in added if not vote.leaks and vote.voter not in out]
    found.votes.extend(kept)
    leaks = sum(1 for vote in added if vote.leaks)
    aside = {"leak": leaks, "coordinated": len(added) - leaks - len(kept)}
    return replace(found, set_aside={why: n + aside[why] for why, n in found.set_aside.items()})


def checkpoint(count: int) -> int:
    """The greatest of 50, 100, … 1000 and then steps of 5 % that `count` has reached."""
    if count < 1000:
        return count // 50 * 50
    step = int(math.log(count / 1000) / math.log(1.05))
    found = 1000
    for power in (step, step + 1):  # the logarithm may round either way
        if (length := round(1000 * 1.05**power)) <= count:
            found = length
    return found


def standings(
    found: Counted, models: Sequence[str], category: str = ALL, prior: float = 0.1, style: bool = False
) -> dict[str, Any]:
    """The leaderboard of one category: ratings, best first, then the models without one; the matrix of wins; notes.

    models: those that take part, whether votes name them or not. style: ratings without what length, headings, bold and
    lists of the replies do by themselves (`style_effects`: log-odds for one standard deviation of each). Raises
    DataError for a category that no vote has.
    """
    from qwill.evaluate.arena import win_matrix

    sizes = Counter(name for vote in found.votes for name in vote.categories)
    if category != ALL and category not in sizes:
        raise DataError(f"category: no vote has {category!r:.50}; choose from {', '.join([ALL, *sorted(sizes)])}.")
    votes = [vote for vote in found.votes if category in (ALL, *vote.categories)]
    named = sorted({name for vote in votes for name in (vote.model_a, vote.model_b)})
    rated, notes, effects = _rated(votes, prior, style)
    scores = {name: Counter[float]() for name in named}
    for vote in votes:
        scores[vote.model_a][vote.points] += 1
        scores[vote.model_b][1 - vote.points] += 1
    rows = []
    for name in sorted({*named, *models}):
        own = scores.get(name, Counter())
        counts = {"votes": own.total(), "wins": own[1.0], "ties": own[0.5], "losses": own[0.0]}
        unrated = {"rank": None, "rating": None, "lower": None, "upper": None}
        rows.append({"model": name, **rated.get(name, unrated), **counts})
    rows.sort(key=lambda row: (row["rating"] is None, -(row["rating"] or 0), row["model"]))
    if votes:
        matrix = win_matrix([v.model_a for v in votes], [v.model_b for v in votes], [v.points for v in votes])
        shown = {"models": matrix[0], "points": matrix[1].tolist(), "battles": matrix[2].tolist()}
    else:
        shown = {"models": named, "points": [], "battles": []}
    return {
        "category": category, "ratings": rows, "matrix": shown, "votes": len(votes),
        "categories": {ALL: len(found.votes)} | dict(sorted(sizes.items())), "set_aside": found.set_aside,
        "notes": notes + _aside(found), "style": style, "style_effects": effects,
        "suspicions": [asdict(one) | {"voters": len(one.voters)} for one in found.suspicions],
    }  # fmt: skip


def history(votes: Sequence[Vote], prior: float = 0.1) -> list[dict[str, Any]]:
    """Ratings after 1/40, 2/40, … of the votes that count: what each leaderboard would have said then."""
    lengths = sorted({math.ceil(len(votes) * step / POINTS) for step in range(1, POINTS + 1)} - {0})
    points = []
    for length in lengths:
        rated = _rated(votes[:length], prior)[0]
        short = {name: {key: row[key] for key in ("rating", "lower", "upper")} for name, row in rated.items()}
        points.append({"votes": length, "time": votes[length - 1].time / 1000, "ratings": short})
    return points


def _rated(
    votes: Sequence[Vote], prior: float, style: bool = False
) -> tuple[dict[str, dict[str, Any]], list[Note], dict[str, float]]:
    """Ratings by model, notes, and what style does by itself."""
    from qwill.evaluate.arena import fit_ratings, style_features

    if not votes:
        return {}, [{"en": "No votes yet.", "zh": "还没有投票。"}], {}
    notes: list[Note] = []
    used = [vote for vote in votes if vote.style is not None] if style else list(votes)
    if short := len(votes) - len(used):
        notes.append({"en": f"{short} votes have no counts of style, and are left out of these ratings.",
                      "zh": f"{short} 票没有风格统计，未计入这里的评分。"})  # fmt: skip
    if not used:
        return {}, notes, {}
    counts = [vote.style for vote in used if vote.style is not None]
    features = style_features([a for a, _ in counts], [b for _, b in counts]) if style else None
    try:
        found = fit_ratings(
            [v.model_a for v in used], [v.model_b for v in used], [v.points for v in used], features, prior=prior
        )
    except DataError as error:
        return {}, [*notes, {"en": f"No ratings: {error}", "zh": f"无法评分：{error}"}], {}
    rated = {
        name: {"rank": int(rank), "rating": float(rating), "lower": float(lower), "upper": float(upper)}
        for name, rank, rating, lower, upper in zip(
            found.models, found.rank, found.rating, found.lower, found.upper, strict=True
        )
    }
    if len(found.groups) > 1:
        groups = "; ".join(", ".join(group) for group in found.groups)
        notes.append({"en": f"No vote connects these groups, so their ratings can't be compared: {groups}.",
                      "zh": f"以下各组之间没有投票相连，评分不能相互比较：{groups}。"})  # fmt: skip
    if found.separated:
        names = ", ".join(found.separated)
        notes.append({"en": f"Won or lost every vote against the rest, so rated by the prior ({prior:g}): {names}.",
                      "zh": f"对其余模型全胜或全败，评分由先验（{prior:g}）决定：{names}。"})  # fmt: skip
    return rated, notes, dict(zip(STYLE, found.coefficients.tolist(), strict=False))


def _aside(found: Counted) -> list[Note]:
    notes = []
    if leaks := found.set_aside["leak"]:
        notes.append({"en": f"{leaks} votes don't count: a reply said which model it was.",
                      "zh": f"{leaks} 票未计入：回答透露了模型身份。"})  # fmt: skip
    if rings := found.set_aside["coordinated"]:
        notes.append({"en": f"{rings} votes don't count: their voters seem to act together.",
                      "zh": f"{rings} 票未计入：投票者疑似串通。"})  # fmt: skip
    elif who := found.rings:
        votes = sum(vote.voter in who for vote in found.votes)
        notes.append({"en": f"{votes} votes are of voters who seem to act together; they count here.",
                      "zh": f"{votes} 票的投票者疑似串通，这里仍然计入。"})  # fmt: skip
    return notes

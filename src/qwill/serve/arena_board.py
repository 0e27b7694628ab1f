"""The log of votes in memory, for leaderboards and the choice of pairs: what was appended since is read before each
answer, so that several servers on one database agree."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwill.base.state import State, reading
from qwill.evaluate.arena import CENTRE, POINTS
from qwill.evaluate.arena_online import LiveRatings, add_model, add_vote, live_ratings, start_ratings
from qwill.evaluate.arena_pairing import next_pair
from qwill.evaluate.arena_standings import Counted, checkpoint, counted, history, standings, with_votes
from qwill.evaluate.votes import Vote, replay, vote_of
from qwill.serve.arena_log import log_entries

if TYPE_CHECKING:
    import numpy as np

LIVE_PRIOR = 0.1  # of ratings that follow each vote: they need one
REMEMBERED = 10_000  # votes of which it is still known what they changed
FEW = 200  # new votes that are taken in one by one

Changes = dict[str, dict[str, float | None]]


@dataclass
class Board:
    """One tenant's votes. Any thread may use it; what it says is what a replay of the whole log says."""

    state: State
    tenant: str
    prior: float
    leave_out: bool = True  # votes of those under suspicion
    votes: list[Vote] = field(default_factory=list)
    last: int = 0  # the log's newest entry that is in `votes`
    lock: threading.Lock = field(default_factory=threading.Lock)
    _counted: Counted = field(init=False)
    _live: LiveRatings | None = None
    _changes: dict[str, Changes] = field(default_factory=dict)
    _answers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._counted = counted([], self.leave_out)

    def leaderboard(self, models: Sequence[str], category: str, style: bool = False) -> dict[str, Any]:
        """Raises DataError for a category that no vote has."""
        with self.lock:
            self._refresh()
            key = f"leaderboard/{style}/{category}/{'/'.join(models)}"
            if key not in self._answers:
                found = standings(self._counted, models, category, self.prior, style)
                self._answers[key] = found | {"through": self.last}
            return self._answers[key]

    def history(self) -> dict[str, Any]:
        with self.lock:
            self._refresh()
            if "history" not in self._answers:
                self._answers["history"] = {"points": history(self._counted.votes, self.prior), "through": self.last}
            return self._answers["history"]

    def count(self) -> int:
        with self.lock:
            self._refresh()
            return len(self.votes)

    def changes(self, identity: str) -> Changes:
        """What a vote did to the ratings of its two models: {model: {before, after}}; {} for one that doesn't count, or
        that was cast long ago."""
        with self.lock:
            self._refresh()
            return self._changes.get(identity, {})

    def next_pair(self, models: Sequence[str], generator: np.random.Generator) -> tuple[str, str]:
        """The two of these models whose vote would tell most, sides drawn."""
        with self.lock:
            self._refresh()
            self._live = _with_models(self._live, models)
            return next_pair(self._live, generator, among=list(models))

    def _refresh(self) -> None:
        with reading(self.state) as connection:
            new = log_entries(connection, self.tenant, self.last)
            plain = len(new) <= FEW and all(entry["kind"] == "vote" and entry["deleted"] is None for entry in new)
            whole = [] if plain or not new else log_entries(connection, self.tenant)
        if not new:
            return
        self.last = new[-1]["sequence"]
        self._answers.clear()
        if not plain:  # something was erased, or the server has just begun
            self.votes = replay(whole)
            self._afresh()
            return
        # The database lets nobody vote twice on a battle, which is all that a replay would check besides.
        added = [vote_of(entry) for entry in new]
        self.votes += added
        blind = self._counted.blind
        for vote in added:
            self._changes[vote.id] = {}
        while len(self._changes) > REMEMBERED:
            del self._changes[next(iter(self._changes))]
        before = len(self._counted.votes)
        self._counted = with_votes(self._counted, added)
        for vote in self._counted.votes[before:]:
            self._follow(vote)
        if checkpoint(blind) != checkpoint(self._counted.blind):
            self._afresh()

    def _afresh(self) -> None:
        self._counted = counted(self.votes, self.leave_out)
        votes = self._counted.votes
        names = [] if self._live is None else self._live.models
        if votes:
            a, b = [vote.model_a for vote in votes], [vote.model_b for vote in votes]
            self._live = live_ratings(a, b, [vote.points for vote in votes], LIVE_PRIOR, names)
        else:
            self._live = start_ratings(names, LIVE_PRIOR) if names else None

    def _follow(self, vote: Vote) -> None:
        pair = (vote.model_a, vote.model_b)
        live = _with_models(self._live, pair)
        self._live = add_vote(live, *pair, vote.points)
        before, after = _ratings(live), _ratings(self._live)
        self._changes[vote.id] = {name: {"before": before[name], "after": after[name]} for name in pair}


def _ratings(live: LiveRatings) -> dict[str, float]:
    return dict(zip(live.models, (CENTRE + POINTS * live.strength).tolist(), strict=True))


def _with_models(live: LiveRatings | None, models: Sequence[str]) -> LiveRatings:
    if live is None:
        return start_ratings(sorted(models), LIVE_PRIOR)
    for name in sorted(set(models) - set(live.models)):
        live = add_model(live, name)
    return live

"""The log of votes in memory, for leaderboards: what was appended since is read before each answer."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from qwill.base.errors import DataError
from qwill.base.state import State, reading
from qwill.evaluate.arena_standings import Counted, counted, history, quick_ratings, standings
from qwill.evaluate.votes import Vote, replay
from qwill.serve.arena_log import log_entries


@dataclass
class Board:
    """One tenant's votes. Any thread may use it; what it says is what a replay of the whole log would say."""

    state: State
    tenant: str
    prior: float
    votes: list[Vote] = field(default_factory=list)
    last: int = 0  # the log's newest entry that is in `votes`
    lock: threading.Lock = field(default_factory=threading.Lock)
    _counted: Counted | None = None
    _answers: dict[str, Any] = field(default_factory=dict)

    def leaderboard(self, models: Sequence[str], category: str) -> dict[str, Any]:
        """Raises DataError for a category that no vote has."""
        with self.lock:
            found = self._refresh()
            key = f"leaderboard/{category}/{'/'.join(models)}"
            if key not in self._answers:
                self._answers[key] = standings(found, models, category, self.prior) | {"through": self.last}
            return self._answers[key]

    def history(self) -> dict[str, Any]:
        with self.lock:
            found = self._refresh()
            if "history" not in self._answers:
                self._answers["history"] = {"points": history(found.votes, self.prior), "through": self.last}
            return self._answers["history"]

    def count(self) -> int:
        with self.lock:
            self._refresh()
            return len(self.votes)

    def changes(self, identity: str) -> dict[str, dict[str, float | None]]:
        """What a vote did to the ratings of its two models: {model: {before, after}}; {} for one that doesn't count."""
        with self.lock:
            found = self._refresh().votes
        own = next((vote for vote in reversed(found) if vote.id == identity), None)
        if own is None:
            return {}
        earlier = [vote for vote in found if vote.sequence < own.sequence]
        before, after = quick_ratings(earlier, self.prior), quick_ratings([*earlier, own], self.prior)
        return {name: {"before": before.get(name), "after": after.get(name)} for name in (own.model_a, own.model_b)}

    def next_pair(self, models: Sequence[str], rng: random.Random) -> tuple[str, str]:
        """Two of the models in random order: a pair that has met least."""
        with self.lock:
            self._refresh()
            met = Counter(frozenset((vote.model_a, vote.model_b)) for vote in self.votes)
        pairs = list(combinations(sorted(models), 2))
        rng.shuffle(pairs)
        pair = list(min(pairs, key=lambda pair: met[frozenset(pair)]))
        rng.shuffle(pair)
        return pair[0], pair[1]

    def _refresh(self) -> Counted:
        with reading(self.state) as connection:
            new = log_entries(connection, self.tenant, self.last)
        if new:
            try:
                self.votes = replay(new, self.votes)
            except DataError:
                # An erasure of what this process has read emptied, or never: only the whole log tells.
                with reading(self.state) as connection:
                    new = log_entries(connection, self.tenant)
                self.votes = replay(new)
            self.last = new[-1]["sequence"]
            self._answers.clear()
        if new or self._counted is None:
            self._counted = counted(self.votes)
        return self._counted

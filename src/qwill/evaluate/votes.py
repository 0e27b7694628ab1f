"""The log of votes: an append-only list of entries, each sealed to the one before it; replaying it gives the votes.

An entry is a vote or an erasure, which names the vote that is to be forgotten. What was erased is gone (a tombstone
stays, emptied of who voted and how), and a replay honours an erasure also where it still finds the vote, as in an old
copy. Each entry commits to its content with a hash over a random salt, and the hashes form a chain (Haber & Stornetta
1991, "How to time-stamp a digital document"): nothing can be changed, taken out or put in unnoticed, while what was
erased with its salt can't be guessed from its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwill.base.errors import DataError
from qwill.base.files import canonical_json

OUTCOMES: dict[str, float] = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
BEGINNING = "0" * 64  # what the first entry is sealed to

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Vote:
    """`time`: Unix milliseconds. `leaks`: why it can't count (a reply said who it was), empty for most. `address`: the
    voter's network address under a keyed hash. `style`: what style features count in reply a and reply b. `prompt`: the
    prompt under a keyed hash, the same for all who asked it."""

    id: str
    sequence: int
    time: int
    battle: str
    voter: str
    outcome: str
    model_a: str
    model_b: str
    language: str = "other"
    categories: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()
    consent: bool = False
    address: str = ""
    style: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    prompt: str = ""

    @property
    def points(self) -> float:
        """What model a won: 1, 0, or 0.5 for a tie and both bad."""
        return OUTCOMES[self.outcome]


def commitment(entry: Entry) -> str:
    """The hash of what an erasure would take away, and its salt."""
    content = {name: entry[name] for name in ("id", "created", "battle", "voter", "outcome", "body", "salt")}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def seal(previous: str, entry: Entry) -> str:
    """The chain's hash at an entry, from that of the one before."""
    link = {name: entry[name] for name in ("sequence", "kind", "id", "erases", "commitment")}
    return hashlib.sha256(previous.encode() + canonical_json(link)).hexdigest()


def check_chain(entries: Iterable[Entry]) -> str:
    """The hash of the last entry of a whole log: who has noted it can tell that the log is the same later on.

    Raises DataError naming the first entry that is missing, moved or changed.
    """
    last = BEGINNING
    for number, entry in enumerate(entries, start=1):
        if entry["sequence"] != number:
            raise DataError(f"votes: entry {number} of the log is missing (found {entry['sequence']} in its place).")
        emptied = entry["deleted"] is not None
        if (not emptied and commitment(entry) != entry["commitment"]) or seal(last, entry) != entry["chain"]:
            raise DataError(f"votes: entry {number} of the log was changed after it was written.")
        last = entry["chain"]
    return last


def replay(entries: Iterable[Entry], votes: Iterable[Vote] = ()) -> list[Vote]:
    """The votes that stand, in the order in which they were cast; `votes` are those of the entries before.

    Raises DataError for entries out of order, an outcome that is none, a model against itself, two votes of one voter
    on one battle, and an erasure of what never was.
    """
    standing = {vote.id: vote for vote in votes}
    once = {(vote.battle, vote.voter) for vote in standing.values()}
    gone: set[str] = set()
    last = max((vote.sequence for vote in standing.values()), default=0)
    for entry in entries:
        if entry["sequence"] <= last:
            raise DataError(f"votes: entry {entry['sequence']} comes after entry {last}; give the log in its order.")
        last = entry["sequence"]
        if entry["kind"] == "erasure":
            erased = standing.pop(entry["erases"], None)
            if erased is not None:
                once.discard((erased.battle, erased.voter))
            elif entry["erases"] not in gone:
                raise DataError(f"votes: entry {last} erases {entry['erases']}, which is no vote before it.")
        elif entry["deleted"] is not None:
            gone.add(entry["id"])
        else:
            vote = vote_of(entry)
            if (vote.battle, vote.voter) in once:
                raise DataError(f"votes: entry {last} is a second vote of one voter on battle {vote.battle}.")
            once.add((vote.battle, vote.voter))
            standing[vote.id] = vote
    return list(standing.values())


def vote_of(entry: Entry) -> Vote:
    """An entry as a vote. Raises DataError naming the entry and the field."""
    where, body = f"votes: entry {entry['sequence']}", entry["body"]
    if entry["outcome"] not in OUTCOMES:
        raise DataError(f"{where}: outcome {entry['outcome']!r}; expected one of {', '.join(OUTCOMES)}.")
    for side in ("model_a", "model_b"):
        if not isinstance(body.get(side), str) or not body[side]:
            raise DataError(f"{where}: {side} is {body.get(side)!r}; expected a model's name.")
    if body["model_a"] == body["model_b"]:
        raise DataError(f"{where}: {body['model_a']!r} against itself; expected two models.")
    style = body.get("style")
    return Vote(
        id=entry["id"], sequence=entry["sequence"], time=entry["created"], battle=entry["battle"],
        voter=entry["voter"], outcome=entry["outcome"], model_a=body["model_a"], model_b=body["model_b"],
        language=body.get("language", "other"), categories=tuple(body.get("categories", ())),
        leaks=tuple(body.get("leaks", ())), consent=bool(body.get("consent")), address=body.get("address", ""),
        style=None if style is None else (tuple(style[0]), tuple(style[1])), prompt=body.get("prompt", ""),
    )  # fmt: skip


def pair_counts(votes: Sequence[Vote]) -> dict[tuple[str, str], dict[float, int]]:
    """(model a, model b) → points of a → votes: all that ratings without style depend on."""
    counts: dict[tuple[str, str], dict[float, int]] = {}
    for vote in votes:
        pair = counts.setdefault((vote.model_a, vote.model_b), {})
        pair[vote.points] = pair.get(vote.points, 0) + 1
    return counts

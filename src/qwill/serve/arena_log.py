"""The arena in the state database: battles, and the log of votes (evaluate/votes.py says what a log is).

One vote a battle and voter: a constraint of the database, so that nothing that goes wrong elsewhere can break it.
Writers come one after another, which numbers the log without gaps; a vote is in it before it is acknowledged.
"""

from __future__ import annotations

import secrets as randomness
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from qwill.base.errors import DataError
from qwill.base.ids import uuid7
from qwill.base.state import State, reading, writing
from qwill.base.state_rows import Row, Transaction, delete, get, insert, metadata, rows, table, unstorable, update
from qwill.evaluate.votes import BEGINNING, OUTCOMES, commitment, seal

Side = Literal["a", "b"]
SIDES: tuple[Side, Side] = ("a", "b")
_AT_ONCE = 200  # battles purged in one transaction

# Without the columns of other tables and never in the outbox: other nodes must not learn it.
secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("value", sa.String(128), nullable=False),
)

battles = table(
    "battles",
    sa.Column("asker", sa.String(40), nullable=False),
    sa.Column("language", sa.String(16), nullable=False),
    sa.Column("messages", sa.JSON, nullable=False),
    sa.Column("model_a", sa.Text, nullable=False),
    sa.Column("model_b", sa.Text, nullable=False),
    sa.Column("reply_a", sa.JSON(none_as_null=True)),
    sa.Column("reply_b", sa.JSON(none_as_null=True)),
    # A battle of several turns: the replies of each earlier one, and what was `asked` next.
    sa.Column("earlier", sa.JSON, nullable=False),
    emptied={"asker": "", "messages": [], "reply_a": None, "reply_b": None, "earlier": []},
)
sa.Index("battles_asker", battles.c.tenant, battles.c.asker)

votes = table(
    "votes",
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),
    sa.Column("battle", sa.String(36), sa.ForeignKey("battles.id")),
    sa.Column("voter", sa.String(40)),
    sa.Column("outcome", sa.String(8)),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("erases", sa.String(36)),
    sa.Column("salt", sa.String(32)),
    sa.Column("commitment", sa.String(64), nullable=False),
    sa.Column("chain", sa.String(64), nullable=False),
    sa.UniqueConstraint("tenant", "sequence", name="votes_sequence"),
    sa.UniqueConstraint("battle", "voter", name="votes_once"),
    emptied={"voter": None, "outcome": None, "body": {}, "salt": None},
)
sa.Index("votes_voter", votes.c.tenant, votes.c.voter)


class VoteRefused(DataError):
    """A vote or turn refused; `code`: unknown_battle, not_yours, not_finished, already_voted, other_turn."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Cast:
    """A vote's row in the log and its battle; `repeated`: it had been there already."""

    vote: Row
    battle: Row
    repeated: bool


def server_secret(state: State, name: str = "arena") -> bytes:
    """256 random bits that belong to this database and are made when first asked for."""
    query = sa.select(secrets.c.value).where(secrets.c.name == name)
    with reading(state) as connection:
        found = connection.execute(query).scalar_one_or_none()
    if found is None:
        with writing(state) as db:
            found = db.connection.execute(query).scalar_one_or_none()  # another process may have been quicker
            if found is None:
                found = randomness.token_hex(32)
                db.connection.execute(secrets.insert().values(name=name, value=found))
    return bytes.fromhex(found)


def new_battle(
    state: State, tenant: str, asker: str, language: str, messages: Sequence[Mapping[str, Any]], a: str, b: str
) -> Row:
    """`messages` are what both models answer; which stands on side a was drawn by the caller."""
    values = {
        "asker": asker, "language": language, "messages": [dict(message) for message in messages], "model_a": a,
        "model_b": b,
        "earlier": [],
    }  # fmt: skip
    with writing(state) as db:
        return insert(db, battles, tenant, values)


def find_battle(state: State, tenant: str, identity: str, voter: str) -> Row:
    """Raises VoteRefused for a battle that isn't there, or that somebody else has begun: who has not asked may have
    heard which models they are."""
    with reading(state) as connection:
        return _battle(connection, tenant, identity, voter)


def find_vote(state: State, tenant: str, identity: str, voter: str) -> Row | None:
    """The voter's vote on a battle, if it stands."""
    with reading(state) as connection:
        return _vote_on(connection, tenant, identity, voter)


def _battle(connection: sa.Connection, tenant: str, identity: str, voter: str) -> Row:
    found = get(connection, battles, tenant, identity)
    if found is None:
        raise VoteRefused("unknown_battle", f"There is no battle {identity} here; it may have been erased.")
    if found["asker"] != voter:
        raise VoteRefused("not_yours", f"The battle {identity} was begun by somebody else; begin one of your own.")
    return found


def _vote_on(connection: sa.Connection, tenant: str, identity: str, voter: str) -> Row | None:
    living = rows(connection, votes, tenant, votes.c.battle == identity, votes.c.voter == voter)
    return living[0] if living else None


def turn_of(battle: Row) -> int:
    """The number of the turn that a battle is in, from 1 on."""
    return len(battle["earlier"]) + 1


def said_to(battle: Row, side: Side) -> list[dict[str, Any]]:
    """The messages that one side's model answers: with its own earlier replies."""
    messages = [dict(message) for message in battle["messages"]]
    for turn in battle["earlier"]:
        messages.append({"role": "assistant", "content": turn[f"reply_{side}"]["content"]})
        messages.append({"role": "user", "content": turn["asked"]})
    return messages


def asked_in(battle: Row) -> list[str]:
    """All that the user has said."""
    said = [str(message["content"]) for message in battle["messages"] if message["role"] == "user"]
    return said + [str(turn["asked"]) for turn in battle["earlier"]]


def replies_of(battle: Row, side: Side) -> list[Row]:
    """The replies of one side that are whole, first to last."""
    found = [turn[f"reply_{side}"] for turn in battle["earlier"]]
    return found if battle[f"reply_{side}"] is None else [*found, battle[f"reply_{side}"]]


def next_turn(state: State, tenant: str, identity: str, voter: str, turn: int, asked: str) -> Row:
    """Go on with a battle that nobody has voted on: `turn` is the number that this gets, 2 or more. The same turn again
    is the one that is there. Raises VoteRefused."""
    with writing(state) as db:
        battle = _battle(db.connection, tenant, identity, voter)
        if _vote_on(db.connection, tenant, identity, voter) is not None:
            raise VoteRefused("already_voted", "You have voted on this battle; begin a new one.")
        now = turn_of(battle)
        if turn == now > 1 and battle["earlier"][-1]["asked"] == asked:
            return battle
        if turn != now + 1:
            raise VoteRefused("other_turn", f"The battle is in turn {now}; the next is {now + 1}, not {turn}.")
        if any(battle[f"reply_{side}"] is None for side in SIDES):
            raise VoteRefused("not_finished", "Both replies must be there before you go on; wait for their end.")
        done = {"reply_a": battle["reply_a"], "reply_b": battle["reply_b"], "asked": asked}
        values = {"earlier": [*battle["earlier"], done], "reply_a": None, "reply_b": None}
        changed = update(db, battles, tenant, identity, values)
        assert changed is not None  # it was there in this transaction
        return changed


def save_reply(state: State, tenant: str, identity: str, side: Side, reply: Mapping[str, Any], turn: int = 1) -> None:
    """Keep the whole reply of one side in a turn; the first that is kept stays, and none comes into another turn."""
    with writing(state) as db:
        found = get(db.connection, battles, tenant, identity)
        if found is not None and found[f"reply_{side}"] is None and turn_of(found) == turn:
            update(db, battles, tenant, identity, {f"reply_{side}": dict(reply)})


def cast_vote(state: State, tenant: str, identity: str, voter: str, outcome: str, body: Mapping[str, Any]) -> Cast:
    """Append a vote. The same vote again is the one that is there: who got no answer may ask again.

    body: what else the log keeps of it, JSON (consent, address, leaks, categories); the models are added here. Raises
    VoteRefused; when this returns, the vote is on the disk.
    """
    if outcome not in OUTCOMES:
        raise DataError(f"outcome: {outcome!r:.50}; expected one of {', '.join(OUTCOMES)}.")
    battle = find_battle(state, tenant, identity, voter)
    if any(battle[f"reply_{side}"] is None for side in SIDES):
        raise VoteRefused("not_finished", "Both replies must be there before one is voted for; wait for their end.")
    whole = {"model_a": battle["model_a"], "model_b": battle["model_b"], "language": battle["language"], **body}
    with writing(state) as db:
        standing = _vote_on(db.connection, tenant, identity, voter)
        if standing is not None:
            if standing["outcome"] != outcome:
                raise VoteRefused("already_voted", "You have voted on this battle already, and that vote stands.")
            return Cast(standing, battle, True)
        there = _battle(db.connection, tenant, identity, voter)  # it may have been erased, or gone on, a moment ago
        if turn_of(there) != turn_of(battle):
            raise VoteRefused("not_finished", "The battle has gone on meanwhile; wait for the end of both replies.")
        content = {"battle": identity, "voter": voter, "outcome": outcome, "body": whole}
        return Cast(_append(db, tenant, "vote", content | {"salt": randomness.token_hex(16)}), battle, False)


def erase(state: State, tenant: str, voter: str) -> int:
    """Forget what a voter has asked and voted; returns how many votes. The log gets an entry for each of them."""
    with writing(state) as db:
        mine = rows(db.connection, votes, tenant, votes.c.voter == voter)
        for vote in mine:
            _append(db, tenant, "erasure", {"erases": vote["id"], "body": {}})
            delete(db, votes, tenant, vote["id"])
        for battle in rows(db.connection, battles, tenant, battles.c.asker == voter):
            delete(db, battles, tenant, battle["id"])
    return len(mine)


def purge(state: State, before: int, tenant: str | None = None) -> int:
    """Forget battles without a vote that nothing has happened in since `before` (Unix milliseconds); returns how many.

    They are in no entry of the log, so that replays stay what they are; a tombstone says that there was one. A battle
    that somebody voted on stays, also when the vote was erased from another copy.
    """
    voted = sa.select(votes.c.id).where(votes.c.battle == battles.c.id).exists()
    query = sa.select(battles.c.tenant, battles.c.id).where(
        battles.c.deleted.is_(None), battles.c.changed < before, ~voted
    )
    if tenant is not None:
        query = query.where(battles.c.tenant == tenant)
    count = 0
    while True:
        with writing(state) as db:  # a few at a time: voters wait meanwhile
            found = db.connection.execute(query.order_by(battles.c.id).limit(_AT_ONCE)).all()
            for row in found:
                delete(db, battles, row.tenant, row.id)
        count += len(found)
        if len(found) < _AT_ONCE:
            return count


def log_entries(connection: sa.Connection, tenant: str, after: int = 0) -> list[Row]:
    """The log's entries behind number `after`, tombstones too."""
    query = votes.select().where(votes.c.tenant == tenant, votes.c.sequence > after).order_by(votes.c.sequence)
    return [dict(row._mapping) for row in connection.execute(query)]


def erased_among(connection: sa.Connection, tenant: str, after: int) -> list[str]:
    """Ids of the votes that entries behind number `after` erase."""
    query = sa.select(votes.c.erases).where(
        votes.c.tenant == tenant, votes.c.sequence > after, votes.c.kind == "erasure"
    )
    return [str(found) for found in connection.execute(query).scalars()]


def votes_of(state: State, tenant: str, voter: str) -> int:
    """How many votes of a voter stand."""
    query = sa.select(sa.func.count()).where(votes.c.tenant == tenant, votes.c.voter == voter)
    with reading(state) as connection:
        return connection.execute(query).scalar_one()


def _append(db: Transaction, tenant: str, kind: str, content: Mapping[str, Any]) -> Row:
    query = sa.select(votes.c.sequence, votes.c.chain).where(votes.c.tenant == tenant).order_by(votes.c.sequence.desc())
    last = db.connection.execute(query.limit(1)).one_or_none()
    number, before = (0, BEGINNING) if last is None else (last.sequence, last.chain)
    entry: Row = {name: None for name in ("battle", "voter", "outcome", "erases", "salt")}
    entry |= {"sequence": number + 1, "kind": kind, **content}
    if any(isinstance(value, str) and unstorable(value) for value in entry.values()):
        raise DataError("votes: holds a NUL or half of a surrogate pair; take it out.")
    # The id and the time are in the hash, so they are made before the row.
    identity = uuid7()
    known = {"id": identity, "created": db.now}
    entry["commitment"] = commitment(entry | known)
    entry["chain"] = seal(before, entry | known)
    return insert(db, votes, tenant, entry, identity)

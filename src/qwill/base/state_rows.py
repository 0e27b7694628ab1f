"""Rows of the state database: made, changed and deleted so that another node can follow.

Every table has the same first columns (`table`). A change writes an outbox row in its own transaction; a deletion
leaves a tombstone: the row with its time of deletion, emptied of what people wrote, in the outbox too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from qwill.base.errors import DataError
from qwill.base.ids import uuid7

Row = dict[str, Any]
COMMON = ("id", "origin", "tenant", "created", "changed", "deleted")

metadata = sa.MetaData()

node = sa.Table("node", metadata, sa.Column("id", sa.String(36), primary_key=True))

outbox = sa.Table(
    "outbox",
    metadata,
    # AUTOINCREMENT: a number is never given out twice, also when the rows with the last ones are gone.
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("table_name", sa.String(63), nullable=False),
    sa.Column("row_id", sa.String(36), nullable=False),
    sa.Column("operation", sa.String(6), nullable=False),
    sa.Column("payload", sa.JSON(none_as_null=True)),
    sa.Index("outbox_row", "row_id"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True)
class Transaction:
    """One writing transaction; `now`: Unix milliseconds, the time of every change in it."""

    connection: sa.Connection
    origin: str
    now: int


@dataclass(frozen=True)
class Change:
    """A row of the outbox. payload: the whole row after the change; None where a later deletion has emptied it."""

    sequence: int
    time: int
    table: str
    row_id: str
    operation: Literal["insert", "update", "delete"]
    payload: Row | None


def table(name: str, *columns: Any, emptied: Mapping[str, Any] | None = None) -> sa.Table:
    """A table of state. The columns in front are the same for all: `id` (UUIDv7), `origin` (the node that made the
    row), `tenant` (to whom it belongs), `created`, `changed`, `deleted` (Unix milliseconds; the last is null while it
    lives).

    emptied: column → what stands there once the row is a tombstone.
    """
    return sa.Table(
        name,
        metadata,
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("origin", sa.String(36), nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("deleted", sa.BigInteger),
        *columns,
        info={"emptied": dict(emptied or {})},
    )


def insert(db: Transaction, into: sa.Table, tenant: str, values: Mapping[str, Any], identity: str | None = None) -> Row:
    """A new row with `values`; returns the whole of it. `identity`: a fresh uuid7() which the caller needs before."""
    row: Row = {column.name: None for column in into.columns}
    row |= {"id": identity or uuid7(), "origin": db.origin, "tenant": tenant, "created": db.now, "changed": db.now}
    row |= _own(into, values)
    db.connection.execute(into.insert().values(row))
    _record(db, into, "insert", row)
    return row


def update(db: Transaction, of: sa.Table, tenant: str, identity: str, values: Mapping[str, Any]) -> Row | None:
    """Change a living row of the tenant; returns the whole of it, None when there is none of that id."""
    changed = {"changed": db.now, **_own(of, values)}
    row = _change(db, of, tenant, identity, changed)
    if row is not None:
        _record(db, of, "update", row)
    return row


def delete(db: Transaction, of: sa.Table, tenant: str, identity: str) -> bool:
    """Make a living row of the tenant a tombstone; False when there is none of that id.

    What the outbox says of its earlier states is emptied as well: who deletes a conversation wants it gone.
    """
    row = _change(db, of, tenant, identity, {"changed": db.now, "deleted": db.now, **of.info["emptied"]})
    if row is None:
        return False
    db.connection.execute(outbox.update().where(outbox.c.row_id == identity).values(payload=None))
    _record(db, of, "delete", row)
    return True


def get(connection: sa.Connection, of: sa.Table, tenant: str, identity: str) -> Row | None:
    """A living row of the tenant, None when there is none of that id."""
    if unstorable(identity):
        return None
    found = connection.execute(of.select().where(*_living(of, tenant), of.c.id == identity)).one_or_none()
    return None if found is None else dict(found._mapping)


def rows(connection: sa.Connection, of: sa.Table, tenant: str, *where: sa.ColumnElement[bool]) -> list[Row]:
    """The tenant's living rows for which all of `where` holds, oldest first."""
    found = connection.execute(of.select().where(*_living(of, tenant), *where).order_by(of.c.id))
    return [dict(row._mapping) for row in found]


def changes(connection: sa.Connection, after: int = 0, limit: int = 1000) -> list[Change]:
    """What changed since the change number `after`, in the order in which it was committed.

    Numbers grow with every commit and leave gaps; nothing can appear behind one that was read, since one transaction
    writes at a time. A receiver that keeps (origin, last number) in the transaction that applies the changes has each
    of them exactly once.
    """
    found = connection.execute(
        outbox.select().where(outbox.c.sequence > after).order_by(outbox.c.sequence).limit(limit)
    )
    return [Change(r.sequence, r.time, r.table_name, r.row_id, r.operation, r.payload) for r in found]


def forget_changes(db: Transaction, through: int) -> int:
    """Drop the changes up to number `through`, which every receiver has; returns how many."""
    return db.connection.execute(outbox.delete().where(outbox.c.sequence <= through)).rowcount


def _living(of: sa.Table, tenant: str) -> tuple[sa.ColumnElement[bool], ...]:
    return of.c.tenant == tenant, of.c.deleted.is_(None)


def _own(of: sa.Table, values: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in values.items():
        if name in COMMON or name not in of.columns:
            raise DataError(f"{of.name}: {name!r} is no column that can be set; expected one of its own.")
        if isinstance(value, str) and isinstance(of.columns[name].type, sa.String) and unstorable(value):
            raise DataError(f"{of.name}, {name}: holds a NUL or half of a surrogate pair; take it out.")
    return values


def unstorable(text: str) -> bool:
    """Whether a text column can't hold it: PostgreSQL has no NUL, UTF-8 no lone surrogates. JSON columns hold both."""
    return "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)


def _change(db: Transaction, of: sa.Table, tenant: str, identity: str, values: Mapping[str, Any]) -> Row | None:
    if unstorable(identity):
        return None
    found = db.connection.execute(
        of.update().where(*_living(of, tenant), of.c.id == identity).values(dict(values)).returning(*of.columns)
    ).one_or_none()
    return None if found is None else dict(found._mapping)


def _record(db: Transaction, of: sa.Table, operation: str, row: Row) -> None:
    db.connection.execute(
        outbox.insert().values(time=db.now, table_name=of.name, row_id=row["id"], operation=operation, payload=row)
    )

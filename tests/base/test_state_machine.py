"""The state database against a dict: rows, tombstones, tenants, roll-backs, re-opening, and what the outbox tells."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from qwill.base.state import close_state, open_state, reading, writing
from qwill.base.state_rows import Row, changes, delete, forget_changes, get, insert, metadata, rows, table, update
from tests.base.databases import KINDS, database

things = table(
    "things", sa.Column("name", sa.Text, nullable=False), sa.Column("data", sa.JSON), emptied={"name": "", "data": None}
)
metadata.remove(things)  # a table of this test alone

tenants = st.sampled_from(["acme", "local"])
# Everything a text column may hold, and what JSON may.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


class Undone(Exception): ...


class Machine(RuleBasedStateMachine):
    kind = "sqlite"
    identities = Bundle("identities")

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.databases = database(self.kind, Path(self.folder.name))
        self.url = next(self.databases)
        self.state = open_state(self.url)
        things.create(self.state.engine)
        self.model: dict[str, Row] = {}  # id → the whole row
        self.replica: dict[str, Row] = {}  # made from the outbox alone
        self.received = 0
        self.last_number = 0

    @rule(target=identities, tenant=tenants, name=texts, value=data)
    def insert(self, tenant: str, name: str, value: Any) -> str:
        with writing(self.state) as db:
            row = insert(db, things, tenant, {"name": name, "data": value})
        assert row["origin"] == self.state.origin and row["created"] == row["changed"] and row["deleted"] is None
        assert row["id"] not in self.model
        self.model[row["id"]] = row
        return str(row["id"])

    @rule(identity=identities, tenant=tenants, name=texts, value=st.none() | data)
    def update(self, identity: str, tenant: str, name: str, value: Any) -> None:
        with writing(self.state) as db:
            row = update(db, things, tenant, identity, {"name": name, "data": value})
        if (old := self.living(identity, tenant)) is None:
            assert row is None
        else:
            assert row is not None and row["changed"] >= old["changed"]
            self.model[identity] = old | {"name": name, "data": value, "changed": row["changed"]}
            assert row == self.model[identity]

    @rule(identity=identities, tenant=tenants)
    def delete(self, identity: str, tenant: str) -> None:
        self.remove(identity, tenant)

    @rule(identity=consumes(identities), tenant=tenants)
    def delete_for_good(self, identity: str, tenant: str) -> None:
        self.remove(identity, tenant)

    def remove(self, identity: str, tenant: str) -> None:
        with writing(self.state) as db:
            gone = delete(db, things, tenant, identity)
            now = db.now
        old = self.living(identity, tenant)
        assert gone == (old is not None)
        if old is not None:
            self.model[identity] = old | {"name": "", "data": None, "changed": now, "deleted": now}

    @rule(tenant=tenants, name=texts, identity=identities)
    def undone(self, tenant: str, name: str, identity: str) -> None:
        with pytest.raises(Undone), writing(self.state) as db:
            insert(db, things, tenant, {"name": name})
            update(db, things, tenant, identity, {"name": name})
            delete(db, things, tenant, identity)
            raise Undone

    @rule()
    def reopen(self) -> None:
        origin = self.state.origin
        close_state(self.state)
        self.state = open_state(self.url)
        assert self.state.origin == origin

    @rule(limit=st.integers(1, 5), forget=st.booleans())
    def receive(self, limit: int, forget: bool) -> None:
        """Another node takes some changes, exactly once, and maybe tells that it has them."""
        with reading(self.state) as connection:
            some = changes(connection, self.received, limit)
        for change in some:
            assert change.sequence > self.received and change.table == "things"
            self.received = change.sequence
            if change.payload is not None:
                assert change.row_id == change.payload["id"]
                assert (change.operation == "insert") == (change.row_id not in self.replica) or change.operation != (
                    "insert"
                )
                self.replica[change.row_id] = change.payload
        if forget:
            with writing(self.state) as db:
                assert forget_changes(db, self.received) >= 0

    def living(self, identity: str, tenant: str) -> Row | None:
        row = self.model[identity]
        return row if row["tenant"] == tenant and row["deleted"] is None else None

    @invariant()
    def same_as_the_model(self) -> None:
        if not hasattr(self, "state"):
            return
        with reading(self.state) as connection:
            everything = {row.id: dict(row._mapping) for row in connection.execute(things.select())}
            assert everything == self.model
            for tenant in ("acme", "local"):
                alive = [row for row in self.model.values() if self.living(row["id"], tenant)]
                assert rows(connection, things, tenant) == sorted(alive, key=lambda row: row["id"])
            for identity in self.model:
                assert get(connection, things, "acme", identity) == self.living(identity, "acme")
            numbers = [change.sequence for change in changes(connection, limit=10**6)]
            assert numbers == sorted(set(numbers))
            newest = max(numbers, default=0)
            # Numbers are not given out a second time, also where the rows with the last ones were forgotten.
            assert not numbers or newest >= self.last_number
            self.last_number = max(self.last_number, newest)

    def teardown(self) -> None:
        if not hasattr(self, "state"):
            return
        # What has not been received yet makes the replica the same, tombstones and all.
        with reading(self.state) as connection:
            for change in changes(connection, self.received, 10**6):
                if change.payload is not None:
                    self.replica[change.row_id] = change.payload
            assert self.replica == self.model
            # What people wrote is gone from the outbox too.
            emptied = {row["id"] for row in self.model.values() if row["deleted"] is not None}
            for change in changes(connection, limit=10**6):
                if change.row_id in emptied and change.operation != "delete":
                    assert change.payload is None
        close_state(self.state)
        next(self.databases, None)
        self.folder.cleanup()


@pytest.mark.parametrize("kind", KINDS)
def test_it_behaves_like_a_dict_that_keeps_tombstones(kind: str) -> None:
    class OfKind(Machine): ...

    OfKind.kind = kind
    run_state_machine_as_test(OfKind, settings=settings(max_examples=15, stateful_step_count=25))

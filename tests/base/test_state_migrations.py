import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from qwill.base import state as state_module
from qwill.base.errors import StateError
from qwill.base.state import VERSION, VERSION_TABLE, State, close_state, open_state, reading, writing
from qwill.base.state_rows import changes, metadata, rows

FOLDER = Path(state_module.__file__).parent / "state_migrations"
TABLES = ("qwill.serve.keys", "qwill.serve.conversations", "qwill.serve.arena_log")  # modules with tables

ROW = {"origin": "o", "tenant": "local", "created": 1, "changed": 2, "deleted": None}
# A row or more of each table, with the version that brought it.
DATA = {
    "api_keys": (1, ROW | {"id": "k", "name": "n", "start": "qwk_", "digest": "d", "limits": {}, "expires": None}),
    "audit": (1, ROW | {"id": "a", "event": "e", "subject": "k", "actor": "me", "details": {"x": [1]}}),
    "conversations": (2, ROW | {"id": "c", "title": "题", "settings": {"a": 1}, "search": "题"}),
    "messages": (
        2,
        ROW | {
            "id": "m", "conversation": "c", "parents": [], "role": "user", "message": {"content": "x"}, "model": None,
            "details": {}, "search": "x",
        },
    ),
    "battles": (
        3,
        ROW | {
            "id": "b", "asker": "v_1", "language": "zh", "messages": [{"role": "user", "content": "题"}],
            "model_a": "m", "model_b": "n", "reply_a": {"content": "x"}, "reply_b": None,
        },
    ),
    "votes": (
        3,
        ROW | {
            "id": "v", "sequence": 1, "kind": "vote", "battle": "b", "voter": "v_1", "outcome": "a", "body": {"x": 1},
            "erases": None, "salt": "s", "commitment": "c", "chain": "h",
        },
    ),
}  # fmt: skip

ADDED: dict[str, dict[str, object]] = {"battles": {"earlier": []}}  # columns of later versions, in rows from before


def at_version(url: str, number: int) -> State:
    """A database as Qwill made it at that version, with its tables' data."""
    where = state_module._url(url)
    engine = state_module._sqlite(where) if where.get_backend_name() == "sqlite" else state_module._postgresql(where)
    state = State(engine, "", state_module.threading.Lock())
    with writing(state) as db:
        state_module._migrate(db.connection, f"{number:04}")
        old = sa.MetaData()
        old.reflect(db.connection)
        for name, (since, row) in DATA.items():
            if since <= number:
                db.connection.execute(old.tables[name].insert().values(row))
    return state


def load_tables() -> None:
    for module in TABLES:
        importlib.import_module(module)


def test_there_is_one_line_of_numbered_migrations_and_the_newest_is_known() -> None:
    scripts = ScriptDirectory(str(FOLDER))
    found = [(s.revision, s.down_revision, Path(s.path).name) for s in scripts.walk_revisions()][::-1]
    numbers = [f"{number:04}" for number in range(1, VERSION + 1)]
    assert found == [(n, numbers[i - 1] if i else None, f"v{n}.py") for i, n in enumerate(numbers)]


def test_every_table_has_data_in_these_tests() -> None:
    load_tables()
    assert set(metadata.tables) == set(DATA) | {"node", "outbox", "secrets"}


@pytest.mark.parametrize("number", range(1, VERSION + 1))
def test_an_older_database_is_brought_up_to_date_and_keeps_its_data(url: str, number: int) -> None:
    load_tables()
    old = at_version(url, number)
    with old.engine.connect() as connection:
        origin = connection.exec_driver_sql("SELECT id FROM node").scalar_one()
    close_state(old)
    state = open_state(url)
    assert state.origin == origin
    with reading(state) as connection:
        assert state_module._version(connection) == VERSION
        for name, (since, row) in DATA.items():
            whole = row | ADDED.get(name, {})
            assert rows(connection, metadata.tables[name], "local") == ([whole] if since <= number else [])


def test_the_migrations_make_the_tables_that_the_code_describes(url: str) -> None:
    load_tables()
    state = open_state(url)
    with state.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []
        extra = sa.Table("extra", sa.MetaData(), sa.Column("id", sa.Integer))
        other = sa.MetaData()
        for one in [*metadata.tables.values(), extra]:
            one.to_metadata(other)
        assert compare_metadata(context, other)  # the comparison can fail
    for one in metadata.tables.values():
        if "origin" in one.columns:
            assert set(one.info["emptied"]) <= set(one.columns.keys())


def test_a_newer_database_is_refused_in_one_sentence_and_left_alone(url: str) -> None:
    state = open_state(url)
    with writing(state) as db:
        db.connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '{VERSION + 1:04}'")
    with pytest.raises(StateError, match=f"newer Qwill \\(version {VERSION + 1} .* knows {VERSION}\\)"):
        open_state(url)
    with state.engine.connect() as connection:
        found = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar_one()
        assert found == f"{VERSION + 1:04}"


def test_a_migration_that_breaks_off_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = at_version(url, 1)

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    from alembic import op

    original = op.create_index
    monkeypatch.setattr(op, "create_index", broken)  # after the first table of the second migration was made
    with pytest.raises(KeyboardInterrupt):
        open_state(url)
    assert not sa.inspect(state.engine).has_table("conversations")
    monkeypatch.setattr(op, "create_index", original)
    with reading(open_state(url)) as connection:
        assert state_module._version(connection) == VERSION and changes(connection) == []


OPEN = "import sys; from qwill.base.state import open_state; print(open_state(sys.argv[1]).origin)"


def test_processes_that_open_a_new_database_at_once_agree(url: str) -> None:
    def start(_: int) -> str:
        done = subprocess.run([sys.executable, "-c", OPEN, url], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    with ThreadPoolExecutor(4) as pool:
        origins = set(pool.map(start, range(4)))
    assert len(origins) == 1 and len(origins.pop()) == 36


def test_threads_that_open_a_new_database_at_once_agree(url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        assert len({state.origin for state in pool.map(open_state, [url] * 6)}) == 1

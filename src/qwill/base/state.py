"""The state database: conversations, API keys, later votes, memories, the hub's index: one SQL database.

SQLite in a file under `~/.qwill` by default, PostgreSQL by setting a URL. Opening it brings it up to date. Writing
transactions come one after another on both (SQLite can't do otherwise; on PostgreSQL a lock does it), so that what is
read within one stays true until it commits, and the outbox numbers changes in the order of commits.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event, exc

from qwill.base.errors import ConfigError, StateError
from qwill.base.state_rows import Transaction, node

VERSION = 4  # the number of the newest migration
VERSION_TABLE = "qwill_version"
BUSY_SECONDS = 30
_LOCK_NUMBER = 0x7177696C6C  # "qwill": which of PostgreSQL's advisory locks a writer takes


@dataclass(frozen=True, eq=False)
class State:
    """An open database; `origin` is its id as a node. Any thread may use it, a forked child must open its own."""

    engine: sa.Engine
    origin: str
    writer: threading.Lock


def home() -> Path:
    """Where Qwill keeps what a user would miss: QWILL_HOME, else ~/.qwill."""
    return Path(os.environ.get("QWILL_HOME") or Path.home() / ".qwill")


def open_state(url: str | None = None) -> State:
    """Open (or make) the database and bring it up to date.

    url: `postgresql://user@host/name`, `sqlite:///file` or the path of a file; None: QWILL_STATE, else state.db in
    `home()`. Raises ConfigError for a URL that makes no sense; StateError for a database that can't be opened or that a
    newer Qwill has written.
    """
    where = _url(url or os.environ.get("QWILL_STATE") or str(home() / "state.db"))
    engine = _sqlite(where) if where.get_backend_name() == "sqlite" else _postgresql(where)
    writer = threading.Lock()
    try:
        with reading(State(engine, "", writer)) as connection:
            found = _version(connection)
        if found != VERSION:
            with writing(State(engine, "", writer)) as db:
                _migrate(db.connection)
        with reading(State(engine, "", writer)) as connection:
            origin = connection.execute(sa.select(node.c.id)).scalar_one()
    except BaseException:
        engine.dispose()
        raise
    return State(engine, origin, writer)


def close_state(state: State) -> None:
    state.engine.dispose()


@contextmanager
def reading(state: State) -> Iterator[sa.Connection]:
    """A snapshot: what it reads does not change while it is open. It waits for no writer and none waits for it."""
    with _sentences(state.engine.url), state.engine.connect() as connection:
        if state.engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin():
            yield connection


@contextmanager
def writing(state: State) -> Iterator[Transaction]:
    """A transaction that alone writes: committed at the end, undone by an error. Don't wait for anyone inside.

    Raises StateError after BUSY_SECONDS behind other writers.
    """
    sqlite = state.engine.dialect.name == "sqlite"
    with _sentences(state.engine.url), _turn(state) if sqlite else nullcontext(), state.engine.connect() as connection:
        connection = connection.execution_options(qwill_writes=True)
        with connection.begin():
            if not sqlite:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s'")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_NUMBER})")
            # Only now: times follow the order of commits.
            yield Transaction(connection, state.origin, time.time_ns() // 1_000_000)


@contextmanager
def _turn(state: State) -> Iterator[None]:
    """Threads of one process queue here; SQLite's own waiting is polling, where the unlucky may wait for ever."""
    if not state.writer.acquire(timeout=BUSY_SECONDS):
        raise StateError(f"{_shown(state.engine.url)}: busy with other changes for {BUSY_SECONDS} s; try again.")
    try:
        yield
    finally:
        state.writer.release()


def _url(text: str) -> sa.URL:
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        where = sa.make_url(text)
    except (exc.ArgumentError, ValueError):
        # The text may hold a password.
        raise ConfigError("state: not a database URL; expected postgresql://user@host/name or a file's path.") from None
    backend = where.get_backend_name()
    if backend == "sqlite" and where.database and where.database != ":memory:":
        return where.set(drivername="sqlite", database=str(Path(where.database).expanduser().absolute()))
    if backend in ("postgresql", "postgres"):
        return where.set(drivername="postgresql+psycopg")
    raise ConfigError(
        f"state: {where.render_as_string()} is neither a file nor PostgreSQL; expected postgresql://user@host/name "
        "or a file's path."
    )


def _shown(where: sa.URL) -> str:
    return str(where.database) if where.get_backend_name() == "sqlite" else where.render_as_string(hide_password=True)


def _sqlite(where: sa.URL) -> sa.Engine:
    file = Path(str(where.database))
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Keys' digests and conversations: for their owner only, as SQLite then makes the files beside it.
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StateError(f"{file}: the state database can't be opened there ({error.strerror}); give --state or "
                         "QWILL_HOME another place.") from None  # fmt: skip
    engine = sa.create_engine(
        where, pool_size=8, max_overflow=64, pool_timeout=BUSY_SECONDS, connect_args={"timeout": BUSY_SECONDS}
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # begin() below says when transactions start, not Python's module
        _use_wal(connection)
        # FULL: with NORMAL a power cut may take back the last commits, after another node has had their numbers.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # what was deleted is overwritten

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # IMMEDIATE: a transaction that first reads and then writes can't be refused in its middle.
        writes = connection.get_execution_options().get("qwill_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Only the first switch changes the file; SQLite does not wait where several processes do it at once."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _postgresql(where: sa.URL) -> sa.Engine:
    try:
        return sa.create_engine(where, pool_size=8, max_overflow=64, pool_timeout=BUSY_SECONDS, pool_pre_ping=True)
    except ModuleNotFoundError:
        raise ConfigError("state: PostgreSQL needs psycopg; run `pip install 'qwill[postgres]'`.") from None


@contextmanager
def _sentences(where: sa.URL) -> Iterator[None]:
    """What a database is to blame for, in one sentence; a bug of ours stays one."""
    try:
        yield
    except exc.TimeoutError:
        raise StateError(f"{_shown(where)}: more than 72 connections are in use; try again.") from None
    except exc.DBAPIError as error:
        found = error.orig
        lines = str(found).strip().splitlines() or [type(found).__name__]
        if isinstance(error, exc.OperationalError) or "not a database" in lines[0] or "malformed" in lines[0]:
            raise StateError(f"{_shown(where)}: the state database can't be used ({lines[0].rstrip('.')}).") from error
        raise


def _version(connection: sa.Connection) -> int:
    """0 for a database without tables of ours. Raises StateError when it is newer than this Qwill."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return 0
    found = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar_one_or_none()
    number = int(found) if found is not None and str(found).isdecimal() else 0
    if number > VERSION:
        raise StateError(
            f"{_shown(connection.engine.url)}: written by a newer Qwill (version {number} of the state database; this "
            f"one knows {VERSION}): update Qwill, or give --state another database."
        )
    return number


def _migrate(connection: sa.Connection, target: str = "head") -> None:
    """Run the migrations that are missing, in the transaction of `connection`: all of them or, after a kill, none."""
    if _version(connection) == VERSION:
        return  # another process was quicker
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "state_migrations").replace("%", "%%"))
    config.attributes |= {"connection": connection, "version_table": VERSION_TABLE}
    command.upgrade(config, target)

"""Databases for tests: SQLite files, and PostgreSQL where QWILL_TEST_POSTGRES names a server that may be written to
(postgresql://user@host/postgres): each test gets a database of its own there."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from qwill.base.ids import uuid7

SERVER = os.environ.get("QWILL_TEST_POSTGRES")
KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.skipif(SERVER is None, reason="QWILL_TEST_POSTGRES"))]


def database(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database, gone afterwards."""
    if kind == "sqlite":
        yield str(folder / "state.db")
        return
    assert SERVER is not None
    server = sa.create_engine(sa.make_url(SERVER).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    name = f"qwill_{uuid7().replace('-', '')}"
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield sa.make_url(SERVER).set(database=name).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        server.dispose()

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from qwill.base import state as state_module
from qwill.base.errors import ConfigError, DataError, StateError
from qwill.base.state import State, close_state, open_state, reading, writing
from qwill.base.state_rows import changes, insert, metadata, rows, table, update

counters = table("counters", sa.Column("count", sa.Integer, nullable=False), sa.Column("note", sa.Text))
metadata.remove(counters)

CHILD = """
import sys
from qwill.base.state import open_state, writing
from tests.base.test_state import counters, add
state = open_state(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for i in range(int(sys.argv[3])):
    add(state, sys.argv[2])
    print(i + 1, flush=True)
"""


def add(state: State, identity: str) -> None:
    """Read and write: two writers at once would lose one."""
    with writing(state) as db:
        count = db.connection.execute(sa.select(counters.c.count).where(counters.c.id == identity)).scalar_one()
        insert(db, counters, "local", {"count": count, "note": "before"})
        update(db, counters, "local", identity, {"count": count + 1})


def child(url: str, identity: str, times: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, url, identity, str(times)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def counter(url: str) -> tuple[State, str]:
    state = open_state(url)
    counters.create(state.engine)
    with writing(state) as db:
        return state, insert(db, counters, "local", {"count": 0})["id"]


def counted(state: State, identity: str) -> int:
    """The count; the rows and the outbox must tell the same."""
    with reading(state) as connection:
        everything = rows(connection, counters, "local")
        count = next(row["count"] for row in everything if row["id"] == identity)
        assert sorted(row["count"] for row in everything if row["note"]) == list(range(count))
        told = changes(connection, limit=10**6)
        assert [c.payload["count"] for c in told if c.operation == "update" and c.payload] == list(range(1, count + 1))
        assert len(told) == 1 + 2 * count
        return int(count)


def test_threads_and_processes_write_at_once_and_nothing_is_lost(url: str) -> None:
    state, identity = counter(url)
    processes = [child(url, identity, 25) for _ in range(2)]
    threads = [threading.Thread(target=lambda: [add(state, identity) for _ in range(10)]) for _ in range(8)]
    for process in processes:
        go(process)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert counted(state, identity) == 2 * 25 + 8 * 10


@pytest.mark.parametrize("after", [1, 7, 20])
def test_what_was_committed_survives_kill_9_and_what_was_not_leaves_no_trace(url: str, after: int) -> None:
    state, identity = counter(url)
    process = child(url, identity, 10**6)
    go(process)
    assert process.stdout is not None
    for _ in range(after):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    told = after + len(process.stdout.read().split())
    process.wait()
    count = counted(state, identity)  # counted() itself looks for halves
    assert told <= count <= told + 1
    add(state, identity)  # and the dead one holds no lock
    assert counted(state, identity) == count + 1
    if state.engine.dialect.name == "sqlite":
        assert sqlite3.connect(url).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_reader_sees_a_snapshot_and_waits_for_no_writer(url: str) -> None:
    state, identity = counter(url)
    with reading(state) as connection:
        before = rows(connection, counters, "local")
        with writing(state) as db:
            insert(db, counters, "local", {"count": 5})
            with reading(state) as other:
                assert rows(other, counters, "local") == before
        assert rows(connection, counters, "local") == before
    with reading(state) as connection:
        assert len(rows(connection, counters, "local")) == 2
    close_state(state)
    assert identity


def test_a_writer_that_waits_too_long_gets_a_sentence(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "BUSY_SECONDS", 1)
    one, other = open_state(url), open_state(url)
    with writing(one):
        for waiting in (one, other):
            with pytest.raises(StateError, match=r"busy with other changes for 1 s|locked|lock timeout"):  # noqa: SIM117
                with writing(waiting):
                    raise AssertionError("two writers at once")
    with writing(other):
        pass


@pytest.mark.parametrize("values", [{"id": "x"}, {"deleted": 1}, {"colour": 1}, {"note": "a\0"}, {"note": "\ud800"}])
def test_what_no_row_can_hold_is_refused(url: str, values: dict[str, object]) -> None:
    state, identity = counter(url)
    with pytest.raises(DataError, match="counters"), writing(state) as db:
        update(db, counters, "local", identity, values)
    with writing(state) as db:
        assert update(db, counters, "local", identity + "\0", {}) is None
        assert update(db, counters, "local", "\ud800", {}) is None


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWILL_STATE", raising=False)
    monkeypatch.setenv("QWILL_HOME", str(tmp_path / "home"))
    close_state(open_state())
    assert (tmp_path / "home/state.db").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("QWILL_STATE", f"sqlite:///{tmp_path}/other.db")
    close_state(open_state())
    assert (tmp_path / "other.db").exists()
    close_state(open_state(str(tmp_path / "third 100%.db")))
    assert (tmp_path / "third 100%.db").exists()


def test_files_beside_it_are_private_too(tmp_path: Path) -> None:
    state, identity = counter(str(tmp_path / "state.db"))
    add(state, identity)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert {path.name for path in tmp_path.iterdir()} >= {"state.db", "state.db-wal"}


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("mysql://me:secret@host/x", ConfigError, "neither a file nor PostgreSQL"),
        ("sqlite://", ConfigError, "neither a file nor PostgreSQL"),
        ("://secret", ConfigError, "not a database URL"),
        ("{folder}", StateError, "can't be opened there"),
        ("{folder}/text/state.db", StateError, "can't be opened there"),
        ("{folder}/text", StateError, "can't be used.*not a database"),
    ],
)
def test_what_cannot_be_opened_is_said_in_a_sentence(
    url: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("This is no database, but it is long enough to look like one." * 20)
    with pytest.raises(error, match=says) as caught:
        open_state(url.format(folder=tmp_path))
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_said_without_its_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StateError, match="can't be used") as caught:
        open_state("postgresql://me:secret@127.0.0.1:1/qwill")
    assert "secret" not in str(caught.value)

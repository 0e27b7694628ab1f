"""`curate` called twice for one folder: one at a time, and nothing that a killed call leaves behind lasts."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_text import english

from qwill.base.errors import ArtifactError, DataError
from qwill.base.lock import LOCK, folder_lock
from qwill.base.progress import Display
from qwill.data import CurateConfig, curate
from qwill.data.sources import SourceChoice
from qwill.data.split import HeldOut

QUIET = Display(quiet=True)
# Curates as `config` below does, up to the second pass, and stays there.
STUCK = """
import sys, time
from pathlib import Path
import test_curate_lock
from qwill.data import corpus

def stay(*_):
    print("there", flush=True)
    time.sleep(600)

corpus.second_pass = stay
folder = Path(sys.argv[1])
corpus.curate(test_curate_lock.config(folder, float(sys.argv[2])), folder / "corpus", test_curate_lock.QUIET)
"""


def config(folder: Path, share: float = 0.1) -> CurateConfig:
    """`share`: any setting that makes another corpus."""
    path = folder / "in.jsonl"
    if not path.exists():
        rng = random.Random(1)
        path.write_text("\n".join(json.dumps({"text": english(rng)}) for _ in range(20)), encoding="utf-8")
    heldout = HeldOut(share=share, min_bytes=0)
    return CurateConfig([SourceChoice("own", str(path))], ["en"], filters=["units"], heldout=heldout, workers=1)


@contextmanager
def stuck(folder: Path, share: float) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of curating; killed at the end."""
    config(folder)
    command = [sys.executable, "-c", STUCK, str(folder), str(share)]
    process = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"there\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def hidden(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def held(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in (folder / ".corpus.work").rglob("*")}


def test_a_second_call_is_refused_until_the_first_has_ended_however_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stuck(tmp_path, 0.1) as process:
        before = held(tmp_path)
        assert any(path.suffix == ".arrow" for path in before)
        for share in (0.1, 0.2):  # also with other settings: one of the two would be overwritten
            with pytest.raises(
                ArtifactError, match=rf"corpus is in use by another qwill .process {process.pid}.; wait"
            ):
                curate(config(tmp_path, share), tmp_path / "corpus", QUIET)
        assert held(tmp_path) == before and not (tmp_path / "corpus").exists()
        curate(config(tmp_path), tmp_path / "other", QUIET)

    def never(*_: Any) -> None:
        raise AssertionError("judged a second time")

    with monkeypatch.context() as patch:
        patch.setattr("qwill.data.first_pass.identify_all", never)
        curate(config(tmp_path), tmp_path / "corpus", QUIET)
    assert hidden(tmp_path) == set()
    for name in ("train.parquet", "heldout.parquet", "funnel.json", "qwill.json"):
        assert (tmp_path / "corpus" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_what_killed_calls_left_goes_when_one_succeeds_and_nothing_else(tmp_path: Path) -> None:
    with stuck(tmp_path, 0.1):
        pass
    kept = {".corpus.workshop", ".corpus.x", ".corpus2.work", "corpus.work", ".other.work", "[c]*rpus"}
    for name in kept:
        (tmp_path / name / "first").mkdir(parents=True)
    with stuck(tmp_path, 0.5):  # it keeps what the others have done, and their half-made corpora are gone
        work = {path.name for path in (tmp_path / ".corpus.work").iterdir()}
        assert len([name for name in work if not name.startswith(".")]) == 2
        assert len([name for name in work if name.startswith(".corpus.")]) == 1
        with folder_lock(tmp_path / ".other.work"):
            curate(config(tmp_path), tmp_path / "[c]*rpus", QUIET)
        assert {path.name for path in (tmp_path / ".corpus.work").iterdir()} == work
    with pytest.raises(DataError):  # a call that fails takes nothing away
        curate(replace(config(tmp_path), limits={"en": {"units": {"min_units": 9999}}}), tmp_path / "corpus", QUIET)
    assert {path for path in work if not path.startswith(".")} < {p.name for p in (tmp_path / ".corpus.work").iterdir()}
    curate(config(tmp_path, 0.3), tmp_path / "corpus", QUIET)
    assert {path.name for path in tmp_path.iterdir()} == kept | {"corpus", "in.jsonl"}
    assert all((tmp_path / name / "first").is_dir() for name in kept if name.startswith("."))


def test_calls_in_one_process_are_kept_apart_too(tmp_path: Path) -> None:
    place = tmp_path / ".corpus.work"
    with folder_lock(place):
        with pytest.raises(ArtifactError, match="corpus is in use by another qwill"):
            curate(config(tmp_path), tmp_path / "corpus", QUIET)
        code = "import sys; from pathlib import Path; from qwill.base.lock import folder_lock\n"
        code += "with folder_lock(Path(sys.argv[1])): pass"
        other = subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, text=True)
        assert other.returncode == 1 and "in use" in other.stderr  # the refused call has not let go of the lock
    curate(config(tmp_path), tmp_path / "corpus", QUIET)


def test_the_command_says_it_in_one_line_and_exits_2(tmp_path: Path) -> None:
    config(tmp_path)
    command = [sys.executable, "-m", "qwill.cli.main", "curate", "in.jsonl", "--out", "runs/own"]
    with folder_lock(tmp_path / "runs" / "own"):
        refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "runs/own is in use by another qwill" in refused.stderr and "wait until it ends" in refused.stderr


def test_a_lock_whose_holder_removes_it_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening and the locking of the file its last holder may finish and remove the folder."""
    import fcntl

    place, lockf, turns = tmp_path / "place", fcntl.lockf, list[int]()

    def late(handle: int, *rest: int) -> None:
        turns.append(handle)
        if len(turns) == 1:
            (place / LOCK).unlink()
            place.rmdir()
        lockf(handle, *rest)

    monkeypatch.setattr(fcntl, "lockf", late)
    with folder_lock(place):
        assert len(turns) == 2 and (place / LOCK).read_text().strip().isdigit()


def test_a_disk_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def lacking(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lacking)
    with pytest.raises(ArtifactError, match=r"can't be locked .No locks available.; use a disk"):
        curate(config(tmp_path), tmp_path / "corpus", QUIET)

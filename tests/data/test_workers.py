"""How work is spread changes nothing, and nothing outlives the process that spread it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from qwill.base.errors import DataError
from qwill.data.units import split
from qwill.data.workers import AHEAD, spread

TEXTS = [f"one {i} two" for i in range(30)]


def test_processes_answer_as_this_process_does() -> None:
    assert sorted(spread(split, TEXTS, 2)) == sorted(spread(split, TEXTS, 1)) == sorted(map(split, TEXTS))


def test_ray_answers_as_this_process_does() -> None:
    pytest.importorskip("ray")
    assert sorted(spread(split, TEXTS, 2, "ray")) == sorted(map(split, TEXTS))


def test_items_are_drawn_only_as_fast_as_they_are_worked_on() -> None:
    drawn = 0

    def items() -> Iterator[str]:
        nonlocal drawn
        for text in TEXTS:
            drawn += 1
            yield text

    answers = 0
    for _ in spread(split, items(), 2):
        assert drawn <= answers + 2 * AHEAD * 2 + 1
        answers += 1
    assert drawn == answers == len(TEXTS)


def test_an_error_in_a_worker_is_raised_here() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(spread(int, ["1", "x", "3"], 2))


def test_a_worker_that_dies_is_one_sentence() -> None:
    import os

    with pytest.raises(DataError, match=r"ended from outside.*run the same command again"):
        list(spread(os._exit, [3, 3, 3], 2))


def test_workers_end_with_the_process_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import time\nfrom qwill.data.workers import spread\n"
        f"open({str(tmp_path / 'begun')!r}, 'w').close()\n"
        "list(spread(time.sleep, [60] * 4, 2))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while len(_inside(tmp_path)) < 4 and time.monotonic() < deadline:  # itself, the fork server, two workers
        time.sleep(0.05)
    assert len(_inside(tmp_path)) >= 4
    process.kill()
    process.wait()
    while _inside(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _inside(tmp_path)


def _inside(folder: Path) -> list[int]:
    import os

    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == str(folder):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_partial_functions_travel() -> None:
    assert sorted(spread(partial(pow, 2), range(5), 2)) == [1, 2, 4, 8, 16]

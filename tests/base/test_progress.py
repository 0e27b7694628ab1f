"""One display: a bar on a terminal, plain lines elsewhere; metrics that go on exactly where a run was cut off."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.progress import Bar, Display, MetricsLog, clock, human


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("qwill.base.progress.time.monotonic", clock)
    return clock


def shown(bar: Bar) -> str:
    return bar.text()


# ---- plain lines


def test_without_a_terminal_there_are_only_plain_lines(capsys: pytest.CaptureFixture[str], time: Clock) -> None:
    display = Display()
    with display.stage("pretrain", total=100, unit="step", budget_s=90) as bar:
        for step in range(101):
            bar.update(step, loss=3.5 - step / 100)
            time.now += 0.25
        bar.note("saved")
    display.say("done")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    # 25 seconds: a line after each 10, what was noted, and one at the end.
    assert [line.split(":")[0] for line in lines] == ["  pretrain", "  pretrain", "  saved", "  pretrain", "done"]
    assert all(c.isprintable() for c in err.replace("\n", ""))
    assert lines[3] == "  pretrain: 100/100 step · 3.96/s · 0:25 of 1:30 · loss 2.5"


def test_updates_close_together_print_nothing(capsys: pytest.CaptureFixture[str], time: Clock) -> None:
    with Display(live=False).stage("a", total=1000, unit="x") as bar:
        for step in range(1000):
            time.now += 0.009
            bar.update(step)
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err.count("\n") == 1


def test_a_stage_that_fails_does_not_look_finished(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(live=False)
    with pytest.raises(ValueError, match="x"), display.stage("a", total=2, unit="step") as bar:
        bar.update(1)
        raise ValueError("x")
    assert capsys.readouterr().err == "" and display._bars == []


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str], time: Clock) -> None:
    for live in (True, False):
        display = Display(live=live, quiet=True)
        display.say("hello")
        with display.stage("a", total=2, unit="step") as bar:
            for step in (0, 1, 2):
                time.now += 20
                bar.update(step)
            bar.note("note")
    assert capsys.readouterr() == ("", "")


# ---- rate and time left


def test_the_rate_does_not_count_what_an_earlier_attempt_had_done(time: Clock) -> None:
    with Display(quiet=True).stage("a", total=100, unit="step") as bar:
        bar.update(60)
        assert shown(bar) == "60/100 step · 0:00"
        time.now += 10
        bar.update(80)
        assert shown(bar) == "80/100 step · 2/s · ETA 0:10 · 0:10"


def test_the_rate_counts_from_the_first_update(time: Clock) -> None:
    """A stage that loads for a while before it begins to count is not slow for that, nor is its first step lost."""
    with Display(quiet=True).stage("a", total=100, unit="step") as bar:
        time.now += 30
        bar.update(0)
        time.now += 10
        bar.update(20)
        assert shown(bar) == "20/100 step · 2/s · ETA 0:40 · 0:40"


def test_a_finished_bar_has_no_time_left_and_an_empty_one_no_rate(time: Clock) -> None:
    with Display(quiet=True).stage("a", total=10, unit="step") as bar:
        assert shown(bar) == "0/10 step · 0:00"
        bar.update(0)
        time.now += 5
        assert shown(bar) == "0/10 step · 0:05"
        bar.update(10, loss=1.0, kind="dense")
        assert shown(bar) == "10/10 step · 2/s · 0:05 · loss 1 · kind dense"


@given(
    st.floats(0, 1e6),
    st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e5)), max_size=5),
    st.none() | st.floats(1, 9),
)
def test_any_progress_can_be_shown(total: float, steps: list[tuple[float, float]], budget: float | None) -> None:
    bar = Bar(Display(quiet=True), "a", total, "x", budget)
    for done, loss in steps:
        bar.update(done, loss=loss, note="中")
        for columns in (1, 20, 80, 300):
            assert len(bar.line(columns)) <= columns and bar.line(columns).isprintable()


# ---- on a terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError


@pytest.mark.parametrize(("term", "live"), [("xterm-256color", True), ("dumb", False)])
def test_a_terminal_gets_a_live_bar_unless_it_is_a_dumb_one(
    monkeypatch: pytest.MonkeyPatch, term: str, live: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", term)
    assert Display().live is live
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert Display().live is False


def test_the_live_bar_is_drawn_over_and_leaves_one_line(monkeypatch: pytest.MonkeyPatch, time: Clock) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    display = Display(live=True)
    with display.stage("sft", total=4, unit="step") as bar:
        for step in range(5):
            time.now += 1
            bar.update(step)
        bar.note("saved")
    pieces = terminal.getvalue().split("\r\x1b[2K")
    bars = [p for p in pieces if "━" in p or "╌" in p]
    assert len(bars) == 6 and all("\n" not in b for b in bars)
    assert [b.count("━") for b in bars] == [0, 0, 6, 12, 18, 24]
    # What stays on the screen are whole lines; each is written where the bar was.
    assert [p for p in pieces if p and p not in bars] == ["  saved\n", "  sft: 4/4 step · 1/s · 0:05\n"]


def test_the_live_bar_is_not_drawn_more_often_than_eyes_follow(monkeypatch: pytest.MonkeyPatch, time: Clock) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Display(live=True).stage("a", total=1000, unit="x") as bar:
        for step in range(1000):
            time.now += 0.001
            bar.update(step)
    assert terminal.getvalue().count("╌ ") <= 12


def test_nothing_wraps_in_a_narrow_terminal() -> None:
    code = (
        "import time; from qwill.base.progress import Display\n"
        "with Display().stage('pretrain', total=9, unit='step', budget_s=60) as bar:\n"
        "    for i in range(3): time.sleep(0.12); bar.update(i, loss=1.2345, tokens=123456, balance=0.5)"
    )
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 30))
    environment = {**os.environ, "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", code], stderr=child, check=True, env=environment)
    os.close(child)
    drawn = b""
    with suppress(OSError):  # what reading from a terminal whose other end is closed ends in
        while block := os.read(parent, 4096):
            drawn += block
    os.close(parent)
    *bars, last = drawn.decode().split("\r\x1b[2K")
    assert len(bars) > 3 and all(len(bar) <= 29 and "\n" not in bar for bar in bars)
    assert last.startswith("  pretrain: 2/9 step") and last.endswith("balance 0.5\r\n")


# ---- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (7, "7"), (9999, "9999"), (10_000, "10k"), (12_345, "12.3k"), (999_499, "999k"), (999_999, "1M"),
        (1_234_567, "1.23M"), (2.5e9, "2.5G"), (0.0, "0"), (0.012344, "0.01234"), (1.2344, "1.234"), (9999.4, "9999"),
        (9999.97, "10k"), (-3, "-3"), (-12_345.0, "-12.3k"), (float("nan"), "nan"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert human(value) == text


@given(st.floats(1e-9, 1e14) | st.floats(-1e14, -1e-9) | st.integers(-(10**14), 10**14))
def test_numbers_are_near_what_they_stand_for(value: float) -> None:
    text = human(value)
    assert len(text) <= 10
    match = re.fullmatch(r"(-?[0-9.]+(?:e-[0-9]+)?)([kMGT]?)", text)
    assert match is not None
    read = float(match[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[match[2]]
    assert abs(read - value) <= 0.0051 * abs(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599.7, "1:00:00"), (36_061, "10:01:01"), (-1, "0:00")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


# ---- metrics.jsonl


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_are_on_disk_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "base" / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(3):
        log.log(step, loss=step / 2, kind="dense")
        # A process that is killed now loses nothing.
        assert rows(path)[-1] == {"step": step, "loss": step / 2, "kind": "dense"}
    assert len(rows(path)) == 3


@given(steps=st.integers(1, 8), resume=st.integers(1, 10), torn=st.integers(0, 30))
def test_resumed_metrics_are_those_of_a_run_that_was_never_cut_off(steps: int, resume: int, torn: int) -> None:
    resume = min(resume, steps)
    with TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole.jsonl", Path(folder) / "cut.jsonl"
        for path in (whole, cut):
            log = MetricsLog(path)
            for step in range(1, steps + 1):
                log.log(step, loss=1 / step)
        with open(cut, "a") as f:
            f.write(json.dumps({"step": steps + 1, "loss": 0.123456789})[:torn])
        log = MetricsLog(cut, resume_step=resume)
        for step in range(resume + 1, steps + 1):
            log.log(step, loss=1 / step)
        assert cut.read_bytes() == whole.read_bytes()


def test_a_run_from_the_start_forgets_an_older_one(tmp_path: Path) -> None:
    for resume in (None, 0):
        MetricsLog(tmp_path / "m.jsonl").log(0, loss=1.0)
        MetricsLog(tmp_path / "m.jsonl", resume_step=resume).log(1, loss=2.0)
        assert rows(tmp_path / "m.jsonl") == [{"step": 1, "loss": 2.0}]


def test_lines_that_are_no_metrics_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n3\n[1]\nnull\n\xff\xfe\n{"step": null}\n{"step": "x"}\n{"step": 2}\n{"step": 3')
    MetricsLog(path, resume_step=2)
    assert rows(path) == [{"step": 1}, {"step": 2}]


def test_resuming_without_a_file_begins_one(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "m.jsonl", resume_step=5).log(6, loss=1.0)
    assert rows(tmp_path / "m.jsonl") == [{"step": 6, "loss": 1.0}]


def test_resuming_that_fails_keeps_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.jsonl"
    MetricsLog(path).log(1, loss=1.0)

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", full_disk)
        MetricsLog(path, resume_step=1)
    assert rows(path) == [{"step": 1, "loss": 1.0}]

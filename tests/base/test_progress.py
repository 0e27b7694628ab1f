"""One display: a bar on a terminal, plain lines elsewhere; metrics that go on exactly where a run was cut off."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

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


@contextmanager
def terminal() -> Iterator[io.StringIO]:
    environment = {"TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
    with patch.dict(os.environ, environment), redirect_stderr(io.StringIO()) as written:
        yield written


def screen(written: str) -> list[str]:
    """The lines that a terminal shows after this: it knows the codes that we expect, and no others."""
    lines, row, column = [""], 0, 0
    for code, text in re.findall(r"(\x1b\[[0-9;?]*.|[\x00-\x1f])|([^\x00-\x1f]+)", written):
        if text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        elif code == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif code == "\r":
            column = 0
        elif code == "\x1b[1A":
            row -= 1
        elif code == "\x1b[2K":
            lines[row] = ""
        else:
            assert code[-1] == "m", f"{code!r}: the cursor is never hidden, the screen never cleared"
    return [line.rstrip() for line in (lines if lines[-1] else lines[:-1])]


def through_a_terminal(code: str, columns: int, **options: Any) -> tuple[str, int]:
    """What `code` writes to a terminal, and how it ends."""
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, columns))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    streams = {"stdin": child, "stdout": child, "stderr": child} | options
    code = "import os, sys, time; from qwill.base.progress import Display; display = Display()\n" + code
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **streams) as process:
        os.close(child)
        written = b""
        with suppress(OSError):  # what reading from a terminal whose other end is closed ends in
            while block := os.read(parent, 4096):
                written += block
    os.close(parent)
    return written.decode().replace("\r\n", "\n"), process.returncode


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
    """In one line, however narrow; where not all has room, the bar goes before the numbers do."""
    with patch("qwill.base.progress.time.monotonic", Clock()):
        display = Display(quiet=True)
        with display.stage("a", total, "x", budget) as bar:
            for done, loss in steps:
                bar.update(done, loss=loss, note="中[b]")
                text = f"a: {bar.text()}"
                cells = 2 + len(text) + 1  # 中 is twice as wide as a letter
                for columns in (1, 20, cells - 1, cells, cells + 10, 300):
                    console = Console(width=columns, color_system=None, markup=False)
                    with console.capture() as shown:
                        console.print(display)
                    (line,) = shown.get().splitlines()
                    assert (text in line) is (columns >= cells)


# ---- on a terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError


@pytest.mark.parametrize(("term", "live"), [("xterm-256color", True), ("dumb", False), ("unknown", False)])
def test_a_terminal_gets_a_live_bar_unless_it_is_a_dumb_one(
    monkeypatch: pytest.MonkeyPatch, term: str, live: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", term)
    assert Display().live is live
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert Display().live is False


def test_the_live_bar_is_drawn_over_and_leaves_one_line(time: Clock) -> None:
    bars = []
    with terminal() as written:
        with Display(live=True).stage("sft", total=4, unit="step") as bar:
            for step in range(5):
                time.now += 1
                bar.update(step)
                (line,) = screen(written.getvalue())
                bars.append(line)
            bar.note("saved")
            assert screen(written.getvalue()) == ["  saved", bars[-1]]
        assert bars[2].endswith("  sft: 2/4 step · 1/s · ETA 0:02 · 0:03")
        # What stays on the screen are whole lines; the bar is gone.
        assert screen(written.getvalue()) == ["  saved", "  sft: 4/4 step · 1/s · 0:05"]


def test_bars_nest_and_an_inner_one_goes_when_it_is_done(time: Clock) -> None:
    with terminal() as written:
        display = Display(live=True)
        with display.stage("outer", total=2, unit="round") as outer:
            time.now += 1
            outer.update(1)
            with display.stage("inner", total=4, unit="step") as inner:
                time.now += 1
                inner.update(2)
                first, second = screen(written.getvalue())
                assert "outer: 1/2 round · 0:02" in first and "inner: 2/4 step · 0:01" in second
                assert first.index("outer") == second.index("inner")
            first, second = screen(written.getvalue())
            assert first == "  inner: 2/4 step · 0:01" and "outer: 1/2" in second
        assert [line.split(":")[0] for line in screen(written.getvalue())] == ["  inner", "  outer"]


def test_the_live_bar_is_not_drawn_more_often_than_eyes_follow(time: Clock) -> None:
    with terminal() as written, Display(live=True).stage("a", total=1000, unit="x") as bar:
        for step in range(1000):
            time.now += 0.001
            bar.update(step)
        assert 9 <= written.getvalue().count("/1000 x") <= 12


@pytest.mark.parametrize("columns", [120, 80, 40])
def test_nothing_wraps_in_a_narrow_terminal(columns: int) -> None:
    written, _ = through_a_terminal(
        "with display.stage('pretrain', total=9, unit='step', budget_s=60) as bar:\n"
        "    for i in range(3):\n"
        "        bar.update(i, loss=1.2345, tokens=123456, balance=0.5)\n"
        "        with display.stage('held-out', total=2, unit='text') as inner: time.sleep(0.12); inner.update(1)\n",
        columns,
    )
    pieces = re.split(r"[\r\n]|\x1b\[1A|\x1b\[2K", re.sub(r"\x1b\[[0-9;]*m", "", written).strip())
    assert sum("  pretrain: " in piece for piece in pieces) > 5 and sum("  held-out: " in piece for piece in pieces) > 5
    assert all(len(piece) <= columns for piece in pieces[:-1]) and pieces[-1].endswith("balance 0.5")


def test_what_others_print_stands_above_the_bars() -> None:
    long = "/a/long/path" * 9
    written, _ = through_a_terminal(
        "with display.stage('a', total=9, unit='step') as bar:\n"
        "    print('[b]no markup[/b] :smile:', end='', flush=True)\n"
        f"    time.sleep(0.12); bar.update(1); print({long!r}); print('trouble', file=sys.stderr)\n"
        "    time.sleep(0.12); bar.update(2)",
        60,
    )
    # The long line is left to the terminal: what is copied from there is one line too.
    assert screen(written)[:3] == ["[b]no markup[/b] :smile:", long, "trouble"]
    assert screen(written)[3].startswith("  a: 2/9 step") and len(screen(written)) == 4


def test_what_goes_to_a_file_stays_out_of_the_terminal(tmp_path: Path) -> None:
    with open(tmp_path / "out.txt", "w") as file:
        code = "with display.stage('a', total=9, unit='step') as bar: print('{}'); bar.update(1)"
        written, _ = through_a_terminal(code, 80, stdout=file)
    assert (tmp_path / "out.txt").read_text() == "{}\n"
    assert "a: 0/9 step" in written and "{}" not in written


@pytest.mark.parametrize("end", ["raise KeyboardInterrupt", "1 / 0", "os.kill(os.getpid(), 9)"])
def test_however_it_ends_the_terminal_can_be_used(end: str) -> None:
    """`screen` fails at a code that hides the cursor, and after kill -9 nothing could show it again."""
    bars = "with display.stage('a', 9, 'step'), display.stage('b', 9, 'step') as bar"
    code = f"{bars}: time.sleep(0.12); bar.update(1); {end}"
    written, status = through_a_terminal(code, 80)
    lines = screen(written)
    assert status != 0
    if "kill" in end:
        assert len(lines) == 2 and "a: 0/9" in lines[0]
    else:
        assert lines[0].startswith("Traceback") and not any("0/9" in line for line in lines)


def test_rich_is_imported_only_for_a_live_display() -> None:
    code = "with display.stage('a', 9, 'step') as bar: bar.update(1)\nprint('rich' in sys.modules)"
    assert through_a_terminal(code, 80)[0].endswith("True\n")
    assert through_a_terminal(code, 80, stderr=subprocess.DEVNULL)[0] == "False\n"


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

"""The display shows what matters where there is room; metrics.jsonl survives being cut off anywhere."""

import json
import math
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.progress import PLAIN_SECONDS, Bar, Display, MetricsLog, clock, human


class Clock:
    """Stands in for time.monotonic, so that no test waits or measures."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# ---- numbers


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"), (9999, "9999"), (10_000, "10k"), (12_345, "12.3k"), (999_499, "999k"), (999_500, "1M"),
        (-3.5, "-3.5"), (0.0, "0"), (0.01234567, "0.01235"), (1.5e-5, "1.5e-05"), (9999.6, "10k"), (2.5e9, "2.5G"), (3e12, "3T"),
        (math.nan, "nan"), (-math.inf, "-inf"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float, shown: str) -> None:
    assert human(value) == shown


@given(st.floats(1e-4, 9.99e14) | st.integers(1, 10**14), st.sampled_from([1, -1]))
def test_a_shown_number_is_near_and_never_in_powers(size: float, sign: int) -> None:
    value = size * sign
    text = human(value)
    found = re.fullmatch(r"(-?[\d.]+)([kMGT]?)", text)
    assert found is not None and len(text) <= 10
    read = float(found[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[found[2]]
    assert abs(read - value) <= 0.00501 * abs(value)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0:00"), (0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00"), (86_399, "23:59:59")],
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


# ---- bars


def test_the_bar_tells_rate_and_time_left(fake: Clock) -> None:
    with Display(quiet=True).stage("pretrain", 100, "steps", budget_s=120) as bar:
        fake.now += 10
        bar.update(0)
        fake.now += 10
        bar.update(50, loss=3.14159, tokens=123_456)
        assert bar.text() == "50/100 steps · 2.5/s · ETA 0:20 · 0:20 of 2:00 · loss 3.142 · tokens 123k"
        bar.update(100, loss=2.0)
        assert bar.text() == "100/100 steps · 5/s · 0:20 of 2:00 · loss 2 · tokens 123k"


def test_what_an_earlier_attempt_did_does_not_count_towards_the_rate(fake: Clock) -> None:
    with Display(quiet=True).stage("pretrain", 100, "steps") as bar:
        bar.update(90)
        fake.now += 10
        bar.update(95)
        assert bar.text() == "95/100 steps · 0.5/s · ETA 0:10 · 0:10"


def test_a_bar_without_a_total_or_an_update_can_be_shown(fake: Clock) -> None:
    with Display(quiet=True).stage("empty", 0, "rows") as bar:
        assert bar.text() == "0/0 rows · 0:00"
        assert "0/0 rows" in bar.line(80)


@given(columns=st.integers(0, 200), done=st.floats(0, 10), title=st.text("abc", max_size=30))
def test_the_line_fits_and_the_bar_gives_way_first(columns: int, done: float, title: str) -> None:
    bar = Bar(Display(quiet=True), title, 10, "steps", None)
    bar.done, bar.numbers = done, {"loss": 3.5}
    line = bar.line(columns)
    assert len(line) <= columns
    if columns >= len(title) + len(bar.text()) + 4:
        assert line.startswith(f"  {title} ") and line.endswith(bar.text())
    drawn = line.count("━") + line.count("╌")
    assert drawn in (0, 24) or len(line) == columns
    if drawn:
        assert line.count("━") == int(drawn * done / 10)


def test_plain_lines_come_now_and_then_and_at_the_end(fake: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Display(live=False).stage("sft", 1000, "steps") as bar:
        for done in range(1, 1001):
            fake.now += 0.1
            bar.update(done, loss=1.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == math.ceil(100 / PLAIN_SECONDS)
    assert all(line.startswith("  sft: ") for line in lines)
    assert lines[-1].startswith("  sft: 1000/1000 steps") and "\x1b" not in "".join(lines)


def test_a_live_bar_is_drawn_over_and_wiped_before_anything_else_is_said(
    fake: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Display(live=True).stage("sft", 10, "steps") as bar:
        assert "0/10 steps" in capsys.readouterr().err  # a slow first step must not look like nothing
        fake.now += 1
        bar.update(5)
        assert capsys.readouterr().err == f"\r\x1b[2K{bar.line(119)}"
        fake.now += 0.01
        bar.update(6)
        assert capsys.readouterr().err == ""  # too soon to be worth it
        bar.note("saved")
        assert capsys.readouterr().err == "\r\x1b[2K  saved\n"
    assert capsys.readouterr().err == f"\r\x1b[2K  sft: {bar.text()}\n"


def test_nested_bars_and_a_quiet_display(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(live=False)
    with display.stage("outer", 2, "parts") as outer:
        with display.stage("inner", 1, "rows") as inner:
            inner.update(1)
        outer.update(2)
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["  inner", "  outer"]
    with Display(live=True, quiet=True).stage("silent", 1, "rows") as bar:
        bar.update(1)
        bar.note("nothing")
    assert capsys.readouterr() == ("", "")


def test_a_stage_that_fails_does_not_say_that_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(live=False)
    with pytest.raises(ValueError, match="broken"), display.stage("sft", 2, "steps") as bar:
        bar.update(1)
        raise ValueError("broken")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("terminal", "kind", "live"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_live_only_on_a_terminal_that_can(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, kind: str, live: bool
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    monkeypatch.setenv("TERM", kind)
    assert Display().live is live


# ---- metrics.jsonl


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@given(
    whole=st.integers(0, 7),
    torn=st.floats(0, 1, exclude_max=True),
    resume=st.integers(1, 9),
    tail=st.sampled_from([b"", b"\0\0\0", b"\n7\n", b"\n\xe6"]),
)
def test_a_log_cut_off_anywhere_goes_on_as_if_it_had_not_been(
    whole: int, torn: float, resume: int, tail: bytes
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "logs" / "metrics.jsonl"
        log = MetricsLog(path)
        for step in range(1, 9):
            log.log(step, loss=1 / step, note="损失")
        lines = path.read_bytes().splitlines(keepends=True)
        # Without its last brace the torn line is never a row; what follows it is what a crashed file system leaves.
        path.write_bytes(b"".join(lines[:whole]) + lines[whole][: int(torn * (len(lines[whole]) - 1))] + tail)
        MetricsLog(path, resume_step=resume).log(resume + 1, loss=0.5)
        expected = [{"step": s, "loss": 1 / s, "note": "损失"} for s in range(1, min(whole, resume) + 1)]
        assert rows(path) == [*expected, {"step": resume + 1, "loss": 0.5}]


def test_a_new_run_starts_an_empty_log(tmp_path: Path) -> None:
    for resume in (None, 0):
        log = MetricsLog(tmp_path / "m.jsonl", resume)
        assert rows(tmp_path / "m.jsonl") == []
        log.log(1, loss=2.0)


def test_every_row_is_on_disk_at_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m.jsonl")
    for step in range(3):
        log.log(step, loss=float(step), phase="decay")
        assert rows(tmp_path / "m.jsonl")[-1] == {"step": step, "loss": float(step), "phase": "decay"}


def test_a_kill_while_resuming_does_not_cost_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.jsonl"
    log = MetricsLog(path)
    for step in (1, 2, 3):
        log.log(step, loss=0.5)
    before = path.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(path, resume_step=2)
    assert path.read_bytes() == before

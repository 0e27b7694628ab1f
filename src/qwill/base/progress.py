"""One display for everything that takes time: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwill.base.files import write_bytes

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

PLAIN_SECONDS = 10.0


def human(value: float) -> str:
    """Short enough for a bar: up to 9999 as it is or with four digits, from 10k on three digits and a suffix."""
    if isinstance(value, int) and abs(value) < 10_000:
        return str(value)
    # The limits stand where rounding would reach the next power: 999,999 is 1M and not 1e+03k.
    if abs(value) < 9999.5 or not math.isfinite(value):
        return f"{value:.4g}"
    for limit, unit, suffix in ((999.5e3, 1e3, "k"), (999.5e6, 1e6, "M"), (999.5e9, 1e9, "G")):
        if abs(value) < limit:
            return f"{value / unit:.3g}{suffix}"
    return f"{value / 1e12:.3g}T"


def clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Bar:
    """One stage's progress; `update(done, loss=…)` as often as you like, it draws only when that is worth it."""

    def __init__(self, display: Display, title: str, total: float, unit: str, budget_s: float | None) -> None:
        self.display, self.title, self.total, self.unit, self.budget_s = display, title, total, unit, budget_s
        self.started = self.shown = time.monotonic()
        self.first: tuple[float, float] | None = None
        self.done = 0.0
        self.numbers: dict[str, Any] = {}

    def update(self, done: float, **numbers: Any) -> None:
        if self.first is None:
            # Neither what an earlier attempt had done nor the time to load things counts towards the rate.
            self.first = done, time.monotonic()
        self.done = done
        self.numbers.update(numbers)
        self.display.draw(self)

    def note(self, text: str) -> None:
        self.display.say(f"  {text}")

    def text(self) -> str:
        now = time.monotonic()
        elapsed = now - self.started
        first, since = self.first or (0.0, now)
        rate = (self.done - first) / (now - since) if now - since > 0.2 else 0.0
        parts = [f"{human(self.done)}/{human(self.total)} {self.unit}"]
        if rate > 0:
            parts.append(f"{human(rate)}/s")
            if self.done < self.total:
                parts.append(f"ETA {clock((self.total - self.done) / rate)}")
        parts.append(clock(elapsed) + (f" of {clock(self.budget_s)}" if self.budget_s else ""))
        parts += [f"{k} {human(v) if isinstance(v, int | float) else v}" for k, v in self.numbers.items()]
        return " · ".join(parts)


class Display:
    """`live`: None finds out whether standard error is a terminal; `quiet` shows nothing (tests)."""

    def __init__(self, live: bool | None = None, quiet: bool = False) -> None:
        self.quiet = quiet
        terminal = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")  # rich would draw nothing
        self.live = not quiet and (terminal if live is None else live)
        self._bars: list[Bar] = []
        self._screen: Live | None = None
        self._drawn = 0.0

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, title: str, total: float, unit: str, budget_s: float | None = None) -> Iterator[Bar]:
        """A bar for `total` units of work; bars nest, an inner one is drawn below the outer ones."""
        bar = Bar(self, title, total, unit, budget_s)
        self._bars.append(bar)
        try:
            with self._open_screen() if self.live and self._bars == [bar] else nullcontext():
                self.draw(bar)
                yield bar
        finally:
            self._bars.remove(bar)
        self.say(f"  {title}: {bar.text()}")

    def draw(self, bar: Bar) -> None:
        now = time.monotonic()
        if self._screen:
            if now - self._drawn > 0.1:
                self._drawn = now
                self._screen.refresh()
        elif now - bar.shown > PLAIN_SECONDS:
            bar.shown = now
            self.say(f"  {bar.title}: {bar.text()}")

    def _open_screen(self) -> Live:
        """Until the outermost stage ends, rich draws the bars below whatever is printed, by us or by others."""
        from rich.console import Console
        from rich.live import Live

        class Terminal(Console):
            def show_cursor(self, show: bool = True) -> bool:
                return False  # never hidden: after kill -9 nobody would bring it back

        console = Terminal(stderr=True, force_terminal=True, soft_wrap=True, markup=False, emoji=False, highlight=False)
        taken = sys.stdout.isatty()  # what goes to a file or a pipe is not for the terminal
        self._screen = Live(self, console=console, auto_refresh=False, transient=True, redirect_stdout=taken)
        return self._screen

    def __rich__(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Column, Table

        # Only the bars may shrink: in a narrow terminal they give way to the numbers.
        table = Table.grid("", Column(no_wrap=True), padding=(0, 0, 0, 2), pad_edge=True)
        for bar in self._bars:
            table.add_row(ProgressBar(bar.total or None, bar.done, width=24), f"{bar.title}: {bar.text()}")
        return table


SILENT = Display(quiet=True)


class MetricsLog:
    """`metrics.jsonl`, one object a step. Resuming drops the steps after `resume_step` and a line cut off by a kill."""

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept: list[bytes] = []
        if resume_step and path.exists():
            for line in path.read_bytes().split(b"\n"):
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict) and isinstance(row.get("step"), int) and row["step"] <= resume_step:
                    kept.append(line + b"\n")
        write_bytes(path, b"".join(kept))  # whole or not at all: a kill right here must not cost the history
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (lives as long as the run)

    def log(self, step: int, **numbers: Any) -> None:
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()

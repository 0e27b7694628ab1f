"""Runs for the sandbox's tests. Where a machine can't contain programs, each of them checks that it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable

import pytest

from qwill.evaluate.sandbox import Limits, Outcome, SandboxError, run_python

# Not through our launcher: an own judgement of whether this machine lets us make the namespaces and mount in them.
_PROBE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(0 if libc.unshare(0x7e020000) == 0 and libc.mount(b"", b"/", b"", 0x44000, None) == 0 else 1)
"""
CONTAINED = sys.platform.startswith("linux") and (
    subprocess.run([sys.executable, "-c", _PROBE], capture_output=True).returncode == 0
)
# For programs that try things: each prints what came through.
HELPERS = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def tries(name, attempt):
    try:
        result = attempt()
    except BaseException as error:
        return
    print("CAME THROUGH", name, result)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
"""


def contained(program: str, stdin: str = "", limits: Limits | None = None) -> Outcome:
    """The outcome of a program (dedented, after HELPERS); on a machine that can't contain it, the test ends as skipped
    once the refusal was checked."""
    text = HELPERS + textwrap.dedent(program)
    if not CONTAINED:
        with pytest.raises(SandboxError, match=r"can't be contained on this machine .*unsafe=True"):
            run_python(text, stdin, limits)
        pytest.skip("no namespaces on this machine: the sandbox refused, as it must")
    return run_python(text, stdin, limits)


def nothing_came_through(program: str, stdin: str = "", limits: Limits | None = None) -> None:
    """Every attempt failed, and the program lived to its last line."""
    outcome = contained(textwrap.dedent(program) + "\nprint('at the end')\n", stdin, limits)
    assert outcome.ended == "exit" and outcome.status == 0, outcome
    assert outcome.stdout == "at the end\n", outcome.stdout


def processes_named(name: str) -> list[int]:
    """Processes of this machine with that name (comm, at most 15 characters)."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/comm") as f:
                    if f.read().strip() == name:
                        found.append(int(entry))
            except OSError:
                continue
    return found


def fresh_name() -> str:
    return f"qw{os.urandom(5).hex()}"


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)

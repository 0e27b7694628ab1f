"""What a run gives back, what its limits take, and that it refuses where it can't contain."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.evaluate.sandbox_runs import CONTAINED, contained

import qwill
from qwill.base.errors import ConfigError
from qwill.evaluate.containment import containment
from qwill.evaluate.sandbox import Limits, SandboxError, run_many, run_python

# Runs another Python where no namespaces can be had: inside a namespace that allows no further ones.
WITHOUT_NAMESPACES = """
import ctypes, os, sys
user = os.geteuid()
if ctypes.CDLL(None).unshare(0x10000000):
    sys.exit("no namespace to begin with")
try:
    open("/proc/self/setgroups", "w").write("deny")
except OSError:
    pass
open("/proc/self/uid_map", "w").write(f"0 {user} 1")
open("/proc/sys/user/max_user_namespaces", "w").write("0")
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


def test_a_run_gives_back_what_the_program_did() -> None:
    outcome = contained("import sys\nprint(sys.stdin.read() * 2)\nprint('!', file=sys.stderr)\nsys.exit(7)", "é你")
    assert (outcome.ended, outcome.status, outcome.ok) == ("exit", 7, False)
    assert (outcome.stdout, outcome.stderr) == ("é你é你\n", "!\n")
    assert 0 < outcome.cpu_seconds < outcome.seconds + 1 and 1 < outcome.peak_mib < 100
    assert outcome.missing == ()


def test_a_program_that_kills_itself() -> None:
    outcome = contained("os.kill(os.getpid(), 11)")
    assert (outcome.ended, outcome.status, outcome.ok) == ("signal", 11, False)


@settings(max_examples=10, deadline=None)
@given(st.text(), st.integers(0, 255))
@example("\r\n\r\n\x00\x85\u2028", 1)
def test_text_and_status_come_through_unchanged(text: str, status: int) -> None:
    outcome = contained(f"sys.stdout.write(sys.stdin.read()); sys.stdout.write({text!r}); sys.exit({status})", text)
    assert (outcome.stdout, outcome.status) == (text + text, status)


def test_text_that_is_no_unicode_is_no_trouble() -> None:
    outcome = contained("sys.stdout.buffer.write(b'\\xff\\x00a'); print('\\ud800'.encode('utf-8', 'replace'))")
    assert outcome.stdout.startswith("\ufffd\x00a") and outcome.ok
    assert "SyntaxError" in contained("x = '\ud800").stderr
    null = contained("a\0b")  # a SyntaxError from Python 3.11.4 on, before that a NameError
    assert not null.ok and "Error" in null.stderr


def test_the_standard_library_works() -> None:
    outcome = contained("""
        import asyncio, bz2, collections, ctypes, dataclasses, datetime, decimal, fractions, functools, hashlib, heapq
        import itertools, json, lzma, math, random, re, secrets, sqlite3, statistics, string, tempfile, threading, zlib
        async def main():
            return await asyncio.gather(*(asyncio.sleep(0.001, n) for n in range(3)))
        with tempfile.TemporaryDirectory() as folder:
            base = sqlite3.connect(folder + "/x.db")
            base.execute("create table t (x)")
            base.commit()
        thread = threading.Thread(target=lambda: print(asyncio.run(main()), hashlib.sha256(b"").hexdigest()[:8]))
        thread.start()
        thread.join()
    """)
    assert outcome.stdout == "[0, 1, 2] e3b0c442\n" and outcome.ok, outcome.stderr


def test_many_at_once_keep_their_order() -> None:
    contained("")
    outcomes = run_many([f"print({n})" for n in range(24)], workers=8)
    assert [outcome.stdout for outcome in outcomes] == [f"{n}\n" for n in range(24)]


def test_no_descriptor_is_lost() -> None:
    contained("")
    before = len(os.listdir("/proc/self/fd"))
    for program in ("pass", "print('x' * 10**6)", "while True: pass"):
        run_python(program, limits=Limits(seconds=0.3, output_kib=1))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["seconds", "memory_mib", "processes", "output_kib"])
def test_limits_must_be_above_zero(name: str) -> None:
    with pytest.raises(ConfigError, match=f"limit {name} is 0; give a number above 0"):
        Limits(**{name: 0})  # type: ignore[arg-type]


def test_less_memory_than_python_needs_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="limit memory_mib is 20; Python needs 64 to start"):
        Limits(memory_mib=20)
    assert contained("print(1)", limits=Limits(memory_mib=64)).ok


def test_a_program_too_large_for_its_folder_is_one_sentence() -> None:
    with pytest.raises(SandboxError, match="must fit into half of the sandbox's scratch folder of 1 MiB"):
        run_python("pass", "x" * 600_000, Limits(scratch_mib=1))


def test_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(SandboxError, match=r"can't be contained on Linux riscv64; run this on Linux on x86_64 or"):
        run_python("pass")


def _without_namespaces(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", WITHOUT_NAMESPACES, code], capture_output=True, text=True)
    if "no namespace to begin with" in done.stderr:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout + done.stderr.strip()[-2000:]


def test_it_refuses_in_one_sentence_where_namespaces_can_not_be_had() -> None:
    said = _without_namespaces("from qwill.evaluate.sandbox import *; print(run_python('print(1)'))")
    last = said.splitlines()[-1]
    assert last.startswith(
        "qwill.evaluate.sandbox.SandboxError: programs that a model wrote can't be contained on this"
    )
    assert last.endswith("or accept the risk with unsafe=True (--unsafe).")
    assert "user.max_user_namespaces" in last and "Outcome" not in said


def test_unsafe_runs_behind_the_walls_that_are_left_and_names_the_others(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("private")
    program = f"print('ran')\nopen('here', 'w').write('x')\nopen({str(tmp_path / 'file')!r})"
    said = _without_namespaces(
        f"from qwill.evaluate.sandbox import *; o = run_python({program!r}, unsafe=True)\n"
        "print(o.stdout.strip(), o.missing[0].partition(':')[0], o.stderr.strip().splitlines()[-1][:15])\n"
        "import os, tempfile; print([n for n in os.listdir(tempfile.gettempdir()) if n.startswith('qwill-unsafe')])"
    )
    assert said.startswith("ran namespaces PermissionError"), said
    assert said.rstrip().endswith("[]")


def test_unsafe_is_as_safe_as_ever_where_all_can_be_had() -> None:
    contained("")
    outcome = run_python("import os; print(os.getpid() < 10, os.path.exists('/etc/passwd'))", unsafe=True)
    assert (outcome.stdout, outcome.missing) == ("True False\n", ())


def test_containment_is_found_out_by_trying() -> None:
    found = containment()
    assert found.complete == CONTAINED
    if CONTAINED:
        assert [name for name, held in found.walls.items() if not held] in ([], ["list"])
        assert found.sentences[0].startswith("programs that a model wrote are contained here (Linux ")
        assert len(found.sentences) == 1 + len(found.walls) and all(s.endswith(".") for s in found.sentences)
    else:
        assert len(found.sentences) == 1 and "unsafe=True" in found.sentences[0]


def test_containment_says_what_does_not_hold() -> None:
    said = _without_namespaces("from qwill.evaluate.containment import containment as c; print(c().sentences, c(True))")
    assert "can't be contained on this machine" in said
    assert "complete=False" in said and "files are bounded one by one, NOT in all." in said


def test_it_needs_no_root() -> None:
    """All walls for a user without any rights, who is not us."""
    if os.geteuid() != 0:
        pytest.skip("the other tests run without root already")
    contained("")
    nobody: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": [], "capture_output": True, "text": True}
    needed = "import sys; assert sys.version_info >= (3, 11)"
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            if subprocess.run([python, "-I", "-c", needed], **nobody).returncode == 0:
                break
        except OSError:
            continue
    else:
        pytest.skip("no Python that a user other than root may run")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        source = Path(qwill.__file__).parent
        for room in ("base", "data", "evaluate"):
            shutil.copytree(source / room, Path(folder) / "qwill" / room, ignore=shutil.ignore_patterns("__pycache__"))
            (Path(folder) / "qwill" / room / "__init__.py").write_text("")
        (Path(folder) / "qwill" / "__init__.py").write_text("")
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        code = "import os; from qwill.evaluate.containment import containment; c = containment(); print(c, os.getuid())"
        environment = {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([python, "-c", code], env=environment, cwd="/", **nobody)
    assert "complete=True" in done.stdout and done.stdout.rstrip().endswith("65534"), done.stdout + done.stderr

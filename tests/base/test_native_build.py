"""C files become libraries where there is a compiler; where there is none, or it fails, that is said by None."""

import ctypes
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qwill.base.native_build import compile_library

SOUND = "#include <math.h>\nint twice(int x) { return 2 * x; }\ndouble root(double x) { return sqrt(x); }\n"
COMPILER = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with one C file, made up for this test, and a cache of its own."""
    folder = tmp_path / "made_up_native"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "twice.c").write_text(SOUND)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("QWILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, folder.name, raising=False)
    importlib.invalidate_caches()
    return folder.name


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make a compiler of a few lines of shell; it notes each call in the file `calls`."""

    def make(script: str, name: str = "fake-cc") -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{script}\n')
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))
        return path

    return make


def cached(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "native"
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def test_a_c_file_becomes_a_library_once(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this machine has a compiler; where it has none, Qwill runs without, and that is what None says."""
    monkeypatch.delenv("CC", raising=False)
    library = compile_library("twice.c", package)
    assert (library is not None) == (COMPILER is not None)
    if library is None:
        return
    library.root.restype, library.root.argtypes = ctypes.c_double, [ctypes.c_double]
    assert library.twice(21) == 42 and library.root(9.0) == 3.0
    (name,) = cached(tmp_path)
    before = (tmp_path / "cache" / "native" / name).stat().st_mtime_ns
    assert compile_library("twice.c", package) is not None
    assert cached(tmp_path) == [name] and (tmp_path / "cache" / "native" / name).stat().st_mtime_ns == before
    # Other code is another library, and the old one stays for whoever runs it.
    (tmp_path / package / "twice.c").write_text(SOUND.replace("2 * x", "3 * x"))
    changed = compile_library("twice.c", package)
    assert changed is not None and changed.twice(21) == 63 and len(cached(tmp_path)) == 2


def test_without_a_compiler(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert compile_library("twice.c", package) is None
    monkeypatch.setenv("CC", "no-such-compiler")
    assert compile_library("twice.c", package) is None
    assert cached(tmp_path) == []


@pytest.mark.parametrize(
    "script",
    [
        "echo 'fatal error: no' >&2; exit 1",
        'case "$*" in *-shared*) exit 1;; esac',  # compiles, but cannot link
        "exit 0",  # says that it did, and wrote nothing
        "kill -9 $$",
    ],
)
def test_a_compiler_that_fails(package: str, tmp_path: Path, fake: Callable[[str], Path], script: str) -> None:
    fake(script)
    assert compile_library("twice.c", package) is None
    assert (tmp_path / "calls").exists() and cached(tmp_path) == []


def test_a_file_that_is_no_program(package: str, tmp_path: Path, fake: Callable[[str], Path]) -> None:
    fake("").write_bytes(b"\x00\x01")
    assert compile_library("twice.c", package) is None
    assert cached(tmp_path) == []


def test_code_that_does_not_compile(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    (tmp_path / package / "twice.c").write_text("this is not C\n")
    assert compile_library("twice.c", package) is None
    assert cached(tmp_path) == []


def test_a_compiler_with_arguments(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / package / "twice.c").write_text("int twice(int x) { return FACTOR * x; }\n")
    monkeypatch.setenv("CC", f"{COMPILER or 'none'} -DFACTOR=5")
    library = compile_library("twice.c", package)
    assert (library is not None) == (COMPILER is not None)
    assert library is None or library.twice(2) == 10


def test_a_library_that_was_cut_off_is_made_again(
    package: str, tmp_path: Path, fake: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Writes an empty file where the output is asked for: what a machine that went down may leave.
    script = 'while [ "$1" != "-o" ]; do shift; done; : > "$2"'
    fake(script)
    assert compile_library("twice.c", package) is None
    assert cached(tmp_path) == []
    if COMPILER is not None:
        fake(f'exec {shutil.which(COMPILER)} "$@"')
        library = compile_library("twice.c", package)
        assert library is not None and library.twice(4) == 8


def test_two_processes_that_compile_at_once(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from qwill.base.native_build import compile_library\n"
        "import torch; print('ready', flush=True); sys.stdin.readline()\n"
        f"library = compile_library('twice.c', {package!r})\n"
        "print(None if library is None else library.twice(21))"
    )
    command = [sys.executable, "-c", code]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    expected = "42\n" if COMPILER else "None\n"
    assert [child.communicate()[0] for child in children] == [expected, expected]
    assert [child.returncode for child in children] == [0, 0]
    assert len(cached(tmp_path)) == (1 if COMPILER else 0)

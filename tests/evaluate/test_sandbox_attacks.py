"""More attempts to get out or to take more: by the kernel's rarer doors, by floods, by killing those who watch."""

from __future__ import annotations

import os
import platform
import signal
import threading
from pathlib import Path

import pytest
from tests.evaluate.sandbox_runs import (
    CONTAINED,
    contained,
    fresh_name,
    nothing_came_through,
    processes_named,
    until,
)

from qwill.base.errors import QwillError
from qwill.evaluate.sandbox import Limits, _scratch_of_unsafe, run_python


def test_a_crash_starts_no_handler_of_the_machine() -> None:
    """A limit of 1 is what keeps the kernel from piping a dump to core_pattern's program (core(5)); it can't be set."""
    nothing_came_through("""
        import resource
        assert resource.getrlimit(resource.RLIMIT_CORE) == (1, 1)
        for limits in ((0, 0), (0, 1), (1, 1), (2, 2)):
            tries("core", lambda: resource.setrlimit(resource.RLIMIT_CORE, limits))
    """)
    outcome = contained("print(os.listdir('/tmp'), flush=True)\nos.abort()")
    assert (outcome.ended, outcome.status, outcome.stdout) == ("signal", signal.SIGABRT, "['program.py']\n")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of x86_64")
def test_the_calls_of_32_bits_end_the_program() -> None:
    outcome = contained("""
        import mmap
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        print("there", flush=True)
        print("CAME THROUGH", ctypes.CFUNCTYPE(ctypes.c_int)(address)())
    """)
    assert (outcome.ended, outcome.status, outcome.stdout) == ("signal", signal.SIGSYS, "there\n")


def test_no_socket_has_a_name_and_none_carries_a_file() -> None:
    nothing_came_through("""
        import socket
        one, other = socket.socketpair()
        tries("abstract name", lambda: one.bind("\\0qwill"))
        tries("file name", lambda: one.bind("/tmp/socket"))
        tries("connect", lambda: one.connect("\\0qwill"))
        tries("listen", one.listen)
        tries("pass a file", lambda: socket.send_fds(one, [b"x"], [0]))
        tries("options", lambda: one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUFFORCE, 1 << 30))
        tries("filters", lambda: one.setsockopt(socket.SOL_SOCKET, 26, b"x" * 16))
        one.sendall(b"so far")
        assert other.recv(9) == b"so far"
    """)


def test_memory_in_the_kernel_is_bounded_too() -> None:
    nothing_came_through("""
        import fcntl, mmap, socket
        tries("a larger pipe", lambda: fcntl.fcntl(os.pipe()[1], fcntl.F_SETPIPE_SZ, 1 << 20))
        tries("signals of files", lambda: fcntl.fcntl(0, fcntl.F_SETOWN, 1))
        tries("leases", lambda: fcntl.fcntl(os.open("/tmp/x", os.O_CREAT | os.O_RDWR), fcntl.F_SETLEASE, 0))
        tries("a file in memory", lambda: os.memfd_create("x"))
        tries("shared memory", lambda: call(29, 1, 1 << 20, 0o1600))
        tries("/dev/shm", lambda: open("/dev/shm/x", "w"))
        from multiprocessing import shared_memory
        tries("shared_memory", lambda: shared_memory.SharedMemory(create=True, size=10))
        held, size = [], 0
        try:
            while True:
                held.append(os.pipe())
                os.set_blocking(held[-1][1], False)
                while True:
                    size += os.write(held[-1][1], bytes(1 << 16))
        except BlockingIOError:
            tries("more in one pipe", lambda: os.write(held[-1][1], b"x" * 8192))
        except OSError:
            pass
        try:
            while True:
                pair = socket.socketpair()
                held.append(pair)
                pair[0].setblocking(False)
                try:
                    while True:
                        size += pair[0].send(bytes(1 << 16))
                except BlockingIOError:
                    pass
        except OSError:
            assert size < 64 << 20, size
    """)


def test_links_without_end_are_bounded() -> None:
    outcome = contained("""
        def count(make):
            made = 0
            try:
                while made < 100000:
                    make(made)
                    made += 1
            except OSError:
                pass
            return made
        def deeper(number):
            os.mkdir("d")
            os.chdir("d")
        hard = count(lambda number: os.link("/tmp/program.py", f"/tmp/hard{number}"))
        for number in range(hard):
            os.unlink(f"/tmp/hard{number}")
        soft = count(lambda number: os.symlink("x" * 4000, f"/tmp/soft{number}"))
        for number in range(soft):
            os.unlink(f"/tmp/soft{number}")
        print(hard < 600, soft < 600, count(deeper) < 600)
    """)
    assert outcome.stdout == "True True True\n", outcome


def test_output_without_end_on_both_at_once_is_cut_off() -> None:
    outcome = contained(
        """
        import threading
        def flood(fd):
            while True:
                os.write(fd, b"x" * 65536)
        threading.Thread(target=flood, args=(1,)).start()
        flood(2)
        """,
        limits=Limits(output_kib=100),
    )
    assert outcome.ended == "output" and len(outcome.stdout) + len(outcome.stderr) == 100 * 1024


def test_forks_in_a_new_namespace_and_a_storm_of_threads_are_refused() -> None:
    name = fresh_name()
    outcome = contained(
        f"""
        import signal, threading
        libc.prctl(15, b"{name}", 0, 0, 0)
        assert libc.unshare(0x10000000) != 0 and libc.unshare(0x20000000) != 0
        started = 0
        for _ in range(2000):
            try:
                threading.Thread(target=lambda: None).start()
                pid = os.fork()
            except (OSError, RuntimeError):
                started += 1
                continue
            if pid == 0:
                signal.pause()
        print("refused", started > 0)
        """,
        limits=Limits(seconds=20, processes=3, threads=3),
    )
    assert "refused True" in outcome.stdout, outcome
    assert processes_named(name) == []


def test_when_the_launcher_alone_is_killed_the_program_is_too() -> None:
    if not CONTAINED:
        contained("")
    name = fresh_name()
    code = f"import ctypes; ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\nwhile True: pass"
    ended: list[object] = []

    def run() -> None:
        try:
            ended.append(run_python(code, "", Limits(seconds=120, cpu_seconds=120)))
        except QwillError as error:
            ended.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    until(lambda: len(processes_named(name)) == 1)
    launchers = [pid for pid in _children_of(os.getpid()) if b"sandbox_launcher" in _command_of(pid)]
    assert len(launchers) == 1
    os.kill(launchers[0], signal.SIGKILL)
    until(lambda: processes_named(name) == [])
    runner.join(60)
    assert len(ended) == 1 and isinstance(ended[0], QwillError) and "launcher ended with -9" in str(ended[0])


def _children_of(parent: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry))
        except OSError:
            continue
    return found


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_nothing_is_left_of_a_folder_on_the_disk_however_deep(tmp_path: Path) -> None:
    """Where there are no namespaces, an unsafe program's scratch folder is on the disk."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("private")
    before = os.getcwd()
    with _scratch_of_unsafe() as folder:
        os.chdir(folder)
        try:
            os.symlink(kept, "link")
            os.link(kept / "file", "hard")
            os.symlink("loop", "loop")
            for name in [*("d" * 100 for _ in range(60)), *("e" for _ in range(1500))]:
                os.mkdir(name)
                os.chdir(name)
                os.symlink(kept, "link")
            os.chmod(".", 0)
        finally:
            os.chdir(before)
    assert not os.path.lexists(folder)
    assert (kept / "file").read_text() == "private" and os.listdir(kept) == ["file"]

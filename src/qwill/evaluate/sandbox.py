"""Programs that a model wrote, run where they can do no harm: without Docker, without root.

    run_python("print(6 * 7)").stdout                 # "42\\n"
    run_python("while True: pass").ended              # "time"

Each run is a fresh interpreter in namespaces of its own (user, mount, process, network, IPC, host name, cgroup), before
a file system that holds Python's standard library read-only and a small scratch folder, behind landlock, a list of
allowed system calls and resource limits, with an empty environment. sandbox_launcher.py builds it,
containment.py tries what of it holds on a machine, docs/en/sandbox.md says what it contains and what it doesn't.
"""

from __future__ import annotations

import ast
import marshal
import os
import platform
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from qwill.base.errors import ConfigError, QwillError
from qwill.data.workers import available_cores
from qwill.evaluate.sandbox_calls import architectures, call_filter

A = TypeVar("A")
B = TypeVar("B")
_LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
_DEVICES = ("/dev/null", "/dev/urandom")
_PROGRAM = "program.py"
_TICK = 0.25  # seconds
MIB = 2**20
LEAST_MEMORY = 64  # MiB of address space


class SandboxError(QwillError): ...


@dataclass(frozen=True)
class Limits:
    """What one run may use. The whole of it is ended after `seconds` by the clock.

    cpu_seconds: of each process. memory_mib: address space of each process. processes: 1 means that it may start
    threads (at most `threads`) and no process. output_kib: standard output and errors together; more ends the run.
    scratch_mib: all that it can keep in files, in memory and gone with the run. file_mib: one file of it.
    """

    seconds: float = 10.0
    cpu_seconds: int = 10
    memory_mib: int = 1024
    processes: int = 1
    threads: int = 16
    output_kib: int = 1024
    scratch_mib: int = 16
    file_mib: int = 8
    open_files: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"the sandbox's limit {name} is {value}; give a number above 0.")
        if self.memory_mib < LEAST_MEMORY:
            raise ConfigError(
                f"the sandbox's limit memory_mib is {self.memory_mib}; Python needs {LEAST_MEMORY} to start."
            )


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    ended: `exit` by itself with `status`; `signal` by signal number `status`; `time` or `output` at that limit.
    stdout and stderr: what it wrote up to the limit, UTF-8 with what is not replaced.
    seconds: from start to end. cpu_seconds, peak_mib: of the program (0 where it was ended from outside).
    missing: walls that could not be built; only ever not empty where `unsafe` was asked for.
    """

    ended: Literal["exit", "signal", "time", "output"]
    status: int
    stdout: str
    stderr: str
    seconds: float
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0
    missing: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.ended == "exit" and self.status == 0


def run_python(
    program: str,
    stdin: str = "",
    limits: Limits | None = None,
    unsafe: bool = False,
) -> Outcome:
    """Run the text of a program in the sandbox. It finds `stdin` on its standard input and itself as /tmp/program.py.

    Raises SandboxError with one sentence where the program can't be contained on this machine; with `unsafe` it then
    runs behind the walls that can be had, and the outcome's `missing` names the others.
    """
    limits = limits or Limits()
    if not sys.platform.startswith("linux") or platform.machine() not in architectures():
        raise SandboxError(
            f"programs can't be contained on {platform.system()} {platform.machine()}; run this on Linux on "
            f"{' or '.join(architectures())}, or in a virtual machine of that kind."
        )
    size = len(program.encode("utf-8", "replace")) + len(stdin.encode("utf-8", "replace"))
    if size > limits.scratch_mib * MIB // 2:
        raise SandboxError(
            f"a program and its standard input are {size} bytes together, and must fit into half of the sandbox's "
            f"scratch folder of {limits.scratch_mib} MiB; raise its limit scratch_mib."
        )
    with ExitStack() as stack:
        folder = stack.enter_context(_scratch_of_unsafe()) if unsafe else ""
        request = _request(program, stdin, limits, unsafe, folder)
        return _supervise(request, limits, unsafe)


def run_many(
    programs: Sequence[str], limits: Limits | None = None, unsafe: bool = False, workers: int | None = None
) -> list[Outcome]:
    """The outcomes of many programs, in their order; `workers` at a time, by default one for each core.

    Raises as run_python does.
    """
    return in_order(programs, lambda program: run_python(program, "", limits, unsafe), workers)


def in_order(things: Sequence[A], do: Callable[[A], B], workers: int | None = None) -> list[B]:
    """What `do` gives for each of them, `workers` at a time, by default one for each core. The first error ends all
    that has not begun."""
    with ThreadPoolExecutor(workers or available_cores()) as pool:
        running = [pool.submit(do, thing) for thing in things]
        try:
            return [run.result() for run in running]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _scratch_of_unsafe() -> Iterator[str]:
    """A folder on the disk, gone afterwards whatever a program has made in it: links are not followed, and folders in
    folders without end are taken apart from above, for which neither a path nor our stack needs to be long enough."""
    folder = tempfile.mkdtemp(prefix="qwill-unsafe-")
    try:
        yield folder
    finally:
        try:
            _take_apart(folder)
        except OSError:  # something of the program's is still at work in it
            shutil.rmtree(folder, ignore_errors=True)


def _take_apart(folder: str) -> None:
    new, number = secrets.token_hex(8), 0  # a name that the program has not taken
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry)
                continue
            os.chmod(entry, 0o700)
            for inner in list(os.scandir(entry)):
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner, 0o700)  # to move a folder, it must be writable itself
                os.rename(inner, f"{folder}/{new}{number}")
                number += 1
            os.rmdir(entry)
    os.rmdir(folder)


@cache
def _installation() -> dict[str, list[str]]:
    """Paths of the Python that runs us (not of a virtual environment) and of the libraries that it is linked with."""
    python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    prefix = os.path.realpath(sys.base_prefix)
    library = Path(sysconfig.get_path("stdlib")).resolve()
    readable = [python, str(library)]
    if prefix not in ("/usr", "/usr/local"):
        readable.append(f"{prefix}/lib")
    shared = sysconfig.get_config_var("INSTSONAME")
    if sysconfig.get_config_var("Py_ENABLE_SHARED") and shared:
        readable.append(f"{sysconfig.get_config_var('LIBDIR')}/{shared}")
    system = ["/lib64", "/usr/lib64", "/etc/ld.so.cache"]
    if multiarch := sysconfig.get_config_var("MULTIARCH"):
        system += [f"/lib/{multiarch}", f"/usr/lib/{multiarch}"]
    # What the loader has loaded here is where the program's loader will look.
    with open("/proc/self/maps") as maps:
        loaded = {line.split()[-1] for line in maps if " r-xp " in line and "/" in line}
    loaders = {os.path.realpath(path) for path in loaded if "/ld-" in path or "/ld." in path}
    return {
        "python": [python],
        "readable": [path for path in [*readable, *system, *loaders] if os.path.exists(path)],
        "executable": [python, *loaders],
        "hidden": [str(library / name) for name in ("site-packages", "dist-packages")],
    }


def _request(program: str, stdin: str, limits: Limits, unsafe: bool, folder: str) -> dict[str, object]:
    machine = platform.machine()
    place = _installation()
    return {
        "machine": machine,
        "unsafe": unsafe,
        "folder": folder,
        "readable": place["readable"],
        "executable": place["executable"],
        "hidden": place["hidden"],
        "devices": list(_DEVICES),
        "scratch": limits.scratch_mib * MIB,
        "files": 256 + 16 * limits.scratch_mib,
        "put": {_PROGRAM: program.encode("utf-8", "surrogatepass")},
        "stdin": stdin.encode("utf-8", "surrogatepass"),
        # -I -S: nothing of the user's, no site packages; -B: the library is read-only.
        "command": [*place["python"], "-I", "-S", "-B", "-X", "utf8", _PROGRAM],
        "environment": {},
        "landlock": unsafe or _has_landlock(),
        "filter": call_filter(machine, processes=limits.processes > 1),
        "limits": {
            "RLIMIT_CPU": limits.cpu_seconds + 1,
            "RLIMIT_AS": limits.memory_mib * MIB,
            "RLIMIT_FSIZE": limits.file_mib * MIB,
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_NPROC": limits.processes + limits.threads + 1,
            # 0 would keep core files away, and still start the machine's crash handler where core_pattern names one.
            "RLIMIT_CORE": 1,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
            "RLIMIT_SIGPENDING": 256,
        },
    }


@cache
def _has_landlock() -> bool:
    from qwill.evaluate.sandbox_launcher import landlock_version

    return landlock_version() > 0


def _supervise(request: Mapping[str, object], limits: Limits, unsafe: bool) -> Outcome:
    status_read, status_write = os.pipe()
    started = time.monotonic()
    try:
        # Its whole environment is empty, and what it inherits are three pipes and the end of the fourth.
        launcher = subprocess.Popen(
            [*_installation()["python"], "-I", "-S", "-B", str(_LAUNCHER), str(status_write)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            cwd="/",
            pass_fds=(status_write,),
            start_new_session=True,
        )
    except BaseException:
        os.close(status_read)
        raise
    finally:
        os.close(status_write)
    assert launcher.stdin and launcher.stdout and launcher.stderr
    outputs = {"stdout": launcher.stdout.fileno(), "stderr": launcher.stderr.fileno(), "status": status_read}
    try:
        stopped, read = _listen(launcher, marshal.dumps(dict(request)), outputs, started, limits)
    finally:
        _end(launcher)
        os.close(status_read)
        for pipe in (launcher.stdout, launcher.stderr):
            pipe.close()
    seconds = time.monotonic() - started
    out, err = (bytes(read[name]).decode("utf-8", "replace") for name in ("stdout", "stderr"))
    said = [ast.literal_eval(line) for line in bytes(read["status"]).decode("utf-8", "replace").splitlines()]
    for kind, *what in said:
        if kind == "refused":
            raise SandboxError(_refusal(what[0]))
    missing = tuple(wall for kind, *what in said if kind == "missing" for wall in what)
    if stopped:
        return Outcome(stopped, 0, out, err, seconds, missing=missing)
    for kind, *what in said:
        if kind == "ended":
            status, by, cpu, peak = what
            # SIGKILL comes a second after SIGXCPU, to those that do not mind it.
            if by == signal.SIGXCPU or (by == signal.SIGKILL and cpu >= limits.cpu_seconds):
                return Outcome("time", 0, out, err, seconds, cpu, peak / 1024, missing)
            return Outcome("signal" if by else "exit", by or status, out, err, seconds, cpu, peak / 1024, missing)
    raise SandboxError(
        f"the sandbox's launcher ended with {launcher.returncode} before it said what came of the program: "
        f"{err.strip().splitlines()[-1:] or 'nothing was written'}; run `qwill doctor`."
    )


def _listen(
    launcher: subprocess.Popen[bytes],
    request: bytes,
    outputs: Mapping[str, int],
    started: float,
    limits: Limits,
) -> tuple[Literal["time", "output"] | None, dict[str, bytearray]]:
    """(the limit at which it was stopped, what was read of each pipe), when all pipes have ended.

    Nothing is read past the limit: a program that writes faster waits in its pipe, and then it is ended.
    """
    assert launcher.stdin is not None
    to_send = memoryview(len(request).to_bytes(8, "little") + request)
    read: dict[str, bytearray] = {name: bytearray() for name in outputs}
    stopped: Literal["time", "output"] | None = None
    deadline = started + limits.seconds
    with selectors.DefaultSelector() as selector:
        for name, fd in outputs.items():
            os.set_blocking(fd, False)
            selector.register(fd, selectors.EVENT_READ, name)
        os.set_blocking(launcher.stdin.fileno(), False)
        selector.register(launcher.stdin, selectors.EVENT_WRITE, "send")
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0 and stopped is None:
                stopped = "time"
            room = limits.output_kib * 1024 - len(read["stdout"]) - len(read["stderr"])
            if room < 0 and stopped is None:
                stopped = "output"
            if stopped:
                excess = max(0, -room)
                for name in ("stderr", "stdout"):
                    cut = min(excess, len(read[name]))
                    del read[name][len(read[name]) - cut :]
                    excess -= cut
                return stopped, read
            asked = time.monotonic()
            ready = selector.select(min(left, _TICK))
            # We were stopped ourselves (Ctrl-Z, a laptop's lid), and the program with us: that time is not its own.
            deadline += max(0.0, time.monotonic() - asked - 4 * _TICK)
            for key, _ in ready:
                name = key.data
                if name == "send":
                    try:
                        to_send = to_send[os.write(key.fd, to_send[:65536]) :]
                    except BrokenPipeError:
                        to_send = to_send[:0]
                    if not to_send:
                        # Kept open: its end is how the launcher learns that we are gone.
                        selector.unregister(key.fileobj)
                    continue
                part = os.read(key.fd, 65536 if name == "status" else min(65536, room + 1))
                read[name] += part
                if not part:
                    selector.unregister(key.fd)
    return stopped, read


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """Have everything ended, and wait until it is: the launcher goes last."""
    assert launcher.stdin is not None
    launcher.stdin.close()
    try:
        launcher.wait(5)
    except subprocess.TimeoutExpired:
        launcher.kill()
        launcher.wait()


_ADVICE = {
    "namespaces": "let users make user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone; "
    "in a container its seccomp profile must allow it)",
    "file system": "let users mount inside their namespaces (on Ubuntu an AppArmor profile, or sysctl "
    "kernel.apparmor_restrict_unprivileged_userns=0; Linux 5.12 or newer)",
    "seccomp": "use a kernel built with CONFIG_SECCOMP_FILTER",
}


def _refusal(why: str) -> str:
    wall = why.partition(":")[0]
    advice = f"{_ADVICE[wall]}, " if wall in _ADVICE else ""
    return (
        f"programs that a model wrote can't be contained on this machine ({why}); {advice}or accept the risk with "
        "unsafe=True (--unsafe)."
    )

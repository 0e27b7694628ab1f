"""What the sandbox contains on this machine, found out by trying to get out of it."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

from qwill.evaluate.sandbox import Limits, SandboxError, run_python
from qwill.evaluate.sandbox_calls import architectures

# Each tries something and says whether it came through.
_ATTEMPTS = """
import ctypes, errno, json, mmap, os, resource, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
given = json.loads(sys.stdin.read())
def came_through(attempt):
    try:
        return bool(attempt())
    except BaseException:
        return False
def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return True
def network():
    families = [value for name, value in vars(socket).items() if name.startswith("AF_") and value]
    return any(came_through(lambda: socket.socket(family, kind)) for family in families for kind in (1, 2, 3, 5))
def call(number):
    ctypes.set_errno(0)
    return libc.syscall(number, 0, 0, 0, 0, 0) >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS)
def signal_outside():
    os.kill(given["pid"], 0)
    return True
def write(path):
    with open(path, "w") as f:
        f.write("x")
    return True
def fill():
    with open("full", "wb") as f:
        for _ in range(given["scratch_mib"] + 1):
            f.write(bytes(1 << 20))
    return True
tried = {
    "read": lambda: open(given["file"]).read(),
    "write": lambda: write(given["file"]) or write(os.path.dirname(os.__file__) + "/x"),
    "list": lambda: os.listdir("/"),
    "processes": lambda: os.listdir("/proc"),
    "network": network,
    "fork": fork,
    "signals": signal_outside,
    "namespace": lambda: libc.unshare(0x10000000) == 0,
    "trace": lambda: libc.syscall(given["calls"]["ptrace"], 0, 0, 0, 0) == 0,
    "calls": lambda: any(map(call, given["calls"].values())),
    "crash": lambda: resource.getrlimit(resource.RLIMIT_CORE) != (1, 1),
    "memory": lambda: mmap.mmap(-1, given["memory_mib"] << 20),
    "scratch": fill,
    "root": lambda: os.setuid(0) is None,
    "environment": lambda: set(os.environ) - {"HOME", "LC_CTYPE"},
    "descriptors": lambda: [fd for fd in range(3, 256) if came_through(lambda: os.fstat(fd))],
}
print(json.dumps({name: came_through(attempt) for name, attempt in tried.items()}))
"""

# By itself: what comes through takes the place of the program.
_EXECUTE = """
import os
try:
    os.execv("/bin/sh", ["sh", "-c", "echo through"])
except OSError:
    pass
"""

# What holds when the attempt did not come through, and what is open when it did.
_SAID = {
    "read": ("files of yours can't be read", "files of yours CAN be read"),
    "write": ("nothing can be written but the scratch folder", "files outside the scratch folder CAN be written"),
    "list": ("landlock guards the files too", "this kernel has no landlock to guard the files too"),
    "processes": ("there is no /proc", "other processes CAN be seen in /proc"),
    "network": ("no socket can be opened", "sockets CAN be opened"),
    "fork": ("no process can be started", "processes CAN be started"),
    "signals": ("no signal reaches a process outside", "signals CAN reach processes outside"),
    "namespace": ("no namespace can be made", "namespaces CAN be made"),
    "trace": ("nothing can be traced", "processes CAN be traced"),
    "calls": (
        "no io_uring, bpf, perf, userfaultfd, keys, memfd or other processes' memory",
        "io_uring, bpf, perf, userfaultfd, keys, memfd or other processes' memory ARE within reach",
    ),
    "execute": ("nothing but Python can be executed", "other programs CAN be executed"),
    "crash": ("a crash starts no handler of the machine's", "a crash MAY start the machine's crash handler"),
    "memory": ("memory is bounded", "memory is NOT bounded"),
    "scratch": ("what is kept in files is bounded in all", "files are bounded one by one, NOT in all"),
    "root": ("root can't be had", "root CAN be had"),
    "environment": ("the environment is empty", "environment variables CAN be read"),
    "descriptors": ("no open file is inherited", "open files ARE inherited"),
    "time": ("an endless loop is ended with all that it started", "endless loops are NOT ended"),
    "output": ("endless output is cut off", "endless output is NOT cut off"),
}
_OPTIONAL = ("list",)
# Numbers on x86_64 and aarch64.
_CALLS = {
    "ptrace": (101, 117), "io_uring_setup": (425, 425), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "keyctl": (250, 219), "memfd_create": (319, 279), "process_vm_readv": (310, 270),
    "pidfd_open": (434, 434),
}  # fmt: skip


@dataclass(frozen=True)
class Containment:
    """`complete`: every wall that is needed stands. `walls`: what was tried, and whether it held (empty where programs
    can't be contained at all). `sentences`: the sum of it, then one for each wall."""

    complete: bool
    walls: dict[str, bool]
    sentences: tuple[str, ...]


def containment(unsafe: bool = False) -> Containment:
    """Try it, in about a second. `unsafe`: what is left for programs run with unsafe=True."""
    where = f"{platform.system()} {platform.release()}, {platform.machine()}"
    limits = Limits(memory_mib=512, scratch_mib=4)
    try:
        walls = _try(limits, unsafe)
    except SandboxError as error:
        return Containment(False, {}, (str(error),))
    complete = all(held for name, held in walls.items() if name not in _OPTIONAL)
    if complete:
        first = f"programs that a model wrote are contained here ({where}): no root, no Docker."
    else:
        first = f"programs that a model wrote are NOT contained here ({where}); what follows was found by trying."
    return Containment(complete, walls, (first, *(_SAID[name][0 if held else 1] + "." for name, held in walls.items())))


def _try(limits: Limits, unsafe: bool) -> dict[str, bool]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "file"
        file.write_text("private")
        file.chmod(0o666)
        given = {
            "file": str(file),
            "pid": os.getpid(),
            "calls": {name: of[list(architectures()).index(platform.machine())] for name, of in _CALLS.items()},
            "memory_mib": limits.memory_mib + 1,
            "scratch_mib": limits.scratch_mib,
        }
        outcome = run_python(_ATTEMPTS, json.dumps(given), limits, unsafe)
    if not outcome.ok:
        raise SandboxError(
            "the sandbox could not be tried on this machine; its program said: "
            f"{(outcome.stderr.strip().splitlines() or ['nothing'])[-1]}"
        )
    walls = {name: not through for name, through in json.loads(outcome.stdout.splitlines()[-1]).items()}
    walls["execute"] = "through" not in run_python(_EXECUTE, "", limits, unsafe).stdout
    short = Limits(seconds=0.4, output_kib=64)
    walls["time"] = run_python("while True: pass", "", short, unsafe).ended == "time"
    endless = run_python("while True: print('x' * 4000)", "", Limits(seconds=5, output_kib=64), unsafe)
    walls["output"] = endless.ended == "output" and len(endless.stdout) <= 65536
    assert walls.keys() == _SAID.keys()
    return walls

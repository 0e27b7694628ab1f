"""Puts one Python program into a sandbox: a script of its own, started as `python -I -S sandbox_launcher.py FD`.

It reads a request (marshal) from its standard input, builds the walls in the order below and runs the program behind
them. What comes of it goes to FD, a line each: `["missing", walls that could not be built]`, then
`["refused", sentence]` or `["ended", exit status, signal, seconds of CPU, peak KiB]`. Only what Python has built in is
imported, and nothing is shared with the process that asked.

    launcher ── maps users
      └ builder ── new namespaces; makes the file system; kills everything when the caller wants it or is gone
          └ init ── process 1 of the namespace: its end is everyone's end; waits for the program
              └ program ── limits, landlock, seccomp, then exec

Sources: namespaces(7), user_namespaces(7), pivot_root(2), mount_setattr(2), landlock(7), seccomp(2); bubblewrap's order
of mounts.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import struct
import sys
from collections.abc import Callable
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)

_NAMESPACES = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_MS_RDONLY, _MS_REMOUNT, _DETACH = 1, 32, 2
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_PDEATHSIG, _SECCOMP, _CAPBSET_DROP, _NO_NEW_PRIVS, _SIGKILL = 1, 22, 24, 38, 9
_MOUNT_SETATTR, _LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 442, 444, 445, 446
# numbers that differ between architectures: pivot_root, capset
_OWN_CALLS = {"x86_64": (155, 126), "aarch64": (41, 91)}
# The user that the program is, inside; outside it is the caller's, or `nobody` where the caller is root.
_INSIDE, _NOBODY = 1000, 65534
SCRATCH = "/tmp"


class Refused(Exception): ...


def _check(result: int, what: str) -> int:
    if result < 0:
        raise Refused(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _call(number: int, *arguments: Any) -> int:
    return int(_LIBC.syscall(ctypes.c_long(number), *arguments))


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    texts = [os.fsencode(text) for text in (source, target, kind)]
    done = _LIBC.mount(*texts, ctypes.c_ulong(flags), os.fsencode(options) if options else None)
    _check(done, f"mounting {target} ({kind or 'bind'})")


def _say(status: int, *what: object) -> None:
    os.write(status, (repr(list(what)) + "\n").encode("utf-8", "backslashreplace"))


def _read_exactly(fd: int, size: int) -> bytes:
    parts, missing = [], size
    while missing:
        part = os.read(fd, missing)
        if not part:
            os._exit(1)
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _die_with_parent() -> None:
    _LIBC.prctl(_PDEATHSIG, ctypes.c_ulong(_SIGKILL), 0, 0, 0)


def launch(status: int) -> None:
    # Python's own answers to SIGINT, SIGPIPE and SIGXFSZ go, so that process 1 takes no signal from the program; by
    # libc, for Python's module `signal` takes longer to load than all else here.
    for number in (2, 13, 25):
        _LIBC.signal(number, None)
    os.set_inheritable(status, False)
    os.closerange(3, status)
    os.closerange(status + 1, 1 << 20)
    request = marshal.loads(_read_exactly(0, int.from_bytes(_read_exactly(0, 8), "little")))
    unshared, unshared_end = os.pipe()
    mapped_end, mapped = os.pipe()
    builder = os.fork()
    if builder == 0:
        try:
            _die_with_parent()
            os.close(unshared)
            os.close(mapped)
            caller = os.dup(0)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            _build(request, status, unshared_end, mapped_end, caller)
        except Refused as refused:
            _say(status, "refused", str(refused))
        except BaseException as error:
            _say(status, "refused", f"{type(error).__name__} while it was set up: {error}")
        os._exit(1)
    os.close(unshared_end)
    if os.read(unshared, 1):
        try:
            _map_users(builder)
            os.write(mapped, b"+")
        except OSError as error:
            os.write(mapped, (error.strerror or "?").encode()[:200])
    os.close(mapped)
    os.waitpid(builder, 0)


def _map_users(builder: int) -> None:
    root = os.geteuid() == 0
    if not root:
        with open(f"/proc/{builder}/setgroups", "w") as f:
            f.write("deny")
    for name, own in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
        # Root keeps its own id for building, for it may be the only one that can read the Python installation.
        lines = f"0 {own} 1\n{_INSIDE} {_NOBODY} 1\n" if root else f"{_INSIDE} {own} 1\n"
        fd = os.open(f"/proc/{builder}/{name}", os.O_WRONLY)
        try:
            os.write(fd, lines.encode())
        finally:
            os.close(fd)


def _build(request: dict[str, Any], status: int, unshared: int, mapped: int, caller: int) -> None:
    missing: list[str] = []

    def wall(name: str, build: Callable[[], None]) -> bool:
        """Built, or refused; when the caller wants it unsafe, noted as missing."""
        try:
            build()
            return True
        except (Refused, OSError) as error:
            if not request["unsafe"]:
                raise Refused(f"{name}: {error}") from None
            missing.append(f"{name}: {error}")
            return False

    namespaces = wall("namespaces", lambda: _unshare(unshared, mapped))
    view = namespaces and wall("file system", lambda: _make_view(request))
    alive, ours = os.pipe()
    init = os.fork() if namespaces else 0
    if init:
        _kill_when_gone(caller, init)
        # Process 1 can be waited for when all others of its namespace are gone.
        os.waitpid(init, 0)
        os._exit(0)
    try:
        os.setsid()
        wall("user", lambda: (_become_nobody if namespaces else _drop_capabilities)(request["machine"]))
        _check(_LIBC.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        # Only now: a change of user takes it away.
        _die_with_parent()
        if namespaces:
            os.close(ours)
            if select.select([alive], [], [], 0)[0]:
                os._exit(1)  # the builder was killed before we asked to go with it
        program = os.fork()
        if program == 0:
            _run(request, status, view, wall, missing)
        if not namespaces:
            _kill_when_gone(caller, program)
        _wait_for(program, status)
    except Refused as refused:
        _say(status, "refused", str(refused))
    os._exit(0)


def _unshare(unshared: int, mapped: int) -> None:
    _check(_LIBC.unshare(_NAMESPACES), "new user, mount, process, network, IPC, host name and cgroup namespaces")
    os.write(unshared, b"+")
    answer = os.read(mapped, 256)
    if answer != b"+":
        raise Refused(f"mapping users into a namespace: {answer.decode() or 'the launcher is gone'}")
    _LIBC.sethostname(b"sandbox", 7)


def _make_view(request: dict[str, Any]) -> None:
    """A root of nothing but the files named in the request, read-only, and a scratch folder of bounded size."""
    _mount("", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,nr_inodes=1000,mode=755")
    os.mkdir("/tmp/old")
    pivot_root = _OWN_CALLS[request["machine"]][0]
    _check(_call(pivot_root, b"/tmp", b"/tmp/old"), "pivot_root")
    os.chdir("/")
    for path in request["readable"]:
        _expose(path, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)
    for path in request["devices"]:
        _expose(path, _ATTR_RDONLY | _ATTR_NOSUID)
    for path in request["hidden"]:
        if os.path.isdir(path):
            _mount("tmpfs", path, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_RDONLY, "size=4k,nr_inodes=1,mode=755")
    _check(_LIBC.umount2(b"/old", _DETACH), "taking the old root away")
    os.rmdir("/old")
    os.makedirs(SCRATCH)
    limits = f"size={request['scratch']},nr_inodes={request['files']},mode=700,uid={_INSIDE},gid={_INSIDE}"
    _mount("tmpfs", SCRATCH, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, limits)
    _mount("", "/", "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _expose(path: str, attributes: int) -> None:
    """Bind a path of the old root at the same place; links on the way to it are made again."""
    here, rest = "", path.strip("/").split("/")
    while rest:
        here += "/" + rest.pop(0)
        old = "/old" + here
        if os.path.islink(old):
            target = os.readlink(old)
            if not os.path.lexists(here):
                os.symlink(target, here)
            real = os.path.normpath(os.path.join(os.path.dirname(here), target, *rest))
            _expose(real, attributes)
            return
        if not os.path.lexists(old):
            return
        if os.path.lexists(here):
            if not rest and os.path.ismount(here):
                return
            continue
        if rest or os.path.isdir(old):
            os.mkdir(here, 0o755)
        else:
            os.close(os.open(here, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount("/old" + here, here, "", _MS_BIND | _MS_REC)
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd; AT_FDCWD, AT_RECURSIVE.
    wanted = struct.pack("=QQQQ", attributes, 0, 0, 0)
    done = _call(_MOUNT_SETATTR, -100, here.encode(), 0x8000, wanted, ctypes.c_size_t(len(wanted)))
    _check(done, f"making {here} read-only (mount_setattr, Linux 5.12)")


def _become_nobody(machine: str) -> None:
    root = os.getuid() == 0
    if root:
        os.setgroups([])
        os.setresgid(_INSIDE, _INSIDE, _INSIDE)
    _drop_bounding_set()
    if root:
        os.setresuid(_INSIDE, _INSIDE, _INSIDE)
    _drop_capabilities(machine)


def _drop_capabilities(machine: str) -> None:
    # struct __user_cap_header_struct of version 3, and two empty sets.
    header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _check(_call(_OWN_CALLS[machine][1], header, none), "dropping capabilities")


def _drop_bounding_set() -> None:
    for capability in range(64):
        if _LIBC.prctl(_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break  # past the last one that this kernel knows


def _kill_when_gone(caller: int, process: int) -> None:
    """Wait for a process; when the caller closes its pipe, into which it never writes again, kill it."""
    waiting = select.poll()
    waiting.register(caller, 0)
    waiting.register(os.pidfd_open(process), select.POLLIN)
    if caller in dict(waiting.poll()):
        os.kill(process, _SIGKILL)


def _wait_for(program: int, status: int) -> None:
    pid, code, usage = os.wait3(0)
    while pid != program:
        pid, code, usage = os.wait3(0)
    ended, by = (0, os.WTERMSIG(code)) if os.WIFSIGNALED(code) else (os.WEXITSTATUS(code), 0)
    _say(status, "ended", ended, by, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


def _run(
    request: dict[str, Any],
    status: int,
    view: bool,
    wall: Callable[[str, Callable[[], None]], bool],
    missing: list[str],
) -> None:
    """In the program's own process; does not return. In a pid namespace of our own, an end of init ends it too."""
    try:
        _die_with_parent()
        scratch = SCRATCH if view else request["folder"]
        os.chdir(scratch)
        for name, text in request["put"].items():
            with open(name, "wb") as f:
                f.write(text)
        with open(".stdin", "wb") as f:
            f.write(request["stdin"])
        os.dup2(os.open(".stdin", os.O_RDONLY), 0)
        os.unlink(".stdin")
        _limit(request["limits"])
        if request["landlock"]:
            wall("landlock", lambda: _restrict_files(request, scratch))
        wall("seccomp", lambda: _restrict_calls(request["filter"]))
        if missing:
            _say(status, "missing", *missing)
        os.execve(request["command"][0], request["command"], {**request["environment"], "HOME": scratch})
    except BaseException as error:
        _say(status, "refused", f"{error}" if isinstance(error, Refused) else f"{type(error).__name__}: {error}")
    os._exit(127)


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # A second between the signal that may be caught and the one that may not.
        soft = value if name != "RLIMIT_CPU" else max(1, value - 1)
        resource.setrlimit(which, (soft, value))


# Rights by the version of landlock that brought them (landlock(7)): 13 at first, then refer, truncate, ioctl_dev.
_READ = 1 << 2 | 1 << 3  # read_file, read_dir
_EXECUTE = 1 << 0


def landlock_version() -> int:
    """0 where the kernel has none."""
    return max(0, _call(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))


def _restrict_files(request: dict[str, Any], scratch: str) -> None:
    version = landlock_version()
    if not version:
        raise Refused("this kernel has none")
    every = (1 << (13 + min(version - 1, 2) + (version >= 5))) - 1
    network = 3 if version >= 4 else 0
    scoped = 3 if version >= 6 else 0
    attributes = struct.pack("=QQQ", every, network, scoped)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _check(_call(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0), "a landlock rule set")
    writable = every & ~_EXECUTE
    allowed = [(path, _READ) for path in request["readable"]]
    allowed += [(path, _READ | _EXECUTE) for path in request["executable"]]
    allowed += [(path, 1 << 1 | 1 << 2) for path in request["devices"]]
    for path, rights in [*allowed, (scratch, writable)]:
        try:
            fd = os.open(path, os.O_PATH)
        except FileNotFoundError:
            continue
        if not os.path.isdir(path):
            rights &= 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
        rule = struct.pack("=Qi", rights & every, fd)
        _check(_call(_LANDLOCK_ADD, rules, 1, rule, 0), f"a landlock rule for {path}")
        os.close(fd)
    _check(_call(_LANDLOCK_RESTRICT, rules, 0), "landlock")
    os.close(rules)


def _restrict_calls(code: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    program = Program(len(code) // 8, code)
    _check(_LIBC.prctl(_SECCOMP, ctypes.c_ulong(2), ctypes.byref(program), 0, 0), "a seccomp filter")


if __name__ == "__main__":
    launch(int(sys.argv[1]))

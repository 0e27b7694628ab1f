"""Programs that try to get out of the sandbox, or to take more than they are given."""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.evaluate.sandbox_runs import CONTAINED, contained, fresh_name, nothing_came_through, processes_named, until

from qwill.evaluate.sandbox import Limits, run_python
from qwill.evaluate.sandbox_launcher import landlock_version

CALLS = json.loads((Path(__file__).parents[1] / "oracles" / "calls.json").read_text())["calls"]
# Folders of the sandbox's own in which there is nothing of ours, but which landlock lets nobody list.
UNLISTED = ["/", "/dev", "/tmp/..", "/root", "/home"] if landlock_version() else []
DANGEROUS = (
    "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "kcmp",
    "process_madvise", "mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "open_tree", "move_mount",
    "fsopen", "mount_setattr", "mknod", "mknodat", "name_to_handle_at", "open_by_handle_at", "bpf", "perf_event_open",
    "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "io_setup", "keyctl", "add_key",
    "request_key", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot",
    "swapon", "swapoff", "acct", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname",
    "setdomainname", "syslog", "quotactl", "personality", "vhangup", "iopl", "ioperm", "modify_ldt", "lookup_dcookie",
    "socket", "connect", "bind", "listen", "accept", "accept4", "shmget", "shmat", "semget", "msgget", "mq_open",
    "memfd_create", "memfd_secret", "execveat", "clone3", "setuid", "setgid", "setreuid", "setresuid", "setresgid",
    "setgroups", "setfsuid", "capset", "chown", "fchownat", "seccomp", "landlock_restrict_self", "fanotify_init",
    "inotify_init1", "vmsplice", "sendmsg", "recvmsg", "setsockopt", "setrlimit", "timer_create", "rt_sigqueueinfo",
    "rt_tgsigqueueinfo", "process_mrelease", "mount_setattr", "cachestat", "futex_waitv", "sched_setaffinity", "tee",
    "splice", "migrate_pages", "move_pages", "mbind", "set_mempolicy", "mlock", "mlockall", "sched_setscheduler",
    "sched_setattr", "setpriority", "ioprio_set", "timerfd_create", "signalfd4", "setxattr",
)  # fmt: skip


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that everyone on this machine may read and write."""
    folder = tmp_path_factory.mktemp("outside")
    for parent in (folder, folder.parent):
        parent.chmod(0o755)
    (folder / "file").write_text("private")
    (folder / "file").chmod(0o666)
    return folder / "file"


def test_the_network_is_out_of_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        nothing_came_through(f"""
            import socket
            for family in ("INET", "INET6", "UNIX", "NETLINK", "PACKET", "VSOCK", "ALG", "BLUETOOTH", "CAN", "TIPC"):
                for kind in ("STREAM", "DGRAM", "RAW", "SEQPACKET"):
                    number = getattr(socket, "AF_" + family, None)
                    if number is not None:
                        tries(family + kind, lambda: socket.socket(number, getattr(socket, "SOCK_" + kind)))
            tries("connect", lambda: socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 1))
            tries("names", lambda: socket.getaddrinfo("localhost", 80))
            tries("pair", lambda: socket.socketpair(socket.AF_INET))
            tries("interfaces", lambda: [n for n in socket.if_nameindex() if n[1] != "lo"])
        """)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_files_outside_can_not_be_read(outside: Path) -> None:
    nothing_came_through(f"""
        paths = {[str(outside), "/etc/passwd", "/etc/hostname", "/sys", "/var", *UNLISTED]}
        for path in paths:
            tries("open " + path, lambda: open(path).read())
            tries("list " + path, lambda: os.listdir(path))
            for way in ("/tmp/../.." + path, "/tmp/./..//../" + path, "/proc/1/root" + path, "/old" + path):
                tries("open " + way, lambda: open(way).read())
        for up in range(12):
            tries("up", lambda: open("../" * up + paths[0].lstrip("/")).read())
        tries("stat", lambda: os.stat(paths[0]))
        os.chdir("/")
        tries("from the root", lambda: open(paths[0].lstrip("/")).read())
    """)


def test_files_outside_can_not_be_written(outside: Path) -> None:
    library = Path(os.__file__).parent
    before = {path: path.stat().st_mtime_ns for path in (library, library / "os.py", outside.parent)}
    nothing_came_through(f"""
        import shutil
        library, outside = os.path.dirname(os.__file__), {str(outside)!r}
        for path in (outside, library + "/os.py", library + "/new", "/new", "/dev/new", "/dev/shm/new", sys.executable):
            for mode in ("w", "a", "r+", "x"):
                tries(mode + path, lambda: open(path, mode))
        tries("remove", lambda: os.remove(library + "/os.py"))
        tries("rename", lambda: os.rename(library + "/os.py", library + "/os2.py"))
        tries("rename into", lambda: os.rename("/tmp/program.py", library + "/new"))
        tries("link", lambda: os.link(library + "/os.py", "/tmp/os.py"))
        tries("mkdir", lambda: os.mkdir("/new"))
        tries("chmod", lambda: os.chmod(library + "/os.py", 0o777))
        tries("utime", lambda: os.utime(library + "/os.py"))
        tries("truncate", lambda: os.truncate(library + "/os.py", 0))
        tries("device", lambda: os.mknod("/tmp/disk", 0o60666, os.makedev(8, 0)))
        tries("rmtree", lambda: shutil.rmtree(library))
    """)
    assert outside.read_text() == "private"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_links_lead_nowhere(outside: Path) -> None:
    nothing_came_through(f"""
        outside = {str(outside)!r}
        targets = [outside, "/proc/self/root" + outside, "../../.." + outside, "/proc/1/cwd", *{UNLISTED}]
        for number, target in enumerate(targets):
            link = f"/tmp/link{{number}}"
            os.symlink(target, link)
            tries("read " + target, lambda: open(link).read())
            tries("write " + target, lambda: open(link, "w"))
            tries("list " + target, lambda: os.listdir(link))
        tries("hard", lambda: os.link(outside, "/tmp/hard"))
    """)
    assert outside.read_text() == "private"


def test_there_is_no_proc_and_no_device_of_use() -> None:
    nothing_came_through("""
        for path in ("/proc", "/proc/self/environ", "/proc/self/mem", "/proc/1/root", "/proc/sys", "/sys/kernel"):
            tries(path, lambda: os.stat(path))
        for name in ("mem", "kmsg", "sda", "vda", "tty", "ptmx", "fuse", "kvm", "shm", "fd", "stdin", "net/tun"):
            tries(name, lambda: os.stat("/dev/" + name))
        tries("tty", lambda: os.open("/dev/tty", os.O_RDWR))
        import fcntl, termios
        for fd in (0, 1, 2):
            tries("typing for the user", lambda: fcntl.ioctl(fd, termios.TIOCSTI, b"x"))
    """)


def test_neither_environment_nor_open_files_are_inherited(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWILL_TEST_SECRET", "private")
    kept = os.open(outside, os.O_RDONLY)
    os.set_inheritable(kept, True)
    try:
        nothing_came_through("""
            assert os.environ.keys() <= {"HOME", "LC_CTYPE"}, os.environ
            for fd in range(3, 4096):
                tries(f"descriptor {fd}", lambda: os.fstat(fd))
            tries("standard input", lambda: os.read(0, 1) or 1 / 0)
            tries("its own way back", lambda: open("/tmp/.stdin"))
        """)
    finally:
        os.close(kept)


def test_no_process_can_be_started() -> None:
    nothing_came_through("""
        import multiprocessing, subprocess
        tries("fork", os.fork)
        tries("forkpty", os.forkpty)
        tries("spawn", lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}))
        tries("subprocess", lambda: subprocess.run([sys.executable, "-c", ""]))
        tries("system", lambda: os.system("true") and 1 / 0)
        tries("pool", lambda: multiprocessing.get_context("fork").Process(target=print).start())
        for number in (56, 57, 58, 435, 220):
            tries(f"call {number}", lambda: call(number, 17, 0, 0, 0, 0) or os._exit(0))
    """)


def test_a_fork_bomb_is_bounded_and_leaves_nothing() -> None:
    name = fresh_name()
    bomb = f"""
        import ctypes, os
        libc.prctl(15, b"{name}", 0, 0, 0)
        while True:
            try:
                if os.fork() == 0:
                    os.setsid()
            except OSError:
                print("enough", flush=True)
    """
    counted: list[int] = []
    done = threading.Event()

    def count() -> None:
        while not done.wait(0.05):
            counted.append(len(processes_named(name)))

    counter = threading.Thread(target=count)
    counter.start()
    try:
        outcome = contained(bomb, limits=Limits(seconds=3, processes=4, threads=4))
    finally:
        done.set()
        counter.join()
    assert outcome.ended in ("time", "output")
    assert "enough" in outcome.stdout
    assert 0 < max(counted) <= 10
    assert processes_named(name) == []


def test_threads_are_bounded() -> None:
    outcome = contained("""
        import threading
        wait = threading.Event()
        started = 0
        try:
            while started < 1000:
                threading.Thread(target=wait.wait, daemon=True).start()
                started += 1
        except RuntimeError:
            print(started)
    """)
    assert 0 < int(outcome.stdout) <= 18


def test_what_outlives_its_parent_ends_with_the_run() -> None:
    name = fresh_name()
    outcome = contained(
        f"""
        import time
        libc.prctl(15, b"{name}", 0, 0, 0)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.close(0); os.close(1); os.close(2)
                time.sleep(60)
            os._exit(0)
        time.sleep(0.1)
        """,
        limits=Limits(processes=4),
    )
    assert outcome.ok and outcome.seconds < 10
    assert processes_named(name) == []


def test_memory_is_bounded() -> None:
    limits = Limits(memory_mib=200)
    outcome = contained(
        """
        import mmap
        tries("bytes", lambda: len(bytearray(300 << 20)))
        tries("map", lambda: mmap.mmap(-1, 300 << 20))
        tries("shared map", lambda: mmap.mmap(-1, 300 << 20, mmap.MAP_SHARED))
        tries("raising the limit", lambda: __import__("resource").setrlimit(9, (-1, -1)))
        kept = []
        try:
            while True:
                kept.append(bytearray(1 << 20))
        except MemoryError:
            print("no more")
        """,
        limits=limits,
    )
    assert outcome.stdout == "no more\n" and outcome.status == 0
    assert 50 < outcome.peak_mib < limits.memory_mib


def test_the_scratch_folder_is_bounded() -> None:
    outcome = contained(
        """
        def fill(name, most):
            size = 0
            try:
                with open(name, "wb", buffering=0) as f:
                    while size < most:
                        size += f.write(bytes(1 << 16))
            except OSError:
                pass
            return size
        print(fill("one", 1 << 30) >> 20, sum(fill(f"many{i}", 1 << 20) for i in range(40)) >> 20)
        made = 0
        try:
            while made < 100000:
                os.mkdir(f"d{made}")
                made += 1
        except OSError:
            print(made < 2000)
        tries("sparse", lambda: os.truncate("one", 1 << 40))
        tries("reserved", lambda: os.posix_fallocate(os.open("one", os.O_RDWR), 0, 1 << 30))
        """,
        limits=Limits(scratch_mib=4, file_mib=2),
    )
    first, second, *rest = outcome.stdout.split()
    assert int(first) <= 2 and int(second) <= 4 and rest == ["True"]


@pytest.mark.parametrize(
    "loop",
    [
        "while True: pass",
        "import time\nwhile True: time.sleep(1000)",
        "import signal\nfor n in range(1, 65):\n  try: signal.signal(n, lambda *_: None)\n"
        "  except (OSError, ValueError): pass\nwhile True: pass",
        "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()",
        "try:\n  while True: pass\nfinally:\n  while True: pass",
    ],
)
def test_endless_loops_are_ended(loop: str) -> None:
    name = fresh_name()
    outcome = contained(f"libc.prctl(15, b'{name}', 0, 0, 0)\n{loop}", limits=Limits(seconds=0.5))
    assert outcome.ended == "time" and outcome.seconds < 10
    assert processes_named(name) == []


def test_the_processor_is_bounded_too() -> None:
    """Told by the processor's time of the whole run, which does not grow with what else the machine does. The clock's
    limit is so far off that to be ended by it is a failure."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    outcome = contained("while True: pass", limits=Limits(seconds=600, cpu_seconds=1))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert outcome.ended == "time" and outcome.seconds < 600
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4


@pytest.mark.parametrize("stream", ["sys.stdout", "sys.stderr"])
def test_endless_output_is_cut_off(stream: str) -> None:
    outcome = contained(f"while True: {stream}.write('x' * 65536)", limits=Limits(output_kib=100))
    assert outcome.ended == "output"
    assert len(outcome.stdout) + len(outcome.stderr) == 100 * 1024


def test_no_signal_reaches_us() -> None:
    received: list[int] = []
    before = {number: signal.signal(number, lambda n, _: received.append(n)) for number in (10, 12, 15)}
    try:
        nothing_came_through(f"""
            import signal
            for number in (0, 10, 12, 15, 9, 19):
                for pid in {[os.getpid(), os.getppid(), 3, 4, 5, 100]}:
                    tries(f"kill {{pid}}", lambda: os.kill(pid, number))
                    tries(f"killpg {{pid}}", lambda: os.killpg(pid, number))
            signal.signal(15, signal.SIG_IGN)
            for pid in (1, 0, -1):
                try:
                    os.kill(pid, 15)
                except OSError:
                    pass
            for number in range(1, 65):
                try:
                    os.kill(1, number)
                except OSError:
                    pass
        """)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert received == []


@pytest.mark.skipif(platform.machine() not in CALLS, reason="no numbers of this machine's calls")
def test_dangerous_calls_fail() -> None:
    numbers = {name: CALLS[platform.machine()].get(name) for name in DANGEROUS}
    nothing_came_through(f"""
        for name, number in {numbers}.items():
            if number is None:
                continue
            for arguments in ((0, 0, 0, 0, 0), (1, 1, 1, 0, 0), (16, 2, 0, 0, 0)):
                try:
                    call(number, *arguments)
                    print("CAME THROUGH", name)
                except OSError as error:
                    if error.errno not in (errno.EPERM, errno.ENOSYS):
                        print("REACHED", name, error)
    """)


def test_no_namespace_no_capability_no_other_user() -> None:
    nothing_came_through("""
        for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x2000):
            tries(hex(flag), lambda: 1 / (libc.unshare(flag) == 0))
            for clone in (56, 220):
                tries("clone " + hex(flag), lambda: call(clone, flag | 17, 0, 0, 0, 0))
                tries("thread " + hex(flag), lambda: call(clone, flag | 0x10f00, 0, 0, 0, 0))
        for user in (0, 1, 65534):
            tries("user", lambda: os.setuid(user))
            tries("group", lambda: os.setgid(user))
        assert os.getresuid() == (1000,) * 3 and os.getresgid() == (1000,) * 3
        for option in (4, 8, 22, 23, 24, 28, 38, 47, 59, 36, 1):
            tries(f"prctl {option}", lambda: 1 / (libc.prctl(option, 1, 0, 0, 0) >= 0))
        import resource
        for limit in (resource.RLIMIT_CPU, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
            soft, hard = resource.getrlimit(limit)
            tries("more", lambda: resource.setrlimit(limit, (hard + 1, hard + 1)))
            tries("process 1", lambda: resource.prlimit(1, limit, (1, 1)))
    """)


def test_nothing_but_python_can_be_executed() -> None:
    nothing_came_through("""
        with open("/tmp/script", "w") as f:
            f.write("#!" + sys.executable + "\\nprint('CAME THROUGH')\\n")
        os.chmod("/tmp/script", 0o755)
        import shutil
        shutil.copyfile(sys.executable, "/tmp/python") if os.path.getsize(sys.executable) < 8 << 20 else None
        library = os.path.dirname(os.__file__)
        for path in ("/bin/sh", "/usr/bin/env", "/tmp/script", "/tmp/python", library + "/os.py"):
            tries(path, lambda: os.execv(path, [path]))
    """)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="calls of x86_64 by other numbers")
def test_calls_of_another_architecture_end_the_program() -> None:
    outcome = contained("call(0x40000000 + 39)\nprint('CAME THROUGH')")
    assert (outcome.ended, outcome.status, outcome.stdout) == ("signal", signal.SIGSYS, "")


def test_the_walls_seen_from_outside() -> None:
    """What one wall keeps another may hide from the program: so each is looked at while it runs."""
    if not CONTAINED:
        contained("")
    name = fresh_name()
    code = f"import ctypes, time; ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0); time.sleep(60)"
    runner = threading.Thread(target=run_python, args=(code, "", Limits(seconds=60)))
    runner.start()
    try:
        until(lambda: len(processes_named(name)) == 1)
        there = Path("/proc") / str(processes_named(name)[0])
        for namespace in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
            assert os.readlink(there / "ns" / namespace) != os.readlink(f"/proc/self/ns/{namespace}"), namespace
        status = dict(line.split(":\t") for line in (there / "status").read_text().splitlines() if ":\t" in line)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert "0" not in status["Uid"].split() + status["Gid"].split()
        assert [part.split()[-1] for part in (status["NSpid"], status["NSpgid"], status["NSsid"])] == ["2", "1", "1"]
        assert sorted(os.listdir(there / "fd")) == ["0", "1", "2"]
        mounts = {
            line.split()[4]: line.split()[5].split(",") for line in (there / "mountinfo").read_text().splitlines()
        }
        assert {"/", "/tmp", "/dev/null"} < mounts.keys() and "/old" not in mounts
        assert {"rw", "nosuid", "nodev", "noexec"} <= set(mounts.pop("/tmp"))
        assert all({"ro", "nosuid"} <= set(options) for options in mounts.values()), mounts
    finally:
        for process in processes_named(name):
            os.kill(process, signal.SIGKILL)
        runner.join()


def test_when_we_are_killed_the_program_is_too() -> None:
    if not CONTAINED:
        contained("")
    name = fresh_name()
    code = f"import ctypes; ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\nwhile True: pass"
    ours = f"from qwill.evaluate.sandbox import *; run_python({code!r}, '', Limits(seconds=300, cpu_seconds=300))"
    with subprocess.Popen([sys.executable, "-c", ours]) as process:
        until(lambda: len(processes_named(name)) == 1)
        process.kill()
    until(lambda: processes_named(name) == [])


def test_a_run_sees_nothing_of_another() -> None:
    first = contained("open('/tmp/left', 'w').write('x'); print(sorted(os.listdir('/tmp')))")
    assert first.stdout == "['left', 'program.py']\n"
    assert run_python("import os; print(os.listdir('/tmp'))").stdout == "['program.py']\n"

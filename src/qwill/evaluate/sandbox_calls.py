"""The system calls that sandboxed code may make, as a seccomp filter (classic BPF, seccomp(2)).

A list of what is allowed: all else fails with EPERM, or for calls younger than the list with ENOSYS, on which C
libraries fall back to an older call that is checked. Calls of another architecture's table end the process.
"""

from __future__ import annotations

import struct

# name, number on x86_64, number on aarch64 (linux/unistd.h; a dash where the architecture has none).
_ALLOWED = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69, pwritev 296 70,
close 3 57, close_range 436 436, lseek 8 62, open 2 -, openat 257 56, creat 85 -, stat 4 -, fstat 5 80, lstat 6 -,
newfstatat 262 79, statx 332 291, statfs 137 43, fstatfs 138 44, access 21 -, faccessat 269 48, faccessat2 439 439,
readlink 89 -, readlinkat 267 78, getdents 78 -, getdents64 217 61, mkdir 83 -, mkdirat 258 34, rmdir 84 -,
unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, link 86 -, linkat 265 37,
symlink 88 -, symlinkat 266 36, chmod 90 -, fchmod 91 52, fchmodat 268 53, utime 132 -, utimes 235 -,
utimensat 280 88, futimesat 261 -, truncate 76 45, ftruncate 77 46, fallocate 285 47, fsync 74 82, fdatasync 75 83,
fadvise64 221 223, sendfile 40 71, copy_file_range 326 285, getxattr 191 8, lgetxattr 192 9, fgetxattr 193 10,
listxattr 194 11, llistxattr 195 12, flistxattr 196 13, umask 95 166, getcwd 79 17, chdir 80 49, fchdir 81 50,
dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59, flock 73 32, poll 7 -, ppoll 271 73,
select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -,
epoll_pwait 281 22, eventfd 284 -, eventfd2 290 19, mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226,
brk 12 214, madvise 28 233, mincore 27 232, msync 26 227, futex 202 98, set_robust_list 273 99,
get_robust_list 274 100, rseq 334 293, set_tid_address 218 96, membarrier 324 283, arch_prctl 158 -,
restart_syscall 219 128, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigpending 127 136, rt_sigreturn 15 139,
rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sigaltstack 131 132, kill 62 129, tkill 200 130, tgkill 234 131,
pause 34 -, alarm 37 -, getitimer 36 102, setitimer 38 103, nanosleep 35 101, clock_nanosleep 230 115,
clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169, time 201 -, times 100 153, getpid 39 172,
getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, getresuid 118 148,
getresgid 120 150, getgroups 115 158, getpgid 121 155, getpgrp 111 -, setpgid 109 154, getsid 124 156,
setsid 112 157, getrlimit 97 163, getrusage 98 165, getcpu 309 168,
getpriority 140 141, sched_yield 24 124, sched_getaffinity 204 123, sched_getparam 143 121,
sched_getscheduler 145 120, sched_get_priority_max 146 125, sched_get_priority_min 147 126, uname 63 160,
sysinfo 99 179, getrandom 318 278, execve 59 221, wait4 61 260, waitid 247 95, exit 60 93, exit_group 231 94,
sendto 44 206, recvfrom 45 207, shutdown 48 210, getsockname 51 204,
getpeername 52 205, getsockopt 55 209
"""
# Harmless with some arguments only; their calls are written out below.
_SOME: dict[str, dict[str, int]] = {
    "x86_64": {
        "clone": 56, "clone3": 435, "socketpair": 53, "ioctl": 16, "prctl": 157, "prlimit64": 302, "fcntl": 72,
    },
    "aarch64": {
        "clone": 220, "clone3": 435, "socketpair": 199, "ioctl": 29, "prctl": 167, "prlimit64": 261, "fcntl": 25,
    },
}  # fmt: skip
# Where processes are allowed: fork, vfork.
_FORKS = {"x86_64": (57, 58), "aarch64": ()}
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ALLOW, _EPERM, _ENOSYS = 0x80000000, 0x7FFF0000, 0x00050001, 0x00050026
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND, _THIRD = 0, 4, 16, 24, 32  # offsets in struct seccomp_data, little-endian

_CLONE_THREAD = 0x00010000
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, and CLONE_PTRACE.
_CLONE_NEVER = 0x7E020000 | 0x00002000
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_PRCTLS = (15, 16)  # PR_SET_NAME, PR_GET_NAME
# F_DUPFD to F_SETLKW, F_OFD_GETLK to F_OFD_SETLKW, F_DUPFD_CLOEXEC, F_GETPIPE_SZ: no signals, no larger pipes.
_FCNTLS = (*range(8), 36, 37, 38, 1030, 1032)
# PR_SET_PDEATHSIG, PR_SET_SECCOMP: for a program that starts processes, to give those less than it has itself.
_CONFINING = (1, 22)
_AF_UNIX = 1
_FIRST_X32 = 0x40000000
_YOUNGER = 424  # from here on all architectures share their numbers


def architectures() -> tuple[str, ...]:
    """Machines (as platform.machine() calls them) whose calls are known here."""
    return tuple(_SOME)


def call_filter(machine: str, processes: bool) -> bytes:
    """The filter as an array of struct sock_filter. `processes`: new ones may be started, not only threads.

    Raises KeyError for a machine whose calls are not known here.
    """
    some = _SOME[machine]
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, _AUDIT[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        code += [_instruction(_AT_LEAST, _FIRST_X32, 0, 1), _instruction(_RETURN, _KILL)]
    simple = [*_numbers(machine), *(_FORKS[machine] if processes else ())]
    for number in simple:
        code += _when(number, [_instruction(_RETURN, _ALLOW)])
    clone = [_instruction(_LOAD, _FIRST), _instruction(_ANY_BIT, _CLONE_NEVER, 0, 1), _instruction(_RETURN, _EPERM)]
    if not processes:
        clone += [_instruction(_ANY_BIT, _CLONE_THREAD, 1, 0), _instruction(_RETURN, _EPERM)]
    code += _when(some["clone"], [*clone, _instruction(_RETURN, _ALLOW)])
    code += _when(some["clone3"], [_instruction(_RETURN, _ENOSYS)])
    code += _when(some["socketpair"], _one_of(_FIRST, (_AF_UNIX,)))
    code += _when(some["ioctl"], _one_of(_SECOND, _IOCTLS))
    code += _when(some["prctl"], _one_of(_FIRST, (*_PRCTLS, *(_CONFINING if processes else ()))))
    code += _when(some["fcntl"], _one_of(_SECOND, _FCNTLS))
    # One's own limits may be read and not set: that of core files must stay (sandbox.py).
    read_own = [_instruction(_LOAD, _FIRST), _instruction(_EQUAL, 0, 1, 0), _instruction(_RETURN, _EPERM)]
    for half in (_THIRD, _THIRD + 4):
        read_own += [_instruction(_LOAD, half), _instruction(_EQUAL, 0, 1, 0), _instruction(_RETURN, _EPERM)]
    code += _when(some["prlimit64"], [*read_own, _instruction(_RETURN, _ALLOW)])
    code += [
        _instruction(_AT_LEAST, _YOUNGER, 0, 1),
        _instruction(_RETURN, _ENOSYS),
        _instruction(_RETURN, _EPERM),
    ]
    return b"".join(code)


def _numbers(machine: str) -> list[int]:
    column = 1 + list(_SOME).index(machine)
    rows = [row.split() for row in _ALLOWED.replace("\n", " ").split(",")]
    return [int(row[column]) for row in rows if row[column] != "-"]


def _instruction(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def _when(number: int, body: list[bytes]) -> list[bytes]:
    """`body`, which must return, for that call; the number is still loaded after it for all others."""
    return [_instruction(_EQUAL, number, 0, len(body)), *body]


def _one_of(offset: int, values: tuple[int, ...]) -> list[bytes]:
    """Allowed when the argument is one of `values`, else EPERM."""
    code = [_instruction(_LOAD, offset)]
    for value in values:
        code += _when(value, [_instruction(_RETURN, _ALLOW)])
    return [*code, _instruction(_RETURN, _EPERM)]

"""The filter of system calls, run by an interpreter of classic BPF of our own, on both architectures."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluate.test_sandbox_escapes import DANGEROUS

from qwill.evaluate.sandbox_calls import _ALLOWED, _SOME, architectures, call_filter

CALLS = json.loads((Path(__file__).parents[1] / "oracles" / "calls.json").read_text())["calls"]
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
KILL, ALLOW, EPERM, ENOSYS = 0x80000000, 0x7FFF0000, 0x50001, 0x50026
CLONE_THREAD = 0x10000


def run(code: bytes, audit: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the filter returns for a call: loads, jumps and returns of seccomp's BPF, as in the kernel's manual."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *(*arguments, *[0] * 6)[:6])
    accumulator, at = 0, 0
    while True:
        what, then, otherwise, value = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        if what == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif what == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[what]
            at += then if holds else otherwise


@pytest.mark.parametrize("machine", architectures())
def test_every_number_is_the_one_of_its_name(machine: str) -> None:
    column = 1 + list(_SOME).index(machine)
    rows = [row.split() for row in _ALLOWED.replace("\n", " ").split(",")]
    # newfstatat and the like have other names in arm's table.
    same = {"newfstatat": "fstatat", "fadvise64": "fadvise64_64", "fstat": "fstat", "sendfile": "sendfile"}
    for row in rows:
        name, number = row[0], row[column]
        known = CALLS[machine].get(name, CALLS[machine].get(same.get(name, "")))
        assert str(known) == number or (known is None and number == "-"), row
    for name, call in _SOME[machine].items():
        assert CALLS[machine][name] == call


@pytest.mark.parametrize("machine", architectures())
@pytest.mark.parametrize("processes", [False, True])
def test_dangerous_calls_are_refused_with_any_arguments(machine: str, processes: bool) -> None:
    code = call_filter(machine, processes)
    for name in DANGEROUS:
        number = CALLS[machine].get(name)
        if number is not None:
            assert run(code, AUDIT[machine], number) in (EPERM, ENOSYS), name
            assert run(code, AUDIT[machine], number, (2**64 - 1,) * 6) in (EPERM, ENOSYS), name


@pytest.mark.parametrize("machine", architectures())
def test_what_is_not_on_the_list_is_refused(machine: str) -> None:
    names = {row.split()[0] for row in _ALLOWED.replace("\n", " ").split(",")}
    allowed = {CALLS[machine][name] for name in names if name in CALLS[machine]}
    some = set(_SOME[machine].values())
    code = call_filter(machine, processes=False)
    for number in range(700):
        answer = run(code, AUDIT[machine], number)
        if number not in some:
            assert (answer == ALLOW) == (number in allowed), number
        assert answer in (ALLOW, EPERM, ENOSYS)
        if answer != ALLOW and number not in some:
            assert answer == (ENOSYS if number >= 424 else EPERM)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(architectures()), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.booleans())
def test_another_architecture_ends_the_program(machine: str, audit: int, number: int, processes: bool) -> None:
    answer = run(call_filter(machine, processes), audit, number)
    assert (answer == KILL) or audit == AUDIT[machine]


@settings(max_examples=50, deadline=None)
@given(st.integers(0x40000000, 2**32 - 1), st.booleans())
def test_x32_ends_the_program(number: int, processes: bool) -> None:
    code = call_filter("x86_64", processes)
    assert run(code, AUDIT["x86_64"], number) == KILL


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(architectures()), st.sets(st.integers(0, 63)).map(lambda s: sum(1 << n for n in s)), st.booleans()
)
def test_clone_makes_no_namespace_and_a_process_only_where_asked(machine: str, flags: int, processes: bool) -> None:
    code = call_filter(machine, processes)
    never = (0x2000, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    for more in (0, CLONE_THREAD, *never, *(CLONE_THREAD | one for one in never)):
        asked = flags | more
        fine = not any(asked & one for one in never) and (processes or bool(asked & CLONE_THREAD))
        assert run(code, AUDIT[machine], CALLS[machine]["clone"], (asked,)) == (ALLOW if fine else EPERM)
    assert run(code, AUDIT[machine], CALLS[machine]["clone"], (17,)) == (ALLOW if processes else EPERM)
    for one in never:
        assert run(code, AUDIT[machine], CALLS[machine]["clone"], (one | CLONE_THREAD,)) == EPERM


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(architectures()), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_arguments_that_are_allowed(machine: str, first: int, second: int) -> None:
    code = call_filter(machine, processes=False)

    def answer(name: str, *arguments: int) -> int:
        return run(code, AUDIT[machine], CALLS[machine][name], arguments)

    for one in (first, *range(64)):
        assert (answer("socketpair", one, 1) == ALLOW) == (one == 1)
        assert (answer("prctl", one, second) == ALLOW) == (one in (15, 16))
        assert (answer("prlimit64", one, second) == ALLOW) == (one == 0)
        for new in (1 + first // 2, (1 + first // 2) << 32):
            assert answer("prlimit64", 0, one, new) == EPERM
    for one in (second, *range(0x5400, 0x5480)):
        assert (answer("ioctl", first, one) == ALLOW) == (one in (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451))
    for one in (second, *range(2000)):
        assert (answer("fcntl", first, one) == ALLOW) == (one in (*range(8), 36, 37, 38, 1030, 1032))
    assert answer("ioctl", 0, 0x5412) == EPERM  # TIOCSTI: typing into the user's terminal
    assert answer("clone3", first, second) == ENOSYS


@pytest.mark.parametrize("machine", architectures())
def test_who_may_start_processes_may_give_them_less(machine: str) -> None:
    for processes, allowed in ((False, {15, 16}), (True, {1, 15, 16, 22})):
        code = call_filter(machine, processes)
        number = CALLS[machine]["prctl"]
        assert {one for one in range(80) if run(code, AUDIT[machine], number, (one,)) == ALLOW} == allowed


def test_a_machine_without_a_list_is_an_error() -> None:
    with pytest.raises(KeyError):
        call_filter("riscv64", processes=False)

"""Runs the tests of a reply in two processes: a program of its own for the sandbox, of standard library alone.

    tests ── has the tests and the word that says that they were passed; calls …
      └ reply ── runs what the model wrote, and answers with data

The reply's process is split off before the tests and the word are read, so they are never in its memory; it has no
other way to them (no /proc, no ptrace, standard input closed). What it answers (code_line.py): numbers, texts, lists,
tuples, dicts, sets and what else the standard library calls a value come over as themselves and are compared by the
tests' own interpreter, whatever the reply has done to its own. Objects stay where they are and are asked from afar.
Whether they may decide what they are equal to is up to the tests: where they use a class that the task asks for, yes;
where they look at a function's result, no.

Standard input: 16 digits, the length of a JSON object for the reply's process; that object; another for the tests'.
"""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import sys
from contextlib import suppress
from typing import Any

from qwill.evaluate.code_line import Gone, Peer, named

_PDEATHSIG, _SECCOMP, _KILL = 1, 22, 9


def _confine(code: str, least: bool) -> None:
    """No further process from here on; and the end of the parent is ours."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PDEATHSIG, ctypes.c_ulong(_KILL), 0, 0, 0)
    text = bytes.fromhex(code)
    program = Program(len(text) // 8, text)
    if libc.prctl(_SECCOMP, ctypes.c_ulong(2), ctypes.byref(program), 0, 0) and not least:
        os.write(2, b"the reply's process could not be confined\n")
        os._exit(1)


def run_reply(peer: Peer, code: str, imports: list[str]) -> None:
    """Load what the model wrote when asked, and answer what the tests ask. Does not return."""
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    module = type(sys)("reply")
    sys.modules["reply"] = module
    names = module.__dict__
    names["__builtins__"] = builtins

    def load(objects_decide: bool) -> None:
        exec(compile(code, "reply.py", "exec"), names)
        for line in imports:
            with suppress(ImportError):
                exec(line, names)
        peer.objects_decide = objects_decide

    def look(name: str) -> Any:
        return names[name]

    peer.kept += [load, look]
    while True:
        try:
            peer.answer(peer.receive())
        except Gone:
            os._exit(0)


def run_tests(peer: Peer, request: dict[str, Any]) -> None:
    """The tests, in names of their own: what the task gives, else the standard library's, else what the reply has."""
    # Decided by the task, not by the reply: whether the tests use a class that the reply was asked for.
    peer.objects_decide = bool(request["classes"])
    peer.ask("call", peer.objects_decide, target=0)
    names: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    exec(compile(request["given"], "given.py", "exec"), names)
    names |= {name: named(name, "") for name in request["modules"]}

    def take(wanted: list[str]) -> int:
        found = 0
        for name in wanted:
            with suppress(KeyError):
                names[name] = peer.ask("call", name, target=1)
                found += 1
        return found

    asked = [*request["asked"], *request["classes"]]
    others = [name for name in request["used"] if name not in names and name not in asked]
    found = take([name for name in asked if name not in names or name in request["classes"]])
    found += take([name for name in others if not hasattr(builtins, name)])
    if not found:
        # Nothing that is tested has been found: then it is called as something built in, such as sum.
        take(others)
    exec(compile(request["setup"] + "\n" + request["tests"], "tests.py", "exec"), names)
    entry = request["entry_point"]
    if entry and "check" in names:
        try:
            candidate = peer.ask("call", entry, target=1)
        except KeyError:
            raise NameError(f"name '{entry}' is not defined") from None
        names["check"](candidate)
    if peer.gone:
        raise Gone


def main() -> None:
    def read(size: int) -> bytes:
        parts = []
        while size and (part := os.read(0, min(size, 1 << 20))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    given = json.loads(read(int(read(16))))
    to_reply, from_tests = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(to_reply[0])
        os.close(from_tests[1])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _confine(given["filter"], given["unsafe"])
        run_reply(Peer(from_tests[0], to_reply[1], tests=False), given["code"], given["imports"])
    os.close(to_reply[1])
    os.close(from_tests[0])
    _confine(given["filter"], given["unsafe"])
    request = json.loads(read(1 << 40))
    try:
        run_tests(Peer(to_reply[0], from_tests[1], tests=True), request)
    except Gone:
        # As the reply ended, so does the whole.
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            os.kill(os.getpid(), os.WTERMSIG(status))
        os._exit(os.WEXITSTATUS(status))
    finally:
        os.kill(pid, _KILL)
    os.waitpid(pid, 0)
    sys.stdout.flush()
    os.write(1, ("\n" + request["word"]).encode())
    os._exit(0)


if __name__ == "__main__":
    main()

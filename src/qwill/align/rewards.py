"""What a reply earns: a weighted sum of the problem's own check, functions of the user's, and reward models.

A function that raises, hangs or gives something else than a finite number costs that sample and no more: its reward is
NaN, it teaches nothing, and the first such sentence is shown. Ten failures of one reward in a row stop the run, as then
the function is at fault and not a reply.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from qwill.align.format_rewards import BUILT_IN
from qwill.align.replies import as_messages
from qwill.align.reward import load_reward
from qwill.align.settings import RewardPart
from qwill.base.errors import DataError, TrainingError
from qwill.evaluate.scorer_process import ScorerProcess, serve
from qwill.evaluate.tasks import verify

IN_A_ROW = 10
Said = list[dict[str, Any]]  # messages


class RewardProcess(ScorerProcess):
    """A function with TRL's signature, in a process that is ended when a reply takes too long."""

    module = "qwill.align.rewards"
    kind = "reward"

    def reward(self, row: dict[str, Any], reply: str | Said) -> float:
        """Raises DataError, one sentence, where there is no finite number."""
        request = json.dumps({"row": row, "reply": reply}, default=str).encode() + b"\n"
        answer = self._ask(self._child or self._start(), request, self._seconds)
        if "error" in answer:
            raise DataError(f"the reward {self._name} {answer['error']}")
        return float(answer["value"])


class Rewards:
    """Called with a row, a reply and whether it ended by itself: {name: reward}, NaN for one that failed."""

    def __init__(self, parts: Sequence[RewardPart], say: Callable[[str], None] = print) -> None:
        """Raises DataError, ArtifactError or CheckpointError for a function or model that can't be loaded."""
        self.weights = {part.name: part.weight for part in parts}
        self.failures = dict.fromkeys(self.weights, 0)
        self._in_a_row = dict.fromkeys(self.weights, 0)
        self._say = say
        self._of: dict[str, Callable[[dict[str, Any], str, bool, Said | None], float]] = {}
        self._processes: list[RewardProcess] = []
        for part in parts:
            self._of[part.name] = self._function(part)

    def _function(self, part: RewardPart) -> Callable[[dict[str, Any], str, bool, Said | None], float]:
        if part.model is not None:
            judge = load_reward(part.model)
            return lambda row, reply, ended, said: judge.score([as_messages(row["prompt"])], [said or _said(reply)])[0]
        if part.function is not None:
            process = RewardProcess(part.function, part.name, part.seconds)
            self._processes.append(process)
            return lambda row, reply, ended, said: process.reward(row, said or reply)
        if part.name in BUILT_IN:
            built_in = BUILT_IN[part.name]
            return lambda row, reply, ended, said: built_in(row, reply, ended)
        return lambda row, reply, ended, said: float(ended and verify(row, reply))

    def __call__(self, row: dict[str, Any], reply: str, ended: bool, said: Said | None = None) -> dict[str, float]:
        """`said` is the whole conversation behind the prompt, where there were tools; `reply` is its last turn. Raises
        TrainingError when one reward fails for the tenth time in a row."""
        return {name: self._one(name, row, reply, ended, said) for name in self._of}

    def _one(self, name: str, row: dict[str, Any], reply: str, ended: bool, said: Said | None) -> float:
        try:
            value = self._of[name](row, reply, ended, said)
            if not math.isfinite(value):
                raise DataError(f"the reward {name} gave {value}; expected a finite number.")
        except DataError as error:
            self.failures[name] += 1
            self._in_a_row[name] += 1
            if self._in_a_row[name] == IN_A_ROW:
                raise TrainingError(
                    f"{error} That was the {IN_A_ROW}th time in a row, so training stopped (problem {row['id']}); the "
                    "same command goes on from the last checkpoint once the reward is mended."
                ) from error
            if self.failures[name] == 1:
                self._say(f"{error} The reply to problem {row['id']} is left out; so are others, which are counted.")
            return math.nan
        self._in_a_row[name] = 0
        return value

    def total(self, parts: dict[str, float]) -> float:
        """The weighted sum; NaN where a part failed."""
        return sum(self.weights[name] * value for name, value in parts.items())

    def __enter__(self) -> Rewards:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.close()


def _said(reply: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": reply}]


def _answer(function: Any, request: dict[str, Any]) -> dict[str, Any]:
    """One call, as TRL's trainers make it for a batch of one: conversations where the prompt is one, else texts."""
    row, reply = request["row"], request["reply"]
    columns = {name: [value] for name, value in row.items() if name != "prompt"}
    said: Any = reply if isinstance(row["prompt"], str) or isinstance(reply, list) else _said(reply)
    values = function(prompts=[row["prompt"]], completions=[said], **columns)
    try:
        (value,) = values
        number = float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"gave {values!r:.100}; expected a list with one number.") from error
    if not math.isfinite(number):
        raise DataError(f"gave {number}; expected a finite number.")
    return {"value": number}


if __name__ == "__main__":
    import sys

    serve(sys.argv[1], _answer)

"""What a reply earns: a weighted sum of rules, functions of the user's, reward models and judges.

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
from qwill.align.judge_reward import judge_of
from qwill.align.replies import as_messages
from qwill.align.reward import RewardModel, load_reward
from qwill.align.rule_rewards import Judge, Made, Said, Value, attempt, one_by_one, rule_of
from qwill.align.settings import RULES, RewardPart
from qwill.base.errors import DataError, TrainingError
from qwill.evaluate.scorer_process import ScorerProcess, serve
from qwill.evaluate.tasks import verify

IN_A_ROW = 10


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
        """Raises ConfigError, DataError, ArtifactError or CheckpointError for what can't be loaded."""
        self.weights = {part.name: part.weight for part in parts}
        self.failures = dict.fromkeys(self.weights, 0)
        self._in_a_row = dict.fromkeys(self.weights, 0)
        self._say = say
        self._closing: list[Any] = []
        self._of: dict[str, Judge] = {}
        try:
            for part in parts:
                self._of[part.name] = self._judge(part)
        except BaseException:
            self._close()
            raise

    def _judge(self, part: RewardPart) -> Judge:
        if part.model is not None:
            return _model_judge(load_reward(part.model))
        if part.judge is not None:
            return judge_of(part)
        if part.function is not None:
            process = RewardProcess(part.function, part.name, part.seconds)
            self._closing.append(process)
            return one_by_one(lambda one: process.reward(one.row, one.said or one.reply))
        if part.kind in BUILT_IN:
            return one_by_one(lambda one: BUILT_IN[part.kind](one.row, one.reply, one.ended))
        if part.kind in RULES:
            return rule_of(part, self._closing)
        return one_by_one(lambda one: float(one.ended and verify(one.row, one.reply)))

    def __call__(self, row: dict[str, Any], reply: str, ended: bool, said: Said | None = None) -> dict[str, float]:
        """Raises TrainingError when one reward fails for the tenth time in a row."""
        return self.of_all([Made(row, reply, ended, said=said)])[0]

    def of_all(self, made: Sequence[Made]) -> list[dict[str, float]]:
        """As a call, of many replies in their order; what is slow (programs, judges) runs side by side."""
        found: list[dict[str, float]] = [{} for _ in made]
        for name, judge in self._of.items():
            for one, value, parts in zip(made, judge(made), found, strict=True):
                parts[name] = self._noted(name, one, value)
        return found

    def _noted(self, name: str, one: Made, value: Value) -> float:
        if not isinstance(value, DataError) and math.isfinite(value):
            self._in_a_row[name] = 0
            return value
        error = value
        if not isinstance(error, DataError):
            error = DataError(f"the reward {name} gave {value}; expected a finite number.")
        self.failures[name] += 1
        self._in_a_row[name] += 1
        if self._in_a_row[name] == IN_A_ROW:
            raise TrainingError(
                f"{error} That was the {IN_A_ROW}th time in a row, so training stopped (problem {one.row['id']}); the "
                "same command goes on from the last checkpoint once the reward is mended."
            ) from error
        if self.failures[name] == 1:
            self._say(f"{error} The reply to problem {one.row['id']} is left out; so are others, which are counted.")
        return math.nan

    def total(self, parts: dict[str, float]) -> float:
        """The weighted sum; NaN where a part failed."""
        return sum(self.weights[name] * value for name, value in parts.items())

    def __enter__(self) -> Rewards:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        for process in self._closing:
            process.close()


def _model_judge(judge: RewardModel) -> Judge:
    """All replies packed together; one that can't be rendered is alone with its error."""

    def score(made: Sequence[Made]) -> list[float]:
        prompts = [as_messages(one.row["prompt"]) for one in made]
        return judge.score(prompts, [one.said or _said(one.reply) for one in made])

    def judged(made: Sequence[Made]) -> list[Value]:
        try:
            return list(score(made))
        except DataError:
            return [attempt(lambda one: score([one])[0], one) for one in made]

    return judged


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

"""What a step's log says of its rollouts: rewards by language and by part, lengths, turns and calls of tools."""

from __future__ import annotations

import math

from qwill.align.rollouts import Rollout


def rollout_numbers(groups: list[list[Rollout]], by_part: bool, by_turn: bool) -> dict[str, float]:
    """Means over all rollouts that were drawn first: those drawn in place of groups that are alike were chosen for
    being neither all right nor all wrong, and say nothing of how good the model is."""
    every = [r for g in groups for r in g]
    numbers = {"reward": mean([r.reward for r in every]), "useful": 0.0}
    for language in sorted({r.language for r in every}):
        numbers[f"reward_{language}"] = mean([r.reward for r in every if r.language == language])
    for name in every[0].parts if by_part else ():
        numbers[f"reward_part_{name}"] = mean([r.parts[name] for r in every])
    if by_part:
        numbers["reward_failed"] = sum(math.isnan(r.reward) for r in every) / len(every)
    numbers["length"] = sum(r.tokens for r in every) / len(every)
    if by_turn:
        calls = sum(r.calls for r in every)
        numbers["turns"] = sum(m["role"] == "assistant" for r in every for m in r.said) / len(every)
        numbers["calls"] = calls / len(every)
        numbers["calls_failed"] = sum(r.failed for r in every) / max(1, calls)
    return numbers


def mean(values: list[float]) -> float:
    """Of what is known; 0 where nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else 0.0

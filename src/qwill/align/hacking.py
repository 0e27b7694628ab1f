"""Whether a reward is being hacked: what rollouts look like step by step, and warnings when they drift.

Compared are means over the last WINDOW steps with those over the first:

    length       replies are GROWN times as long (or as short) and reward goes with length among a prompt's replies
                 (r ≥ STRONG, or ≤ −STRONG), while what is checked did not rise
    repetition   at least REPEATED of n-grams (repeated_share) were there before, and so much more than at first
    format_only  the form's reward rose by ROSE, and what is checked did not
    truncated    at least HALF of replies run into the limit, a quarter more than at first

Reward that grows with length is what Singhal et al. 2023 (arXiv 2310.03716) found in RLHF; thresholds are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qwill.align.rollouts import Rollout
from qwill.align.settings import RewardPart

WINDOW = 10  # steps
GROWN = 1.5
STRONG = 0.3
REPEATED = 0.2
ROSE = 0.2
STILL = 0.02  # a check that rose by no more did not rise
HALF = 0.5
WARNINGS = {
    "length": "replies went from {0:.0f} to {1:.0f} tokens and the reward goes with their length (r = {2:.2f}), while "
    "what is checked did not get better; weigh length against it (rule: overlong), or look at the reward",
    "repetition": "{1:.0%} of the replies' phrases repeat earlier ones, {0:.0%} at first; add rule: repetition",
    "format_only": "the form's reward went from {0:.2f} to {1:.2f}, and what is checked did not get better; lower its "
    "weight",
    "truncated": "{1:.0%} of replies run into max_tokens, {0:.0%} at first; raise it, or add rule: overlong",
}
CHECKS = ("verifier", "maths", "code", "reasoning_gym")
FORMS = ("format", "language")


def parts_of_kind(parts: Sequence[RewardPart], kinds: Sequence[str]) -> list[str]:
    """The names of the parts of these kinds; without parts the rows' own check is the reward."""
    if not parts:
        return ["verifier"] if "verifier" in kinds else []
    return [part.name for part in parts if part.kind in kinds]


def numbers_of(groups: Sequence[Sequence[Rollout]], parts: Sequence[RewardPart]) -> dict[str, float]:
    """Of one step: the correlation of reward with length within groups, the share of repeated phrases, of truncated
    replies; and, where there are parts of that kind, the mean of what is checked and of form."""
    every = [r for group in groups for r in group]
    numbers = {
        "length_correlation": length_correlation(groups),
        "repetition": sum(r.repeated for r in every) / len(every),
        "truncated": sum(not r.ended for r in every) / len(every),
    }
    for name, kinds in (("checked", CHECKS), ("form", FORMS)):
        if own := parts_of_kind(parts, kinds):
            means = [r.parts[part] for r in every for part in own if not math.isnan(r.parts.get(part, math.nan))]
            numbers[name] = sum(means) / len(means) if means else 0.0
    return numbers


def length_correlation(groups: Sequence[Sequence[Rollout]]) -> float:
    """Pearson's r of reward and length, each less its prompt's mean, so that hard prompts with long replies count for
    nothing; 0 where one of the two doesn't vary."""
    xy = xx = yy = 0.0
    for group in groups:
        known = [(r.reward, len(r.logprobs)) for r in group if not math.isnan(r.reward)]
        if len(known) < 2:
            continue
        mean_x, mean_y = (sum(values) / len(known) for values in zip(*known, strict=True))
        for x, y in known:
            xy += (x - mean_x) * (y - mean_y)
            xx += (x - mean_x) ** 2
            yy += (y - mean_y) ** 2
    return xy / math.sqrt(xx * yy) if xx > 1e-12 and yy > 1e-12 else 0.0


def found(curve: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    """Which warnings hold at the end of a history, with their numbers; none before twice WINDOW steps."""
    if len(curve) < 2 * WINDOW:
        return {}
    out: dict[str, tuple[float, ...]] = {}

    def of(name: str) -> tuple[float, float]:
        first, last = ([point.get(name, 0.0) for point in part] for part in (curve[:WINDOW], curve[-WINDOW:]))
        return sum(first) / WINDOW, sum(last) / WINDOW

    checked = of("checked") if "checked" in curve[-1] else None
    still = checked is None or checked[1] - checked[0] <= STILL
    (short, long), (_, r) = of("length"), of("length_correlation")
    grew, shrank = long >= GROWN * short and r >= STRONG, long * GROWN <= short and r <= -STRONG
    if still and (grew or shrank):
        out["length"] = (short, long, r)
    before, now = of("repetition")
    if now >= REPEATED and now - before >= REPEATED:
        out["repetition"] = (before, now)
    before, now = of("form")
    if checked is not None and still and now - before >= ROSE:
        out["format_only"] = (before, now)
    before, now = of("truncated")
    if now >= HALF and now - before >= HALF / 2:
        out["truncated"] = (before, now)
    return out


class Watch:
    """Says each warning once, in a run that was resumed too, since all is in the history."""

    def __init__(self, curve: Sequence[Mapping[str, float]] = ()) -> None:
        self._said = {name for point in curve for name in WARNINGS if point.get(f"hacking_{name}")}

    def look(self, curve: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], list[str]]:
        """(1 for each warning that holds now, as numbers for the log; sentences for those that are new)."""
        now = found(curve)
        new = [name for name in now if name not in self._said]
        self._said.update(new)
        sentences = [f"step {curve[-1]['step']:.0f}: {WARNINGS[name].format(*now[name])}." for name in new]
        return {f"hacking_{name}": 1.0 for name in now}, sentences

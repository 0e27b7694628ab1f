"""The report's curves of training: which numbers of training.json stand in which plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwill.data.languages import name_of

QUANTILES = ("ratio_least", "ratio_p01", "ratio_p10", "ratio_p50", "ratio_p90", "ratio_p99", "ratio_most")


@dataclass(frozen=True)
class Curve:
    """A plot: what it is called, its unit, and (key, name of the line, class of its colour)."""

    title: str
    unit: str
    lines: Sequence[tuple[str, str, str]]


def curves_of(stage: str, curve: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The plots for what a stage recorded; those without numbers are left out."""
    keys = {key for point in curve for key in point if point[key] is not None}
    own = f"s-{stage}"
    tongues = sorted(key for key in keys if key.startswith("reward_") and key[7:] in _languages(keys))
    parts = sorted(key for key in keys if key.startswith("reward_part_"))
    pairs = (
        "accuracy",
        "margin",
        "reward_margin",
        "reward_chosen",
        "reward_rejected",
        "reward_desirable",
        "reward_undesirable",
    )
    ratios = [key for key in QUANTILES if key in keys]
    plots = [
        Curve("loss", "nats per token", [("loss", "", own)]),
        Curve("reward", "of a reply, a mean", [(key, name_of(key[7:]), f"s-{key[7:]}") for key in tongues]),
        Curve("reward by part", "of a reply, a mean", _named(parts, lambda key: key[12:])),
        Curve("entropy of replies", "nats per token", [("entropy", "", own)]),
        Curve("groups to learn from", "share of replies whose group has both good and bad", [("useful", "", own)]),
        Curve("length of replies", "tokens", [("length", "", own)]),
        Curve("turns", "replies of a conversation", [("turns", "", own)]),
        Curve("KL", "nats per token", _named([k for k in ("kl", "kl_start") if k in keys], KL_NAMES.__getitem__)),
        Curve("clipped", "share of tokens", [("clipped", "", own)]),
        Curve("ratio to the rollout's policy", "least, quantiles, most", _named(ratios, lambda key: key[6:])),
        Curve("rollout against trainer", "largest gap, nats", [("gap", "", own)]),
        Curve("preferences", "a mean", _named([k for k in pairs if k in keys], lambda key: key.replace("_", " "))),
        Curve(
            "gradient norm",
            "before clipping",
            [("gradient_norm", "", own)] if keys & {"reward", "margin", "reward_margin"} else [],
        ),
    ]
    found = [Curve(p.title, p.unit, [line for line in p.lines if line[0] in keys]) for p in plots]
    return [plot for plot in found if plot.lines]


KL_NAMES = {"kl": "from the rollout", "kl_start": "from the start"}
_COLOURS = ("s-en", "s-zh", "s-aligned", "s-base", "s-sft", "s-int8", "s-other")


def _named(keys: Sequence[str], name: Any) -> list[tuple[str, str, str]]:
    return [(key, name(key), _COLOURS[i % len(_COLOURS)]) for i, key in enumerate(keys)]


def _languages(keys: set[str]) -> set[str]:
    """Codes of languages, told from other rewards by their length: reward_en, and not reward_failed."""
    return {key[7:] for key in keys if key.startswith("reward_") and (len(key) == 9 or key == "reward_other")}

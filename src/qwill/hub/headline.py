"""The few numbers of an artifact that fit on a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Stages return all that is deterministic; these are what a person asks for first; a last `*` stands for each language.
# Others show their first three.
FIRST: dict[str, tuple[str, ...]] = {
    "corpus": ("train_documents_*",),
    "tokenizer": ("vocab_size", "characters_per_token_*"),
    "mixing": ("use", "gain_bits_per_byte.*"),
    "base": ("bits_per_byte.*", "tokens"),
    "sft": ("heldout_loss", "heldout_loss_before", "tokens"),
    "aligned": ("reward_first", "reward_last"),
    "rejection": ("kept_*", "never_solved_*"),
    "modes": ("accuracy_thinking_*", "accuracy_not_thinking_*", "obeyed_*"),
    "int8": ("times_smaller", "accuracy_change.en", "accuracy_change.zh"),
    "results": ("accuracy_sft_en", "accuracy_aligned_en", "accuracy_sft_zh", "accuracy_aligned_zh"),
    "arena": ("rating_base", "rating_sft", "rating_aligned", "rating_int8"),
}
MOST = 3


def headline(stage: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A few flat `name: value` pairs of an artifact's metrics, nested names joined by dots."""
    flat = _flat(metrics)
    chosen = [name for wanted in FIRST.get(stage, ()) for name in flat if _matches(name, wanted)] or list(flat)[:MOST]
    return {name: flat[name] for name in chosen}


def _matches(name: str, wanted: str) -> bool:
    return name == wanted or (wanted.endswith("*") and name.startswith(wanted[:-1]))


def spelled(value: Any) -> str:
    """A metric as a person reads it: 1,234, 0.5678, text as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def headline_text(stage: str, metrics: Mapping[str, Any]) -> str:
    """`headline` on one line."""
    return " · ".join(
        f"{name.replace('_', ' ').replace('.', ' ')} {spelled(value)}"
        for name, value in headline(stage, metrics).items()
    )


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float | str):
            flat[f"{prefix}{name}"] = value
    return flat

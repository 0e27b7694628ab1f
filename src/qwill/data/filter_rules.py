"""Which rules a configuration applies to documents of a language and register."""

from __future__ import annotations

from collections.abc import Sequence

from qwill.data.families import EVERY_REGISTER, resolve_limits, rules
from qwill.data.languages import Language
from qwill.data.scores import Limit, limits_of
from qwill.data.settings import CurateConfig, spoken


def filter_rules(config: CurateConfig, register: str, own: Language) -> tuple[tuple[str, ...], dict[str, object]]:
    """The families that judge a document of this register and language, in order, and their limits."""
    different = config.registers.get(register)
    families = different.filters if different is not None and different.filters is not None else config.filters
    overrides = {EVERY_REGISTER: config.limits.get(own.code, {})}
    if different is not None:
        overrides[register] = different.limits.get(own.code, {})
    return tuple(own.families if families is None else families), resolve_limits(own, register, overrides)


def score_limits(config: CurateConfig, registers: Sequence[str]) -> dict[tuple[str, str], dict[str, Limit]]:
    """For each language and register every score and what of it passes: what a threshold sweep is drawn from."""
    found: dict[tuple[str, str], dict[str, Limit]] = {}
    for code, own in spoken(config).items():
        least = own.language_score if config.language_score is None else config.language_score
        for register in registers:
            families, limits = filter_rules(config, register, own)
            part = {"language_score": Limit(least, None, "language")}
            part |= limits_of(rules(limits, families))
            if config.score.quality is not None:
                part["quality"] = Limit(config.score.min_quality, None)
            if config.score.perplexity is not None:
                part["bits_per_byte"] = Limit(None, config.score.max_bits_per_byte)
            if config.score.toxicity:
                part["toxicity"] = Limit()
            found[code, register] = part
    return found

"""Rewards that need no verifier: the form of a reply's mode, the prompt's language, brevity.

Qwen3's general RL rewards following the format (switches and thinking blocks) and the language beside correctness
(arXiv 2505.09388 §4.4). Each is a function of a row, a reply and whether it ended, in [0, 1].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from qwill.align.replies import as_messages
from qwill.evaluate.plain_values import UNITS
from qwill.evaluate.tasks import final_answer
from qwill.text.thinking import asked_to_think, well_formed

ENABLED = "enable_thinking"  # the field of a row that says how its prompt was rendered
LONG = 1000  # characters
_HAN = re.compile(r"[\u4e00-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]{2,}")
_CODE = re.compile(r"^[ \t]*```.*?(?:^[ \t]*```|\Z)|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"\\(?:begin|end)\s?\{[A-Za-z]*\*?\}|\\[A-Za-z]+")
_MORE_UNITS = (
    "nm μm um min mol kmol K Pa kPa MPa GPa hPa bar atm N kN J kJ MJ cal kcal W kW MW GW kWh V kV mV A mA Ah mAh Hz "
    "kHz MHz GHz dB lx lm rad eV keV MeV kB KB MB GB TB KiB MiB GiB bit bits byte bytes px rpm pH CNY HKD JPY km/s"
)
_UNIT = "|".join(
    sorted((re.escape(name) for name in {*UNITS, *_MORE_UNITS.split()} if re.match("[A-Za-z]", name)), key=len)[::-1]
)
_MEASURED = re.compile(rf"(?<=\d)\s?(?:{_UNIT})(?:[²³]|\^\{{?[23]\}}?)?(?:/(?:{_UNIT}))?(?![A-Za-z])")


def form(row: Mapping[str, Any], reply: str, ended: bool) -> float:
    """1 for a reply that ended, with its thinking block closed exactly once and an answer behind it where it was asked
    to think, and without thinking where it was not."""
    enabled = bool(row.get(ENABLED, False))
    return float(ended and well_formed(reply, asked_to_think(as_messages(row["prompt"]), enabled), enabled))


def language(row: Mapping[str, Any], reply: str, ended: bool) -> float:
    """1 when the answer is in the prompt's language: no Chinese character to an English prompt, and to a Chinese one no
    more Latin words than Chinese characters. Numbers, units behind them, LaTeX's commands and code are in any language;
    others than these two languages are not judged."""
    answer = final_answer(reply)
    if answer is None:
        return 0.0
    answer = _MEASURED.sub(" ", _COMMAND.sub(" ", _CODE.sub(" ", answer)))
    han, latin = len(_HAN.findall(answer)), len(_LATIN.findall(answer))
    if row["language"] == "zh":
        return float(latin <= han)
    return float(row["language"] != "en" or not han)


def brevity(row: Mapping[str, Any], reply: str, ended: bool) -> float:
    """From 1 for nothing said to 0 for 1,000 characters and more, thinking included."""
    return max(0.0, 1.0 - len(reply) / LONG)


BUILT_IN: dict[str, Callable[[Mapping[str, Any], str, bool], float]] = {
    "format": form, "language": language, "brevity": brevity,
}  # fmt: skip

"""The two modes of a Qwen3 model: the switches that a conversation holds, what a reply of each mode looks like, and the
words that end a thinking which has had its budget (Qwen3 report, arXiv 2505.09388 §4.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwill.base.errors import DataError
from qwill.text.content import content_text

if TYPE_CHECKING:
    from qwill.text.tokenizer import Tokenizer

# ASCII neighbours are excluded so that a path such as /api/think is no switch; 吗？/no_think is one.
_SWITCH = re.compile(r"(?<![A-Za-z0-9_/.\-])/(no_)?think(?![A-Za-z0-9_/\-])")
SWITCHES = {True: "/think", False: "/no_think"}
_EMPTY = re.compile(r"<think>\s*</think>")
# Qwen3 was released with this one sentence, for every language.
OUT_OF_TIME = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
)


def last_switch(texts: Iterable[str]) -> bool | None:
    """What the last `/think` (True) or `/no_think` (False) in the texts of users and systems says; None without one."""
    said = [match for text in texts for match in _SWITCH.findall(text)]
    return not said[-1] if said else None


def switch_of(messages: Sequence[Mapping[str, Any]]) -> bool | None:
    """What the last switch in a conversation says; None without one."""
    return last_switch(content_text(m.get("content")) or "" for m in messages if m.get("role") in ("user", "system"))


def asked_to_think(messages: Sequence[Mapping[str, Any]], enable_thinking: bool) -> bool:
    """Whether the next reply has to think: not if the prompt's block is closed already, else as the last switch says,
    and without one it does."""
    return enable_thinking and switch_of(messages) is not False


def well_formed(reply: str, thinks: bool, enable_thinking: bool) -> bool:
    """Whether a reply (all that stands behind the prompt) has the form of its mode, and says something.

    Thinking: it begins with the block, which is closed exactly once, isn't empty, and has the answer behind it. Not
    thinking: it begins with the empty block; with enable_thinking=False, which has that in the prompt, there is none.
    """
    marks = reply.count("<think>"), reply.count("</think>")
    if not enable_thinking:
        return marks == (0, 0) and bool(reply.strip())
    head, _, answer = reply.partition("</think>")
    if marks != (1, 1) or not head.lstrip().startswith("<think>") or not answer.strip():
        return False
    return (_EMPTY.match(reply.lstrip()) is None) == thinks


@dataclass(frozen=True)
class ThinkingBudget:
    """`tokens` of thinking, behind which `ending` is put. `marks`: the ids of `<think>` and `</think>`."""

    tokens: int
    ending: tuple[int, ...]
    marks: tuple[int, int]


def thinking_budget(tokenizer: Tokenizer, tokens: int) -> ThinkingBudget:
    """Raises DataError for a budget below 0 and for a model that doesn't think."""
    marks = tokenizer.specials.get("<think>", -1), tokenizer.specials.get("</think>", -1)
    if tokens < 0 or min(marks) < 0:
        raise DataError("thinking_budget must be 0 or more, and the tokenizer must know <think> and </think>")
    ending = (*tokenizer.encode(OUT_OF_TIME), marks[1], *tokenizer.encode("\n\n"))
    return ThinkingBudget(tokens, ending, marks)

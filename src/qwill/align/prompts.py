"""Prompts of online training: read from a file, checked before anything is trained, and those without room for a reply
sorted out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from qwill.align.format_rewards import ENABLED
from qwill.align.replies import as_messages
from qwill.base.errors import DataError
from qwill.base.stage import StageContext
from qwill.data.conversation import problem
from qwill.data.row_files import read_rows
from qwill.evaluate.task_data import load_rows
from qwill.evaluate.tasks import verify
from qwill.model.transformer import Transformer
from qwill.text.chat import render
from qwill.text.content import content_text
from qwill.text.surrogates import all_without_surrogates
from qwill.text.thinking import SWITCHES, switch_of
from qwill.text.tokenizer import Tokenizer


def problems(place: Path, verified: bool) -> list[dict[str, Any]]:
    """The rows to draw prompts from: rl.jsonl of the stage tasks, or a file of your own whose rows have a `prompt`
    (text or messages) and, where replies are `verified`, a `key`. Texts are as rendering reads them: half a surrogate
    pair is U+FFFD. Raises DataError naming file, line and field."""
    if place.is_dir():
        return [all_without_surrogates(row) for row in load_rows(place / "rl.jsonl")]
    rows = []
    for number, row in read_rows(place):
        row = {"id": str(number), "language": "other"} | all_without_surrogates(row)
        if wrong := _problem(row, verified):
            raise DataError(f"{place}: line {number}{wrong}")
        rows.append(row | {"id": str(row["id"])})
    if not rows:
        raise DataError(f"{place}: holds no prompt; add rows, or name another file.")
    return rows


def prompt_ids(
    prompt: str | list[dict[str, Any]],
    tokenizer: Tokenizer,
    thinking: bool = False,
    tools: Sequence[dict[str, Any]] = (),
) -> list[int]:
    """A prompt (text of a user, or messages) up to where the assistant begins, by default without thinking."""
    return render(as_messages(prompt), tools, tokenizer=tokenizer, thinking=thinking, generation_prompt=True).ids


class Mode(NamedTuple):
    """How a prompt is asked: with thinking or without, which a switch in its text says where it is `switched`."""

    thinking: bool
    switched: bool = False


def mode_at(turn: int, thinking: float, switched: float = 0.0) -> Mode:
    """The mode of a language's prompt number `turn` (from 0, over all steps): the share `thinking` of them is asked
    with thinking, and of these and of the others the share `switched` by a switch, each spread evenly."""
    before = math.floor(turn * thinking)
    thinks = math.floor((turn + 1) * thinking) > before
    return Mode(thinks, _has(before if thinks else turn - before, switched))


def _has(number: int, share: float) -> bool:
    return math.floor((number + 1) * share) > math.floor(number * share)


def in_mode(row: dict[str, Any], mode: Mode) -> dict[str, Any]:
    """A row as it is asked. A switch stands behind the last that a user says, and the model is then free to think, so
    that it has to obey; a conversation that holds one already, of its own or its system's, keeps that."""
    row = row | {ENABLED: mode.thinking}
    if not mode.switched:
        return row
    messages = as_messages(row["prompt"])
    at = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
    if at is None or switch_of(messages) is not None:
        return row
    said = f"{content_text(messages[at]['content']) or ''} {SWITCHES[mode.thinking]}"
    messages[at] = messages[at] | {"content": said}
    return row | {"prompt": said if isinstance(row["prompt"], str) else messages, ENABLED: True}


def _problem(row: dict[str, Any], verified: bool) -> str | None:
    prompt = row.get("prompt")
    if not (isinstance(prompt, str) and prompt.strip()) and not (isinstance(prompt, list) and prompt):
        return ": prompt: expected text or a list of messages."
    # A conversation that an answer would end is one that can be asked for it.
    if isinstance(prompt, list) and (wrong := problem([*prompt, {"role": "assistant", "content": "."}])):
        return f": prompt: {wrong}."
    if not isinstance(row["language"], str):
        return ": language: expected such as en or zh."
    if not verified:
        return None
    if "key" not in row:
        return " has no 'key' to verify a reply by; name a reward of your own."
    try:
        for reply in ("1", "1 2", "1 2 3"):
            verify(row, reply)
    except (DataError, ValueError, LookupError, TypeError, AttributeError):
        return f": key: {str(row['key'])[:60]!r} is none of the stage tasks'; mend it, or name a reward of your own."
    return None


def with_room(
    rows: list[dict[str, Any]],
    tokenizer: Tokenizer,
    model: Transformer,
    max_tokens: int,
    too_long: Literal["leave_out", "refuse"],
    ctx: StageContext,
    tools: Sequence[dict[str, Any]] = (),
    modes: Sequence[Mode] = (Mode(thinking=False),),
) -> list[dict[str, Any]]:
    """The rows whose prompt (with the schemas of `tools`, in whichever of `modes` it is asked) and a reply of
    `max_tokens` fit into the model's context: nothing is ever cut. Without thinking a prompt is longer than with it.
    Others are left out and counted, or the first of them is refused.

    Raises DataError, one sentence, also where none is left and where no reply could end.
    """
    if not tokenizer.stop_ids:
        raise DataError(
            f"{ctx.inputs['sft']}: the tokenizer has neither <|im_end|> nor <|endoftext|>, so no reply could end; give "
            "it one of these as a special token."
        )
    context = model.config.max_position_embeddings
    kept = []
    for row in rows:
        asked = (in_mode(row, mode) for mode in modes)
        size = max(len(prompt_ids(one["prompt"], tokenizer, one[ENABLED], tools)) for one in asked)
        if size + max_tokens <= context:
            kept.append(row)
        elif too_long == "refuse":
            raise DataError(
                f"{ctx.inputs['tasks']}: the prompt of {row['id']} has {size} tokens, and {max_tokens} of a reply are "
                f"more than the context of {context}; shorten it, lower max_tokens, or set too_long to leave_out."
            )
    if not kept:
        raise DataError(
            f"{ctx.inputs['tasks']}: no prompt leaves room for {max_tokens} tokens of a reply in a context of "
            f"{context}; lower max_tokens."
        )
    if left := len(rows) - len(kept):
        ctx.display.say(
            f"{left} of {len(rows)} prompts are left out: with {max_tokens} tokens of a reply they are longer than the "
            f"context of {context}."
        )
    return kept

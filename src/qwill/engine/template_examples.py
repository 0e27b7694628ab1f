"""Training examples by another model's own chat template, which runs in the sandbox of `template.py`.

Where the template marks what the assistant says (`{% generation %}`), that is trained, in one sequence. Where it does
not, each turn stands behind the template's own prompt for it, as in `qwill.text.chat`: what the conversation has more
with the turn than without is what the model is to say, up to the turn's last special token (the line break that many
templates write behind it is never generated).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from qwill.base.errors import DataError
from qwill.engine.template import Guarded
from qwill.text.chat import Rendered, turns_to_train
from qwill.text.tokenizer import Tokenizer

_MARKED = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


def template_examples(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    tokenizer: Tokenizer,
    where: str = "conversation",
    after: int = 0,
    template: Literal["inference", "training"] = "inference",
) -> list[Rendered]:
    """Sequences in which every assistant turn behind the first `after` messages is trained exactly once.

    Raises DataError, beginning with `where`, for messages that can't be rendered, a conversation that would train on
    nothing, and a template by which it can't be told what the assistant says.
    """
    turns = turns_to_train(messages, where, after)
    # Parts of text become one text: many templates know nothing else.
    plain = [
        {**message, "content": turn.content} if isinstance(message.get("content"), list) else message
        for message, turn in zip(messages, turns, strict=True)
    ]
    guarded = Guarded.of(plain, tools, tokenizer)
    roles = [turn.role for turn in turns]
    try:
        if _MARKED.search(tokenizer.chat_template):
            examples = [_marked(guarded, roles, after)]
        elif template == "training":
            raise DataError(
                "template: training is known for Qwen3's released template and for those with {% generation %}, and "
                "this model's is neither; leave it at inference."
            )
        else:
            examples = _by_prefix(guarded, roles, [turn.thought for turn in turns], after)
        _check_calls(plain, after, examples, tokenizer)
        return examples
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _check_calls(
    messages: Sequence[Mapping[str, Any]], after: int, examples: Sequence[Rendered], tokenizer: Tokenizer
) -> None:
    """Many templates leave calls out without a word, and the model would learn to say nothing where it should call."""
    called = [
        (number, (call.get("function") or call)["name"])
        for number, message in enumerate(messages[after:], start=after + 1)
        if message["role"] == "assistant"
        for call in message.get("tool_calls") or []
    ]
    trained = ([i for i, m in zip(e.ids, e.loss_mask, strict=True) if m] for e in examples)
    said = "".join(tokenizer.decode(ids, skip_special=False) for ids in trained) if called else ""
    for number, name in called:
        if name not in said:
            raise DataError(
                f"message {number} calls {name}, and the model's chat template does not write calls; leave the row "
                "out, or use a model whose template does."
            )


def _marked(guarded: Guarded, roles: Sequence[str], after: int) -> Rendered:
    text = guarded.text(len(roles), thinking=True, prompt=False, spans=True)
    spans, said = text.count(guarded.opening), roles.count("assistant")
    if spans != said:
        raise DataError(
            f"the chat template marks {spans} turns with {{% generation %}} where the assistant has {said}; mend "
            "chat_template.jinja."
        )
    # What stands in the prompt is not trained.
    text = text.replace(guarded.opening, "", (before := roles[:after].count("assistant")))
    text = text.replace(guarded.closing, "", before)
    return guarded.ids(text)


def _by_prefix(guarded: Guarded, roles: Sequence[str], thought: Sequence[bool], after: int) -> list[Rendered]:
    if roles[0] == "assistant":
        raise DataError(
            "message 1 is the assistant's, and a chat template has no prompt for a first message; put the message that "
            "it answers before it, or remove it."
        )
    examples: list[Rendered] = []
    ids: list[int] = []
    mask: list[int] = []
    for i, role in enumerate(roles):
        if role != "assistant" or i < after:
            continue
        prompt_text, said_text = _prompt_and_reply(guarded, i, thought[i])
        prompt, said = guarded.ids(prompt_text).ids, guarded.ids(said_text).ids
        if prompt[: len(ids)] != ids:
            examples.append(Rendered(ids, mask))
            ids, mask = [], []
        mask = mask + [0] * (len(prompt) - len(ids)) + [1] * len(said)
        ids = prompt + said
    return [*examples, Rendered(ids, mask)]


def _prompt_and_reply(guarded: Guarded, i: int, thought: bool) -> tuple[str, str]:
    """What the template writes before message `i` (from 0) is said, and what is said."""
    for thinking in (thought, not thought):
        prompt, whole = guarded.text(i, thinking), guarded.text(i + 1, thinking, prompt=False)
        if whole.startswith(prompt):
            said = whole[len(prompt) :]
            ends = [match.end() for match in re.finditer("|".join(map(re.escape, guarded.specials)) or "(?!)", said)]
            return prompt, said[: ends[-1]] if ends and not said[ends[-1] :].strip() else said
    raise DataError(
        f"message {i + 1}: the chat template does not begin this reply as its own prompt for a reply does, so what to "
        "train on can't be told; put {% generation %} around what the assistant says in chat_template.jinja."
    )

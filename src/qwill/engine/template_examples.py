"""Training examples by another model's own chat template, which runs in the sandbox of `template.py`.

Where the template marks what the assistant says (`{% generation %}`), that is trained, in one sequence. Where it does
not, each turn stands behind the template's own prompt for it, as in `qwill.text.chat`: what the conversation has more
with the turn than without is what the model is to say, up to the turn's last special token (the line break that many
templates write behind it is never generated). The prompt is that of `enable_thinking=False` for a reply without
thinking, but where the user asked for it by `/no_think`, which the model has to obey itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from qwill.base.errors import DataError
from qwill.engine.template import Guarded
from qwill.text.chat import Rendered, asked_not_to_think, turns_to_train
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

    Thinking that the template does not write is counted (`Rendered.unwritten`). Raises DataError, beginning with
    `where`, for messages that can't be rendered, a conversation that would train on nothing, thinking inside contents
    of which the template writes none, and a template by which it can't be told what the assistant says.
    """
    turns = turns_to_train(messages, where, after)
    plain = [_one_text(message) for message in messages]
    guarded = Guarded.of(plain, tools, tokenizer)
    roles = [turn.role for turn in turns]
    # Where the tokenizer does not know the marks, thinking inside a content stays what it is: text of the reply.
    thinks = [isinstance(m.get("reasoning_content"), str) and turn.thought
              for m, turn in zip(guarded.messages, turns, strict=True)]  # fmt: skip
    try:
        if _MARKED.search(tokenizer.chat_template):
            examples = [_marked(guarded, roles, thinks, after)]
        elif template == "training":
            raise DataError(
                "template: training is known for Qwen3's released template and for those with {% generation %}, and "
                "this model's is neither; leave it at inference."
            )
        else:
            opens = [one.thought or asked_not_to_think(turns[:i]) for i, one in enumerate(turns)]
            examples = _by_prefix(guarded, roles, thinks, opens, after)
        _check_calls(plain, after, examples, tokenizer)
        inside = [i for i in range(after, len(turns)) if turns[i].thought and "<think>" in tokenizer.specials
                  and messages[i].get("reasoning_content") is None]  # fmt: skip
        if inside and sum(example.unwritten for example in examples) == sum(thinks[after:]):
            raise DataError(
                f"message {inside[0] + 1} has thinking in its content, and the model's chat template writes none; "
                "leave the thinking or the row out, or use a model whose template does."
            )
        return examples
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _one_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Parts of text become one text: many templates know nothing else."""
    content = message.get("content")
    return {**message, "content": "".join(p["text"] for p in content)} if isinstance(content, list) else message


def _writes_thinking(said: str, message: Mapping[str, Any]) -> bool:
    thinking = message["reasoning_content"].strip()
    return said.count(thinking) > str(message.get("content") or "").count(thinking)


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


def _marked(guarded: Guarded, roles: Sequence[str], thinks: Sequence[bool], after: int) -> Rendered:
    text = guarded.text(len(roles), thinking=True, prompt=False, spans=True)
    spans, said = text.count(guarded.opening), roles.count("assistant")
    if spans != said:
        raise DataError(
            f"the chat template marks {spans} turns with {{% generation %}} where the assistant has {said}; mend "
            "chat_template.jinja."
        )
    pieces = re.findall(f"{guarded.opening}([^{guarded.closing}]*)", text)
    turns = zip([i for i, role in enumerate(roles) if role == "assistant"], pieces, strict=True)
    unwritten = sum(thinks[i] and i >= after and not _writes_thinking(s, guarded.messages[i]) for i, s in turns)
    # What stands in the prompt is not trained.
    text = text.replace(guarded.opening, "", (before := roles[:after].count("assistant")))
    text = text.replace(guarded.closing, "", before)
    return replace(guarded.ids(text), unwritten=unwritten)


def _by_prefix(
    guarded: Guarded, roles: Sequence[str], thinks: Sequence[bool], opens: Sequence[bool], after: int
) -> list[Rendered]:
    """`opens`: whether a turn's prompt leaves it to the model to think."""
    if roles[0] == "assistant":
        raise DataError(
            "message 1 is the assistant's, and a chat template has no prompt for a first message; put the message that "
            "it answers before it, or remove it."
        )
    examples: list[Rendered] = []
    ids: list[int] = []
    mask: list[int] = []
    unwritten = 0
    for i, role in enumerate(roles):
        if role != "assistant" or i < after:
            continue
        prompt_text, said_text = _prompt_and_reply(guarded, i, opens[i])
        prompt, said = guarded.ids(prompt_text).ids, guarded.ids(said_text).ids
        if prompt[: len(ids)] != ids:
            examples.append(Rendered(ids, mask, unwritten=unwritten))
            ids, mask, unwritten = [], [], 0
        mask = mask + [0] * (len(prompt) - len(ids)) + [1] * len(said)
        ids = prompt + said
        unwritten += thinks[i] and not _writes_thinking(said_text, guarded.messages[i])
    return [*examples, Rendered(ids, mask, unwritten=unwritten)]


def _prompt_and_reply(guarded: Guarded, i: int, opens: bool) -> tuple[str, str]:
    """What the template writes before message `i` (from 0) is said, and what is said."""
    for thinking in (opens, not opens):
        prompt, whole = guarded.text(i, thinking), guarded.text(i + 1, thinking, prompt=False)
        if whole.startswith(prompt):
            said = whole[len(prompt) :]
            ends = [match.end() for match in re.finditer("|".join(map(re.escape, guarded.specials)) or "(?!)", said)]
            return prompt, said[: ends[-1]] if ends and not said[ends[-1] :].strip() else said
    raise DataError(
        f"message {i + 1}: the chat template does not begin this reply as its own prompt for a reply does, so what to "
        "train on can't be told; put {% generation %} around what the assistant says in chat_template.jinja."
    )

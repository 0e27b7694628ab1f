"""The one chat renderer: messages to ids, loss mask and media spans, in the released Qwen3 form.

Why code and not the Jinja template: the template makes one text of what the program wrote and what a user
typed, and a tokenizer that then looks for special tokens finds both. Here the pieces stay apart: structure
becomes special tokens, content becomes ordinary ids whatever it spells. Decoded, the ids are the released
template's text; without imitations in the content, they are also the released tokenizer's ids of that text.

Training follows inference. The released template is not append-only: thinking of earlier turns is dropped
at the next user query, and the empty thinking block of a non-thinking reply is not repeated in the history.
So `training_examples` starts a new example wherever the next prompt does not begin with what came before.

- A reply's tokens run from what follows the generation prompt to `<|im_end|>`, both trained. The line break
  that the template writes after `<|im_end|>` is never generated and never trained.
- A reply without thinking is trained behind the prompt of enable_thinking=False, which holds the empty block
  `<think>\\n\\n</think>\\n\\n` already: the block is not trained. When the last switch in the conversation is
  `/no_think`, the model itself has to write that block (enable_thinking stays true), and it is trained.
- A token that covers the end of the prompt and the beginning of the content (content that begins with line
  breaks, in `render`) is not trained.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qwill.base.errors import DataError
from qwill.text.surrogates import without_surrogates
from qwill.text.thinking import last_switch
from qwill.text.tokenizer import Tokenizer

Message = Mapping[str, Any]

_TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_TAIL = "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "


@dataclass(frozen=True)
class Rendered:
    """Token ids, a 0/1 loss mask of the same length, and [start, end) token spans of images and audio (none
    yet). `unwritten`: trained turns whose thinking the chat template does not write."""

    ids: list[int]
    loss_mask: list[int]
    media_spans: list[tuple[int, int]] = field(default_factory=list)
    unwritten: int = 0


@dataclass(frozen=True)
class _Piece:
    text: str
    mark: bool = False  # the name of a special token, not content
    trained: bool = False


@dataclass(frozen=True)
class _Turn:
    role: str
    content: str
    reasoning: str = ""
    calls: tuple[str, ...] = ()

    @property
    def thought(self) -> bool:
        return bool(self.reasoning.strip("\n"))


def render(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    tokenizer: Tokenizer,
    thinking: bool = True,
    generation_prompt: bool = False,
) -> Rendered:
    """A whole conversation as the released template gives it, with mask 1 on what assistants said.

    `thinking=False` is the template's enable_thinking=False: it closes the thinking block in the generation
    prompt. With a tokenizer that has no `<think>` (SmolLM2, Qwen2.5), the result is plain ChatML. Raises
    DataError for messages that can't be rendered, saying which and why.
    """
    turns = _turns(messages, "conversation")
    thinks = "<think>" in tokenizer.specials
    pieces = _conversation(turns, tools, thinks, trains_empty_thinking=thinking)
    if generation_prompt:
        pieces += _prompt(thinking or not thinks)
    return _encode(pieces, tokenizer, {})


def render_tool_results(results: Sequence[str], tokenizer: Tokenizer, thinking: bool = True) -> list[int]:
    """What stands between a reply's `<|im_end|>`, with which it called tools, and the next reply: the tools' results
    and the generation prompt. Behind what came before they make the released template's ids. With thinking=False they
    don't: there the empty block that the reply stood behind stays, and the template drops it from what was said."""
    turns = [_Turn("tool", without_surrogates(result)) for result in results]
    thinks = "<think>" in tokenizer.specials
    pieces = [_Piece("\n"), *_conversation(turns, None, thinks), *_prompt(thinking or not thinks)]
    return _encode(pieces, tokenizer, {}).ids


def training_examples(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    tokenizer: Tokenizer,
    where: str = "conversation",
    after: int = 0,
) -> list[Rendered]:
    """Sequences to train on, in which every assistant turn behind the first `after` messages is trained exactly once.

    In front of each trained turn stands token for token what the released template gives at inference for
    that point, generation prompt included. `where` (a file and line, a row's id) begins the sentence of
    every error. Raises DataError for messages that can't be rendered and for a conversation that would
    train on nothing.
    """
    turns = turns_to_train(messages, where, after)
    thinks = "<think>" in tokenizer.specials
    if turns[0].role == "assistant":
        raise DataError(
            f"{where}: message 1 is the assistant's, and the released template has no prompt for a first "
            "message; put the message that it answers before it, or remove it."
        )
    memory: dict[str, list[int]] = {}
    examples: list[Rendered] = []
    ids: list[int] = []
    mask: list[int] = []
    for i, turn in enumerate(turns):
        if turn.role != "assistant" or i < after:
            continue
        thinking = not thinks or turn.thought or asked_not_to_think(turns[:i])
        prompt = _encode(_conversation(turns[:i], tools, thinks) + _prompt(thinking), tokenizer, memory)
        # Without thinking the prompt ends with the closed block, and the answer stands behind that.
        block = _block(turn.reasoning) if turn.thought or (thinks and thinking) else []
        target = _encode(block + _answer(turn, thinks or bool(block)), tokenizer, memory)
        if prompt.ids[: len(ids)] != ids:
            examples.append(Rendered(ids, mask))
            ids, mask = [], []
        mask = mask + [0] * (len(prompt.ids) - len(ids)) + [1] * len(target.ids)
        ids = prompt.ids + target.ids
    return [*examples, Rendered(ids, mask)]


def whole_example(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    tokenizer: Tokenizer,
    where: str = "conversation",
    after: int = 0,
) -> Rendered:
    """One sequence in the form of TRL 1.16.0's training template for Qwen3 (trl/chat_templates/qwen3_training.jinja).

    Every assistant turn keeps its thinking block, an empty one where it did not think, so that each turn's prefix is
    the sequence before it, which is not what the model meets at inference. Trained is all from the block to the line
    break behind `<|im_end|>`. Raises DataError as `training_examples` does; a first message of the assistant is fine.
    """
    turns = turns_to_train(messages, where, after)
    pieces = _conversation(turns, tools, "<think>" in tokenizer.specials, whole=True, after=after)
    return _encode(pieces, tokenizer, {})


# -- the template, piece by piece


def _conversation(
    turns: Sequence[_Turn],
    tools: Sequence[Mapping[str, Any]] | None,
    thinks: bool,
    trains_empty_thinking: bool = True,
    whole: bool = False,
    after: int = 0,
) -> list[_Piece]:
    """`whole`: every turn of the assistant with its block, the turns behind the first `after` trained to the end of
    their line."""
    pieces = _head(turns[0], tools)
    last_query = _last_query(turns)
    for i, turn in enumerate(turns):
        last = i == len(turns) - 1
        if turn.role == "assistant":
            shows_thinking = i > last_query and (bool(turn.reasoning) or (last and thinks))
            said = []
            if shows_thinking or (whole and thinks):
                said += _block(turn.reasoning, turn.thought or trains_empty_thinking)
            said += [*_answer(turn, bool(said)), _Piece("\n", trained=whole)]
            if i < after:
                said = [replace(piece, trained=False) for piece in said]
            pieces += [_mark("<|im_start|>"), _Piece("assistant\n"), *said]
        elif turn.role == "tool":
            if i == 0 or turns[i - 1].role != "tool":
                pieces += [_mark("<|im_start|>"), _Piece("user")]
            pieces += [_Piece("\n"), _mark("<tool_response>"), _Piece("\n" + turn.content + "\n")]
            pieces.append(_mark("</tool_response>"))
            if last or turns[i + 1].role != "tool":
                pieces += [_mark("<|im_end|>"), _Piece("\n")]
        elif turn.role == "user" or i > 0:
            pieces += [_mark("<|im_start|>"), _Piece(turn.role + "\n" + turn.content)]
            pieces += [_mark("<|im_end|>"), _Piece("\n")]
    return pieces


def _head(first: _Turn, tools: Sequence[Mapping[str, Any]] | None) -> list[_Piece]:
    """The system turn: the first message's text where that is a system message, and the tools."""
    system = first.content if first.role == "system" else None
    if not tools:
        if system is None:
            return []
        return [_mark("<|im_start|>"), _Piece("system\n" + system), _mark("<|im_end|>"), _Piece("\n")]
    pieces = [_mark("<|im_start|>"), _Piece("system\n")]
    if system is not None:
        pieces.append(_Piece(system + "\n\n"))
    listing = "".join("\n" + _json(tool, f"tool {i}") for i, tool in enumerate(tools, start=1))
    pieces.append(_Piece(_TOOLS_HEAD + listing + _TOOLS_TAIL))
    pieces += [_mark("<tool_call>"), _mark("</tool_call>"), _Piece(" XML tags:\n"), _mark("<tool_call>")]
    pieces += [
        _Piece('\n{"name": <function-name>, "arguments": <args-json-object>}\n'),
        _mark("</tool_call>"),
    ]
    return [*pieces, _mark("<|im_end|>"), _Piece("\n")]


def _block(reasoning: str, trained: bool = True) -> list[_Piece]:
    return [
        _mark("<think>", trained),
        _Piece("\n" + reasoning.strip("\n") + "\n", trained=trained),
        _mark("</think>", trained),
        _Piece("\n\n", trained=trained),
    ]


def _answer(turn: _Turn, behind_block: bool) -> list[_Piece]:
    """What the model says behind its thinking block, up to and with `<|im_end|>`."""
    pieces = [_Piece(turn.content.lstrip("\n") if behind_block else turn.content, trained=True)]
    for i, call in enumerate(turn.calls):
        # The template looks at the content before it strips its line breaks.
        if i > 0 or turn.content:
            pieces.append(_Piece("\n", trained=True))
        pieces += [_mark("<tool_call>", True), _Piece("\n" + call + "\n", trained=True)]
        pieces.append(_mark("</tool_call>", True))
    return [*pieces, _mark("<|im_end|>", True)]


def _prompt(thinking: bool) -> list[_Piece]:
    pieces = [_mark("<|im_start|>"), _Piece("assistant\n")]
    if not thinking:
        pieces += [_mark("<think>"), _Piece("\n\n"), _mark("</think>"), _Piece("\n\n")]
    return pieces


def _mark(name: str, trained: bool = False) -> _Piece:
    return _Piece(name, mark=True, trained=trained)


def _last_query(turns: Sequence[_Turn]) -> int:
    """Index of the last message that a user wrote; a tool's result passed on as a user message does not
    count."""
    for i in reversed(range(len(turns))):
        text = turns[i].content
        passed_on = text.startswith("<tool_response>") and text.endswith("</tool_response>")
        if turns[i].role == "user" and not passed_on:
            return i
    return len(turns) - 1


def asked_not_to_think(turns: Sequence[_Turn]) -> bool:
    """Whether the last switch of these turns is `/no_think`."""
    return last_switch(turn.content for turn in turns if turn.role in ("user", "system")) is False


# -- pieces to ids


def _encode(pieces: Sequence[_Piece], tokenizer: Tokenizer, memory: dict[str, list[int]]) -> Rendered:
    """Neighbouring pieces of text are encoded as one, as the released tokenizer would: a role's line break
    and the line breaks that content begins with are one token. `memory` keeps the ids of runs that come
    again."""
    ids: list[int] = []
    mask: list[int] = []
    run: list[_Piece] = []

    def close_run() -> None:
        text = "".join(piece.text for piece in run)
        flags = {piece.trained for piece in run if piece.text}
        if len(flags) < 2:
            if text not in memory:
                memory[text] = tokenizer.encode(text)
            ids.extend(memory[text])
            mask.extend([int(True in flags)] * len(memory[text]))
        else:
            run_ids, starts = tokenizer.encode_with_starts(text)
            trained = [piece.trained for piece in run for _ in piece.text]
            ids.extend(run_ids)
            mask.extend(int(trained[start]) for start in starts)
        run.clear()

    for piece in pieces:
        if piece.mark and piece.text in tokenizer.specials:
            close_run()
            ids.append(tokenizer.special(piece.text))
            mask.append(int(piece.trained))
        else:
            run.append(piece)
    close_run()
    return Rendered(ids, mask)


# -- reading messages


def turns_to_train(messages: Sequence[Message], where: str, after: int = 0) -> list[_Turn]:
    """The messages, read. Raises DataError for what can't be rendered, and where the assistant says nothing behind the
    first `after` of them."""
    turns = _turns(messages, where)
    said = [turn for turn in turns[after:] if turn.role == "assistant"]
    if not any(turn.content.strip() or turn.thought or turn.calls for turn in said):
        raise DataError(f"{where}: no assistant message says anything, so there is nothing to train on; remove it.")
    return turns


def _turns(messages: Sequence[Message], where: str) -> list[_Turn]:
    if isinstance(messages, (str, Mapping)) or not messages:
        raise DataError(f"{where}: expected a list of at least one message, found {messages!r:.60}.")
    return [_turn(message, f"{where}: message {i}") for i, message in enumerate(messages, start=1)]


def _turn(message: Message, where: str) -> _Turn:
    if not isinstance(message, Mapping):
        raise DataError(f"{where} is {type(message).__name__}; expected an object with role and content.")
    role = message.get("role")
    if role not in ("system", "user", "assistant", "tool"):
        raise DataError(f"{where} has role {role!r}; expected system, user, assistant or tool.")
    content = _content(message.get("content"), role, where)
    if role != "assistant":
        return _Turn(role, content)
    reasoning = message.get("reasoning_content")
    if reasoning is None:
        content, reasoning = split_thinking(content)
    elif not isinstance(reasoning, str):
        raise DataError(f"{where} has reasoning_content of type {type(reasoning).__name__}; expected text.")
    calls = message.get("tool_calls") or []
    if isinstance(calls, (str, Mapping)):
        raise DataError(f"{where} has tool_calls of type {type(calls).__name__}; expected a list.")
    texts = tuple(_call(call, f"{where}, tool call {i}") for i, call in enumerate(calls, start=1))
    return _Turn(role, content, without_surrogates(reasoning), texts)


def _content(content: Any, role: str, where: str) -> str:
    if content is None and role == "assistant":
        return ""
    if isinstance(content, str):
        return without_surrogates(content)
    if not isinstance(content, Sequence):
        raise DataError(f"{where} ({role}) has content of type {type(content).__name__}; expected text or parts.")
    texts = []
    for i, part in enumerate(content, start=1):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text":
            raise DataError(f"{where}, part {i} is of type {kind!r}, and only text is understood so far; remove it.")
        if not isinstance(part.get("text"), str):
            raise DataError(f"{where}, part {i} has no text; expected {{'type': 'text', 'text': ...}}.")
        texts.append(part["text"])
    return without_surrogates("".join(texts))


def split_thinking(content: str) -> tuple[str, str]:
    """Content and thinking of a reply that carries its thinking inside its content, split as the template
    does."""
    if "</think>" not in content:
        return content, ""
    reasoning = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
    return content.split("</think>")[-1].lstrip("\n"), reasoning


def _call(call: Any, where: str) -> str:
    function = call.get("function") or call if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or "arguments" not in function:
        raise DataError(f"{where} has no function name and arguments; expected {{'name': ..., 'arguments': ...}}.")
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else _json(arguments, where)
    return without_surrogates('{"name": "' + function["name"] + '", "arguments": ' + text + "}")


def _json(value: Any, where: str) -> str:
    # As transformers renders `tojson`: no HTML escapes, characters as they are.
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where} can't be written as JSON ({error}); use plain objects, lists, texts, numbers."
        ) from error

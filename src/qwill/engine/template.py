"""Chat templates of models that are not Qwen3: Jinja in a sandbox, and still no text becomes a special token.

The released Qwen3 template has its own renderer (`qwill.text.chat`); this is for folders and GGUF files that
bring another one. The template makes one text of what it wrote itself and what people wrote. To keep the two
apart, a private-use character is put inside every special token's name that occurs in people's text, before
the template sees it, and taken out again when the text is encoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from qwill.base.errors import DataError
from qwill.text.chat import Rendered, render, split_thinking
from qwill.text.tokenizer import Tokenizer, released_chat_template

ROLES = ("system", "user", "assistant", "tool")
PRIVATE_USE = range(0xE000, 0xF900)
GENERATION = "_generation_brackets"  # the name under which a template's values hold them


def conversation_ids(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    tools: Sequence[Mapping[str, Any]] | None = None,
    thinking: bool = False,
) -> list[int]:
    """Ids of a conversation up to where the assistant begins its next reply, by the renderer that the model needs.

    Raises `DataError` for messages that can't be rendered.
    """
    if tokenizer.chat_template == released_chat_template():
        return render(messages, tools, tokenizer=tokenizer, thinking=thinking, generation_prompt=True).ids
    return render_template(messages, tokenizer, tools, thinking)


def render_template(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    tools: Sequence[Mapping[str, Any]] | None = None,
    thinking: bool = True,
) -> list[int]:
    """Ids of a conversation and the beginning of the next reply, by the tokenizer's own chat template.

    Raises `DataError` for a role that no template knows, and when the template can't be rendered.
    """
    for i, message in enumerate(messages, start=1):
        if message.get("role") not in ROLES:
            raise DataError(f"message {i} has role {message.get('role')!r}; expected system, user, assistant or tool.")
    guarded = Guarded.of(messages, tools, tokenizer)
    return guarded.ids(guarded.text(len(messages), thinking)).ids


@dataclass(frozen=True)
class Guarded:
    """A conversation that a template may see: no special token's name occurs in what people wrote. `mark`, `opening`
    and `closing` are private-use characters that no text of it holds; the last two stand around what the template's
    `{% generation %}` blocks write."""

    messages: list[Mapping[str, Any]]
    tools: list[Any] | None
    tokenizer: Tokenizer
    specials: list[str]
    mark: str
    opening: str
    closing: str

    @classmethod
    def of(
        cls, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, tokenizer: Tokenizer
    ) -> Guarded:
        messages = [_with_objects(thinking_apart(message, tokenizer)) for message in messages]
        written = json.dumps([messages, list(tools or [])], ensure_ascii=False, default=str) + tokenizer.chat_template
        mark, opening, closing = islice((chr(c) for c in PRIVATE_USE if chr(c) not in written), 3)
        specials = sorted(tokenizer.specials, key=len, reverse=True)
        own = _guarded(list(tools), specials, mark) if tools else None
        return cls(_guarded(messages, specials, mark), own, tokenizer, specials, mark, opening, closing)

    def text(self, count: int, thinking: bool, prompt: bool = True, spans: bool = False) -> str:
        """The first `count` messages as the template writes them, with marks inside; with `prompt` the beginning of the
        next reply too, with `spans` the brackets of `{% generation %}`. Raises DataError where the template can't."""
        config = self.tokenizer.config
        values = {
            "messages": self.messages[:count],
            "tools": self.tools,
            "add_generation_prompt": prompt,
            "enable_thinking": thinking,
            **{name: _name(config.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")},
            **({GENERATION: (self.opening, self.closing)} if spans else {}),
        }
        try:
            return _compiled(self.tokenizer.chat_template).render(values)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise DataError(
                f"the model's chat template can't render this conversation ({error}); change the messages."
            ) from error

    def ids(self, text: str) -> Rendered:
        """Ids of marked text: the template's special tokens, and plain text between them. Mask 1 on every token of
        which a part stands between brackets, as transformers has it."""
        ids: list[int] = []
        mask: list[int] = []
        inside = False
        pattern = "(" + "|".join(map(re.escape, self.specials)) + ")" if self.specials else "(?!)()"
        for i, piece in enumerate(re.split(pattern, text)):
            if i % 2:
                ids.append(self.tokenizer.special(piece))
                mask.append(int(inside))
                continue
            flags: list[bool] = []
            plain = ""
            for part in re.split(f"([{self.opening}{self.closing}])", piece.replace(self.mark, "")):
                if part in (self.opening, self.closing):
                    inside = part == self.opening
                else:
                    plain += part
                    flags += [inside] * len(part)
            if any(flags) and not all(flags):
                own, starts = self.tokenizer.encode_with_starts(plain)
                ends = [*starts[1:], len(plain)]
                mask += [int(any(flags[a : max(b, a + 1)])) for a, b in zip(starts, ends, strict=True)]
            else:
                own = self.tokenizer.encode(plain) if plain else []
                mask += [int(bool(flags) and flags[0])] * len(own)
            ids += own
        return Rendered(ids, mask)


def thinking_apart(message: Mapping[str, Any], tokenizer: Tokenizer) -> Mapping[str, Any]:
    """The message with thinking that stands inside its content as `reasoning_content`, where the tokenizer knows the
    marks and the template knows thinking: guarded, the marks would be text to a template that looks for them."""
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    if message.get("role") != "assistant" or message.get("reasoning_content") is not None:
        return message
    if not isinstance(content, str) or "</think>" not in content or "<think>" not in tokenizer.specials:
        return message
    if "</think>" not in tokenizer.chat_template and "reasoning_content" not in tokenizer.chat_template:
        return message
    content, reasoning = split_thinking(content)
    return {**message, "content": content, "reasoning_content": reasoning}


def _with_objects(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with its calls' arguments as objects: clients send them as JSON, which templates would write as a
    text in quotes, or couldn't take apart at all where their calls are XML. What is no object stays as it is."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_with_object(call) for call in calls]}


def _with_object(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _with_object(call["function"])}
    try:
        arguments = json.loads(call["arguments"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return call
    return {**call, "arguments": arguments} if isinstance(arguments, dict) else call


def _guarded(value: Any, specials: Sequence[str], mark: str) -> Any:
    """The same value with the mark inside every special name, and behind a text that ends as one begins."""
    if isinstance(value, Mapping):
        return {key: _guarded(item, specials, mark) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_guarded(item, specials, mark) for item in value]
    if not isinstance(value, str):
        return value
    for name in specials:
        value = value.replace(name, name[:1] + mark + name[1:])
    begins = any(value.endswith(name[:i]) for name in specials for i in range(1, len(name)))
    return value + mark if begins else value


def _name(token: Any) -> str:
    return token.get("content", "") if isinstance(token, Mapping) else token or ""


class _Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}` around what the assistant says: brackets where they are asked for."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_bracket", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _bracket(self, context: Context, caller: Callable[[], str]) -> str:
        opening, closing = context.get(GENERATION, ("", ""))
        return f"{opening}{caller()}{closing}"


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    # As transformers sets it up, so that released templates come out as they do there.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )

    def refuse(reason: str) -> None:
        raise jinja2.TemplateError(reason)

    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment.from_string(template)

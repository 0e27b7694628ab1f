"""Figure 4: 10,000 generated conversations; each trained turn stands behind the released template's prompt for it,
and no token of a user, a tool or the system is trained.

The prompts come from the released template itself, run by Jinja with brackets around what it writes (text_support);
what a turn says is put together here from the message alone. Tools, thinking, Chinese, empty turns, and texts that
imitate special tokens are among them.
"""

import os
import random
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jinja2
import pytest
from text_support import (
    IMITATIONS,
    MARK_CLOSE,
    MARK_OPEN,
    SPAN_CLOSE,
    SPAN_OPEN,
    compiled,
    expects_thinking,
    fixture_tokenizer,
    marked_template,
    nfc,
    some_conversation,
    trained_runs,
)

from qwill.text.chat import Rendered, training_examples

COUNT = 10_000
OTHERS = "\ue010"  # stands in texts of users, tools and the system, and nowhere else


@lru_cache(maxsize=1)
def template() -> jinja2.Template:
    """As `compiled`, without a sandbox, which takes most of the time."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = compiled(marked_template()).environment.filters["tojson"]
    return environment.from_string(marked_template())


@lru_cache(maxsize=1 << 16)
def encoded(text: str) -> tuple[int, ...]:
    return tuple(fixture_tokenizer().encode(text))


def prompt_ids(messages: list[dict], tools: list[dict] | None, thinking: bool) -> list[int]:
    marked = template().render(messages=messages, tools=tools, add_generation_prompt=True, enable_thinking=thinking)
    ids: list[int] = []
    first, *rest = marked.replace(SPAN_OPEN, "").replace(SPAN_CLOSE, "").split(MARK_OPEN)
    ids += encoded(first)
    for part in rest:
        name, _, text = part.partition(MARK_CLOSE)
        ids.append(fixture_tokenizer().specials[name])
        if text:
            ids += encoded(text)
    return ids


def said(message: dict[str, Any], thinking: bool) -> str:
    """What the model is to write for a turn: its thinking, its words, its calls, the end token."""
    content, reasoning = message["content"] or "", message.get("reasoning_content")
    if reasoning is None and "</think>" in content:
        before, *_, content = content.split("</think>")
        reasoning, content = before.rstrip("\n").split("<think>")[-1].lstrip("\n"), content.lstrip("\n")
    text = f"<think>\n{(reasoning or '').strip(chr(10))}\n</think>\n\n" if thinking else ""
    text += content.lstrip("\n")
    for i, call in enumerate(message.get("tool_calls") or []):
        function = call.get("function", call)
        arguments = function["arguments"]
        if not isinstance(arguments, str):
            arguments = template().environment.filters["tojson"](arguments)
        text += "\n" if i or content else ""
        text += f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n</tool_call>'
    return nfc(text + "<|im_end|>")


def one(rng: random.Random) -> tuple[list[dict], list[dict] | None]:
    messages, tools = some_conversation(rng)
    for message in messages:
        if message["role"] != "assistant" and rng.random() < 0.7:
            at = rng.randint(0, len(message["content"]))
            message["content"] = message["content"][:at] + OTHERS + message["content"][at:]
    return messages, tools


def check(messages: list[dict], tools: list[dict] | None, examples: list[Rendered], seen: Counter[str]) -> None:
    tokenizer = fixture_tokenizer()
    trained = [(example, a, b) for example in examples for a, b in trained_runs(example)]
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    assert len(trained) == len(turns)
    for i, (example, a, b) in zip(turns, trained, strict=True):
        thinking = expects_thinking(messages, i)
        assert example.ids[:a] == prompt_ids(messages[:i], tools, thinking), f"message {i + 1}: not its prompt"
        heard = tokenizer.decode(example.ids[a:b], skip_special=False)
        assert OTHERS not in heard, f"message {i + 1}: trained on what others wrote"
        assert heard == said(messages[i], thinking), f"message {i + 1}: not what it says"
        assert example.ids[b - 1] == tokenizer.special("<|im_end|>")
        seen["turns"] += 1
        seen["thinking"] += thinking
    written = "".join(str(message["content"]) for message in messages)
    seen["imitations"] += any(name in written for name in IMITATIONS)
    seen["chinese"] += any("\u4e00" <= c <= "\u9fff" for c in written)
    seen["tools"] += any(message["role"] == "tool" for message in messages)
    seen["empty"] += any(not message["content"] for message in messages)


def test_ten_thousand_conversations_without_a_violation() -> None:
    base = 0 if os.environ.get("CI") else random.SystemRandom().randrange(1 << 40)
    seen: Counter[str] = Counter()
    for seed in range(base, base + COUNT):
        messages, tools = one(random.Random(seed))
        try:
            check(messages, tools, training_examples(messages, tools, fixture_tokenizer()), seen)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    assert seen["turns"] > 2 * COUNT and min(seen.values()) > COUNT / 10, seen


def one_more(example: Rendered) -> Rendered:
    """The last token before the first reply is trained too."""
    first = example.loss_mask.index(1)
    return Rendered(example.ids, [int(i == first - 1) or m for i, m in enumerate(example.loss_mask)])


def one_less(example: Rendered) -> Rendered:
    return Rendered(example.ids, [*example.loss_mask[:-1], 0])


def everything(example: Rendered) -> Rendered:
    return Rendered(example.ids, [1] * len(example.ids))


def nothing(example: Rendered) -> Rendered:
    return Rendered(example.ids, [0] * len(example.ids))


def with_a_space(example: Rendered) -> Rendered:
    """The prompt is one that no template gives."""
    first = example.loss_mask.index(1)
    space = fixture_tokenizer().encode(" ")
    return Rendered(example.ids[:first] + space + example.ids[first:], [0, *example.loss_mask])


@pytest.mark.parametrize("spoil", [one_more, one_less, everything, nothing, with_a_space])
def test_a_mask_or_prompt_that_is_wrong_is_seen(spoil: Callable[[Rendered], Rendered]) -> None:
    for seed in range(50):
        messages, tools = one(random.Random(seed))
        examples = training_examples(messages, tools, fixture_tokenizer())
        check(messages, tools, examples, Counter())
        with pytest.raises(AssertionError):
            check(messages, tools, [*examples[:-1], spoil(examples[-1])], Counter())

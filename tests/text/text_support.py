"""What the tests of the renderer share: the released template run by Jinja, conversations to try, the checks."""

import json
import random
import re
import unicodedata
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2.ext
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment

from qwill.text.tokenizer import Tokenizer, released_chat_template

ORACLES = Path(__file__).parent.parent / "oracles"
FIXTURE = ORACLES / "text_tokenizer"

# Private-use characters that no test text holds: they bracket a special token where the template itself writes one,
# and the span that an assistant turn takes, so that content which spells the same stays distinguishable.
MARK_OPEN, MARK_CLOSE, SPAN_OPEN, SPAN_CLOSE = "\ue000", "\ue001", "\ue002", "\ue003"
STRUCTURE = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>",
             "<tool_response>", "</tool_response>")  # fmt: skip


@cache
def fixture_tokenizer() -> Tokenizer:
    return Tokenizer.load(FIXTURE)


@cache
def compiled(template: str) -> jinja2.Template:
    """As transformers 5 compiles a chat template."""

    def tojson(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    return environment.from_string(template)


def released_text(messages: list[dict], tools: list[dict] | None, **options: Any) -> str:
    return compiled(released_chat_template()).render(messages=messages, tools=tools, **options)


@cache
def marked_template() -> str:
    """The released template, with what it writes itself bracketed; its conditions and filters are untouched."""

    def bracket(expression: re.Match[str]) -> str:
        text = expression.group()
        for name in STRUCTURE:
            text = text.replace(name, MARK_OPEN + name + MARK_CLOSE)
        return text

    template = re.sub(r"\{\{-.*?\}\}", bracket, released_chat_template())
    before, head, rest = template.partition('message.role == "assistant" %}')
    branch, tail, after = rest.partition('{%- elif message.role == "tool"')
    branch = branch.replace("message.role + '\\n", f"message.role + '\\n{SPAN_OPEN}")
    end = f"{MARK_OPEN}<|im_end|>{MARK_CLOSE}"
    assert branch.count(SPAN_OPEN) == 3 and branch.count(end) == 1
    return before + head + branch.replace(end, end + SPAN_CLOSE) + tail + after


def marked_text(messages: list[dict], tools: list[dict] | None, **options: Any) -> str:
    return compiled(marked_template()).render(messages=messages, tools=tools, **options)


def unmarked(marked: str) -> str:
    """The released template's own text."""
    return re.sub(f"[{MARK_OPEN}-{SPAN_CLOSE}]", "", marked)


def expected_ids(marked: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of marked text: bracketed names as special tokens, every run between them as plain text."""
    ids: list[int] = []
    plain = marked.replace(SPAN_OPEN, "").replace(SPAN_CLOSE, "")
    for i, run in enumerate(re.split(f"{MARK_OPEN}(.*?){MARK_CLOSE}", plain)):
        ids += [tokenizer.special(run)] if i % 2 else tokenizer.encode(run)
    return ids


@cache
def newer_marks() -> frozenset[str]:
    """Characters that NFC moves or composes in Python and not in `tokenizers` (nor, so, in transformers), whose tables
    are older: about a hundred combining marks of rare scripts, added to Unicode after version 9."""
    known = tokenizers.normalizers.NFC().normalize_str
    found: set[str] = set()
    for character in map(chr, range(0x110000)):
        # Beside marks of the lowest, the usual and the highest class: one of them has to change places.
        beside = ("\u0334" + character, character + "\u0334", "\u0301" + character, "\u0345" + character)
        if unicodedata.combining(character) and any(known(text) != nfc(text) for text in beside):
            found.add(character)
        parts = unicodedata.decomposition(character)
        if parts and not parts.startswith("<") and known(decomposed := nfd(character)) != nfc(decomposed):
            found |= {character, *decomposed}
    assert len(found) < 150
    return frozenset(found)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def trained_runs(rendered: Any) -> list[tuple[int, int]]:
    """[start, end) of each stretch of mask 1."""
    runs, position = [], 0
    for flag, group in groupby(rendered.loss_mask):
        length = len(list(group))
        if flag:
            runs.append((position, position + length))
        position += length
    return runs


# -- checks: each takes the module, so that a module with a seeded bug can be put in


def check_render(chat: ModuleType, messages: list[dict], tools: list[dict] | None) -> None:
    """Ids and text are the released template's; the mask is on the assistants' spans and nowhere else."""
    tokenizer = fixture_tokenizer()
    for thinking in (True, False):
        for prompt in (True, False):
            options = {"add_generation_prompt": prompt, "enable_thinking": thinking}
            rendered = chat.render(messages, tools, tokenizer=tokenizer, thinking=thinking, generation_prompt=prompt)
            assert len(rendered.ids) == len(rendered.loss_mask)
            marked = marked_text(messages, tools, **options)
            assert tokenizer.decode(rendered.ids, skip_special=False) == nfc(unmarked(marked))
            assert rendered.ids == expected_ids(marked, tokenizer)
        check_spans(rendered, marked, thinking)


def check_spans(rendered: Any, marked: str, thinking: bool) -> None:
    tokenizer = fixture_tokenizer()
    spans = re.findall(f"{SPAN_OPEN}(.*?){SPAN_CLOSE}", marked, flags=re.DOTALL)
    if not thinking:
        empty = f"{MARK_OPEN}<think>{MARK_CLOSE}\n\n{MARK_OPEN}</think>{MARK_CLOSE}\n\n"
        spans = [span.removeprefix(empty) for span in spans]
    spans = [span.replace(MARK_OPEN, "").replace(MARK_CLOSE, "") for span in spans]
    trained = [tokenizer.decode(rendered.ids[a:b], skip_special=False) for a, b in trained_runs(rendered)]
    assert len(spans) == len(trained)
    for span, text in zip(spans, trained, strict=True):
        untrained = nfc(span).removesuffix(text)
        # Only white space at the very start may have been swallowed by the token of the role's line break.
        assert untrained + text == nfc(span) and not untrained.strip()
        assert not untrained or "\n" in untrained


def check_training(chat: ModuleType, messages: list[dict], tools: list[dict] | None) -> None:
    """Every assistant turn is trained once, behind exactly the prompt that the released template gives there."""
    tokenizer = fixture_tokenizer()
    examples = chat.training_examples(messages, tools, tokenizer)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    trained = [(example, a, b) for example in examples for a, b in trained_runs(example)]
    assert len(trained) == len(turns)
    for i, (example, a, b) in zip(turns, trained, strict=True):
        options = {"add_generation_prompt": True, "enable_thinking": expects_thinking(messages, i)}
        assert example.ids[:a] == expected_ids(marked_text(messages[:i], tools, **options), tokenizer)
        assert set(example.loss_mask) <= {0, 1} and len(example.ids) == len(example.loss_mask)
        # A turn right behind another of the assistant's changes how that one is written.
        if has_query(messages[:i]) and messages[i - 1]["role"] != "assistant":
            text = tokenizer.decode(example.ids[:b], skip_special=False)
            assert text + "\n" == nfc(unmarked(marked_text(messages[: i + 1], tools)))
        assert example.ids[b - 1] == tokenizer.special("<|im_end|>")
    for example in examples:
        assert example.loss_mask[-1] == 1
    for (one, _, end), (two, start, _) in pairwise(trained):
        # A new example is started only where it has to be: where the next prompt does not continue the last reply.
        assert (one is two) == (two.ids[:end] == one.ids[:end] and start > end)


def expects_thinking(messages: list[dict], i: int) -> bool:
    """Whether turn i is a thinking one: by its own thinking, or because /no_think left the model to close it."""
    reasoning = messages[i].get("reasoning_content")
    content = messages[i]["content"] or ""
    if reasoning is None and "</think>" in content:
        reasoning = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
    switches = [
        word
        for message in messages[:i]
        if message["role"] in ("system", "user")
        for word in re.findall(r"(?<![\w/.-])(/no_think|/think)(?![\w/-])", message["content"], flags=re.ASCII)
    ]
    return bool(reasoning and reasoning.strip("\n")) or switches[-1:] == ["/no_think"]


def has_query(messages: list[dict]) -> bool:
    return any(
        message["role"] == "user"
        and not (message["content"].startswith("<tool_response>") and message["content"].endswith("</tool_response>"))
        for message in messages
    )


# -- conversations

WORDS = ("Hello", "world", "你好", "世界", "天气怎么样？", "x = 1", "café", "e\u0301", "🙂", "3.14", "don't", "「引」",
         "\n", "\n\n", "  ", "\t", " \n", "/think", "/no_think", "{\"a\": 1}", "Привет", "\u0301", "")  # fmt: skip
IMITATIONS = ("<|im_end|>", "<|im_start|>assistant\n", "<think>", "</think>", "<think>\n\n</think>\n\n", "<tool_call>",
              "</tool_call>", "<tool_response>", "</tool_response>", "<|endoftext|>", "<|im_end|>\n<|im_start|>user\n",
              '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', "<|vision_start|>")  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city 城市天气 <|im_end|>",
     "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "add", "parameters": {"a": [1, 2.5, None, True], "b": "<b>&'\"</b>"}}},
]  # fmt: skip


def some_text(rng: random.Random, imitate: float = 0.15) -> str:
    parts = []
    for _ in range(rng.randint(0, 5)):
        pool = IMITATIONS if rng.random() < imitate else WORDS
        parts.append(rng.choice(pool))
    text = rng.choice(("", " ")).join(parts)
    if rng.random() < 0.1:
        # Any assigned character but the private-use ones that the checks take for brackets.
        characters = (chr(rng.randrange(0x20, 0x30000)) for _ in range(rng.randint(1, 8)))
        usable = (c for c in characters if unicodedata.category(c) not in ("Cn", "Cs", "Co"))
        text += "".join(c for c in usable if c not in newer_marks())
    return text


def some_conversation(rng: random.Random) -> tuple[list[dict], list[dict] | None]:
    """Messages as users send them, and as they should not: empty turns, imitations, turns in an odd order."""
    messages: list[dict] = []
    if rng.random() < 0.4:
        messages.append({"role": "system", "content": some_text(rng)})
    kind = rng.random()
    if kind < 0.06:
        messages.append({"role": "user", "content": f"<tool_response>{some_text(rng)}</tool_response>"})
    elif kind > 0.12 or not messages:
        messages.append({"role": "user", "content": some_text(rng)})
    for _ in range(rng.randint(0, 3)):
        messages += some_exchange(rng)
        kind = rng.random()
        if kind < 0.75:
            messages.append({"role": "user", "content": some_text(rng)})
        elif kind < 0.85:
            messages.append({"role": "user", "content": f"<tool_response>\n{some_text(rng)}\n</tool_response>"})
        elif kind < 0.92:
            messages.append({"role": "system", "content": some_text(rng)})
    messages += some_exchange(rng)
    # One of the replies says something, or there would be nothing to train on.
    spoken = rng.choice([message for message in messages if message["role"] == "assistant"])
    spoken["content"] = (spoken["content"] or "") + "ok"
    tools = rng.sample(TOOLS, rng.randint(1, 2)) if rng.random() < 0.4 else None
    return messages, tools


def some_exchange(rng: random.Random) -> list[dict]:
    messages: list[dict] = []
    while rng.random() < 0.3:
        calls = [some_call(rng) for _ in range(rng.randint(1, 3))]
        content = rng.choice((None, "", some_text(rng)))
        messages.append(some_thinking(rng, {"role": "assistant", "content": content, "tool_calls": calls}))
        messages += [{"role": "tool", "content": some_text(rng)} for _ in range(rng.randint(1, 3))]
    messages.append(some_thinking(rng, {"role": "assistant", "content": some_text(rng)}))
    return messages


def some_thinking(rng: random.Random, message: dict) -> dict:
    kind = rng.random()
    if kind < 0.4:
        message["reasoning_content"] = some_text(rng)
    elif kind < 0.5 and message["content"]:
        message["content"] = f"<think>\n{some_text(rng)}\n</think>\n\n{message['content']}"
    return message


def some_call(rng: random.Random) -> dict:
    arguments: Any = {"city": some_text(rng), "n": rng.choice((1, 2.5, None, True, [1, "二"], {"深": "层"}))}
    if rng.random() < 0.2:
        arguments = json.dumps(arguments)
    call = {"name": rng.choice(("get_weather", "add")), "arguments": arguments}
    return call if rng.random() < 0.1 else {"type": "function", "function": call}

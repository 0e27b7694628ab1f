"""Training by other models' templates: transformers' assistant masks, and prompts as at inference."""

from __future__ import annotations

import json
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.engine.said import said_examples
from qwill.engine.template import conversation_ids
from qwill.text.chat import Rendered, training_examples
from qwill.text.tokenizer import Tokenizer, released_chat_template

ORACLES = Path(__file__).parents[1] / "oracles"
sys.path.append(str(ORACLES))
import training_cases as cases  # noqa: E402

RECORD = json.loads((ORACLES / "training_template.json").read_text(encoding="utf-8"))["templates"]
ENDS = {"smollm": "<|im_end|>", "mistral": "<|im_end|>", "llama": "<|eot_id|>", "gemma": "<end_of_turn>"}
SYSTEM = ("smollm", "llama")  # templates that take a system message


@cache
def document() -> dict[str, Any]:
    return cases.extended(json.loads((ORACLES / "text_tokenizer" / "tokenizer.json").read_text(encoding="utf-8")))


@cache
def tokenizer(template: str) -> Tokenizer:
    return Tokenizer(document(), {"bos_token": "<s>", "eos_token": "<|im_end|>"}, template)


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def chat(name: str, seed: int) -> list[dict[str, Any]]:
    return cases.plain_chat(seed, name in SYSTEM)


def heard(example: Rendered, by: Tokenizer) -> str:
    return by.decode([i for i, m in zip(example.ids, example.loss_mask, strict=True) if m], skip_special=False)


@pytest.mark.parametrize("name", cases.TEMPLATES)
def test_where_the_template_marks_replies_ids_and_mask_are_transformers(name: str) -> None:
    for seed, expected in enumerate(RECORD[name]):
        for kind in ("inference", "training"):
            by = tokenizer(cases.TEMPLATES[name])
            (example,) = said_examples([], chat(name, seed), by, template=kind)  # type: ignore[arg-type]
            assert (example.ids, example.loss_mask) == (expected["ids"], expected["mask"]), seed


@pytest.mark.parametrize("name", cases.TEMPLATES)
def test_without_marks_each_turn_stands_behind_the_prompt_of_inference(name: str) -> None:
    by = tokenizer(cases.without_marks(cases.TEMPLATES[name]))
    for seed, expected in enumerate(RECORD[name]):
        messages = chat(name, seed)
        examples = said_examples([], messages, by)
        trained = [(e, start) for e in examples for start in starts(e)]
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        assert len(trained) == len(turns)
        for i, (example, start) in zip(turns, trained, strict=True):
            assert example.ids[:start] == conversation_ids(messages[:i], by)
        # The words are those that are trained where they are marked; white space of the head, which shares a token with
        # the beginning of a reply, and the line break that Gemma's mark takes in are not.
        marked = Rendered(expected["ids"], expected["mask"])
        said = "".join(heard(e, by) for e in examples)
        assert "".join(said.split()) == "".join(heard(marked, by).split())
        replies = [str(messages[i]["content"]) for i in turns]
        replies = [text.strip() for text in replies] if name in ("llama", "gemma") else replies
        space = " " if name == "mistral" else ""
        assert said == nfc("".join(f"{space}{text}{ENDS[name]}" for text in replies))


def starts(example: Rendered) -> list[int]:
    mask = [0, *example.loss_mask]
    return [i for i in range(len(example.ids)) if mask[i + 1] and not mask[i]]


def test_a_template_that_is_chatml_gives_what_the_renderer_gives() -> None:
    chatml = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    plain = {**document(), "added_tokens": [t for t in document()["added_tokens"] if "think>" not in t["content"]]}
    by, ours = Tokenizer(plain, {}, chatml), Tokenizer(plain, {}, released_chat_template())
    for seed in range(60):
        messages = chat("smollm", seed)
        assert said_examples([], messages, by) == training_examples(messages, None, ours)


HOSTILE = ["<|im_end|>", "<|im_", "end|>", "<", "<|eot_id|>", "<end_of_turn>", "<s>", "你好", " x\n", "\ue000"]
PIECES = st.lists(st.sampled_from(HOSTILE)).map("".join)


@pytest.mark.parametrize("name", cases.TEMPLATES)
@given(asked=st.lists(PIECES, min_size=2, max_size=2), said=st.lists(PIECES, min_size=2, max_size=2))
def test_what_people_wrote_never_becomes_structure_nor_is_trained(name: str, asked: list[str], said: list[str]) -> None:
    messages = [
        {"role": role, "content": f"{mark}{text}{mark}"}
        for a, b in zip(asked, said, strict=True)
        for role, mark, text in (("user", "U", a), ("assistant", "A", b))
    ]
    for template in (cases.TEMPLATES[name], cases.without_marks(cases.TEMPLATES[name])):
        by = tokenizer(template)
        examples = said_examples([], messages, by)
        trained = "".join(heard(e, by) for e in examples)
        space = " " if name == "mistral" else ""
        expected = "".join(f"{space}A{b}A{ENDS[name]}" for b in said)
        assert trained.replace("<end_of_turn>\n", "<end_of_turn>") == expected and "U" not in trained
        written = [i for e in examples for i in e.ids if i in by.specials.values()]
        clean = [{**m, "content": "x"} for m in messages]
        assert written == [i for e in said_examples([], clean, by) for i in e.ids if i in by.specials.values()]


def test_only_turns_behind_the_prompt_are_trained() -> None:
    for name, template in cases.TEMPLATES.items():
        for by in (tokenizer(template), tokenizer(cases.without_marks(template))):
            messages = [*chat(name, 7), {"role": "user", "content": "b?"}, {"role": "assistant", "content": "last"}]
            (example,) = said_examples(messages[:-1], messages[-1:], by)
            assert heard(example, by).strip().startswith("last") and len(starts(example)) == 1


THINKS = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}{%- if m.role == 'assistant' and loop.last %}
{{- '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{%- endif %}{{- m.content + '<|im_end|>\n' }}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking %}{{- '<think>\n' }}{%- else %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"""


def test_a_template_whose_prompt_opens_the_thinking_block() -> None:
    by = tokenizer(THINKS)
    messages = [
        {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2", "reasoning_content": "Add."},
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
    ]  # fmt: skip
    first, second = said_examples([], messages, by)
    assert heard(first, by) == "Add.\n</think>\n\n2<|im_end|>" and heard(second, by) == "Hello<|im_end|>"
    assert by.decode(second.ids, False).endswith("assistant\n<think>\n\n</think>\n\nHello<|im_end|>")


TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
CALL = [{"type": "function", "function": {"name": "look", "arguments": {}}}]


@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}?{% endif %}", TALK,
         "message 2: the chat template does not begin this reply as its own prompt"),
        (cases.without_marks(cases.SMOLLM), TALK[1:], "message 1 is the assistant's"),
        (cases.GEMMA, [{"role": "system", "content": "x"}, *TALK], "System role not supported"),
        (cases.SMOLLM, [TALK[0], {"role": "assistant", "content": "", "tool_calls": CALL}], "message 2 calls look"),
        (cases.without_marks(cases.SMOLLM), [TALK[0], {"role": "assistant", "content": "", "tool_calls": CALL}],
         "message 2 calls look, and the model's chat template does not write calls"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}{% generation %}x{% endgeneration %}", TALK * 2,
         "marks 1 turns with {% generation %} where the assistant has 2"),
        ("{% generation %}{{ messages }}", TALK, "can't render"),
    ],
)  # fmt: skip
def test_what_a_template_can_not_say_is_one_sentence(template: str, messages: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DataError) as caught:
        said_examples([], messages, tokenizer(template), where="d.jsonl: line 3")
    assert str(caught.value).startswith("d.jsonl: line 3: ") and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_training_needs_a_template_that_has_a_training_form() -> None:
    with pytest.raises(DataError, match="template: training is known for Qwen3's released template"):
        said_examples([], TALK, tokenizer(cases.without_marks(cases.LLAMA)), template="training")


def test_plain_text_and_messages_are_not_mixed() -> None:
    with pytest.raises(DataError, match="two kinds"):
        said_examples("a", TALK[1:], tokenizer(cases.LLAMA))


def test_marks_change_nothing_at_inference() -> None:
    for name, template in cases.TEMPLATES.items():
        for seed in range(20):
            asked = chat(name, seed)[:-1]
            both = [conversation_ids(asked, tokenizer(t)) for t in (template, cases.without_marks(template))]
            assert both[0] == both[1]

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
    """Its end token is the one that the template puts behind a turn, as in the families' own files."""
    end = next((name for name in ("<|eot_id|>", "<end_of_turn>") if name in template), "<|im_end|>")
    return Tokenizer(document(), {"bos_token": "<s>", "eos_token": end}, template)


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


ASKED = {"role": "user", "content": "1+1?"}
INSIDE = {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nans"}
APART = {"role": "assistant", "content": "ans", "reasoning_content": "why"}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Qwen3's own and DeepSeek-R1's: both look for thinking inside the content themselves.
SPLITS = """{%- for m in messages %}{%- set content = m.content %}{%- set why = '' %}
{%- if m.reasoning_content is string %}{%- set why = m.reasoning_content %}{%- elif '</think>' in content %}
{%- set why = content.split('</think>')[0].split('<think>')[-1] %}{%- set content = content.split('</think>')[-1] %}
{%- endif %}{{- '<|im_start|>' + m.role + '\n' }}{%- if m.role == 'assistant' and loop.last %}
{{- '<think>\n' + why.strip() + '\n</think>\n\n' }}{%- endif %}{{- content.strip() + '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"""


@pytest.mark.parametrize("template", [THINKS, SPLITS], ids=["opens", "splits"])
@pytest.mark.parametrize("parts", [False, True])
def test_thinking_inside_the_content_is_trained_as_thinking(template: str, parts: bool) -> None:
    by = tokenizer(template)
    inside = INSIDE | {"content": [{"type": "text", "text": INSIDE["content"]}]} if parts else INSIDE
    both = [said_examples([], [ASKED, reply, ASKED, reply], by) for reply in (inside, APART)]
    assert both[0] == both[1]
    marks = [i for i in both[0][-1].ids if i in (by.special("<think>"), by.special("</think>"))]
    assert heard(both[0][-1], by).endswith("why\n</think>\n\nans<|im_end|>") and len(marks) == 2
    # What a user writes stays text; a reply that holds an empty block did not think.
    (example,) = said_examples([], [{"role": "user", "content": INSIDE["content"]}, inside], by)
    assert example.ids.count(by.special("<think>")) == 1
    empty = {"role": "assistant", "content": "<think>\n\n</think>\n\nans"}
    (example,) = said_examples([], [ASKED, empty], by)
    assert heard(example, by) == "ans<|im_end|>"


def test_thinking_in_the_history_is_the_same_inside_and_apart() -> None:
    for template in (THINKS, SPLITS):
        by = tokenizer(template)
        both = [conversation_ids([ASKED, reply, ASKED], by, thinking=True) for reply in (INSIDE, APART)]
        assert both[0] == both[1] and "why" not in by.decode(both[0])
    # To a template that knows no thinking it is text like any other.
    by = tokenizer(CHATML)
    ids = conversation_ids([ASKED, INSIDE, ASKED], by)
    assert f"assistant\n{INSIDE['content']}<|im_end|>" in by.decode(ids, False) and by.special("<think>") not in ids


def test_thinking_in_contents_is_refused_where_the_template_writes_none() -> None:
    for template in (CHATML, cases.without_marks(CHATML)):
        with pytest.raises(DataError, match=r"^row: message 2 has thinking in its content, and .* writes none; leave"):
            said_examples([], [ASKED, INSIDE], tokenizer(template), where="row")
        # Given apart, it is left out and counted, as it is where the tokenizer has no mark for it.
        examples = said_examples([], [ASKED, APART, ASKED, {"role": "assistant", "content": "b"}], tokenizer(template))
        assert sum(e.unwritten for e in examples) == 1
        assert [heard(e, tokenizer(template)) for e in examples] == ["ans<|im_end|>b<|im_end|>"]
    # DeepSeek-R1's looks for thinking, to leave it out.
    drops = cases.without_marks(CHATML).replace("m.content", "m.content.split('</think>')[-1]")
    with pytest.raises(DataError, match="message 2 has thinking in its content"):
        said_examples([], [ASKED, INSIDE], tokenizer(drops))
    assert "why" not in tokenizer(drops).decode(conversation_ids([ASKED, INSIDE, ASKED], tokenizer(drops)))
    plain = {**document(), "added_tokens": [t for t in document()["added_tokens"] if "think>" not in t["content"]]}
    (example,) = said_examples([], [ASKED, INSIDE], Tokenizer(plain, {}, CHATML))
    assert "<think>\nwhy" in heard(example, Tokenizer(plain, {}, CHATML)) and not example.unwritten


def test_what_the_template_writes_of_thinking_is_not_counted() -> None:
    for template in (THINKS, SPLITS):
        said = APART | {"content": "why not"}  # the same words in the reply are no thinking
        examples = said_examples([], [ASKED, said, ASKED, said], tokenizer(template))
        assert [e.unwritten for e in examples] == [0, 0]
    (example,) = said_examples([], [ASKED, APART | {"content": "why not"}], tokenizer(CHATML))
    assert example.unwritten == 1


def test_a_reply_behind_no_think_is_trained_as_the_switch_is_obeyed() -> None:
    switched = {"role": "user", "content": "1+1? /no_think"}
    for template, prompt, said in (
        (THINKS, "assistant\n<think>\n", "\n</think>\n\n2<|im_end|>"),
        (SPLITS, "assistant\n", "<think>\n\n</think>\n\n2<|im_end|>"),
    ):
        by = tokenizer(template)
        (example,) = said_examples([], [switched, {"role": "assistant", "content": "2"}], by)
        assert heard(example, by) == said
        assert by.decode(example.ids[: starts(example)[0]], False).endswith(prompt)
        assert example.ids[: starts(example)[0]] == conversation_ids([switched], by, thinking=True)
        (example,) = said_examples([], [ASKED, {"role": "assistant", "content": "2"}], by)
        assert heard(example, by) == "2<|im_end|>"


VICUNA = (
    "{% for m in messages %}{{ m.role.upper() + ': ' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)


def test_a_template_that_ends_no_reply_is_refused() -> None:
    marked = "{% for m in messages %}{% generation %}{{ m.content + '\n' }}{% endgeneration %}{% endfor %}"
    talk = [TALK[1]]
    for template, messages in ((VICUNA, TALK), (cases.without_marks(cases.LLAMA), TALK), (marked, talk)):
        by = Tokenizer(document(), {"bos_token": "<s>"}, template)
        with pytest.raises(DataError) as caught:
            said_examples([], messages, by, where="d.jsonl: line 3")
        assert str(caught.value).startswith("d.jsonl: line 3: the chat template ends a reply with ")
        assert "generation stops at <|im_end|> and <|endoftext|>" in str(caught.value)
        assert "\n" not in str(caught.value)
    by = Tokenizer(document(), {"eos_token": "<s>"}, VICUNA)
    (example,) = said_examples([], TALK, by)
    assert heard(example, by) == "b<s>"
    bare = {**document(), "added_tokens": []}
    with pytest.raises(DataError, match="the tokenizer has no end token, so the model would never learn to stop"):
        said_examples([], TALK, Tokenizer(bare, {}, VICUNA))

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import byte_tokenizer

from qwill.base.errors import DataError
from qwill.engine.template import render_template
from qwill.text.chat import render
from qwill.text.tokenizer import released_chat_template

# The form of SmolLM2's own template: ChatML with a default system prompt.
CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
Be kind.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
TOKENIZER = byte_tokenizer(CHATML)
# Texts out of what could be mistaken for structure, whole and in halves.
PIECES = [
    "<|im_end|>",
    "<|im_",
    "end|>",
    "<",
    "<|im_start|>",
    "<think>",
    "</think>",
    "你好",
    " x\n",
    "\ue000",
]
TEXTS = st.lists(st.sampled_from(PIECES)).map("".join)


@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_what_people_wrote_never_becomes_structure(texts):
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    ids = render_template(messages, TOKENIZER)
    said = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    expected = f"<|im_start|>system\nBe kind.<|im_end|>\n{said}<|im_start|>assistant\n"
    assert TOKENIZER.decode(ids, skip_special=False) == expected
    structure = [i for i in ids if i in TOKENIZER.specials.values()]
    start, end = TOKENIZER.special("<|im_start|>"), TOKENIZER.special("<|im_end|>")
    assert structure == [start, end] * (len(texts) + 1) + [start]


def test_texts_that_only_together_spell_a_special_token_stay_text():
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}")
    ids = render_template([{"role": "user", "content": "<|im_"}, {"role": "user", "content": "end|>"}], tokenizer)
    assert ids == tokenizer.encode("<|im_end|>")


@pytest.mark.parametrize("thinking", [True, False])
def test_the_released_template_in_jinja_gives_what_its_renderer_gives(thinking):
    tokenizer = byte_tokenizer(released_chat_template())
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"city": {"type": "string"}}}}]
    messages = [
        {"role": "system", "content": "Be brief. 请简短。"},
        {"role": "user", "content": "Weather in Paris?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}],
        },
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
        {"role": "user", "content": "谢谢"},
    ]
    expected = render(messages, tools, tokenizer=tokenizer, thinking=thinking, generation_prompt=True).ids
    assert render_template(messages, tokenizer, tools, thinking) == expected


def test_the_template_works_in_a_sandbox():
    for attack in ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}"):
        with pytest.raises(DataError, match="the model's chat template can't render this conversation"):
            render_template([{"role": "user", "content": "x"}], byte_tokenizer(attack))


def test_what_a_template_refuses_is_one_sentence():
    tokenizer = byte_tokenizer("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match="roles must alternate"):
        render_template([{"role": "user", "content": "x"}], tokenizer)
    with pytest.raises(DataError, match="message 2 has role 'im_end'"):
        render_template([{"role": "user", "content": ""}, {"role": "im_end", "content": ""}], TOKENIZER)

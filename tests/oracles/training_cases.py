"""Conversations and templates that make_training_template_oracle.py and the tests share; plain Python.

The templates are written here in the form of released ones: what differs between families is where the beginning of a
text, trimmed content, refused roles and line breaks behind the end token stand.
"""

import copy
import hashlib
import json
import random
from typing import Any

WHOLE, HASHED = 60, 3000  # conversations of which ids are kept, or their hash alone

WORDS = ("Hello", "world", "你好", "世界", "天气怎么样？", "x = 1", "café", "🙂", "3.14", "don't", "「引」", "\n",
         "\n\n", "  ", "\t", " \n", "/think", "/no_think", '{"a": 1}', "Привет", "")  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city 城市天气",
     "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "add", "parameters": {"a": [1, 2.5, None, True], "b": "<b>&'\"</b>"}}},
]  # fmt: skip

# The end of a turn, and what a family's vocabulary has beside Qwen's.
SPECIALS = ("<s>", "<start_of_turn>", "<end_of_turn>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
SMOLLM = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\n' }}{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{%- for message in messages %}{%- if loop.index0 == 0 %}{{- bos_token }}{%- endif %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- if message['role'] == 'assistant' %}{%- generation %}{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endgeneration %}{%- else %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
GEMMA = (
    "{{- bos_token -}}{%- if messages[0]['role'] == 'system' -%}{{- raise_exception('System role not supported') -}}"
    "{%- endif -%}{%- for message in messages -%}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('Conversation roles must alternate') -}}{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}{{- '<start_of_turn>model\n' -}}{%- generation -%}"
    "{{- message['content'] | trim + '<end_of_turn>\n' -}}{%- endgeneration -%}{%- else -%}"
    "{{- '<start_of_turn>user\n' + message['content'] | trim + '<end_of_turn>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{% generation %}{{ ' ' + message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
TEMPLATES = {"smollm": SMOLLM, "llama": LLAMA, "gemma": GEMMA, "mistral": MISTRAL}


def without_marks(template: str) -> str:
    """The same template as most are released: it does not say what the assistant says."""
    for mark in ("{%- generation %}", "{%- generation -%}", "{% generation %}"):
        template = template.replace(mark, mark.replace("generation", "if true"))
    for mark in ("{%- endgeneration %}", "{%- endgeneration -%}", "{% endgeneration %}"):
        template = template.replace(mark, mark.replace("endgeneration", "endif"))
    return template


def extended(document: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json with the special tokens of those families too."""
    document = copy.deepcopy(document)
    first = 1 + max(token["id"] for token in document["added_tokens"])
    like = document["added_tokens"][0]
    document["added_tokens"] += [like | {"id": first + i, "content": name} for i, name in enumerate(SPECIALS)]
    return document


def text(rng: random.Random, most: int = 6) -> str:
    return rng.choice(("", " ")).join(rng.choice(WORDS) for _ in range(rng.randint(0, most)))


def reply(rng: random.Random) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text(rng)}
    kind = rng.random()
    if kind < 0.35:
        message["reasoning_content"] = text(rng)
    elif kind < 0.5:
        message["content"] = f"<think>\n{text(rng)}\n</think>\n\n{message['content']}"
    return message


def conversation(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """For Qwen3's template: systems anywhere, several turns, empty ones, thinking, calls with their results."""
    rng = random.Random(f"training/{seed}")
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.4:
        messages.append({"role": "system", "content": text(rng)})
    if not messages or rng.random() < 0.95:
        messages.append({"role": "user", "content": text(rng)})
    for _ in range(rng.randint(1, 4)):
        while rng.random() < 0.3:
            called = reply(rng)
            called["content"] = rng.choice((None, "", called["content"]))
            arguments = {"city": text(rng), "n": rng.choice((1, 2.5, None, True, [1, "二"], {"深": "层"}))}
            calls = [{"name": "get_weather", "arguments": arguments} for _ in range(rng.randint(1, 2))]
            if rng.random() < 0.3:
                calls[0]["arguments"] = json.dumps(arguments)
            bare = rng.random() < 0.2
            called["tool_calls"] = calls if bare else [{"type": "function", "function": call} for call in calls]
            messages.append(called)
            messages += [{"role": "tool", "content": text(rng)} for _ in range(rng.randint(1, 3))]
        messages.append(reply(rng))
        if rng.random() < 0.8:
            messages.append({"role": "user", "content": text(rng)})
        elif rng.random() < 0.3:
            messages.append({"role": "system", "content": text(rng)})
    spoken = [message for message in messages if message["role"] == "assistant"][-1]
    spoken["content"] = (spoken["content"] or "") + "ok"
    return messages, rng.sample(TOOLS, rng.randint(1, 2)) if rng.random() < 0.4 else None


def plain_chat(seed: int, system: bool) -> list[dict[str, Any]]:
    """User and assistant in turns, for the other templates."""
    rng = random.Random(f"plain/{seed}")
    messages = [{"role": "system", "content": text(rng)}] if system and rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 4)):
        messages += [{"role": "user", "content": text(rng)}, {"role": "assistant", "content": text(rng)}]
    messages[-1]["content"] += "ok"
    return messages


def digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, ensure_ascii=False).encode()).hexdigest()[:12]

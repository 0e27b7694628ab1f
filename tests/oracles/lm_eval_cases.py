"""A tiny checkpoint and made-up task files that use every part of the form; lm-eval's word on them is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from qwill.model.config import ModelConfig
from qwill.model.files import save_model
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters

CONTEXT = 128  # so short that some of what is asked loses its beginning
# Pairs that text is joined by, borders between prompt and choice among them: " t", "\n\n", "he", parts of 是.
MERGES = [
    (" ", "t"), ("h", "e"), (" t", "he"), ("\n", "\n"), (" ", " "), ("i", "n"), ("e", "r"), (" ", "A"), (":", " "),
    ("a", "n"), (" ", "B"), ("o", "n"),
]  # fmt: skip

QUESTIONS = [
    {"q": "What is the colour of the sky?", "options": ["blue", "green", "the same as grass"], "right": 0, "n": "1"},
    {"q": "Who wrote then?\n", "options": ["Ann", "the others, in the inn", "Ben"], "right": 1, "n": "2"},
    {"q": "2 + 2 =", "options": ["3", "4", "5"], "right": 1, "n": "3"},
    {"q": "天空是什么颜色？", "options": ["蓝色", "绿色", "和草一样"], "right": 0, "n": "4"},
    {"q": "It ends in a space: ", "options": ["yes", "no", " perhaps"], "right": 2, "n": "5"},
    {"q": "Long: " + "the inner then another one in the hen " * 5, "options": ["A", "B", "C"], "right": 2, "n": "6"},
]
SENTENCES = [
    {"pair": ["The hen sat on the inn.", "The hen on sat the inn."]},
    {"pair": ["这是一句话。", "这一是句话。"]},
    {"pair": ["Then she went home", "then home She went"]},
]
# What the checkpoint itself would say after this, so that something is greedy.
GREEDY = [{"q": "And so:", "options": ["\x1a\x1c", "\x1a\x1b", "\x1a"]}]
# Name → (YAML but for its source, rows, asked in a chat).
TASKS: dict[str, tuple[str, list[dict[str, Any]], bool]] = {
    "list": (
        'kind: choice\nprompt: "Question: {{ q }}\\nAnswer:"\nchoices: "{{ options }}"\nanswer: "{{ right }}"\n'
        "metrics: [acc, acc_norm, acc_bytes]\n",
        QUESTIONS,
        False,
    ),
    "shots": (
        'kind: choice\ninstruction: "Answer the question.\\n\\n"\nprompt: "Q: {{ q }}\\nA:"\n'
        'choices: ["{{ options[0] }}", "\'{{ options[1] }}\'", "{{ options[2] | upper }} \\\\ "]\n'
        'answer: "{{ right }}"\nmetrics: [acc, acc_norm, acc_bytes]\nshots: {count: 2, separator: "\\n---\\n"}\n',
        QUESTIONS[:5],
        False,
    ),
    "letters": (
        "kind: choice\nprompt: \"{{ q | regex_replace('the', 'a') }}\\nA. {{ options[0] }}\\nB. {{ options[1] }}"
        "\\nC. {{ options[2] }}\\nAnswer:\"\nchoices: [A, B, C]\nanswer: \"{{ ['A', 'B', 'C'][right] }}\"\n"
        "metrics: [acc]\nshots: {count: 1}\n",
        QUESTIONS[:5],
        False,
    ),
    "sentences": (
        'kind: choice\nprompt: ""\ndelimiter: ""\nchoices: "{{ pair }}"\nanswer: 0\nmetrics: [acc, acc_norm]\n',
        SENTENCES,
        False,
    ),
    "mass": (
        'kind: choice\nprompt: "{{ q }}"\nchoices: "{{ options }}"\nanswer: "{{ [right, 0] }}"\n'
        "metrics: [acc, acc_bytes, mass]\n",
        QUESTIONS[:5],
        False,
    ),
    "greedy": (
        'kind: choice\nprompt: "{{ q }}"\ndelimiter: ""\nchoices: "{{ options }}"\nanswer: 1\nmetrics: [acc]\n',
        GREEDY,
        False,
    ),
    "chat_choice": (
        'kind: choice\ninstruction: "Be brief."\nprompt: "{{ q }}"\nchoices: "{{ options }}"\nanswer: "{{ right }}"\n'
        "metrics: [acc, acc_norm]\nshots: {count: 1}\n",
        QUESTIONS[:4],
        True,
    ),
    "reply": (
        'kind: generate\nprompt: "{{ q }}"\nanswer: "{{ options[right] }}"\n'
        'generate: {max_tokens: 24, stop: ["\\n\\n", "F+"], temperature: 0}\nshots: {count: 1}\n',
        QUESTIONS,
        False,
    ),
    "chat_reply": (
        'kind: generate\nprompt: "{{ q }}"\nanswer: "{{ options[right] }}"\ngenerate: {max_tokens: 16}\n',
        QUESTIONS[:4],
        True,
    ),
}


def write_tasks(folder: Path) -> dict[str, Path]:
    """A task file with its examples for each name."""
    paths = {}
    for name, (text, rows, _) in TASKS.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(f"name: {name}\nsource: {{jsonl: {name}.jsonl}}\n{text}", encoding="utf-8")
    return paths


def write_checkpoint(folder: Path) -> Path:
    """Two layers of random weights, norms away from 1 and wide logits, and a vocabulary of bytes and a few pairs."""
    vocabulary = {to_characters(bytes([b])): b for b in range(256)}
    merges = []
    for left, right in MERGES:
        pair = to_characters(left.encode()), to_characters(right.encode())
        vocabulary["".join(pair)] = len(vocabulary)
        merges.append(pair)
    tokenizer = Tokenizer.from_trained(vocabulary, merges)
    config = ModelConfig(
        model_type="qwen3", vocab_size=tokenizer.vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, intermediate_size=48, max_position_embeddings=CONTEXT,
        tie_word_embeddings=False, eos_token_id=tokenizer.stop_ids, bos_token_id=None,
        pad_token_id=tokenizer.special("<|endoftext|>"),
    )  # fmt: skip
    model = Transformer(config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(0.5 + torch.rand(p.shape, generator=generator))
            else:
                p.copy_(torch.randn(p.shape, generator=generator) * p.shape[-1] ** -0.5)
        model.embed_tokens.weight.mul_(8)
        assert model.lm_head is not None
        model.lm_head.weight.mul_(3)
    save_model(model, folder, tokenizer, generation_config={"eos_token_id": [*tokenizer.stop_ids]})
    return folder

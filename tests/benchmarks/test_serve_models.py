"""The model that recites says what it should, whatever it is asked; chunks are unique; the adapters change replies."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_models import CALLS, GREETING, RESULT, THOUGHT, calls_text, unique_chunks, write_adapters, write_random
from serve_models import write_reciting as write_it

import qwill
from qwill.engine.generate import generate
from qwill.engine.language_model import LanguageModel
from qwill.engine.sampler import Sampling
from qwill.model.lora import attach
from qwill.model.lora_files import load_adapter

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def reciting(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return qwill.load(write_it(tmp_path_factory.mktemp("models") / "recite"))


def said(lm: LanguageModel, messages: list[dict], thinking: bool, tools: list[dict] | None) -> str:
    prompt = lm.prompt(messages, thinking, tools)
    ((completion,),) = generate(lm.model, [prompt], Sampling(200, temperature=0), stop_ids=lm.stop_ids)
    assert completion.finish_reason == "stop"
    return lm.tokenizer.decode(completion.token_ids)


@settings(max_examples=20)
@given(st.text(max_size=200), st.text(max_size=200), st.booleans(), st.booleans())
def test_it_recites(reciting: LanguageModel, user: str, system: str, thinking: bool, tools: bool) -> None:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    if user.rstrip().endswith("think"):
        user += "."  # a switch of Qwen3 at the end of a message decides about thinking
    thought = f"<think>\n{THOUGHT}\n</think>\n\n" if thinking else ""
    expected = thought + (calls_text() if tools else GREETING)
    assert said(reciting, messages, thinking, [TOOL] if tools else None) == expected


def test_it_answers_when_it_has_results(reciting: LanguageModel) -> None:
    calls = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in CALLS]
    results = [{"role": "tool", "content": "sunny " * 200}] * 2
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": calls}, *results]
    assert said(reciting, messages, False, [TOOL]) == RESULT


@given(st.lists(st.text(min_size=4, max_size=60), min_size=1, max_size=4))
def test_chunks_are_unique_and_spell_the_texts(texts: list[str]) -> None:
    try:
        cut = unique_chunks(texts)
    except ValueError:
        return
    assert [b"".join(chunks).decode() for chunks in cut] == texts
    flat = [chunk for chunks in cut for chunk in chunks]
    assert len(set(flat)) == len(flat)


def test_adapters_change_what_is_said(tmp_path: Path) -> None:
    base = write_random(tmp_path / "base", 256)
    prompt = [list(b"The river ran over old stones")]
    texts = []
    for folder in [None, *write_adapters(base, tmp_path, 2)]:
        model = qwill.load(base).model
        if folder is not None:
            attach(model, load_adapter(model, folder))
        ((completion,),) = generate(model, prompt, Sampling(20, temperature=0))
        texts.append(tuple(completion.token_ids))
    assert len(set(texts)) == 3

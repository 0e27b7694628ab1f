import json
import subprocess
import sys
import zipfile

import pytest
import torch
from tiny import byte_tokenizer, chat_model, tiny_model

import qwill
from qwill.base.errors import ArtifactError, ConfigError, DataError
from qwill.engine.generate import Completion
from qwill.engine.language_model import CAUTIOUS, NOT_THINKING, Delta, LanguageModel
from qwill.engine.stream import Token
from qwill.model.files import save_model

QUESTION = [{"role": "user", "content": "你好"}]


def scripted(text: str, max_tokens: int = 10_000) -> LanguageModel:
    """A language model whose engine says `text`, `<name>` marks being special tokens."""
    lm = chat_model()
    ids: list[int] = []
    while text:
        name = next((n for n in lm.tokenizer.specials if text.startswith(n)), None)
        ids += [lm.tokenizer.special(name)] if name else lm.tokenizer.encode(text[0])
        text = text[len(name) if name else 1 :]

    def stream(prompt, settings, stop_ids, seed, vocab_size, budget=None):
        for i in ids[:max_tokens]:
            yield Token(i, 0.0)
            if i in stop_ids:
                return

    lm.engine.stream = stream
    return lm


def joined(deltas: list[Delta], kind: str) -> str:
    return "".join(d.text for d in deltas if d.kind == kind)


def test_a_saved_folder_chats_the_same_streamed_or_not(tmp_path):
    tokenizer = byte_tokenizer()
    save_model(tiny_model("moe", tokenizer.padded_vocab_size, context=300), tmp_path, tokenizer)
    lm = qwill.load(tmp_path)
    whole = lm.chat(QUESTION, max_tokens=30, seed=3)
    pieces = list(lm.chat(QUESTION, stream=True, max_tokens=30, seed=3))
    assert isinstance(whole, str) and len(whole) > 5
    assert "".join(pieces).strip("\n") == whole
    assert lm.chat(QUESTION, max_tokens=30, seed=4) != whole
    assert lm.chat(QUESTION, max_tokens=30, seed=3) == whole


def test_thinking_is_split_from_what_is_said():
    lm = scripted("<think>\n先想 a\n</think>\n\nHello 你好\n\nbye<|im_end|>never")
    deltas = list(lm.stream(QUESTION, thinking=True))
    assert joined(deltas, "reasoning") == "先想 a"
    assert joined(deltas, "content") == "Hello 你好\n\nbye"
    assert [d.finish_reason for d in deltas[-2:]] == [None, "stop"]
    assert lm.chat(QUESTION, thinking=True) == "Hello 你好\n\nbye"
    reply = lm.reply(QUESTION, thinking=True)
    assert (reply.reasoning_content, reply.content) == ("先想 a", "Hello 你好\n\nbye")


def test_a_thinking_mark_in_the_middle_is_content_and_a_cut_off_character_is_shown():
    deltas = list(scripted("It is <think> ok<|im_end|>").stream(QUESTION))
    assert joined(deltas, "content") == "It is <think> ok" and not joined(deltas, "reasoning")
    cut = list(scripted("ab你", max_tokens=4).stream(QUESTION))
    assert joined(cut, "content") == "ab\ufffd" and cut[-1].finish_reason == "length"


def test_tool_calls_are_taken_out_of_a_reply():
    lm = scripted('Let me see.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>')
    reply = lm.reply(QUESTION)
    assert reply.content.strip() == "Let me see."
    assert reply.tool_calls[0]["function"] == {"name": "f", "arguments": {"a": 1}}


def test_thinking_that_the_prompt_opened_is_thinking():
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
    for text, content in (("Hm.\n</think>\n\n42<|im_end|>", "42"), ("Hm.", "")):
        lm = scripted(text)
        lm.tokenizer.chat_template = template
        deltas = list(lm.stream(QUESTION, thinking=True))
        assert (joined(deltas, "reasoning"), joined(deltas, "content")) == ("Hm.", content)
        reply = lm.reply(QUESTION, thinking=True)
        assert (reply.reasoning_content, reply.content) == ("Hm.", content)


def test_generate_continues_texts():
    lm = chat_model()
    got = lm.generate(["one", "two words", ""], max_tokens=8, temperature=0)
    assert all(isinstance(c, Completion) for c in got)
    for text, completion in zip(["one", "two words", ""], got, strict=True):
        ids = lm.tokenizer.encode(text) or [lm.tokenizer.special("<|endoftext|>")]
        with torch.no_grad():
            logits = lm.model.logits(torch.tensor([ids]))[0, -1, : lm.tokenizer.vocab_size]
        assert completion.token_ids[0] == int(logits.argmax())
        shown = [i for i in completion.token_ids if i not in lm.stop_ids]
        assert completion.text == lm.tokenizer.decode(shown)
        assert len(completion.logprobs) == len(completion.token_ids)


def test_padding_rows_are_never_chosen():
    lm = chat_model()
    with torch.no_grad():
        lm.model.embed_tokens.weight[lm.tokenizer.vocab_size :] *= 100
    completions = lm.generate(["abc"] * 8, max_tokens=20, temperature=1.5)
    assert max(i for c in completions for i in c.token_ids) < lm.tokenizer.vocab_size
    assert lm.chat(QUESTION, max_tokens=20)


def test_the_folder_says_what_ends_a_reply(tmp_path):
    tokenizer = byte_tokenizer()
    save_model(tiny_model("dense", tokenizer.padded_vocab_size), tmp_path, tokenizer)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [65, 66]}))
    assert {65, 66, *tokenizer.stop_ids} == set(qwill.load(tmp_path).stop_ids)


def test_the_folder_says_how_to_sample(tmp_path):
    tokenizer = byte_tokenizer()
    save_model(tiny_model("dense", tokenizer.padded_vocab_size), tmp_path, tokenizer)
    path = tmp_path / "generation_config.json"
    raw = json.loads(path.read_text())
    assert qwill.load(tmp_path).sampling == NOT_THINKING
    path.write_text(json.dumps(raw | {"temperature": 0.3, "top_p": None}))
    loaded = qwill.load(tmp_path).sampling
    assert (loaded.temperature, loaded.top_p, loaded.top_k) == (0.3, 0.8, 20)
    path.write_text(json.dumps(raw | {"do_sample": False}))
    assert qwill.load(tmp_path).sampling.temperature == 0
    for wrong in (-2.0, "hot"):
        path.write_text(json.dumps(raw | {"temperature": wrong}))
        with pytest.raises(ConfigError, match=r"generation_config\.json can't be used"):
            qwill.load(tmp_path)
    path.unlink()
    assert qwill.load(tmp_path).sampling == NOT_THINKING


def test_a_model_that_does_not_think_is_sampled_cautiously():
    lm = chat_model()
    del lm.tokenizer.specials["<think>"]
    assert LanguageModel(lm.model, lm.tokenizer).sampling == CAUTIOUS


def test_a_reply_leaves_half_of_the_context_unless_asked_for_more():
    lm = chat_model(context=200)
    lm.stop_ids = ()
    counts = [len(list(lm.stream(QUESTION, seed=1, **more))) - 1 for more in ({}, {"max_tokens": 120})]
    assert counts == [100, 120]


def test_mistakes_are_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"the prompt has \d+ tokens, but the model's context is 100"):
        chat_model(context=100).chat([{"role": "user", "content": "x" * 200}])
    with pytest.raises(DataError, match="'temprature' is not a sampling setting; expected one of max_tokens, t"):
        chat_model().chat(QUESTION, temprature=1.0)
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ArtifactError, match="holds no GGUF file"):
        qwill.load(tmp_path / "empty.whl")
    with pytest.raises(ArtifactError, match="no such model"):
        qwill.load("runs/nothing/here")


def test_importing_qwill_loads_nothing_heavy():
    code = "import qwill, sys; assert not {'torch', 'numpy', 'jinja2'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

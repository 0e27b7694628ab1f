"""A thinking that has had its budget ends with the words that Qwen3 was released with, and the answer follows."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.tiny import tiny_model

from qwill.base.errors import DataError
from qwill.engine.generate import generate
from qwill.engine.language_model import LanguageModel
from qwill.engine.sampler import Sampling
from qwill.text.thinking import OUT_OF_TIME, asked_to_think, last_switch, thinking_budget, well_formed
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters

TOKENIZER = Tokenizer.from_trained({to_characters(bytes([b])): b for b in range(256)}, [])
MODEL = tiny_model("dense", TOKENIZER.padded_vocab_size, 400, 0)
THINK, END = TOKENIZER.special("<think>"), TOKENIZER.special("</think>")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 12), st.integers(1, 200), st.integers(0, 99), st.sampled_from([0.0, 1.0]))
def test_the_sentence_stands_behind_the_budget_and_nowhere_else(budget, most, seed, temperature) -> None:
    prompt = [*TOKENIZER.encode("hello"), THINK]
    whole = thinking_budget(TOKENIZER, budget)
    sampling = Sampling(max_tokens=most, temperature=temperature)
    ((made,),) = generate(MODEL, [prompt], sampling, seed=seed, budget=whole)
    ((free,),) = generate(MODEL, [prompt], sampling, seed=seed)
    ids = made.token_ids
    if END in free.token_ids[:budget]:
        assert ids == free.token_ids
        return
    assert ids[:budget] == free.token_ids[: min(budget, most)]
    ending = list(whole.ending)[: max(0, most - budget)]
    assert ids[budget : budget + len(ending)] == ending and len(ids) == most
    assert TOKENIZER.decode(whole.ending) == OUT_OF_TIME + "</think>\n\n"


def test_a_prompt_that_does_not_think_is_left_alone() -> None:
    prompt, sampling = TOKENIZER.encode("hello"), Sampling(max_tokens=30, temperature=0.0)
    assert generate(MODEL, [prompt], sampling, budget=thinking_budget(TOKENIZER, 0)) == generate(
        MODEL, [prompt], sampling
    )


def test_chat_takes_a_budget_and_refuses_one_below_0() -> None:
    lm = LanguageModel(MODEL, TOKENIZER)
    messages = [{"role": "user", "content": "hi"}]
    bias = {"logit_bias": {THINK: 50.0}}
    reply = lm.reply(messages, thinking=True, thinking_budget=5, temperature=0.0, max_tokens=160, **bias)
    assert reply.reasoning_content is not None and reply.reasoning_content.endswith(OUT_OF_TIME.strip())

    try:
        lm.chat(messages, thinking=True, thinking_budget=-1)
    except DataError as error:
        assert "thinking_budget" in str(error)
    else:
        raise AssertionError("a budget below 0 was taken")


def test_the_last_switch_counts() -> None:
    assert last_switch(["/think a", "b /no_think"]) is False
    assert last_switch(["吗？/no_think", "/think"]) is True
    assert last_switch(["see /api/think", "x/no_think"]) is None
    said = [{"role": "system", "content": "/no_think"}, {"role": "user", "content": "hi"}]
    assert not asked_to_think(said, True) and asked_to_think(said[1:], True) and not asked_to_think(said[1:], False)


def test_the_form_of_each_mode() -> None:
    thought, empty = "<think>\n1\n</think>\n\n2", "<think>\n\n</think>\n\n2"
    assert well_formed(thought, True, True) and not well_formed(thought, False, True)
    assert well_formed(empty, False, True) and not well_formed(empty, True, True)
    assert well_formed("2", False, False) and not well_formed(empty, False, False)
    for wrong in ("2", "<think>1", thought + "</think>", "<think>\n1\n</think>\n\n", "a" + thought, thought + thought):
        assert not well_formed(wrong, True, True)

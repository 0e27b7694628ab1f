"""The engine against the model's definition: what company, order, preemption and sharing must not change."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_executors import OTHERS
from tiny import byte_tokenizer, redrawn, tiny_model

from qwill.base.errors import ConfigError, DataError
from qwill.engine.engine import Engine, EngineSettings
from qwill.engine.generate import generate
from qwill.engine.reply_text import ReplyText
from qwill.engine.request import Request
from qwill.engine.sampler import Sampling

MODELS = {
    "dense": tiny_model("dense"),
    "moe": tiny_model("moe"),
    "hybrid": redrawn(OTHERS["qwen3_next"], seed=4),
}
GREEDY = Sampling(max_tokens=8, temperature=0)


def finish(engine, into=None):
    """Everything that the engine has to say: (request, sample) → [token ids, text, last event]."""
    out = {} if into is None else into
    for _ in range(2000):
        if not engine.has_work:
            return out
        collect(engine, out)
    raise AssertionError("the engine never ends")


def collect(engine, out):
    for event in engine.step():
        tokens, text, last = out.get((event.request, event.sample), ([], "", None))
        assert last is None or last.finish_reason is None, "an event behind the last one"
        out[event.request, event.sample] = (tokens + event.token_ids, text + event.text, event)


def books_are_clean(engine):
    assert engine.pool.free == engine.pool.blocks and not any(engine.pool.references)
    assert len(engine.scheduler.states) == engine.settings.max_running
    assert not engine.scheduler.running and not engine.scheduler.waiting and not engine._requests


def same_or_near_tie(model, prompt, got, expected):
    """Equal tokens, or first apart where the two best logits are within 1e-4; whether it was such a tie."""
    place = next((i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b), None)
    if place is None:
        assert len(got) == len(expected)
        return False
    with torch.no_grad():
        best = model.logits(torch.tensor([[*prompt, *expected[:place]]]))[0, -1].topk(2).values
    assert float(best[0] - best[1]) < 1e-4, (got, expected)
    return True


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=9),
        Sampling(max_tokens=9, temperature=0.8, top_k=9, repetition_penalty=1.3, presence_penalty=0.4),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_drawn_is_what_generate_draws(sampling):
    model = MODELS["moe"]
    prompts = [[5, 6, 7] * 4, [5, 6, 7, 8], [1]]
    engine = Engine(model, None, EngineSettings(blocks=40, block_size=4, max_running=4, token_budget=8))
    for i, prompt in enumerate(prompts):
        engine.add(Request(str(i), prompt, sampling, n=3, seed=7, stream=i, stop_ids=frozenset({1, 2, 3}), logprobs=0))
    out = finish(engine)
    for i, group in enumerate(generate(model, prompts, sampling, n=3, seed=7, stop_ids=[1, 2, 3])):
        for j, completion in enumerate(group):
            assert out[str(i), j][0] == completion.token_ids
            assert out[str(i), j][2].finish_reason == completion.finish_reason


def test_a_shared_prefix_is_found_and_changes_nothing():
    for kind in ("dense", "hybrid"):
        model, prompt = MODELS[kind], list(range(30))
        engine = Engine(model, None, EngineSettings(blocks=30, block_size=4, max_running=4, token_budget=64))
        for name in "ab":
            engine.add(Request(name, prompt, GREEDY))
            out = finish(engine)
            assert out[name, 0][0] == generate(model, [prompt], GREEDY)[0][0].token_ids
            assert out[name, 0][2].cached_tokens == (28 if name == "b" else 0)


def test_prompt_and_reply_have_the_log_probabilities_of_a_whole_pass():
    model, prompt = MODELS["dense"], list(range(10, 30))
    sampling = Sampling(max_tokens=4, temperature=0.7)
    engine = Engine(model, None, EngineSettings(blocks=30, block_size=4, max_running=2, token_budget=7))
    engine.add(Request("warm", prompt, GREEDY))
    finish(engine)
    engine.add(Request("a", prompt, sampling, logprobs=2, prompt_logprobs=3))
    events = []
    while engine.has_work:
        events += engine.step()
    ids = prompt + [t for e in events for t in e.token_ids]
    with torch.no_grad():
        expected = (model.logits(torch.tensor([ids]))[0] / 0.7).log_softmax(1)
    scored = events[0].prompt_logprobs
    assert scored[0] is None and all(e.prompt_logprobs is None for e in events[1:])
    for i, got in enumerate([*scored[1:], *(e.logprobs[0] for e in events)], start=1):
        assert got.token == ids[i] and abs(got.logprob - float(expected[i - 1, ids[i]])) < 1e-4
        best = expected[i - 1].topk(len(got.top))
        assert [t for t, _ in got.top] == best.indices.tolist() and len(got.top) == (3 if i < len(prompt) else 2)


def test_stop_texts_bias_min_tokens_and_budgets():
    tokenizer = byte_tokenizer()
    model = tiny_model("dense", tokenizer.padded_vocab_size, 200)
    engine = Engine(model, tokenizer, EngineSettings(blocks=60, block_size=4, max_running=4, token_budget=16))
    a, b, think, end = ord("a"), ord("b"), tokenizer.specials["<think>"], tokenizer.specials["</think>"]
    engine.add(Request("bias", [1, 2], Sampling(max_tokens=5, logit_bias={a: 1000.0})))
    engine.add(Request("stop", [1, 2], Sampling(max_tokens=5, logit_bias={a: 1000.0}), stop=("aaa", "xyz")))
    engine.add(Request("min", [1, 2], Sampling(max_tokens=9, logit_bias={a: 1000.0, b: 900.0}, min_tokens=3),
                       stop_ids=frozenset({a})))  # fmt: skip
    engine.add(Request("eos", [1, 2], Sampling(max_tokens=4, logit_bias={a: 1000.0}, ignore_eos=True),
                       stop_ids=frozenset({a})))  # fmt: skip
    engine.add(Request("think", [1, think], Sampling(max_tokens=6, logit_bias={a: 1000.0}), thinking_budget=2))
    out = finish(engine)
    assert out["bias", 0][1] == "aaaaa" and out["bias", 0][2].finish_reason == "length"
    assert out["stop", 0][1] == "" and (out["stop", 0][2].finish_reason, out["stop", 0][2].stop_text) == ("stop", "aaa")
    assert out["min", 0][0] == [b, b, b, a] and out["min", 0][1] == "bbb"
    assert out["eos", 0][0] == [a] * 4
    assert out["think", 0][0] == [a, a, end, a, a, a]
    books_are_clean(engine)


def test_the_best_of_several_samples_is_given():
    model, sampling = MODELS["dense"], Sampling(max_tokens=6, temperature=1.5)
    engine = Engine(model, None, EngineSettings(blocks=60, block_size=4, max_running=3, token_budget=16))
    engine.add(Request("a", [1, 2, 3], sampling, n=2, best_of=5))
    out = finish(engine)
    samples = generate(model, [[1, 2, 3]], sampling, n=5)[0]
    everything = sorted(samples, key=lambda c: -sum(c.logprobs) / len(c.logprobs))
    assert [out["a", i][0] for i in range(2)] == [c.token_ids for c in everything[:2]] and len(out) == 2


def test_a_request_that_goes_wrong_harms_no_other():
    """A token whose embedding is NaN, in a model whose head is another matrix."""
    model, good = tiny_model("llama"), [1, 2, 3, 4, 5]
    with torch.no_grad():
        model.embed_tokens.weight[50] = float("nan")
    expected = generate(model, [good], GREEDY)[0][0].token_ids
    engine = Engine(model, None, EngineSettings(blocks=30, block_size=4, max_running=4, token_budget=16))
    for _ in range(2):
        engine.add(Request("bad", [*good[:4], 50, 1, 2, 3, 4], GREEDY, n=2))
        engine.add(Request("good", good, GREEDY))
        out = finish(engine)
        assert out["good", 0][0] == expected
        for i in range(2):
            tokens, _, last = out["bad", i]
            assert tokens == [] and last.finish_reason == "error" and "NaN" in last.error
        books_are_clean(engine)
    engine.executor.run = None  # whatever happens in a pass
    engine.add(Request("a", good, GREEDY))
    assert "model failed" in finish(engine)["a", 0][2].error
    books_are_clean(engine)


def test_a_constraint_is_kept():
    pytest.importorskip("llguidance")
    from qwill.engine.constraint import Constraint

    tokenizer = byte_tokenizer()
    model = tiny_model("dense", tokenizer.padded_vocab_size, 200)
    engine = Engine(model, tokenizer, EngineSettings(blocks=60, block_size=4, max_running=4, token_budget=16))
    stops = frozenset(tokenizer.stop_ids)
    for i in range(4):
        engine.add(Request(str(i), [1], Sampling(max_tokens=40), seed=i, stop_ids=stops,
                           constraint=Constraint("choice", '["one", "two words", "three"]')))  # fmt: skip
    for tokens, text, last in finish(engine).values():
        assert text in ("one", "two words", "three") and last.finish_reason == "stop", tokens


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3), st.integers(0, 9))
def test_texts_end_before_the_first_stop_text_and_nothing_of_it_is_shown(text, stops, seed):
    reply, shown = ReplyText(byte_tokenizer(), stops), ""
    for byte in text.encode():
        shown += reply.push(byte)
        assert not any(stop in shown for stop in stops)
        if reply.found:
            break
    shown += reply.finish()
    ends = [text.find(s) + len(s) for s in stops if s in text]
    if not ends:
        assert shown == text and reply.found is None
    else:
        seen = text[: min(ends)]
        assert reply.found in stops and shown == seen[: min(seen.find(s) for s in stops if s in seen)]


def test_what_cannot_be_served_is_said():
    engine = Engine(MODELS["dense"], None, EngineSettings(blocks=4, block_size=4, max_running=2, token_budget=8))
    for request, says in (
        (Request("a", []), "no tokens"), (Request("a", [1] * 64), "context is 64"),
        (Request("a", [1] * 16), "cache holds 16"),
        (Request("a", [97]), "holds the id 97"), (Request("a", [1], n=3, best_of=2), "best_of"),
        (Request("a", [1], adapter="x"), "no adapter 'x'"), (Request("a", [1], stop=("x",)), "need a tokenizer"),
        (Request("a", [1], Sampling(logit_bias={97: 1.0})), "names the id 97"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=says):
            engine.add(request)
    with pytest.raises(ConfigError, match="token_budget"):
        EngineSettings(token_budget=3)
    books_are_clean(engine)


@pytest.mark.parametrize("stop", [(), ("qq", "e")])
def test_a_stride_tells_the_same_in_fewer_events(stop):
    """The first token at once, then so many at a time, and what is left with the end."""
    model, tokenizer = tiny_model("dense", byte_tokenizer().padded_vocab_size), byte_tokenizer()
    told = {}
    for stride in (1, 4):
        engine = Engine(model, tokenizer, EngineSettings(blocks=30, block_size=4, max_running=2, token_budget=64))
        sampling = Sampling(max_tokens=23, temperature=1)
        engine.add(Request("a", [70, 71], sampling, stop=stop, seed=3, logprobs=1, stride=stride))
        events = []
        while engine.has_work:
            events += engine.step()
        told[stride] = events
        if not stop:
            assert [len(e.token_ids) for e in events] == ([1] * 23 if stride == 1 else [1, 4, 4, 4, 4, 4, 2])
    one, four = told[1], told[4]
    assert "".join(e.text for e in one) == "".join(e.text for e in four)
    assert [t for e in one for t in e.token_ids] == [t for e in four for t in e.token_ids]
    assert [s for e in one for s in e.logprobs] == [s for e in four for s in e.logprobs]
    assert one[-1].finish_reason == four[-1].finish_reason and one[-1].stop_text == four[-1].stop_text

"""Speculation changes nothing but the number of passes: exact laws by enumeration, and the engine with and without."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reply_law import replies_follow_the_law
from test_engine import MODELS, books_are_clean, collect, finish, same_or_near_tie
from test_executors import OTHERS
from test_sampler import SETTINGS, logits_like, reference
from tiny import byte_tokenizer, redrawn, tiny_model

from qwill.base.errors import ConfigError
from qwill.engine.engine import Engine, EngineSettings
from qwill.engine.engine_settings import DraftSpec, NgramSpec
from qwill.engine.request import Request
from qwill.engine.sampler import Sampling, distribution
from qwill.engine.speculate import History, invert, verify

NGRAM = NgramSpec(tokens=5, shortest=1, longest=3)


def weights(vocab, total):
    """Integers that sum to `total`."""
    cuts = st.lists(st.integers(0, total), min_size=vocab - 1, max_size=vocab - 1)
    return cuts.map(lambda c: np.diff([0, *sorted(c), total]))


def law_of(p, q, total):
    """The exact law of `verify`'s token for weights out of `total`: every border of its random numbers is a multiple of
    1/least common multiple of 1 … total, so the midpoints of that grid stand for all numbers."""
    grid = math.lcm(*range(1, total + 1))
    middles = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    accept, draw = (x.reshape(-1) for x in torch.meshgrid(middles, middles, indexing="ij"))
    law = np.zeros(len(p))
    rows = len(accept)
    target, proposed = (torch.tensor(w / total).expand(rows, -1) for w in (p, q))
    for draft in np.flatnonzero(q):
        tokens = verify(target, proposed, torch.full((rows,), int(draft)), accept, draw)
        law += q[draft] / total * np.bincount(tokens.numpy(), minlength=len(p)) / rows
    return law


@settings(deadline=None, max_examples=60)
@given(data=st.data(), vocab=st.integers(2, 5))
def test_a_verified_token_has_exactly_the_law_of_the_target(data, vocab):
    total = 6
    p, q = data.draw(weights(vocab, total)), data.draw(weights(vocab, total))
    np.testing.assert_allclose(law_of(p, q, total), p / total, atol=1e-9, rtol=0)


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_a_chain_of_verified_tokens_has_exactly_the_law_of_the_target(data):
    """Two drafts and the token behind them: the law of the first three tokens, where what comes after a refusal is
    drawn without drafts. The distributions depend on what came before."""
    vocab, total = 2, 4
    tables = [{before: data.draw(weights(vocab, total)) for before in itertools.product(range(vocab), repeat=i)}
              for i in (0, 1, 2)]  # fmt: skip
    drafter = [{before: data.draw(weights(vocab, total)) for before in table} for table in tables]

    def step(before):
        """{(token, whether it was the draft): probability} after `before`, by the grid."""
        p, q = tables[len(before)][before], drafter[len(before)][before]
        grid = math.lcm(*range(1, total + 1))
        middles = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
        accept, draw = (x.reshape(-1) for x in torch.meshgrid(middles, middles, indexing="ij"))
        found = Counter()
        for draft in np.flatnonzero(q).tolist():
            rows = [torch.tensor(w / total).expand(len(accept), -1) for w in (p, q)]
            for token in verify(*rows, torch.full((len(accept),), draft), accept, draw).tolist():
                found[token, token == draft] += q[draft] / total / len(accept)
        return found

    law = Counter()
    for (a, came), chance in step(()).items():
        second = step((a,)) if came else {(b, False): tables[1][a,][b] / total for b in range(vocab)}
        for (b, came_too), chance_b in second.items():
            for c in range(vocab):  # behind the last draft, and after any refusal: drawn as always
                law[a, b, c] += chance * chance_b * tables[2][a, b][c] / total
            assert came or not came_too
    for a, b, c in itertools.product(range(vocab), repeat=3):
        expected = tables[0][()][a] * tables[1][a,][b] * tables[2][a, b][c] / total**3
        assert abs(law[a, b, c] - expected) < 1e-9


def test_drafts_are_taken_as_often_as_can_be():
    p, q = np.array([4, 1, 1]), np.array([1, 4, 1])
    middles = (torch.arange(60, dtype=torch.float64) + 0.5) / 60
    taken = 0.0
    for draft in range(3):
        target, proposed = (torch.tensor(w / 6).expand(60, -1) for w in (p, q))
        out = verify(target, proposed, torch.full((60,), draft), middles, torch.full((60,), 0.5, dtype=torch.float64))
        taken += q[draft] / 6 * float((out == draft).double().mean())
    assert abs(taken - sum(min(a, b) for a, b in zip(p, q, strict=True)) / 6) < 1e-9


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_the_law_that_drafts_are_checked_against_is_that_of_the_sampler(sampling):
    logits = logits_like(5, 4, 150)
    law = distribution(logits, sampling, 140)
    assert law.dtype == torch.float64 and float(law[:, 140:].sum()) == 0
    for row, own in zip(law, logits, strict=True):
        np.testing.assert_allclose(row[:140].numpy(), reference(own[:140].double().numpy(), sampling), atol=1e-6)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_a_number_falls_into_a_tokens_share(shares, u):
    if not sum(shares):
        return
    token = int(invert(torch.tensor([shares], dtype=torch.float64), torch.tensor([u], dtype=torch.float64)))
    below = sum(shares[:token]) / sum(shares)
    assert shares[token] and below - 1e-9 <= u <= below + shares[token] / sum(shares) + 1e-9


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 3), st.integers(1, 8), st.integers(1, 40))
def test_look_up_continues_the_latest_longest_match(tokens, longest, most, first):
    """The definition, position by position; the tokens come in two lots."""
    spec, history = NgramSpec(8, 1, longest), History()
    history.propose(tokens[: min(first, len(tokens))], spec, most)
    best = None
    for end in range(1, len(tokens)):
        size = next((n for n in range(min(longest, end), 0, -1) if tokens[end - n : end] == tokens[-n:]), 0)
        if size and (best is None or size >= best[0]):
            best = size, end
    expected = []
    for _ in range(most if best else 0):
        expected.append((tokens + expected)[best[1] + len(expected)])
    assert history.propose(tokens, spec, most) == expected
    assert history.propose(tokens, NgramSpec(8, 4, 4), most) == [] or len(tokens) > 4


def engines(model, speculate, draft=None, tokenizer=None, **rest):
    held = {"blocks": 60, "block_size": 4, "max_running": 5, "token_budget": 40, **rest}
    plain = Engine(model, tokenizer, EngineSettings(**held))
    return plain, Engine(model, tokenizer, EngineSettings(**held, speculate=speculate), draft=draft)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_replies_with_certain_drafts_are_those_without(data):
    """By look-up and by a draft model's likeliest: any company, few blocks, small budgets; greedy and drawn, with
    edits, stops and several samples. Tokens, log-probabilities and reasons are the same."""
    model = MODELS[data.draw(st.sampled_from(["dense", "moe", "hybrid", "hybrid"]))]
    size = data.draw(st.sampled_from([1, 3, 4, 16]))
    by_model = data.draw(st.booleans())
    spec = DraftSpec("x", data.draw(st.integers(1, 4))) if by_model else NGRAM
    draft = (MODELS[data.draw(st.sampled_from(["dense", "moe", "hybrid"]))], None) if by_model else None
    blocks = data.draw(st.integers(-(-40 // size), -(-60 // size) + 4))
    pair = engines(model, spec, draft, blocks=blocks, block_size=size, max_running=data.draw(st.integers(1, 5)),
                   token_budget=data.draw(st.integers(5, 30)),
                   snapshots=data.draw(st.sampled_from([0, 1, 3, 32])))  # fmt: skip
    stem = data.draw(st.lists(st.integers(0, 96), min_size=1, max_size=5))
    requests = []
    for i in range(data.draw(st.integers(1, 5))):
        sampling = Sampling(
            max_tokens=data.draw(st.integers(1, 14)),
            temperature=0 if by_model else data.draw(st.sampled_from([0, 0, 0.4])),
            frequency_penalty=data.draw(st.sampled_from([0, 0, 0.3])), min_tokens=data.draw(st.sampled_from([0, 1])),
            top_k=data.draw(st.sampled_from([0, 3])),
        )  # fmt: skip
        prompt = stem * data.draw(st.integers(1, 3)) + [i]
        requests.append(
            Request(str(i), prompt, sampling, n=data.draw(st.sampled_from([1, 1, 3])), seed=i, logprobs=1,
                    stop_ids=frozenset(data.draw(st.lists(st.integers(0, 96), max_size=3))))
        )  # fmt: skip
    outs = []
    for engine in pair:
        out = {}
        for request in requests:
            engine.add(request)
            if engine is pair[1] and data.draw(st.booleans()):
                collect(engine, out)
        outs.append(finish(engine, out))
        books_are_clean(engine)
    ties = 0
    for key, (tokens, _, last) in outs[0].items():
        got, _, end = outs[1][key]
        if requests[int(key[0])].sampling.temperature == 0 and not requests[int(key[0])].sampling.penalises:
            ties += same_or_near_tie(model, requests[int(key[0])].prompt, got, tokens)
        else:
            assert got == tokens
        if got == tokens:
            assert end.finish_reason == last.finish_reason
    assert ties <= 1
    stats_ = pair[1].stats()
    assert stats_.accepted <= stats_.drafted and stats_.tokens >= stats_.accepted


def test_drafts_save_passes_and_their_scores_are_those_of_a_whole_pass():
    model, prompt = MODELS["dense"], [5, 6, 7, 8] * 3
    sampling = Sampling(max_tokens=24, temperature=0)
    plain, quick = engines(model, NGRAM)
    for engine in (plain, quick):
        engine.add(Request("a", prompt, sampling, logprobs=2))
    expected, scores = finish(plain)["a", 0], []
    tokens = []
    while quick.has_work:
        for event in quick.step():
            tokens += event.token_ids
            scores += event.logprobs
    assert tokens == expected[0] and quick.stats().accepted > 4
    assert quick.stats().steps == plain.stats().steps - quick.stats().accepted
    with torch.no_grad():
        full = model.logits(torch.tensor([prompt + tokens]))[0].log_softmax(1)
    for i, score in enumerate(scores):
        row = full[len(prompt) + i - 1]
        assert score.token == tokens[i] and abs(score.logprob - float(row[tokens[i]])) < 1e-4
        assert [t for t, _ in score.top] == row.topk(2).indices.tolist()


@pytest.mark.parametrize("kind", ["dense", "hybrid"])
@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_drafts_for_itself_is_always_right(kind, size, temperature):
    """Its cache is in step then: prompts that share a prefix, samples that fork, preemption, drafts of a grammar."""
    model = MODELS[kind]
    engine = engines(model, DraftSpec("itself", 3), (model, None), block_size=size, blocks=-(-56 // size),
                     token_budget=12, max_running=4)[1]  # fmt: skip
    prompt = list(range(30))
    for i in range(4):
        sampling = Sampling(max_tokens=15, temperature=temperature)
        engine.add(Request(str(i), [*prompt[: 20 + i], i], sampling, seed=i, n=2))
    finish(engine)
    books_are_clean(engine)
    told = engine.stats()
    assert told.preemptions and told.cached_tokens and told.drafted > 40
    assert told.accepted >= told.drafted - (1 if temperature else 0)  # a ratio of 1 − rounding may refuse


def tiny_sample(kind):
    """A model of four tokens."""
    return tiny_model(kind, 4, seed=1) if kind == "dense" else redrawn(OTHERS["qwen3_next"].with_(vocab_size=4), seed=1)


@pytest.mark.parametrize(
    ("kind", "sampling"),
    [
        ("dense", Sampling(max_tokens=4, temperature=2.0)),
        ("dense", Sampling(max_tokens=4, temperature=3.0, top_k=3, presence_penalty=0.9, logit_bias={2: 1.0})),
        ("dense", Sampling(max_tokens=4, temperature=2.5, top_p=0.8, frequency_penalty=-0.5, min_tokens=2)),
        ("hybrid", Sampling(max_tokens=4, temperature=2.5)),
        ("hybrid", Sampling(max_tokens=4, temperature=3.5, top_p=0.9, presence_penalty=0.9)),
    ],
    ids=str,
)
def test_replies_with_drawn_drafts_follow_the_models_law(kind, sampling):
    """Every reply of four tokens, with what penalties, bias, truncation and stops do at each place."""
    model, other = tiny_sample(kind), tiny_sample(kind)
    with torch.no_grad():
        head_VD = other.head_weight_VD
        head_VD.add_(torch.randn(head_VD.shape, generator=torch.Generator().manual_seed(4)) / 8)
    engine = engines(model, DraftSpec("other", 2), (other, None), blocks=400, max_running=60, token_budget=400)[1]
    replies_follow_the_law(engine, model, sampling)


def test_constraints_budgets_and_stop_texts_hold_with_drafts():
    pytest.importorskip("llguidance")
    import json

    from qwill.engine.constraint import Constraint

    tokenizer = byte_tokenizer()
    model = tiny_model("dense", tokenizer.padded_vocab_size, 400)
    properties = {"some name": {"enum": ["abcabcabc", "abcabcabd"]}, "n": {"type": "null"}}
    schema = {"type": "object", "properties": properties,
              "required": ["some name", "n"], "additionalProperties": False}  # fmt: skip
    think, a = tokenizer.specials["<think>"], ord("a")
    stops, no_spaces = frozenset(tokenizer.stop_ids), dict.fromkeys(b" \n\t\r", -99.0)
    made = Constraint("json_schema", json.dumps(schema))
    requests = [
        Request("json", [1, 2], Sampling(max_tokens=90, logit_bias=no_spaces), n=3, stop_ids=stops, constraint=made),
        Request("greedy", [1, 2], Sampling(max_tokens=90, temperature=0, logit_bias=no_spaces), stop_ids=stops,
                constraint=made, logprobs=0),
        Request("think", [1, think], Sampling(max_tokens=9, logit_bias={a: 99.0}), thinking_budget=4),
        Request("stop", [1, 2], Sampling(max_tokens=20, logit_bias={a: 99.0}), stop=("aaaaaaa",)),
    ]  # fmt: skip
    for spec, draft in ((NGRAM, None), (DraftSpec("itself"), (model, tokenizer))):
        outs = []
        for engine in engines(model, spec, draft, tokenizer, blocks=150, max_running=6):
            for request in requests:
                engine.add(request)
            outs.append(finish(engine))
            books_are_clean(engine)
        assert engine.stats().accepted > 60
        plain = engines(model, None, None, tokenizer, blocks=150, max_running=6)[0]
        plain._speculation.want = lambda *all: None  # what a grammar forces is drafted without being asked for
        for request in requests:
            plain.add(request)
        outs[0] = finish(plain)
        assert plain.stats().drafted == 0
        for key, (tokens, text, last) in outs[0].items():
            got, shown, end = outs[1][key]
            if spec is NGRAM or key[0] in ("greedy", "think", "stop"):
                assert (got, shown) == (tokens, text)
                assert (end.finish_reason, end.stop_text) == (last.finish_reason, last.stop_text)
            if key[0] in ("json", "greedy") and end.finish_reason == "stop":
                assert json.loads(shown)["some name"][:8] == "abcabcab"
        assert outs[1]["stop", 0][1] == "" and outs[1]["stop", 0][2].stop_text == "aaaaaaa"
        assert outs[1]["think", 0][0][4] == tokenizer.specials["</think>"]


def test_a_broken_draft_model_only_costs_time():
    model, broken = MODELS["dense"], tiny_model("dense", seed=3)
    with torch.no_grad():
        broken.norm.weight.fill_(float("nan"))
    for temperature in (0.0, 1.0):
        sampling = Sampling(max_tokens=8, temperature=temperature)
        outs = []
        for engine in engines(model, DraftSpec("broken"), (broken, None)):
            engine.add(Request("a", [1, 2, 3], sampling))
            outs.append(finish(engine)["a", 0][0])
        assert outs[0] == outs[1] and engine.stats().drafted == 0


def test_speculation_that_cannot_be_had_is_refused():
    tokenizer, dense = byte_tokenizer(), MODELS["dense"]
    sized = tiny_model("dense", tokenizer.padded_vocab_size)
    for model, spec, draft, says in (
        (dense, DraftSpec("m"), None, "needs that model"),
        (dense, DraftSpec("m"), (tiny_model("dense", 50), None), "another tokenizer"),
        (dense, DraftSpec("m"), (tiny_model("dense", context=32), None), "context of m is 32"),
    ):
        with pytest.raises(ConfigError, match=says):
            engines(model, spec, draft)
    engines(sized, DraftSpec("m"), (sized, tokenizer), tokenizer)
    other = byte_tokenizer()
    other.token_bytes = lambda i: b"x"
    with pytest.raises(ConfigError, match="another tokenizer"):
        engines(sized, DraftSpec("m"), (sized, other), tokenizer)
    for make in (lambda: NgramSpec(0), lambda: NgramSpec(3, 3, 2), lambda: DraftSpec("m", 0)):
        with pytest.raises(ConfigError, match="at least 1"):
            make()

"""What trainers ask for beside log-probabilities: which ids could be drawn, and which experts a token went through."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_folders import merged, write_adapter
from test_engine import books_are_clean
from test_executors import OTHERS
from test_sampler import SETTINGS, logits_like, reference
from tiny import byte_tokenizer, redrawn, tiny_model

from qwill.base.errors import ConfigError, DataError
from qwill.engine.engine import Engine, EngineSettings
from qwill.engine.engine_settings import NgramSpec
from qwill.engine.generate import generate
from qwill.engine.request import Request
from qwill.engine.sampler import Sampling, sample, support
from qwill.engine.support import Support, ranges_of
from qwill.model.batch import Batch

MODELS = {"moe": tiny_model("moe"), "hybrid": redrawn(OTHERS["qwen3_next"], seed=4)}


def ids(ranges):
    assert all(a < b for a, b in ranges) and all(b < c for (_, b), (c, _) in pairwise(ranges))
    return [i for a, b in ranges for i in range(a, b)]


def bits_of(allowed_BV):
    spare = -allowed_BV.shape[1] % 32
    packed = np.packbits(np.pad(allowed_BV.numpy(), ((0, 0), (0, spare))), axis=1, bitorder="little")
    return torch.from_numpy(packed.view(np.int32).copy())


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(SETTINGS), st.integers(0, 10**6), st.integers(1, 150), st.booleans(), st.booleans())
def test_the_support_is_what_the_definition_leaves(sampling, seed, vocab_size, masked, edited):
    logits = logits_like(seed, 3, 150)
    edited_BV = logits_like(seed + 1, 3, 150) if edited else None
    allowed = torch.rand(3, 150, generator=torch.Generator().manual_seed(seed)) < 0.3
    allowed[:, 0] = True
    bits = bits_of(allowed) if masked else None
    uniforms = torch.rand(3, dtype=torch.float64)
    drawn = sample(logits, uniforms, sampling, vocab_size, edited_BV, bits, asked=True)
    found = support(logits, drawn.tokens_B, sampling, vocab_size, edited_BV, bits)
    assert drawn.support is not None and [r.tolist() for r in drawn.support] == [r.tolist() for r in found]
    assert sample(logits, uniforms, sampling, vocab_size, edited_BV, bits).support is None
    for i, ranges in enumerate(found):
        row = (edited_BV if edited else logits)[i, :vocab_size].double().numpy()
        inside = np.where(allowed[i, :vocab_size].numpy(), row, -np.inf) if masked else row
        expected = np.flatnonzero(reference(inside, sampling))
        assert ids(ranges) == expected.tolist() and int(drawn.tokens_B[i]) in expected


def test_a_greedy_support_is_the_token():
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0]])
    drawn = sample(logits, torch.zeros(1), Sampling(temperature=0))
    assert support(logits, drawn.tokens_B, Sampling(temperature=0))[0].tolist() == [[1, 2]]


def served(engine, *requests):
    """(request, sample) → token ids and what was said of each."""
    out = {}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for event in engine.step():
            assert event.error is None
            tokens, scores = out.setdefault((event.request, event.sample), ([], []))
            tokens += event.token_ids
            scores += event.logprobs or []
    books_are_clean(engine)
    assert all(len(tokens) == len(scores) for tokens, scores in out.values())
    return out


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=8, temperature=0.7, top_k=5), Sampling(max_tokens=8, temperature=1.3, top_p=0.6),
        Sampling(max_tokens=8), Sampling(max_tokens=8, temperature=0), Sampling(max_tokens=8, min_p=0.1),
        Sampling(max_tokens=8, top_k=7, presence_penalty=2.0, logit_bias={7: 3.0}),
    ],
    ids=str,
)  # fmt: skip
def test_log_probabilities_are_those_of_the_support(sampling):
    """A trainer can compute the sampled distribution again: its own, over the support, made to sum to 1."""
    model, prompt = tiny_model("dense"), [5, 6, 7]
    engine = Engine(model, None, EngineSettings(blocks=30, max_running=4))
    requests = [Request("yes", prompt, sampling, n=2, support=True), Request("no", prompt, sampling, logprobs=0)]
    out = served(engine, *requests)
    assert all(score.support is None for score in out["no", 0][1])
    for sample_ in range(2):
        tokens, scores = out["yes", sample_]
        with torch.no_grad():
            logits = model.logits(torch.tensor([[*prompt, *tokens]]))[0].double()
        for i, (token, score) in enumerate(zip(tokens, scores, strict=True)):
            row = logits[len(prompt) - 1 + i].clone()
            full = (row / (sampling.temperature or 1)).log_softmax(0)
            assert score.logprob == pytest.approx(float(full[token]), abs=1e-4)
            row[7] += sampling.logit_bias.get(7, 0)
            for seen in set(tokens[:i]):
                row[seen] -= sampling.presence_penalty
            among = ids(score.support)
            own = (row / (sampling.temperature or 1))[among].log_softmax(0)
            assert score.sampled == pytest.approx(float(own[among.index(token)]), abs=1e-4)
            if not sampling.truncates and sampling.temperature:
                assert among == list(range(97))


def test_a_constraint_cuts_the_support():
    pytest.importorskip("llguidance")
    from qwill.engine.constraint import Constraint

    tokenizer = byte_tokenizer()
    model = tiny_model("dense", tokenizer.padded_vocab_size, 200)
    engine = Engine(model, tokenizer, EngineSettings(blocks=30, max_running=4))
    asked = Request("a", [1], stop_ids=frozenset(tokenizer.stop_ids), support=True,
                    constraint=Constraint("choice", '["ax", "bx"]'))  # fmt: skip
    ((tokens, scores),) = served(engine, asked).values()
    a, b, x = (ord(c) for c in "abx")
    assert [ids(score.support) for score in scores[:2]] == [[a, b], [x]] and tokens[1] == x
    assert scores[1].sampled == pytest.approx(0, abs=1e-6) and scores[0].sampled > math.log(1e-9)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_experts_are_those_of_a_whole_pass(tmp_path_factory, data):
    """Of the token before each reply token, whatever else is in the batch, cached or computed again."""
    kind = data.draw(st.sampled_from(sorted(MODELS)))
    model, size = MODELS[kind], data.draw(st.sampled_from([4, 16]))
    folder = write_adapter(model, tmp_path_factory.mktemp("adapter"), 1)
    blocks = 36 // size + data.draw(st.integers(0, 4))
    engine = Engine(model, None, EngineSettings(blocks=blocks, block_size=size, max_running=4, token_budget=9))
    engine.load_adapter("a", folder)
    prompts = [list(range(3, 3 + data.draw(st.integers(1, 24)))) for _ in range(4)]
    wanted = [data.draw(st.booleans()) for _ in prompts]
    adapters = [data.draw(st.sampled_from(["a", None])) for _ in prompts]
    sampling = Sampling(max_tokens=6, temperature=1.0)
    requests = [
        Request(str(i), prompt, sampling, n=data.draw(st.sampled_from([1, 2])), stream=i, experts=want, adapter=adapter)
        for i, (prompt, want, adapter) in enumerate(zip(prompts, wanted, adapters, strict=True))
    ]
    out = {}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for event in engine.step():
            tokens, scores = out.setdefault((event.request, event.sample), ([], []))
            tokens += event.token_ids
            scores += event.logprobs or []
    near = 0
    for (name, _), (tokens, scores) in out.items():
        number = int(name)
        alone = merged(model, folder) if adapters[number] else model
        if not wanted[number]:
            assert not scores
            continue
        assert len(scores) == len(tokens) == 6
        with torch.no_grad():
            stats = alone(Batch.rows(torch.tensor([[*prompts[number], *tokens]]))).router_stats
        first = len(prompts[number]) - 1
        expected = torch.stack([layer.chosen_Nk[first : first + 6] for layer in stats], dim=1).tolist()
        near += sum(score.experts != row for score, row in zip(scores, expected, strict=True))
    assert near <= 1  # two experts of the same probability but for rounding


def test_experts_of_a_model_that_has_none_are_refused():
    engine = Engine(tiny_model("dense"), None, EngineSettings(blocks=4, max_running=2))
    with pytest.raises(DataError, match="this model has none"):
        engine.add(Request("a", [1], experts=True))


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_routing_is_that_of_a_whole_pass_for_every_token(data):
    """Of prompt and reply, whether computed, found in the cache, forked, preempted or drafted."""
    kind = data.draw(st.sampled_from(sorted(MODELS)))
    model, size = MODELS[kind], data.draw(st.sampled_from([4, 16]))
    blocks = 36 // size + data.draw(st.integers(0, 4))
    speculate = data.draw(st.sampled_from([None, NgramSpec(3, 1, 2)]))
    engine = Engine(model, None, EngineSettings(
        blocks=blocks, block_size=size, max_running=4, token_budget=9, routing=True, speculate=speculate))  # fmt: skip
    if data.draw(st.booleans()):
        engine.grow(blocks + 3)
    prompts = [[3 + i % 3 for i in range(data.draw(st.integers(1, 24)))] for _ in range(4)]
    for i, prompt in enumerate(prompts):
        n = data.draw(st.sampled_from([1, 2]))
        engine.add(Request(str(i), prompt, Sampling(max_tokens=6), n=n, stream=i, whole=data.draw(st.booleans())))
    replies, routings = {}, {}
    while engine.has_work:
        for event in engine.step():
            replies.setdefault((event.request, event.sample), []).extend(event.token_ids)
            if event.finish_reason:
                routings[event.request, event.sample] = event.routing
    near = 0
    for (name, number), tokens in replies.items():
        ids = [*prompts[int(name)], *tokens]
        with torch.no_grad():
            stats = model(Batch.rows(torch.tensor([ids[:-1]]))).router_stats
        expected = torch.stack([layer.chosen_Nk for layer in stats], dim=1).numpy()
        found = routings[name, number]
        assert found.dtype == np.uint8 and found.shape == expected.shape
        near += int((found != expected).any(axis=(1, 2)).sum())
    assert near <= 1  # two experts of the same probability but for rounding


def test_completions_have_support_and_routing_if_asked():
    model, sampling = MODELS["moe"], Sampling(max_tokens=5, top_k=3)
    ((plain,),) = generate(model, [[5, 6]], sampling)
    ((asked,),) = generate(model, [[5, 6]], sampling, support=True, routing=True)
    assert plain.support is None and plain.routing is None
    assert asked.token_ids == plain.token_ids and asked.sampled_logprobs == plain.sampled_logprobs
    assert asked.support.sizes_N.tolist() == [3] * 5 and asked.routing.shape == (6, 2, 2)
    with pytest.raises(ConfigError, match=r"engine\.routing is on, but this model has no experts"):
        generate(tiny_model("dense"), [[5, 6]], sampling, routing=True)


@given(st.lists(st.sets(st.integers(0, 40), min_size=1), min_size=1, max_size=8), st.data())
def test_supports_are_cut_and_joined_as_lists_are(sets, data):
    rows = [sorted(s) for s in sets]
    pairs = np.array([(i, x) for i, row in enumerate(rows) for x in row])
    whole = Support.of(ranges_of(pairs[:, 0], pairs[:, 1], len(rows)))
    assert np.stack(whole.pairs(), axis=1).tolist() == pairs.tolist()
    assert whole.sizes_N.tolist() == [len(row) for row in rows]
    cut = data.draw(st.integers(0, len(rows)))
    assert whole[:cut].sizes_N.tolist() + whole[cut:].sizes_N.tolist() == whole.sizes_N.tolist()
    again = Support.join([whole[:cut], whole[cut:]])
    assert np.array_equal(again.ranges_R2, whole.ranges_R2) and np.array_equal(again.counts_N, whole.counts_N)
    runs = [int((np.diff(row) > 1).sum()) + 1 for row in rows]
    assert whole.counts_N.tolist() == runs, "neighbouring ids are one range"

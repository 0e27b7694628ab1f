"""The model's own head drafts: replies stay what they are, and each draft is the one that the head's definition makes
of the whole text, whatever was shared, refused, preempted, forked or cancelled before."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reply_law import VOCAB, replies_follow_the_law
from test_engine import books_are_clean, collect, finish, same_or_near_tie
from test_executors import BASE, OTHERS
from tiny import redrawn, tiny_model

from qwill.base.errors import ConfigError
from qwill.engine.engine import Engine, EngineSettings
from qwill.engine.engine_settings import MtpSpec
from qwill.engine.request import Request
from qwill.engine.sampler import Sampling
from qwill.model.batch import Batch

UNTIED = {"tie_word_embeddings": False}
CONFIGS = {"dense": BASE.with_(mtp_layers=1, **UNTIED), "moe": OTHERS["qwen2_moe"].with_(mtp_layers=2, **UNTIED),
           "hybrid": OTHERS["qwen3_next"].with_(mtp_layers=1, **UNTIED)}  # fmt: skip


def knowing(kind, vocab=97, noise=0.0, seed=6):
    """A model whose next token follows from its last, and whose head knows that. With `noise` what all else says (the
    tokens before, the head's hidden states and keys) is added in this share, so that the head is right now and then and
    any mistake in what it is given shows."""
    model = redrawn(CONFIGS[kind].with_(vocab_size=vocab), seed)
    one = 0.0 if model.config.zero_centred_norm else 1.0
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", ".down")):
                p.mul_(noise)
        for norm in (model.norm, model.mtp.norm, model.mtp.pre_fc_norm_embedding):
            norm.weight.fill_(one)
        size = model.config.hidden_size
        model.embed_tokens.weight.mul_(size**0.5)
        model.mtp.fc.weight.mul_(noise).add_(torch.eye(size, 2 * size))
    return model


MODELS = {name: knowing(name, noise=0.15) for name in CONFIGS}


def engine_of(model, tokens=3, **rest):
    held = {"blocks": 60, "block_size": 4, "max_running": 5, "token_budget": 40, **rest}
    return Engine(model, None, EngineSettings(**held, speculate=MtpSpec(tokens) if tokens else None))


@torch.inference_mode()
def definition(model, tokens, drafts):
    """The head's logits behind these tokens and drafts, without a cache: from the model's hidden states at the tokens,
    then from its own."""
    ids, known = [*tokens, *drafts], len(tokens)
    hidden_ND = model(Batch.pack([tokens])).hidden_ND[:-1]
    for end in range(known, len(ids) + 1):
        ahead_ND = model.predict_ahead(hidden_ND, Batch.pack([ids[1:end]])).hidden_ND
        hidden_ND = torch.cat([hidden_ND, ahead_ND[-1:]])
    return model.head(ahead_ND[-1:])[0]


class Watched:
    """An engine all of whose draft logits are held against the definition: `worst` is how far one was from it."""

    def __init__(self, model, engine):
        self.model, self.real, self.drafts, self.worst = model, engine._speculation._draw, 0, 0.0
        engine._speculation._draw = self.draw

    def draw(self, going, logits_BV, ahead, proposed):
        for (piece, _), row in zip(going, logits_BV, strict=True):
            expected = definition(self.model, piece.sequence.tokens, piece.drafts)
            self.worst = max(self.worst, float((row - expected).abs().max() / expected.abs().max()))
            self.drafts += 1
        self.real(going, logits_BV, ahead, proposed)

    def check(self, engine):
        assert engine.failure is None and self.worst <= 1e-4


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_replies_are_those_without_and_drafts_those_of_the_definition(data):
    """Any company, few blocks, small budgets, cancelled requests; greedy and with edits, stops and several samples."""
    model = MODELS[data.draw(st.sampled_from(list(MODELS)))]
    size = data.draw(st.sampled_from([1, 3, 4, 16]))
    held = {
        "blocks": data.draw(st.integers(-(-40 // size), -(-60 // size) + 4)), "block_size": size,
        "max_running": data.draw(st.integers(1, 5)), "token_budget": data.draw(st.integers(5, 30)),
        "snapshots": data.draw(st.sampled_from([0, 1, 3, 32])),
    }  # fmt: skip
    stem = data.draw(st.lists(st.integers(0, 96), min_size=1, max_size=5))
    requests = []
    for i in range(data.draw(st.integers(1, 5))):
        sampling = Sampling(
            max_tokens=data.draw(st.integers(1, 14)), temperature=0,
            frequency_penalty=data.draw(st.sampled_from([0, 0, 0.3])), min_tokens=data.draw(st.sampled_from([0, 1])),
        )  # fmt: skip
        prompt = stem * data.draw(st.integers(0, 3)) + [i]
        requests.append(
            Request(str(i), prompt, sampling, n=data.draw(st.sampled_from([1, 1, 3])), logprobs=1,
                    stop_ids=frozenset(data.draw(st.lists(st.integers(0, 96), max_size=3))))
        )  # fmt: skip
    plain, quick = engine_of(model, 0, **held), engine_of(model, data.draw(st.integers(1, 4)), **held)
    watched = Watched(model, quick)
    outs, cancelled = [], set()
    for engine in (plain, quick):
        out = {}
        for request in requests:
            engine.add(request)
            if engine is quick and data.draw(st.booleans()):
                collect(engine, out)
                if data.draw(st.integers(0, 5)) == 0:
                    quick.cancel(request.id)
                    cancelled.add(request.id)
        outs.append(finish(engine, out))
        books_are_clean(engine)
    watched.check(quick)
    ties = 0
    for (name, sample), (tokens, _, last) in outs[0].items():
        if name in cancelled:
            continue
        got, _, end = outs[1][name, sample]
        if requests[int(name)].sampling.penalises:
            assert got == tokens
        else:
            ties += same_or_near_tie(model, requests[int(name)].prompt, got, tokens)
        if got == tokens:
            assert end.finish_reason == last.finish_reason
    assert ties <= 1
    told = quick.stats()
    assert told.accepted <= told.drafted and told.tokens >= told.accepted


@pytest.mark.parametrize("kind", MODELS)
def test_drafts_are_the_definitions_after_all_that_can_happen(kind):
    """A chat of several turns, each from the cache; samples that fork; preemption; prompts in chunks."""
    model = MODELS[kind]
    engine = engine_of(model, 3, blocks=14, token_budget=12, max_running=4)
    watched, stem = Watched(model, engine), [5, 6, 7, 8] * 3
    for turn in range(3):
        out = {}
        for i in range(3):
            engine.add(Request(f"{turn} {i}", [*stem, i], Sampling(max_tokens=12, temperature=0), n=2))
            if i < 2:
                collect(engine, out)
        finish(engine, out)
        books_are_clean(engine)
        stem = stem + out[f"{turn} 0", 0][0][:6]
    watched.check(engine)
    told = engine.stats()
    assert told.preemptions and told.cached_tokens > 60 and told.drafted > 60 and watched.drafts == told.drafted
    assert 10 < told.accepted < told.drafted


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_is_right_gives_several_tokens_a_pass(kind, temperature, dtype):
    model, outs = knowing(kind).to(dtype), []
    sampling = Sampling(max_tokens=41, temperature=temperature)
    for engine in (engine_of(model, 0), engine_of(model, 4)):
        engine.add(Request("a", [1, 2, 3], sampling))
        outs.append((finish(engine)["a", 0][0], engine.stats()))
    told = outs[1][1]
    assert temperature or outs[0][0] == outs[1][0]
    assert told.tokens == 41 and told.drafted >= 30
    assert told.accepted >= told.drafted - (1 if temperature else 0)  # a ratio of 1 − rounding may refuse
    # The first reply token, then 2 drafts, 4, 4, …: five tokens a pass.
    assert told.steps <= 11 and outs[0][1].steps == 41


@pytest.mark.parametrize(
    ("kind", "sampling"),
    [
        ("dense", Sampling(max_tokens=4, temperature=2.0)),
        ("dense", Sampling(max_tokens=4, temperature=3.0, top_k=3, presence_penalty=0.9, logit_bias={2: 1.0})),
        ("hybrid", Sampling(max_tokens=4, temperature=2.5)),
        ("hybrid", Sampling(max_tokens=4, temperature=3.0, top_p=0.9, frequency_penalty=-0.5, min_tokens=2)),
    ],
    ids=str,
)
def test_drawn_replies_follow_the_models_law(kind, sampling):
    """Every reply of four tokens; the head is neither always right nor always wrong."""
    model = knowing(kind, VOCAB, noise=0.8)
    engine = engine_of(model, 2, blocks=400, max_running=60, token_budget=400)
    replies_follow_the_law(engine, model, sampling)


def test_a_broken_head_only_costs_time():
    model = redrawn(CONFIGS["hybrid"], seed=3)
    with torch.no_grad():
        model.mtp.norm.weight.fill_(float("nan"))
    for temperature in (0.0, 1.0):
        outs = []
        for engine in (engine_of(model, 0), engine_of(model)):
            engine.add(Request("a", [1, 2, 3], Sampling(max_tokens=8, temperature=temperature)))
            outs.append(finish(engine)["a", 0][0])
        assert outs[0] == outs[1] and engine.stats().drafted == 0


def test_new_weights_are_the_heads_too():
    model = knowing("hybrid", noise=0.5)
    engine, out = engine_of(model), {}
    watched = Watched(model, engine)
    engine.add(Request("a", [5, 6, 7, 8] * 3, Sampling(max_tokens=20, temperature=0)))
    for _ in range(4):
        collect(engine, out)
    engine.update_weights({"model.embed_tokens.weight": model.embed_tokens.weight.flip(0).clone()})
    before = watched.drafts
    finish(engine, out)
    watched.check(engine)
    assert watched.drafts > before


def test_a_cache_that_grows_keeps_what_the_head_knows():
    model, out = MODELS["dense"], {}
    engine = engine_of(model, blocks=8)
    watched = Watched(model, engine)
    engine.add(Request("a", [5, 6, 7], Sampling(max_tokens=20, temperature=0)))
    for _ in range(4):
        collect(engine, out)
    engine.grow(20)
    finish(engine, out)
    watched.check(engine)
    assert engine.stats().drafted > 8


@pytest.mark.parametrize("kv_dtype", [None, "int8"])
def test_the_heads_part_of_the_memory_is_counted(kv_dtype):
    model = MODELS["hybrid"]
    plain, quick = (
        Engine(model, None, EngineSettings(memory=20_000, block_size=4, speculate=spec, kv_dtype=kv_dtype))
        for spec in (None, MtpSpec())
    )
    head = quick._executors[1]
    stores = [store for kind in (head._cache.keys, head._cache.values) for store in kind.values()]
    stores += [store for kind in (quick.executor._cache.keys, quick.executor._cache.values) for store in kind.values()]
    held = head._hidden_SD.nbytes + sum(s.codes.nbytes + (0 if s.scale is None else s.scale.nbytes) for s in stores)
    assert 20_000 * 0.8 < held <= 20_000 and quick.pool.blocks < plain.pool.blocks


def test_a_model_without_a_head_is_refused():
    for make, says in (
        (lambda: engine_of(tiny_model("dense")), "speculation by mtp needs a multi-token-prediction head"),
        (lambda: MtpSpec(0), "at least 1"),
    ):
        with pytest.raises(ConfigError, match=says):
            make()
    assert dataclasses.asdict(MtpSpec()) == {"tokens": 3}

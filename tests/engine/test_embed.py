"""Embeddings are the model's own hidden states, whatever else the engine does meanwhile."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lora_folders import merged, write_adapter
from test_engine import GREEDY, books_are_clean, collect, finish
from test_executors import OTHERS
from tiny import redrawn, tiny_model

from qwill.base.errors import DataError, ModelError
from qwill.engine.engine import Engine, EngineSettings
from qwill.engine.generate import generate
from qwill.engine.request import Request
from qwill.model.batch import Batch

MODELS = {"dense": tiny_model("dense"), "moe": tiny_model("moe"), "hybrid": redrawn(OTHERS["qwen3_next"], seed=4)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_adapter(MODELS["moe"], tmp_path_factory.mktemp("adapter"), 2)


def definition(model, prompt):
    with torch.no_grad():
        hidden_D = model(Batch.rows(torch.tensor([prompt]))).hidden_ND[-1].double()
    return hidden_D / hidden_D.norm()


def engine_of(model, size, blocks, **more):
    small = {"max_running": 4, "token_budget": 9, "snapshots": 4, **more}
    return Engine(model, None, EngineSettings(blocks=blocks, block_size=size, **small))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_embeddings_among_replies(folder, data):
    """In any company, with shared prefixes, an adapter, and so few blocks that sequences are preempted."""
    kind = data.draw(st.sampled_from(sorted(MODELS)))
    model, size = MODELS[kind], data.draw(st.sampled_from([4, 16]))
    engine = engine_of(model, size, 48 // size + data.draw(st.integers(0, 4)))
    if kind == "moe":
        engine.load_adapter("a", folder)
    stem = data.draw(st.lists(st.integers(0, 96), min_size=1, max_size=20))
    asked, out = {}, {}
    for i in range(data.draw(st.integers(1, 7))):
        prompt = stem[: data.draw(st.integers(1, len(stem)))] + data.draw(st.lists(st.integers(0, 96), max_size=5))
        embed = data.draw(st.booleans())
        adapter = "a" if kind == "moe" and data.draw(st.booleans()) else None
        asked[str(i)] = prompt, embed, merged(model, folder) if adapter else model
        engine.add(Request(str(i), prompt, GREEDY, embed=embed, adapter=adapter))
        for _ in range(data.draw(st.integers(0, 2))):
            collect(engine, out)
    finish(engine, out)
    books_are_clean(engine)
    assert not engine._embedded
    for (name, _), (tokens, text, last) in out.items():
        prompt, embed, alone = asked[name]
        assert last.prompt_tokens == len(prompt)
        if embed:
            assert (tokens, text, last.finish_reason) == ([], "", "stop")
            assert torch.allclose(torch.tensor(last.embedding).double(), definition(alone, prompt), atol=2e-5)
        else:
            assert last.embedding is None and len(tokens) == GREEDY.max_tokens


def test_several_at_once_while_others_go_on():
    model = MODELS["dense"]
    engine, prompts = engine_of(model, 16, 40), [[1, 2, 3], [4] * 30, [5]]
    engine.add(Request("other", [7, 8], GREEDY))
    found_BD = engine.embed(prompts)
    assert found_BD.dtype == torch.float32 and found_BD.shape == (3, model.config.hidden_size)
    for row, prompt in zip(found_BD, prompts, strict=True):
        assert torch.allclose(row.double(), definition(model, prompt), atol=2e-5)
        assert abs(float(row.norm()) - 1) < 1e-6
    assert finish(engine)["other", 0][0] == generate(model, [[7, 8]], GREEDY)[0][0].token_ids
    books_are_clean(engine)


def test_a_chunk_is_all_that_a_reply_waits_for():
    """While a long prompt is embedded every reply gets its token in each pass."""
    engine = engine_of(MODELS["dense"], 16, 40)
    engine.add(Request("a", [1, 2], GREEDY))
    engine.step()
    engine.add(Request("long", [3] * 60, embed=True))
    for _ in range(5):
        assert [e.request for e in engine.step() if e.token_ids] == ["a"]


def test_what_cannot_be_embedded_is_said():
    engine = engine_of(MODELS["dense"], 16, 40)
    for prompts, says in (([[]], "no tokens"), ([[1], [1] * 64], "context is 64"), ([[97]], "holds the id 97")):
        with pytest.raises(DataError, match=says):
            engine.embed(prompts)
    with pytest.raises(DataError, match="there is one embedding"):
        engine.add(Request("a", [1], n=2, embed=True))
    finish(engine)
    books_are_clean(engine)
    model = tiny_model("llama")
    with torch.no_grad():
        model.embed_tokens.weight[50] = float("nan")
    engine = engine_of(model, 16, 40)
    with pytest.raises(ModelError, match="NaN"):
        engine.embed([[1, 2], [50]])
    assert engine.embed([[1, 2]]).isfinite().all()
    books_are_clean(engine)

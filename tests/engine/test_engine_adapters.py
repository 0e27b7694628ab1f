"""Adapters in one batch: each reply is that of a model with its own adapter alone, whatever came and was cached."""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lora_folders import merged, write_adapter
from paged import Paged
from test_codes import held
from test_engine import books_are_clean, collect, finish, same_or_near_tie
from test_executors import EXECUTORS, NATIVE, OTHERS
from tiny import redrawn, tiny_model

from qwill.base.errors import CheckpointError, DataError, ModelError
from qwill.engine import passes
from qwill.engine.adapters import Adapters
from qwill.engine.blocks import BlockPool
from qwill.engine.engine import Engine, EngineSettings
from qwill.engine.executor import TorchExecutor
from qwill.engine.generate import generate
from qwill.engine.request import Request
from qwill.engine.sampler import Sampling
from qwill.model.lora import attach
from qwill.model.lora_files import CONFIG, load_adapter
from qwill.model.quantize import Scheme

GREEDY = Sampling(max_tokens=6, temperature=0)
KINDS = ["dense", "moe", "hybrid"]
COUNT = 4


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Kind → (model, adapter folders, the model with each of them merged; the last without any)."""
    made = {}
    for kind in KINDS:
        model = redrawn(OTHERS["qwen3_next"], seed=4) if kind == "hybrid" else tiny_model(kind)
        folders = [write_adapter(model, tmp_path_factory.mktemp(f"{kind}{i}"), i) for i in range(COUNT)]
        made[kind] = model, folders, [*(merged(model, folder) for folder in folders), model]
    return made


def engine_of(model, size=16, blocks=12, **more):
    small = {"max_running": 5, "token_budget": 20, "snapshots": 4, **more}
    return Engine(model, None, EngineSettings(blocks=blocks, block_size=size, **small))


def reply_of(model, prompt, sampling=GREEDY):
    (completion,) = generate(model, [prompt], sampling)[0]
    return completion.token_ids


def test_the_adapters_say_different_things(worlds):
    """Else nothing below would be tested."""
    for kind in KINDS:
        _, _, models = worlds[kind]
        said = {tuple(reply_of(model, [1, 2, 3])) for model in models}
        assert len(said) == COUNT + 1, kind


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_replies_are_those_of_each_adapter_alone(worlds, data):
    """Any order of arrival, adapters that come and go and return under other names, shared prefixes, cancels, few
    blocks; with blocks of 16 on the native executor where it runs the model."""
    model, folders, models = worlds[data.draw(st.sampled_from(KINDS))]
    size = data.draw(st.sampled_from([2, 4, 16]))
    engine = engine_of(model, size, data.draw(st.integers(-(-24 // size), -(-24 // size) + 8)))
    loaded, asked, out = {}, {}, {}
    stem = data.draw(st.lists(st.integers(0, 96), min_size=1, max_size=12))
    for i in range(data.draw(st.integers(1, 8))):
        name = data.draw(st.sampled_from(["a", "b", None]))
        if name is not None:
            if name in loaded and data.draw(st.booleans()):
                engine.unload_adapter(name)
                del loaded[name]
            if name not in loaded:
                loaded[name] = data.draw(st.integers(0, COUNT - 1))
                engine.load_adapter(name, folders[loaded[name]])
        prompt = stem + data.draw(st.lists(st.integers(0, 96), max_size=4))
        asked[str(i)] = prompt, models[-1 if name is None else loaded[name]]
        engine.add(Request(str(i), prompt, GREEDY, n=data.draw(st.sampled_from([1, 1, 2])), adapter=name))
        for _ in range(data.draw(st.integers(0, 3))):
            collect(engine, out)
        if data.draw(st.integers(0, 5)) == 0:
            engine.cancel(str(i))
    finish(engine, out)
    books_are_clean(engine)
    ties = 0
    for (name, _), (tokens, _, last) in out.items():
        prompt, alone = asked[name]
        expected = reply_of(alone, prompt)
        cut = expected[: len(tokens)] if last.finish_reason == "cancel" else expected
        ties += same_or_near_tie(alone, prompt, tokens, cut)
    assert ties <= 1
    for name in loaded:
        engine.unload_adapter(name)
    assert len(engine._adapters._numbers) == engine.settings.adapters
    assert all(getattr(module, "updates", None) is None for module in model.modules())


def wrongs(worlds):
    """Whether a plain mixed batch, with prefixes that are cached, has wrong replies."""
    wrong = False
    for kind in ("dense", "moe"):
        model, folders, models = worlds[kind]
        for size in (4, 16):
            engine, prompt = engine_of(model, size, 60), list(range(3, 40))
            for turn in range(2):
                for i in range(3):
                    engine.load_adapter(f"{i}", folders[(i + turn) % COUNT])
                for i in range(4):
                    engine.add(Request(f"{i}", prompt, GREEDY, adapter=f"{i}" if i < 3 else None))
                for (name, _), (tokens, _, _) in finish(engine).items():
                    alone = models[-1 if name == "3" else (int(name) + turn) % COUNT]
                    wrong |= tokens != reply_of(alone, prompt)
                for i in range(3):
                    engine.unload_adapter(f"{i}")
    return wrong


def test_a_plain_mixed_batch(worlds):
    assert not wrongs(worlds)


def test_an_adapter_that_is_off_by_one_is_seen(worlds, monkeypatch):
    real = passes.step_of

    def shifted(*arguments):
        step, rows = real(*arguments)
        there = step.adapters_R >= 0
        step.adapters_R = torch.where(there, (step.adapters_R - 1).clamp(min=0), step.adapters_R)
        return step, rows

    monkeypatch.setattr("qwill.engine.engine.step_of", shifted)
    assert wrongs(worlds)


@pytest.mark.parametrize("namespace", ["", "{name}"])
def test_a_cache_that_does_not_know_the_adapter_is_seen(worlds, monkeypatch, namespace):
    """Neither one cache for everybody, nor one that goes by the adapter's name alone."""
    real = Adapters.load

    def load(self, name, folder):
        real(self, name, folder)
        self._known[name].namespace = namespace.format(name=name)

    monkeypatch.setattr(Adapters, "load", load)
    monkeypatch.setattr(BlockPool, "forget", lambda *_, **__: None)
    assert wrongs(worlds)


def test_requests_are_finished_with_the_adapter_that_they_began_with(worlds):
    model, folders, models = worlds["dense"]
    engine, out = engine_of(model), {}
    engine.load_adapter("a", folders[0])
    engine.add(Request("old", [1, 2, 3], GREEDY, adapter="a"))
    collect(engine, out)
    engine.unload_adapter("a")
    assert engine.adapters == []
    with pytest.raises(DataError, match="no adapter 'a': none is loaded"):
        engine.add(Request("late", [1, 2, 3], GREEDY, adapter="a"))
    engine.load_adapter("a", folders[1])
    engine.add(Request("new", [1, 2, 3], GREEDY, adapter="a"))
    finish(engine, out)
    assert out["old", 0][0] == reply_of(models[0], [1, 2, 3])
    assert out["new", 0][0] == reply_of(models[1], [1, 2, 3])
    assert engine.adapters == ["a"] and len(engine._adapters._numbers) == engine.settings.adapters - 1


def test_what_cannot_be_loaded_is_said(worlds, tmp_path):
    model, folders, _ = worlds["dense"]
    engine = engine_of(model, adapters=2)
    wide = tiny_model("dense").config
    other = redrawn(dataclasses.replace(wide, hidden_size=48), seed=1)
    engine.load_adapter("a", folders[0])
    for name, folder, error, says in (
        ("a", folders[1], DataError, "there is an adapter 'a' already"),
        ("", folders[1], DataError, "name is empty"),
        ("b", tmp_path, ModelError, "holds no adapter_config"),
        ("b", write_adapter(other, tmp_path / "wide", 1), CheckpointError, r"has shape .* mean"),
        ("b", write_adapter(tiny_model("moe"), tmp_path / "moe", 1), CheckpointError, "which this qwen3 model has not"),
    ):
        with pytest.raises(error, match=says):
            engine.load_adapter(name, folder)
    config = tmp_path / "rank" / CONFIG
    write_adapter(model, config.parent, 1)
    config.write_text(config.read_text().replace('"r": 8', '"r": 5'))
    with pytest.raises(CheckpointError, match="rank 5 in adapter_config"):
        engine.load_adapter("b", config.parent)
    engine.load_adapter("b", folders[1])
    with pytest.raises(DataError, match="2 adapters are loaded, as many as the engine holds"):
        engine.load_adapter("c", folders[2])
    with pytest.raises(DataError, match="no adapter 'c': there are a, b"):
        engine.unload_adapter("c")
    single = tiny_model("dense")
    attach(single, load_adapter(single, folders[0]))
    with pytest.raises(ModelError, match="an adapter on it already"):
        engine_of(single).load_adapter("a", folders[1])


@pytest.mark.skipif(not NATIVE, reason="no C compiler")
@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("scheme", [None, Scheme(8), Scheme(4)], ids=["floats", "int8", "int4"])
def test_the_native_executor_adds_what_the_definition_adds(tmp_path, kind, scheme):
    """Logits of a batch of rows with different adapters, with float weights and with codes (whose own products differ
    by the rounding of activations: what an adapter adds is compared)."""
    model = tiny_model(kind) if scheme is None else held(tiny_model(kind), scheme)
    adapters = [load_adapter(model, write_adapter(model, tmp_path / str(i), i)) for i in range(3)]
    prompts = {i: [5 + i, *range(20 + i, 31 + 2 * i)] for i in range(4)}
    rows = []
    for executor in EXECUTORS:
        paged, alone = (Paged(executor, model, 4, 48, kv_dtype=torch.float32) for _ in range(2))
        for i, adapter in enumerate(adapters):
            paged.executor.put_adapter(i, adapter)
        plain = paged.append(prompts)
        paged.lengths, paged.adapters = [0] * 4, [2, 0, -1, 1]
        mixed = paged.append(prompts)
        alone.executor.put_adapter(0, adapters[0])
        alone.adapters[1] = 0
        if executor is not TorchExecutor:
            assert torch.equal(alone.append({1: prompts[1]})[0], mixed[1])  # to the last bit
            assert torch.equal(mixed[2], plain[2])
        rows.append(mixed - plain)
    difference, size = (rows[0] - rows[1]).abs().mean(), rows[1].abs().mean()
    assert float(difference) < (1e-5 if scheme is None else 0.05) * float(size)

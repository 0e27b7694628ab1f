"""New weights between passes: from then on everything is as if the model had always had them, and nothing moved."""

import copy
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_folders import merged, write_adapter
from test_codes import held
from test_engine import GREEDY, books_are_clean, collect, finish, same_or_near_tie
from test_executors import EXECUTORS, OTHERS, VARIANTS
from tiny import redrawn, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qwill.base.errors import ModelError
from qwill.engine.engine import Engine, EngineSettings
from qwill.engine.generate import generate
from qwill.engine.request import Request
from qwill.engine.sampler import Sampling
from qwill.model.layout import iter_slots
from qwill.model.quantize import Scheme

CONFIGS = {
    "dense": VARIANTS["dense tied"], "llama": VARIANTS["dense untied"], "moe": VARIANTS["moe"],
    "hybrid": OTHERS["qwen3_next"],
}  # fmt: skip


def state_of(model, stacked=False):
    """Its tensors by their released names."""
    layers = range(model.config.num_hidden_layers) if stacked else ()
    names = {f"model.layers.{i}.mlp.experts.gate_up_proj" for i in layers}
    parameters = dict(model.named_parameters())
    return {n: s.read(parameters[s.parameter].detach()).clone() for n, s in iter_slots(model.config, names)}


def engine_of(model, size, **more):
    small = {"max_running": 4, "token_budget": 12, "snapshots": 4, **more}
    return Engine(model, None, EngineSettings(blocks=160 // size, block_size=size, **small))


def reply_of(model, prompt, most):
    (completion,) = generate(model, [prompt], Sampling(max_tokens=most, temperature=0))[0]
    return completion.token_ids


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_what_comes_after_is_of_the_new_weights(data):
    """Tokens before the change are the old model's; those after it continue them as the new model does from the whole
    text so far. Then the old weights again, with what both had cached."""
    config = CONFIGS[data.draw(st.sampled_from(sorted(CONFIGS)))]
    model, new = redrawn(config, seed=1), redrawn(config, seed=2)
    old, stacked = copy.deepcopy(model), data.draw(st.booleans())
    engine = engine_of(model, data.draw(st.sampled_from([4, 16])))
    prompts = [list(range(5, 5 + data.draw(st.integers(1, 20)))) for _ in range(data.draw(st.integers(1, 5)))]
    for now, then in ((old, new), (new, old)):
        out = {}
        for i, prompt in enumerate(prompts):
            engine.add(Request(str(i), prompt, GREEDY, n=data.draw(st.sampled_from([1, 2]))))
        for _ in range(data.draw(st.integers(0, 6))):
            if engine.has_work:
                collect(engine, out)
        before = {key: len(tokens) for key, (tokens, _, _) in out.items()}
        given_ = state_of(then, stacked)
        engine.update_weights(given_ if data.draw(st.booleans()) else iter(given_.items()))
        finish(engine, out)
        books_are_clean(engine)
        for (name, sample), (tokens, _, _) in out.items():
            prompt, count = prompts[int(name)], before.get((name, sample), 0)
            same_or_near_tie(now, prompt, tokens[:count], reply_of(now, prompt, 8)[:count])
            if count < len(tokens):
                text = [*prompt, *tokens[:count]]
                same_or_near_tie(then, text, tokens[count:], reply_of(then, text, 8 - count))


def wrong_after_a_change(monkeypatch=None):
    model, new = tiny_model("dense"), tiny_model("dense", seed=3)
    engine, prompt = engine_of(model, 16), list(range(40))
    engine.add(Request("a", prompt, GREEDY))
    finish(engine)
    engine.add(Request("b", prompt, GREEDY))
    out = {}
    collect(engine, out)
    collect(engine, out)
    begun = out["b", 0][0]
    engine.update_weights(state_of(new))
    engine.add(Request("c", prompt, GREEDY))
    finish(engine, out)
    rest = reply_of(new, [*prompt, *begun], 8 - len(begun))
    return out["c", 0][0] != reply_of(new, prompt, 8) or out["b", 0][0] != [*begun, *rest]


@pytest.mark.parametrize("what", ["refresh", "forget", "restart"])
def test_what_is_left_undone_is_seen(monkeypatch, what):
    assert not wrong_after_a_change()
    place = {"refresh": "native.NativeExecutor.refresh", "forget": "blocks.BlockPool.forget"}
    if what == "refresh" and len(EXECUTORS) < 2:
        pytest.skip("no C compiler")
    if what == "restart":
        monkeypatch.setattr("qwill.engine.scheduler.Scheduler.restart", lambda *_: None)
    else:
        real = Engine.update_weights

        def update(self, tensors):
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(f"qwill.engine.{place[what]}", lambda *_: None)
                real(self, tensors)

        monkeypatch.setattr(Engine, "update_weights", update)
    assert wrong_after_a_change()


def test_adapters_stay_and_scored_prompts_are_scored_anew(tmp_path):
    model, new = tiny_model("dense"), tiny_model("dense", seed=3)
    folder = write_adapter(model, tmp_path, 0)
    engine, prompt = engine_of(model, 16), list(range(40))
    engine.load_adapter("a", folder)
    engine.add(Request("scored", prompt, GREEDY, prompt_logprobs=0))
    out = {}
    collect(engine, out)
    engine.update_weights(state_of(new))
    engine.add(Request("adapted", prompt, GREEDY, adapter="a"))
    first = None
    while engine.has_work:
        for event in engine.step():
            first = event.prompt_logprobs or first
            out.setdefault(event.request, []).extend(event.token_ids)
    assert out["adapted"] == reply_of(merged(new, folder), prompt, 8)
    with torch.no_grad():
        expected = new.logits(torch.tensor([prompt]))[0].log_softmax(1)
    for i, got in enumerate(first[1:], start=1):
        assert abs(got.logprob - float(expected[i - 1, prompt[i]])) < 1e-4


class Memory(TorchDispatchMode):
    """The most bytes that storages made in here took at one time."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in known:
                size = t.untyped_storage().nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(t, self._gone, size)
        return out

    def _gone(self, size):
        self.now -= size


@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("scheme", [None, Scheme(8), Scheme(4)], ids=["floats", "int8", "int4"])
def test_nothing_moves_and_nothing_is_copied(kind, scheme):
    """Of the whole model at most one tensor is in memory a second time."""
    model = tiny_model(kind, 300) if scheme is None else held(tiny_model(kind, 300), scheme)
    state = state_of(tiny_model(kind, 300, seed=3))
    engine = engine_of(model, 16)

    def places():
        packed = [t.data_ptr() for t in getattr(engine.executor, "_keep", [])]
        return [t.data_ptr() for t in (*model.parameters(), *model.buffers())], packed

    before, size = places(), sum(t.nbytes for t in state.values())
    with Memory() as memory:
        engine.update_weights(state)
    assert places() == before
    # What making codes of one matrix takes in between is a few times that matrix.
    largest = max(t.nbytes for t in state.values())
    assert memory.peak < (largest if scheme is None else 8 * largest) and (scheme or memory.peak < size / 4)
    prompt = list(range(20))
    engine.add(Request("a", prompt, GREEDY))
    fresh = tiny_model(kind, 300, seed=3) if scheme is None else held(tiny_model(kind, 300, seed=3), scheme)
    other = engine_of(fresh, 16)
    other.add(Request("a", prompt, GREEDY))
    assert finish(engine)["a", 0][0] == finish(other)["a", 0][0]


def test_what_does_not_fit_is_said_and_changes_nothing():
    model, state = tiny_model("dense"), state_of(tiny_model("dense", seed=3))
    engine, old = engine_of(model, 16), copy.deepcopy(model)
    name = "model.layers.1.mlp.down_proj.weight"
    for wrong, says in (
        (state | {"model.layers.2.mlp.down_proj.weight": state[name]}, "layers.2.mlp.down_proj.weight is no tensor"),
        (state | {name: state[name].T}, r"has shape \[48, 32\]; this qwen3 model needs \[32, 48\]"),
    ):
        with pytest.raises(ModelError, match=says):
            engine.update_weights(wrong)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), old.parameters(), strict=True))
    head = "lm_head.weight"
    engine.update_weights(state | {head: state["model.embed_tokens.weight"]})
    with pytest.raises(ModelError, match="differs from model"):
        engine.update_weights(state | {head: state["model.embed_tokens.weight"] + 1})

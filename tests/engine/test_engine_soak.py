"""Everything at once and in any order: at the end nothing is held, and each reply is the one that is given alone.

The native executor's rows never depend on each other, so replies are compared to the last token and character.
"""

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lora_folders import write_adapter
from test_engine import books_are_clean
from test_executors import NATIVE
from tiny import byte_tokenizer, tiny_model

from qwill.base.errors import DataError
from qwill.engine.adapters import Adapters
from qwill.engine.blocks import BlockPool
from qwill.engine.engine import Engine, EngineSettings
from qwill.engine.request import Request
from qwill.engine.sampler import Sampling
from qwill.engine.scheduler import Scheduler
from qwill.model.layout import released_names

pytestmark = pytest.mark.skipif(not NATIVE, reason="no C compiler")
TOKENIZER = byte_tokenizer()
ADAPTERS = 3
STEMS = ["The same beginning of many texts, ", "The same beginning of m", "Another one. "]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model with adapters, and stop texts that its replies hold."""
    model = tiny_model("moe", TOKENIZER.padded_vocab_size, 100)
    folders = [write_adapter(model, tmp_path_factory.mktemp(str(i)), i, 0.3) for i in range(ADAPTERS)]
    made = World(model, [str(folder) for folder in folders])
    for i, number in enumerate([None, *range(ADAPTERS)]):
        prompt = TOKENIZER.encode(STEMS[0] + "a")
        text = made.alone(Request("", prompt, Sampling(max_tokens=17, temperature=0)), number)[0][1]
        made.stops.append((text[2 + i : 4 + i], "zq"))
    return made


def engine_of(model, blocks, **more):
    return Engine(model, TOKENIZER, EngineSettings(blocks=blocks, **{"max_running": 5, "token_budget": 32, **more}))


@dataclass
class World:
    model: object
    folders: list
    stops: list = field(default_factory=lambda: [(), ()])
    known: dict = field(default_factory=dict)
    engines: dict = field(default_factory=dict)  # one for each adapter, in which nothing is shared

    def alone(self, request, number):
        """(tokens, text, why it ended, the stop text) of each sample, or its embedding."""
        plain = replace(request, id="", adapter=None, priority=0, whole=False)
        key = repr((plain, number))
        if key not in self.known:
            if number not in self.engines:
                self.engines[number] = engine_of(self.model, 40, max_running=1, share_prefixes=False)
                if number is not None:
                    self.engines[number].load_adapter("only", self.folders[number])
            engine = self.engines[number]
            engine.add(replace(plain, adapter=None if number is None else "only"))
            heard = {}
            while engine.has_work:
                listen(engine, heard)
            self.known[key] = {sample: said for (_, sample), said in heard.items()}
        return self.known[key]


def listen(engine, heard):
    for event in engine.step():
        tokens, text, _, _, embedding = heard.get((event.request, event.sample), ([], "", None, None, None))
        heard[event.request, event.sample] = (
            tokens + event.token_ids, text + event.text, event.finish_reason, event.stop_text,
            event.embedding or embedding,
        )  # fmt: skip


def random_request(pick, stops, name, adapter):
    """`pick(options)` chooses. Prompts and settings are few, so that prefixes are shared and replies known."""
    prompt = TOKENIZER.encode(pick(STEMS) + pick(["a", "bc", "x" * 30]))
    cold = Sampling(max_tokens=pick([1, 5, 17]), temperature=0)
    sampling = pick([cold, replace(cold, temperature=1.0), replace(cold, temperature=0.8, top_k=20, min_tokens=1),
                     replace(cold, repetition_penalty=1.3)])  # fmt: skip
    return Request(
        name, prompt, sampling, n=pick([1, 1, 2]), seed=pick([0, 1]), stop=pick(stops), adapter=adapter,
        stop_ids=frozenset(pick([(), TOKENIZER.stop_ids])), priority=pick([0, 0, 2]), whole=pick([False, False, True]),
        logprobs=pick([None, 1]),
    )  # fmt: skip


def soak(world, pick, steps, blocks):
    """Random commands; (what is wrong with the replies, all of them, the engine)."""
    engine = engine_of(world.model, blocks)
    names = released_names(world.model.config)
    parameters = dict(world.model.named_parameters())
    loaded, asked, cancelled, heard = {}, {}, set(), {}
    for number in range(steps):
        what = pick(["ask"] * 6 + ["listen"] * 6 + ["cancel", "adapter", "weights", "nonsense", "embed"])
        open_ = [name for name in asked if any(name == r for r in engine._requests)]
        if what in ("ask", "embed"):
            adapter = pick([None, *loaded])
            request = random_request(pick, world.stops, str(number), adapter)
            if what == "embed":
                request = replace(request, embed=True, n=1)
            engine.add(request)
            asked[request.id] = request, loaded.get(adapter)
        elif what == "listen":
            listen(engine, heard)
        elif what == "cancel" and open_:
            cancelled.add(name := pick(open_))
            engine.cancel(name)
        elif what == "adapter":
            name = pick(["a", "b"])
            if name in loaded:
                engine.unload_adapter(name)
                del loaded[name]
            else:
                loaded[name] = pick(range(ADAPTERS))
                engine.load_adapter(name, world.folders[loaded[name]])
        elif what == "weights":  # the same ones: everything is computed again, and comes to the same
            engine.update_weights((n, s.read(parameters[s.parameter].detach()).clone()) for n, s in names.items())
        elif what == "nonsense":
            wrong = pick([Request("", [1] * 100), Request("", []), Request("", [10**6]), Request("", [1], adapter="?")])
            with pytest.raises(DataError):
                engine.add(wrong)
    for _ in range(3000):
        if not engine.has_work:
            break
        listen(engine, heard)
    books_are_clean(engine)
    for name in loaded:
        engine.unload_adapter(name)
    assert not engine.executor._adapters and len(engine._adapters._numbers) == engine.settings.adapters
    assert not engine._embedded and len(heard) == sum(request.n for request, _ in asked.values())
    wrong = []
    for (name, sample), said in heard.items():
        expected = world.alone(*asked[name])[sample]
        if said[2] == "cancel":
            assert name in cancelled
            if said[0] != expected[0][: len(said[0])] or not expected[1].startswith(said[1]):
                wrong.append((name, said, expected))
        elif said != expected:
            wrong.append((name, said, expected))
    return wrong, heard, engine


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_order_of_anything(world, data):
    steps, blocks = data.draw(st.integers(1, 40)), data.draw(st.integers(7, 12))
    wrong, _, _ = soak(world, lambda options: data.draw(st.sampled_from(list(options))), steps, blocks)
    assert not wrong


def test_a_long_run(world):
    wrong, heard, engine = soak(world, random.Random(1).choice, 1000, 16)
    assert not wrong
    # What it is about did happen.
    ends = [(reason, stop is not None, vector is not None) for _, _, reason, stop, vector in heard.values()]
    for end in [("stop", True, False), ("stop", False, True), ("length", False, False), ("cancel", False, False)]:
        assert ends.count(end) > 9, end
    assert engine.stats().preemptions > 99 and engine.stats().cached_tokens > 999


@pytest.mark.parametrize("bug", ["namespace", "number", "leak", "cancel"])
def test_bugs_are_seen(world, monkeypatch, bug):
    if bug == "namespace":  # two adapters share what is cached
        real = Adapters.find
        monkeypatch.setattr(Adapters, "find", lambda self, name: _changed(real(self, name), namespace="all"))
    elif bug == "number":  # the number of an adapter that is in use is given to the next
        monkeypatch.setattr(Adapters, "leave", lambda self, loaded: self._numbers.append(loaded.number))
    elif bug == "leak":  # the last block of a sequence is not given back
        real_release = BlockPool.release
        monkeypatch.setattr(BlockPool, "release", lambda self, blocks: real_release(self, blocks[:-1]))
    elif bug == "cancel":  # a request that waits goes on after it was cancelled
        real_finish = Scheduler.finish
        monkeypatch.setattr(Scheduler, "finish", lambda self, s: real_finish(self, s) if s.blocks else None)
    try:
        wrong, _, _ = soak(World(world.model, world.folders, world.stops), random.Random(2).choice, 300, 10)
    except (AssertionError, KeyError):  # books that aren't clean, blocks that nobody has
        return
    assert wrong


def _changed(loaded, **fields):
    for name, value in fields.items():
        setattr(loaded, name, value)
    return loaded

import importlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_executors import OTHERS
from tiny import redrawn, tiny_model

from qwill.base.errors import DataError, ModelError
from qwill.engine.generate import Completion, generate
from qwill.engine.sampler import Sampling
from qwill.engine.stream import Session, stream
from qwill.model import ops

engine_module, generate_module = (importlib.import_module(f"qwill.engine.{name}") for name in ("engine", "generate"))

MARGIN = 1e-4  # two choices nearer than this may swap when float32 sums are ordered differently
KINDS = ["dense", "moe", "llama"]


@pytest.fixture(autouse=True, params=["native", "torch"])
def executor_kind(request):
    """Every test here holds for both executors; without a C compiler both are the model's own."""
    ops.use_native(request.param == "native")
    yield request.param
    ops.use_native(True)


def prompts_like(seed: int, count: int, longest: int = 20, vocab: int = 97) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, rng.integers(1, longest + 1)).tolist() for _ in range(count)]


def full_logits(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(torch.tensor([ids]))[0]


def plain_greedy(model, prompt: list[int], max_tokens: int, stop: set[int]) -> tuple[list[int], list[float]]:
    """The definition: a whole forward pass for every token, no cache. Also the margin of every choice."""
    ids, margins = list(prompt), []
    for _ in range(min(max_tokens, model.config.max_position_embeddings - len(prompt))):
        best = full_logits(model, ids)[-1].topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
        if ids[-1] in stop:
            break
    return ids[len(prompt) :], margins


def assert_same(got: list[Completion], expected: list[Completion]) -> None:
    assert [c.token_ids for c in got] == [c.token_ids for c in expected]
    assert [c.finish_reason for c in got] == [c.finish_reason for c in expected]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tiny_models_are_not_trivial(kind):
    logits = full_logits(tiny_model(kind), prompts_like(0, 1, 20)[0])
    assert float(logits.std()) >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_batched_greedy_is_the_uncached_definition_token_for_token(kind):
    model, stop = tiny_model(kind), {3, 11}
    prompts = prompts_like(1, 12)
    got = generate(model, prompts, Sampling(max_tokens=14, temperature=0), slots=5, stop_ids=stop)
    near_ties = compared = 0
    for prompt, (completion,) in zip(prompts, got, strict=True):
        tokens, margins = plain_greedy(model, prompt, 14, stop)
        near = next((i for i, m in enumerate(margins) if m < MARGIN), None)
        near_ties += near is not None
        compared += len(tokens[:near])
        assert completion.token_ids[:near] == tokens[:near]
        if near is None:
            assert completion.finish_reason == ("stop" if tokens[-1] in stop else "length")
            assert len(completion.token_ids) == len(tokens)
    assert near_ties <= 1 and compared >= 60


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "sampling",
    [Sampling(max_tokens=12, temperature=0.8), Sampling(max_tokens=12, temperature=1.3, top_p=0.9)],
    ids=str,
)
def test_log_probabilities_are_those_of_a_forward_pass_over_the_finished_sequence(kind, sampling):
    model, prompts = tiny_model(kind), prompts_like(2, 6)
    for prompt, samples in zip(prompts, generate(model, prompts, sampling, n=3, slots=4, seed=9), strict=True):
        for completion in samples:
            ids = prompt + completion.token_ids
            logits = full_logits(model, ids)[len(prompt) - 1 : -1]
            expected = torch.log_softmax(logits / sampling.temperature, dim=1)
            chosen = expected.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            np.testing.assert_allclose(completion.logprobs, chosen.numpy(), atol=1e-5, rtol=0)
            if sampling.top_p == 1:
                assert completion.sampled_logprobs == completion.logprobs


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_sequence_does_not_depend_on_its_company(executor_kind, data):
    model = tiny_model("moe")
    if executor_kind == "torch":
        model = model.double()  # so that nothing is left for rounding to decide; the native one rounds alike
    prompts = prompts_like(data.draw(st.integers(0, 50)), 7, longest=12)
    sampling = Sampling(max_tokens=9, temperature=1.0, top_k=data.draw(st.sampled_from([0, 10])))
    n, stop = data.draw(st.integers(1, 4)), [5, 6, 7, 8]
    expected = [
        generate(model, [p], sampling, n=n, slots=1, stop_ids=stop, seed=4, streams=[i]) for i, p in enumerate(prompts)
    ]
    order = data.draw(st.permutations(range(7)))
    slots = data.draw(st.integers(1, 40))
    got = generate(
        model,
        [prompts[i] for i in order],
        sampling,
        n=n,
        slots=slots,
        stop_ids=stop,
        seed=4,
        streams=list(order),
    )
    for place, i in enumerate(order):
        assert_same(got[place], expected[i][0])


def test_samples_of_a_prompt_differ_and_seeds_differ():
    model, prompts = tiny_model("dense"), prompts_like(3, 2)
    sampling = Sampling(max_tokens=10, temperature=1.5)
    first = generate(model, prompts, sampling, n=8, seed=1)
    assert len({tuple(c.token_ids) for samples in first for c in samples}) == 16
    again = generate(model, prompts, sampling, n=8, seed=1)
    assert first == again
    other = generate(model, prompts, sampling, n=8, seed=2)
    assert all(a.token_ids != b.token_ids for x, y in zip(first, other, strict=True) for a, b in zip(x, y, strict=True))


def test_sampled_tokens_follow_the_models_distribution():
    model, draws = tiny_model("dense", vocab_size=20), 4000
    prompt = [1, 2, 3]
    samples = generate(model, [prompt], Sampling(max_tokens=1), n=draws, slots=64)[0]
    counts = np.bincount([c.token_ids[0] for c in samples], minlength=20)
    p = torch.softmax(full_logits(model, prompt)[-1].double(), 0).numpy()
    assert abs(counts / draws - p).max() < 5 * (0.25 / draws) ** 0.5


class Counting:
    """An executor that notes what goes through it, of each pass the sizes of its sequences' pieces; `interrupt_at`
    breaks off that pass as Ctrl-C does."""

    def __init__(self, inner):
        self.inner, self.passes, self.interrupt_at = inner, [], None

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def run(self, step):
        if len(self.passes) == self.interrupt_at:
            raise KeyboardInterrupt
        self.passes.append(step.cu_seqlens.diff().tolist())
        return self.inner.run(step)

    @property
    def tokens(self):
        return sum(map(sum, self.passes))


@pytest.fixture
def counting(monkeypatch):
    """The executors made during the test."""
    made = []

    class Counted(engine_module.Engine):
        def __init__(self, *args):
            super().__init__(*args)
            self.executor = Counting(self.executor)
            made.append(self.executor)

    monkeypatch.setattr(generate_module, "Engine", Counted)
    monkeypatch.setattr(importlib.import_module("qwill.engine.stream"), "Engine", Counted)
    return made


def test_a_prompt_is_prefilled_once_for_all_its_samples_and_finished_sequences_cost_nothing(counting):
    model, prompts = tiny_model("dense"), prompts_like(4, 5)
    results = generate(model, prompts, Sampling(max_tokens=8), n=6, slots=30, stop_ids=[1, 2, 3, 4])
    decoded = sum(len(c.token_ids) - 1 for samples in results for c in samples)
    assert counting[0].tokens == sum(map(len, prompts)) + decoded
    assert max(map(len, counting[0].passes)) <= 30


def test_samples_that_come_later_find_the_blocks_of_their_prompt(counting):
    model, prompt = tiny_model("dense"), prompts_like(4, 1)[0] + [5] * 35
    results = generate(model, [prompt], Sampling(max_tokens=8), n=6, slots=2)[0]
    decoded = sum(len(c.token_ids) - 1 for c in results)
    assert counting[0].tokens == len(prompt) + 4 * (len(prompt) % 16) + decoded and len(prompt) % 16
    assert max(map(len, counting[0].passes)) == 2


def test_finished_slots_are_refilled_at_once(counting):
    model, prompts = tiny_model("dense"), prompts_like(5, 40)
    results = generate(model, prompts, Sampling(max_tokens=10, temperature=1.5), slots=8, stop_ids=range(20))
    decoded = sum(len(c.token_ids) - 1 for (c,) in results)
    steps = [len(sizes) for sizes in counting[0].passes]
    assert sum(steps) == decoded + 40
    assert sum(steps) / (len(steps) * 8) > 0.8  # mean occupation; a static batch of these lengths reaches far less
    lengths = [len(c.token_ids) for (c,) in results]
    static = sum(sum(lengths[i : i + 8]) - 8 for i in range(0, 40, 8)) / sum(
        8 * (max(lengths[i : i + 8]) - 1) for i in range(0, 40, 8)
    )
    assert static < 0.6


def test_stop_ids_end_a_sequence_and_are_kept():
    model, prompts = tiny_model("dense"), prompts_like(6, 10)
    free = generate(model, prompts, Sampling(max_tokens=20, temperature=0))
    stop = free[0][0].token_ids[4]
    for (was,), (now,) in zip(
        free, generate(model, prompts, Sampling(max_tokens=20, temperature=0), stop_ids=[stop]), strict=True
    ):
        end = was.token_ids.index(stop) + 1 if stop in was.token_ids else 20
        assert now.token_ids == was.token_ids[:end]
        assert now.finish_reason == ("stop" if stop in was.token_ids else "length")
        assert len(now.logprobs) == len(now.token_ids) == len(now.sampled_logprobs)


def test_the_context_ends_a_sequence_and_a_prompt_that_fills_it_is_refused():
    model = tiny_model("dense", context=16)
    completion = generate(model, [[1] * 13], Sampling(max_tokens=50))[0][0]
    assert len(completion.token_ids) == 3 and completion.finish_reason == "length"
    with pytest.raises(
        DataError,
        match="prompt 1 has 16 tokens, but the model's context is 16: shorten it to at most 15 tokens",
    ):
        generate(model, [[1], [1] * 16], Sampling())
    with pytest.raises(DataError, match="prompt 0 has no tokens"):
        generate(model, [[]], Sampling())
    for ids, wrong in ([5, 97], 97), ([-1, 5], -1):
        with pytest.raises(DataError, match=f"prompt 0 holds the id {wrong}, but the model knows 0 to 96"):
            generate(model, [ids], Sampling())
    with pytest.raises(DataError, match="2 streams were given for 1 prompts"):
        generate(model, [[1]], Sampling(), streams=[1, 2])
    assert generate(model, [], Sampling()) == []


def test_a_broken_model_is_named():
    model = tiny_model("dense")
    with torch.no_grad():
        model.norm.weight[3] = float("nan")
    with pytest.raises(ModelError, match=r"the model gives NaN after this prompt: .*\(prompt 0\)"):
        generate(model, [[1, 2]], Sampling(max_tokens=3))


@pytest.mark.parametrize("kind", KINDS)
def test_long_prompts_go_in_pieces(kind, monkeypatch):
    model, prompts = tiny_model(kind), prompts_like(7, 6, longest=40)
    sampling = Sampling(max_tokens=5, temperature=1.0)
    whole = generate(model, prompts, sampling, n=2)
    monkeypatch.setattr(generate_module, "PASS", 12)
    pieces = generate(model, prompts, sampling, n=2)
    for a, b in zip(whole, pieces, strict=True):
        assert_same(a, b)


def test_penalties_see_prompt_and_output():
    model, prompts = tiny_model("dense"), prompts_like(8, 6)
    sampling = Sampling(max_tokens=15, temperature=0, repetition_penalty=1e6)
    for prompt, (completion,) in zip(prompts, generate(model, prompts, sampling, slots=2), strict=True):
        positive = len(set(completion.token_ids)) == len(completion.token_ids)
        assert positive and not set(prompt) & set(completion.token_ids)
    output_only = Sampling(max_tokens=15, temperature=0, presence_penalty=1e6)
    results = generate(model, prompts, output_only, slots=2)
    assert all(len(set(c.token_ids)) == 15 for (c,) in results)
    assert any(set(p) & set(c.token_ids) for p, (c,) in zip(prompts, results, strict=True))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=12, temperature=0),
        Sampling(max_tokens=12, temperature=0.9),
        Sampling(max_tokens=12, temperature=0.9, top_p=0.9, top_k=9, repetition_penalty=1.2, presence_penalty=0.5),
    ],
    ids=str,
)
def test_a_stream_gives_what_generate_gives(sampling):
    model, prompts = tiny_model("moe"), prompts_like(9, 5)
    for prompt in prompts:
        (expected,) = generate(model, [prompt], sampling, stop_ids=[1, 2, 3], seed=6)[0]
        tokens = list(stream(model, prompt, sampling, stop_ids=[1, 2, 3], seed=6))
        assert [t.id for t in tokens] == expected.token_ids
        np.testing.assert_allclose([t.logprob for t in tokens], expected.logprobs, atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_a_session_computes_only_what_is_new_and_survives_being_cut_off(counting, kind):
    model = tiny_model("dense", context=160) if kind == "dense" else redrawn(OTHERS["qwen3_next"], seed=3)
    sampling = Sampling(max_tokens=6, temperature=0)

    def alone(prompt):
        return [t.id for t in stream(model, prompt, sampling)]

    session, first = Session(model), list(range(40))
    session.prepare(50)
    reply = [t.id for t in session.stream(first, sampling)]
    second, executor = [*first, *reply, 9, 8], counting[0]
    assert session.cached == [*first, *reply] and executor.tokens == 45
    got = [t.id for t in session.stream(second, sampling)]
    assert executor.tokens == 45 + (48 - 32) + 5  # two whole blocks of 16 were there
    assert got == alone(second)
    for _ in session.stream(second + got, sampling):
        break
    assert [t.id for t in session.stream(second, sampling)] == got
    executor.interrupt_at = len(executor.passes) + 2
    with pytest.raises(KeyboardInterrupt):
        list(session.stream([7] * 9, sampling))
    executor.interrupt_at, before = None, executor.tokens
    assert [t.id for t in session.stream(second, sampling)] == got
    assert executor.tokens == before + 16 + 5  # what was cached before the interrupt still is
    left = session.stream(second, sampling)
    next(left)
    for prompt in (second, [7] * 9, [7] * 5 + [2] * 30, [3] * 50):
        assert [t.id for t in session.stream(prompt, sampling)] == alone(prompt)
    assert session._engine.executor is executor
    session._engine.scheduler.schedule = None  # torn by an interrupt outside of a pass
    with pytest.raises(TypeError):
        list(session.stream(first, sampling))
    assert [t.id for t in session.stream(first, sampling)] == reply


def test_progress_counts_sequences_and_tokens():
    seen = []
    model = tiny_model("dense")
    results = generate(
        model, prompts_like(10, 9), Sampling(max_tokens=5), n=2, slots=4, progress=lambda *x: seen.append(x)
    )
    assert seen == sorted(seen)
    assert len(results) == 9 and seen[0][0] <= seen[-1][0]
    assert seen[-1] == (18, 90)

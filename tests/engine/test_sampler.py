import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from qwill.base.errors import ConfigError
from qwill.engine import native_sampler
from qwill.engine.edits import Seen, adjusted, penalise
from qwill.engine.randomness import uniforms
from qwill.engine.sampler import Sampled, Sampling, sample, sample_again
from qwill.model import native, ops


@pytest.fixture(autouse=True, params=["native", "torch"])
def native_or_not(request):
    ops.use_native(request.param == "native")
    yield
    ops.use_native(True)


REFERENCE_VOCAB = 150  # above FIRST_CANDIDATES and no multiple of BLOCK


def logits_like(seed: int, rows: int, vocab: int, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def reference(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The distribution to draw from, written plainly in float64: temperature, top-k, top-p, min-p."""
    p = np.exp((logits - logits.max()) / sampling.temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    keep = np.zeros(len(p), dtype=bool)
    kept_k = order[: sampling.top_k] if sampling.top_k else order
    mass = 0.0
    for token in kept_k:
        if mass < sampling.top_p and p[token] >= sampling.min_p * p.max():
            keep[token] = True
        mass += p[token] / p[kept_k].sum()
    p = np.where(keep, p, 0)
    return p / p.sum()


SETTINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.6),
    Sampling(temperature=1.7, top_k=5),
    Sampling(temperature=0.7, top_p=0.8, top_k=20),
    Sampling(temperature=2.0, top_p=0.95),
    Sampling(temperature=3.0, top_p=0.999),  # needs more than the first candidates
    Sampling(temperature=1.0, min_p=0.05),
    Sampling(temperature=1.0, min_p=0.02, top_p=0.9, top_k=40),
]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_tokens_follow_the_distribution(sampling):
    logits = logits_like(1, 1, REFERENCE_VOCAB)
    draws = 20_000
    u = torch.from_numpy(uniforms(0, 0, 0, np.arange(draws)))
    out = sample(logits.expand(draws, -1), u, sampling)
    expected = reference(logits[0].double().numpy(), sampling) * draws
    counts = np.bincount(out.tokens_B.numpy(), minlength=REFERENCE_VOCAB)
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    rest = [counts[~common].sum()], [expected[~common].sum()]
    observed = np.append(counts[common], rest[0] if rest[1][0] > 5 else [])
    predicted = np.append(expected[common], rest[1] if rest[1][0] > 5 else [])
    assert stats.chisquare(observed, predicted * observed.sum() / predicted.sum()).pvalue > 1e-3


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_log_probabilities_of_both_distributions(sampling):
    logits = logits_like(2, 40, REFERENCE_VOCAB)
    u = torch.from_numpy(uniforms(1, 0, np.arange(40), 0))
    out = sample(logits, u, sampling)
    full = torch.log_softmax(logits / sampling.temperature, dim=1).gather(1, out.tokens_B[:, None])[:, 0]
    assert out.logprobs_B.dtype == torch.float32
    torch.testing.assert_close(out.logprobs_B, full, atol=1e-5, rtol=0)
    for row, token in enumerate(out.tokens_B.tolist()):
        drawn = np.log(reference(logits[row].double().numpy(), sampling)[token])
        assert abs(float(out.sampled_logprobs_B[row]) - drawn) < 1e-5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    vocab=st.integers(1, 300),
    u=st.floats(0, 1, exclude_min=True, exclude_max=True),
    scale=st.sampled_from([0.0, 1.0, 30.0, 300.0]),
    index=st.integers(0, len(SETTINGS) - 1),
)
def test_a_row_is_drawn_alike_alone_and_among_others(seed, vocab, u, scale, index):
    logits = logits_like(seed, 5, vocab, scale)
    uniform = torch.tensor([0.5, 0.1, u, 0.9, 0.3], dtype=torch.float64)
    together = sample(logits, uniform, SETTINGS[index])
    alone = sample(logits[2:3], uniform[2:3], SETTINGS[index])
    assert together.tokens_B[2] == alone.tokens_B[0]
    assert 0 <= int(alone.tokens_B) < vocab
    assert together.logprobs_B[2] == alone.logprobs_B[0]
    assert float(alone.sampled_logprobs_B) > -np.inf


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), vocab=st.integers(2, 200), size=st.integers(1, 200))
def test_ids_beyond_the_vocabulary_are_never_drawn(seed, vocab, size):
    size = min(size, vocab)
    logits = logits_like(seed, 8, vocab)
    logits[:, size:] += 50
    u = torch.from_numpy(uniforms(seed, 0, np.arange(8), 0))
    for sampling in (Sampling(temperature=0), Sampling(), Sampling(top_k=3), Sampling(top_p=0.9)):
        out = sample(logits, u, sampling, vocab_size=size)
        assert int(out.tokens_B.max()) < size


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize(("vocab", "size"), [(1, 1), (255, 255), (700, 513), (256, 256), (3000, 2999)])
def test_the_native_sampler_chooses_what_the_definition_chooses(temperature, vocab, size):
    """Log-probabilities to rounding; tokens exactly, but for a uniform within rounding of a border (counted)."""
    logits = logits_like(vocab, 400, vocab)
    logits[:, size:] += 3  # a padding row may be likelier than all: it counts in the full distribution only
    u = torch.from_numpy(uniforms(7, 0, np.arange(400), vocab))
    sampling = Sampling(temperature=temperature)
    ops.use_native(True)
    got = sample(logits, u, sampling, vocab_size=size)
    ops.use_native(False)
    expected = sample(logits, u, sampling, vocab_size=size)
    same = got.tokens_B == expected.tokens_B
    assert int((~same).sum()) <= 1
    torch.testing.assert_close(got.logprobs_B[same], expected.logprobs_B[same], atol=1e-5, rtol=0)
    torch.testing.assert_close(got.sampled_logprobs_B[same], expected.sampled_logprobs_B[same], atol=1e-5, rtol=0)


def test_forbidden_tokens_are_never_drawn_and_uniform_extremes_hold():
    logits = torch.full((3, 130), float("-inf"))
    logits[:, [7, 64, 129]] = torch.tensor([0.0, 1.0, 2.0])
    u = torch.tensor([2.0**-53, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    for sampling in (Sampling(), Sampling(top_p=0.999999), Sampling(top_k=50)):
        tokens = sample(logits, u, sampling).tokens_B.tolist()
        assert set(tokens) <= {7, 64, 129}
    assert sample(logits, u, Sampling()).tokens_B.tolist() == [7, 129, 129]


def test_greedy_takes_the_best_and_reports_its_probability():
    logits = logits_like(3, 6, 50)
    out = sample(logits, torch.zeros(6, dtype=torch.float64), Sampling(temperature=0))
    assert torch.equal(out.tokens_B, logits.argmax(1))
    torch.testing.assert_close(out.logprobs_B, torch.log_softmax(logits, 1).amax(1), atol=1e-6, rtol=0)
    assert out.sampled_logprobs_B.tolist() == [0.0] * 6


def test_penalties_change_what_is_drawn_and_not_the_models_own_log_probability():
    logits = torch.tensor([[2.0, 1.9, -1.0, 0.5]])
    seen = Seen([0, 0])
    seen.add(1)
    seen.add(2)

    def draw(u, sampling):
        return sample(logits, u, sampling, None, adjusted(logits, [sampling], [seen]))

    none = torch.zeros(1, dtype=torch.float64)
    greedy = {"temperature": 0.0}
    assert int(draw(none, Sampling(repetition_penalty=10.0, **greedy)).tokens_B) == 3
    assert int(draw(none, Sampling(presence_penalty=1.5, **greedy)).tokens_B) == 0
    u = torch.tensor([0.3], dtype=torch.float64)
    sampling = Sampling(temperature=0.5, repetition_penalty=2.0, presence_penalty=0.25)
    out = draw(u, sampling)
    token = int(out.tokens_B)
    assert abs(float(out.logprobs_B) - float(torch.log_softmax(logits / 0.5, 1)[0, token])) < 1e-6
    penalised = torch.tensor([[1.0, 0.95 - 0.25, -2.0 - 0.25, 0.5]])
    assert abs(float(out.sampled_logprobs_B) - float(torch.log_softmax(penalised / 0.5, 1)[0, token])) < 1e-6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", 1e-9),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("presence_penalty", float("inf")),
    ],
)
def test_impossible_values_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=rf"sampling\.{field} is"):
        Sampling(**{field: value})


@given(data=st.data())
def test_penalties_and_bias_of_a_batch_are_those_of_each_row(data):
    """The definition, id by id, for rows of different settings and lengths."""
    numbers = st.integers(0, 19)
    rows = data.draw(st.lists(st.tuples(st.lists(numbers, min_size=1), st.lists(numbers)), min_size=1, max_size=4))
    few = st.sampled_from([0.0, 0.5, -1.25])
    settings = [
        Sampling(repetition_penalty=data.draw(st.sampled_from([0.5, 1.0, 1.7])), presence_penalty=data.draw(few),
                 frequency_penalty=data.draw(few), logit_bias=data.draw(st.dictionaries(numbers, few)))
        for _ in rows
    ]  # fmt: skip
    logits = logits_like(data.draw(st.integers(0, 9)), len(rows), 20)
    seen: list[Seen | None] = []
    for (prompt, output), sampling in zip(rows, settings, strict=True):
        seen.append(Seen(prompt) if sampling.penalises else None)
        for token in output if sampling.penalises else ():
            seen[-1].add(token)
    got, defined = adjusted(logits, settings, seen), logits.clone()
    penalise(defined, settings, seen)
    if not any(s.logit_bias for s in settings):
        assert torch.equal(got, defined)  # native or not, to the last bit
    for (prompt, output), s, before, after in zip(rows, settings, logits.tolist(), got.tolist(), strict=True):
        for i, value in enumerate(before):
            if i in prompt or i in output:
                value = value / s.repetition_penalty if value > 0 else value * s.repetition_penalty
            value -= s.presence_penalty * (i in output) + s.frequency_penalty * output.count(i)
            assert abs(after[i] - value - s.logit_bias.get(i, 0.0)) < 1e-5


def bits(allowed: torch.Tensor) -> torch.Tensor:
    """Bool [B, V] as the sampler's bit masks."""
    padded = torch.nn.functional.pad(allowed, (0, -allowed.shape[1] % 32)).numpy()
    return torch.from_numpy(np.packbits(padded, axis=1, bitorder="little").view(np.int32).copy())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_masked_draws_are_those_of_logits_that_were_edited(data):
    """Few or many ids allowed, whole blocks without any, masks narrower and wider than the row."""
    vocab = data.draw(st.sampled_from([1, 31, 32, 255, 256, 257, 700, 1500]))
    share = data.draw(st.sampled_from([0.0, 0.004, 0.1, 0.9]))
    sampling = data.draw(st.sampled_from([Sampling(temperature=0), *SETTINGS]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    logits = logits_like(vocab, 6, vocab)
    allowed = torch.rand(6, vocab, generator=generator) < share
    allowed[torch.arange(6), torch.randint(vocab, (6,), generator=generator)] = True
    u = torch.rand(6, generator=generator, dtype=torch.float64)
    mask_BW = bits(allowed)
    if data.draw(st.booleans()):
        mask_BW = torch.nn.functional.pad(mask_BW, (0, 2), value=-1)
    got = sample(logits, u, sampling, vocab, None, mask_BW)
    expected = sample(logits, u, sampling, vocab, logits.masked_fill(~allowed, float("-inf")))
    assert bool(allowed[torch.arange(6), got.tokens_B].all())
    same = got.tokens_B == expected.tokens_B  # but for a uniform within rounding of a border
    assert int((~same).sum()) <= 1
    for name in ("logprobs_B", "sampled_logprobs_B"):
        torch.testing.assert_close(getattr(got, name)[same], getattr(expected, name)[same], atol=1e-5, rtol=0)


def test_the_native_sampler_is_there_where_others_are():
    """A source that doesn't compile would go unnoticed: the definition does the same."""
    from qwill.model import native_library

    assert (native_sampler.library() is None) == (native_library.libraries() is None)


@settings(deadline=None)
@given(data=st.data())
def test_edited_logits_are_drawn_from_as_the_definition_does(data):
    """Natively or not: the same tokens and log-probabilities, with ids beyond the vocabulary and some forbidden."""
    vocab = data.draw(st.sampled_from([1, 255, 256, 700]))
    logits = logits_like(vocab, 5, vocab + data.draw(st.sampled_from([0, 40])))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    edited = logits - 3 * torch.rand(logits.shape, generator=generator)
    edited[torch.rand(logits.shape, generator=generator) < data.draw(st.sampled_from([0.0, 0.6]))] = float("-inf")
    edited[:, 0] = 0.0
    u = torch.rand(5, generator=generator, dtype=torch.float64)
    sampling = Sampling(temperature=data.draw(st.sampled_from([0.0, 0.7, 1.0])))
    got = sample(logits, u, sampling, vocab, edited)
    native.enable(False)
    try:
        expected = sample(logits, u, sampling, vocab, edited)
    finally:
        native.enable(True)
    same = got.tokens_B == expected.tokens_B  # but for a uniform within rounding of a border
    assert int((~same).sum()) <= 1
    for name in ("logprobs_B", "sampled_logprobs_B"):
        torch.testing.assert_close(getattr(got, name)[same], getattr(expected, name)[same], atol=1e-5, rtol=0)


def test_a_mask_narrower_than_the_row_forbids_the_rest():
    logits = torch.arange(100.0)[None]
    for sampling in (Sampling(temperature=0), Sampling(), Sampling(top_k=5)):
        u = torch.tensor([0.99], dtype=torch.float64)
        got = sample(logits, u, sampling, None, None, bits(torch.ones(1, 64) > 0))
        assert int(got.tokens_B) in range(59, 64)


def test_a_mask_that_forbids_nothing_changes_nothing_to_the_last_bit():
    """Both ways sum the whole vocabulary; ids behind its end count in the full distribution, likely or not."""
    for vocab, size, beyond in ((3000, 3000, 0), (3000, 2900, -3), (3000, 2900, 9), (1000, 13, 0), (512, 256, 0)):
        logits = logits_like(vocab + size, 50, vocab)
        logits[:, size:] += beyond
        u = torch.from_numpy(uniforms(size, 0, np.arange(50), 0))
        all_BW = bits(torch.ones(50, size + 32) > 0)
        for sampling in (Sampling(), Sampling(temperature=0.7), Sampling(temperature=0)):
            free, masked = sample(logits, u, sampling, size), sample(logits, u, sampling, size, None, all_BW)
            assert torch.equal(free.tokens_B, masked.tokens_B)
            if free.wholes_B2 is not None:  # the definition sums what may be drawn, then everything
                assert torch.equal(free.wholes_B2, masked.wholes_B2)
                assert torch.equal(free.logprobs_B, masked.logprobs_B)
                assert torch.equal(free.sampled_logprobs_B, masked.sampled_logprobs_B)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    seed=st.integers(0, 1000), vocab=st.integers(1, 700), spare=st.integers(0, 300), share=st.sampled_from([0, 0.3, 1]),
    temperature=st.sampled_from([0.0, 0.7, 1.0]), padded=st.booleans(), data=st.data(),
)  # fmt: skip
def test_rows_drawn_again_are_drawn_as_if_they_were_alone_and_the_others_stay(
    seed, vocab, spare, share, temperature, padded, data
):
    generator = torch.Generator().manual_seed(seed)
    logits = logits_like(seed, 7, vocab + spare)
    u, again_u = torch.rand(2, 7, generator=generator, dtype=torch.float64)
    rows = sorted(data.draw(st.sets(st.integers(0, 6), min_size=1)))
    allowed = torch.rand(len(rows), vocab, generator=generator) < share
    allowed[torch.arange(len(rows)), torch.randint(vocab, (len(rows),), generator=generator)] = True
    mask_RW = torch.nn.functional.pad(bits(allowed), (0, int(padded)), value=-1)
    sampling = Sampling(temperature=temperature)
    first = sample(logits, u, sampling, vocab)
    kept = Sampled(first.tokens_B.clone(), first.logprobs_B.clone(), first.sampled_logprobs_B.clone())
    got = sample_again(first, rows, logits, again_u[rows], sampling, vocab, mask_RW)
    alone = sample(logits[rows], again_u[rows], sampling, vocab, None, mask_RW)
    for name in ("tokens_B", "logprobs_B", "sampled_logprobs_B"):
        expected = getattr(kept, name).clone()
        expected[rows] = getattr(alone, name)
        assert torch.equal(getattr(got, name), expected), name

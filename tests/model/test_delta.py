"""Gated DeltaNet: in chunks ≡ token by token ≡ the native kernels; packing and splitting change nothing."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwill.model import delta, native, ops

Rule = Callable[..., tuple[Tensor, Tensor | None]]

kernels = pytest.mark.skipif(native.libraries() is None, reason="no C compiler: there are no native kernels to test")
lengths = st.lists(st.integers(0, 150), min_size=1, max_size=4).filter(any)


@pytest.fixture(params=["definition", pytest.param("native", marks=kernels)])
def on(request: pytest.FixtureRequest) -> Iterator[bool]:
    ops.use_native(request.param == "native")
    yield request.param == "native"
    ops.use_native(True)


def borders(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0, dtype=torch.int32)


def draw(
    sizes: list[int], heads: tuple[int, int] = (2, 4), k: int = 8, v: int = 12, seed: int = 0, strongest: float = 3.0
) -> list[Tensor]:
    """q, k, v, log decay, beta and states in float64; decays of every strength up to e^-strongest."""
    g, n, (key_heads, value_heads) = torch.Generator().manual_seed(seed), sum(sizes), heads

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    decay = strongest * torch.rand(n, value_heads, generator=g, dtype=torch.float64) ** 4
    return [
        normal(n, key_heads, k), normal(n, key_heads, k), normal(n, value_heads, v), -decay,
        torch.rand(n, value_heads, generator=g, dtype=torch.float64), normal(len(sizes), value_heads, k, v),
    ]  # fmt: skip


def projected(x: Tensor) -> Tensor:
    return (x * torch.arange(x.numel()).cos().view(x.shape)).sum()


def results(rule: Rule, inputs: list[Tensor], sizes: list[int], **rest: object) -> list[Tensor]:
    """Output, last states, and the gradients of a projection of both."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out, last = rule(*leaves[:5], borders(sizes), leaves[5], new_state=True, **rest)
    assert last is not None
    (projected(out) + projected(last)).backward()
    return [out.detach(), last.detach(), *(x.grad for x in leaves if x.grad is not None)]


def agree(got: list[Tensor], expected: list[Tensor], tolerance: float, smallest: float = 1e-12) -> None:
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert float((a - b).norm()) <= tolerance * float(b.norm()) + smallest


def singles(inputs: list[Tensor]) -> list[Tensor]:
    return [x.float() for x in inputs]


# ---- chunks, token by token, native


def test_chunks_are_token_by_token_at_4096_tokens() -> None:
    sizes = [4096]
    inputs = draw(sizes, heads=(1, 2), k=16, v=16, strongest=0.1)
    with torch.no_grad():
        exact = delta.gated_delta_recurrent(*inputs[:5], borders(sizes), inputs[5], True)
        chunked = delta.gated_delta_chunked(*inputs[:5], borders(sizes), inputs[5], True)
        single = delta.gated_delta_recurrent(*singles(inputs[:5]), borders(sizes), inputs[5].float(), True)
        single_chunked = delta.gated_delta_chunked(*singles(inputs[:5]), borders(sizes), inputs[5].float(), True)
        native_one = delta.gated_delta(*singles(inputs[:5]), borders(sizes), inputs[5].float(), True)
    for i in (0, 1):
        assert float((chunked[i] - exact[i]).abs().max()) <= 1e-10
        for a, b in ((single_chunked, single), (native_one, single), (single_chunked, exact), (native_one, exact)):
            assert float((a[i] - b[i]).norm() / b[i].norm()) <= 5e-5


@given(sizes=lengths, shared=st.integers(1, 3), chunk=st.sampled_from([1, 2, 7, 64]), seed=st.integers(0, 99))
@settings(max_examples=12)
def test_chunks_are_token_by_token_with_gradients(sizes: list[int], shared: int, chunk: int, seed: int) -> None:
    inputs = draw(sizes, heads=(2, 2 * shared), seed=seed)
    expected = results(delta.gated_delta_recurrent, inputs, sizes)
    agree(results(delta.gated_delta_chunked, inputs, sizes, chunk=chunk), expected, 1e-10)


@kernels
@given(
    sizes=st.lists(st.sampled_from([0, 1, 2, 5, 31, 64, 65, 100, 330]), min_size=1, max_size=3).filter(any),
    key_heads=st.integers(1, 2),
    shared=st.integers(1, 3),
    k=st.sampled_from([3, 8, 16, 33, 64, 100]),
    v=st.sampled_from([1, 12, 32, 64, 70]),
    strongest=st.sampled_from([0.01, 3.0, 90.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_native_is_the_definition(
    sizes: list[int], key_heads: int, shared: int, k: int, v: int, strongest: float, seed: int
) -> None:
    inputs = draw(sizes, (key_heads, key_heads * shared), k, v, seed, strongest)
    # A lone token's gradients are sums of numbers much larger than they.
    agree(results(delta.gated_delta, singles(inputs), sizes), results(delta.gated_delta, inputs, sizes), 5e-6, 5e-5)


@kernels
@pytest.mark.parametrize("with_state", [False, True])
def test_native_gradients_of_either_output_alone(with_state: bool) -> None:
    sizes, inputs = [70, 3], draw([70, 3])
    for which in (0, 1):
        gradients = []
        for kind in (torch.float64, torch.float32):
            leaves = [x.detach().to(kind).requires_grad_() for x in inputs]
            outputs = delta.gated_delta(*leaves[:5], borders(sizes), leaves[5] if with_state else None, True)
            chosen = outputs[which]
            assert chosen is not None
            projected(chosen).backward()
            gradients.append([torch.zeros_like(x) if x.grad is None else x.grad for x in leaves])
        agree(gradients[1], gradients[0], 5e-6, 1e-6)


@kernels
def test_native_takes_parts_of_a_projection_as_they_lie() -> None:
    """q, k, v are slices of one matrix in the model; nothing else about them matters."""
    sizes, (q, k, v, g, beta, state) = [40, 66], singles(draw([40, 66], k=8, v=16))
    whole = torch.cat([x.flatten(1) for x in (q, k, v)], 1).requires_grad_()
    parts = [p.unflatten(1, x.shape[1:]) for p, x in zip(whole.split([16, 16, 64], 1), (q, k, v), strict=True)]
    out, last = delta.gated_delta(*parts, g, beta, borders(sizes), state, True)
    plain = [x.clone().requires_grad_() for x in (q, k, v)]
    expected, expected_last = delta.gated_delta(*plain, g, beta, borders(sizes), state, True)
    assert torch.equal(out, expected) and last is not None and expected_last is not None
    assert torch.equal(last, expected_last)
    for x in (out, expected):
        x.square().sum().backward()
    assert whole.grad is not None
    assert torch.equal(whole.grad, torch.cat([x.grad.flatten(1) for x in plain if x.grad is not None], 1))


@kernels
def test_native_results_do_not_depend_on_threads() -> None:
    sizes, threads = [100, 30], torch.get_num_threads()
    inputs, outcomes = singles(draw([100, 30], k=64, v=64)), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            outcomes.append(results(delta.gated_delta, inputs, sizes))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


@kernels
@given(sequences=st.integers(1, 5), shared=st.integers(1, 3), v=st.sampled_from([1, 16, 37]), first=st.booleans())
@settings(max_examples=10)
def test_native_step_of_one_token(sequences: int, shared: int, v: int, first: bool) -> None:
    sizes = [1] * sequences
    inputs = draw(sizes, (2, 2 * shared), 11, v, strongest=120.0)
    state = None if first else inputs[5]
    exact = delta.gated_delta_recurrent(*inputs[:5], borders(sizes), state, True)
    with torch.no_grad():
        got = delta.gated_delta(*singles(inputs[:5]), borders(sizes), None if state is None else state.float(), True)
    agree([x for x in got if x is not None], [x for x in exact if x is not None], 1e-6)


# ---- packing, splitting, borders


@given(sizes=lengths, seed=st.integers(0, 99))
@settings(max_examples=15)
def test_packed_is_one_at_a_time(sizes: list[int], seed: int) -> None:
    inputs = draw(sizes, seed=seed)
    x, past = inputs[2].flatten(1), inputs[5].flatten(1)[:, : 48 * 3].unflatten(1, (48, 3))
    weight = torch.arange(192.0, dtype=torch.float64).view(48, 4).sin()
    ends = borders(sizes).tolist()
    for wide in (True, False):
        tokens = inputs[:5] if wide else singles(inputs[:5])
        state = inputs[5].to(tokens[0].dtype)
        packed = delta.gated_delta(*tokens, borders(sizes), state, True)
        convolved = delta.causal_conv_silu(x, weight, borders(sizes), past, True)
        for r, (a, b) in enumerate(pairwise(ends)):
            alone = delta.gated_delta(*(t[a:b] for t in tokens), borders([b - a]), state[r : r + 1], True)
            conv_alone = delta.causal_conv_silu(x[a:b], weight, borders([b - a]), past[r : r + 1], True)
            for (out, last), (one, one_last) in ((packed, alone), (convolved, conv_alone)):
                assert last is not None and one_last is not None
                agree([out[a:b], last[r : r + 1]], [one, one_last], 1e-10 if wide else 1e-6)


@given(cuts=st.lists(st.integers(0, 150), max_size=6), single=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_pieces_that_carry_the_state_are_the_whole(cuts: list[int], single: bool, seed: int) -> None:
    inputs = draw([150], seed=seed)
    inputs = singles(inputs) if single else inputs
    x = inputs[2].flatten(1)
    weight = torch.arange(192.0, dtype=x.dtype).view(48, 4).sin()
    whole, last = delta.gated_delta(*inputs[:5], borders([150]), inputs[5], True)
    convolved, last_past = delta.causal_conv_silu(x, weight, borders([150]), None, True)
    state: Tensor | None = inputs[5]
    past, outputs, filtered = None, [], []
    ends = [0, *sorted(cuts), 150]
    for a, b in pairwise(ends):
        out, state = delta.gated_delta(*(t[a:b] for t in inputs[:5]), borders([b - a]), state, True)
        y, past = delta.causal_conv_silu(x[a:b], weight, borders([b - a]), past, True)
        outputs.append(out)
        filtered.append(y)
    assert state is not None and past is not None and last is not None and last_past is not None
    tolerance = 2e-6 if single else 1e-10
    agree([torch.cat(outputs), state, torch.cat(filtered), past], [whole, last, convolved, last_past], tolerance)


@kernels
@given(
    cuts=st.lists(st.integers(0, 70), max_size=6),
    k=st.sampled_from([3, 8, 16, 33]),
    v=st.sampled_from([1, 12, 32, 70]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_native_pieces_are_the_whole_to_the_last_bit(cuts: list[int], k: int, v: int, seed: int) -> None:
    """Generation, token by token behind a prompt, and training come to the same log-probabilities by this."""
    inputs = singles(draw([70], k=k, v=v, seed=seed))
    a, A_log, dt = inputs[3] * 3, inputs[3][0], inputs[4][0]

    def rule(begin: int, end: int, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        q, k, v, a_NH, b_NH = (x[begin:end] for x in (*inputs[:3], a, inputs[4]))
        gates = delta.decay(a_NH, A_log, dt), ops.sigmoid(b_NH)
        return delta.gated_delta(q, k, v, *gates, borders([end - begin]), state, True)

    with torch.no_grad():
        whole, last = rule(0, 70, None)
        outputs, state = [], None
        for begin, end in pairwise([0, *sorted({*cuts, 40, 41, 42}), 70]):
            if begin < end:
                out, state = rule(begin, end, state)
                outputs.append(out)
    assert state is not None and last is not None
    assert torch.equal(torch.cat(outputs), whole) and torch.equal(state, last)


def test_no_state_is_made_unless_asked(on: bool) -> None:
    q, k, v, g, beta, _ = singles(draw([5, 1]))
    assert delta.gated_delta(q, k, v, g, beta, borders([5, 1]))[1] is None
    assert delta.gated_delta(q[:2], k[:2], v[:2], g[:2], beta[:2], borders([1, 1]))[1] is None
    assert delta.causal_conv_silu(v.flatten(1), torch.ones(48, 4), borders([5, 1]))[1] is None


# ---- numerics


@pytest.mark.parametrize("strength", [0.0, 1e-30, 20.0, 1e4, 1e30])
def test_extreme_decays_stay_finite(strength: float, on: bool) -> None:
    sizes, inputs = [130, 1], draw([130, 1])
    inputs[3] = torch.where(inputs[3] < -0.3, -strength, inputs[3])
    inputs[4] = inputs[4].round()
    inputs[1][::5] = 0
    got = results(delta.gated_delta, singles(inputs), sizes)
    assert all(x.isfinite().all() for x in got)
    agree(got, results(delta.gated_delta_recurrent, inputs, sizes), 5e-6, 1e-6)


def test_one_strong_decay_costs_later_weak_ones_nothing(on: bool) -> None:
    """Differences of sums from the chunk's start would lose four digits here."""
    sizes, inputs = [64], draw([64], strongest=0.01)
    inputs[3][3] = -2000.0
    agree(results(delta.gated_delta, singles(inputs), sizes), results(delta.gated_delta_recurrent, inputs, sizes), 3e-6)


def test_gradients_are_those_of_finite_differences() -> None:
    sizes, check = [2, 1, 3], torch.autograd.gradcheck
    leaves = [x.requires_grad_() for x in draw(sizes, (1, 2), k=3, v=2)]
    for rule, rest in ((delta.gated_delta_recurrent, {}), (delta.gated_delta_chunked, {"chunk": 2})):
        check(lambda *x, rule=rule, rest=rest: rule(*x[:5], borders(sizes), x[5], True, **rest), leaves)
    x, weight, past = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((6, 2), (2, 4), (3, 2, 3)))
    check(lambda *x: delta.causal_conv_silu(x[0], x[1], borders(sizes), x[2], True), [x, weight, past])
    o, z, w = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 2, 5), (2, 2, 5), (5,)))
    check(lambda *x: delta.gated_rms_norm(*x, 1e-2), [o, z, w])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_low_precision_computes_in_float32(kind: torch.dtype) -> None:
    inputs = [x.to(kind) for x in draw([70])]
    out, last = delta.gated_delta(*inputs[:5], borders([70]), inputs[5], True)
    exact, exact_last = delta.gated_delta(*(x.float() for x in inputs[:5]), borders([70]), inputs[5].float(), True)
    assert out.dtype == kind and torch.equal(out, delta.gated_delta_chunked(*inputs[:5], borders([70]), inputs[5])[0])
    assert last is not None and exact_last is not None and last.dtype == torch.float32
    agree([out.float(), last], [exact.to(kind).float(), exact_last], 1e-3)


def test_autocast_lowers_nothing_inside() -> None:
    inputs = singles(draw([70]))
    exact = delta.gated_delta(*inputs[:5], borders([70]), inputs[5], True)
    with torch.autocast("cpu", torch.bfloat16):
        got = delta.gated_delta(*inputs[:5], borders([70]), inputs[5], True)
    agree([x for x in got if x is not None], [x for x in exact if x is not None], 1e-5)


def test_the_definition_runs_on_other_devices() -> None:
    """The meta device refuses what an accelerator would: tensors from two devices in one operation."""
    sizes = [70, 0, 3]
    inputs = [x.to("meta").requires_grad_() for x in draw(sizes)]
    x, weight, past = (torch.empty(s, device="meta", requires_grad=True) for s in ((73, 5), (5, 4), (3, 5, 3)))
    outputs = [
        *delta.gated_delta(*inputs[:5], borders(sizes), inputs[5], True),
        *delta.gated_delta_recurrent(*inputs[:5], borders(sizes), inputs[5], True),
        *delta.causal_conv_silu(x, weight, borders(sizes), past, True),
    ]
    assert [tuple(o.shape) for o in outputs if o is not None] == [
        (73, 4, 12), (3, 4, 8, 12), (73, 4, 12), (3, 4, 8, 12), (73, 5), (3, 5, 3),
    ]  # fmt: skip
    torch.stack([o.sum() for o in outputs if o is not None and o.dtype == torch.float64]).sum().backward()
    assert all(x.grad is not None and x.grad.device.type == "meta" for x in inputs)


# ---- convolution, norm, decay


@kernels
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any),
    channels=st.sampled_from([1, 7, 64, 300]),
    width=st.integers(1, 5),
    first=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_native_convolution(sizes: list[int], channels: int, width: int, first: bool, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    shapes = ((sum(sizes), channels), (channels, width), (len(sizes), channels, width - 1))
    inputs = [torch.randn(s, generator=g, dtype=torch.float64) * 2 for s in shapes]
    outcomes = []
    for kind in (torch.float64, torch.float32):
        leaves = [x.detach().to(kind).requires_grad_() for x in (inputs[:2] if first else inputs)]
        y, last = delta.causal_conv_silu(leaves[0], leaves[1], borders(sizes), None if first else leaves[2], True)
        assert last is not None
        (projected(y) + projected(last)).backward()
        outcomes.append([y.detach(), last.detach(), *(x.grad for x in leaves if x.grad is not None)])
    agree(outcomes[1], outcomes[0], 2e-6, 1e-5)


@kernels
@given(n=st.integers(1, 40), heads=st.integers(1, 3), v=st.sampled_from([1, 16, 37]), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_native_gated_norm(n: int, heads: int, v: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(s, generator=g, dtype=torch.float64) * 2 for s in ((n, heads, v), (n, heads, v), (v,))]
    outcomes = []
    for kind in (torch.float64, torch.float32):
        leaves = [x.detach().to(kind).requires_grad_() for x in inputs]
        y = delta.gated_rms_norm(*leaves, 1e-2)
        projected(y).backward()
        outcomes.append([y.detach(), *(x.grad for x in leaves if x.grad is not None)])
    agree(outcomes[1], outcomes[0], 2e-6, 1e-5)


def test_decay_is_never_growth() -> None:
    a, A_log, dt = torch.randn(50, 3, dtype=torch.bfloat16) * 9, torch.tensor([-5.0, 0.0, 2.7]), torch.randn(3)
    g = delta.decay(a, A_log, dt)
    assert g.dtype == torch.float32 and bool((g <= 0).all())
    expected = -A_log.double().exp() * torch.log1p((a.double() + dt.double()).exp())
    assert torch.allclose(g.double(), expected, rtol=1e-5, atol=1e-30)

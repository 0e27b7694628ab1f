"""The native kernels against the definitions in ops.py: values and every gradient, on sizes that leave remainders."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwill.model import native, native_losses, native_products, ops
from qwill.model.batch import Batch, plan_attention

pytestmark = pytest.mark.skipif(native.libraries() is None, reason="no C compiler: there are no native kernels to test")


def both(function: Callable[..., object], inputs: list[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """(outputs, gradients of a random projection of them) without and with the native kernels."""
    results = []
    for on in (False, True):
        ops.use_native(on)
        leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
        out = function(*leaves)
        outputs = [o for o in (out if isinstance(out, tuple) else (out,)) if isinstance(o, Tensor)]
        generator = torch.Generator().manual_seed(7)
        total = sum((o * torch.randn(o.shape, generator=generator)).sum() for o in outputs if o.requires_grad)
        total.backward()  # type: ignore[union-attr]
        results.append(([o.detach() for o in outputs], [x.grad for x in leaves if x.grad is not None]))
    ops.use_native(True)
    return results


def agree(results: list[tuple[list[Tensor], list[Tensor]]], tolerance: float = 2e-5, smallest: float = 1e-12) -> None:
    """`smallest`: absolute difference that rounding explains where a result is a difference of nearly equal numbers."""
    (out, grad), (native_out, native_grad) = results
    assert len(grad) == len(native_grad)
    for a, b in zip(out + grad, native_out + native_grad, strict=True):
        assert float((a - b).norm()) <= tolerance * float(a.norm()) + smallest


sizes = st.integers(1, 70)


@settings(deadline=None, max_examples=25)
@given(n=sizes, d=st.integers(1, 97), delta=st.booleans(), seed=st.integers(0, 99))
def test_add_rms_norm(n: int, d: int, delta: bool, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, d, generator=g), torch.randn(n, d, generator=g)
    w = 1 + torch.rand(d, generator=g)
    if delta:
        agree(both(lambda a, b, c: ops.add_rms_norm(a, b, c, 1e-3), [x, y, w]))
    else:
        agree(both(lambda a, c: ops.add_rms_norm(a, None, c, 1e-3), [x, w]))


@settings(deadline=None, max_examples=25)
@given(n=sizes, kv=st.integers(1, 3), group=st.integers(1, 3), half=st.integers(1, 33), seed=st.integers(0, 99))
def test_qk_norm_rope(n: int, kv: int, group: int, half: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    k = 2 * half
    qkv = torch.randn(n, (kv * group + 2 * kv) * k, generator=g)
    qw, kw = 1 + torch.rand(k, generator=g), 1 + torch.rand(k, generator=g)
    turned = 2 * (1 + seed % half)  # all of the head, or its first dimensions only
    rope = ops.rope_tables(torch.randint(0, 999, (n,), generator=g), turned, 1e4, torch.float32)
    agree(both(lambda a, b, c: ops.qk_norm_rope(a, b, c, rope, kv * group, kv, 1e-3), [qkv, qw, kw]))
    agree(both(lambda a: ops.qk_norm_rope(a, None, None, rope, kv * group, kv, 1e-3), [qkv]))


@settings(deadline=None, max_examples=25)
@given(n=sizes, f=st.integers(1, 97), seed=st.integers(0, 99), scale=st.sampled_from([1.0, 30.0, 200.0]))
def test_swiglu_also_far_out(n: int, f: int, seed: int, scale: float) -> None:
    x = torch.randn(n, 2 * f, generator=torch.Generator().manual_seed(seed)) * scale
    agree(both(ops.swiglu, [x]))


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 600), d=st.integers(1, 70), c=st.integers(1, 70), bias=st.booleans(), seed=st.integers(0, 99))
def test_linear(n: int, d: int, c: int, bias: bool, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, w, b = torch.randn(n, d, generator=g), torch.randn(c, d, generator=g), torch.randn(c, generator=g)
    agree(both(ops.linear, [x, w, b] if bias else [x, w]))


def test_linear_with_long_sums() -> None:
    """Gradients sum over more rows and columns than are taken at a time."""
    g = torch.Generator().manual_seed(0)
    agree(both(ops.linear, [torch.randn(2100, 40, generator=g), torch.randn(2500, 40, generator=g)]))


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    kv=st.integers(1, 3),
    group=st.integers(1, 6),
    k=st.sampled_from([16, 32, 48]),
    seed=st.integers(0, 99),
)
def test_attention(lengths: list[int], kv: int, group: int, k: int, seed: int) -> None:
    g, n = torch.Generator().manual_seed(seed), sum(lengths)
    q, keys, values = (torch.randn(n, heads, k, generator=g) for heads in (kv * group, kv, kv))
    plan = plan_attention(Batch.pack([[0] * length for length in lengths]), torch.float32)
    # Against the definition in float64, which runs no native kernel: the gradient of a lone token's query is 0, and in
    # float32 the definition has rounding there.
    wide = plan_attention(Batch.pack([[0] * length for length in lengths]), torch.float64)
    exact = both(lambda a, b, c: ops.attention(2 * a, b, c, wide), [q.double(), keys.double(), values.double()])[0]
    native_one = both(lambda a, b, c: ops.attention(2 * a, b, c, plan), [q, keys, values])[1]
    agree([exact, native_one], smallest=1e-6)


def test_the_gradient_of_a_very_long_sequence_is_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory must not grow with the square of the length on every thread; what is computed stays the same."""
    monkeypatch.setattr(native_products, "LONGEST", 8)
    plan = plan_attention(Batch.pack([[0] * 9, [0] * 4]), torch.float32)
    q, k, v = (torch.randn(13, heads, 16, generator=torch.Generator().manual_seed(heads)) for heads in (4, 2, 2))
    monkeypatch.setattr(native_products, "call", lambda *_: pytest.fail("the native kernel was called"))
    agree(both(lambda a, b, c: ops.attention(a, b, c, plan), [q, k, v]))


@settings(deadline=None, max_examples=25)
@given(n=sizes, experts=st.integers(1, 9), data=st.data(), renormalise=st.booleans(), seed=st.integers(0, 99))
def test_choose_experts(n: int, experts: int, data: st.DataObject, renormalise: bool, seed: int) -> None:
    k = data.draw(st.integers(1, experts))
    router = torch.randn(n, experts, generator=torch.Generator().manual_seed(seed)) * 3

    def by_expert(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        probability, weight, chosen = ops.choose_experts(x, k, renormalise)
        return probability, torch.zeros_like(x).scatter(1, chosen, weight), chosen.to(x.dtype)

    # In float64 as above: where the one expert there is is chosen, its weight is 1 whatever the router says.
    agree([both(by_expert, [router.double()])[0], both(by_expert, [router])[1]], smallest=1e-6)


@settings(deadline=None, max_examples=25)
@given(n=sizes, experts=st.integers(1, 7), data=st.data(), seed=st.integers(0, 99))
def test_experts_also_unused_ones(n: int, experts: int, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.integers(1, experts))
    g = torch.Generator().manual_seed(seed)
    x, d, f = torch.randn(n, 19, generator=g), 19, 13
    gate_up, down = torch.randn(experts, 2 * f, d, generator=g), torch.randn(experts, d, f, generator=g)
    weight = torch.rand(n, k, generator=g)
    used = data.draw(st.integers(k, experts))  # the experts from `used` on get no token
    chosen = torch.stack([torch.randperm(used, generator=g)[:k] for _ in range(n)])
    agree(both(lambda a, b, c, w: ops.experts(a, b, c, w, chosen), [x, gate_up, down, weight]))


@settings(deadline=None, max_examples=25)
@given(
    n=sizes,
    vocab=st.integers(2, 300),
    chunk=st.integers(1, 80),
    temperature=st.sampled_from([0.6, 1.0, 1.7]),
    seed=st.integers(0, 99),
)
def test_losses(n: int, vocab: int, chunk: int, temperature: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    hidden, head = torch.randn(n, 17, generator=g) * 3, torch.randn(vocab, 17, generator=g)
    targets = torch.randint(0, vocab, (n,), generator=g)
    weight = torch.randn(n, generator=g)  # signs as in a policy gradient
    warm = both(lambda a, b: ops.token_losses(a, b, targets, temperature, chunk), [hidden, head])
    agree(warm, smallest=1e-6)  # a loss near 0 is 1 − p with p near 1
    plain = torch.nn.functional.cross_entropy(hidden @ head.T / temperature, targets, reduction="none")
    assert torch.allclose(warm[1][0][0], plain, atol=1e-5, rtol=1e-5)
    results = both(lambda a, b: ops.cross_entropy(a, b, targets, weight, chunk), [hidden, head])
    plain = torch.nn.functional.cross_entropy(hidden @ head.T, targets, reduction="none")
    # The total may be a small rest of large terms of both signs: what its sum may lose goes by their size, not by its.
    totals = [out.pop(0) for out, _ in results]
    assert abs(float(totals[0] - totals[1])) <= 2e-6 * float((weight * plain).abs().sum()) + 1e-6
    agree(results, smallest=1e-6)  # a loss near 0 is 1 − p with p near 1
    assert torch.allclose(results[1][0][0], plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("most", [0, 1 << 20])
def test_logits_that_are_made_again_are_the_same(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept for the head's gradient or not, and with a head that has none: losses and gradients stay."""
    monkeypatch.setattr(native_losses, "KEPT", most)
    g = torch.Generator().manual_seed(3)
    hidden, head = torch.randn(90, 16, generator=g), torch.randn(70, 16, generator=g)
    targets = torch.randint(0, 70, (90,), generator=g)
    agree(both(lambda a, b: ops.token_losses(a, b, targets, 0.7, 40), [hidden, head]))
    agree(both(lambda a: ops.token_losses(a, head, targets, 0.7, 40), [hidden]))
    weight, given = torch.randn(90, generator=g), hidden.clone().requires_grad_()
    loss_N = ops.token_losses(given, head.requires_grad_(), targets)
    first = torch.autograd.grad((weight * loss_N).sum(), [given, head], retain_graph=True)
    second = torch.autograd.grad((2 * weight * loss_N).sum(), [given, head])
    assert all(torch.allclose(2 * a, b, rtol=1e-5, atol=1e-6) for a, b in zip(first, second, strict=True))


def test_passes_that_overlap_have_logits_of_their_own() -> None:
    """A second pass begins before the first one's gradients are made; a loss that is still held keeps no logits."""
    g = torch.Generator().manual_seed(4)
    head = torch.randn(50, 16, generator=g).requires_grad_()
    hidden = [torch.randn(n, 16, generator=g).requires_grad_() for n in (40, 30, 60)]
    targets = [torch.randint(0, 50, (len(h),), generator=g) for h in hidden]

    def gradients(loss_N: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((loss_N * torch.arange(len(h))).sum(), [h, head])

    alone = [gradients(ops.token_losses(h, head, t), h) for h, t in zip(hidden, targets, strict=True)]
    together = [ops.token_losses(h, head, t) for h, t in zip(hidden, targets, strict=True)]
    assert native_losses._room.user() is not None
    for one, loss_N, h in zip(alone, together, hidden, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, gradients(loss_N, h), strict=True))
    assert native_losses._room.user() is None


def test_memory_of_an_inference_serves_training() -> None:
    """What a thread's first pass makes is kept for all: autograd refuses to save tensors that inference mode made."""
    hidden, head = torch.randn(9, 5), torch.randn(11, 5).requires_grad_()
    targets = torch.randint(0, 11, (9,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_losses, "_room", native_losses._Room())
        with torch.inference_mode():
            without = ops.token_losses(hidden, head, targets)
        loss_N = ops.token_losses(hidden, head, targets)
        loss_N.sum().backward()
    assert torch.equal(without, loss_N) and head.grad is not None


def test_a_scaled_loss_scales_the_gradient() -> None:
    hidden, head = torch.randn(9, 5), torch.randn(11, 5)
    targets, weight = torch.randint(0, 11, (9,)), torch.rand(9)
    agree(both(lambda a, b: 3.5 * ops.cross_entropy(a, b, targets, weight)[0], [hidden, head]))


@pytest.mark.parametrize("bug", ["eps", "weight", "sign"])
def test_the_comparison_sees_small_bugs(bug: str) -> None:
    x, w = torch.randn(30, 20) * 0.1, 1 + torch.rand(20)
    wrong = {
        "eps": lambda a, c: ops.add_rms_norm(a, None, c, 1e-3 if a is x else 1.2e-3),
        "weight": lambda a, c: ops.add_rms_norm(a, None, c * 1.0001, 1e-3),
        "sign": lambda a, c: ops.add_rms_norm(-a, None, c, 1e-3),
    }[bug]
    good = both(lambda a, c: ops.add_rms_norm(a, None, c, 1e-3), [x, w])[0]
    with pytest.raises(AssertionError):
        agree([good, both(wrong, [x, w])[1]])

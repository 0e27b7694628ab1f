"""The native kernels against the definitions in ops.py: values and every gradient, on sizes that leave remainders."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwill.model import native, ops

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler: there are no native kernels to test")


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
    rope = ops.rope_tables(torch.randint(0, 999, (n,), generator=g), k, 1e4, torch.float32)
    agree(both(lambda a, b, c: ops.qk_norm_rope(a, b, c, rope, kv * group, kv, 1e-3), [qkv, qw, kw]))


@settings(deadline=None, max_examples=25)
@given(n=sizes, f=st.integers(1, 97), seed=st.integers(0, 99), scale=st.sampled_from([1.0, 30.0, 200.0]))
def test_swiglu_also_far_out(n: int, f: int, seed: int, scale: float) -> None:
    x = torch.randn(n, 2 * f, generator=torch.Generator().manual_seed(seed)) * scale
    agree(both(ops.swiglu, [x]))


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
@given(n=sizes, vocab=st.integers(2, 300), chunk=st.integers(1, 80), seed=st.integers(0, 99))
def test_cross_entropy(n: int, vocab: int, chunk: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    hidden, head = torch.randn(n, 17, generator=g) * 3, torch.randn(vocab, 17, generator=g)
    targets = torch.randint(0, vocab, (n,), generator=g)
    weight = torch.randn(n, generator=g)  # signs as in a policy gradient
    results = both(lambda a, b: ops.cross_entropy(a, b, targets, weight, chunk), [hidden, head])
    agree(results, smallest=1e-6)  # a loss near 0 is 1 − p with p near 1
    plain = torch.nn.functional.cross_entropy(hidden @ head.T, targets, reduction="none")
    assert torch.allclose(results[1][0][1], plain, atol=1e-5, rtol=1e-5)


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

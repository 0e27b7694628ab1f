"""Operations that have more than one definition in PyTorch: they are the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.model import ops


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 40), experts=st.integers(1, 7), data=st.data(), seed=st.integers(0, 99))
def test_grouped_experts_are_the_loop(kind: torch.dtype, n: int, experts: int, data: st.DataObject, seed: int) -> None:
    """What accelerators run, here on the CPU: values and every gradient, also of experts that nobody chose."""
    top_k = data.draw(st.integers(1, experts))
    g = torch.Generator().manual_seed(seed)
    chosen = torch.stack([torch.randperm(experts, generator=g)[:top_k] for _ in range(n)])
    inputs = [torch.randn(size, generator=g) for size in ((n, 16), (experts, 48, 16), (experts, 16, 24), (n, top_k))]
    results = []
    ops.use_native(False)
    for function, dtype in ((ops.experts, torch.float32), (ops.experts, kind), (ops.experts_grouped, kind)):
        leaves = [x.to(kind).to(dtype).requires_grad_() for x in inputs]
        out = function(*leaves, chosen)
        (out.float() * torch.arange(1.0, 17)).sum().backward()
        results.append([out.detach().float(), *(leaf.grad.float() for leaf in leaves if leaf.grad is not None)])
    ops.use_native(True)
    # In bfloat16 the grouped products may be as far from float32 as the loop in bfloat16 is, twice at most.
    tolerance = 2e-5 if kind == torch.float32 else 2e-2
    assert len(results[2]) == 5
    for truth, loop, grouped in zip(*results, strict=True):
        allowed = 2 * float((loop - truth).norm()) + tolerance * float(truth.norm()) + 1e-6
        assert float((grouped - truth).norm()) <= allowed

"""The loss over a large vocabulary: logits are never held whole, and how they are cut changes nothing."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qwill.model import native, native_losses, ops

VOCAB = 151_936
WIDTH, TOKENS, CHUNK = 2, 320, 16
LOGITS = TOKENS * VOCAB * 4  # bytes
BACKENDS = [False, pytest.param(True, marks=pytest.mark.skipif(native.libraries() is None, reason="no C compiler"))]


class Memory(TorchDispatchMode):
    """Bytes of all tensors made within it that are alive at once, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for t in made if isinstance(made, tuple | list) else (made,):
            if isinstance(t, Tensor):
                storage = t.untyped_storage()
                if (key := storage._cdata) not in self.known:
                    self.known.add(key)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, key, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return made

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def whole(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weight_N: Tensor, temperature: float) -> Tensor:
    logits = (hidden_ND @ head_VD.T) / temperature
    return (torch.nn.functional.cross_entropy(logits, targets_N, reduction="none") * weight_N).sum()


def inputs(n: int, vocab: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(n)
    hidden, head = (torch.randn(rows, width, generator=g, dtype=dtype).requires_grad_() for rows in (n, vocab))
    return hidden, head, torch.randint(0, vocab, (n,), generator=g), torch.rand(n, generator=g, dtype=dtype)


def known(hidden: Tensor, head: Tensor, targets: Tensor, weight: Tensor, chunk: int) -> Tensor:
    return ops.cross_entropy(hidden, head, targets, weight, chunk)[0]


def by_tokens(hidden: Tensor, head: Tensor, targets: Tensor, weight: Tensor, chunk: int) -> Tensor:
    return (ops.token_losses(hidden, head, targets, chunk=chunk) * weight).sum()


def peak(on: bool, chunk: int | None, one: Callable[..., Tensor] = known) -> int:
    hidden, head, targets, weight = inputs(TOKENS, VOCAB, WIDTH)
    ops.use_native(on)
    try:
        with Memory() as memory:
            if chunk is None:
                loss = whole(hidden, head, targets, weight, 1.0)
            else:
                loss = one(hidden, head, targets, weight, chunk)
            loss.backward()
    finally:
        ops.use_native(True)
    assert hidden.grad is not None and head.grad is not None
    return memory.peak


@pytest.mark.parametrize("on", BACKENDS)
@pytest.mark.parametrize("one", [known, by_tokens])
def test_logits_of_a_real_vocabulary_are_never_held_whole(
    on: bool, one: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_losses, "KEPT", TOKENS * VOCAB - 1)
    # A few copies of one chunk (1/20 of the logits each) and of the head's gradient.
    assert peak(on, CHUNK, one) < 0.5 * LOGITS


def test_the_measure_sees_logits_that_are_held_whole() -> None:
    """The seeded bug: one chunk that is everything, and the plain loss."""
    assert peak(False, TOKENS) > 1.9 * LOGITS and peak(False, None) > 1.9 * LOGITS


@settings(max_examples=40)
@given(
    n=st.integers(1, 40),
    vocab=st.integers(2, 60),
    chunk=st.integers(1, 50),
    temperature=st.sampled_from([0.7, 1.0, 1.6]),
)
def test_the_size_of_a_chunk_changes_nothing(n: int, vocab: int, chunk: int, temperature: float) -> None:
    hidden, head, targets, weight = inputs(n, vocab, 5, torch.float64)
    warm = whole(hidden, head, targets, weight, temperature)
    loss_N = ops.token_losses(hidden, head, targets, temperature, chunk)
    for a, b in zip(
        torch.autograd.grad((loss_N * weight).sum(), [hidden, head]),
        torch.autograd.grad(warm, [hidden, head]),
        strict=True,
    ):
        assert float((a - b).abs().max()) < 1e-12
    right = whole(hidden, head, targets, weight, 1.0)
    total, loss_N = ops.cross_entropy(hidden, head, targets, weight, chunk)
    assert float(total.detach()) == pytest.approx(float(right.detach()), rel=1e-12, abs=1e-14)
    assert float((loss_N * weight).sum().detach()) == pytest.approx(float(right.detach()), rel=1e-12, abs=1e-14)
    assert not loss_N.requires_grad
    for a, b in zip(
        torch.autograd.grad(total, [hidden, head]), torch.autograd.grad(right, [hidden, head]), strict=True
    ):
        assert float((a - b).abs().max()) < 1e-12

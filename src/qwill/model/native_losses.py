"""The head and the loss on it, forward and backward, from kernels: float32 on a CPU. Sums run in the order of `rows.h`,
as in generation.

Shape suffixes as in transformer.py; M are the tokens of a chunk.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qwill.model.native_library import call, threads
from qwill.model.native_products import outer, padded, starts_of

CHUNK = 512  # tokens whose logits are made at a time, at most
KEPT = 1 << 26  # logits that a forward pass keeps at most (256 MiB); of more it makes the gradient's again


class _Head:
    """The head's weights, laid out for logits and, with `turned`, for the gradients of hidden states."""

    def __init__(self, head_VD: Tensor, turned: bool) -> None:
        self.vocab, self.width = head_VD.shape
        self.packed = head_VD.new_empty(padded(self.vocab) * self.width)
        call("pack_weights", head_VD, 1, self.vocab, self.width, self.width, 1, self.packed, threads())
        if turned:
            self.turned = head_VD.new_empty(padded(self.width) * self.vocab)
            call("pack_weights", head_VD, 1, self.width, self.vocab, 1, self.width, self.turned, threads())

    def losses(
        self,
        hidden_MD: Tensor,
        targets_M: Tensor,
        weight_M: Tensor,
        temperature: float,
        gradient: bool,
        logits_MV: Tensor,
        loss_M: Tensor,
        entropy_M: Tensor | None = None,
    ) -> None:
        """Fills `loss_M`, and `logits_MV` with logits or the gradient of Σ weight·loss by them."""
        rows = len(hidden_MD)
        call(
            "products", hidden_MD, starts_of(rows), 1, self.width, self.packed, self.vocab, None, 0, logits_MV,
            threads(),
        )  # fmt: skip
        call(
            "softmax_cross_entropy", logits_MV, targets_M, weight_M, temperature, rows, self.vocab, loss_M, entropy_M,
            gradient, threads(),
        )  # fmt: skip

    def back(self, d_logits_MV: Tensor, d_hidden_MD: Tensor) -> None:
        start = starts_of(len(d_logits_MV))
        call("products", d_logits_MV, start, 1, self.vocab, self.turned, self.width, None, 1, d_hidden_MD, threads())


class _Room(threading.local):
    """Memory for logits that this thread's next pass has again. Fresh memory of such a size comes from the system page
    by page and cleared, which takes a good part of the time that it takes to fill it."""

    def __init__(self) -> None:
        self.memory = torch.empty(0)
        self.user: Callable[[], Tensor | None] = lambda: None

    def take(self, rows: int, columns: int) -> Tensor:
        """[rows, columns], the room's while the result is alive, or new while another one is."""
        # Memory that inference mode made could not be saved by a later pass with gradients.
        with torch.inference_mode(False):
            if self.user() is not None:
                return torch.empty(rows, columns)
            if len(self.memory) < rows * columns:
                self.memory = torch.empty(0)  # gone before there is more
                self.memory = torch.empty(rows * columns)
            taken = self.memory[: rows * columns].view(rows, columns)
        self.user = weakref.ref(taken)
        return taken


_room = _Room()


def _parts(n: int, chunk: int) -> list[slice]:
    return [slice(i, min(i + chunk, n)) for i in range(0, n, chunk)]


class _CrossEntropy(torch.autograd.Function):
    """Gradients are made chunk by chunk while the logits are in hand, so that no logits outlive their chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weight_N: Tensor, chunk: int, gradient: bool
    ) -> tuple[Tensor, Tensor]:
        hidden_ND, weight_N, head_VD = hidden_ND.contiguous(), weight_N.contiguous(), head_VD.contiguous()
        targets_N, n = targets_N.contiguous(), len(hidden_ND)
        loss_N = hidden_ND.new_empty(n)
        d_hidden = torch.empty_like(hidden_ND) if gradient else None
        d_head = torch.zeros_like(head_VD) if gradient and ctx.needs_input_grad[1] else None
        head, buffer = _Head(head_VD, gradient), _room.take(min(chunk, n), len(head_VD))
        for part in _parts(n, chunk):
            logits = buffer[: part.stop - part.start]
            head.losses(hidden_ND[part], targets_N[part], weight_N[part], 1.0, gradient, logits, loss_N[part])
            if d_hidden is not None:
                head.back(logits, d_hidden[part])
            if d_head is not None:
                outer(logits, hidden_ND[part], starts_of(len(logits)), d_head, add=True)
        ctx.save_for_backward(d_hidden, d_head)
        ctx.mark_non_differentiable(loss_N)
        return (loss_N * weight_N).sum(), loss_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor, _: Tensor) -> tuple[Any, ...]:
        d_hidden, d_head = ctx.saved_tensors
        if float(d_total) != 1.0:
            d_hidden, d_head = d_hidden * d_total, None if d_head is None else d_head * d_total
        return d_hidden, d_head, *[None] * 4


def cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weight_N: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    return _CrossEntropy.apply(hidden_ND, head_VD, targets_N, weight_N, min(chunk, CHUNK), torch.is_grad_enabled())


class _TokenLosses(torch.autograd.Function):
    """The gradient by a token's hidden state is made in the forward pass, but for the factor that the backward pass
    brings. The head's wants the factors first: gradients by the logits are kept for it if few, or made again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        targets_N: Tensor,
        temperature: float,
        chunk: int,
        gradient: bool,
        entropy_N: Tensor | None,
    ) -> Tensor:
        hidden_ND, head_VD, targets_N = hidden_ND.contiguous(), head_VD.contiguous(), targets_N.contiguous()
        n, vocab = len(hidden_ND), len(head_VD)
        loss_N, one_N = hidden_ND.new_empty(n), hidden_ND.new_ones(n)
        d_hidden = torch.empty_like(hidden_ND) if gradient else None
        trained = gradient and ctx.needs_input_grad[1]
        kept = trained and n * vocab <= KEPT
        head, buffer = _Head(head_VD, gradient), _room.take(n if kept else min(chunk, n), vocab)
        for part in _parts(n, chunk):
            logits = buffer[part] if kept else buffer[: part.stop - part.start]
            entropy_M = None if entropy_N is None else entropy_N[part]
            given = hidden_ND[part], targets_N[part], one_N[part], temperature, gradient
            head.losses(*given, logits, loss_N[part], entropy_M)
            if d_hidden is not None:
                head.back(logits, d_hidden[part])
        # Saved like the rest, the logits are given up with the backward pass, though somebody still holds the loss.
        ctx.save_for_backward(
            d_hidden, *((hidden_ND, head_VD, targets_N, buffer if kept else None) if trained else ())
        )
        ctx.temperature, ctx.chunk = temperature, chunk
        return loss_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss_N: Tensor) -> tuple[Any, ...]:
        d_hidden, *saved = ctx.saved_tensors
        d_head = None
        if saved:
            hidden_ND, head_VD, targets_N, d_logits = saved
            n, weighted_ND = len(hidden_ND), d_loss_N[:, None] * hidden_ND
            d_head = torch.empty_like(head_VD)
            if d_logits is not None:
                outer(d_logits, weighted_ND, starts_of(n), d_head)
            else:
                head, loss_N, one_N = _Head(head_VD, False), hidden_ND.new_empty(n), hidden_ND.new_ones(n)
                buffer = _room.take(min(ctx.chunk, n), len(head_VD))
                for part in _parts(n, ctx.chunk):
                    logits = buffer[: part.stop - part.start]
                    given = hidden_ND[part], targets_N[part], one_N[part], ctx.temperature, True
                    head.losses(*given, logits, loss_N[part])
                    outer(logits, weighted_ND[part], starts_of(len(logits)), d_head, add=part.start > 0)
        return d_loss_N[:, None] * d_hidden, d_head, *[None] * 5


def token_losses(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, temperature: float, chunk: int, entropy_N: Tensor | None
) -> Tensor:
    gradient, chunk = torch.is_grad_enabled(), min(chunk, CHUNK)
    return _TokenLosses.apply(hidden_ND, head_VD, targets_N, float(temperature), chunk, gradient, entropy_N)

"""Collectives that gradients flow through. Each is a linear map; its backward pass is the transposed one.

`group` None means that this rank is alone: nothing is sent. Tensors may differ in their number of rows from rank to
rank where a function says so.

Shape suffixes: N this rank's tokens, M rows received.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

BUCKET = 1 << 25  # numbers that are summed at a time


def all_sum(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum over all ranks, in place; has no gradient."""
    if group is not None:
        dist.all_reduce(x, group=group)
    return x


def sum_in_place(tensors: Sequence[Tensor], group: ProcessGroup | None) -> None:
    """Each tensor becomes the sum over all ranks, which have the same shapes; some tens of megabytes at a time."""
    waiting: dict[torch.dtype, list[Tensor]] = {}
    for x in tensors if group is not None else ():
        waiting.setdefault(x.dtype, []).append(x)
    for same in waiting.values():
        while same:
            bucket = [same.pop(0)]
            while same and sum(x.numel() for x in bucket) + same[0].numel() <= BUCKET:
                bucket.append(same.pop(0))
            flat = all_sum(torch.cat([x.flatten() for x in bucket]), group)
            for x, part in zip(bucket, flat.split([x.numel() for x in bucket]), strict=True):
                x.copy_(part.view_as(x))


def to_all(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """x itself, before every rank computes its own share from it: gradients of the shares are summed (Megatron's f)."""
    return x if group is None else _ToAll.apply(x, group)  # type: ignore[no-any-return,no-untyped-call]


def sum_of_all(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """Σ over ranks of their shares; every rank goes on with the same sum (Megatron's g)."""
    return x if group is None else _SumOfAll.apply(x, group)  # type: ignore[no-any-return,no-untyped-call]


def gather_rows(x: Tensor, rows: Sequence[int], group: ProcessGroup | None) -> Tensor:
    """All ranks' rows end to end; `rows` says how many each has. Backward: each row's gradients summed at its owner."""
    return x if group is None else _GatherRows.apply(x, tuple(rows), group)  # type: ignore[no-any-return,no-untyped-call]


def exchange(x: Tensor, send: Sequence[int], receive: Sequence[int], group: ProcessGroup | None) -> Tensor:
    """Rows to their ranks: the first send[0] of x to rank 0, and so on; the result has receive[0] rows of rank 0, …"""
    return x if group is None else _Exchange.apply(x, tuple(send), tuple(receive), group)  # type: ignore[no-any-return,no-untyped-call]


def exchange_rows(x: Tensor, send: Sequence[int], receive: Sequence[int], group: ProcessGroup) -> Tensor:
    """`exchange` without a gradient."""
    out = x.new_empty(sum(receive), *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), list(receive), list(send), group=group)
    return out


class _ToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return all_sum(grad.clone(memory_format=torch.contiguous_format), ctx.group), None


class _SumOfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        return all_sum(x.clone(memory_format=torch.contiguous_format), group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad, None


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: tuple[int, ...], group: ProcessGroup) -> Tensor:
        ctx.rows, ctx.group = rows, group
        # The whole goes to each rank: all-to-all with equal content takes uneven rows, which all-gather does not.
        here = len(x)
        return exchange_rows(x.repeat(len(rows), *(1,) * (x.ndim - 1)), [here] * len(rows), rows, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        here = ctx.rows[dist.get_rank(ctx.group)]
        parts = exchange_rows(grad, ctx.rows, [here] * len(ctx.rows), ctx.group)
        return parts.view(len(ctx.rows), here, *grad.shape[1:]).sum(0), None, None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, send: tuple[int, ...], receive: tuple[int, ...], group: ProcessGroup) -> Tensor:
        ctx.send, ctx.receive, ctx.group = send, receive, group
        return exchange_rows(x, send, receive, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return exchange_rows(grad, ctx.receive, ctx.send, ctx.group), None, None, None

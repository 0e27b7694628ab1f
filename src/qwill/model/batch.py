"""A packed batch: sequences end to end, without padding, and how attention sees their borders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwill.model.shared import WORTH, Shared, share_beginnings


@dataclass
class Batch:
    """Sequences laid end to end.

    tokens_N: int64 token ids. positions_N: int64, each token's place in its own sequence.
    cu_seqlens: int32 [sequences + 1] on the CPU, where each sequence starts and ends (FlashAttention's convention).
    row_length: how the loader cut its rows; a hint that saves attention copies and never changes a result.
    experts_NLk: whole numbers, the experts that each token shall go through in each sparse layer; None: those that the
    routers choose.
    shared: how the tokens make up the sequences where common beginnings are held once; None: one after the other.
    """

    tokens_N: Tensor
    positions_N: Tensor
    cu_seqlens: Tensor
    row_length: int | None = None
    experts_NLk: Tensor | None = None
    shared: Shared | None = None

    @classmethod
    def pack(cls, sequences: Sequence[Tensor | Sequence[int]], starts: Sequence[int] | None = None) -> Batch:
        """Pack 1-D id sequences; `starts` gives the position of each one's first token (tokens already cached)."""
        parts = [torch.as_tensor(s, dtype=torch.int64) for s in sequences]
        lengths = torch.tensor([0, *(len(p) for p in parts)], dtype=torch.int32)
        offsets = starts if starts is not None else [0] * len(parts)
        positions = [torch.arange(o, o + len(p)) for o, p in zip(offsets, parts, strict=True)]
        device = parts[0].device
        return cls(torch.cat(parts), torch.cat(positions).to(device), lengths.cumsum(0, dtype=torch.int32))

    @classmethod
    def rows(cls, tokens_BT: Tensor) -> Batch:
        """Every row is one sequence of the same length."""
        b, t = tokens_BT.shape
        positions = torch.arange(t, device=tokens_BT.device).repeat(b)
        return cls(tokens_BT.reshape(-1), positions, torch.arange(0, b * t + 1, t, dtype=torch.int32), row_length=t)

    @classmethod
    def share(cls, sequences: Sequence[Sequence[int]]) -> Batch:
        """Sequences packed with each common beginning held once: a prompt behind which there are many replies goes
        through the model's matrices one time. What a token computes depends only on the tokens before it, so hidden
        states are the same; those of a sequence's places are at `rows_at`. Where next to nothing is in common, such as
        a template's first words, sequences are packed as they are."""
        tokens_N, positions_N, shared = share_beginnings(sequences)
        lengths = torch.tensor([0, *map(len, sequences)], dtype=torch.int32)
        if len(tokens_N) * WORTH > int(lengths.sum()) * (WORTH - 1):
            return cls.pack(sequences)
        return cls(tokens_N, positions_N, lengths.cumsum(0, dtype=torch.int32), shared=shared)

    def rows_at(self, place_M: Tensor) -> Tensor:
        """The token at each of these places of the sequences end to end."""
        return place_M if self.shared is None else self.shared.token_L[place_M]

    @property
    def places(self) -> int:
        """Tokens of all sequences, those that are held once counted for each."""
        return int(self.cu_seqlens[-1])

    @property
    def lengths(self) -> Tensor:
        return self.cu_seqlens[1:] - self.cu_seqlens[:-1]

    def to(self, device: torch.device | str) -> Batch:
        experts_NLk = None if self.experts_NLk is None else self.experts_NLk.to(device)
        shared = None if self.shared is None else self.shared.to(device)
        return Batch(
            self.tokens_N.to(device), self.positions_N.to(device), self.cu_seqlens, self.row_length, experts_NLk, shared
        )


@dataclass
class AttentionPlan:
    """How packed tokens become rows of queries and keys; made once a forward pass, shared by all layers.

    `cu_seqlens` and `shared` are the batch's, `longest` is its longest sequence.

    Sequences are laid in order into `rows` rows of `width` tokens, none across two rows. `place_N` is each token's
    place in that layout (None when it is already the tokens' own order). `mask_R1TS` is additive (0 or −inf); None
    when every row is one full sequence, for which plain causal attention says it all.
    """

    width: int
    rows: int
    place_N: Tensor | None
    mask_R1TS: Tensor | None
    cu_seqlens: Tensor
    longest: int
    shared: Shared | None = None


def plan_attention(batch: Batch, dtype: torch.dtype, masked: bool = True) -> AttentionPlan:
    """The plan of a batch; without rows and mask if not `masked` (a cache has its own)."""
    lengths = batch.lengths.tolist()
    n, longest = sum(lengths), max(lengths)
    if min(lengths) == longest or not masked:
        return AttentionPlan(longest, len(lengths), None, None, batch.cu_seqlens, longest, batch.shared)
    width = max(longest, batch.row_length or 0)
    starts, end = [], 0
    for length in lengths:
        room = width - end % width
        start = end if length <= room else end + room
        starts.append(start)
        end = start + length
    rows = -(-end // width)
    device = batch.tokens_N.device
    length_R = batch.lengths.long()
    sequence_N = torch.repeat_interleave(torch.arange(len(lengths)), length_R)
    shift_R = torch.tensor(starts) - batch.cu_seqlens[:-1].long()
    place_N = torch.arange(n) + shift_R[sequence_N]
    sequence_RT = torch.full((rows * width,), -1).index_copy_(0, place_N, sequence_N).view(rows, width)
    index_T = torch.arange(width)
    allowed_RTS = (sequence_RT[:, :, None] == sequence_RT[:, None, :]) & (index_T[:, None] >= index_T[None, :])
    mask = torch.zeros(allowed_RTS.shape, dtype=dtype).masked_fill_(~allowed_RTS, float("-inf"))[:, None].to(device)
    in_order = rows * width == n
    place = None if in_order else place_N.to(device)
    return AttentionPlan(width, rows, place, mask, batch.cu_seqlens, longest, batch.shared)

"""Context parallelism: the tokens of a sequence over several ranks; queries stay, keys and values are gathered, and a
Gated DeltaNet gathers tokens and cuts heads.

A packed batch is cut into 2·ranks chunks, and rank r takes chunks r and 2·ranks − 1 − r: causal attention costs as much
on every rank (Llama 3, arXiv 2407.21783 §3.3.2). Everything else in the model works on single tokens.

Shape suffixes as in model/transformer.py: N this rank's tokens, S all tokens, R ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.functional import scaled_dot_product_attention

from qwill.model import delta, ops
from qwill.model.batch import AttentionPlan, Batch
from qwill.model.cache import KVCache
from qwill.model.transformer import GatedDeltaNet
from qwill.train.collectives import exchange, gather_rows

BLOCK = 256  # queries at a time; the mask is BLOCK × keys


@dataclass
class ContextBatch(Batch):
    """One rank's tokens of a packed batch. `whole` are the whole batch's cu_seqlens, `chunks` the (first, last + 1) of
    all chunks in the order in which ranks hold them, `held` how many tokens each rank has."""

    whole: list[int] = field(default_factory=list)
    chunks: list[tuple[int, int]] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    rank: int = 0


def chunks_of(tokens: int, ranks: int) -> list[tuple[int, int]]:
    """The chunks of rank 0, then those of rank 1, …; two each, as even as `tokens` allows."""
    edge = [tokens * i // (2 * ranks) for i in range(2 * ranks + 1)]
    every = list(pairwise(edge))
    return [c for r in range(ranks) for c in (every[r], every[2 * ranks - 1 - r])]


def take(x: Tensor, chunks: list[tuple[int, int]], rank: int) -> Tensor:
    """Rank `rank`'s rows of x."""
    return torch.cat([x[a:b] for a, b in chunks[2 * rank : 2 * rank + 2]])


def context_batch(batch: Batch, ranks: int, rank: int) -> ContextBatch:
    """The tokens of one rank; positions stay what they are in the sequence."""
    chunks = chunks_of(len(batch.tokens_N), ranks)
    held = [sum(b - a for a, b in chunks[2 * r : 2 * r + 2]) for r in range(ranks)]
    return ContextBatch(
        take(batch.tokens_N, chunks, rank), take(batch.positions_N, chunks, rank),
        torch.tensor([0, held[rank]], dtype=torch.int32),
        experts_NLk=None if batch.experts_NLk is None else take(batch.experts_NLk, chunks, rank),
        whole=batch.cu_seqlens.tolist(), chunks=chunks, held=held, rank=rank,
    )  # fmt: skip


class ContextAttention:
    """Stands where a key/value cache stands: it attends to keys and values of all ranks."""

    def __init__(self, group: ProcessGroup | None) -> None:
        self.group = group

    def begin(self, batch: Batch) -> None:
        assert isinstance(batch, ContextBatch)
        self.held, self.pieces = batch.held, _pieces(batch)
        self.order_S = torch.cat([torch.arange(a, b) for a, b in batch.chunks]).to(batch.tokens_N.device)
        self.place_S = torch.argsort(self.order_S)
        self.cu_seqlens, self.rank = torch.tensor(batch.whole, dtype=torch.int32), batch.rank
        self.mask_TS: Tensor | None = None

    def attend(self, layer: int, q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor) -> Tensor:
        kv = gather_rows(torch.cat([k_NHK, v_NHK], dim=1), self.held, self.group)[self.place_S]
        k_SHK, v_SHK = kv.chunk(2, dim=1)
        if self.mask_TS is None:
            self.mask_TS = self._mask(q_NHK)
        out = []
        for i, j, a, b in self.pieces:
            # The last row and column of a piece's mask are those of the whole: the last query sees all keys.
            mask_TS = None if j - i == b - a else self.mask_TS[BLOCK - (j - i) :, self.mask_TS.shape[1] - (b - a) :]
            out.append(_attend(q_NHK[i:j], k_SHK[a:b], v_SHK[a:b], mask_TS))
        return torch.cat(out).flatten(1)

    def to_heads(self, x_NRC: Tensor) -> Tensor:
        """From one's own tokens of all ranks' columns to all tokens of one's own columns, in the sequence's order."""
        n, ranks, _ = x_NRC.shape
        return exchange(x_NRC.transpose(0, 1).flatten(0, 1), [n] * ranks, self.held, self.group)[self.place_S]

    def to_tokens(self, x_SC: Tensor) -> Tensor:
        """Back: one's own tokens, with the columns of all ranks side by side."""
        n, ranks = self.held[self.rank], len(self.held)
        rows = exchange(x_SC[self.order_S], self.held, [n] * ranks, self.group)
        return rows.view(ranks, n, -1).transpose(0, 1).flatten(1)

    def _mask(self, q_NHK: Tensor) -> Tensor:
        """Additive, for BLOCK queries of which each sees one key more than the one before, and the last all; made once
        a forward pass: every piece takes a corner of it."""
        keys = max(BLOCK, *(b - a for _, _, a, b in self.pieces))
        return q_NHK.new_full((BLOCK, keys), float("-inf")).triu_(keys - BLOCK + 1)


class ContextDeltaNet(GatedDeltaNet):
    """A Gated DeltaNet walks through a sequence in one piece, but each head for itself: every rank takes some heads
    through all tokens (as DeepSpeed-Ulysses does attention, arXiv 2309.14509)."""

    def forward(self, x_ND: Tensor, plan: AttentionPlan, cache: KVCache | None, layer: int) -> Tensor:
        if not isinstance(cache, ContextAttention):
            return super().forward(x_ND, plan, cache, layer)
        ranks, rank = len(cache.held), cache.rank
        qkv_NC, z_NC, b_NH, a_NH = self.in_proj(x_ND).split(self.widths, dim=1)
        columns = [x.unflatten(1, (ranks, -1)) for x in (*qkv_NC.split(self.conv_widths, dim=1), b_NH, a_NH)]
        own = cache.to_heads(torch.cat(columns, dim=2)).split([x.shape[2] for x in columns], dim=1)
        conv_CW = torch.cat([w.chunk(ranks)[rank] for w in self.conv1d[:, 0].split(self.conv_widths)])
        qkv_SC, _ = delta.causal_conv_silu(torch.cat(own[:3], dim=1), conv_CW, cache.cu_seqlens, None, False)
        q_SC, k_SC, v_SC = qkv_SC.split([x.shape[1] for x in own[:3]], dim=1)
        o_SHV, _ = delta.gated_delta(
            q_SC.unflatten(1, (self.key_heads // ranks, -1)),
            k_SC.unflatten(1, (self.key_heads // ranks, -1)),
            v_SC.unflatten(1, (self.heads // ranks, -1)),
            delta.decay(own[4], self.A_log.chunk(ranks)[rank], self.dt_bias.chunk(ranks)[rank]),
            ops.sigmoid(own[3]),
            cache.cu_seqlens,
            None,
            False,
        )
        o_NHV = cache.to_tokens(o_SHV.flatten(1)).unflatten(1, (self.heads, -1))
        gated_NHV = delta.gated_rms_norm(o_NHV, z_NC.view_as(o_NHV), self.norm.weight, self.norm.eps)
        return self.out_proj(gated_NHV.flatten(1))


def _pieces(batch: ContextBatch) -> list[tuple[int, int, int, int]]:
    """(first query, last + 1) among this rank's tokens and (first key, last + 1) among all: the last query sees all
    these keys, each one before it one key less."""
    out, start = [], 0
    for first, last in batch.chunks[2 * batch.rank : 2 * batch.rank + 2]:
        for a, b in pairwise(batch.whole):
            for i in range(max(a, first), min(b, last), BLOCK):
                j = min(i + BLOCK, b, last)
                out.append((start + i - first, start + j - first, a, j))
        start += last - first
    return out


def _attend(q_THK: Tensor, k_SHK: Tensor, v_SHK: Tensor, mask_TS: Tensor | None) -> Tensor:
    q_1HTK, k_1HSK, v_1HSK = (x.transpose(0, 1)[None] for x in (q_THK, k_SHK, v_SHK))
    grouped = q_THK.shape[1] != k_SHK.shape[1]
    out_1HTK = scaled_dot_product_attention(
        q_1HTK, k_1HSK, v_1HSK, attn_mask=mask_TS, is_causal=mask_TS is None, enable_gqa=grouped
    )
    return out_1HTK[0].transpose(0, 1)

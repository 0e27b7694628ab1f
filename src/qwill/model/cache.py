"""The key/value cache: a fixed number of slots, one sequence a slot.

A `Batch` given together with a cache holds, for each selected slot in order, that sequence's *new* tokens; attention
sees everything cached for the slot, and the new tokens are appended.

Shape suffixes as in transformer.py; R is the number of selected slots (sequences), J = T·(H/Hkv): query heads that
share a key head are folded into query positions, so grouped-query attention reads each cached key once, copying none.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from qwill.base.errors import ModelError
from qwill.model.batch import Batch
from qwill.model.config import ModelConfig


class KVCache:
    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (slots, config.num_key_value_heads, capacity, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.lengths = torch.zeros(slots, dtype=torch.int64)
        self.slots, self.capacity = slots, capacity
        self.selected: Tensor | None = None
        self.group = config.num_attention_heads // config.num_key_value_heads

    def select(self, slots: Tensor | list[int] | int) -> KVCache:
        """Choose which slots the next batches' sequences are, in order; an int n means the first n (no copies)."""
        if isinstance(slots, int):
            self.selected, self.count = None, slots
        else:
            self.selected, self.count = torch.as_tensor(slots, dtype=torch.int64), len(slots)
        return self

    def copy(self, source: int, targets: list[int], length: int) -> None:
        """Give the slots `targets` the first `length` tokens of slot `source` (a shared prompt)."""
        index = torch.tensor(targets)
        for store in (*self.keys, *self.values):
            store[index, :, :length] = store[source, :, :length]
        self.lengths[index] = length

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Move whole sequences to other slots (compaction); `sources` are free afterwards."""
        longest = int(self.lengths[sources].max())
        for store in (*self.keys, *self.values):
            store[targets, :, :longest] = store[sources, :, :longest]
        self.lengths[targets] = self.lengths[sources]
        self.lengths[sources] = 0

    def free(self, slots: list[int]) -> None:
        self.lengths[slots] = 0

    def begin(self, batch: Batch) -> None:
        """Work out once a forward pass, for all layers, where new keys go and what each query may see."""
        new_R = batch.lengths.long()
        if len(new_R) != self.count:
            raise ModelError(f"the batch holds {len(new_R)} sequences, but {self.count} cache slots are selected")
        old_R = self.lengths[: self.count] if self.selected is None else self.lengths[self.selected]
        total_R = old_R + new_R
        self.span = int(total_R.max())
        if self.span > self.capacity:
            raise ModelError(
                f"a sequence of {self.span} tokens does not fit the key/value cache of {self.capacity} tokens"
            )
        device = self.keys[0].device
        slots_R = torch.arange(self.count) if self.selected is None else self.selected
        self.new_R, self.total_R = new_R, total_R
        self.width = int(new_R.max())
        self.single = self.width == 1
        row_N = torch.repeat_interleave(torch.arange(self.count), new_R)
        within_N = torch.arange(int(new_R.sum())) - (batch.cu_seqlens[:-1].long())[row_N]
        place_N = old_R[row_N] + within_N
        self.slot_N, self.place_N = slots_R[row_N].to(device), place_N.to(device)
        self.row_N, self.within_N = row_N.to(device), within_N.to(device)
        key_S = torch.arange(self.span)
        last_RT = old_R[:, None] + torch.arange(self.width)[None, :]
        seen_RTS = key_S[None, None, :] <= torch.minimum(last_RT, total_R[:, None] - 1)[:, :, None]
        mask = torch.zeros(seen_RTS.shape, dtype=self.keys[0].dtype).masked_fill_(~seen_RTS, float("-inf"))
        self.uniform = self.single and bool((total_R == self.span).all())
        self.mask_R1JS = None if self.uniform else mask.repeat(1, self.group, 1)[:, None].to(device)

    def attend(self, layer: int, q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor) -> Tensor:
        """Append this layer's new keys and values, attend, and return out_NC (heads concatenated)."""
        keys, values = self.keys[layer], self.values[layer]
        keys[self.slot_N, :, self.place_N] = k_NHK
        values[self.slot_N, :, self.place_N] = v_NHK
        if self.selected is None:
            k_RHSK, v_RHSK = keys[: self.count, :, : self.span], values[: self.count, :, : self.span]
        else:
            k_RHSK, v_RHSK = keys[self.selected, :, : self.span], values[self.selected, :, : self.span]
        n, heads, head_dim = q_NHK.shape
        kv_heads = heads // self.group
        if self.single:
            q_RHJK = q_NHK.view(n, kv_heads, self.group, head_dim)
            out = scaled_dot_product_attention(q_RHJK, k_RHSK, v_RHSK, attn_mask=self.mask_R1JS)
            return out.reshape(n, heads * head_dim)
        q_RTHK = q_NHK.new_zeros(self.count, self.width, heads, head_dim)
        q_RTHK[self.row_N, self.within_N] = q_NHK
        q_RHJK = q_RTHK.view(self.count, self.width, kv_heads, self.group, head_dim).permute(0, 2, 3, 1, 4)
        q_RHJK = q_RHJK.reshape(self.count, kv_heads, self.group * self.width, head_dim)
        out = scaled_dot_product_attention(q_RHJK, k_RHSK, v_RHSK, attn_mask=self.mask_R1JS)
        out = out.view(self.count, kv_heads, self.group, self.width, head_dim).permute(0, 3, 1, 2, 4)
        return out[self.row_N, self.within_N].reshape(n, heads * head_dim)

    def end(self) -> None:
        """The pass is over: the new tokens count as cached."""
        if self.selected is None:
            self.lengths[: self.count] = self.total_R
        else:
            self.lengths[self.selected] = self.total_R

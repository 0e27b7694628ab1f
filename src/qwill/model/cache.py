"""The cache: keys and values of full attention, state and convolution inputs of Gated DeltaNet, one sequence a slot.

A `Batch` given together with a cache holds, for each selected slot in order, that sequence's *new* tokens; attention
sees everything cached for the slot, and the new tokens are appended.

Keys and values can be cut off at any length; a recurrent state cannot go back. So `mark` keeps a copy of the states as
they are, and `rewind` and `copy` reach the end of a sequence, its mark, or its beginning.

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
        c = config
        layers = c.num_hidden_layers
        linear = [i for i in range(layers) if c.is_linear(i)]
        empty = torch.zeros(slots, c.num_key_value_heads, 0, c.head_dim, dtype=dtype, device=device)
        shape = (slots, c.num_key_value_heads, capacity, c.head_dim)
        self.keys, self.values = (
            [empty if i in linear else torch.zeros(shape, dtype=dtype, device=device) for i in range(layers)]
            for _ in range(2)
        )
        heads, k, v = c.linear_num_value_heads, c.linear_key_head_dim, c.linear_value_head_dim
        state, channels = (heads, k, v), 2 * c.linear_num_key_heads * k + heads * v
        past = max(0, c.linear_conv_kernel_dim - 1)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.inputs = {i: torch.zeros(slots, channels, past, dtype=dtype, device=device) for i in linear}
        self.states = {i: torch.zeros(slots, *state, dtype=wide, device=device) for i in linear}
        self.marked = [{i: x.clone() for i, x in kind.items()} for kind in (self.inputs, self.states)]
        self.lengths = torch.zeros(slots, dtype=torch.int64)
        self.marks = torch.zeros(slots, dtype=torch.int64)
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

    def mark(self, slots: list[int]) -> None:
        """Remember the recurrent states of these slots as they are now, for `rewind` and `copy` to come back to."""
        for now, marked in zip((self.inputs, self.states), self.marked, strict=True):
            for i in now:
                marked[i][slots] = now[i][slots]
        self.marks[slots] = self.lengths[slots]

    def rewind(self, slot: int, length: int) -> None:
        """Cut the sequence in a slot off after `length` tokens."""
        self._states_at(slot, length, [slot])
        self.lengths[slot] = length

    def copy(self, source: int, targets: list[int], length: int) -> None:
        """Give the slots `targets` the first `length` tokens of slot `source` (a shared prompt)."""
        index = torch.tensor(targets)
        for store in (*self.keys, *self.values):
            store[index, :, :length] = store[source, :, :length]
        self._states_at(source, length, targets)
        self.lengths[index] = length

    def _states_at(self, source: int, length: int, targets: list[int]) -> None:
        """Give the slots `targets` the recurrent states of slot `source` after `length` tokens, and its mark there."""
        if not self.states or length == 0:
            return
        at_mark = length == int(self.marks[source])
        if not at_mark and length != int(self.lengths[source]):
            raise ModelError(
                f"a Gated DeltaNet's state cannot go back to {length} tokens: it is known after "
                f"{int(self.marks[source])} and {int(self.lengths[source])}"
            )
        for now, marked in zip((self.inputs, self.states), self.marked, strict=True):
            for i in now:
                then = (marked if at_mark else now)[i][source].clone()
                now[i][targets] = then
                marked[i][targets] = then
        self.marks[targets] = length

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Move whole sequences to other slots (compaction); `sources` are free afterwards."""
        longest = int(self.lengths[sources].max())
        for store in (*self.keys, *self.values):
            store[targets, :, :longest] = store[sources, :, :longest]
        for kind in (self.inputs, self.states, *self.marked):
            for store in kind.values():
                store[targets] = store[sources]
        self.lengths[targets] = self.lengths[sources]
        self.marks[targets] = self.marks[sources]
        self.lengths[sources] = 0

    def take_over(self, old: KVCache) -> None:
        """Become the roomier successor of `old`: all that it holds, and its `lengths` themselves."""
        for new, store in zip(self.keys + self.values, old.keys + old.values, strict=True):
            new[:, :, : store.shape[2]] = store
        self.inputs, self.states, self.marked = old.inputs, old.states, old.marked
        self.lengths, self.marks = old.lengths, old.marks

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
        self.fresh_R = (old_R == 0).to(device)
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

    def recall(self, layer: int) -> tuple[Tensor, Tensor]:
        """(convolution inputs [R, C, W − 1], state [R, H, K, V]) of the selected sequences; zeros where one begins."""
        at = slice(0, self.count) if self.selected is None else self.selected
        inputs, state = self.inputs[layer][at], self.states[layer][at]
        return (
            inputs.masked_fill(self.fresh_R[:, None, None], 0),
            state.masked_fill(self.fresh_R[:, None, None, None], 0),
        )

    def remember(self, layer: int, inputs_RCP: Tensor, state_RHKV: Tensor) -> None:
        """Keep what `recall` will give for the next tokens."""
        at = slice(0, self.count) if self.selected is None else self.selected
        self.inputs[layer][at], self.states[layer][at] = inputs_RCP, state_RHKV

    def end(self) -> None:
        """The pass is over: the new tokens count as cached."""
        if self.selected is None:
            self.lengths[: self.count] = self.total_R
        else:
            self.lengths[self.selected] = self.total_R

"""The cache: keys and values of full attention in blocks, state and convolution inputs of Gated DeltaNet in slots.

Which blocks hold a sequence, and which slot its state, is told for each pass (`place`); who may have which block is
decided elsewhere (engine/blocks.py). A `Batch` given together with the cache holds each placed sequence's *new* tokens:
every layer first writes all new keys and values, then attends to everything that the sequence has. So a sequence may
share blocks that another one fills in the same pass.

Keys and values can be held in another float type than the model's, or as int8 with a scale for each token and head.

A sequence's last new tokens may be drafted: perhaps they don't count. Their keys and values are then written over; its
state stays that before them, and `settle` takes it on through those that do count, from their kept inputs.

Shape suffixes as in transformer.py; R sequences of a pass, M blocks of the longest one, J = T·(H/Hkv): query heads that
share a key head are folded into query positions, so grouped-query attention reads each cached key once, copying none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from qwill.base.errors import ModelError
from qwill.model.batch import Batch
from qwill.model.config import ModelConfig
from qwill.model.native_library import lanes, suits
from qwill.model.native_products import cached_attention


class Store:
    """Vectors [places, G, K], as they are or as int8 codes with a float32 scale each."""

    def __init__(self, places: int, heads: int, width: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.codes = torch.zeros(places, heads, width, dtype=dtype, device=device)
        self.scale = None
        if dtype == torch.int8:
            self.scale = torch.zeros(places, heads, 1, dtype=torch.float32, device=device)

    def write(self, place_N: Tensor, x_NGK: Tensor) -> None:
        if self.scale is not None:
            wide = x_NGK.float()
            scale = wide.abs().amax(-1, keepdim=True) / 127
            self.scale[place_N] = scale
            x_NGK = (wide / scale.clamp(min=torch.finfo(torch.float32).tiny)).round_()
        self.codes[place_N] = x_NGK.to(self.codes.dtype)

    def read(self, place_RS: Tensor, dtype: torch.dtype) -> Tensor:
        """x_RGSK."""
        x_RSGK = self.codes[place_RS]
        if self.scale is not None:
            x_RSGK = x_RSGK.float() * self.scale[place_RS]
        return x_RSGK.to(dtype).transpose(1, 2)

    def copy(self, sources: Tensor, targets: Tensor) -> None:
        for kind in (self.codes, self.scale):
            if kind is not None:
                kind[targets] = kind[sources]

    def grow(self, places: int) -> None:
        for name, kind in (("codes", self.codes), ("scale", self.scale)):
            if kind is not None:
                grown = kind.new_zeros(places, *kind.shape[1:])
                grown[: len(kind)] = kind
                setattr(self, name, grown)


@dataclass
class _Group:
    """Sequences that attend together: the tokens that they bring (`token_M`) and where these stand among `sequences` ×
    `width` queries (None: one query each), the places of their keys, and what each query may see (None: all)."""

    sequences: int
    width: int
    token_M: Tensor
    query_M: Tensor | None
    place_RS: Tensor
    mask_R1JS: Tensor | None  # the native kernel needs none
    cu_seqlens: Tensor  # of their tokens
    seen_R: Tensor  # how many keys the last token of each sees


@dataclass
class Part:
    """Some of a pass's tokens: `token_M` of them, a few of each of the sequences `row_R`, between `cu_seqlens`."""

    token_M: Tensor
    row_R: Tensor
    cu_seqlens: Tensor


class KVCache:
    def __init__(
        self,
        config: ModelConfig,
        blocks: int,
        block_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        states: int | None = None,
        kv_dtype: torch.dtype | None = None,
        first: int = 0,
    ) -> None:
        """`states` slots for recurrent states (as many as blocks unless given); `kv_dtype` is the model's unless given;
        torch.int8 takes a scale for each vector. Tokens before number `first` of a sequence are never there: they count
        in lengths, but nothing looks at them."""
        c = config
        layers = c.num_hidden_layers
        linear = [i for i in range(layers) if c.is_linear(i)]
        size = (blocks * block_size, c.num_key_value_heads, c.head_dim, kv_dtype or dtype, device)
        self.keys = {i: Store(*size) for i in range(layers) if i not in linear}
        self.values = {i: Store(*size) for i in range(layers) if i not in linear}
        slots = blocks if states is None else states
        heads, k, v = c.linear_num_value_heads, c.linear_key_head_dim, c.linear_value_head_dim
        state, channels = (heads, k, v), 2 * c.linear_num_key_heads * k + heads * v
        past = max(0, c.linear_conv_kernel_dim - 1)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.inputs = {i: torch.zeros(slots, channels, past, dtype=dtype, device=device) for i in linear}
        self.states = {i: torch.zeros(slots, *state, dtype=wide, device=device) for i in linear}
        self.blocks, self.block_size, self.dtype, self.device = blocks, block_size, dtype, device
        self.head_dim = c.head_dim
        self.group, self.first = c.num_attention_heads // c.num_key_value_heads, first
        self._placed: tuple[Tensor, Tensor, Tensor, Tensor | None] | None = None
        self.certain: Part | None = None  # the tokens of this pass that count, if there are others:
        self.drafted: Part | None = None
        self._inputs: dict[int, tuple[Tensor, ...]] = {}  # by layer, of the drafted tokens
        self._slots: list[int] = []  # of the sequences that have them

    def place(
        self,
        tables_RM: Tensor | Sequence[Sequence[int]],
        lengths_R: Tensor | Sequence[int],
        states_R: Tensor | Sequence[int] | None = None,
        drafts_R: Tensor | None = None,
    ) -> KVCache:
        """Say where the next batch's sequences are: their blocks in order (behind the last one anything), how many
        tokens each has cached, the slot of its recurrent state (its first block's number unless given), and how many of
        its new tokens, fewer than all, are drafted (none unless given)."""
        tables = torch.as_tensor(tables_RM, dtype=torch.int64)
        states = tables[:, 0] if states_R is None else torch.as_tensor(states_R, dtype=torch.int64)
        self._placed = tables, torch.as_tensor(lengths_R, dtype=torch.int64), states, drafts_R
        return self

    def grow(self, blocks: int) -> None:
        """Have so many blocks, more than now; what the old ones hold stays."""
        for store in (*self.keys.values(), *self.values.values()):
            store.grow(blocks * self.block_size)
        self.blocks = blocks

    def copy_blocks(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy whole blocks; no target may be a source."""
        within = torch.arange(self.block_size)
        places = [
            (torch.tensor(numbers)[:, None] * self.block_size + within).flatten().to(self.device)
            for numbers in (sources, targets)
        ]
        for store in (*self.keys.values(), *self.values.values()):
            store.copy(*places)

    def copy_states(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy recurrent states from slots to slots."""
        for kind in (self.inputs, self.states):
            for store in kind.values():
                store[torch.tensor(targets)] = store[torch.tensor(sources)]

    def begin(self, batch: Batch) -> None:
        """Work out once a forward pass, for all layers, where new keys go and what each query may see."""
        if self._placed is None:
            raise ModelError("the cache was not told where this batch's sequences are: call `place` before each pass")
        (tables, old_R, states_R, drafts_R), self._placed = self._placed, None
        new_R, count = batch.lengths.long(), len(old_R)
        if len(new_R) != count:
            raise ModelError(f"the batch holds {len(new_R)} sequences, but {count} are placed in the cache")
        total_R, room = old_R + new_R, tables.shape[1] * self.block_size
        if int(total_R.max()) > room:
            raise ModelError(f"a sequence of {int(total_R.max())} tokens does not fit its {room} places in the cache")
        row_N, within_N = _rows(batch.cu_seqlens)
        at_N = old_R[row_N] + within_N
        block_N = tables[row_N, at_N // self.block_size]
        if int(block_N.min()) < 0 or int(block_N.max()) >= self.blocks:
            raise ModelError(f"a sequence was placed in a block that does not exist: there are {self.blocks}")
        self.place_N = (block_N * self.block_size + at_N % self.block_size).to(self.device)
        self.states_R, self.fresh_R = states_R.to(self.device), (old_R == 0).to(self.device)
        fits = suits(torch.empty(0, dtype=self.dtype, device=self.device)) and self.head_dim % lanes() == 0
        self.native = fits and not torch.is_grad_enabled()
        parts = _groups(new_R, total_R) if self.keys else []
        self.groups = [self._group(part, tables, old_R, new_R, row_N, within_N) for part in parts]
        self.certain = self.drafted = None
        if drafts_R is not None and self.states and bool(drafts_R.any()):
            ahead_N = within_N >= (new_R - drafts_R)[row_N]
            self.certain, self.drafted = (self._part(some_N, row_N) for some_N in (~ahead_N, ahead_N))
            self._slots = states_R[self.drafted.row_R.cpu()].tolist()

    def _part(self, some_N: Tensor, row_N: Tensor) -> Part:
        row_R, count_R = row_N[some_N].unique_consecutive(return_counts=True)
        return Part(some_N.nonzero()[:, 0].to(self.device), row_R.to(self.device), _borders(count_R))

    def _group(
        self, rows: Tensor, tables: Tensor, old_R: Tensor, new_R: Tensor, row_N: Tensor, within_N: Tensor
    ) -> _Group:
        """The group of the sequences `rows`."""
        new, total = new_R[rows], (old_R + new_R)[rows]
        width, span = int(new.max()), int(total.max())
        key_S = torch.arange(self.first, span)
        # Behind its end a row repeats its last key: what another sequence holds, NaN perhaps, is never read.
        key_RS = torch.minimum(key_S, total[:, None] - 1)
        place_RS = tables[rows].gather(1, key_RS // self.block_size) * self.block_size + key_RS % self.block_size
        number_R = torch.full((len(old_R),), -1).index_copy_(0, rows, torch.arange(len(rows)))
        token_M = (number_R[row_N] >= 0).nonzero()[:, 0]
        query_M = None if width == 1 else number_R[row_N[token_M]] * width + within_N[token_M]
        mask = None
        if not self.native and (width > 1 or int(total.min()) < span):
            last_RT = torch.minimum(old_R[rows][:, None] + torch.arange(width), total[:, None] - 1)
            unseen_RTS = key_S > last_RT[..., None]
            dense = torch.zeros(unseen_RTS.shape, dtype=self.dtype).masked_fill_(unseen_RTS, float("-inf"))
            mask = dense.repeat(1, self.group, 1)[:, None].to(self.device)
        query = None if query_M is None else query_M.to(self.device)
        device, seen = self.device, total - self.first
        return _Group(
            len(rows), width, token_M.to(device), query, place_RS.to(device), mask, _borders(new), seen.contiguous()
        )

    def attend(self, layer: int, q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor) -> Tensor:
        """Write this layer's new keys and values, attend, and return out_NC (heads concatenated)."""
        keys, values = self.keys[layer], self.values[layer]
        keys.write(self.place_N, k_NGK)
        values.write(self.place_N, v_NGK)
        outs = [self._attend(group, q_NHK, keys, values) for group in self.groups]
        if len(outs) == 1:  # its tokens are all tokens, in order
            return outs[0].flatten(1)
        out_NHK = torch.empty_like(q_NHK)
        for group, out_MHK in zip(self.groups, outs, strict=True):
            out_NHK[group.token_M] = out_MHK
        return out_NHK.flatten(1)

    def _attend(self, group: _Group, q_NHK: Tensor, keys: Store, values: Store) -> Tensor:
        r, t, (heads, head_dim) = group.sequences, group.width, q_NHK.shape[1:]
        q_MHK = q_NHK if len(group.token_M) == len(q_NHK) else q_NHK[group.token_M]
        if self.native:
            k_RSGK, v_RSGK = (store.read(group.place_RS, q_NHK.dtype).transpose(1, 2) for store in (keys, values))
            return cached_attention(q_MHK, k_RSGK, v_RSGK, group.cu_seqlens, group.seen_R)
        if group.query_M is not None:
            q_MHK = q_NHK.new_zeros(r * t, heads, head_dim).index_copy(0, group.query_M, q_MHK)
        folded = (r, t, heads // self.group, self.group, head_dim)
        q_RGJK = q_MHK.reshape(folded).permute(0, 2, 3, 1, 4).flatten(2, 3)
        k_RGSK, v_RGSK = (store.read(group.place_RS, q_NHK.dtype) for store in (keys, values))
        out = scaled_dot_product_attention(q_RGJK, k_RGSK, v_RGSK, attn_mask=group.mask_R1JS)
        out_MHK = out.unflatten(2, (self.group, t)).permute(0, 3, 1, 2, 4).reshape(r * t, heads, head_dim)
        return out_MHK if group.query_M is None else out_MHK[group.query_M]

    def recall(self, layer: int) -> tuple[Tensor, Tensor]:
        """(convolution inputs [R, C, W − 1], state [R, H, K, V]) of the placed sequences; zeros where one begins."""
        inputs, state = self.inputs[layer][self.states_R], self.states[layer][self.states_R]
        return (
            inputs.masked_fill(self.fresh_R[:, None, None], 0),
            state.masked_fill(self.fresh_R[:, None, None, None], 0),
        )

    def remember(self, layer: int, inputs_RCP: Tensor | None, state_RHKV: Tensor | None) -> None:
        """Keep what `recall` will give for the next tokens."""
        assert inputs_RCP is not None and state_RHKV is not None
        self.inputs[layer][self.states_R], self.states[layer][self.states_R] = inputs_RCP, state_RHKV

    def keep(self, layer: int, inputs: tuple[Tensor, ...]) -> None:
        """Hold a layer's inputs at the drafted tokens for `settle`."""
        self._inputs[layer] = inputs

    def settle(self, taken: Mapping[int, int]) -> None:
        """Place the sequences of these slots once more: so many of their drafted tokens count, at least one of each."""
        assert self.drafted is not None
        count_R = torch.tensor([taken.get(slot, 0) for slot in self._slots])
        row_M, within_M = _rows(self.drafted.cu_seqlens)
        chosen_R = count_R.nonzero()[:, 0]
        self._kept = (within_M < count_R[row_M]).nonzero()[:, 0].to(self.device), _borders(count_R[chosen_R])
        self.states_R = torch.tensor(self._slots)[chosen_R].to(self.device)
        self.fresh_R = torch.zeros(len(chosen_R), dtype=torch.bool, device=self.device)

    def kept(self, layer: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """The layer's inputs at the drafted tokens that count, and their borders."""
        token_M, cu_seqlens = self._kept
        return tuple(x[token_M] for x in self._inputs[layer]), cu_seqlens


def _borders(count_R: Tensor) -> Tensor:
    return torch.cat([count_R.new_zeros(1), count_R.cumsum(0)]).int()


def _rows(cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """Of each token: its sequence, and its place among that one's."""
    row_N = torch.repeat_interleave(torch.arange(len(cu_seqlens) - 1), cu_seqlens.diff())
    return row_N, torch.arange(len(row_N)) - cu_seqlens[:-1].long()[row_N]


def _groups(new_R: Tensor, total_R: Tensor) -> list[Tensor]:
    """Which sequences attend together: all, where little is padded; else those whose new tokens and whose lengths have
    the same number of binary digits, so that less than three quarters of the pairs in a group are padding."""
    everyone = torch.arange(len(new_R))
    padded = len(new_R) * int(new_R.max()) * int(total_R.max())
    if padded <= 2 * int((new_R * total_R).sum()):
        return [everyone]
    digits: dict[tuple[int, int], list[int]] = {}
    for i, (new, total) in enumerate(zip(new_R.tolist(), total_R.tolist(), strict=True)):
        digits.setdefault((new.bit_length(), total.bit_length()), []).append(i)
    return [torch.tensor(rows) for rows in digits.values()]

"""What the engine asks of a model: one pass over a mixed batch of sequences whose keys and values lie in blocks.

`TorchExecutor` runs the model's own definition, on any device and in any type, with adapters, codes and recurrent
states; other executors of the same definition promise the same numbers up to rounding.

Shape letters: N tokens of a pass, R sequences, M blocks of the longest one, V vocabulary, D hidden, B some of the
tokens, L sparse layers, k chosen experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from qwill.model.batch import Batch
from qwill.model.cache import KVCache

if TYPE_CHECKING:
    from qwill.model.lora import Adapter
    from qwill.model.lora_mixed import MixedAdapters
    from qwill.model.transformer import Transformer


@dataclass
class Step:
    """One pass: the new tokens of R sequences, end to end. All tensors are contiguous and on the CPU.

    tokens_N: int64. positions_N: int64, each token's place in its own sequence (`lengths_R` + its place in the pass).
    cu_seqlens: int32 [R + 1], where each sequence's new tokens start and end; each has at least one.
    lengths_R: int64, tokens cached before this pass.
    tables_RM: int32, the numbers of each sequence's blocks in order, enough for its old and new tokens; then anything.
        Token t of a sequence is in block `tables_RM[r, t // block_size]` at `t % block_size`. The same block may be in
        several rows: then only one of them writes it, perhaps in this very pass, so each layer must write all new keys
        and values before any sequence attends.
    states_R: int64, the slot of each sequence's recurrent state, read (if `lengths_R` > 0; else it starts from zeros)
        and then overwritten; −1 in models that have none.
    rows: int64, which of the N tokens want logits, rising; may be empty.
    adapters_R: int64, the number of each sequence's adapter, −1: none.
    experts: whether the chosen experts of all N tokens are to be kept (`Executor.experts_LNk`).
    hidden_rows: int64, of which of the N tokens the hidden states after the last norm are to be kept
        (`Executor.hidden_BD`), None: of none.
    drafts_R: int64, how many of each sequence's new tokens, fewer than all, are drafted, None: no one's. In a model
        with recurrent states these stay those before the drafts until `TorchExecutor.settle`; keys and values of drafts
        that weren't taken are written over.
    """

    tokens_N: Tensor
    positions_N: Tensor
    cu_seqlens: Tensor
    lengths_R: Tensor
    tables_RM: Tensor
    states_R: Tensor
    rows: Tensor
    adapters_R: Tensor
    experts: bool = False
    hidden_rows: Tensor | None = None
    drafts_R: Tensor | None = None


class Executor(Protocol):
    block_size: int
    blocks: int
    experts_LNk: Tensor | None  # int64, of the last pass, if it was asked for
    hidden_BD: Tensor | None  # float32, the same

    def run(self, step: Step) -> Tensor:
        """Append the step's tokens to their sequences; float32 logits [rows, V], valid until the next call."""

    def copy_blocks(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy whole blocks; no target is a source."""

    def copy_states(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy recurrent states from slot to slot; no target is a source."""

    def grow(self, blocks: int) -> None:
        """Have so many blocks, more than now; what the old ones hold stays."""

    def refresh(self) -> None:
        """The model's weights have changed: take over again whatever was copied from them."""

    def put_adapter(self, number: int, adapter: Adapter) -> None:
        """Have an adapter under this number for `Step.adapters_R`. Raises ModelError for the adapter of another model,
        and when one is on the model in the ordinary way."""

    def remove_adapter(self, number: int) -> None:
        """Forget it."""


class TorchExecutor:
    """The model's own forward pass with its cache."""

    def __init__(
        self,
        model: Transformer,
        blocks: int,
        block_size: int = 16,
        states: int = 0,
        kv_dtype: torch.dtype | None = None,
    ) -> None:
        """`blocks` of `block_size` tokens, `states` slots for recurrent states; `kv_dtype` as in `KVCache`."""
        weight = model.embed_tokens.weight
        self._model, self._device = model, weight.device
        self._cache = KVCache(model.config, blocks, block_size, weight.dtype, weight.device, states, kv_dtype)
        self.blocks, self.block_size = blocks, block_size
        self.experts_LNk: Tensor | None = None
        self.hidden_BD: Tensor | None = None
        self.hidden_ND: Tensor | None = None  # after the last norm, of all tokens of the last pass
        self._adapters: MixedAdapters | None = None

    @torch.inference_mode()
    def run(self, step: Step) -> Tensor:
        batch = Batch(step.tokens_N, step.positions_N, step.cu_seqlens).to(self._device)
        self._cache.place(step.tables_RM, step.lengths_R, step.states_R, step.drafts_R)
        with self._adapted(step):
            output = self._model(batch, self._cache)
        hidden_ND = self.hidden_ND = output.hidden_ND
        self.experts_LNk = None
        if step.experts:
            chosen = [stats.chosen_Nk for stats in output.router_stats or () if stats.chosen_Nk is not None]
            self.experts_LNk = torch.stack(chosen).cpu()
        self.hidden_BD = None
        if step.hidden_rows is not None:
            self.hidden_BD = hidden_ND[step.hidden_rows.to(self._device)].float()
        return self._model.head(hidden_ND[step.rows.to(self._device)]).float()

    @torch.inference_mode()
    def settle(self, taken: Mapping[int, int]) -> None:
        """Take the recurrent states in these slots on: so many, at least one, of the tokens that were drafted for their
        sequences in the last pass count."""
        self._model.settle(self._cache, taken)

    def _adapted(self, step: Step) -> AbstractContextManager[None]:
        if self._adapters is None or not bool((step.adapters_R >= 0).any()):
            return nullcontext()
        adapter_N = step.adapters_R.repeat_interleave(step.cu_seqlens.diff())
        return self._adapters.on(adapter_N.to(self._device))

    def put_adapter(self, number: int, adapter: Adapter) -> None:
        from qwill.model.lora_mixed import MixedAdapters

        self._adapters = self._adapters or MixedAdapters(self._model)
        self._adapters.put(number, adapter)

    def remove_adapter(self, number: int) -> None:
        if self._adapters is not None:
            self._adapters.remove(number)

    def copy_blocks(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        self._cache.copy_blocks(sources, targets)

    def copy_states(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        self._cache.copy_states(sources, targets)

    def grow(self, blocks: int) -> None:
        self._cache.grow(blocks)
        self.blocks = blocks

    def refresh(self) -> None:
        """Nothing is copied."""

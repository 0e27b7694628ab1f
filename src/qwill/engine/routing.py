"""Which experts each cached token went through, kept beside its keys and values: block by block, so that what is
shared, forked, preempted and computed again is right by itself.

Shape letters: N tokens of a pass, L sparse layers, k chosen experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from qwill.engine.executor import Step
    from qwill.model.config import ModelConfig

Routing = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16 [tokens, L, k], each token's experts, the heaviest first


class RoutingStore:
    """Room for the experts of all tokens of all blocks: k bytes for a token and sparse layer, twice that above 256
    experts (Qwen3-30B-A3B: 384 bytes a token, 0.4 % of its keys and values in bfloat16)."""

    def __init__(self, config: ModelConfig, blocks: int, block_size: int) -> None:
        sparse = sum(config.is_sparse(i) for i in range(config.num_hidden_layers))
        kind: Any = np.uint8 if config.num_experts <= 256 else np.uint16
        self._kept: Routing = np.zeros((blocks, block_size, sparse, config.num_experts_per_tok), dtype=kind)

    def write(self, step: Step, experts_LNk: Tensor) -> None:
        """What a pass chose."""
        borders, size = step.cu_seqlens.numpy(), self._kept.shape[1]
        sequence_N = np.arange(len(borders) - 1).repeat(borders[1:] - borders[:-1])
        place_N = step.positions_N.numpy()
        block_N = step.tables_RM.numpy()[sequence_N, place_N // size]
        self._kept[block_N, place_N % size] = experts_LNk.numpy().transpose(1, 0, 2)

    def read(self, blocks: Sequence[int], tokens: int) -> Routing:
        """Those of a sequence's first tokens, which lie in these blocks."""
        size = self._kept.shape[1]
        used = list(blocks[: -(-tokens // size)])
        return self._kept[used].reshape(-1, *self._kept.shape[2:])[:tokens]

    def copy_blocks(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        self._kept[list(targets)] = self._kept[list(sources)]

    def grow(self, blocks: int) -> None:
        more = np.zeros((blocks - len(self._kept), *self._kept.shape[1:]), dtype=self._kept.dtype)
        self._kept = np.concatenate((self._kept, more))

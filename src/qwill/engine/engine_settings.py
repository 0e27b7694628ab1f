"""How large the engine is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwill.base.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from qwill.model.config import ModelConfig


@dataclass(frozen=True)
class EngineSettings:
    """`blocks` of the cache, or as many as fit into `memory` bytes; at most `max_running` samples at a time and
    `token_budget` tokens a pass. `kv_dtype` (float32, bfloat16, float16, int8) is the model's type unless given, and
    float16 beside quantised weights in native code. `snapshots`: recurrent states kept for sharing, in models that have
    them. `adapters`: most at a time."""

    blocks: int | None = None
    memory: int = 1 << 30
    block_size: int = 16
    max_running: int = 64
    token_budget: int = 512
    kv_dtype: str | None = None
    snapshots: int = 32
    share_prefixes: bool = True
    adapters: int = 64

    def __post_init__(self) -> None:
        for name in ("block_size", "max_running", "token_budget", "adapters"):
            if getattr(self, name) < 1:
                raise ConfigError(f"engine.{name} is {getattr(self, name)}: it must be at least 1")
        if self.token_budget < self.max_running:
            raise ConfigError(
                f"engine.token_budget is {self.token_budget}: it must be at least max_running ({self.max_running}), so "
                "that every running sample gets its token in each pass"
            )
        if self.kv_dtype not in (None, "float32", "bfloat16", "float16", "int8"):
            raise ConfigError(f"engine.kv_dtype is {self.kv_dtype!r}: it must be float32, bfloat16, float16 or int8")


def blocks_in(settings: EngineSettings, config: ModelConfig, dtype: torch.dtype) -> int:
    """Blocks of keys and values of this type that fit into the memory, no more than can ever be used."""
    c, size = config, float(dtype.itemsize)
    if dtype.itemsize == 1:
        size += 4 / c.head_dim  # the scales
    full = sum(not c.is_linear(i) for i in range(c.num_hidden_layers))
    block = 2 * full * c.num_key_value_heads * c.head_dim * size * settings.block_size
    most = settings.max_running * -(-c.max_position_embeddings // settings.block_size)
    return max(1, min(most, int(settings.memory / block))) if block else most

"""How large the engine is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwill.base.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from qwill.model.config import ModelConfig


@dataclass(frozen=True)
class NgramSpec:
    """Prompt look-up: what followed the latest earlier place of the last `shortest` to `longest` tokens, up to `tokens`
    of it."""

    tokens: int = 8
    shortest: int = 2
    longest: int = 4

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 1 <= self.shortest <= self.longest:
            raise ConfigError(
                f"speculation by look-up has tokens {self.tokens} and matches of {self.shortest} to {self.longest}: "
                "at least 1 token, and 1 ≤ shortest ≤ longest"
            )


@dataclass(frozen=True)
class DraftSpec:
    """A smaller model of the same tokenizer (a reference as for any model) that drafts up to `tokens` at a time."""

    model: str
    tokens: int = 4

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ConfigError(f"speculation has tokens {self.tokens}: it must be at least 1")


@dataclass(frozen=True)
class MtpSpec:
    """The model's own multi-token-prediction head drafts up to `tokens` at a time, going on from its own guesses."""

    tokens: int = 3

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ConfigError(f"speculation has tokens {self.tokens}: it must be at least 1")


@dataclass(frozen=True)
class EngineSettings:
    """`blocks` of the cache, or as many as fit into `memory` bytes; at most `max_running` samples at a time and
    `token_budget` tokens a pass. `kv_dtype` (float32, bfloat16, float16, int8) is the model's type unless given, and
    float16 beside quantised weights in native code. `snapshots`: recurrent states kept for sharing, in models that have
    them. `adapters`: most at a time. `speculate`: who drafts tokens that passes check. `routing`: keep the
    experts that every token went through, of a model that has some, and tell them with a sample's last event.
    `in_place`: native code reads floats where they lie in the model, instead of a copy that is laid out for it."""

    blocks: int | None = None
    memory: int = 1 << 30
    block_size: int = 16
    max_running: int = 64
    token_budget: int = 512
    kv_dtype: str | None = None
    snapshots: int = 32
    share_prefixes: bool = True
    adapters: int = 64
    speculate: NgramSpec | DraftSpec | MtpSpec | None = None
    routing: bool = False
    in_place: bool = False

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


def blocks_in(settings: EngineSettings, models: Sequence[tuple[ModelConfig, torch.dtype]], more: int = 0) -> int:
    """Blocks that fit into the memory, no more than can ever be used, if each has room for keys and values of these
    models (the first one's and perhaps its draft model's) in these types, and `more` bytes a token."""
    block = sum(_block_bytes(config, dtype, settings.block_size) for config, dtype in models)
    block += more * settings.block_size
    most = settings.max_running * -(-models[0][0].max_position_embeddings // settings.block_size)
    return max(1, min(most, int(settings.memory / block))) if block else most


def _block_bytes(c: ModelConfig, dtype: torch.dtype, block_size: int) -> float:
    size = float(dtype.itemsize)
    if dtype.itemsize == 1:
        size += 4 / c.head_dim  # the scales
    full = sum(not c.is_linear(i) for i in range(c.num_hidden_layers))
    return 2 * full * c.num_key_value_heads * c.head_dim * size * block_size

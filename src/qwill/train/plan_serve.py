"""The smallest set-up that serves a model at each precision: weights, one request's keys and values, and a reserve.

Matrices of the layers are held at the precision named; embedding, head, router and vectors stay bfloat16. int8 has a
scale a row, int4 one for each 128 weights. Keys and values are bfloat16; a rank holds at least one key/value head.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwill.model.config import ModelConfig
from qwill.model.flops import kv_cache_bytes
from qwill.model.size import LayerSize, count, layer_sizes
from qwill.train.plan_gpus import Gpu

# Bytes a weight.
PRECISIONS = {"bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5 + 2 / 128}
USABLE, RESERVE = 0.9, 2e9


@dataclass(frozen=True)
class Serving:
    """`gpus` hold `weights` bytes and `requests` requests of the context's length at least; `tokens_a_second` is what
    the memory's bandwidth allows one request at that length (every chosen weight and cached key is read once)."""

    precision: str
    gpus: int
    weights: float
    requests: int
    tokens_a_second: float


def weight_bytes(config: ModelConfig, precision: str) -> tuple[float, float]:
    """(bytes of all weights, bytes that one token of one request reads)."""
    each, size, counted = PRECISIONS[precision], sum(layer_sizes(config), LayerSize()), count(config)
    matrices = size.mixer + size.dense + size.experts
    read = matrices - (counted.total - counted.active)
    rest = counted.total - matrices
    head = config.vocab_size * config.hidden_size
    return each * matrices + 2 * rest, each * read + 2 * (rest - counted.embedding + head)


def servings(config: ModelConfig, gpu: Gpu, context: int) -> list[Serving]:
    """One for each precision, on the smallest number of GPUs, a power of two, that holds it."""
    found = []
    token, request = kv_cache_bytes(config)
    for precision in PRECISIONS:
        weights, read = weight_bytes(config, precision)
        gpus = 1
        while (room := _room(config, gpu, gpus, weights)) < token * context + request:
            gpus *= 2
        seconds = (read + token * context + request) / (gpus * gpu.bandwidth * 1e12)
        found.append(Serving(precision, gpus, weights, int(room // (token * context + request)), 1 / seconds))
    return found


def _room(config: ModelConfig, gpu: Gpu, gpus: int, weights: float) -> float:
    """Bytes left for keys and values, all GPUs together, none held twice."""
    left = USABLE * gpu.memory * 1e9 - RESERVE - weights / gpus
    return left * min(gpus, config.num_key_value_heads)

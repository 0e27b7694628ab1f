"""One dial: what `depth` decides beyond the model's shape, and where each rule comes from.

What a recipe sets is taken as it is; what it leaves out is derived. The rules are for training from scratch until more
tokens no longer pay for a model of this size; a recipe that has minutes and not days sets `steps`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qwill.model.config import ModelConfig
from qwill.model.size import count
from qwill.train.settings import PretrainConfig

TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022 (arXiv 2203.15556), table 3
# The best batch grows as tokens^0.383 (Bergsma et al. 2025, arXiv 2505.13738); the reference is LOG.md, 2026-11-24: for
# 1.4 M tokens, 2,048 a step were better than 4,096.
BATCH_EXPONENT, BATCH_TOKENS, BATCH_HORIZON = 0.383, 2048, 1.4e6


@dataclass(frozen=True)
class Derived:
    """The model, the rows of a step, the steps, and a sentence for each of them that says how it came about."""

    model: ModelConfig
    batch_rows: int
    steps: int
    sentences: tuple[str, ...]


def derive(config: PretrainConfig, vocab_size: int, start: ModelConfig | None = None) -> Derived:
    """Everything that follows from `depth` and the vocabulary, or from the model that training goes on from."""
    model = start or ModelConfig.from_depth(
        config.depth, vocab_size, experts=config.experts, top_k=config.experts_per_token, context=config.context,
        hybrid=config.hybrid,
    )  # fmt: skip
    size = count(model)
    shape = (
        f"{'going on from a model' if start else f'depth {config.depth}'}: width {model.hidden_size}"
        f"{'' if start else ' (64 a layer)'}, {model.num_attention_heads} heads of {model.head_dim}, "
        f"{size.total:,} parameters, {size.active:,} active"
    )
    horizon = TOKENS_PER_PARAMETER * size.active
    rows, how = config.batch_rows, "as set"
    if rows is None:
        scale = BATCH_TOKENS * (1 / BATCH_HORIZON) ** BATCH_EXPONENT
        if config.steps is None:
            tokens = scale * horizon**BATCH_EXPONENT
        else:  # the horizon is steps · batch: solved for the batch
            tokens = (scale * config.steps**BATCH_EXPONENT) ** (1 / (1 - BATCH_EXPONENT))
        rows, how = max(1, 2 ** round(math.log2(tokens / config.row_tokens))), "grows as tokens^0.383, arXiv 2505.13738"
    tokens_a_step = rows * config.row_tokens
    batch = f"batch: {rows} rows of {config.row_tokens} tokens ({how})"
    steps, how = config.steps, "as set"
    if steps is None:
        steps, how = max(1, round(horizon / tokens_a_step)), "as arXiv 2203.15556 finds best"
    read = steps * tokens_a_step
    length = f"horizon: {steps:,} steps, {read:,} tokens, {read / size.active:.2g} an active parameter ({how})"
    o = config.optimizer
    rates = f"rates: AdamW {o.learning_rate:g}, embeddings {o.embedding_rate or o.learning_rate:g}, " + (
        f"matrices Muon {o.matrix_rate:g} (one rate at any width, arXiv 2502.16982)"
        if o.optimizer == "muon"
        else f"matrices {o.matrix_rate:g}"
    )
    return Derived(model, rows, steps, (shape, batch, length, rates))

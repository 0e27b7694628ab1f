"""Small models that stand in for large ones: what a corpus or a mixture is worth is told by training on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from qwill.base.progress import SILENT
from qwill.base.stage import StageContext
from qwill.data.packing import TrainingRows
from qwill.model.config import ModelConfig
from qwill.model.initial import init_weights
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.train.loop import train
from qwill.train.settings import ProxyConfig
from qwill.train.step import StepData


def train_proxy(
    config: ProxyConfig,
    steps: int,
    tokenizer: Tokenizer,
    rows: Callable[[int], TrainingRows],
    seed: int,
    ctx: StageContext,
    work: Path,
) -> Transformer:
    """A dense Qwen3 of `config.depth`, trained for `steps` on `rows(step)`; an interrupted run goes on from `work`.

    Two runs with one seed begin with the same weights. It says nothing on the display: the caller counts runs.
    """
    shape = ModelConfig.from_depth(config.depth, tokenizer.padded_vocab_size, experts=0, context=config.row_tokens)
    ends = {"eos_token_id": tokenizer.special("<|im_end|>"), "pad_token_id": tokenizer.special("<|endoftext|>")}
    model = Transformer(shape.with_(**ends))
    init_weights(model, torch.Generator().manual_seed(seed))
    count = config.batch_rows * config.row_tokens
    weight_N = torch.full((count,), 1.0 / count)

    def data(step: int) -> StepData:
        taken = rows(step)
        return StepData(taken.batch, taken.targets_N, weight_N, f"step {step} of a proxy run")

    work.mkdir(parents=True, exist_ok=True)
    inner = replace(ctx, work=work, metrics_path=work / "metrics.jsonl", display=SILENT, budget_s=None)
    train(model, steps, data, config.optimizer, config.schedule, 0.0, inner, "proxy")
    return model.eval()

"""Matrix products in bfloat16: what is learned is nearly the same, weights and files stay float32."""

from pathlib import Path

import pytest
import torch

from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.model.batch import Batch
from qwill.model.config import ModelConfig
from qwill.model.initial import init_weights
from qwill.model.transformer import Transformer
from qwill.train.loop import History, train
from qwill.train.settings import OptimizerConfig, ScheduleConfig
from qwill.train.step import StepData

SHAPE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64}


def step_data(step: int) -> StepData:
    draw = torch.Generator().manual_seed(step)
    sequences = [(torch.arange(n) * 3 + int(torch.randint(0, 50, (), generator=draw))) % 50 for n in (9, 4, 17)]
    targets = torch.cat([s[1:] for s in sequences])
    return StepData(Batch.pack([s[:-1] for s in sequences]), targets, torch.full((len(targets),), 1 / len(targets)), "")


def learned(folder: Path, dtype: str, sparse: bool) -> tuple[Transformer, History]:
    kind = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    model = Transformer(
        ModelConfig(**SHAPE, **(kind if sparse else {"model_type": "qwen3"}), intermediate_size=48)  # type: ignore[arg-type]
    )
    init_weights(model, torch.Generator().manual_seed(1))
    (folder / dtype / "work").mkdir(parents=True)
    ctx = StageContext(
        folder, folder / dtype / "work", {}, 0, 1, Display(quiet=True), None, folder / "metrics.jsonl", dtype=dtype
    )
    optimizer = OptimizerConfig(learning_rate=1e-2)
    return model, train(model, 80, step_data, optimizer, ScheduleConfig(), 0.01, ctx, "pretrain")


@pytest.mark.parametrize("sparse", [False, True])
def test_bfloat16_learns_what_float32_learns(tmp_path: Path, sparse: bool) -> None:
    (_, exactly), (rough, roughly) = (learned(tmp_path, dtype, sparse) for dtype in ("float32", "bfloat16"))
    first, last = exactly.curve[0]["loss"], exactly.curve[-1]["loss"]
    assert last < 0.5 * first
    assert roughly.curve[0]["loss"] == pytest.approx(first, rel=1e-2)
    assert roughly.curve[0]["loss"] != first  # bfloat16 was really used
    assert roughly.curve[-1]["loss"] == pytest.approx(last, abs=0.1 * first)
    assert {p.dtype for p in rough.parameters()} == {torch.float32}

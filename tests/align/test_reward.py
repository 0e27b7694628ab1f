"""The reward model: the folder is transformers', what is learnt, calibration and length, and what is refused."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.align.preference_rows import TOKENIZER, VOCAB, pairs, rows, write
from tests.engine.tiny import tiny_model
from tests.train.tiny_training import context
from torch import nn

from qwill.align import reward
from qwill.align.preference_examples import Pair
from qwill.align.replies import Reply
from qwill.align.reward import RewardTraining, load_reward, score_replies
from qwill.align.reward_scores import reward_scores, spearman
from qwill.align.settings import RewardConfig
from qwill.base.errors import CheckpointError, DataError
from qwill.base.files import read_json
from qwill.model.files import load_model, load_score, save_model
from qwill.model.lora_config import LoraConfig
from qwill.text.chat import Rendered
from qwill.train.settings import OptimizerConfig

ORACLES = Path(__file__).parent.parent / "oracles"
sys.path.insert(0, str(ORACLES))
from reward_case import SEQUENCES, write_reward_model  # noqa: E402


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_rewards_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    write_reward_model(tmp_path, kind)
    model = load_model(tmp_path)
    replies = [Reply((Rendered(ids, [0] * (len(ids) - 1) + [1]),)) for ids in SEQUENCES]
    ours = score_replies(model, load_score(tmp_path, 32), replies, 10)
    said = json.loads((ORACLES / "reward.json").read_text())["rewards"][kind]
    torch.testing.assert_close(ours, torch.tensor(said).double(), atol=1e-5, rtol=0)
    assert read_json(tmp_path / "config.json")["architectures"][0].endswith("ForSequenceClassification")


def training(kind: str, **changes) -> RewardTraining:
    model = tiny_model(kind, VOCAB, 120).double()
    score = torch.randn(32, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.3
    model.register_parameter("score", nn.Parameter(score))
    made = [Pair(p.id, p.language, p.chosen, p.rejected, 0.1 * i) for i, p in enumerate(pairs())]
    return RewardTraining(model, made, RewardConfig(**changes))


def run(folder: Path, data: list | None = None, **changes):
    if not (folder / "sft").exists():
        save_model(tiny_model("dense", VOCAB, 120), folder / "sft", TOKENIZER)
    path = write(folder / "rows.jsonl", data or rows(60))
    ctx = context(folder, {"sft": folder / "sft", "preferences": path})
    optimizer = OptimizerConfig("adamw", learning_rate=3e-3, matrix_rate=3e-3)
    given_ = {"steps": 40, "pairs": 8, "heldout": 0.25, "optimizer": optimizer} | changes
    return reward.run(RewardConfig(**given_), ctx), ctx


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_what_was_preferred_gets_more(tmp_path: Path, lora: LoraConfig | None) -> None:
    found, ctx = run(tmp_path, lora=lora)
    assert found["pair_accuracy"] > 0.8 and 0 <= found["calibration_error"] <= 1
    assert abs(found["length_correlation"]) <= 1 and found["mean_confidence"] > 0.5
    made = load_reward(ctx.out)
    row = rows(60)[3]
    good, bad = made.score([row["prompt"]] * 2, [row["chosen"], row["rejected"]])
    alone = made.score([row["prompt"]], [row["chosen"]])
    assert good > bad and alone[0] == pytest.approx(good, abs=1e-5)


def test_a_chat_model_is_no_reward_model(tmp_path: Path) -> None:
    save_model(tiny_model("dense", VOCAB, 120), tmp_path / "sft", TOKENIZER)
    with pytest.raises(CheckpointError, match="it is no reward model; train one with `qwill reward`"):
        load_reward(tmp_path / "sft")


def test_calibration_by_hand() -> None:
    made = pairs()
    difference = torch.tensor([2.0, 2, 2, 2, -2, 0.5, 0.5, -0.5]).double()
    found = reward_scores(made, torch.stack([difference, torch.zeros(8).double()], 1))
    sure = 1 / (1 + np.exp(-np.abs(difference.numpy())))
    order = np.argsort(sure, kind="stable")
    right = difference.numpy() > 0
    assert found.pairs.accuracy == pytest.approx(6 / 8)
    assert found.confidence == pytest.approx(sure.mean())
    assert found.calibration == pytest.approx(abs(right[order].mean() - sure.mean()))  # eight pairs are one bin


def test_spearman_with_ties() -> None:
    a, b = np.array([1.0, 2, 2, 5]), np.array([3.0, 1, 4, 9])
    ranks = np.array([1, 2.5, 2.5, 4]), np.array([2.0, 1, 3, 4])
    assert spearman(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert spearman(np.ones(3), np.arange(3.0)) == 0


def test_bad_rows_are_named(tmp_path: Path) -> None:
    data = rows(5)
    data[1]["margin"] = "much"
    with pytest.raises(DataError, match=r"line 2: margin: expected a number"):
        run(tmp_path, data)
    assert math.isfinite(RewardConfig().centring)

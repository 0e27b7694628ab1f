"""Rewards of steps: the gradient is the definition's however an update is cut, it learns, bad rows are refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.align.preference_rows import TOKENIZER, VOCAB, write
from tests.engine.tiny import tiny_model
from tests.train.tiny_training import ROUNDING, context
from torch import nn

from qwill.align import reward
from qwill.align.preference_examples import PreferenceStep
from qwill.align.preference_losses import right_or_wrong
from qwill.align.reward import load_reward
from qwill.align.settings import RewardConfig
from qwill.align.step_rewards import JudgedSteps, StepTraining, render_steps, score_steps, steps_told
from qwill.base.errors import DataError
from qwill.base.files import read_json
from qwill.model.batch import Batch
from qwill.model.files import save_model
from qwill.train.settings import OptimizerConfig


def rows(count: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """Steps in small letters are right, steps in capitals wrong."""
    draw = random.Random(seed)
    made = []
    for i in range(count):
        right = [draw.random() < 0.6 for _ in range(draw.randint(1, 4))]
        steps = ["".join(draw.choices("abcdef" if ok else "ABCDEF", k=draw.randint(1, 5))) for ok in right]
        prompt: Any = f"{i}?" if i % 2 else [{"role": "user", "content": f"{i}?"}]
        made.append({"id": f"s{i}", "prompt": prompt, "completions": steps, "labels": right})
    return made


def units(count: int = 6) -> list[JudgedSteps]:
    return [
        JudgedSteps(row["id"], render_steps(row["prompt"], row["completions"], TOKENIZER), tuple(row["labels"]))
        for row in rows(count)
    ]


def test_each_step_is_marked_at_its_end() -> None:
    reply = render_steps("1+1?", ["one", "二"], TOKENIZER)
    (example,) = reply.examples
    assert TOKENIZER.decode(example.ids, False) == "1+1?one\n二\n"
    ends = [i for i, m in enumerate(example.loss_mask) if m]
    assert [TOKENIZER.decode(example.ids[: i + 1], False) for i in ends] == ["1+1?one\n", "1+1?one\n二\n"]
    chat = render_steps([{"role": "user", "content": "Hi"}], ["a"], TOKENIZER).examples[0]
    assert TOKENIZER.decode(chat.ids, False).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\na\n")


def training(kind: str, **changes: Any) -> StepTraining:
    model = tiny_model(kind, VOCAB, 120).double()
    score = torch.randn(32, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.3
    model.register_parameter("score", nn.Parameter(score))
    return StepTraining(model, units(), RewardConfig(**changes))


@pytest.mark.parametrize("kind", ["dense", "moe"])
@settings(max_examples=5, deadline=None)
@given(most=st.integers(1, 300), chosen=st.permutations(range(6)))
def test_gradients_are_the_definitions_however_an_update_is_cut(kind: str, most: int, chosen: list[int]) -> None:
    work = training(kind, train_tokens=most)
    done = work.compute(PreferenceStep(chosen[:4], "", 0))
    made = {n: p.grad.clone() for n, p in work.model.named_parameters() if p.grad is not None}
    work.model.zero_grad()
    losses, said = [], []
    for i in chosen[:4]:
        (example,) = work.units[i].reply.examples
        hidden = work.model(Batch.pack([example.ids])).hidden_ND
        ends = [j for j, m in enumerate(example.loss_mask) if m]
        for j, right in zip(ends, work.units[i].right, strict=True):
            chance = torch.sigmoid(hidden[j] @ work.model.get_parameter("score"))
            losses.append(-torch.log(chance if right else 1 - chance))
            said.append(bool(chance > 0.5) == right)
    loss = torch.stack(losses).mean()
    loss.backward()
    assert done.loss == pytest.approx(float(loss.detach()), rel=ROUNDING[kind])
    assert done.more["accuracy"] == pytest.approx(sum(said) / len(said))
    for name, p in work.model.named_parameters():
        if p.grad is not None:
            assert float((made[name] - p.grad).norm()) <= 10 * ROUNDING[kind] * (1 + float(p.grad.norm())), name


def test_scores_do_not_depend_on_what_is_packed_together() -> None:
    work = training("dense")
    score, replies = work.model.get_parameter("score").detach(), [u.reply for u in work.units]
    alone = [score_steps(work.model, score, [reply], 1)[0] for reply in replies]
    for most in (1, 40, 10_000):
        together = score_steps(work.model, score, replies, most)
        assert [len(x) for x in together] == [len(u.right) for u in work.units]
        torch.testing.assert_close(flat(together), flat(alone), atol=1e-9, rtol=0)


def flat(logits: list[list[float]]) -> torch.Tensor:
    return torch.tensor([x for row in logits for x in row])


def test_the_loss_is_that_of_a_coin_at_zero_and_never_infinite() -> None:
    logit, right = torch.tensor([0.0, 800.0, -800.0, 800.0]), torch.tensor([True, True, False, False])
    torch.testing.assert_close(right_or_wrong(logit, right), torch.tensor([0.6931472, 0.0, 0.0, 800.0]))


def test_what_is_told_of_steps() -> None:
    made = [JudgedSteps("a", units(1)[0].reply, (True, False, False)), JudgedSteps("b", units(1)[0].reply, (True,))]
    told = steps_told(made, [[2.0, -1.0, 3.0], [-1.0]])
    assert told["steps"] == 4 and told["step_accuracy"] == 0.5 and told["always_right"] == 0.5
    assert told["first_error"] == 0.5  # of the first reply the first wrong step was found


def test_the_stage_learns_which_steps_are_right(tmp_path: Path) -> None:
    save_model(tiny_model("dense", VOCAB, 120), tmp_path / "start", TOKENIZER)
    inputs = {"sft": tmp_path / "start", "preferences": write(tmp_path / "steps.jsonl", rows(150))}
    optimizer = OptimizerConfig(optimizer="adamw", learning_rate=3e-3, matrix_rate=3e-3)
    config = RewardConfig(steps=80, pairs=16, heldout=0.3, optimizer=optimizer)
    ctx = context(tmp_path / "run", inputs)
    metrics = reward.run(config, ctx)
    assert metrics["replies"] + read_json(ctx.out / "training.json")["heldout"] == 150
    assert metrics["step_accuracy"] > 0.9 > metrics["always_right"] and metrics["brier"] < 0.1
    model = load_reward(ctx.out)
    good, bad = model.score_steps("7?", ["abc", "ABC"])
    assert good > 0.5 > bad
    assert model.score_steps("7?", ["abc"]) == pytest.approx([good])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "", "completions": ["a"], "labels": [True]}, "prompt: expected text or a list of messages"),
        ({"prompt": ["a"], "completions": ["a"], "labels": [True]}, "prompt: expected"),
        ({"prompt": "a", "completions": [], "labels": []}, "completions: expected a list of at least one step"),
        ({"prompt": "a", "completions": ["a", " "], "labels": [True, True]}, "completions: step 2 is empty"),
        ({"prompt": "a", "completions": [1], "labels": [True]}, "completions: step 1 is int"),
        ({"prompt": "a", "completions": ["a"], "labels": [1]}, "labels: expected a list of true and false"),
        ({"prompt": "a", "completions": ["a"], "labels": [True, False]}, "labels: 2 for 1 steps"),
        ({"prompt": [{"role": "robot", "content": "a"}], "completions": ["a"], "labels": [True]}, "role 'robot'"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "completions: expected a list"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    save_model(tiny_model("dense", VOCAB, 120), tmp_path / "start", TOKENIZER)
    path = write(tmp_path / "steps.jsonl", [*rows(2), row])
    with pytest.raises(DataError, match=words) as caught:
        reward.run(RewardConfig(steps=1), context(tmp_path / "run", {"sft": tmp_path / "start", "preferences": path}))
    assert str(caught.value).startswith(f"{path}: line 3: ") and "\n" not in str(caught.value)


def test_labels_of_one_kind_teach_nothing(tmp_path: Path) -> None:
    save_model(tiny_model("dense", VOCAB, 120), tmp_path / "start", TOKENIZER)
    path = write(tmp_path / "steps.jsonl", [row | {"labels": [True] * len(row["labels"])} for row in rows(5)])
    inputs = {"sft": tmp_path / "start", "preferences": path}
    with pytest.raises(DataError, match="every label is the same"):
        reward.run(RewardConfig(steps=1, heldout=0), context(tmp_path / "run", inputs))
    with pytest.raises(DataError, match=r"nothing is left to train on .*5 of more than 3 tokens"):
        reward.run(RewardConfig(steps=1, heldout=0, max_tokens=3), context(tmp_path / "run2", inputs))

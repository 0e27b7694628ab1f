"""Distillation: the divergence and its gradient by their definition, own and the teacher's replies, that the student
comes nearer, and a teacher with another vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.align.preference_rows import TOKENIZER, VOCAB, write
from tests.engine.tiny import tiny_model
from tests.train.tiny_training import context

from qwill.align import distill
from qwill.align.distill import Distillation, divergence, same_vocabulary
from qwill.align.distillation_losses import generalised_jsd
from qwill.align.settings import DistillConfig
from qwill.base.errors import ConfigError, DataError
from qwill.model.batch import Batch
from qwill.model.files import load_model, save_model
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters
from qwill.train.settings import OptimizerConfig


def config(**changes: Any) -> DistillConfig:
    optimizer = OptimizerConfig("adamw", learning_rate=3e-3, matrix_rate=3e-3)
    return DistillConfig(**{"steps": 4, "prompts": 3, "max_tokens": 8, "optimizer": optimizer} | changes)


def prompts() -> list[dict[str, Any]]:
    return [{"id": str(i), "prompt": f"{i}?", "language": ("en", "zh")[i % 2]} for i in range(6)]


def work(settings: DistillConfig, kind: str = "dense") -> Distillation:
    student, teacher = tiny_model(kind, VOCAB, 100).double(), tiny_model("moe", VOCAB, 100, seed=4).double()
    return Distillation(student, teacher, TOKENIZER, prompts(), settings, 0)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("most", [20, 10_000])
def test_gradients_are_the_definitions(beta: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "CHUNK", 7)
    made = work(config(beta=beta, divergence_temperature=1.3, train_tokens=most), "moe")
    step = made.step_data(2)
    done = made.compute(step)
    total = torch.zeros((), dtype=torch.float64)
    twin = work(made.config, "moe").student
    for r in step.rollouts:
        at = slice(r.start - 1, -1)
        ours = twin.head(twin(Batch.pack([r.ids])).hidden_ND[at])[:, : TOKENIZER.vocab_size]
        theirs = made.teacher.head(made.teacher(Batch.pack([r.ids])).hidden_ND[at])[:, : TOKENIZER.vocab_size].detach()
        total = total + generalised_jsd(ours, theirs, beta, 1.3).sum() / step.tokens
    total.backward()
    assert done.loss == pytest.approx(float(total.detach()), rel=1e-6)
    for p, q in zip(made.student.parameters(), twin.parameters(), strict=True):
        if q.grad is not None:
            assert float((p.grad - q.grad).norm()) <= 1e-6 * (1 + float(q.grad.norm()))
    assert all(p.grad is None for p in made.teacher.parameters())


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    made = work(config())
    made.teacher = made.student
    assert abs(made.compute(made.step_data(0)).loss) < 1e-9


def test_widths_may_differ() -> None:
    g = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(5, 8, generator=g), torch.randn(5, 12, generator=g)
    a, b = torch.randn(9, 8, generator=g), torch.randn(9, 12, generator=g)
    expected = generalised_jsd(ours @ a.T, theirs @ b.T, 0.5).sum()
    torch.testing.assert_close(divergence(ours, a, theirs, b, 0.5, 1.0), expected)


def test_whose_replies_they_are() -> None:
    for share, own in ((1.0, {True}), (0.0, {False}), (0.5, {True, False})):
        made = work(config(on_policy=share))
        assert {made.step_data(i).own for i in range(8)} == own
    student, teacher = (work(config(on_policy=share)).step_data(0).rollouts for share in (1.0, 0.0))
    assert [r.ids for r in student] != [r.ids for r in teacher]


def run(folder: Path, **changes: Any):
    for name, seed in (("student", 0), ("teacher", 4)):
        if not (folder / name).exists():
            save_model(tiny_model("dense", VOCAB, 100, seed), folder / name, TOKENIZER)
    path = write(folder / "p.jsonl", prompts())
    ctx = context(folder, {"sft": folder / "student", "teacher": folder / "teacher", "tasks": path})
    return distill.run(config(**changes), ctx), ctx


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_student_comes_nearer(tmp_path: Path, beta: float) -> None:
    found, ctx = run(tmp_path, beta=beta, steps=40, samples=4)
    assert found["divergence_last"] < 0.7 * found["divergence_first"]
    load_model(ctx.out)


def test_a_teacher_with_another_vocabulary_is_refused() -> None:
    same_vocabulary(TOKENIZER, TOKENIZER, "t")
    turned = {to_characters(bytes([b])): 255 - b for b in range(256)}
    for other, said in (
        (Tokenizer.from_trained(turned, []), r"t: token 0 is .* to the teacher and .* to the student"),
        (Tokenizer.from_trained({to_characters(bytes([b])): b for b in range(256)} | {"ab": 256}, [("a", "b")]),
         "vocabulary has"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            same_vocabulary(TOKENIZER, other, "t")


@pytest.mark.parametrize("changes", [{"beta": 1.1}, {"on_policy": -0.1}, {"samples": 0}])
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        config(**changes)

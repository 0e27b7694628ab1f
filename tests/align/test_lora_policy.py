"""LoRA in reinforcement learning and distillation: rollouts are the trainer's, the start is the model without the
adapter and takes no memory of its own, only adapters change, and a run that was cut off ends as one that wasn't."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.align.tiny_rl import TOKENIZER, by_length, config, model, rows, until_cut
from tests.train.tiny_training import Killed, context
from torch import Tensor

from qwill.align import distill, grpo, sample_rollouts
from qwill.align.policy_update import logprobs_of, update
from qwill.align.sample_rollouts import roll_out
from qwill.align.settings import DistillConfig, GRPOConfig, PPOConfig
from qwill.base.config import to_dict
from qwill.base.files import read_json, write_jsonl
from qwill.engine import native
from qwill.engine.executor import TorchExecutor
from qwill.model.files import load_model, save_model
from qwill.model.lora import attach, detach, merge, new_adapter
from qwill.model.lora_config import LoraConfig
from qwill.model.lora_files import load_adapter
from qwill.model.transformer import Transformer
from qwill.model.twin import twin
from qwill.train.optim import make_optimizers
from qwill.train.settings import OptimizerConfig

LORA = LoraConfig(rank=3, alpha=6)
FAST = OptimizerConfig("adamw", learning_rate=2e-2, matrix_rate=2e-2)


def adapted(kind: str, size: float = 0.3, alpha: float = LORA.alpha) -> Transformer:
    """With an adapter that changes a lot."""
    made = model(kind)
    adapter = new_adapter(made, replace(LORA, alpha=alpha), torch.Generator().manual_seed(5))
    with torch.no_grad():
        for part in adapter.parts.values():
            part.b.normal_(0, size, generator=torch.Generator().manual_seed(6))
    attach(made, adapter)
    return made


@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("own_code", [True, False])
def test_rollouts_are_of_the_adapted_model_and_leave_it_alone(
    kind: str, own_code: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_rollouts, "verify", by_length)
    if not own_code:
        monkeypatch.setattr(native, "suits", lambda model: False)
    made, settings = adapted(kind), config(lora=LORA, temperature=0.8)
    before = {name: p.clone() for name, p in made.named_parameters()}
    groups = roll_out(made, TOKENIZER, rows(5), settings, step=1, seed=2)
    every = [r for g in groups for r in g]
    assert made.adapter is not None and all(p.requires_grad for n, p in made.named_parameters() if ".updates." in n)
    for name, p in made.named_parameters():
        assert torch.equal(p, before[name]) and p.requires_grad == (".updates." in name)
    for r in every:
        r.advantage = 1.0
    with torch.no_grad():
        logits = [made.logits(torch.tensor([r.ids]))[0, r.start - 1 : -1].double() / 0.8 for r in every]
    scale = max(float(x.abs().max()) for x in logits)
    for r, rows_TV in zip(every, logits, strict=True):
        expected = rows_TV.log_softmax(-1)[torch.arange(len(rows_TV)), r.ids[r.start :]]
        assert float((torch.tensor(r.logprobs).double() - expected).abs().max()) <= 1e-5 * scale
    plain = roll_out(twin(made), TOKENIZER, rows(5), settings, step=1, seed=2)
    assert [r.ids for g in plain for r in g] != [r.ids for r in every], "the adapter does something"
    assert update(made, make_optimizers(made, FAST), every, settings)["gap"] <= 1e-5 * scale


@pytest.mark.skipif(not native.suits(model("dense")), reason="needs native code")
def test_native_code_computes_with_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchExecutor, "run", lambda *_: pytest.fail("the slow way"))
    monkeypatch.setattr(sample_rollouts, "verify", by_length)
    roll_out(adapted("moe"), TOKENIZER, rows(2), config(lora=LORA), step=1, seed=2)


@pytest.mark.skipif(not native.suits(model("dense")), reason="needs native code")
@pytest.mark.parametrize("alpha", [6, 5])
def test_the_engine_sums_in_the_order_of_training(alpha: float) -> None:
    """The adapter's product is added to the base's before the residual stream; the other way is 6e-6 to 8e-6 here."""
    made, settings = adapted("dense", alpha=alpha), config(temperature=0.8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_rollouts, "verify", by_length)
        every = [r for g in roll_out(made, TOKENIZER, rows(5), settings, step=1, seed=2) for r in g]
    for r, own in zip(every, logprobs_of(made, every, settings), strict=True):
        assert own == pytest.approx(r.logprobs, abs=1e-6)


def test_a_twin_has_the_same_memory_and_no_adapter() -> None:
    made = adapted("moe")
    other = twin(made)
    held = {p.data_ptr() for n, p in made.named_parameters() if ".updates." not in n}
    assert {p.data_ptr() for p in other.parameters()} == held and other.adapter is None
    tokens = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        seen = other.logits(tokens)
        assert torch.equal(seen, model("moe").logits(tokens)) and not torch.equal(seen, made.logits(tokens))
        merge(made, made.adapter)  # type: ignore[arg-type]
        assert torch.equal(other.logits(tokens), made.logits(tokens)), "weights are shared, merged ones, too"
    assert made.adapter is None


def stage(folder: Path, settings: Any, cut: int | None = None, **inputs: Path) -> tuple[Any, Any]:
    if not (folder / "sft").exists():
        save_model(model("dense"), folder / "sft", TOKENIZER)
        write_jsonl(folder / "rl.jsonl", rows())
    ctx = context(folder, {"sft": folder / "sft", "tasks": folder / "rl.jsonl"} | inputs)

    def saving(*arguments: Any, **named: Any) -> Any:
        return original(*arguments, **named | {"checkpoint_seconds": 0.0})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_rollouts, "verify", by_length)
        patch.setattr(grpo, "roll_out", until_cut(cut))
        original = grpo.train_grpo
        patch.setattr(grpo, "train_grpo", saving)
        patch.setattr("qwill.engine.language_model.Tokenizer.load", lambda _: TOKENIZER)
        module = distill if isinstance(settings, DistillConfig) else grpo
        return module.run(settings, ctx), ctx


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in load_model(folder).named_parameters()}


SETTINGS: dict[str, GRPOConfig] = {
    "grpo": config(lora=LORA, kl=0.05, optimizer=FAST),
    "ppo": PPOConfig(steps=4, prompts=3, samples=6, max_tokens=10, optimizer=FAST, critic=FAST, lora=LORA, kl=0.05),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_comes_out_is_the_start_with_the_adapter_in_it(name: str, tmp_path: Path) -> None:
    loaded: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        load = grpo.load
        patch.setattr(grpo, "load", lambda *a, **k: (loaded.append(a), load(*a, **k))[1])
        found, ctx = stage(tmp_path, SETTINGS[name])
    assert len(loaded) == 1, "the start is the model without its adapter, and no second copy"
    assert found["largest_logprob_gap"] < 1e-4
    curve = read_json(ctx.out / "training.json")["curve"]
    assert curve[0]["kl_start"] == pytest.approx(0, abs=1e-6) and curve[-1]["kl_start"] > 1e-4
    start, end = load_model(tmp_path / "sft"), tensors(ctx.out)
    assert torch.equal(end["embed_tokens.weight"], start.embed_tokens.weight)
    merge(start, load_adapter(start, ctx.out / "adapter"))
    for key, p in start.named_parameters():
        torch.testing.assert_close(end[key], p.detach())


@pytest.mark.parametrize("name", SETTINGS)
def test_an_interrupted_run_ends_as_one_that_was_not(name: str, tmp_path: Path) -> None:
    _, whole = stage(tmp_path / "whole", SETTINGS[name])
    for cut in (1, 3):
        with pytest.raises(Killed):
            stage(tmp_path / "cut", SETTINGS[name], cut)
    _, other = stage(tmp_path / "cut", SETTINGS[name])
    a, b = tensors(whole.out), tensors(other.out)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert read_json(whole.out / "training.json") == read_json(other.out / "training.json")


def test_the_start_is_what_the_adapter_is_measured_against() -> None:
    made, settings = adapted("dense"), config(lora=LORA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_rollouts, "verify", by_length)
        every = [r for g in roll_out(made, TOKENIZER, rows(2), settings, step=0, seed=0) for r in g]
    seen = logprobs_of(twin(made), every, settings)
    detach(made)
    assert seen == logprobs_of(made, every, settings)


def test_a_student_learns_in_an_adapter(tmp_path: Path) -> None:
    save_model(model("dense", seed=4), tmp_path / "teacher", TOKENIZER)
    settings = DistillConfig(steps=30, prompts=3, samples=4, max_tokens=8, optimizer=FAST, lora=LORA)
    found, ctx = stage(tmp_path, settings, teacher=tmp_path / "teacher")
    assert found["divergence_last"] < 0.9 * found["divergence_first"]
    start, end = load_model(tmp_path / "sft"), tensors(ctx.out)
    merge(start, load_adapter(start, ctx.out / "adapter"))
    for key, p in start.named_parameters():
        torch.testing.assert_close(end[key], p.detach())


@pytest.mark.parametrize("kind", [GRPOConfig, PPOConfig, DistillConfig])
def test_recipes_without_an_adapter_keep_their_ids(kind: type) -> None:
    assert "lora" not in to_dict(kind()) and to_dict(kind(lora=LORA))["lora"]["rank"] == 3

"""QLoRA: an adapter trained on integers. Its gradient is that on the floats that they stand for, in every stage; the
integers stay what they are; what comes out is the merged floats; a run that was cut off ends as one that wasn't."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.align import preference_rows
from tests.align.tiny_rl import TOKENIZER, by_length, model, rows
from tests.train.tiny_training import Killed, context
from torch import Tensor

from qwill.align import distill, grpo, offline, reward, sample_rollouts
from qwill.align.policy_update import update
from qwill.align.rounded import rollout_weights
from qwill.align.sample_rollouts import roll_out
from qwill.align.settings import DistillConfig, GRPOConfig, PPOConfig, PreferenceConfig, RewardConfig
from qwill.base.errors import ConfigError, ModelError
from qwill.base.files import write_jsonl
from qwill.engine.language_model import load
from qwill.model.files import load_model, save_model
from qwill.model.lora import LowRank, attach, merge, new_adapter
from qwill.model.lora_config import LoraConfig
from qwill.model.lora_files import load_adapter
from qwill.model.project import Quantized
from qwill.model.quantize import Scheme, quantize_folder
from qwill.model.transformer import Transformer, balancing_loss
from qwill.model.twin import twin
from qwill.train import sft
from qwill.train.optim import make_optimizers
from qwill.train.recompute import recomputing
from qwill.train.settings import OptimizerConfig, SFTConfig, StepConfig

SCHEMES = {
    "int8": Scheme(8, None, "int-quantized"), "int4": Scheme(4, 8, "pack-quantized"),
}  # fmt: skip
LORA = LoraConfig(rank=3, alpha=6)
FAST = OptimizerConfig("adamw", learning_rate=2e-2, matrix_rate=2e-2)


def quantized(folder: Path, kind: str = "dense", scheme: str = "int8") -> Path:
    if not (folder / "sft").exists():
        save_model(model(kind), folder / "floats", TOKENIZER)
        quantize_folder(folder / "floats", folder / "sft", scheme=SCHEMES[scheme])
    return folder / "sft"


def attached(made: Transformer) -> Transformer:
    adapter = new_adapter(made, LORA, torch.Generator().manual_seed(5))
    with torch.no_grad():
        for part in adapter.parts.values():
            part.b.normal_(0, 0.3, generator=torch.Generator().manual_seed(6))
    attach(made, adapter)
    return made


def codes(made: Transformer) -> dict[str, Tensor]:
    return {n: b.clone() for n, m in made.named_modules() if isinstance(m, Quantized) for n, b in m.named_buffers(n)}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("recompute", ["none", "layer"])
@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-6), ("float32", 1e-5)])
def test_gradients_are_those_on_the_floats(
    tmp_path: Path, scheme: str, kind: str, recompute: Any, dtype: str, limit: float
) -> None:
    folder = quantized(tmp_path, kind, scheme)
    held = attached(load_model(folder, dtype, quantized=True))
    plain = attached(load_model(folder, dtype))
    before = codes(held)
    assert before and not any(isinstance(m, Quantized) for m in plain.modules())
    if dtype == "float64":  # the floats of a file are float32; what the codes stand for is not
        for name, m in held.named_modules():
            if isinstance(m, Quantized):
                plain.get_parameter(name).data = m.dense(torch.float64)
    tokens = torch.randint(0, 250, (3, 17), generator=torch.Generator().manual_seed(1))
    seen = []
    for made in (held, plain):
        given = made.embed_tokens.weight.detach().clone().requires_grad_()  # as a stand-in for what comes from below
        made.embed_tokens.weight.data = given.data
        made.embed_tokens.weight.requires_grad_()
        with recomputing(made, recompute):
            output = made(made_batch(tokens))
            logits = made.head(output.hidden_ND)
            loss = torch.nn.functional.cross_entropy(logits.double(), tokens.flatten().roll(-1))
            if output.router_stats:
                loss = loss + 0.1 * balancing_loss(output.router_stats)
            loss.backward()
        seen.append({n: p.grad for n, p in made.named_parameters() if p.grad is not None})
    assert any(".updates." in n for n in seen[0]) and "embed_tokens.weight" in seen[0]
    assert seen[0].keys() == seen[1].keys()
    for name, own in seen[0].items():
        assert float((own - seen[1][name]).norm()) <= limit * (1e-3 + float(seen[1][name].norm())), name
    after = codes(held)
    assert all(torch.equal(before[n], after[n]) for n in before)


def made_batch(tokens: Tensor) -> Any:
    from qwill.model.batch import Batch

    return Batch.rows(tokens)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rollouts_are_the_trainers(tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_rollouts, "verify", by_length)
    folder = quantized(tmp_path, "moe", scheme)
    made = attached(load(folder, weights="stored").model)
    settings = GRPOConfig(steps=1, prompts=3, samples=6, max_tokens=10, lora=LORA)
    for dtype, most in (("same", 1e-5), ("int8", 0.2)):
        weights = rollout_weights(made, dtype)()  # type: ignore[arg-type]
        every = [r for g in roll_out(weights, TOKENIZER, rows(3), settings, step=1, seed=2) for r in g]
        for i, r in enumerate(every):
            r.advantage = (-1.0) ** i
        optimizers = make_optimizers(made, OptimizerConfig("adamw", learning_rate=1e-12, matrix_rate=1e-12))
        numbers = update(made, optimizers, every, settings)
        assert numbers["gap" if dtype == "same" else "gap_mean"] <= most  # without the adapter the mean is 3 to 4
    # What was rounded for rollouts is the same memory where it is integers already.
    mine = {b.data_ptr() for m in made.modules() if isinstance(m, Quantized) for b in m.buffers()}
    assert {b.data_ptr() for m in twin(made).modules() if isinstance(m, Quantized) for b in m.buffers()} == mine


def stage(name: str, folder: Path, scheme: str = "int8", start: Path | None = None, **changes: Any) -> Any:
    """One stage of a few steps on a quantised start."""
    folder.mkdir(exist_ok=True)
    path = start or quantized(folder, scheme=scheme)
    inputs, given = {"sft": path, "tasks": folder / "rl.jsonl"}, {"optimizer": FAST, "lora": LORA} | changes
    write_jsonl(folder / "rl.jsonl", rows())
    settings: Any
    if name == "sft":
        draw, talk = random.Random(1), []
        for _ in range(9):
            a, b = draw.randrange(50), draw.randrange(50)
            said = [{"role": "user", "content": f"{a}+{b}"}, {"role": "assistant", "content": str(a + b)}]
            talk.append({"messages": said})
        (folder / "dialogues").mkdir(exist_ok=True)
        write_jsonl(folder / "dialogues" / "train.jsonl", talk[:6])
        write_jsonl(folder / "dialogues" / "heldout.jsonl", talk[6:])
        inputs = {"base": path, "dialogues": folder / "dialogues"}
        module, settings = sft, SFTConfig(steps=4, batch_tokens=160, max_tokens=100, **given)
    elif name in ("dpo", "reward"):
        inputs["preferences"] = preference_rows.write(folder / "pairs.jsonl", preference_rows.rows(20))
        kind = PreferenceConfig if name == "dpo" else RewardConfig
        module = offline if name == "dpo" else reward
        settings = kind(steps=4, pairs=4, heldout=0.2, **given)
    elif name == "distill":
        save_model(model("dense", seed=4), folder / "teacher", TOKENIZER)
        inputs["teacher"] = folder / "teacher"
        module, settings = distill, DistillConfig(steps=4, prompts=3, max_tokens=8, **given)
    else:
        kind = PPOConfig if name == "ppo" else GRPOConfig
        module, settings = grpo, kind(steps=4, prompts=3, samples=6, max_tokens=10, kl=0.05, **given)
    ctx = context(folder, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_rollouts, "verify", by_length)
        patch.setattr("qwill.engine.language_model.Tokenizer.load", lambda _: TOKENIZER)
        return module.run(settings, ctx), ctx


STAGES = ("sft", "dpo", "reward", "grpo", "ppo", "distill")


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_trains_an_adapter_on_integers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Transformer] = []
    original = LowRank.forward
    monkeypatch.setattr(LowRank, "forward", lambda self, *a: (trained.append(self), original(self, *a))[1])  # type: ignore[func-returns-value]
    _, ctx = stage(name, tmp_path, "int4" if name in ("sft", "grpo") else "int8")
    assert trained
    out, start = load_model(ctx.out), load_model(tmp_path / "sft")
    adapter = load_adapter(start, ctx.out / "adapter")
    assert any(float(part.b.detach().abs().max()) > 0 for part in adapter.parts.values())
    merge(start, adapter)
    for (key, p), q in zip(out.named_parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=key)
    checkpoint = load_file(sorted(ctx.work.glob("*.safetensors"))[-1])
    assert all(".updates." in key or "score" in key for key in checkpoint), "integers are not written again and again"


@pytest.mark.parametrize("name", STAGES)
def test_training_integers_themselves_is_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sft is quantised, and integers can't be trained; add `lora: .*` to train"):
        stage(name, tmp_path, lora=None)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    _, whole = stage("sft", tmp_path / "whole", step=StepConfig(recompute="layer"))
    original, pack = sft.train, sft.pack_examples
    monkeypatch.setattr(sft, "train", lambda *a, **k: original(*a, **k, checkpoint_seconds=0.0))
    count = 0

    def dying(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise Killed
        return pack(*arguments)

    monkeypatch.setattr(sft, "pack_examples", dying)
    with pytest.raises(Killed):
        stage("sft", tmp_path / "cut", step=StepConfig(recompute="layer"))
    _, other = stage("sft", tmp_path / "cut", step=StepConfig(recompute="layer"))
    a, b = load_model(whole.out), load_model(other.out)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_merged_floats_are_written_in_parts(tmp_path: Path) -> None:
    made = attached(load_model(quantized(tmp_path, "moe", "int4"), quantized=True))
    with pytest.raises(ModelError, match="held quantised"):
        save_model(made, tmp_path / "no")
    save_model(made, tmp_path / "merged", merged=True, shard_bytes=20_000)
    assert len(list((tmp_path / "merged").glob("*.safetensors"))) > 3
    tokens = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(tmp_path / "merged").logits(tokens), made.logits(tokens), atol=2e-5, rtol=1e-5
        )


def test_a_reference_is_known_by_its_integers(tmp_path: Path) -> None:
    made = load_model(quantized(tmp_path), quantized=True)
    units = preference_rows.pairs(3)
    first = offline.reference_logprobs(made, units, 999, tmp_path / "kept")
    assert torch.equal(offline.reference_logprobs(made, units, 999, tmp_path / "kept"), first)
    some = next(m for m in made.modules() if isinstance(m, Quantized))
    some.values[:, ::2] *= -1
    assert not torch.equal(offline.reference_logprobs(made, units, 999, tmp_path / "kept"), first)
    assert len(list((tmp_path / "kept").iterdir())) == 2

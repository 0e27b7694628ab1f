"""All examples of a task go to the engine at once, and what a model replies depends on its example alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.gguf_models import tiny
from tests.oracles.lm_eval_cases import write_checkpoint

from qwill.engine.engine import Engine
from qwill.engine.language_model import LanguageModel, load
from qwill.engine.scheduler import Scheduler, Sequence
from qwill.evaluate.run_task import EvalSettings, Evaluation, evaluate
from qwill.evaluate.task import Replying, Task
from qwill.model import Transformer, save_model
from qwill.model.initial import init_weights

WORDS = ("one", "two", "three", "四", "五", "six and more", "seven", "八", "nine " * 9, "十" * 9, "eleven", "twelve")
HYBRID: dict[str, Any] = {
    "model_type": "qwen3_next", "num_hidden_layers": 3, "partial_rotary_factor": 0.25,
    "layer_types": ("linear_attention", "full_attention", "linear_attention"), "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 12, "linear_conv_kernel_dim": 4,
}  # fmt: skip
WAYS = {
    "greedy": EvalSettings(),
    "sampled": EvalSettings(samples=3, temperature=1.0, seed=5),
    "chat": EvalSettings(chat=True, samples=2, temperature=0.8),
    "thinking": EvalSettings(chat=True, thinking=True, seed=1),
    "shots": EvalSettings(shots=2),
}


@pytest.fixture(scope="module", params=["float", "int8", "experts", "hybrid"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("model")
    if request.param == "float":
        return load(write_checkpoint(folder))
    if request.param == "hybrid":
        plain, tokenizer = tiny("qwen3")
        made = Transformer(plain.config.with_(**HYBRID))
        init_weights(made, torch.Generator().manual_seed(0))
        with torch.no_grad():
            made.embed_tokens.weight.mul_(30)  # logits that differ
        return LanguageModel(made.eval(), tokenizer, tokenizer.stop_ids)
    made, tokenizer = tiny("qwen3" if request.param == "int8" else "qwen3_moe")
    save_model(made, folder, tokenizer)
    return load(folder, weights="int8" if request.param == "int8" else "float")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """Questions of different lengths, so that replies begin and end at different times."""
    rows = [{"q": f"{word}?", "a": word} for word in WORDS]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    generate = Replying(max_tokens=12, stop=["e"], thinking_tokens=6)
    return Task(
        "asked", {"jsonl": "a.jsonl"}, "generate", prompt="{{ q }}", answer="{{ a }}", scorer="overlap",
        generate=generate, folder=tmp_path,
    )  # fmt: skip


def said(found: Evaluation) -> dict[str, Any]:
    return {row["id"]: (row["replies"], row["scores"], row["cut"]) for row in found.rows}


@pytest.mark.parametrize("way", WAYS)
def test_results_do_not_depend_on_what_is_asked_beside_them(
    model: LanguageModel, task: Task, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    preempted, restart = [0], Scheduler.restart

    def counted(self: Scheduler, victim: Sequence) -> None:
        preempted[0] += 1
        restart(self, victim)

    monkeypatch.setattr(Scheduler, "restart", counted)
    settings = WAYS[way]
    whole = said(evaluate(model, task, settings))
    assert len(whole) == len(WORDS)
    # One reply at a time, a few, and so little memory that replies are begun again.
    for slots, memory in ((1, 1 << 30), (3, 1 << 30), (64, 1 << 16)):
        assert said(evaluate(model, task, replace(settings, slots=slots, memory=memory))) == whole, (slots, memory)
    assert preempted[0] or way != "sampled"
    few = said(evaluate(model, task, replace(settings, limit=3, first=True)))
    assert few == {name: whole[name] for name in ("0", "1", "2")}


def test_a_run_that_goes_on_says_what_a_whole_one_says(model: LanguageModel, task: Task, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise Stopped

    settings, work = WAYS["sampled"], tmp_path / "work"
    with pytest.raises(Stopped):
        evaluate(model, task, settings, work, "m", stop)
    assert evaluate(model, task, settings, work, "m").rows == evaluate(model, task, settings).rows


def test_all_are_asked_at_once(model: LanguageModel, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many passes as the longest reply needs and a few for the prompts, not as many as all replies together."""
    passes, most, step = [0], [0], Engine.step

    def counted(self: Engine) -> list[Any]:
        passes[0] += 1
        found = step(self)
        most[0] = max(most[0], len(self.scheduler.running))
        return found

    monkeypatch.setattr(Engine, "step", counted)
    endless = replace(task, generate=Replying(max_tokens=12))
    evaluate(model, endless, EvalSettings(samples=2, temperature=1.0))
    assert most[0] >= 20 and passes[0] <= 20
    together, passes[0] = passes[0], 0
    evaluate(model, endless, EvalSettings(samples=2, temperature=1.0, slots=1))
    assert passes[0] > 5 * together


def test_random_numbers_of_others_are_not_drawn_from(model: LanguageModel, task: Task) -> None:
    settings = WAYS["sampled"]
    torch.manual_seed(1)
    first = said(evaluate(model, task, settings))
    torch.manual_seed(2)
    assert said(evaluate(model, task, settings)) == first

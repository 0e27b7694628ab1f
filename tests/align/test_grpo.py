"""The stage `grpo`: rollouts are what the trainer thinks they are, what earns and teaches, resuming at any step."""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.align.tiny_rl import TOKENIZER, by_length, config, model, rows, until_cut
from tests.train.tiny_training import Killed, Outcome, checkpoints, context, outcome, saved

from qwill.align import grpo, sample_rollouts
from qwill.align.grpo import train_grpo
from qwill.align.policy_update import update
from qwill.align.rollouts import Rollout, draw_prompts
from qwill.align.sample_rollouts import roll_out
from qwill.align.settings import PPOConfig
from qwill.base.errors import DataError, TrainingError
from qwill.base.files import write_jsonl
from qwill.engine.language_model import LanguageModel
from qwill.model.files import save_model
from qwill.train.loop import History
from qwill.train.optim import make_optimizers, rate_factor
from qwill.train.settings import OptimizerConfig

KINDS = ("dense", "moe")


@contextmanager
def rewards(verify: Any = by_length) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_rollouts, "verify", verify)
        yield patch


def plain_logprobs(made: torch.nn.Module, rollout: Rollout, temperature: float) -> tuple[torch.Tensor, float]:
    """(log-probabilities of the reply, largest logit) by the definition, the whole sequence at once."""
    with torch.no_grad():
        logits = made.logits(torch.tensor([rollout.ids]))[0, rollout.start - 1 : -1].double() / temperature
    logp = torch.log_softmax(logits, -1)
    return logp[torch.arange(len(logp)), rollout.ids[rollout.start :]], float(logits.abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_rollouts_and_trainer_agree_on_every_token(kind: str, temperature: float) -> None:
    made, settings_ = model(kind), config(temperature=temperature)
    with rewards():
        groups = roll_out(made, TOKENIZER, rows(5), settings_, step=3, seed=1)
    every = [r for group in groups for r in group]
    assert [len(group) for group in groups] == [6] * 5 and len({tuple(r.ids) for r in every}) > 10
    largest = 0.0
    for r in every:
        expected, scale = plain_logprobs(made, r, temperature)
        largest = max(largest, scale)
        assert len(r.logprobs) == len(expected) > 0
        assert float((torch.tensor(r.logprobs).double() - expected).abs().max()) <= 1e-5 * scale
        r.advantage = 1.0
    # What is logged in every step as the gap is this very difference, seen by the trainer.
    numbers = update(made, make_optimizers(made, settings_.optimizer), every, settings_)
    assert numbers["gap"] <= 1e-5 * largest
    assert numbers["clipped"] == 0 and numbers["kl"] == pytest.approx(0, abs=1e-6)
    sampled = [p for r in every for p in r.logprobs]
    assert numbers["entropy"] == pytest.approx(-sum(sampled) / len(sampled), rel=1e-5)
    every[7].logprobs[0] -= 0.5
    numbers = update(model(kind), make_optimizers(made, settings_.optimizer), every, settings_)
    assert numbers["gap"] == pytest.approx(0.5, abs=1e-3), "one token that disagrees is seen"


def test_every_step_and_seed_draws_replies_of_its_own() -> None:
    made = model("dense")
    with rewards():
        drawn = {
            (step, seed): [r.ids for g in roll_out(made, TOKENIZER, rows(3), config(), step, seed) for r in g]
            for step, seed in ((0, 0), (1, 0), (0, 1), (1, 1))
        }
        again = [r.ids for g in roll_out(made, TOKENIZER, rows(3), config(), 1, 1) for r in g]
    assert again == drawn[1, 1] and len({str(ids) for ids in drawn.values()}) == 4


def test_a_reply_that_ran_into_the_limit_earns_nothing() -> None:
    seen: list[str] = []

    def always_right(row: dict[str, Any], reply: str) -> bool:
        seen.append(reply)
        return True

    with rewards(always_right):
        groups = roll_out(model("dense"), TOKENIZER, rows(6), config(max_tokens=6), 0, 0)
    every = [r for g in groups for r in g]
    for r in every:
        ended = r.ids[-1] in TOKENIZER.stop_ids
        assert r.reward == float(ended) and (ended or len(r.ids) - r.start == 6)
        assert not any(t in TOKENIZER.stop_ids for t in r.ids[r.start : -1])
    assert {r.reward for r in every} == {0.0, 1.0}, "the test needs both"
    # The verifier sees the whole reply and nothing of the prompt.
    assert set(seen) == {TOKENIZER.decode(r.ids[r.start :]) for r in every if r.reward}


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    count=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_each_language_has_its_share_and_every_row_its_turn(sizes: list[int], count: int, seed: int) -> None:
    names = ["en", "fr", "zh"][: len(sizes)]
    tasks = [{"language": name, "id": i} for name, size in zip(names, sizes, strict=True) for i in range(size)]
    steps = [draw_prompts(tasks, step, count, seed) for step in range(15)]
    for chosen in steps:
        shares = Counter(tasks[i]["language"] for i in chosen)
        assert sum(shares.values()) == count
        assert max(shares[n] for n in names) - min(shares[n] for n in names) <= 1
    for name, size in zip(names, sizes, strict=True):
        mine = [i for chosen in steps for i in chosen if tasks[i]["language"] == name]
        epochs = [mine[i : i + size] for i in range(0, len(mine), size)]
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    assert steps == [draw_prompts(tasks, step, count, seed) for step in range(15)]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    tasks = [{"language": "en", "id": i} for i in range(20)]
    orders = [tuple(draw_prompts(tasks, step, 20, seed)) for step in (0, 1) for seed in (0, 1)]
    assert len(set(orders)) == 4


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3), count=st.integers(1, 9), seed=st.integers(0, 3))
def test_what_does_not_divide_goes_round_and_what_does_is_drawn_as_ever(
    sizes: list[int], count: int, seed: int
) -> None:
    names = ["en", "fr", "zh"][: len(sizes)]
    tasks = [{"language": name, "id": i} for name, size in zip(names, sizes, strict=True) for i in range(size)]
    drawn = Counter(tasks[i]["language"] for step in range(len(names)) for i in draw_prompts(tasks, step, count, seed))
    assert drawn == dict.fromkeys(names, count)
    if count % len(names) == 0:
        share = count // len(names)
        for step in range(4):
            expected = []
            for name in names:
                mine = [i for i, row in enumerate(tasks) if row["language"] == name]
                for epoch, place in (divmod(j, len(mine)) for j in range(step * share, (step + 1) * share)):
                    expected.append(random.Random(f"{seed}/grpo/{name}/{epoch}").sample(mine, len(mine))[place])
            assert draw_prompts(tasks, step, count, seed) == expected


# -- the run


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_equal_rewards_change_no_weight(tmp_path: Path, optimizer: str) -> None:
    made = model("moe")
    # Weight decay and balancing would move weights without any reward, if there were a step.
    settings_ = config(optimizer=OptimizerConfig(optimizer, weight_decay=0.1), balance=0.1)  # type: ignore[arg-type]
    with rewards(lambda row, reply: False):
        history = train_grpo(made, TOKENIZER, rows(), settings_, context(tmp_path))
    for a, b in zip(made.parameters(), model("moe").parameters(), strict=True):
        assert torch.equal(a, b)
    assert [p["useful"] for p in history.curve] == [0] * 4 == [p["gradient_norm"] for p in history.curve]
    tensors, _ = saved(checkpoints(tmp_path)[-1])
    assert not [name for name in tensors if name.startswith("optimizer")], "not even a momentum moved"


def test_only_groups_that_disagree_teach_and_their_advantages_are_centred(tmp_path: Path) -> None:
    taught: list[list[Rollout]] = []
    drawn: list[list[list[Rollout]]] = []

    def watched_update(made: Any, optimizers: Any, rollouts: list[Rollout], *more: Any) -> dict[str, float]:
        taught.append(rollouts)
        return update(made, optimizers, rollouts, *more)

    def watched_roll_out(*arguments: Any) -> list[list[Rollout]]:
        drawn.append(roll_out(*arguments))
        return drawn[-1]

    def some(row: dict[str, Any], reply: str) -> bool:
        return row["language"] == "en" and by_length(row, reply)

    settings_ = config(scale_advantages=False, prompts=4)
    with rewards(some) as patch:
        patch.setattr(grpo, "update", watched_update)
        patch.setattr(grpo, "roll_out", watched_roll_out)
        history = train_grpo(model("dense"), TOKENIZER, rows(8), settings_, context(tmp_path))
    assert len(drawn) == 4 and len(taught) >= 2
    updates = iter(taught)
    for groups, point in zip(drawn, history.curve, strict=True):
        useful = [g for g in groups if len({r.reward for r in g}) == 2]
        used = next(updates) if useful else []
        assert [id(r) for r in used] == [id(r) for g in useful for r in g]
        assert {r.language for r in used} <= {"en"}
        for g in useful:
            mean = sum(r.reward for r in g) / len(g)
            assert [r.advantage for r in g] == pytest.approx([r.reward - mean for r in g])
        every = [r for g in groups for r in g]
        assert point["useful"] == len(used) / len(every)
        assert point["reward"] == pytest.approx(sum(r.reward for r in every) / len(every))
        assert point["reward_zh"] == 0
        english = [r.reward for r in every if r.language == "en"]
        assert point["reward_en"] == pytest.approx(sum(english) / len(english))
        assert point["length"] == pytest.approx(sum(len(r.logprobs) for r in every) / len(every))
    assert next(updates, None) is None
    assert history.tokens == sum(len(r.logprobs) for groups in drawn for g in groups for r in g)


def test_the_gap_is_of_the_weights_that_made_the_rollouts_alone(tmp_path: Path) -> None:
    with rewards():
        history = train_grpo(model("moe"), TOKENIZER, rows(), config(updates=3), context(tmp_path))
    taught = [p for p in history.curve if p["useful"]]
    assert len(taught) > 1 and all(p["gap"] < 1e-4 for p in taught)
    assert all(p["kl"] > 1e-4 for p in taught), "the later updates see weights that have moved"


def run(folder: Path, kind: str, cut: int | None = None, **changes: Any) -> Outcome:
    """One attempt; where a checkpoint is there, nothing of the model in memory may survive."""
    made = model(kind, seed=99 if checkpoints(folder) else 0)

    with rewards() as patch:
        patch.setattr(grpo, "roll_out", until_cut(cut))
        history = train_grpo(made, TOKENIZER, rows(), config(**changes), context(folder), checkpoint_seconds=0)
    return outcome(folder, made, history)


@cache
def uninterrupted(kind: str, updates: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), kind, updates=updates)


@pytest.mark.parametrize(("kind", "updates"), [("dense", 1), ("moe", 2)])
@settings(max_examples=5)
@given(cuts=st.lists(st.integers(0, 3), min_size=1, max_size=2).map(sorted))
def test_an_interrupted_run_ends_as_one_that_was_not(kind: str, updates: int, cuts: Sequence[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        for cut in cuts:
            with pytest.raises(Killed):
                run(Path(name), kind, cut, updates=updates)
        whole = uninterrupted(kind, updates)
        assert run(Path(name), kind, updates=updates).differences(whole) == []
        assert [p["step"] for p in whole.history["curve"]] == [1, 2, 3, 4]


def test_rates_follow_the_schedule(tmp_path: Path) -> None:
    factors: list[float] = []
    with rewards() as patch:
        patch.setattr(grpo, "set_rates", lambda optimizers, factor: factors.append(factor))
        train_grpo(model("dense"), TOKENIZER, rows(), config(), context(tmp_path))
    assert factors == [rate_factor(step, 4, config().schedule) for step in range(4)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("updates", [1, 2])
def test_a_gradient_that_is_not_finite_stops_before_it_does_harm(tmp_path: Path, bad: float, updates: int) -> None:
    made, now = model("moe"), -1

    def noted(*arguments: Any) -> list[list[Rollout]]:
        nonlocal now
        now = arguments[4]
        return roll_out(*arguments)

    made.norm.weight.register_hook(lambda g: torch.full_like(g, bad) if now == 2 else g)
    ctx = context(tmp_path)
    with rewards() as patch, pytest.raises(TrainingError, match="the gradient of step 2 is not finite") as caught:
        patch.setattr(grpo, "roll_out", noted)
        train_grpo(made, TOKENIZER, rows(), config(updates=updates), ctx, checkpoint_seconds=0)
    first = rows()[draw_prompts(rows(), 2, 3, 0)[0]]["id"]
    sentence = str(caught.value)
    assert f"first prompt: {first}" in sentence and str(ctx.work) in sentence and "\n" not in sentence
    tensors, metadata = saved(checkpoints(tmp_path)[-1])
    assert metadata["step"] == "2" and all(bool(t.isfinite().all()) for t in tensors.values())
    for name, p in made.named_parameters():
        assert torch.equal(p, tensors[f"model.{name}"]), "the bad gradient was applied"
    assert len(ctx.metrics_path.read_text().splitlines()) == 2
    # With the trouble gone the same folder goes on to the end, as if nothing had been.
    if updates == 1:
        assert run(tmp_path, "moe").differences(uninterrupted("moe", 1)) == []


def test_more_prompts_than_problems_is_one_sentence(tmp_path: Path) -> None:
    save_model(model("dense"), tmp_path / "sft", TOKENIZER)
    write_jsonl(tmp_path / "rl.jsonl", rows(2))
    ctx = context(tmp_path / "run", {"sft": tmp_path / "sft", "tasks": tmp_path})
    with pytest.raises(DataError, match=r"grpo\.prompts is 3, but there are only 2 problems; make more tasks\."):
        grpo.run(config(), ctx)
    assert list(ctx.out.iterdir()) == []


def test_the_stage_sums_up_its_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(model("dense"), tmp_path / "sft", TOKENIZER)
    write_jsonl(tmp_path / "rl.jsonl", rows(3))
    curve = [{"step": i + 1, "reward": i / 20, "gap": 1e-6 * (i == 4)} for i in range(20)]
    monkeypatch.setattr(grpo, "train_grpo", lambda *_, **__: History(curve, tokens=9))
    ctx = context(tmp_path / "run", {"sft": tmp_path / "sft", "tasks": tmp_path})
    assert grpo.run(config(), ctx) == {
        "rollouts": 4 * 3 * 6, "reward_first": 0.0, "reward_last": round((18 / 20 + 19 / 20) / 2, 4),
        "largest_logprob_gap": 1e-6,
    }  # fmt: skip


def test_half_a_surrogate_pair_in_a_prompt_ends_no_run(tmp_path: Path) -> None:
    save_model(model("dense"), tmp_path / "sft", TOKENIZER)
    own = [row | {"prompt": f"{i} \ud83d"} for i, row in enumerate(rows())]
    (tmp_path / "rl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    ctx = context(tmp_path / "run", {"sft": tmp_path / "sft", "tasks": tmp_path / "rl.jsonl"})
    with rewards():
        grpo.run(config(steps=1), ctx)
    assert (ctx.out / "model.safetensors").is_file()
    lines = [json.loads(line) for line in (ctx.out / "rollouts.jsonl").read_text().splitlines()]
    assert {line["prompt"][1:] for line in lines} == {" \ufffd"}
    # What a run of an older Qwill had written so far is not in the way of its end either.
    shown = grpo.shown_path(ctx)
    shown.write_text(json.dumps(lines[0] | {"prompt": "\ud83d"}) + "\n")
    with rewards():
        grpo.run(config(steps=1), ctx)
    assert "\ufffd" in shown.with_suffix(".html").read_text()


def test_thinking_needs_a_model_that_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(model("dense"), tmp_path / "sft", TOKENIZER)
    write_jsonl(tmp_path / "rl.jsonl", rows())
    monkeypatch.setattr(LanguageModel, "thinks", property(lambda self: False))
    ctx = context(tmp_path / "run", {"sft": tmp_path / "sft", "tasks": tmp_path})
    for made, verb in ((config(thinking=0.5), "grpo"), (PPOConfig(**vars(config(thinking=0.5))), "ppo")):
        with pytest.raises(DataError, match=rf"sft has no <think> in its tokenizer; set {verb}\.thinking to 0\."):
            grpo.run(made, ctx)
    assert list(ctx.out.iterdir()) == []


def test_ppo_s_sentences_name_ppo(tmp_path: Path) -> None:
    save_model(model("dense"), tmp_path / "sft", TOKENIZER)
    write_jsonl(tmp_path / "rl.jsonl", rows(2))
    ctx = context(tmp_path / "run", {"sft": tmp_path / "sft", "tasks": tmp_path})
    with pytest.raises(DataError, match=r"^ppo\.prompts is 3"):
        grpo.run(PPOConfig(**vars(config())), ctx)

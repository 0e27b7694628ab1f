"""Offline preference learning: the losses on paper, what replies and masks are, resuming the stage, what is learnt, and
what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.align.preference_rows import TOKENIZER, VOCAB, pairs, rows, verdicts, write
from tests.engine.tiny import tiny_model
from tests.train.tiny_training import Killed, context
from torch import Tensor

from qwill.align import offline, preference_losses
from qwill.align.offline import Offline, PreferenceStep, reference_logprobs
from qwill.align.preference_examples import held_out, pairs_of, verdicts_of
from qwill.align.replies import Reply, pack_replies, render_reply, reply_logprobs
from qwill.align.settings import PreferenceConfig
from qwill.base.errors import ConfigError, DataError
from qwill.base.files import read_json
from qwill.base.progress import Display, human
from qwill.model.batch import Batch
from qwill.model.files import load_model, save_model
from qwill.model.lora_config import LoraConfig
from qwill.model.transformer import Transformer
from qwill.train.settings import OptimizerConfig

LOSSES = ["sigmoid", "hinge", "ipo", "robust", "exo", "normalised", "orpo", "simpo", "kto"]


def model(kind: str = "dense", seed: int = 0) -> Transformer:
    return tiny_model(kind, VOCAB, 120, seed).double()


def of(loss: str, made: Transformer, **changes) -> Offline:
    units = verdicts() if loss == "kto" else pairs()
    reference = reference_logprobs(model(seed=1), units, 10_000, None)
    beta = 2.0 if loss in ("normalised", "simpo") else 0.2
    return Offline(made, units, reference, PreferenceConfig(loss=loss, beta=beta, **changes))


def gradients(work: Offline, units: list[int]) -> tuple[list[Tensor], float, dict[str, float]]:
    work.model.zero_grad()
    done = work.compute(PreferenceStep(units, "", 0))
    made = [p.grad.clone() for p in work.model.parameters() if p.grad is not None]
    return made, done.loss, done.more


def plain_logp(made: Transformer, reply: Reply, hidden: Callable[..., Tensor] | None = None) -> tuple[Tensor, int]:
    """By the definition, one sequence alone or with what `hidden` gives: the sum over what the mask marks."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for example in reply.examples:
        states = made(Batch.pack([example.ids])).hidden_ND if hidden is None else hidden(made, example.ids)
        logits = made.head(states).log_softmax(-1)
        at = [j for j, m in enumerate(example.loss_mask) if m]
        total = total + sum(logits[j - 1, example.ids[j]] for j in at)
        count += len(at)
    return total, count


def plain_loss(work: Offline, units: list[int], hidden: Callable[..., Tensor] | None = None) -> Tensor:
    """The loss of a step as it would be written on a blackboard."""
    config, losses = work.config, []
    if config.loss == "kto":
        gap = [
            float(plain_logp(work.model, work.units[i].replies[1], hidden)[0].detach() - work.reference_U2[i, 1])
            for i in units
        ]
        point = max(0.0, sum(gap) / len(gap))
        for i in units:
            ratio = plain_logp(work.model, work.units[i].reply, hidden)[0] - work.reference_U2[i, 0]
            sign = 1 if work.units[i].desirable else -1
            losses.append(1 - torch.sigmoid(sign * config.beta * (ratio - point)))
        return torch.stack(losses).mean()
    likelihood, tokens = torch.zeros((), dtype=torch.float64), 0
    for i in units:
        (a, n), (b, m) = (plain_logp(work.model, r, hidden) for r in work.units[i].replies)
        likelihood, tokens = likelihood - a, tokens + n
        ra, rb = a - work.reference_U2[i, 0], b - work.reference_U2[i, 1]
        x = config.beta * (ra - rb)
        f = torch.nn.functional.logsigmoid
        e = config.flipped
        odds = lambda v: v - torch.log(1 - v.exp())  # noqa: E731
        losses.append({
            "sigmoid": -f(x), "hinge": torch.relu(1 - x), "ipo": (ra / n - rb / m - 1 / (2 * config.beta)) ** 2,
            "robust": (-(1 - e) * f(x) + e * f(-x)) / (1 - 2 * e),
            "exo": f(x).exp() * (f(x) - math.log(1 - e)) + f(-x).exp() * (f(-x) - math.log(e)),
            "normalised": -f(config.beta * (ra / n - rb / m)), "orpo": -config.beta * f(odds(a / n) - odds(b / m)),
            "simpo": -f(config.beta * (a / n - b / m) - config.gamma),
        }[config.loss])  # fmt: skip
    return torch.stack(losses).mean() + config.own_likelihood * likelihood / tokens


def test_reply_logprobs_do_not_depend_on_neighbours() -> None:
    made = model("moe")
    replies = [r for p in pairs() for r in p.replies]
    expected = torch.stack([plain_logp(made, r)[0].detach() for r in replies])
    for most in (1, 60, 10_000):
        torch.testing.assert_close(reply_logprobs(made, replies, most), expected, atol=1e-8, rtol=0)


def test_only_the_reply_is_trained() -> None:
    conversation = [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "before"}, {"role": "user", "content": "b"},
    ]  # fmt: skip
    said = [{"role": "assistant", "content": "after"}]
    (example,) = render_reply(conversation, said, TOKENIZER).examples
    trained = [t for t, m in zip(example.ids, example.loss_mask, strict=True) if m]
    assert trained == [*TOKENIZER.encode("after"), TOKENIZER.special("<|im_end|>")]
    assert "before" in TOKENIZER.decode(example.ids)
    plain = render_reply("once upon ", "a time", TOKENIZER).examples[0]
    assert plain.loss_mask == [0] * 10 + [1] * 7 and plain.ids[-1] == TOKENIZER.stop_ids[0]


def test_several_turns_are_one_reply() -> None:
    said = [
        {"role": "assistant", "content": "one"}, {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "two"},
    ]  # fmt: skip
    reply = render_reply([{"role": "user", "content": "a"}], said, TOKENIZER)
    assert reply.tokens == len("one") + len("two") + 2
    packed = pack_replies([reply, pairs()[0].chosen])
    made = model()
    logp = reply_logprobs(made, [reply], 1000)
    torch.testing.assert_close(logp[0], plain_logp(made, reply)[0].detach(), atol=1e-8, rtol=0)
    assert packed.replies == 2 and packed.reply_N.tolist() == [0] * reply.tokens + [1] * pairs()[0].chosen.tokens


def config(**changes) -> PreferenceConfig:
    optimizer = OptimizerConfig("adamw", learning_rate=3e-3, matrix_rate=3e-3)
    return PreferenceConfig(**{"steps": 6, "pairs": 5, "heldout": 0.25, "optimizer": optimizer} | changes)


def made_run(folder: Path, settings_: PreferenceConfig, data: list | None = None, kind: str = "dense"):
    if not (folder / "sft").exists():
        save_model(tiny_model(kind, VOCAB, 120), folder / "sft", TOKENIZER)
    path = write(folder / "rows.jsonl", data if data is not None else rows(24))
    ctx = context(folder, {"sft": folder / "sft", "preferences": path})
    return offline.run(settings_, ctx), ctx


@pytest.mark.parametrize("loss", ["sigmoid", "kto", "simpo"])
def test_what_was_preferred_becomes_likelier_on_prompts_not_seen(tmp_path: Path, loss: str) -> None:
    found, ctx = made_run(tmp_path, config(loss=loss, steps=40, beta=0.5), rows(60))
    assert found["pair_accuracy"] > 0.8 and found["heldout_pairs"] > 5
    low, high = found["pair_accuracy_95"]
    assert low < found["pair_accuracy"] <= high
    report = read_json(ctx.out / "training.json")
    assert report["curve"][0]["loss"] > report["curve"][-1]["loss"]
    load_model(ctx.out)


@pytest.mark.parametrize(("loss", "cuts"), [("sigmoid", (1, 4)), ("kto", (3,))])
def test_resuming_the_stage_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str, cuts: tuple
) -> None:
    once, other = tmp_path / "once", tmp_path / "other"
    for folder in (once, other):
        folder.mkdir()
    made_run(once, config(loss=loss))
    compute = Offline.compute
    original = offline.train
    monkeypatch.setattr(offline, "train", lambda *a, **k: original(*a, **k, checkpoint_seconds=0.0))
    train = pairs_of(write(other / "rows.jsonl", rows(24)), TOKENIZER, 1024, 0.25, 0).train
    plan = offline.plan_steps([1] * (2 * len(train) if loss == "kto" else len(train)), 6, 5, 0)
    for cut in cuts:

        def dying(self: Offline, step: PreferenceStep, cut: int = cut):
            if step.units == plan[cut]:
                raise Killed
            return compute(self, step)

        monkeypatch.setattr(Offline, "compute", dying)
        with pytest.raises(Killed):
            made_run(other, config(loss=loss))
        monkeypatch.setattr(Offline, "compute", compute)
    made_run(other, config(loss=loss))
    a, b = load_model(once / "out"), load_model(other / "out")
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert read_json(once / "out" / "training.json") == read_json(other / "out" / "training.json")


def test_an_adapter_is_trained_against_the_model_without_it(tmp_path: Path) -> None:
    found, ctx = made_run(tmp_path, config(lora=LoraConfig(rank=2), steps=30))
    assert found["pair_accuracy"] > 0.5
    assert (ctx.out / "adapter" / "adapter_config.json").is_file()
    before, after = load_model(tmp_path / "sft"), load_model(ctx.out)
    assert torch.equal(before.embed_tokens.weight, after.embed_tokens.weight)


def test_what_takes_minutes_shows_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    made, units = model(), pairs()
    tokens = sum(r.length for p in units for r in p.replies)
    reference_logprobs(made, units, 60, None, display=Display(live=False))
    assert f"reference: {human(tokens)}/{human(tokens)} token" in capsys.readouterr().err


def test_the_reference_is_read_again_only_for_the_same_weights_and_ids(tmp_path: Path) -> None:
    made, units = model(), pairs()
    first = reference_logprobs(made, units, 1000, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-8] + b"\0" * 8)  # so that reading is seen
    assert reference_logprobs(made, units, 1000, tmp_path)[-1, -1] == 0
    torch.testing.assert_close(reference_logprobs(made, units[:-1], 1000, tmp_path), first[:-1])
    with torch.no_grad():
        made.norm.weight[0] += 1e-3
    assert not torch.equal(reference_logprobs(made, units, 1000, tmp_path), first)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_prompt_is_held_out_wherever_it_stands() -> None:
    prompts = [row["prompt"] for row in rows(400)]
    out = [held_out(p, 0.25, 0) for p in prompts]
    assert 70 < sum(out) < 130 and out == [held_out(p, 0.25, 0) for p in prompts]
    assert out != [held_out(p, 0.25, 1) for p in prompts]


def broken(**changes) -> list[dict]:
    made = rows(6)
    made[2] = {k: v for k, v in (made[2] | changes).items() if v is not None}
    return made


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (broken(chosen=rows(6)[2]["rejected"]), "rows.jsonl: line 3: chosen and rejected are the same"),
        (broken(chosen=None), "line 3: chosen: expected a list of messages, found NoneType"),
        (broken(rejected="text"), "line 3: rejected: expected a list of messages, found str"),
        (broken(rejected=[]), "line 3: rejected: expected a list of messages, found an empty one"),
        (broken(prompt="text"), "line 3: prompt: expected a list of messages, found str"),
        (broken(chosen=[{"role": "user", "content": "x"}]), "line 3: prompt with chosen: message 2, role"),
        (
            broken(chosen=[{"role": "assistant", "content": " "}]),
            "line 3: prompt with chosen: message 2, content: empty",
        ),
        (broken(margin=math.nan), "line 3: margin: expected a number"),
        (broken(language=3), "line 3: language"),
        ([], "holds no preference"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, data: list, said: str) -> None:
    path = write(tmp_path / "rows.jsonl", data)
    with pytest.raises(DataError) as error:
        pairs_of(path, TOKENIZER, 1024, 0.0, 0)
    assert said in str(error.value) and str(error.value).count("\n") == 0


def test_what_is_too_long_is_counted_and_never_cut(tmp_path: Path) -> None:
    made = rows(10)
    made[4]["chosen"][0]["content"] = "long " * 40
    path = write(tmp_path / "rows.jsonl", made)
    found = pairs_of(path, TOKENIZER, 100, 0.0, 0)
    assert found.too_long == 1 and "p4" not in [p.id for p in found.train] and len(found.train) == 9
    with pytest.raises(DataError, match="nothing fits into 5 tokens; raise max_tokens"):
        pairs_of(path, TOKENIZER, 5, 0.0, 0)


def test_trl_forms(tmp_path: Path) -> None:
    """A prompt that both conversations begin with, plain text, and rows with a verdict."""
    made = rows(4)
    implicit = [{"chosen": r["prompt"] + r["chosen"], "rejected": r["prompt"] + r["rejected"]} for r in made]
    explicit, found = (
        pairs_of(write(tmp_path / name, data), TOKENIZER, 999, 0.0, 0).train
        for name, data in (("a.jsonl", made), ("b.jsonl", implicit))
    )
    assert [p.chosen for p in explicit] == [p.chosen for p in found]
    plain = [{"prompt": "a b", "chosen": " c", "rejected": " d e"}]
    (pair,) = pairs_of(write(tmp_path / "c.jsonl", plain), TOKENIZER, 999, 0.0, 0).train
    assert pair.chosen.tokens == 3 and pair.rejected.tokens == 5
    judged = [{"prompt": r["prompt"], "completion": r["chosen"], "label": i % 2 == 0} for i, r in enumerate(made)]
    wanted = verdicts_of(write(tmp_path / "d.jsonl", judged), TOKENIZER, 999, 0.0, 0).train
    assert [v.reply for v in wanted] == [p.chosen for p in explicit]
    assert [v.desirable for v in wanted] == [True, False, True, False]
    unpaired = verdicts_of(tmp_path / "a.jsonl", TOKENIZER, 999, 0.0, 0).train
    assert len(unpaired) == 8 and sum(v.desirable for v in unpaired) == 4


def test_parquet_rows_are_the_same(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    made = rows(5)
    made[1]["prompt"] = [{"role": "system", "content": "s"}, *made[1]["prompt"]]
    made[2]["chosen"][0]["reasoning_content"] = "hm"  # the others get a null
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "rows.parquet")
    path = write(tmp_path / "rows.jsonl", made)
    a, b = (pairs_of(p, TOKENIZER, 999, 0.0, 0).train for p in (path, tmp_path / "rows.parquet"))
    assert a == b


def test_verdicts_need_both_kinds_and_two_prompts(tmp_path: Path) -> None:
    judged = [{"prompt": r["prompt"], "completion": r["chosen"], "label": True} for r in rows(4)]
    with pytest.raises(DataError, match="holds no undesirable reply"):
        verdicts_of(write(tmp_path / "a.jsonl", judged), TOKENIZER, 999, 0.0, 0)
    same = [{**judged[0], "label": i == 0} for i in range(3)]
    with pytest.raises(DataError, match="at least two prompts"):
        verdicts_of(write(tmp_path / "b.jsonl", same), TOKENIZER, 999, 0.0, 0)
    with pytest.raises(DataError, match="line 1: label: expected true or false"):
        verdicts_of(write(tmp_path / "c.jsonl", [judged[0] | {"label": 1}]), TOKENIZER, 999, 0.0, 0)


def test_mismatched_replies_answer_other_prompts(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows(9))
    for v in verdicts_of(path, TOKENIZER, 999, 0.0, 0).train:
        own, wrong = v.reply.examples[0], v.mismatched.examples[0]
        start = own.loss_mask.index(1)
        assert own.ids[:start] == wrong.ids[: wrong.loss_mask.index(1)] and own.ids[start:] != wrong.ids[start:]


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 0.0},
        {"heldout": 1.0},
        {"loss": "robust", "flipped": 0.5},
        {"loss": "kto", "pairs": 1},
        {"loss": "kto", "likelihood": 1.0},
    ],
)
def test_impossible_settings_are_refused(changes: dict) -> None:
    with pytest.raises(ConfigError):
        PreferenceConfig(**changes)


def test_seeded_bugs_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sign, a forgotten reference, a sum for a mean: each changes the gradient by more than rounding."""
    work = of("sigmoid", model())
    right, _, _ = gradients(work, [0, 1, 2])
    bugs = [
        lambda c, r, b: preference_losses.logsigmoid(b * (c - r)),
        lambda c, r, b: -preference_losses.logsigmoid(b * (r - c)),
        lambda c, r, b: 3 * -preference_losses.logsigmoid(b * (c - r)),
    ]
    for bug in bugs:
        monkeypatch.setattr(preference_losses, "dpo", bug)
        wrong, _, _ = gradients(work, [0, 1, 2])
        assert max(float((a - b).abs().max()) for a, b in zip(right, wrong, strict=True)) > 1e-4
    monkeypatch.undo()
    forgotten = replace(work, reference_U2=torch.zeros_like(work.reference_U2))
    wrong, _, _ = gradients(forgotten, [0, 1, 2])
    assert max(float((a - b).abs().max()) for a, b in zip(right, wrong, strict=True)) > 1e-4


def test_ktos_rewards_are_means_of_their_own_kind() -> None:
    work, units = of("kto", model()), [0, 1, 2, 4]
    _, _, more = gradients(replace(work, config=replace(work.config, train_tokens=30)), units)
    ratio = {i: float(plain_logp(work.model, work.units[i].reply)[0] - work.reference_U2[i, 0]) for i in units}
    for kind, name in ((True, "reward_desirable"), (False, "reward_undesirable")):
        mine = [ratio[i] for i in units if work.units[i].desirable is kind]
        assert mine and more[name] == pytest.approx(sum(mine) / len(mine), abs=1e-8)

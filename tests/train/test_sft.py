"""Supervised fine-tuning: which examples a step packs, what is trained on, and that packing changes no loss."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.engine.tiny import byte_tokenizer, tiny_model
from tests.train.tiny_training import ROUNDING, Killed, context

from qwill.base.artifact import content_id
from qwill.base.config import parse, to_dict
from qwill.base.errors import DataError
from qwill.base.files import read_json
from qwill.model import ops
from qwill.model.batch import Batch
from qwill.model.files import load_model, save_model
from qwill.model.lora import merge
from qwill.model.lora_config import LoraConfig
from qwill.model.lora_files import load_adapter
from qwill.model.transformer import Transformer
from qwill.text.chat import Rendered, training_examples
from qwill.train import sft
from qwill.train.settings import SFTConfig
from qwill.train.sft import heldout_loss, pack_examples, plan_steps, render_dialogues

TOKENIZER = byte_tokenizer()
lengths_of_examples = st.lists(st.integers(1, 40), min_size=1, max_size=25)


@given(lengths=lengths_of_examples, steps=st.integers(1, 40), limit=st.integers(1, 90), seed=st.integers(0, 99))
def test_a_plan_shows_every_example_once_an_epoch_and_fills_steps(
    lengths: list[int], steps: int, limit: int, seed: int
) -> None:
    plan = plan_steps(lengths, steps, limit, seed)
    assert len(plan) == steps and all(plan)
    shown = [i for step in plan for i in step]
    n = len(lengths)
    epochs = [shown[i : i + n] for i in range(0, len(shown), n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs[:-1])
    assert len(set(epochs[-1])) == len(epochs[-1])
    assert all(len(step) == 1 or sum(lengths[i] for i in step) <= limit for step in plan)
    # No step ends early, but the last of an epoch.
    done = 0
    for step, following in pairwise(plan):
        done += len(step)
        assert done % n == 0 or sum(lengths[i] for i in step) + lengths[following[0]] > limit
    assert plan == plan_steps(lengths, steps + 3, limit, seed)[:steps]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    plans = [plan_steps([1] * 20, 3, 20, seed) for seed in (0, 1)]
    orders = [tuple(step) for plan in plans for step in plan]
    assert len(set(orders)) == 6


@st.composite
def examples(draw: st.DrawFn, most: int = 6) -> list[Rendered]:
    """Examples whose ids are numbered through, so that every token says which it is; each trains on something."""
    made: list[Rendered] = []
    first = 0
    for _ in range(draw(st.integers(1, most))):
        n = draw(st.integers(2, 12))
        mask = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda m: any(m[1:])))
        made.append(Rendered(list(range(first, first + n)), mask))
        first += n
    return made


@given(chosen=examples())
def test_each_trained_token_is_predicted_from_those_before_it(chosen: list[Rendered]) -> None:
    data = pack_examples(chosen, "somewhere")
    mask = {i: m for e in chosen for i, m in zip(e.ids, e.loss_mask, strict=True)}
    trained = sum(m for e in chosen for m in e.loss_mask[1:])
    tokens, targets = data.batch.tokens_N.tolist(), data.targets_N.tolist()
    borders = data.batch.cu_seqlens.tolist()
    sequences = [tokens[a:b] for a, b in pairwise(borders)]
    assert sorted(sequences) == [e.ids[:-1] for e in chosen]
    assert targets == [t + 1 for t in tokens]  # never the first token of the next example
    assert data.batch.positions_N.tolist() == [j for s in sequences for j in range(len(s))]
    assert data.weight_N.tolist() == pytest.approx([mask[t] / trained for t in targets])
    assert float(data.weight_N.double().sum()) == pytest.approx(1, abs=1e-6)
    assert data.source == "somewhere"


def one_by_one(model: Transformer, chosen: list[Rendered]) -> tuple[torch.Tensor, int]:
    """(sum of the losses of all trained tokens, their number), each example on its own, by plain log-softmax."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for e in chosen:
        logp = torch.log_softmax(model.head(model(Batch.pack([e.ids])).hidden_ND), -1)
        for j in range(1, len(e.ids)):
            if e.loss_mask[j]:
                total, count = total - logp[j - 1, e.ids[j]], count + 1
    return total, count


@pytest.mark.parametrize("kind", ["dense", "moe"])
@settings(max_examples=12)
@given(chosen=examples())
def test_a_packed_step_is_the_mean_of_its_examples_one_by_one(kind: str, chosen: list[Rendered]) -> None:
    packed, alone = (tiny_model(kind).double() for _ in range(2))
    data = pack_examples(chosen, "")
    loss, _ = ops.cross_entropy(
        packed(data.batch).hidden_ND, packed.head_weight_VD, data.targets_N, data.weight_N.double()
    )
    total, count = one_by_one(alone, chosen)
    # Weights are float32: 1/n is off by up to 6e-8 of itself, by the same share for every token.
    rounding = float(data.weight_N.double().max()) * count
    assert float(loss.detach()) == pytest.approx(float(total.detach()) / count * rounding, rel=ROUNDING[kind])
    assert rounding == pytest.approx(1, abs=1e-7)
    loss.backward()
    (total / count * rounding).backward()
    for a, b in zip(packed.parameters(), alone.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        assert float((a.grad - b.grad).norm()) <= ROUNDING[kind] * (1 + float(b.grad.norm()))


@pytest.mark.parametrize("kind", ["dense", "moe"])
@settings(max_examples=12)
@given(chosen=examples(most=8), limit=st.integers(1, 100))
def test_heldout_loss_is_the_same_however_it_is_batched(kind: str, chosen: list[Rendered], limit: int) -> None:
    model = tiny_model(kind).double()
    total, count = one_by_one(model, chosen)
    assert heldout_loss(model, chosen, limit) == pytest.approx(float(total.detach()) / count, rel=ROUNDING[kind])


# -- conversations


def talk(*turns: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]}


def written(path: Path, *lines: str | dict[str, Any]) -> Path:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8")
    return path


def test_only_what_the_assistant_says_is_trained(tmp_path: Path) -> None:
    said = ["4", "好的", "yes, it is"]
    rows = [talk("2+2?", "4", "你好", "好的"), talk("is it?", "yes, it is")]
    found = render_dialogues(written(tmp_path / "d.jsonl", *rows), TOKENIZER, 500)
    data = pack_examples(found.rendered, "")
    trained = [t for t, w in zip(data.targets_N.tolist(), data.weight_N.tolist(), strict=True) if w]
    heard = TOKENIZER.decode(trained, skip_special=False)
    # Examples are packed longest first; an earlier reply is an example of its own, as its prompt was another.
    assert sorted(heard.removesuffix("<|im_end|>").split("<|im_end|>")) == sorted(said)


def test_long_conversations_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [talk("a", "b") | {"id": "short"}, talk("a", "b" * 200), talk("a", "c")]
    (longest,) = training_examples(rows[0]["messages"], None, TOKENIZER)
    limit = len(longest.ids)
    path = written(tmp_path / "d.jsonl", *rows)
    found = render_dialogues(path, TOKENIZER, limit)
    assert found.too_long == 1 and found.names == ["short", "3"]
    assert all(len(e.ids) <= limit for e in found.rendered)
    with pytest.raises(DataError, match=r"d\.jsonl: no conversation fits into 5 tokens; raise sft\.max_tokens"):
        render_dialogues(path, TOKENIZER, 5)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"message": []}, "has no field 'messages'"),
        ({"messages": []}, "a list of at least one message"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role 'robot'"),
        ({"messages": [{"role": "user", "content": "x"}]}, "nothing to train on"),
        (talk("x", " "), "nothing to train on"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "message 1 is the assistant's"),
        ('{"messages": [', "not valid JSON"),
        ("[1]", "object"),
    ],
)
def test_a_bad_conversation_is_named_by_its_line(tmp_path: Path, line: str | dict[str, Any], words: str) -> None:
    path = written(tmp_path / "d.jsonl", talk("a", "b"), "", line, talk("c", "d"))
    with pytest.raises(DataError, match=words) as caught:
        render_dialogues(path, TOKENIZER, 500)
    assert f"{path}: line 3" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_without_conversations_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"d\.jsonl: holds no conversation"):
        render_dialogues(written(tmp_path / "d.jsonl"), TOKENIZER, 500)


# -- the stage


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """A base model and some sums as conversations."""
    save_model(tiny_model("moe", TOKENIZER.padded_vocab_size, 200), tmp_path / "base", TOKENIZER)
    (tmp_path / "dialogues").mkdir()
    rng = random.Random(1)
    rows = [talk(f"{a}+{b}", str(a + b)) for a, b in ((rng.randrange(50), rng.randrange(50)) for _ in range(12))]
    written(tmp_path / "dialogues" / "train.jsonl", *rows[:9], talk("long", "x" * 300))
    written(tmp_path / "dialogues" / "heldout.jsonl", *rows[9:])
    return {"base": tmp_path / "base", "dialogues": tmp_path / "dialogues"}


CONFIG = SFTConfig(steps=4, batch_tokens=160, max_tokens=100)
LORA = replace(CONFIG, lora=LoraConfig(rank=3, targets=("q_proj", "v_proj", "down_proj")))


def test_the_stage_tells_what_it_did(tmp_path: Path, inputs: dict[str, Path]) -> None:
    ctx = context(tmp_path / "run", inputs)
    metrics = sft.run(CONFIG, ctx)
    report = read_json(ctx.out / "training.json")
    found = render_dialogues(inputs["dialogues"] / "train.jsonl", TOKENIZER, 100)
    plan = plan_steps([len(e.ids) for e in found.rendered], 4, 160, ctx.seed)
    assert metrics["tokens"] == sum(len(found.rendered[i].ids) - 1 for step in plan for i in step)
    assert (metrics["examples"], metrics["too_long"]) == (9, 1) == (report["examples"], report["too_long"])
    trained = sum(len(e.ids) for e in found.rendered), sum(sum(e.loss_mask) for e in found.rendered)
    assert report["trained_tokens_share"] == pytest.approx(trained[1] / trained[0])
    heldout = render_dialogues(inputs["dialogues"] / "heldout.jsonl", TOKENIZER, 100).rendered
    assert report["heldout_loss"] == pytest.approx(heldout_loss(load_model(ctx.out), heldout, 160), rel=1e-6)
    assert report["heldout_loss"] < heldout_loss(load_model(inputs["base"]), heldout, 160)
    other = context(tmp_path / "other", inputs, seed=1)
    assert sft.run(CONFIG, other)["heldout_loss"] != metrics["heldout_loss"]


def test_with_lora_only_an_adapter_is_trained_and_the_model_has_it_merged_in(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    ctx = context(tmp_path / "run", inputs)
    metrics = sft.run(LORA, ctx)
    base, tuned = load_model(inputs["base"]), load_model(ctx.out)
    for (name, before), after in zip(base.named_parameters(), tuned.parameters(), strict=True):
        trained = name.endswith(("qkv_proj.weight", "mlp.down"))
        assert torch.equal(before, after) != trained, name
    heldout = render_dialogues(inputs["dialogues"] / "heldout.jsonl", TOKENIZER, 100).rendered
    assert metrics["heldout_loss"] < heldout_loss(base, heldout, 160)
    adapter = load_adapter(base, ctx.out / "adapter")
    assert adapter.config == LoraConfig(rank=3, targets=("q_proj", "v_proj"), parameters=("experts.down_proj",))
    merge(base, adapter)
    for before, after in zip(base.parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(before, after)
    # The rest of the model is not written down again and again.
    checkpoint = load_file(sorted(ctx.work.glob("*.safetensors"))[-1])
    assert {name.split(".", 1)[0] for name in checkpoint} == {"model", "optimizer0"}
    assert all(".updates." in name for name in checkpoint)


def test_settings_that_came_later_leave_the_ids_of_older_recipes_alone() -> None:
    from qwill.evaluate.quantize_stage import QuantizeConfig

    assert "lora" not in to_dict(SFTConfig()) and to_dict(LORA)["lora"]["rank"] == 3
    assert not {"bits", "group_size", "format"} & to_dict(QuantizeConfig()).keys()
    assert to_dict(QuantizeConfig(bits=4))["bits"] == 4
    given = parse(SFTConfig, {"lora": {"rank": 8, "targets": ["q_proj"]}}, "recipe: sft")
    assert given.lora == LoraConfig(rank=8, targets=("q_proj",))


@pytest.mark.parametrize("config", [CONFIG, LORA], ids=["all", "lora"])
def test_the_stage_interrupted_after_training_goes_on_to_the_same_content(
    config: SFTConfig, tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = context(tmp_path / "straight", inputs)
    metrics = sft.run(config, straight)

    def killed(*_: object) -> float:
        raise Killed

    monkeypatch.setattr(sft, "heldout_loss", killed)
    cut = context(tmp_path / "cut", inputs)
    with pytest.raises(Killed):
        sft.run(config, cut)
    monkeypatch.undo()
    again = replace(cut, out=tmp_path / "again")
    again.out.mkdir()
    assert sft.run(config, again) == metrics
    assert content_id(again.out) == content_id(straight.out)

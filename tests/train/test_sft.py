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
from qwill.train.best_fit import pack_best_fit
from qwill.train.settings import SFTConfig
from qwill.train.sft import heldout_loss, pack_examples, plan_steps
from qwill.train.sft_examples import Examples, read_examples

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


def read(path: Path, **changes: Any) -> Examples:
    """What is trained on; nothing is held out."""
    return read_examples(path, TOKENIZER, replace(SFTConfig(heldout=0, max_tokens=500), **changes), 0)[0]


def heard(examples: list[Rendered]) -> list[str]:
    """What each example trains on."""
    return [
        TOKENIZER.decode([t for t, m in zip(e.ids, e.loss_mask, strict=True) if m], skip_special=False)
        for e in examples
    ]


def test_only_what_the_assistant_says_is_trained(tmp_path: Path) -> None:
    said = ["4", "好的", "yes, it is"]
    rows = [talk("2+2?", "4", "你好", "好的"), talk("is it?", "yes, it is")]
    found = read(written(tmp_path / "d.jsonl", *rows))
    data = pack_examples(found.rendered, "")
    trained = [t for t, w in zip(data.targets_N.tolist(), data.weight_N.tolist(), strict=True) if w]
    text = TOKENIZER.decode(trained, skip_special=False)
    # Examples are packed longest first; an earlier reply is an example of its own, as its prompt was another.
    assert sorted(text.removesuffix("<|im_end|>").split("<|im_end|>")) == sorted(said)


def test_long_conversations_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [talk("a", "b") | {"id": "short"}, talk("a", "b" * 200), talk("a", "c")]
    (longest,) = training_examples(rows[0]["messages"], None, TOKENIZER)
    limit = len(longest.ids)
    path = written(tmp_path / "d.jsonl", *rows)
    found = read(path, max_tokens=limit)
    assert found.too_long == 1 and found.names == ["short", "3"]
    assert all(len(e.ids) <= limit for e in found.rendered)
    with pytest.raises(DataError, match=r"d\.jsonl: nothing fits into 5 tokens; raise sft\.max_tokens"):
        read(path, max_tokens=5)
    with pytest.raises(DataError, match=r"d\.jsonl: line 2, messages: 2\d\d tokens where sft\.max_tokens is"):
        read(path, max_tokens=limit, too_long="refuse")


def test_a_text_is_trained_whole_and_cut_without_a_loss_where_that_is_asked_for(tmp_path: Path) -> None:
    text = "春眠不觉晓，处处闻啼鸟。"
    path = written(tmp_path / "d.jsonl", {"text": text, "id": "poem"}, talk("a", "b" * 200))
    ids = [*TOKENIZER.encode(text), TOKENIZER.special("<|im_end|>")]
    found = read(path)
    assert found.rendered[0].ids == ids and set(found.rendered[0].loss_mask) == {1}
    cut = read(path, max_tokens=10, too_long="split")
    assert (cut.cut, cut.too_long, set(cut.names)) == (1, 1, {"poem"})
    assert all(1 < len(e.ids) <= 10 for e in cut.rendered)
    predicted = [t for e in cut.rendered for t, m in zip(e.ids[1:], e.loss_mask[1:], strict=True) if m]
    assert predicted == ids[1:]


def test_each_of_trls_forms_trains_on_what_is_to_be_said(tmp_path: Path) -> None:
    asked, said = [{"role": "user", "content": "a?"}], [{"role": "assistant", "content": "b"}]
    before = [*asked, {"role": "assistant", "content": "old"}, *asked]
    rows: list[dict[str, Any]] = [
        {"text": "all of it"},
        {"prompt": "a?", "completion": " b"},
        {"prompt": before, "completion": said},
        {"messages": [*before, *said]},
        {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]},
        {"prompt": asked, "chosen": said, "rejected": [{"role": "assistant", "content": "c"}]},
        {"prompt": "a?", "completion": "unwanted", "label": False},
        {"prompt": "a?", "completion": "wanted", "label": True},
    ]
    found = read(written(tmp_path / "d.jsonl", *rows))
    # An earlier reply is an example of its own: its prompt had a closed thinking block where the history has none.
    expected = ["all of it", " b", "b", "old", "b", "b", "b", "wanted"]
    assert heard(found.rendered) == [f"{text}<|im_end|>" for text in expected]
    assert found.unwanted == 1


def test_prompts_of_a_file_are_held_out_by_their_hash(tmp_path: Path) -> None:
    rows = [talk(f"question {i}", answer) for i in range(60) for answer in ("a", "b")]
    config = SFTConfig(heldout=0.3, max_tokens=500)
    train, heldout = read_examples(written(tmp_path / "d.jsonl", *rows), TOKENIZER, config, 1)
    assert len(train.rendered) + len(heldout.rendered) == 120 and 16 <= len(heldout.rendered) <= 56
    prompts = [{TOKENIZER.decode(e.ids).split("assistant")[0] for e in side.rendered} for side in (train, heldout)]
    assert not prompts[0] & prompts[1]
    again = read_examples(written(tmp_path / "e.jsonl", *reversed(rows)), TOKENIZER, config, 1)[1]
    assert sorted(map(str, again.rendered)) == sorted(map(str, heldout.rendered))


def test_a_folder_of_files_says_what_is_held_out_by_its_names(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [talk("a", "one"), talk("b", "two") | {"tools": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    written(tmp_path / "more.jsonl", talk("c", "three"))
    written(tmp_path / "test.jsonl", talk("d", "four"))
    train, heldout = read_examples(tmp_path, TOKENIZER, SFTConfig(max_tokens=500), 0)
    assert heard(train.rendered) == ["three<|im_end|>", "one<|im_end|>", "two<|im_end|>"]
    assert heard(heldout.rendered) == ["four<|im_end|>"]
    assert [file.name for file in heldout.files] == ["test.jsonl"]
    # A file called train.jsonl hides no other.
    written(tmp_path / "train.jsonl", talk("x", "five"))
    train, heldout = read_examples(tmp_path, TOKENIZER, SFTConfig(max_tokens=500, heldout=0), 0)
    assert [text[:-10] for text in heard(train.rendered)] == ["three", "one", "two", "five"]
    assert heard(heldout.rendered) == ["four<|im_end|>"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"message": []}, "expected the field messages, text, prompt with completion"),
        ({"messages": []}, "a list of at least one message"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role 'robot'"),
        ({"messages": [{"role": "user", "content": "x"}]}, "nothing to train on"),
        (talk("x", " "), "nothing to train on"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "message 1 is the assistant's"),
        ({"messages": ["x"]}, "messages: message 1 is str"),
        ({"messages": "x"}, "messages: expected a list"),
        ({"messages": talk("a", "b")["messages"], "tools": "{"}, "tools: text that is not JSON"),
        ({"messages": talk("a", "b")["messages"], "tools": "f"}, "tools"),
        ({"messages": talk("a", "b")["messages"], "tools": {"name": "f"}}, "tools: expected a list of functions"),
        ({"text": 3}, "text: expected text, found int"),
        ({"text": " "}, "text: expected text, found an empty one"),
        ({"prompt": "a", "completion": ""}, "completion: the text is empty"),
        ({"prompt": " ", "completion": "b"}, "prompt: the text is empty"),
        ({"prompt": "a", "completion": [1]}, "prompt: expected a list"),
        ({"prompt": talk("a")["messages"], "completion": "b"}, "completion: expected a list"),
        ({"prompt": "a", "completion": 3}, "completion: expected text, found int"),
        ({"completion": "b"}, "prompt: expected a list of at least one message, found nothing"),
        ({"prompt": "a", "completion": "b", "label": 1}, "label: expected true or false"),
        ({"prompt": talk("a")["messages"], "completion": talk("b")["messages"]}, "nothing to train on"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are the same"),
        ({"prompt": "a", "completions": ["b"], "labels": [True]}, "has step labels"),
        ('{"messages": [', "not valid JSON"),
        ("[1]", "object"),
    ],
)
def test_a_bad_conversation_is_named_by_its_line(tmp_path: Path, line: str | dict[str, Any], words: str) -> None:
    path = written(tmp_path / "d.jsonl", talk("a", "b"), "", line, talk("c", "d"))
    with pytest.raises(DataError, match=words) as caught:
        read(path)
    assert f"{path}: line 3" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_without_rows_says_so_and_one_of_which_nothing_is_left_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"d\.jsonl: holds no row"):
        read(written(tmp_path / "d.jsonl"))
    unwanted = {"prompt": "a", "completion": "b", "label": False}
    with pytest.raises(DataError, match=r"d\.jsonl: nothing is left to train on \(.*1 are labelled false\)"):
        read(written(tmp_path / "d.jsonl", unwanted))
    with pytest.raises(DataError, match=r"1 examples are held out"):
        read(written(tmp_path / "d.jsonl", talk("a", "b")), heldout=0.999999)


def test_a_template_that_marks_nothing_is_refused_with_the_row(tmp_path: Path) -> None:
    silent = byte_tokenizer("{% for m in messages %}{% generation %}{% endgeneration %}{{ m.content }}{% endfor %}")
    path = written(tmp_path / "d.jsonl", {"messages": [*talk("a", "b")["messages"]]})
    with pytest.raises(DataError, match=r"d\.jsonl: line 1, messages: the chat template marks 2 turns"):
        read_examples(path, silent, SFTConfig(heldout=0), 0)
    silent = byte_tokenizer("{% generation %}{% endgeneration %}{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(DataError, match=r"d\.jsonl: line 1, messages: not one token is trained on"):
        read_examples(path, silent, SFTConfig(heldout=0), 0)


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
    found, kept = read_examples(inputs["dialogues"], TOKENIZER, CONFIG, ctx.seed)
    packing = pack_best_fit([len(e.ids) - 1 for e in found.rendered], 160, ctx.seed, steps=4)
    plan = packing.steps
    assert metrics["fill"] == report["fill"] == round(packing.fill, 4)
    assert metrics["heldout"] == 3
    assert metrics["tokens"] == sum(len(found.rendered[i].ids) - 1 for step in plan for i in step)
    assert (metrics["examples"], metrics["too_long"]) == (9, 1) == (report["examples"], report["too_long"])
    trained = sum(len(e.ids) for e in found.rendered), sum(sum(e.loss_mask) for e in found.rendered)
    assert report["trained_tokens_share"] == pytest.approx(trained[1] / trained[0])
    heldout = kept.rendered
    assert report["heldout_loss"] == pytest.approx(heldout_loss(load_model(ctx.out), heldout, 160), rel=1e-6)
    before = heldout_loss(load_model(inputs["base"]), heldout, 160)
    assert report["heldout_loss_before"] == pytest.approx(before, rel=1e-6) and report["heldout_loss"] < before
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
    heldout = read_examples(inputs["dialogues"], TOKENIZER, LORA, 0)[1].rendered
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


def test_epochs_and_a_file_of_ones_own(tmp_path: Path, inputs: dict[str, Path]) -> None:
    own = {**inputs, "dialogues": inputs["dialogues"] / "train.jsonl"}
    config = replace(CONFIG, epochs=2, heldout=0)
    metrics = sft.run(config, context(tmp_path / "run", own))
    found = read_examples(own["dialogues"], TOKENIZER, config, 0)[0]
    assert metrics["tokens"] == 2 * sum(len(e.ids) - 1 for e in found.rendered)
    assert "heldout_loss" not in metrics and metrics["heldout"] == 0


def test_settings_that_came_later_leave_the_ids_of_older_recipes_alone() -> None:
    from qwill.evaluate.quantize_stage import QuantizeConfig

    assert not {"lora", "epochs", "too_long", "heldout", "template"} & to_dict(SFTConfig()).keys()
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

    calls = iter(range(9))

    def killed(*_: object) -> float:
        if next(calls):  # the first is before training
            raise Killed
        return metrics["heldout_loss_before"]

    monkeypatch.setattr(sft, "heldout_loss", killed)
    cut = context(tmp_path / "cut", inputs)
    with pytest.raises(Killed):
        sft.run(config, cut)
    monkeypatch.undo()
    again = replace(cut, out=tmp_path / "again")
    again.out.mkdir()
    assert sft.run(config, again) == metrics
    assert content_id(again.out) == content_id(straight.out)

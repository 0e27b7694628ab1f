"""Both modes in one training set: the last switch says what every reply does, and training masks agree with it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import ConfigError, DataError
from qwill.base.files import read_json, read_jsonl, write_jsonl
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.data import fusion
from qwill.data.conversation import problem
from qwill.data.fusion import FusionConfig, fuse
from qwill.text.chat import training_examples
from qwill.text.thinking import asked_to_think, last_switch
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters

TOKENIZER = Tokenizer.from_trained({to_characters(bytes([b])): b for b in range(256)}, [])


def talk(number: int, language: str, thinks: bool) -> dict[str, Any]:
    reply = {"role": "assistant", "content": f"{number}"} | ({"reasoning_content": "so"} if thinks else {})
    return {"id": f"{'t' if thinks else 'p'}{number}", "language": language,
            "messages": [{"role": "user", "content": f"问{number}?"}, reply]}  # fmt: skip


def rows(count: int, thinks: bool) -> list[dict[str, Any]]:
    return [talk(i, ("en", "zh")[i % 2], thinks) for i in range(count)]


shares = st.floats(0, 1)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), shares, shares, shares, shares, st.integers(0, 40), st.integers(0, 99))
def test_every_reply_does_what_the_last_switch_says(
    many: int, few: int, thinking: float, switched: float, in_system: float, several: float, most: int, seed: int
) -> None:
    config = FusionConfig(thinking, most, switched, in_system, several)
    made, account = fuse(rows(many, True), rows(few, False), config, random.Random(seed))
    replies = [m["content"] + str("reasoning_content" in m) for row in made for m in row["messages"]
               if m["role"] == "assistant"]  # fmt: skip
    assert len(set(replies)) == len(replies) == account["replies"] <= many + few  # nothing twice
    for row in made:
        assert problem(row["messages"]) is None
        users = [m["content"] for m in row["messages"] if m["role"] != "assistant"]
        for i, message in enumerate(row["messages"]):
            if message["role"] != "assistant":
                continue
            thought, before = "reasoning_content" in message, row["messages"][:i]
            said = last_switch(m["content"] for m in before if m["role"] != "assistant")
            # A single reply that does not think may stand without a switch: as enable_thinking=False gives it.
            assert said is thought or (said is None and (thought or len(users) == 1))
        assert asked_to_think(row["messages"], True) is not (last_switch(users) is False)


@given(st.integers(10, 60), st.integers(10, 60), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(0, 9))
def test_the_share_is_kept_by_the_scarcer_kind(many: int, few: int, share: float, seed: int) -> None:
    _, account = fuse(rows(many, True), rows(few, False), FusionConfig(share, several=0), random.Random(seed))
    assert account["replies"] and abs(account["thinking_share"] - share) <= 1.5 / account["replies"]


def test_training_writes_the_empty_block_only_where_the_switch_asks_for_it() -> None:
    made, _ = fuse([], rows(20, False), FusionConfig(0.0, switched=0.5, several=0), random.Random(1))
    for row in made:
        (example,) = training_examples(row["messages"], None, TOKENIZER)
        trained = TOKENIZER.decode(i for i, m in zip(example.ids, example.loss_mask, strict=True) if m)
        users = [m["content"] for m in row["messages"] if m["role"] != "assistant"]
        block = "<think>\n\n</think>\n\n" if last_switch(users) is False else ""
        assert trained == block + row["messages"][-1]["content"]
    assert 0 < sum("/no_think" in str(row["messages"]) for row in made) < 20


def context(folder: Path, thinking: list[Any], plain: list[Any]) -> StageContext:
    for name, found in (("rejection", thinking), ("dialogues", plain)):
        (folder / name).mkdir()
        for part in ("train", "heldout"):
            write_jsonl(folder / name / f"{part}.jsonl", found)
    (folder / "out").mkdir()
    inputs = {name: folder / name for name in ("rejection", "dialogues")}
    return StageContext(folder / "out", folder, inputs, 3, 1, Display(quiet=True), None, folder / "m.jsonl")


def test_the_stage_takes_of_each_input_what_it_is_for(tmp_path: Path) -> None:
    counts = fusion.run(FusionConfig(several=0), context(tmp_path, rows(8, True) + rows(2, False), rows(12, False)))
    assert counts == {"conversations": 16, "thinking_share": 0.5, "heldout_conversations": 16}
    assert read_json(tmp_path / "out" / "account.json")["train"]["thinking"] == {"en": 4, "zh": 4}
    assert len(list(read_jsonl(tmp_path / "out" / "train.jsonl"))) == 16


def test_what_can_not_be_fused_is_one_sentence(tmp_path: Path) -> None:
    bad = [{"messages": [{"role": "user", "content": "x"}]}]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"rejection/train\.jsonl holds no conversation thinking"):
        fusion.run(FusionConfig(), context(tmp_path / "a", rows(3, False), rows(3, False)))
    with pytest.raises(DataError, match=r"dialogues/train\.jsonl: line 1: message 1, role"):
        fusion.run(FusionConfig(), context(tmp_path / "b", rows(3, True), bad))
    for wrong in ({"thinking": 1.2}, {"turns": 1}, {"conversations": -1}):
        with pytest.raises(ConfigError):
            FusionConfig(**wrong)


def test_half_a_surrogate_pair_ends_no_run(tmp_path: Path) -> None:
    inputs = {name: tmp_path / name for name in ("rejection", "dialogues")}
    for name, place in inputs.items():
        place.mkdir()
        made = [talk(i, "en", name == "rejection") | {"id": "\udce9"} for i in range(4)]
        for row in made:
            row["messages"][0]["content"] += " \ud83d"
        for part in ("train", "heldout"):
            (place / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    (tmp_path / "out").mkdir()
    ctx = StageContext(
        tmp_path / "out", tmp_path, inputs, 3, 1, Display(quiet=True), None, tmp_path / "m.jsonl"
    )  # fmt: skip
    assert fusion.run(FusionConfig(several=0.0), ctx)["conversations"] == 8
    for _, row in read_jsonl(ctx.out / "train.jsonl"):
        assert any("\ufffd" in m["content"] for m in row["messages"]) and row["id"] == "\ufffd"

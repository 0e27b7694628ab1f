"""Replies that are right become conversations: which ones, how many, and the same after a kill."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.engine.tiny import tiny_model

from qwill.align import rejection
from qwill.align.format_rewards import ENABLED, brevity, form, language
from qwill.align.prompts import Mode, in_mode, mode_at, prompt_ids, with_room
from qwill.align.rejection_settings import RejectionConfig
from qwill.align.rewards import Rewards
from qwill.align.rollouts import draw_prompts, prompt_modes
from qwill.align.rule_rewards import Made
from qwill.align.sample_rollouts import roll_out
from qwill.align.settings import GRPOConfig, RewardPart
from qwill.base.config import identity_of
from qwill.base.errors import ConfigError, DataError
from qwill.base.files import read_json, read_jsonl, write_jsonl
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.data.conversation import problem
from qwill.engine.generate import Completion
from qwill.engine.language_model import LanguageModel
from qwill.text.thinking import OUT_OF_TIME
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters

TOKENIZER = Tokenizer.from_trained({to_characters(bytes([b])): b for b in range(256)}, [])
LM = LanguageModel(tiny_model("dense", TOKENIZER.padded_vocab_size, 400, 0), TOKENIZER)
ROWS = [
    {"id": f"t{i}", "family": "add", "language": ("en", "zh")[i % 2], "prompt": f"{i}+1?", "key": f"add:{i}:1"}
    for i in range(10)
]


def context(folder: Path, name: str = "out") -> StageContext:
    for part in (name, "work", "tasks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "tasks" / "rl.jsonl", ROWS)
    inputs = {"sft": folder / "model", "tasks": folder / "tasks"}
    return StageContext(folder / name, folder / "work", inputs, 3, 1, Display(quiet=True), None, folder / "m.jsonl")


def scripted(model: Any, prompts: Any, sampling: Any, n: int, streams: Any, **_: Any) -> list[list[Completion]]:
    """Problem i is solved by samples below i, in a way that depends on nothing but the problem and the sample."""

    def with_marks(i: int, k: int) -> Completion:
        thought = TOKENIZER.encode("\n" + "because " * (k + 1) + "\n")
        answer = TOKENIZER.encode("\n\n" + str(i + 1 if k < i else 0))
        ids = [TOKENIZER.special("<think>"), *thought, TOKENIZER.special("</think>"), *answer, TOKENIZER.stop_ids[0]]
        return Completion("", ids, [], "stop")

    return [[with_marks(i, k) for k in range(n)] for i in streams]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejection, "load", lambda path: LM)
    monkeypatch.setattr(rejection, "generate", scripted)


def test_right_replies_become_conversations_that_think(here: None, tmp_path: Path) -> None:
    counts = rejection.run(RejectionConfig(samples=4, keep=2, choose="shortest", batch=3), context(tmp_path))
    out = tmp_path / "out"
    talks = [row for part in ("train", "heldout") for _, row in read_jsonl(out / f"{part}.jsonl")]
    for talk in talks:
        assert problem(talk["messages"]) is None
        last = talk["messages"][-1]
        assert last["content"].isdecimal() and last["reasoning_content"].startswith("because")
    by_problem = [[t for t in talks if t["id"].startswith(f"t{i}/")] for i in range(10)]
    assert [len(own) for own in by_problem] == [0, 1] + [2] * 8
    # The shortest two: those with the fewest words of thinking.
    assert {t["messages"][-1]["reasoning_content"].count("because") for t in by_problem[5]} == {1, 2}
    account = read_json(out / "account.json")
    assert account["en"] | {"tokens_mean": 0} == {
        "problems": 5, "samples": 20, "right": 0 + 2 + 4 + 4 + 4, "kept": 8, "always_solved": 3, "never_solved": 1,
        "tokens_mean": 0,
    }  # fmt: skip
    assert counts["never_solved_zh"] == 0 and counts["kept_zh"] == 1 + 2 * 4
    sides = [{repr(r["messages"][0]) for _, r in read_jsonl(out / f"{part}.jsonl")} for part in ("train", "heldout")]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert [row["right"] for _, row in read_jsonl(out / "problems.jsonl")] == [min(i, 4) for i in range(10)]


def test_cut_off_anywhere_it_goes_on_to_the_same_files(here: None, tmp_path: Path, monkeypatch) -> None:
    config = RejectionConfig(samples=4, keep=1, batch=2)
    rejection.run(config, context(tmp_path / "whole"))
    for survived in range(5):
        folder, calls = tmp_path / str(survived), 0

        def dies(*args: Any, survived: int = survived, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > survived:
                raise KeyboardInterrupt
            return scripted(*args, **more)

        monkeypatch.setattr(rejection, "generate", dies)
        with pytest.raises(KeyboardInterrupt):
            rejection.run(config, context(folder))
        monkeypatch.setattr(rejection, "generate", scripted)
        rejection.run(config, context(folder))
        for name in ("train.jsonl", "heldout.jsonl", "problems.jsonl", "account.json"):
            assert (folder / "out" / name).read_bytes() == (tmp_path / "whole" / "out" / name).read_bytes()


def test_nothing_right_and_a_model_that_does_not_think_are_one_sentence(here: None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 10 replies was right"):
        rejection.run(RejectionConfig(samples=1, max_tokens=1, rewards=(RewardPart("brevity"),), least=9.0),
                      context(tmp_path))  # fmt: skip
    for wrong, word in (({"keep": 0}, "keep"), ({"heldout_share": 1.0}, "heldout_share"),
                        ({"thinking_budget": 4, "thinking": False}, "thinking_budget")):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            RejectionConfig(**wrong)


def test_what_is_accepted() -> None:
    row = ROWS[4] | {ENABLED: True}
    wrong = ["5", "<think>\n4+1=5\n</think>\n\n6", "<think>\n\n</think>\n\n5", "<think>\n5\n</think>\n\n5</think>",
             f"<think>\n1{OUT_OF_TIME}</think>\n\n5"]  # fmt: skip
    every = [Made(row, text, True) for text in ["<think>\n4+1=5\n</think>\n\n5", *wrong]]
    every.append(Made(row, "<think>\n1\n</think>\n\n5", False))
    assert rejection.accepted(every, RejectionConfig(), None) == [True] + [False] * 6
    plain = Made(row | {ENABLED: False}, "5", True)
    assert rejection.accepted([plain], RejectionConfig(thinking=False), None) == [True]
    with Rewards((RewardPart("verifier"), RewardPart("format", 0.5))) as rewards:
        both = [Made(row, f"<think>\n1\n</think>\n\n{said}", True) for said in (5, 6)]
        assert rejection.accepted(both, RejectionConfig(least=1.5), rewards) == [True, False]
    found = rejection.choose([("a", 3), ("a", 3), ("b", 1), ("c", 2)], RejectionConfig(keep=9), random.Random(0))
    assert sorted(found) == ["a", "b", "c"]


def test_rewards_of_form_language_and_brevity() -> None:
    thinking, direct = {"prompt": "1+1?", "language": "en", ENABLED: True}, {"prompt": "1+1?", "language": "en"}
    thought, empty = "<think>\n1\n</think>\n\n2", "<think>\n\n</think>\n\n2"
    assert form(thinking, thought, True) == 1 and form(thinking, thought, False) == 0
    assert [form(thinking, wrong, True) for wrong in ("2", empty, thought * 2)] == [0, 0, 0]
    assert form(direct, "2", True) == 1 and form(direct, thought, True) == 0
    switched = thinking | {"prompt": "1+1? /no_think"}
    assert form(switched, empty, True) == 1 and form(switched, thought, True) == 0
    chinese = direct | {"language": "zh"}
    assert [language(direct, said, True) for said in ("two", "两个", "2")] == [1, 0, 1]
    assert language(chinese, "两个数", True) == 1 and language(chinese, "the two", True) == 0
    assert language(chinese, "<think>\nthe\n</think>\n\n和是2", True) == 1 and language(chinese, "<think>", True) == 0
    assert [brevity(direct, "x" * size, True) for size in (0, 500, 2000)] == [1, 0.5, 0]
    with pytest.raises(ConfigError, match="formal"):
        RewardPart("formal")


def test_rollouts_think_on_their_share_of_prompts() -> None:
    for share in (0.0, 0.1, 0.25, 0.5, 1.0):
        assert sum(mode_at(i, share).thinking for i in range(40)) == 40 * share
        for switched in (0.0, 0.25, 0.5, 1.0):
            modes = Counter(mode_at(i, share, switched) for i in range(400))
            assert modes[Mode(True, True)] == 400 * share * switched, "of those that think"
            assert modes[Mode(False, True)] == 400 * (1 - share) * switched, "and of those that do not"
        # Over the steps each language has the share, however few prompts a step has.
        for count, steps in ((1, 80), (2, 40), (3, 80), (8, 10)):
            asked = {"en": list[bool](), "zh": list[bool]()}
            for step in range(steps):
                modes = prompt_modes(ROWS, step, count, share)
                for i, mode in zip(draw_prompts(ROWS, step, count, 0), modes, strict=True):
                    asked[ROWS[i]["language"]].append(mode.thinking)
            assert [sum(asked[name]) for name in ("en", "zh")] == [count * steps * share / 2] * 2
    assert mode_at(0, 1.0).thinking and not mode_at(0, 0.5).thinking
    open_, closed = prompt_ids("1?", TOKENIZER, True), prompt_ids("1?", TOKENIZER)
    assert closed[: len(open_)] == open_ and TOKENIZER.special("</think>") in closed[len(open_) :]
    config = GRPOConfig(samples=2, max_tokens=6, thinking=0.5)
    asked_rows = [in_mode(row, mode_at(i, 0.5)) for i, row in enumerate(ROWS)]
    groups = roll_out(LM.model, TOKENIZER, asked_rows[:4], config, 0, 1)
    asked = [TOKENIZER.special("</think>") not in group[0].ids[: group[0].start] for group in groups]
    assert asked == [False, True, False, True]
    # A rank that has the later prompts only asks them in the same way.
    part = roll_out(LM.model, TOKENIZER, asked_rows[1:3], config, 0, 1, streams=[1, 2])
    assert [r.ids for g in part for r in g] == [r.ids for g in groups[1:3] for r in g]
    for name in ("thinking", "switched"):
        with pytest.raises(ConfigError, match=name):
            GRPOConfig(**{name: 1.5})


def test_a_switch_asks_for_what_the_reward_of_the_form_then_judges() -> None:
    row = {"prompt": "1+1?", "language": "en", "key": 2}
    thought, empty, bare = "<think>\n1+1\n</think>\n\n2", "<think>\n\n</think>\n\n2", "2"
    for mode, prompt, right in (
        (Mode(True), "1+1?", {thought}), (Mode(False), "1+1?", {bare}),
        (Mode(True, True), "1+1? /think", {thought}), (Mode(False, True), "1+1? /no_think", {empty}),
    ):  # fmt: skip
        asked = in_mode(row, mode)
        assert asked["prompt"] == prompt and asked["key"] == 2 and row["prompt"] == "1+1?"
        assert {reply for reply in (thought, empty, bare) if form(asked, reply, True)} == right
        # Only behind the closed block need the model not say itself that it does not think.
        ids = prompt_ids(asked["prompt"], TOKENIZER, asked[ENABLED])
        assert (TOKENIZER.special("</think>") in ids) == (mode == Mode(False))
    talk = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": [{"type": "text", "text": "再加一？"}]},
    ]
    asked = in_mode(row | {"prompt": talk}, Mode(False, True))
    assert asked["prompt"] == [*talk[:2], {"role": "user", "content": "再加一？ /no_think"}]
    assert talk[2]["content"] == [{"type": "text", "text": "再加一？"}], "the row that is asked again is as it was"
    # Where it stands behind a line break, too, in whichever form the content has.
    for content in ("1+1?\n/no_think", [{"type": "text", "text": "1+1?\n/no_think"}]):
        own = {"prompt": [{"role": "user", "content": content}], ENABLED: True}
        assert form(own, empty, True) == 1 and form(own, thought, True) == 0
        assert in_mode(row | own, Mode(True, True)) == row | own
    # A switch that a conversation has already is its own.
    for own in ("1+1? /no_think", [{"role": "system", "content": "/no_think"}, *talk], [talk[1]]):
        kept = in_mode(row | {"prompt": own}, Mode(True, True))
        assert kept == row | {"prompt": own, ENABLED: True}


def test_a_changed_reward_is_another_artifact_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def mine(**_): return [1.0]\n")
    config = RejectionConfig(rewards=(RewardPart("mine", function=f"{file}:mine"),))
    before = identity_of(config)
    file.write_text("def mine(**_): return [0.0]\n")
    assert identity_of(config) != before
    assert "outside" not in identity_of(RejectionConfig()) and "too_long" not in identity_of(RejectionConfig())
    with pytest.raises(ConfigError, match="format, format; give each a name of its own"):
        RejectionConfig(rewards=(RewardPart("format"), RewardPart("format", 2.0)))


def test_a_prompt_without_room_is_left_out_or_refused_wherever_it_stands(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [dict(row, prompt=row["prompt"] + " " * 300) if row["id"] in ("t0", "t7") else row for row in ROWS]
    ctx = context(tmp_path)
    write_jsonl(tmp_path / "tasks" / "rl.jsonl", long)
    monkeypatch.setattr(rejection, "accepted", lambda every, *_: [True] * len(every))
    config = RejectionConfig(samples=4, max_tokens=200, batch=3)
    assert rejection.run(config, ctx)["prompts_too_long"] == 2
    assert [row["id"] for _, row in read_jsonl(ctx.out / "problems.jsonl")] == [f"t{i}" for i in range(10) if i % 7]
    with pytest.raises(DataError, match=r"tasks: the prompt of t0 has 3\d\d tokens, and 200 of a reply"):
        rejection.run(replace(config, too_long="refuse"), ctx)


def test_a_prompt_has_room_in_every_mode_that_it_may_be_asked_in(here: None, tmp_path: Path) -> None:
    ctx, every = context(tmp_path), [Mode(False), Mode(True, True), Mode(False, True)]
    context_size = LM.model.config.max_position_embeddings
    sizes = [len(prompt_ids(row["prompt"], TOKENIZER, row[ENABLED])) for row in (in_mode(ROWS[0], m) for m in every)]
    assert sizes[2] > sizes[1] > sizes[0], "of this tokenizer a switch is longer than the closed block"
    for modes, longest in ((every[:1], sizes[0]), (every, sizes[2])):
        for over in (0, 1):
            told = LM.tokenizer, LM.model, context_size - longest + over, "leave_out", ctx
            assert len(with_room([ROWS[0] | {"id": "short", "prompt": ""}, ROWS[0]], *told, modes=modes)) == 2 - over


def test_half_a_surrogate_pair_in_a_prompt_or_a_call_ends_no_run(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = '<tool_call>\n{"name": "look", "arguments": {"at": ["\\ud83d"], "\\udc00": 1}}\n</tool_call>'
    ids = [*TOKENIZER.encode("<think>\nso\n</think>\n\n" + said), TOKENIZER.stop_ids[0]]
    calls = lambda *_, n, streams, **__: [[Completion("", ids, [], "stop")] * n for _ in streams]  # noqa: E731
    monkeypatch.setattr(rejection, "generate", calls)
    monkeypatch.setattr(rejection, "accepted", lambda every, *_: [True] * len(every))
    ctx = context(tmp_path)
    rows = [dict(ROWS[0], prompt="hi \ud83d", id="\udce9"), dict(ROWS[1], prompt="\ud83d\ude00")]
    (tmp_path / "tasks" / "rl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rejection.run(RejectionConfig(samples=1), ctx)
    talks = [row for part in ("train", "heldout") for _, row in read_jsonl(ctx.out / f"{part}.jsonl")]
    assert {talk["messages"][0]["content"] for talk in talks} == {"hi \ufffd", "😀"}
    for talk in talks:
        assert talk["messages"][-1]["tool_calls"][0]["function"]["arguments"] == {"at": ["\ufffd"], "\ufffd": 1}

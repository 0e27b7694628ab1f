"""Dynamic sampling: what is drawn in place of groups that are alike, deterministically, and resumed as it was."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.align.tiny_rl import TOKENIZER, by_length, config, model, rows
from tests.train.tiny_training import Killed, Outcome, checkpoints, context, outcome

from qwill.align import grpo, sample_rollouts
from qwill.align.dynamic_sampling import alike, redraw
from qwill.align.format_rewards import ENABLED
from qwill.align.grpo import shown_path, train_grpo
from qwill.align.rollouts import Rollout
from qwill.align.sample_rollouts import roll_out
from qwill.align.shown_rollouts import MOST, shown_line, shown_rollouts, shown_steps


def group(*rewards: float) -> list[Rollout]:
    return [Rollout([1, 2], 1, [0.0], reward, "en") for reward in rewards]


@given(
    good=st.sets(st.integers(0, 19)), most=st.integers(0, 4), seed=st.integers(0, 5),
    chosen=st.lists(st.integers(0, 19), min_size=1, max_size=8, unique=True),
)  # fmt: skip
def test_places_that_taught_nothing_get_prompts_of_their_language_once(
    good: set[int], most: int, seed: int, chosen: list[int]
) -> None:
    tasks = [{"language": ("en", "zh")[i % 2], "id": str(i)} for i in range(20)]
    asked: list[list[int]] = []
    firsts: list[int] = []

    def draw(some: list[int], places: list[int], first: int) -> list[list[Rollout]]:
        assert [tasks[i]["language"] for i in some] == [tasks[chosen[k]]["language"] for k in places]
        asked.append(some)
        firsts.append(first)
        return [group(1.0, 0.0) if i in good else group(1.0, 1.0) for i in some]

    begun = draw(chosen, list(range(len(chosen))), 0)
    groups, now, drawn = redraw(begun, chosen, tasks, most, draw, f"{seed}")
    every = [i for some in asked for i in some]
    assert len(set(every)) == len(every) == drawn, "no prompt twice"
    assert len(asked) <= most + 1
    assert firsts == [sum(map(len, asked[:k])) for k in range(len(asked))], "random streams of their own"
    for place, (before, after) in enumerate(zip(chosen, now, strict=True)):
        assert before % 2 == after % 2, "the languages keep their shares"
        assert (after == before) == (before in good or alike(groups[place]))
        assert after == before or after in good
    missing = [i for i in now if i not in good]
    pool = {i for i in range(20)} - set(every)
    assert len(asked) == most + 1 or not missing or not [i for i in pool if i % 2 in {j % 2 for j in missing}]
    same = lambda many, *_: [group(float(i in good), 0.0) for i in many]  # noqa: E731
    again = redraw(begun, chosen, tasks, most, same, f"{seed}")
    assert again[1:] == (now, drawn)
    assert redraw(begun, chosen, tasks, 0, draw, "") == (begun, chosen, len(chosen))


def test_failed_rewards_tell_nothing_apart() -> None:
    assert alike(group(float("nan"), 1.0, 1.0)) and alike(group(float("nan"))) and not alike(group(0.0, 1.0))


def some(row: dict[str, Any], reply: str) -> bool:
    """Half of the prompts are hopeless."""
    return int(row["id"][1:]) % 4 < 2 and by_length(row, reply)


def run(folder: Path, cut: tuple[int, int] | None = None, **changes: Any) -> tuple[Outcome, bytes]:
    """`cut`: (step, which draw of it)."""
    made, draws = model("dense", seed=99 if checkpoints(folder) else 0), Counter[int]()

    def until_cut(*arguments: Any) -> list[list[Rollout]]:
        step = arguments[4]
        if (step, draws[step]) == cut:
            raise Killed
        draws[step] += 1
        return roll_out(*arguments)

    ctx = context(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_rollouts, "verify", some)
        patch.setattr(grpo, "roll_out", until_cut)
        how = config(**{"redraws": 2, "prompts": 4} | changes)
        history = train_grpo(made, TOKENIZER, rows(16), how, ctx, checkpoint_seconds=0)
    return outcome(folder, made, history), shown_path(ctx).read_bytes()


def test_a_run_with_redraws_is_resumed_as_it_was(tmp_path: Path) -> None:
    whole, shown = run(tmp_path / "whole")
    curve = whole.history["curve"]
    assert all(p["useful"] >= 0.5 for p in curve) and 1 < max(p["draws"] for p in curve) <= 3
    without, _ = run(tmp_path / "without", redraws=0)
    assert "draws" not in without.history["curve"][0]
    # The reward that is logged is that of the prompts drawn first, chosen by nobody.
    assert curve[0]["reward"] == without.history["curve"][0]["reward"]
    assert curve[0]["useful"] > without.history["curve"][0]["useful"]
    assert whole.history["tokens"] > without.history["tokens"], "what was drawn and set aside has been sampled too"
    later = next(p["step"] - 1 for p in curve if p["draws"] > 1 and p["step"] > 1)
    for cut in ((1, 0), (later, 1)):
        place = tmp_path / f"cut{cut}"
        with pytest.raises(Killed):
            run(place, cut)
        again, shown_again = run(place)
        assert again.differences(whole) == [] and shown_again == shown, "no line twice, none missing"


def test_redraws_keep_the_weights_and_the_mode_of_their_place(tmp_path: Path) -> None:
    handed, asked = [], []

    def source(made: Any, *_: Any) -> Any:
        return lambda: (handed.append(1), made)[1]

    def noted(*arguments: Any) -> list[list[Rollout]]:
        asked.append([(row["language"], row[ENABLED], row["prompt"].split()[-1]) for row in arguments[2]])
        return roll_out(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_rollouts, "verify", lambda row, reply: False)
        patch.setattr(grpo, "rollout_source", source)
        patch.setattr(grpo, "roll_out", noted)
        how = config(redraws=2, prompts=4, steps=2, thinking=0.5, switched=1.0)
        train_grpo(model("dense"), TOKENIZER, rows(16), how, context(tmp_path))
    assert len(handed) == 2 and len(asked) == 2 * 3, "weights once a step, replies at each draw"
    # Nothing teaches, so that every place is drawn again, in its mode.
    one = [(language, True, word) for language in ("en", "zh") for word in ("/no_think", "/think")]
    assert asked == [one] * 6


def test_what_is_kept_to_be_read(tmp_path: Path) -> None:
    _, shown = run(tmp_path, shown=3)
    lines = [json.loads(line) for line in shown.splitlines()]
    assert Counter(line["step"] for line in lines) == dict.fromkeys((1, 2, 3, 4), 3)
    for line in lines:
        assert {"id", "prompt", "advantage", "tokens", "truncated"} < line.keys()
        assert line["said"][0]["role"] == "assistant" and line["turns"] == 1
        assert line["reward"] == line["parts"]["verifier"]
    assert {line["language"] for line in lines} == {"en", "zh"}
    assert not [key for key in lines[0] if "second" in key or "time" in key]


def test_a_long_run_keeps_no_more_than_can_be_read() -> None:
    for steps, count in ((10, 4), (5000, 4), (100_000, 64), (10, 0)):
        assert len(range(0, steps, shown_steps(steps, count))) * count <= max(MOST, count)
    r = Rollout([1, 2], 1, [0.0], float("nan"), "en", said=[{"role": "assistant", "content": "x" * 9000}])
    line = shown_line(r, {"id": 1, "prompt": "p"})
    assert line["reward"] is None and line["said"][0]["content"].endswith("… (+1000)") and json.dumps(line)
    best = shown_rollouts([group(0.0, 1.0, 0.5)], [{"id": 1, "prompt": "p", "language": "en"}], 4)
    assert [line["reward"] for line in best] == [1.0, 0.0]


def test_what_can_not_be_written_is_not_kept() -> None:
    made = Rollout([1, 2], 1, [0.0], 1.0, "en")
    call = {"function": {"name": "look", "arguments": {"at": ["\ud83d"], "\udce9": {"deep": "\udc00"}}}}
    made.said = [{"role": "assistant", "content": "", "tool_calls": [call]},
                 {"role": "tool", "name": "look", "content": "caf\udce9.txt"},
                 {"role": "assistant", "content": [{"type": "text", "text": "\ud83d\ude00"}]}]  # fmt: skip
    line = shown_line(made, {"id": "\ud83d", "prompt": [{"role": "user", "content": "hi \ud83d"}]})
    text = json.dumps(line, ensure_ascii=False).encode().decode()
    assert text.count("\ufffd") == 6 and "😀" in text

"""The arena stage: fair battles, honest leaderboards, the same votes after an interruption."""

import dataclasses
import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from qwill.base.errors import ConfigError, DataError
from qwill.base.files import read_json, read_jsonl, write_jsonl
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.evaluate import arena_battles
from qwill.evaluate.arena_battles import ArenaConfig, draw_tasks, hold_battles, leaderboard, rate, run
from qwill.evaluate.task_data import TasksConfig, make_tasks
from qwill.evaluate.tasks import verify
from qwill.model import ModelConfig, Transformer, save_model
from qwill.text.train_tokenizer import train

SKILL = {"base": 0.1, "sft": 0.5, "aligned": 0.8, "int8": 0.78}
TASKS = make_tasks(TasksConfig(demonstrations=6, rl=6, heldout=120), seed=0)["heldout"]


def answer(model: str, task: dict) -> str:
    luck = random.Random(f"{model}/{task['id']}").random()
    return task["answer"] if luck < SKILL[model] else "?"


def replies(models: dict[str, float] = SKILL, tasks: list[dict] = TASKS) -> dict[str, dict[str, str]]:
    return {model: {task["id"]: answer(model, task) for task in tasks} for model in models}


@pytest.fixture
def context(tmp_path: Path, monkeypatch) -> StageContext:
    """A run whose models answer by their skill; `asked` on the display counts which of them had to."""
    for name in ("out", "work", "tasks", *SKILL):
        (tmp_path / name).mkdir()
    write_jsonl(tmp_path / "tasks" / "heldout.jsonl", TASKS)
    monkeypatch.setattr(
        arena_battles,
        "_answers",
        lambda name, config, ctx, tasks: [{"prompt_id": task["id"], "reply": answer(name, task)} for task in tasks],
    )
    return StageContext(
        out=tmp_path / "out",
        work=tmp_path / "work",
        inputs={name: tmp_path / name for name in ("tasks", *SKILL)},
        seed=3,
        threads=1,
        display=Display(quiet=True),
        budget_s=None,
        metrics_path=tmp_path / "metrics.jsonl",
    )


def test_every_pair_meets_once_on_every_task_and_the_verifier_decides():
    votes = hold_battles(TASKS, replies(), seed=0)
    by_id = {task["id"]: task for task in TASKS}
    assert len({vote["id"] for vote in votes}) == len(votes) == 6 * len(TASKS)
    met = Counter((vote["prompt_id"], frozenset((vote["model_a"], vote["model_b"]))) for vote in votes)
    assert set(met.values()) == {1}
    outcomes = set()
    for vote in votes:
        task = by_id[vote["prompt_id"]]
        assert (vote["language"], vote["problem"]) == (task["language"], task["key"])
        for side in "ab":
            assert vote[f"reply_{side}"] == answer(vote[f"model_{side}"], task)
            assert vote[f"correct_{side}"] == verify(task, vote[f"reply_{side}"])
        right = (vote["correct_a"], vote["correct_b"])
        assert vote["outcome"] == {(True, False): 1.0, (False, True): 0.0}.get(right, 0.5)
        outcomes.add((right, vote["outcome"]))
    assert len(outcomes) == 4


def test_sides_are_drawn_evenly_from_the_seed():
    votes = hold_battles(TASKS, replies(), seed=0)
    assert votes == hold_battles(TASKS, replies(), seed=0)
    assert votes != hold_battles(TASKS, replies(), seed=1)
    for model in SKILL:
        share = sum(vote["model_a"] == model for vote in votes) / (3 * len(TASKS))
        assert 0.43 < share < 0.57


def test_sides_do_not_change_ratings():
    one, other = (rate(hold_battles(TASKS, replies(), seed), 0.1) for seed in (0, 1))
    assert one == other


def test_problems_are_drawn_whole_and_from_the_seed():
    drawn = draw_tasks(TASKS, 20, seed=0)
    languages = {key: set() for key in {task["key"] for task in drawn}}
    for task in drawn:
        languages[task["key"]].add(task["language"])
    assert len(languages) == 20
    assert all(found == {"en", "zh"} for found in languages.values())
    assert drawn == draw_tasks(TASKS[::-1], 20, seed=0)
    assert drawn != draw_tasks(TASKS, 20, seed=1)
    assert len(draw_tasks(TASKS, 0, seed=0)) == len(draw_tasks(TASKS, 10**6, seed=0)) == len(TASKS)
    with pytest.raises(DataError, match="1 held-out problems"):
        draw_tasks(TASKS[:1], 0, seed=0)


def test_the_leaderboard_finds_the_better_models():
    board = leaderboard(hold_battles(TASKS, replies(), seed=0), prior=0.1)
    rows = {row["model"]: row for row in board["ratings"]}
    assert [row["model"] for row in board["ratings"]][2:] == ["sft", "base"]
    assert rows["base"]["rank"] == 4 and rows["sft"]["rank"] == 3
    assert rows["aligned"]["rank"] == rows["int8"]["rank"] == 1
    for row in rows.values():
        assert row["wins"] + row["ties"] + row["losses"] == row["battles"] == 3 * len(TASKS)
        assert row["lower"] < row["rating"] < row["upper"]
    i, j = (board["win_matrix"]["models"].index(name) for name in ("aligned", "base"))
    points, battles = board["win_matrix"]["points"], board["win_matrix"]["battles"]
    assert points[i][j] + points[j][i] == battles[i][j] == len(TASKS)
    assert points[i][j] > 0.7 * battles[i][j]
    assert board["problems"] == 120


def test_battles_of_one_problem_are_not_independent():
    # A language that copies the other doubles the votes and must not narrow the intervals.
    english = [task for task in TASKS if task["language"] == "en"]
    votes = hold_battles(english, replies(tasks=english), seed=0)
    copied = votes + [vote | {"language": "zh"} for vote in votes]
    one, twice = (leaderboard(held, prior=1e-6)["ratings"] for held in (votes, copied))
    for row, other in zip(one, twice, strict=True):
        assert other["rating"] == pytest.approx(row["rating"], abs=0.01)
        assert other["stderr"] == pytest.approx(row["stderr"], rel=1e-3)


def test_a_model_that_never_wins_is_flagged_and_the_prior_stated():
    wins_nothing = {task["id"]: "?" for task in TASKS}
    always_right = {task["id"]: task["answer"] for task in TASKS}
    found = rate(
        hold_battles(TASKS, replies(["sft", "aligned"]) | {"base": wins_nothing, "int8": always_right}, 0),
        0.1,
    )
    assert found["separated"] == []  # both wrong is a tie: base is not infinitely bad
    found = rate(hold_battles(TASKS, {"base": wins_nothing, "int8": always_right}, 0), 0.1)
    assert found["separated"] == ["base", "int8"]
    assert all(row["separated"] for row in found["ratings"])
    assert any("rated by the prior: base, int8" in note for note in found["notes"])
    assert any("standard deviation 549" in note for note in found["notes"])
    with pytest.raises(DataError, match="perfect separation"):
        rate(hold_battles(TASKS, {"base": wins_nothing, "int8": always_right}, 0), 0.0)


def test_the_stage_writes_votes_and_ratings(context):
    metrics = run(ArenaConfig(problems=60), context)
    votes = [row for _, row in read_jsonl(context.out / "votes.jsonl")]
    ratings = read_json(context.out / "ratings.json")
    assert len(votes) == metrics["battles"] == 6 * 2 * 60
    assert {vote["language"] for vote in votes} == {"en", "zh"} == set(ratings["languages"])
    assert ratings["ratings"] == rate(votes, 0.1)["ratings"]
    assert ratings["languages"]["zh"]["ratings"] != ratings["languages"]["en"]["ratings"]
    assert ratings["prior"]["precision"] == 0.1 and ratings["models"] == list(SKILL)
    assert metrics["rating_aligned"] > metrics["rating_base"]


def test_real_models_answer_through_the_engine_and_twice_the_same(context, monkeypatch):
    monkeypatch.undo()  # the models' own answers this time
    tokenizer = train([row["prompt"] for row in TASKS], vocab_size=300)
    for seed, name in enumerate(("base", "sft")):
        torch.manual_seed(seed)
        config = ModelConfig(
            model_type="qwen3",
            vocab_size=tokenizer.padded_vocab_size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            intermediate_size=48,
        )
        model = Transformer(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        save_model(model, context.inputs[name], tokenizer)
    config = ArenaConfig(models=["base", "sft"], problems=4, max_tokens=6, slots=3)
    run(config, context)
    first = [row for _, row in read_jsonl(context.out / "votes.jsonl")]
    answers = {(row["prompt_id"], row[f"model_{side}"]): row[f"reply_{side}"] for row in first for side in "ab"}
    assert len(first) == 8 and len(set(answers.values())) > 8
    for kept in context.work.iterdir():
        kept.unlink()
    # Fewer slots: other batches, the same replies.
    run(dataclasses.replace(config, slots=2), context)
    assert first == [row for _, row in read_jsonl(context.out / "votes.jsonl")]


def test_an_interrupted_stage_goes_on_with_the_next_model_and_ends_the_same(context, monkeypatch):
    config = ArenaConfig(problems=30)
    run(config, context)
    whole = {name: (context.out / name).read_bytes() for name in ("votes.jsonl", "ratings.json")}
    asked: list[str] = []
    answers = arena_battles._answers

    def stops_at_aligned(name, *rest):
        asked.append(name)
        if name == "aligned" and asked.count("aligned") == 1:
            raise KeyboardInterrupt
        return answers(name, *rest)

    monkeypatch.setattr(arena_battles, "_answers", stops_at_aligned)
    for kept in context.work.iterdir():
        kept.unlink()
    with pytest.raises(KeyboardInterrupt):
        run(config, context)
    run(config, context)
    assert asked == ["base", "sft", "aligned", "aligned", "int8"]
    assert whole == {name: (context.out / name).read_bytes() for name in whole}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"models": ["base"]}, "at least two different"),
        ({"models": ["base", "base"]}, "at least two different"),
        ({"models": ["base", "other"]}, "names 'other', which is no input"),
        ({"problems": 1}, "arena.problems"),
        ({"prior": -1.0}, "arena.prior"),
        ({"slots": 0}, "arena.slots"),
    ],
)
def test_bad_configuration_is_named(context, changed, words):
    with pytest.raises(ConfigError, match=words):
        run(ArenaConfig(**changed), context)

"""The stage `arena`: the checkpoints of one run meet in pairs on held-out problems, and a verifier is the
judge.

Each model answers each problem once; every pair of replies to a problem is a battle. The replies of one
problem meet in several battles and in two languages, so votes depend on one another: the intervals are
clustered by problem.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from qwill.base.errors import ConfigError, DataError
from qwill.base.files import read_jsonl, write_json, write_jsonl
from qwill.base.stage import StageContext
from qwill.evaluate.arena import POINTS, fit_ratings, win_matrix
from qwill.evaluate.results import reply_to
from qwill.evaluate.task_data import load_rows
from qwill.evaluate.tasks import LANGUAGES, verify

JUDGE = "verifier"
DIGITS = 4  # of a rating in ratings.json: far below its error, far above the rounding of the linear algebra

Task = Mapping[str, Any]
Vote = dict[str, Any]


@dataclass(frozen=True)
class ArenaConfig:
    """`problems` are drawn from the held-out file and asked in each language; 0 means all.

    The sampling is the one that Qwen3 was released with for replies without thinking; `temperature` 0 is
    greedy. `prior` is that of `qwill.evaluate.arena.fit_ratings`: small, so that a model which never wins
    keeps a finite rating. Models join the arena in the order given; it changes nothing but the order of the
    votes.
    """

    models: list[str] = field(default_factory=lambda: ["base", "sft", "aligned", "int8"])
    problems: int = 150
    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    max_tokens: int = 48
    slots: int = 64
    prior: float = 0.1


def run(config: ArenaConfig, ctx: StageContext) -> dict[str, Any]:
    """Write votes.jsonl and ratings.json; returns the ratings.

    What a model has answered is kept in `ctx.work`, so an interrupted run goes on with the next model.
    """
    _check(config, ctx)
    tasks = draw_tasks(load_rows(ctx.inputs["tasks"] / "heldout.jsonl"), config.problems, ctx.seed)
    replies: dict[str, dict[str, str]] = {}
    for name in config.models:
        done = ctx.work / f"{name}.jsonl"
        if not done.is_file():
            write_jsonl(done, _answers(name, config, ctx, tasks))
        replies[name] = {row["prompt_id"]: row["reply"] for _, row in read_jsonl(done)}
    votes = hold_battles(tasks, replies, ctx.seed)
    ratings = rate(votes, config.prior)
    write_jsonl(ctx.out / "votes.jsonl", votes)
    write_json(ctx.out / "ratings.json", ratings | {"models": config.models})
    return {"battles": len(votes)} | {f"rating_{row['model']}": row["rating"] for row in ratings["ratings"]}


def draw_tasks(tasks: Sequence[Task], problems: int, seed: int) -> list[Task]:
    """The tasks of `problems` problems (language-free keys) in every language that asks them; 0 draws all."""
    keys = sorted({task["key"] for task in tasks})
    if problems and problems < len(keys):
        keys = sorted(random.Random(f"{seed}/arena/problems").sample(keys, problems))
    if len(keys) < 2:
        raise DataError(f"the arena found {len(keys)} held-out problems, expected at least 2; run `qwill tasks`.")
    chosen = set(keys)
    return sorted((task for task in tasks if task["key"] in chosen), key=lambda task: (task["key"], task["id"]))


def hold_battles(tasks: Sequence[Task], replies: Mapping[str, Mapping[str, str]], seed: int) -> list[Vote]:
    """One vote for each task and pair of models, from `replies[model][task id]`.

    The better reply wins: right against wrong; both right or both wrong is a tie, 0.5. Which model stands on
    side a is drawn, as it would be for a human judge.
    """
    sides = random.Random(f"{seed}/arena/sides")
    votes: list[Vote] = []
    for task in tasks:
        right = {name: verify(task, answers[task["id"]]) for name, answers in replies.items()}
        for pair in combinations(replies, 2):
            a, b = pair if sides.random() < 0.5 else pair[::-1]
            votes.append(
                {
                    "id": f"{task['id']}/{pair[0]}-{pair[1]}",
                    "prompt_id": task["id"],
                    "problem": task["key"],
                    "language": task["language"],
                    "model_a": a,
                    "model_b": b,
                    "reply_a": replies[a][task["id"]],
                    "reply_b": replies[b][task["id"]],
                    "correct_a": right[a],
                    "correct_b": right[b],
                    "outcome": 0.5 + (right[a] - right[b]) / 2,
                    "judge": JUDGE,
                }
            )
    return votes


def rate(votes: Sequence[Vote], prior: float) -> dict[str, Any]:
    """The contents of ratings.json: the leaderboards of all votes and of each language, and how they arose."""
    languages = sorted({vote["language"] for vote in votes}, key=LANGUAGES.index)
    overall = leaderboard(votes, prior)
    notes = [
        f"Bradley–Terry, 1000 + 400/ln 10 · r, centred on 1000, from {len(votes)} battles judged by the "
        "tasks' verifier; both right or both wrong is a tie.",
        "Intervals of 95 %, clustered by problem: one reply meets several others.",
    ]
    if prior:
        spread = float(POINTS) / math.sqrt(prior)
        notes.append(f"Prior: a normal of standard deviation {spread:.0f} around 1000 (precision {prior}).")
    if overall["separated"]:
        names = ", ".join(overall["separated"])
        notes.append(f"Won or lost every battle against the rest, so rated by the prior: {names}.")
    return overall | {
        "languages": {
            language: leaderboard([vote for vote in votes if vote["language"] == language], prior)
            for language in languages
        },
        "prior": {"precision": prior, "mean": 1000.0},
        "confidence": 0.95,
        "clusters": "problem",
        "judge": JUDGE,
        "notes": notes,
    }


def leaderboard(votes: Sequence[Vote], prior: float) -> dict[str, Any]:
    """Ratings, best first, with what each model won and lost; points won [i][j] by model i from model j."""
    a, b = [vote["model_a"] for vote in votes], [vote["model_b"] for vote in votes]
    outcome = [vote["outcome"] for vote in votes]
    found = fit_ratings(a, b, outcome, prior=prior, clusters=[vote["problem"] for vote in votes])
    models, points, battles = win_matrix(a, b, outcome)
    rows = []
    for i, model in enumerate(found.models):
        scores = [y for name, y in zip(a, outcome, strict=True) if name == model]
        scores += [1 - y for name, y in zip(b, outcome, strict=True) if name == model]
        rows.append(
            {
                "model": model,
                "rank": int(found.rank[i]),
                "rating": round(float(found.rating[i]), DIGITS),
                "stderr": round(float(found.stderr[i]), DIGITS),
                "lower": round(float(found.lower[i]), DIGITS),
                "upper": round(float(found.upper[i]), DIGITS),
                "battles": len(scores),
                "wins": scores.count(1.0),
                "ties": scores.count(0.5),
                "losses": scores.count(0.0),
                "separated": model in found.separated,
            }
        )
    return {
        "ratings": sorted(rows, key=lambda row: (-row["rating"], row["model"])),
        "separated": found.separated,
        "groups": found.groups,
        "problems": len({vote["problem"] for vote in votes}),
        "win_matrix": {"models": models, "points": points.tolist(), "battles": battles.tolist()},
    }


def _answers(name: str, config: ArenaConfig, ctx: StageContext, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    from qwill.engine.sampler import Sampling
    from qwill.model import load_model
    from qwill.text.tokenizer import Tokenizer

    model, tokenizer = load_model(ctx.inputs[name]), Tokenizer.load(ctx.inputs[name])
    sampling = Sampling(
        max_tokens=config.max_tokens, temperature=config.temperature, top_p=config.top_p, top_k=config.top_k
    )
    # One stream of random numbers for all models: what differs between two replies is then the models.
    seed = random.Random(f"{ctx.seed}/arena/replies").getrandbits(63)
    with ctx.display.stage(f"arena {name}", len(tasks), "reply") as bar:
        replies = reply_to(
            model,
            tokenizer,
            [task["prompt"] for task in tasks],
            sampling,
            slots=config.slots,
            seed=seed,
            progress=lambda done, tokens: bar.update(done, tokens=tokens),
        )
    return [{"prompt_id": task["id"], "reply": texts[0]} for task, texts in zip(tasks, replies, strict=True)]


def _check(config: ArenaConfig, ctx: StageContext) -> None:
    if len(set(config.models)) < 2 or len(set(config.models)) < len(config.models):
        raise ConfigError(f"arena.models is {config.models}; name at least two different model stages.")
    for name in config.models:
        if name not in ctx.inputs:
            raise ConfigError(f"arena.models names '{name}', which is no input; choose from {sorted(ctx.inputs)}.")
    if config.problems < 0 or config.problems == 1:
        raise ConfigError(f"arena.problems must be 0 (all) or 2 or more, and {config.problems} was given.")
    if config.max_tokens < 1 or config.slots < 1:
        raise ConfigError("arena.max_tokens and arena.slots must be 1 or more.")
    if not (math.isfinite(config.prior) and config.prior >= 0):
        raise ConfigError(f"arena.prior must be 0 (none) or more, and {config.prior} was given.")

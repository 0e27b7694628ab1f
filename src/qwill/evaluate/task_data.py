"""The stage `tasks`: three files of generated problems; none of the held-out ones is in the other two."""

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwill.base.config import LATER
from qwill.base.errors import ConfigError, DataError
from qwill.base.files import read_jsonl, write_jsonl
from qwill.base.stage import StageContext
from qwill.evaluate.tasks import FAMILIES, LANGUAGES, Problem, demonstrate, draw_problem, key_fraction


def _equal_weights() -> dict[str, float]:
    shares = {"split": 0.2, "between": 0.15, "digits": 0.1, "sort": 0.1, "reverse": 0.1, "compare": 0.05}
    return {"kinds": 0.3} | shares


@dataclass(frozen=True)
class TasksConfig:
    """Counts are for each language; `rl_weights` (default: `weights`) lets RL practise other families.

    thinking_share: of the demonstrations, those that show their thinking; `worked`: step by step."""

    demonstrations: int = 6000
    rl: int = 8000
    heldout: int = 1000
    weights: dict[str, float] = field(default_factory=_equal_weights)
    rl_weights: dict[str, float] | None = None
    heldout_share: float = 0.2
    thinking_share: float = 0.15
    rl_reuses_demonstrated_problems: bool = False
    reasoning_gym: tuple[str, ...] = field(default=(), metadata=LATER)
    reasoning_gym_each: int = field(default=200, metadata=LATER)
    worked: bool = field(default=False, metadata=LATER)


def make_tasks(config: TasksConfig, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of `demonstrations`, `rl` and `heldout`, shuffled; the same for the same configuration and seed.

    Held-out problems are the same in both languages: the languages can be compared problem by problem.
    """
    _check(config)
    middle = (1 + config.heldout_share) / 2
    everything = (config.heldout_share, 1.0)
    demonstrated = everything if config.rl_reuses_demonstrated_problems else (config.heldout_share, middle)
    practised = everything if config.rl_reuses_demonstrated_problems else (middle, 1.0)
    rl_weights = config.weights if config.rl_weights is None else config.rl_weights
    files: dict[str, list[dict[str, Any]]] = {"heldout": heldout_rows(config, seed)}
    for name, count, weights, stream in (
        ("demonstrations", config.demonstrations, config.weights, demonstrated),
        ("rl", config.rl, rl_weights, practised),
    ):
        rows = []
        for language in LANGUAGES:
            for family, share in quotas(count, weights).items():
                rows += _practice(name, family, language, share, stream, config, seed)
        random.Random(f"{seed}/{name}/order").shuffle(rows)
        files[name] = rows
    if config.reasoning_gym:
        files["rl"] = reasoning_rows(config, seed)
    return files


def reasoning_rows(config: TasksConfig, seed: int) -> list[dict[str, Any]]:
    """Problems of reasoning-gym to practise, shuffled. Raises ConfigError where it isn't installed or has no such
    family."""
    from qwill.evaluate.reasoning_gym_tasks import rows

    # The box's own problems, for evaluation, have the seed 0.
    drawn = rows(config.reasoning_gym, config.reasoning_gym_each, seed=1_000_003 + seed)
    made = [{"language": "en", "key": row["id"], "prompt": row.pop("question"), **row} for row in drawn]
    random.Random(f"{seed}/reasoning_gym/order").shuffle(made)
    return made


def heldout_rows(config: TasksConfig, seed: int, without: Collection[str] = ()) -> list[dict[str, Any]]:
    """`config.heldout` problems of the stream that is never trained on, in both languages; none has a key in `without`.

    A choice that was made by looking at one set of problems is confirmed on another: give the first one's keys.
    """
    rng = random.Random(f"{seed}/heldout")
    problems: list[Problem] = []
    for family, count in quotas(config.heldout, config.weights).items():
        seen = {key for key in without if Problem.from_key(key).family == family}
        for problem in _draws(family, (0.0, config.heldout_share), rng, count + len(seen), seen):
            if problem.key not in seen:
                seen.add(problem.key)
                problems.append(problem)
    # Both languages in one order: the first so many rows of a language are then the same problems too.
    rng.shuffle(problems)
    return [
        _row(f"heldout-{problem.family}-{language}-{number:05d}", problem, language, rng, thinking_share=0.0)
        for number, problem in enumerate(problems)
        for language in LANGUAGES
    ]


def _practice(
    name: str,
    family: str,
    language: str,
    count: int,
    stream: tuple[float, float],
    config: TasksConfig,
    seed: int,
) -> list[dict[str, Any]]:
    rng = random.Random(f"{seed}/{name}/{family}/{language}")
    rows: list[dict[str, Any]] = []
    # A small family may ask one problem in several phrasings, but never the same prompt twice.
    seen: set[str] = set()
    for problem in _draws(family, stream, rng, count, seen):
        row = _row(
            f"{name}-{family}-{language}-{len(rows):05d}", problem, language, rng, config.thinking_share, config.worked
        )
        if row["prompt"] not in seen:
            seen.add(row["prompt"])
            rows.append(row)
    return rows


def _draws(
    family: str, stream: tuple[float, float], rng: random.Random, count: int, seen: set[str]
) -> Iterator[Problem]:
    """Problems of one stream, until the caller has put `count` of them into `seen`."""
    for _ in range(200 * count + 1000):
        if len(seen) >= count:
            return
        problem = draw_problem(family, rng)
        if stream[0] <= key_fraction(problem.key) < stream[1]:
            yield problem
    if len(seen) < count:
        raise ConfigError(
            f"tasks: the family '{family}' has only {len(seen)} different problems where {count} rows were "
            f"asked for; ask for fewer or lower its weight."
        )


def _row(
    row_id: str, problem: Problem, language: str, rng: random.Random, thinking_share: float, worked: bool = False
) -> dict[str, Any]:
    shown = demonstrate(problem, language, rng, worked)
    return {
        "id": row_id,
        "family": problem.family,
        "language": language,
        "prompt": shown.prompt,
        "answer": shown.answer,
        "thinking": shown.thinking if rng.random() < thinking_share else None,
        "key": problem.key,
    }


def quotas(count: int, weights: dict[str, float]) -> dict[str, int]:
    """Split `count` by weights to whole numbers that add up to it (largest remainders first)."""
    total = sum(weights.values())
    exact = {family: count * weights[family] / total for family in FAMILIES if weights.get(family, 0) > 0}
    shares = {family: int(value) for family, value in exact.items()}
    by_remainder = sorted(exact, key=lambda family: (shares[family] - exact[family], FAMILIES.index(family)))
    for family in by_remainder[: count - sum(shares.values())]:
        shares[family] += 1
    return shares


def _check(config: TasksConfig) -> None:
    for name, weights in (("weights", config.weights), ("rl_weights", config.rl_weights)):
        if weights is None:
            continue
        for family, weight in weights.items():
            if family not in FAMILIES:
                raise ConfigError(f"tasks.{name}: unknown family '{family}'; choose from {', '.join(FAMILIES)}.")
            if weight < 0:
                raise ConfigError(f"tasks.{name}.{family}: a weight must be 0 or more, and {weight} was given.")
        if sum(weights.values()) <= 0:
            raise ConfigError(f"tasks.{name}: at least one family needs a weight above 0.")
    if not 0 < config.heldout_share < 1:
        raise ConfigError(f"tasks.heldout_share must lie between 0 and 1, and {config.heldout_share} was given.")
    if not 0 <= config.thinking_share <= 1:
        raise ConfigError(f"tasks.thinking_share must lie between 0 and 1, and {config.thinking_share} was given.")
    for name in ("demonstrations", "rl", "heldout", "reasoning_gym_each"):
        if getattr(config, name) < 1:
            raise ConfigError(f"tasks.{name} must be 1 or more, and {getattr(config, name)} was given.")


def run(config: TasksConfig, ctx: StageContext) -> dict[str, Any]:
    """Write demonstrations.jsonl, rl.jsonl and heldout.jsonl into `ctx.out`."""
    files = make_tasks(config, ctx.seed)
    for name, rows in sorted(files.items()):
        write_jsonl(ctx.out / f"{name}.jsonl", rows)
    return {f"{name}_rows": len(rows) for name, rows in sorted(files.items())}


def load_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one of the three files. DataError names the line that lacks a field."""
    rows = []
    for line_no, row in read_jsonl(path):
        missing = [name for name in ("id", "family", "language", "prompt", "key") if name not in row]
        if missing:
            raise DataError(f"{path}:{line_no}: the task has no '{missing[0]}'; make the file with `qwill tasks`.")
        rows.append(row)
    return rows

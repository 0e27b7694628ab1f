"""Does each algorithm learn? A small model, 500 held-out problems, every algorithm of `sft` and `align`.

    .venv/bin/python benchmarks/learning.py [--only dpo gspo …] [--seeds 3] [--tune] [--dry]

The start is a dense Qwen3 of 0.8 M parameters that was trained on demonstrations of "Name two countries and one month."
in English and Chinese, half of them sloppy (a word too few, one said twice, one of another kind), as what a base model
has read is. SFT goes on with good demonstrations; DPO and its kin, KTO and the reward model learn from the start's own
replies, right and wrong as the verifier says; the online algorithms from the verifier; distillation from a larger model
that was trained on good demonstrations. Each runs as its stage does (`qwill sft`, `dpo`, `reward`, `grpo`, `ppo`,
`distill`), with seeds of its own for order and sampling. Then greedy replies to the same 500 problems (250 in each
language), none of which is trained on: the difference to the start with an exact McNemar test. The reward model is
judged by what it picks: of 8 sampled replies the one that it scores best, against the first of them.

Settings are chosen on one draw of held-out problems (`--tune`), and what is reported is on another, which has none of
these.

Claims: SFT, reward model, DPO, KTO, PPO, RLOO, GRPO, GSPO and on-policy distillation at least +5 points with p < 0.01
for each of three seeds; the others with one seed; all within 90 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from compare import stage_context, verdict, write_section

from qwill.align import distill, grpo, offline, reward
from qwill.align.reward import load_reward
from qwill.align.settings import DistillConfig, GRPOConfig, PPOConfig, PreferenceConfig, RewardConfig
from qwill.base.stage import StageContext
from qwill.engine.generate import Completion, generate
from qwill.engine.sampler import Sampling
from qwill.evaluate import kinds
from qwill.evaluate.statistics import mcnemar_exact, wilson
from qwill.evaluate.task_data import TasksConfig, heldout_rows, make_tasks
from qwill.evaluate.tasks import verify
from qwill.model.config import ModelConfig
from qwill.model.files import load_model, save_model
from qwill.model.initial import init_weights
from qwill.model.transformer import Transformer
from qwill.text.chat import render
from qwill.text.tokenizer import Tokenizer
from qwill.text.train_tokenizer import train as train_tokenizer
from qwill.train import sft
from qwill.train.settings import OptimizerConfig, ScheduleConfig, SFTConfig

THREE_SEEDS = ("sft", "reward", "dpo", "kto", "ppo", "rloo", "grpo", "gspo", "distill")
ONE_SEED = (
    "dapo", "dr_grpo", "cispo", "reinforce_plus_plus", "hinge", "ipo", "robust", "exo", "normalised", "orpo", "simpo",
    "distill_forward", "distill_reverse", "distill_teacher",
)  # fmt: skip
TASKS = TasksConfig(demonstrations=4000, rl=4000, heldout=250, weights={"kinds": 1.0}, thinking_share=0.0)
TUNED, REPORTED = 5, 7  # seeds of the two draws
MAX_TOKENS, TRIES, LEAST, MINUTES, SLOPPY = 20, 8, 5.0, 90, 0.5
WORKERS = 2  # runs at a time, a thread each


@dataclass
class World:
    """Folders of the models and files of the data that all runs share."""

    folder: Path
    heldout: list[dict[str, Any]] = field(default_factory=list)

    def place(self, name: str) -> Path:
        return self.folder / name


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def replies(
    model: Transformer, tokenizer: Tokenizer, rows: list[dict[str, Any]], n: int, temperature: float, seed: int = 11
) -> list[list[Completion]]:
    prompts = [
        render([{"role": "user", "content": r["prompt"]}], tokenizer=tokenizer, thinking=False, generation_prompt=True)
        for r in rows
    ]
    return generate(
        model, [p.ids for p in prompts], Sampling(max_tokens=MAX_TOKENS, temperature=temperature), n=n, slots=256,
        stop_ids=tokenizer.stop_ids, seed=seed, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip


def right(row: dict[str, Any], reply: Completion, tokenizer: Tokenizer) -> bool:
    return reply.finish_reason == "stop" and verify(row, tokenizer.decode(reply.token_ids))


def greedy(folder: Path, rows: list[dict[str, Any]]) -> list[bool]:
    tokenizer = Tokenizer.load(folder)
    groups = replies(load_model(folder), tokenizer, rows, 1, 0.0)
    return [right(row, group[0], tokenizer) for row, group in zip(rows, groups, strict=True)]


def sloppy(row: dict[str, Any], rng: random.Random) -> str:
    """The row's answer with a word too few, a word said twice, or one of another kind in its place."""
    separator = kinds.SEPARATOR[row["language"]]
    words = row["answer"].split(separator)
    at = rng.randrange(len(words))
    match rng.randrange(3):
        case 0:
            del words[at]
        case 1:
            words[at] = words[at - 1]
        case _:
            kind = kinds.KINDS[rng.choice(sorted(kinds.KINDS))]
            words[at] = rng.choice(kind.en_words if row["language"] == "en" else kind.zh_words)
    return separator.join(words)


def write_dialogues(folder: Path, rows: list[dict[str, Any]], answers: list[str]) -> None:
    folder.mkdir()
    told = [
        {
            "id": r["id"],
            "messages": [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": answer}],
        }
        for r, answer in zip(rows, answers, strict=True)
    ]
    write_rows(folder / "train.jsonl", told[200:])
    write_rows(folder / "heldout.jsonl", told[:200])


def heldout(first: list[dict[str, Any]], tune: bool) -> list[dict[str, Any]]:
    """The draw that settings are chosen on, or the one that is reported: none of the first one's problems."""
    return first if tune else heldout_rows(TASKS, REPORTED, {row["key"] for row in first})


def prepare(world: World, tune: bool) -> None:
    """Problems, tokenizer, the start and the teacher."""
    tasks = make_tasks(TASKS, TUNED)
    world.heldout = heldout(tasks["heldout"], tune)
    rows, rng = tasks["demonstrations"], random.Random(3)
    write_dialogues(world.place("dialogues"), rows, [r["answer"] for r in rows])
    mixed = [sloppy(r, rng) if rng.random() < SLOPPY else r["answer"] for r in rows]
    write_dialogues(world.place("mixed"), rows, mixed)
    write_rows(world.place("rl.jsonl"), tasks["rl"])
    tokenizer = train_tokenizer((r["prompt"] + "\n" + r["answer"] for r in tasks["demonstrations"]), 1024)
    for name, config in (
        ("blank", ModelConfig("qwen3", 1024, 128, 3, 2, 1, 64, 384, tie_word_embeddings=True)),
        ("blank_teacher", ModelConfig("qwen3", 1024, 192, 4, 3, 1, 64, 576, tie_word_embeddings=True)),
    ):
        model = Transformer(config)
        init_weights(model, torch.Generator().manual_seed(7))
        world.place(name).mkdir()
        save_model(model, world.place(name), tokenizer)
    for name, blank, data, steps in (
        ("start", "blank", "mixed", 600), ("teacher", "blank_teacher", "dialogues", 900)
    ):  # fmt: skip
        config = SFTConfig(
            steps=steps, batch_tokens=2048, optimizer=OptimizerConfig(learning_rate=3e-3, matrix_rate=0.02)
        )
        ctx = stage_context(world.place(f"{name}_run"), {"base": world.place(blank), "dialogues": world.place(data)}, 7)
        sft.run(config, ctx)
        ctx.out.rename(world.place(name))


def preferences(world: World, seed: int) -> tuple[Path, Path]:
    """(pairs, single replies with a verdict) from the start's own replies to problems that no model was shown."""
    pairs_file, single_file = world.place(f"pairs-{seed}.jsonl"), world.place(f"single-{seed}.jsonl")
    if pairs_file.exists():
        return pairs_file, single_file
    rng = random.Random(seed)
    rows = rng.sample([json.loads(line) for line in world.place("rl.jsonl").read_text().splitlines()], 5000)
    tokenizer = Tokenizer.load(world.place("start"))
    groups = replies(load_model(world.place("start")), tokenizer, rows, TRIES, 1.0, seed)
    pairs, single = [], []
    for row, group in zip(rows, groups, strict=True):
        ended = [c for c in group if c.finish_reason == "stop"]
        good = {tokenizer.decode(c.token_ids) for c in ended if right(row, c, tokenizer)}
        bad = {text for c in ended if (text := tokenizer.decode(c.token_ids)).strip()} - good
        prompt = [{"role": "user", "content": row["prompt"]}]
        said = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
        common = {"prompt": prompt, "language": row["language"]}
        for text in sorted(good)[:2]:
            single.append(common | {"completion": said(text), "label": True})
        for text in sorted(bad)[:2]:
            single.append(common | {"completion": said(text), "label": False})
        pairs += [
            common | {"chosen": said(g), "rejected": said(b)} for g, b in zip(sorted(good), sorted(bad), strict=False)
        ]
    rng.shuffle(pairs)
    rng.shuffle(single)
    write_rows(pairs_file, pairs)
    write_rows(single_file, single)
    return pairs_file, single_file


ONLINE = GRPOConfig(
    steps=80, prompts=32, samples=8, updates=2, max_tokens=MAX_TOKENS, temperature=1.0,
    optimizer=OptimizerConfig(learning_rate=7e-4, matrix_rate=7e-3), schedule=ScheduleConfig(warmup=0.1, decay=0.5),
)  # fmt: skip
PAIRS = PreferenceConfig(
    steps=250, pairs=32, max_tokens=128, heldout=0.1, beta=0.5,
    optimizer=OptimizerConfig("adamw", learning_rate=1e-4, matrix_rate=1e-4),
    schedule=ScheduleConfig(warmup=0.1, decay=0.5),
)  # fmt: skip
FASTER = OptimizerConfig("adamw", learning_rate=2e-4, matrix_rate=2e-4)
# Margins of log-probabilities a token are some ten times smaller than those of whole replies, of ten tokens here.
BETAS = {"ipo": 2.0, "normalised": 5.0, "simpo": 10.0}
DISTILL = DistillConfig(
    steps=100, prompts=64, max_tokens=MAX_TOKENS, beta=0.5,
    optimizer=OptimizerConfig(learning_rate=7e-4, matrix_rate=5e-3), schedule=ScheduleConfig(warmup=0.1, decay=0.5),
)  # fmt: skip


def run_one(world: World, name: str, seed: int, into: Path) -> Path:
    """The folder of the model that algorithm `name` makes of the start."""
    start, rl = world.place("start"), world.place("rl.jsonl")
    work: Callable[[Any, StageContext], Any]
    config: Any
    inputs = {"sft": start}
    match name:
        case "sft":
            work, inputs = sft.run, {"base": start, "dialogues": world.place("dialogues")}
            config = SFTConfig(
                steps=200, batch_tokens=2048, optimizer=OptimizerConfig(learning_rate=2e-3, matrix_rate=0.01)
            )
        case "reward":
            work, inputs = reward.run, inputs | {"preferences": preferences(world, seed)[0]}
            config = RewardConfig(
                steps=800, pairs=32, max_tokens=128, optimizer=ONLINE.optimizer, schedule=PAIRS.schedule
            )
        case "kto":
            work, inputs = offline.run, inputs | {"preferences": preferences(world, seed)[1]}
            config = replace(PAIRS, loss="kto", pairs=64, beta=1.0, desirable=1.6)
        case "dpo" | "hinge" | "ipo" | "robust" | "exo" | "normalised" | "orpo" | "simpo":
            work, inputs = offline.run, inputs | {"preferences": preferences(world, seed)[0]}
            config = replace(PAIRS, loss="sigmoid" if name == "dpo" else name, beta=BETAS.get(name, 0.5))
            if name == "normalised":
                config = replace(config, optimizer=FASTER)
        case "ppo":
            work, inputs = grpo.run, inputs | {"tasks": rl}
            config = PPOConfig(**{k: v for k, v in vars(ONLINE).items()})
        case "distill" | "distill_forward" | "distill_reverse" | "distill_teacher":
            work, inputs = distill.run, inputs | {"tasks": rl, "teacher": world.place("teacher")}
            beta = {"distill_forward": 0.0, "distill_reverse": 1.0}.get(name, 0.5)
            config = replace(DISTILL, beta=beta, on_policy=0.0 if name == "distill_teacher" else 1.0)
        case _:
            work, inputs = grpo.run, inputs | {"tasks": rl}
            config = replace(ONLINE, algorithm=name)
    ctx = stage_context(into, inputs, seed)
    work(config, ctx)
    return ctx.out


def picked(world: World, folder: Path) -> tuple[list[bool], list[bool]]:
    """Whether the first of the start's sampled replies is right, and whether the one that the reward model picks is."""
    tokenizer = Tokenizer.load(world.place("start"))
    groups = replies(load_model(world.place("start")), tokenizer, world.heldout, TRIES, 1.0)
    judge = load_reward(folder)
    first, best = [], []
    for row, group in zip(world.heldout, groups, strict=True):
        prompt = [{"role": "user", "content": row["prompt"]}]
        texts = [tokenizer.decode(c.token_ids) for c in group]
        said = [[{"role": "assistant", "content": text}] for text in texts if text.strip()]
        given = iter(judge.score([prompt] * len(said), said))
        scores = [next(given) if text.strip() else -math.inf for text in texts]  # nothing said is nothing judged
        good = [right(row, c, tokenizer) for c in group]
        first.append(good[0])
        best.append(good[max(range(len(texts)), key=lambda i: scores[i])])
    return first, best


def shown(marks: list[bool]) -> str:
    interval = wilson(sum(marks), len(marks))
    return f"{100 * sum(marks) / len(marks):.1f} [{100 * interval.lower:.1f}, {100 * interval.upper:.1f}]"


def measured(world: World, before: list[bool], name: str, seed: int) -> tuple[list[bool], list[bool], float]:
    """(what the start solves, what the model of one run solves, seconds of training); in a process of one thread."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    folder = world.place(f"{name}-{seed}")
    made = run_one(world, name, seed, folder)
    seconds = time.perf_counter() - started
    old, new = picked(world, made) if name == "reward" else (before, greedy(made, world.heldout))
    shutil.rmtree(folder)
    return old, new, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*THREE_SEEDS, *ONE_SEED], default=[*THREE_SEEDS, *ONE_SEED])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tune", action="store_true", help="on the problems that settings are chosen on; as --dry")
    parser.add_argument("--dry", action="store_true", help="print, and leave RESULTS.md as it is")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    world = World(Path(tempfile.mkdtemp()))
    prepare(world, arguments.tune)
    before = greedy(world.place("start"), world.heldout)
    head = (
        f"Start: {shown(before)} % of 500 problems; teacher: {shown(greedy(world.place('teacher'), world.heldout))} %; "
        f"made in {time.perf_counter() - began:.0f} s."
    )
    print(head, flush=True)
    lines = [
        head,
        "",
        "| algorithm | seed | before | after | points | p | en, zh | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    runs = [
        (name, seed)
        for name in arguments.only
        for seed in range(1, (arguments.seeds if name in THREE_SEEDS else 1) + 1)
    ]
    for seed in sorted({seed for _, seed in runs}):
        preferences(world, seed)
    met = []
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        tasks = [pool.submit(measured, world, before, name, seed) for name, seed in runs]
        for (name, seed), task in zip(runs, tasks, strict=True):
            old, new, seconds = task.result()
            won = sum(n and not o for o, n in zip(old, new, strict=True))
            lost = sum(o and not n for o, n in zip(old, new, strict=True))
            points, p = 100 * (sum(new) - sum(old)) / len(new), mcnemar_exact(won, lost)
            parts = [
                100 * sum(n - o for o, n, r in zip(old, new, world.heldout, strict=True) if r["language"] == language)
                / sum(r["language"] == language for r in world.heldout)
                for language in ("en", "zh")
            ]  # fmt: skip
            lines.append(
                f"| {name} | {seed} | {shown(old)} | {shown(new)} | {points:+.1f} | {p:.1e} "
                f"| {parts[0]:+.1f}, {parts[1]:+.1f} | {seconds:.0f} |"
            )
            print(lines[-1], flush=True)
            met.append(points >= LEAST and p < 0.01)
    minutes = (time.perf_counter() - began) / 60
    lines += ["", f"{sum(met)} of {len(met)} runs met +{LEAST:g} points and p < 0.01. {minutes:.0f} minutes in all. "
              + verdict(f"every run, within {MINUTES} minutes", all(met) and minutes <= MINUTES)]  # fmt: skip
    print(lines[-1])
    shutil.rmtree(world.folder)
    if not (arguments.dry or arguments.tune):
        write_section("Does each algorithm learn?", "\n".join(lines))


if __name__ == "__main__":
    main()

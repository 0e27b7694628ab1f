"""Does reinforcement learning beat more imitation? Three seeds from one SFT checkpoint, 1,000 problems a language.

    .venv/bin/python benchmarks/alignment.py recipes/demo.yaml      (after `make demo`; about 10 minutes a seed)

For each seed: GRPO as the recipe says; and SFT continued on the very same problems with their demonstrations, for the
same wall time on the same machine. Greedy replies, exact McNemar against both; pass@1 and pass@16 by sampling at T = 1.
The problems are held out and none of them is in the recipe's own held-out file, by which its settings were chosen.
Claim: aligned ≥ SFT + 10 points and ≥ continued SFT + 5 points, p < 0.01, in each language, for each seed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from compare import write_section

from qwill.align.grpo import train_grpo
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.engine.generate import generate
from qwill.engine.sampler import Sampling
from qwill.evaluate.statistics import mcnemar_exact, pass_at_k, wilson
from qwill.evaluate.task_data import heldout_rows, load_rows
from qwill.evaluate.tasks import verify
from qwill.model.files import load_model
from qwill.model.transformer import Transformer
from qwill.text.chat import render, training_examples
from qwill.text.tokenizer import Tokenizer
from qwill.train.loop import train
from qwill.train.settings import SFTConfig
from qwill.train.sft import pack_examples, plan_steps
from qwill.workflow.recipe import load_recipe


def context(folder: Path, seed: int, threads: int) -> StageContext:
    (folder / "work").mkdir(parents=True)
    return StageContext(folder, folder / "work", {}, seed, threads, Display(), None, folder / "metrics.jsonl")


def replies(
    model: Transformer, tokenizer: Tokenizer, rows: list[dict[str, Any]], n: int, temperature: float, max_tokens: int
) -> list[list[bool]]:
    """Whether each of `n` replies to each row is right."""
    prompts = [
        render([{"role": "user", "content": r["prompt"]}], tokenizer=tokenizer, thinking=False, generation_prompt=True)
        for r in rows
    ]
    groups = generate(
        model, [p.ids for p in prompts], Sampling(max_tokens=max_tokens, temperature=temperature), n=n, slots=256,
        stop_ids=tokenizer.stop_ids, seed=11, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    return [
        [c.finish_reason == "stop" and verify(row, tokenizer.decode(c.token_ids)) for c in group]
        for row, group in zip(rows, groups, strict=True)
    ]


def continue_sft(
    model: Transformer,
    tokenizer: Tokenizer,
    rows: list[dict[str, Any]],
    seconds: float,
    config: SFTConfig,
    ctx: StageContext,
) -> tuple[int, float]:
    """Train on the rows' demonstrations for about `seconds`; returns the number of steps and the seconds they took."""
    examples = [
        e
        for r in rows
        for e in training_examples(
            [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["answer"]}], None, tokenizer
        )
    ]
    lengths = [len(e.ids) for e in examples]

    def run(student: Transformer, steps: int, into: StageContext) -> float:
        plan = plan_steps(lengths, steps, config.batch_tokens, ctx.seed)
        started = time.perf_counter()
        train(
            student, steps, lambda s: pack_examples([examples[i] for i in plan[s]], "demonstrations"),
            config.optimizer, config.schedule, config.balance, into, "SFT continued",
        )  # fmt: skip
        return time.perf_counter() - started

    twin = Transformer(model.config)
    twin.load_state_dict(model.state_dict())
    # The difference of two trials, so that what a run costs whatever its length is not taken for the price of a step.
    short, long = (run(twin, n, context(ctx.out / f"trial-{n}", ctx.seed, ctx.threads)) for n in (10, 50))
    steps = max(10, round((seconds - short) / (long - short) * 40) + 10)
    return steps, run(model, steps, ctx)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    torch.set_num_threads(recipe.threads)
    sft_folder, tasks = recipe.folder / "sft", recipe.folder / "tasks"
    section, sft_section = recipe.section("aligned"), recipe.section("sft")
    assert section is not None and sft_section is not None
    config = section.config
    tokenizer = Tokenizer.load(sft_folder)
    rows = load_rows(tasks / "rl.jsonl")
    files = ("rl", "demonstrations", "heldout")
    seen = {name: {r["key"] for r in load_rows(tasks / f"{name}.jsonl")} for name in files}
    task_section = recipe.section("tasks")
    assert task_section is not None
    heldout = heldout_rows(task_section.config, recipe.seed + 1, without=seen["heldout"])
    assert not set.union(*seen.values()) & {r["key"] for r in heldout}

    def score(model: Transformer) -> dict[str, Any]:
        greedy = [g[0] for g in replies(model, tokenizer, heldout, 1, 0.0, config.max_tokens)]
        few = [r for language in ("en", "zh") for r in [h for h in heldout if h["language"] == language][:200]]
        sampled = replies(model, tokenizer, few, 16, 1.0, config.max_tokens)
        return {"greedy": greedy, "sampled": list(zip(few, sampled, strict=True))}

    base = score(load_model(sft_folder))
    lines = [
        "| seed | language | SFT | SFT continued | aligned | − SFT (p) | − continued (p) "
        "| pass@1 SFT, continued, aligned | pass@16 SFT, continued, aligned |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    verdicts, times = [], []
    for seed in range(1, arguments.seeds + 1):
        scratch = Path(tempfile.mkdtemp())
        aligned = load_model(sft_folder)
        started = time.perf_counter()
        train_grpo(aligned, tokenizer, rows, config, context(scratch / "grpo", seed, recipe.threads))
        seconds = time.perf_counter() - started
        continued = load_model(sft_folder)
        steps, same = continue_sft(
            continued, tokenizer, rows, seconds, replace(sft_section.config, steps=1),
            context(scratch / "sft", seed, recipe.threads),
        )  # fmt: skip
        scores = {"sft": base, "continued": score(continued), "aligned": score(aligned)}
        times.append(f"seed {seed}: GRPO {seconds:.0f} s, SFT continued {same:.0f} s ({steps} steps)")
        print(times[-1])
        for language in ("en", "zh"):
            mine = [i for i, r in enumerate(heldout) if r["language"] == language]
            right = {k: [v["greedy"][i] for i in mine] for k, v in scores.items()}
            share = {k: sum(v) / len(v) for k, v in right.items()}
            against = {}
            for other in ("sft", "continued"):
                won = sum(a and not b for a, b in zip(right["aligned"], right[other], strict=True))
                lost = sum(b and not a for a, b in zip(right["aligned"], right[other], strict=True))
                against[other] = (100 * (share["aligned"] - share[other]), mcnemar_exact(won, lost))
            passes = {
                (k, n): sum(pass_at_k(16, sum(s), n) for r, s in scores[k]["sampled"] if r["language"] == language)
                / 200
                for k in scores
                for n in (1, 16)
            }

            def shown(k: str, right: dict[str, list[bool]] = right) -> str:
                interval = wilson(sum(right[k]), len(right[k]))
                share = 100 * sum(right[k]) / len(right[k])
                return f"{share:.1f} [{100 * interval.lower:.1f}, {100 * interval.upper:.1f}]"

            lines.append(
                f"| {seed} | {language} | {shown('sft')} | {shown('continued')} | {shown('aligned')} "
                f"| {against['sft'][0]:+.1f} ({against['sft'][1]:.1e}) "
                f"| {against['continued'][0]:+.1f} ({against['continued'][1]:.1e}) "
                + "".join(f"| {', '.join(f'{100 * passes[k, n]:.1f}' for k in scores)} " for n in (1, 16))
                + "|"
            )
            verdicts.append(
                against["sft"][0] >= 10 and against["continued"][0] >= 5 and max(p for _, p in against.values()) < 0.01
            )
            print(lines[-1], flush=True)
        shutil.rmtree(scratch)
    lines.append(f"\n{'; '.join(times)}.")
    lines.append(f"\nClaim {'met' if all(verdicts) else 'MISSED'}: {sum(verdicts)} of {len(verdicts)} rows.")
    write_section("Reinforcement learning against imitation", "\n".join(lines))


if __name__ == "__main__":
    main()

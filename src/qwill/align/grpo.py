"""Stage `grpo`: reinforcement learning with verifiable rewards, rollouts by our own engine.

Each step: sample G replies to each of P prompts from the current weights, verify them, and make one
update (or several, clipped) that raises what earned more than its group. Every step logs the largest difference
between the rollout's log-probabilities and the trainer's: none where the native kernels run, else rounding only.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from qwill.align.policy_update import logprobs_of, set_advantages, update
from qwill.align.rollouts import Rollout, draw_prompts
from qwill.align.settings import GRPOConfig
from qwill.base.errors import DataError, TrainingError
from qwill.base.files import write_json
from qwill.base.progress import MetricsLog
from qwill.base.stage import StageContext
from qwill.engine.generate import Completion, generate
from qwill.engine.sampler import Sampling
from qwill.evaluate.task_data import load_rows
from qwill.evaluate.tasks import verify
from qwill.model.files import load_model, save_model
from qwill.model.transformer import Transformer
from qwill.text.chat import render
from qwill.text.tokenizer import Tokenizer
from qwill.train.checkpoint import load_checkpoint, save_checkpoint
from qwill.train.loop import History
from qwill.train.optim import make_optimizers, rate_factor, set_rates

NOTHING_LEARNT = {
    "gap": 0.0, "clipped": 0.0, "kl": 0.0, "entropy": 0.0, "ratio_most": 1.0, "ratio_least": 1.0, "gradient_norm": 0.0,
}  # fmt: skip


def roll_out(
    model: Transformer, tokenizer: Tokenizer, rows: list[dict[str, Any]], config: GRPOConfig, step: int, seed: int
) -> list[list[Rollout]]:
    """`samples` verified replies to each row, grouped by row."""
    prompts = [
        render(
            [{"role": "user", "content": r["prompt"]}], tokenizer=tokenizer, thinking=False, generation_prompt=True
        ).ids
        for r in rows
    ]
    groups: list[list[Completion]] = generate(
        model, prompts, Sampling(max_tokens=config.max_tokens, temperature=config.temperature), n=config.samples,
        slots=len(prompts) * config.samples, stop_ids=tokenizer.stop_ids, seed=seed * 1_000_003 + step,
        vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    out = []
    for row, prompt, group in zip(rows, prompts, groups, strict=True):
        replies = [(c, tokenizer.decode(c.token_ids)) for c in group]
        out.append(
            [
                Rollout(
                    [*prompt, *c.token_ids], len(prompt), c.logprobs,
                    # A reply that ran into the limit was never finished, whatever it says so far.
                    float(c.finish_reason == "stop" and verify(row, text)), row["language"],
                )
                for c, text in replies
            ]
        )  # fmt: skip
    return out


def run(config: GRPOConfig, ctx: StageContext) -> dict[str, Any]:
    tokenizer = Tokenizer.load(ctx.inputs["sft"])
    model = load_model(ctx.inputs["sft"])
    rows = load_rows(ctx.inputs["tasks"] / "rl.jsonl")
    if config.prompts > len(rows):
        raise DataError(f"grpo.prompts is {config.prompts}, but there are only {len(rows)} problems; make more tasks.")
    reference = load_model(ctx.inputs["sft"]) if config.kl else None
    history = train_grpo(model, tokenizer, rows, config, ctx, reference=reference)
    write_json(ctx.out / "training.json", history.thinned())
    save_model(model, ctx.out, tokenizer, metadata={"recipe_id": ctx.recipe_id})
    last = history.curve[-max(1, len(history.curve) // 10) :]
    return {
        "rollouts": config.steps * config.prompts * config.samples,
        "reward_first": round(history.curve[0]["reward"], 4),
        "reward_last": round(sum(p["reward"] for p in last) / len(last), 4),
        "largest_logprob_gap": max(p["gap"] for p in history.curve),
    }


def teaching(groups: list[list[Rollout]], config: GRPOConfig) -> list[Rollout]:
    """The rollouts that an update is made on: groups that are all alike teach nothing, unless rewards are compared
    across groups or a KL is in the loss."""
    if config.algorithm == "reinforce_plus_plus" or config.kl:
        return [r for g in groups for r in g]
    return [r for g in groups if len({r.reward for r in g}) > 1 for r in g]


def train_grpo(
    model: Transformer,
    tokenizer: Tokenizer,
    rows: list[dict[str, Any]],
    config: GRPOConfig,
    ctx: StageContext,
    checkpoint_seconds: float = 20.0,
    reference: Transformer | None = None,
) -> History:
    """The whole run; resumes from ctx.work. `reference` is the starting model, where `kl` needs it.

    Raises TrainingError when a gradient is not finite, naming the step.
    """
    optimizers = make_optimizers(model, config.optimizer)
    history, first = History(), 0
    if (found := load_checkpoint(ctx.work, model, optimizers)) is not None:
        first, extra = found
        history = History(**extra)  # type: ignore[arg-type]
    log = MetricsLog(ctx.metrics_path, resume_step=first)
    saved_at = time.monotonic()
    with ctx.display.stage("grpo", total=config.steps, unit="step", budget_s=ctx.budget_s) as bar:
        bar.update(first)
        for step in range(first, config.steps):
            set_rates(optimizers, rate_factor(step, config.steps, config.schedule))
            chosen = [rows[i] for i in draw_prompts(rows, step, config.prompts, ctx.seed)]
            groups = roll_out(model, tokenizer, chosen, config, step, ctx.seed)
            every = [r for g in groups for r in g]
            if reference is not None:
                for r, own in zip(every, logprobs_of(reference, every, config), strict=True):
                    r.reference = own
            if config.importance_most:
                for r, own in zip(every, logprobs_of(model, every, config), strict=True):
                    r.old = own
            set_advantages(groups, config)
            useful = teaching(groups, config)
            mean_reward = float(torch.tensor([r.reward for r in every]).mean())
            numbers = {"reward": mean_reward, "useful": len(useful) / len(every)}
            for language in sorted({r.language for r in every}):
                mine = [r.reward for r in every if r.language == language]
                numbers[f"reward_{language}"] = sum(mine) / len(mine)
            numbers["length"] = sum(len(r.logprobs) for r in every) / len(every)
            learned = dict(NOTHING_LEARNT) | ({"kl_start": 0.0} if reference is not None else {})
            for number in range(config.updates if useful else 0):
                now = update(model, optimizers, useful, config)
                # Only the first update sees the weights that made the rollouts; later ones differ on purpose.
                learned = now | ({"gap": learned["gap"]} if number else {})
            if not math.isfinite(learned["gradient_norm"]):
                raise TrainingError(
                    f"grpo: the gradient of step {step} is not finite (first prompt: {chosen[0]['id']}); stopped, "
                    f"and the last checkpoint, if one was made, is in {ctx.work}; lower the learning rates."
                )
            history.curve.append({"step": step + 1, **numbers, **learned})
            history.tokens += sum(len(r.logprobs) for r in every)
            log.log(step + 1, **numbers, **learned)
            bar.update(step + 1, reward=numbers["reward"], useful=numbers["useful"], gap=learned["gap"])
            if time.monotonic() - saved_at > checkpoint_seconds and step + 1 < config.steps:
                save_checkpoint(ctx.work, step + 1, model, optimizers, vars(history))
                saved_at = time.monotonic()
    if first < config.steps:
        save_checkpoint(ctx.work, config.steps, model, optimizers, vars(history))
    return history

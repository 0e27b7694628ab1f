"""Stage `grpo`: reinforcement learning with verifiable rewards, rollouts by our own engine.

Each step: sample G replies to each of P prompts from the current weights, verify them, and make one
update (or several, clipped) that raises what earned more than its group. Every step logs the largest difference
between the rollout's log-probabilities and the trainer's: none where the native kernels run, else rounding only.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qwill.align.advantages import group_advantages
from qwill.align.kl import kl_value
from qwill.align.policy_losses import clipped
from qwill.align.settings import GRPOConfig
from qwill.base.errors import DataError, TrainingError
from qwill.base.files import write_json
from qwill.base.progress import MetricsLog
from qwill.base.stage import StageContext
from qwill.engine.generate import Completion, generate
from qwill.engine.sampler import Sampling
from qwill.evaluate.task_data import load_rows
from qwill.evaluate.tasks import verify
from qwill.model import ops
from qwill.model.batch import Batch
from qwill.model.files import load_model, save_model
from qwill.model.transformer import Transformer, balancing_loss
from qwill.text.chat import render
from qwill.text.tokenizer import Tokenizer
from qwill.train.checkpoint import load_checkpoint, save_checkpoint
from qwill.train.loop import History
from qwill.train.optim import make_optimizers, rate_factor, set_rates


@dataclass
class Rollout:
    """One sampled reply: the whole sequence, where the reply starts, and what the sampler thought of each token."""

    ids: list[int]
    start: int
    logprobs: list[float]
    reward: float
    language: str
    advantage: float = 0.0


def draw_prompts(rows: list[dict[str, Any]], step: int, count: int, seed: int) -> list[int]:
    """Indices of step `step`'s prompts: each language's rows in seeded order, taken in turn, epoch after epoch."""
    languages = sorted({r["language"] for r in rows})
    chosen: list[int] = []
    for k, language in enumerate(languages):
        mine = [i for i, r in enumerate(rows) if r["language"] == language]
        share = count // len(languages) + (k < count % len(languages))
        orders: dict[int, list[int]] = {}
        for j in range(step * share, (step + 1) * share):
            epoch, place = divmod(j, len(mine))
            if epoch not in orders:
                orders[epoch] = random.Random(f"{seed}/grpo/{language}/{epoch}").sample(mine, len(mine))
            chosen.append(orders[epoch][place])
    return chosen


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


def _reply_states(model: Transformer, batch: Batch, rollouts: list[Rollout]) -> tuple[Tensor, Tensor, Any]:
    """(hidden states that predict reply tokens, those tokens, router statistics) of a packed batch of rollouts."""
    output = model(batch)
    starts = batch.cu_seqlens[:-1].tolist()
    index = [s + j for s, r in zip(starts, rollouts, strict=True) for j in range(r.start - 1, len(r.ids) - 1)]
    targets = torch.tensor([t for r in rollouts for t in r.ids[r.start :]])
    return output.hidden_ND[torch.tensor(index)], targets, output.router_stats


def micro_batches(rollouts: list[Rollout], limit: int) -> list[list[Rollout]]:
    """Rollouts of like length together, at most `limit` tokens a part."""
    parts: list[list[Rollout]] = [[]]
    size = 0
    for r in sorted(rollouts, key=lambda r: -len(r.ids)):
        if parts[-1] and size + len(r.ids) > limit:
            parts.append([])
            size = 0
        parts[-1].append(r)
        size += len(r.ids)
    return parts


def update(
    model: Transformer, optimizers: list[torch.optim.Optimizer], rollouts: list[Rollout], config: GRPOConfig
) -> dict[str, float]:
    """One optimiser step on rollouts with advantages (token mean over all their reply tokens); numbers for the log."""
    tokens = sum(len(r.ids) - r.start for r in rollouts)
    gap = cut = kl = entropy_proxy = 0.0
    for part in micro_batches(rollouts, config.train_tokens):
        batch = Batch.pack([r.ids[:-1] for r in part])
        hidden_ND, targets_N, stats = _reply_states(model, batch, part)
        old_N = torch.tensor([p for r in part for p in r.logprobs])
        advantage_N = torch.tensor([r.advantage for r in part for _ in r.logprobs])
        with torch.no_grad():
            _, loss_N = ops.cross_entropy(
                hidden_ND, model.head_weight_VD, targets_N, torch.zeros(len(targets_N)), config.temperature
            )
        logp_N = (-loss_N).requires_grad_()
        found = clipped(logp_N, old_N, advantage_N, config.clip_low, config.clip_high)
        (found.losses.sum() / tokens).backward()
        assert logp_N.grad is not None
        # d loss / d logp is each token's weight in the fused cross-entropy, whose gradient is that of −logp.
        total, _ = ops.cross_entropy(hidden_ND, model.head_weight_VD, targets_N, -logp_N.grad, config.temperature)
        if config.balance and stats:
            total = total + config.balance * balancing_loss(stats) * len(part) / len(rollouts)
        total.backward()
        share = len(old_N) / tokens
        gap = max(gap, float((logp_N.detach() - old_N).abs().max()))
        cut += float(found.clipped.float().mean()) * share
        kl += float(kl_value(old_N, logp_N.detach()).mean()) * share
        entropy_proxy += float(-old_N.mean()) * share
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip, foreach=True))
    for o in optimizers:
        if math.isfinite(norm):
            o.step()
        o.zero_grad(set_to_none=True)
    return {"gap": gap, "clipped": cut, "kl": kl, "entropy": entropy_proxy, "gradient_norm": norm}


def run(config: GRPOConfig, ctx: StageContext) -> dict[str, Any]:
    tokenizer = Tokenizer.load(ctx.inputs["sft"])
    model = load_model(ctx.inputs["sft"])
    rows = load_rows(ctx.inputs["tasks"] / "rl.jsonl")
    if config.prompts > len(rows):
        raise DataError(f"grpo.prompts is {config.prompts}, but there are only {len(rows)} problems; make more tasks.")
    history = train_grpo(model, tokenizer, rows, config, ctx)
    write_json(ctx.out / "training.json", history.thinned())
    save_model(model, ctx.out, tokenizer, metadata={"recipe_id": ctx.recipe_id})
    last = history.curve[-max(1, len(history.curve) // 10) :]
    return {
        "rollouts": config.steps * config.prompts * config.samples,
        "reward_first": round(history.curve[0]["reward"], 4),
        "reward_last": round(sum(p["reward"] for p in last) / len(last), 4),
        "largest_logprob_gap": max(p["gap"] for p in history.curve),
    }


def train_grpo(
    model: Transformer,
    tokenizer: Tokenizer,
    rows: list[dict[str, Any]],
    config: GRPOConfig,
    ctx: StageContext,
    checkpoint_seconds: float = 20.0,
) -> History:
    """The whole run; resumes from ctx.work. Raises TrainingError when a gradient is not finite, naming the step."""
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
            rewards_PG = torch.tensor([[r.reward for r in g] for g in groups])
            advantages_PG = group_advantages(rewards_PG, config.scale_advantages)
            for group, advantages in zip(groups, advantages_PG.tolist(), strict=True):
                for r, a in zip(group, advantages, strict=True):
                    r.advantage = a
            useful = [r for g in groups if len({r.reward for r in g}) > 1 for r in g]
            every = [r for g in groups for r in g]
            numbers = {"reward": float(rewards_PG.mean()), "useful": len(useful) / len(every)}
            for language in sorted({r.language for r in every}):
                mine = [r.reward for r in every if r.language == language]
                numbers[f"reward_{language}"] = sum(mine) / len(mine)
            numbers["length"] = sum(len(r.logprobs) for r in every) / len(every)
            learned = {"gap": 0.0, "clipped": 0.0, "kl": 0.0, "entropy": 0.0, "gradient_norm": 0.0}
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

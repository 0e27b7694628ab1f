"""Stage `grpo`: reinforcement learning with verifiable rewards, rollouts by our own engine.

Each step: sample G replies to each of P prompts from the current weights, verify them, and make one
update (or several, clipped) that raises what earned more than its group. Every step logs the largest difference
between the rollout's log-probabilities and the trainer's: none where the native kernels run, else rounding only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from qwill.align.critic import Critic
from qwill.align.format_rewards import ENABLED
from qwill.align.hacking import Watch, numbers_of
from qwill.align.policy_update import logprobs_of, set_advantages, update
from qwill.align.replies import as_messages
from qwill.align.rewards import Rewards
from qwill.align.rollouts import Rollout, draw_prompts, of_all_ranks, sampling_of
from qwill.align.rounded import rollout_weights
from qwill.align.rule_rewards import Made, check_rows, repeated_share
from qwill.align.settings import GRPOConfig, PPOConfig
from qwill.align.update_numbers import nothing_learnt
from qwill.base.errors import ConfigError, DataError, TrainingError
from qwill.base.files import write_json
from qwill.base.progress import MetricsLog
from qwill.base.stage import StageContext
from qwill.data.row_files import read_rows
from qwill.engine.generate import Completion, generate
from qwill.engine.language_model import load
from qwill.evaluate.task_data import load_rows
from qwill.evaluate.tasks import verify
from qwill.model.files import save_model
from qwill.model.transformer import Transformer
from qwill.model.twin import twin
from qwill.text.chat import render
from qwill.text.tokenizer import Tokenizer
from qwill.train.adapter import begin_adapter, finish_adapter, start_weights
from qwill.train.checkpoint import Checkpoints
from qwill.train.loop import History
from qwill.train.optim import make_optimizers, rate_factor, set_rates
from qwill.train.replicas import ALONE, Replicas, replicas_of

LARGE_GAP = 0.1  # nats; between executors of one precision it is rounding, some 1e-6
GAPS = ("gap", "gap_mean", "gap_kl")


def roll_out(
    model: Transformer,
    tokenizer: Tokenizer,
    rows: list[dict[str, Any]],
    config: GRPOConfig,
    step: int,
    seed: int,
    rewards: Rewards | None = None,
    streams: Sequence[int] | None = None,
) -> list[list[Rollout]]:
    """`samples` replies to each row with their rewards, grouped by row; without `rewards` the rows' own check.
    `streams` are the rows' places in the step, where these are not all of its rows."""
    places = range(len(rows)) if streams is None else streams
    rows = [row | {ENABLED: thinking_at(place, config.thinking)} for place, row in zip(places, rows, strict=True)]
    prompts, sampling = [prompt_ids(row["prompt"], tokenizer, row[ENABLED]) for row in rows], sampling_of(config)
    groups: list[list[Completion]] = generate(
        model, prompts, sampling, n=config.samples,
        slots=max(1, len(prompts)) * config.samples, stop_ids=tokenizer.stop_ids, seed=seed * 1_000_003 + step,
        streams=streams, vocab_size=tokenizer.vocab_size, support=sampling.truncates,
        routing=config.routing_replay == "rollout", in_place=True,
    )  # fmt: skip
    # A reply that ran into the limit was never finished, whatever it says so far.
    said = [
        Made(row, tokenizer.decode(c.token_ids), c.finish_reason == "stop", len(c.token_ids), config.max_tokens)
        for row, group in zip(rows, groups, strict=True)
        for c in group
    ]
    earned = iter(rewards.of_all(said) if rewards is not None else [_verified(one) for one in said])
    out: list[list[Rollout]] = []
    for row, prompt, group in zip(rows, prompts, groups, strict=True):
        made: list[Rollout] = []
        for c in group:
            parts, one = next(earned), said[len(out) * config.samples + len(made)]
            reward = sum(parts.values()) if rewards is None else rewards.total(parts)
            logprobs = c.sampled_logprobs if sampling.truncates else c.logprobs
            ids = [*prompt, *c.token_ids]
            made.append(Rollout(ids, len(prompt), logprobs, reward, row["language"], parts=parts))
            made[-1].support, made[-1].routing = c.support, c.routing
            made[-1].ended, made[-1].repeated = one.ended, repeated_share(one.reply)
        out.append(made)
    return out


def _verified(one: Made) -> dict[str, float]:
    return {"verifier": float(one.ended and verify(one.row, one.reply))}


def thinking_at(place: int, share: float) -> bool:
    """Whether the prompt at this place of a step is asked with thinking: spread evenly, so that each language has the
    share too."""
    return math.floor((place + 1) * share) > math.floor(place * share)


def prompt_ids(prompt: str | list[dict[str, Any]], tokenizer: Tokenizer, thinking: bool = False) -> list[int]:
    """A prompt (text of a user, or messages) up to where the assistant begins, with enable_thinking as `thinking`."""
    return render(as_messages(prompt), tokenizer=tokenizer, thinking=thinking, generation_prompt=True).ids


def run(config: GRPOConfig, ctx: StageContext) -> dict[str, Any]:
    replicas = replicas_of(config.mesh, "ppo" if isinstance(config, PPOConfig) else "grpo")
    start = load(ctx.inputs["sft"], weights=start_weights(ctx.inputs["sft"], config.lora))
    model, tokenizer = start.model, start.tokenizer
    verified = not config.rewards or any(part.kind == "verifier" for part in config.rewards)
    rows = problems(ctx.inputs["tasks"], verified)
    check_rows(rows, config.rewards, ctx.inputs["tasks"])
    if config.routing_replay == "rollout" and not model.config.num_experts:
        raise ConfigError("grpo.routing_replay is rollout, but this model has no experts; leave it out.")
    if config.prompts > len(rows):
        raise DataError(f"grpo.prompts is {config.prompts}, but there are only {len(rows)} problems; make more tasks.")
    # With an adapter the start is the model without it, and the critic another adapter: weights are held once.
    again = (lambda: twin(model)) if config.lora else (lambda: load(ctx.inputs["sft"]).model)
    reference = again() if config.kl else None
    judge = again() if isinstance(config, PPOConfig) else None
    adapter = begin_adapter(model, config.lora, ctx.seed)
    with Rewards(config.rewards, ctx.display.say) if config.rewards else nullcontext() as rewards:
        more: dict[str, Any] = {"reference": reference, "rewards": rewards, "replicas": replicas}
        if isinstance(config, PPOConfig) and judge is not None:
            begin_adapter(judge, config.lora, ctx.seed + 1)
            more["critic"] = Critic.start(judge, config)
        history = train_grpo(model, tokenizer, rows, config, ctx, **more)
    if replicas.rank:
        return {}  # rank 0 writes the artifact
    write_json(ctx.out / "training.json", history.thinned())
    finish_adapter(model, adapter, ctx.inputs["sft"], ctx)
    save_model(model, ctx.out, tokenizer, metadata={"recipe_id": ctx.recipe_id}, merged=True)
    last = history.curve[-max(1, len(history.curve) // 10) :]
    return {
        "rollouts": config.steps * config.prompts * config.samples,
        "reward_first": round(history.curve[0]["reward"], 4),
        "reward_last": round(sum(p["reward"] for p in last) / len(last), 4),
        "largest_logprob_gap": max(p["gap"] for p in history.curve),
    }


def teaching(groups: list[list[Rollout]], config: GRPOConfig, judged: bool = False) -> list[Rollout]:
    """The rollouts that an update is made on: groups that are all alike teach nothing, unless rewards are compared
    across groups, by a critic (`judged`), or a KL is in the loss; a reply whose reward failed never teaches."""
    known = [[r for r in g if not math.isnan(r.reward)] for g in groups]
    if judged or config.algorithm == "reinforce_plus_plus" or config.kl:
        return [r for g in known for r in g]
    return [r for g in known if len({r.reward for r in g}) > 1 for r in g]


def mean(values: list[float]) -> float:
    """Of what is known; 0 where nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else 0.0


def problems(place: Path, verified: bool) -> list[dict[str, Any]]:
    """The rows to draw prompts from: rl.jsonl of the stage tasks, or a file of your own whose rows have a `prompt`
    (text or messages) and, where replies are `verified`, a `key`. Raises DataError naming file, line and field."""
    if place.is_dir():
        return load_rows(place / "rl.jsonl")
    rows = []
    for number, row in read_rows(place):
        prompt = row.get("prompt")
        if not (isinstance(prompt, str) and prompt.strip()) and not (isinstance(prompt, list) and prompt):
            raise DataError(f"{place}: line {number}: prompt: expected text or a list of messages.")
        if verified and "key" not in row:
            raise DataError(f"{place}: line {number} has no 'key' to verify a reply by; name a reward of your own.")
        rows.append({"id": str(number), "language": "other"} | row)
    if not rows:
        raise DataError(f"{place}: holds no prompt; add rows, or name another file.")
    return rows


def train_grpo(
    model: Transformer,
    tokenizer: Tokenizer,
    rows: list[dict[str, Any]],
    config: GRPOConfig,
    ctx: StageContext,
    checkpoint_seconds: float = 20.0,
    reference: Transformer | None = None,
    rewards: Rewards | None = None,
    critic: Critic | None = None,
    replicas: Replicas = ALONE,
) -> History:
    """The whole run; resumes from ctx.work. `reference` is the starting model, where `kl` needs it. Of `replicas` each
    rolls out its share of the prompts and computes its share of every update.

    Raises TrainingError when a gradient is not finite, naming the step.
    """
    optimizers = make_optimizers(model, config.optimizer)
    kept = Checkpoints(ctx.work, model, optimizers, replicas)
    if critic is not None:
        both = nn.ModuleDict({"policy": model, "critic": critic.model})
        kept = Checkpoints(ctx.work, both, [*optimizers, *critic.optimizers], replicas)
    history, first = History(), 0
    if (found := kept.load()) is not None:
        first, extra = found
        history = History(**extra)  # type: ignore[arg-type]
    log = MetricsLog(ctx.metrics_path, resume_step=first) if replicas.rank == 0 else None
    saved_at, warned = time.monotonic(), config.truncation > 0
    watch = Watch(history.curve)
    weights = rollout_weights(model, config.rollout_dtype)
    with ctx.display.stage("grpo", total=config.steps, unit="step", budget_s=ctx.budget_s) as bar:
        bar.update(first)
        for step in range(first, config.steps):
            set_rates(kept.optimizers, rate_factor(step, config.steps, config.schedule))
            chosen = [rows[i] for i in draw_prompts(rows, step, config.prompts, ctx.seed)]
            started, places = time.monotonic(), replicas.places(len(chosen))
            own_rows = [chosen[i] for i in places]
            groups = roll_out(weights(), tokenizer, own_rows, config, step, ctx.seed, rewards, places)
            mine = [r for g in groups for r in g]
            if reference is not None:
                for r, own in zip(mine, logprobs_of(reference, mine, config), strict=True):
                    r.reference = own
            if config.truncation:
                for r, own in zip(mine, logprobs_of(model, mine, config, replay=True), strict=True):
                    r.old = own
            if critic is not None:
                critic.set_values(mine)
            groups = of_all_ranks(groups, replicas)
            every = [r for g in groups for r in g]
            if critic is not None:
                critic.set_advantages(every)
            else:
                set_advantages(groups, config)
            useful = teaching(groups, config, critic is not None)
            numbers = {"reward": mean([r.reward for r in every]), "useful": len(useful) / len(every)}
            for language in sorted({r.language for r in every}):
                numbers[f"reward_{language}"] = mean([r.reward for r in every if r.language == language])
            for name in every[0].parts if rewards is not None else ():
                numbers[f"reward_part_{name}"] = mean([r.parts[name] for r in every])
            if rewards is not None:
                numbers["reward_failed"] = sum(math.isnan(r.reward) for r in every) / len(every)
            numbers["length"] = sum(len(r.logprobs) for r in every) / len(every)
            numbers |= numbers_of(groups, config.rewards)
            learned = nothing_learnt(reference is not None)
            for number in range(config.updates if useful else 0):
                now = update(model, optimizers, useful, config, replicas)
                # Only the first update sees the weights that made the rollouts; later ones differ on purpose.
                learned = now | ({name: learned[name] for name in GAPS} if number else {})
                if critic is not None:
                    learned |= critic.update(useful, replicas)
            if not math.isfinite(learned["gradient_norm"]):
                raise TrainingError(
                    f"grpo: the gradient of step {step} is not finite (first prompt: {chosen[0]['id']}); stopped, "
                    f"and the last checkpoint, if one was made, is in {ctx.work}; lower the learning rates."
                )
            history.curve.append({"step": step + 1, **numbers, **learned})
            flags, sentences = watch.look(history.curve)
            history.curve[-1] |= flags
            numbers |= flags
            for sentence in sentences:
                ctx.display.say(f"grpo: {sentence}")
            if not warned and learned["gap"] > LARGE_GAP:
                warned = True
                ctx.display.say(
                    f"grpo: step {step + 1}: the rollout's and the trainer's log-probabilities differ by up to "
                    f"{learned['gap']:.2g} (mean {learned['gap_mean']:.2g}); importance_most: 2 corrects for it."
                )
            sampled = sum(len(r.logprobs) for r in every)
            history.tokens += sampled
            if log is not None:
                speed = sampled / (time.monotonic() - started)
                log.log(step + 1, **numbers, **learned, tokens_per_second=speed)
            bar.update(step + 1, reward=numbers["reward"], useful=numbers["useful"], gap=learned["gap"])
            if time.monotonic() - saved_at > checkpoint_seconds and step + 1 < config.steps:
                kept.save(step + 1, vars(history))
                saved_at = time.monotonic()
    if first < config.steps:
        kept.save(config.steps, vars(history))
    return history

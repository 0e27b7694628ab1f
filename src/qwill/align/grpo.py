"""Stage `grpo`: reinforcement learning with verifiable rewards, rollouts by our own engine.

Each step: sample G replies to each of P prompts from the current weights, verify them, and make one
update (or several, clipped) that raises what earned more than its group. Every step logs the largest difference
between the rollout's log-probabilities and the trainer's: none where the native kernels run, else rounding only.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from qwill.align.critic import Critic
from qwill.align.dynamic_sampling import redraw
from qwill.align.hacking import Watch, numbers_of
from qwill.align.policy_update import logprobs_of, set_advantages, update
from qwill.align.prompts import problems, with_room
from qwill.align.reference import own_reference
from qwill.align.rewards import Rewards
from qwill.align.rollout_engines import rollout_source
from qwill.align.rollout_numbers import rollout_numbers
from qwill.align.rollouts import Rollout, draw_prompts, of_all_ranks
from qwill.align.rule_rewards import check_rows
from qwill.align.sample_rollouts import roll_out
from qwill.align.settings import GRPOConfig, PPOConfig
from qwill.align.shown_rollouts import shown_rollouts, shown_steps
from qwill.align.tools import Tools
from qwill.align.update_numbers import nothing_learnt
from qwill.base.errors import ConfigError, DataError, TrainingError
from qwill.base.files import read_jsonl, write_bytes, write_json, write_text
from qwill.base.progress import MetricsLog
from qwill.base.stage import StageContext
from qwill.engine.language_model import load
from qwill.evaluate.rollouts_page import rollouts_page
from qwill.model.files import save_model
from qwill.model.transformer import Transformer
from qwill.model.twin import twin
from qwill.text.tokenizer import Tokenizer
from qwill.train.adapter import begin_adapter, finish_adapter, start_weights
from qwill.train.checkpoint import Checkpoints
from qwill.train.kept_sampling import kept_sampling
from qwill.train.loop import History
from qwill.train.optim import make_optimizers, rate_factor, set_rates
from qwill.train.replicas import ALONE, Replicas, replicas_of

LARGE_GAP = 0.1  # nats; between executors of one precision it is rounding, some 1e-6
GAPS = ("gap", "gap_mean", "gap_kl")


def run(config: GRPOConfig, ctx: StageContext) -> dict[str, Any]:
    replicas = replicas_of(config.mesh, "ppo" if isinstance(config, PPOConfig) else "grpo")
    if replicas.count > 1 and config.rollout_engine != "own":
        raise ConfigError(
            f"grpo.rollout_engine is {config.rollout_engine}, which one process drives; start it without torchrun."
        )
    if config.rollout_engine == "vllm" and replicas.count > 1:
        raise ConfigError(
            "grpo.rollout_engine is vllm, which runs in one process; leave torchrun out, or set it to own."
        )
    start = load(ctx.inputs["sft"], weights=start_weights(ctx.inputs["sft"], config.lora))
    model, tokenizer = start.model, start.tokenizer
    verified = not config.rewards or any(part.kind == "verifier" for part in config.rewards)
    rows = problems(ctx.inputs["tasks"], verified)
    check_rows(rows, config.rewards, ctx.inputs["tasks"])
    if config.routing_replay == "rollout" and not model.config.num_experts:
        raise ConfigError("grpo.routing_replay is rollout, but this model has no experts; leave it out.")
    asked = len(rows)
    # With an adapter the start is the model without it, and the critic another adapter: weights are held once.
    again = (lambda: twin(model)) if config.lora else (lambda: load(ctx.inputs["sft"]).model)
    reference = own_reference(ctx, tokenizer, None if config.kl else "grpo.kl is 0")
    if config.kl and reference is None:
        reference = again()
    judge = again() if isinstance(config, PPOConfig) else None
    adapter = begin_adapter(model, config.lora, ctx.seed)
    with (
        Rewards(config.rewards, ctx.display.say) if config.rewards else nullcontext() as rewards,
        Tools(config.tools) if config.tools else nullcontext() as tools,
    ):
        schemas = tools.schemas if tools else ()
        rows = with_room(rows, tokenizer, model, config.max_tokens, config.too_long, ctx, schemas)
        if config.prompts > len(rows):
            raise DataError(
                f"grpo.prompts is {config.prompts}, but there are only {len(rows)} problems; make more tasks."
            )
        more: dict[str, Any] = {"reference": reference, "rewards": rewards, "replicas": replicas, "tools": tools}
        if isinstance(config, PPOConfig) and judge is not None:
            begin_adapter(judge, config.lora, ctx.seed + 1)
            more["critic"] = Critic.start(judge, config)
        history = train_grpo(model, tokenizer, rows, config, ctx, **more)
    if replicas.rank:
        return {}  # rank 0 writes the artifact
    write_json(ctx.out / "training.json", history.thinned())
    if shown_path(ctx).is_file():
        lines = [line for _, line in read_jsonl(shown_path(ctx))]
        write_text(shown_path(ctx).with_suffix(".html"), rollouts_page(f"grpo {ctx.recipe_id}", {"aligned": lines}))
        write_bytes(ctx.out / "rollouts.jsonl", shown_path(ctx).read_bytes())
    finish_adapter(model, adapter, ctx.inputs["sft"], ctx)
    sampling = kept_sampling(ctx.inputs["sft"], model.config, tokenizer)
    save_model(
        model, ctx.out, tokenizer, metadata={"recipe_id": ctx.recipe_id}, generation_config=sampling, merged=True
    )
    last = history.curve[-max(1, len(history.curve) // 10) :]
    return {
        "rollouts": config.steps * config.prompts * config.samples,
        "reward_first": round(history.curve[0]["reward"], 4),
        "reward_last": round(sum(p["reward"] for p in last) / len(last), 4),
        "largest_logprob_gap": max(p["gap"] for p in history.curve),
        **({"prompts_too_long": asked - len(rows)} if asked > len(rows) else {}),
    }


def teaching(groups: list[list[Rollout]], config: GRPOConfig, judged: bool = False) -> list[Rollout]:
    """The rollouts that an update is made on: groups that are all alike teach nothing, unless rewards are compared
    across groups, by a critic (`judged`), or a KL is in the loss; a reply whose reward failed never teaches."""
    known = [[r for r in g if not math.isnan(r.reward)] for g in groups]
    if judged or config.algorithm == "reinforce_plus_plus" or config.kl:
        return [r for g in known for r in g]
    return [r for g in known if len({r.reward for r in g}) > 1 for r in g]


def shown_path(ctx: StageContext) -> Path:
    """rollouts.jsonl while the stage runs."""
    return ctx.metrics_path.with_name("rollouts.jsonl")


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
    tools: Tools | None = None,
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
    shown = MetricsLog(shown_path(ctx), resume_step=first) if replicas.rank == 0 and config.shown else None
    apart = shown_steps(config.steps, config.shown)
    saved_at, warned = time.monotonic(), config.truncation > 0
    watch = Watch(history.curve)
    weights = rollout_source(model, tokenizer, config, ctx.work, ctx.seed)
    with ctx.display.stage("grpo", total=config.steps, unit="step", budget_s=ctx.budget_s) as bar:
        bar.update(first)
        for step in range(first, config.steps):
            set_rates(kept.optimizers, rate_factor(step, config.steps, config.schedule))
            chosen = draw_prompts(rows, step, config.prompts, ctx.seed)
            started, sampled = time.monotonic(), 0

            def draw(some: list[int], first: int = 0, step: int = step) -> list[list[Rollout]]:
                nonlocal sampled
                places = replicas.places(len(some))
                own_rows, streams = [rows[some[i]] for i in places], [first + i for i in places]
                made = roll_out(weights(), tokenizer, own_rows, config, step, ctx.seed, rewards, streams, tools)
                mine = [r for g in made for r in g]
                if reference is not None:
                    for r, own in zip(mine, logprobs_of(reference, mine, config), strict=True):
                        r.reference = own
                if config.truncation:
                    for r, own in zip(mine, logprobs_of(model, mine, config, replay=True), strict=True):
                        r.old = own
                if critic is not None:
                    critic.set_values(mine)
                made = of_all_ranks(made, replicas)
                sampled += sum(r.tokens for g in made for r in g)
                return made

            groups = draw(chosen)
            numbers = rollout_numbers(groups, rewards is not None, tools is not None)
            numbers |= numbers_of(groups, config.rewards)
            if config.redraws:
                where = f"{ctx.seed}/grpo/redraw/{step}"
                groups, chosen, drawn = redraw(groups, chosen, rows, config.redraws, draw, where)
                numbers["draws"] = drawn / config.prompts
            every = [r for g in groups for r in g]
            if critic is not None:
                critic.set_advantages(every)
            else:
                set_advantages(groups, config)
            useful = teaching(groups, config, critic is not None)
            numbers["useful"] = len(useful) / len(every)
            learned = nothing_learnt(reference is not None)
            for number in range(config.updates if useful else 0):
                now = update(model, optimizers, useful, config, replicas)
                # Only the first update sees the weights that made the rollouts; later ones differ on purpose.
                learned = now | ({name: learned[name] for name in GAPS} if number else {})
                if critic is not None:
                    learned |= critic.update(useful, replicas)
            if not math.isfinite(learned["gradient_norm"]):
                raise TrainingError(
                    f"grpo: the gradient of step {step} is not finite (first prompt: {rows[chosen[0]]['id']}); "
                    f"stopped, and the last checkpoint, if one was made, is in {ctx.work}; lower the learning rates."
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
            history.tokens += sampled
            if log is not None:
                speed = sampled / (time.monotonic() - started)
                log.log(step + 1, **numbers, **learned, tokens_per_second=speed)
            if shown is not None and step % apart == 0:
                for line in shown_rollouts(groups, [rows[i] for i in chosen], config.shown):
                    shown.log(step + 1, **line)
            bar.update(step + 1, reward=numbers["reward"], useful=numbers["useful"], gap=learned["gap"])
            if time.monotonic() - saved_at > checkpoint_seconds and step + 1 < config.steps:
                kept.save(step + 1, vars(history))
                saved_at = time.monotonic()
    if first < config.steps:
        kept.save(config.steps, vars(history))
    return history

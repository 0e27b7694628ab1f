"""Stage `grpo`: reinforcement learning with verifiable rewards, rollouts by our own engine.

Each step: sample G replies to each of P prompts from the current weights, verify them, and make one
update (or several, clipped) that raises what earned more than its group. Every step logs the largest difference
between the rollout's log-probabilities and the trainer's: none where the native kernels run, else rounding only.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from qwill.align.critic import Critic
from qwill.align.dynamic_sampling import redraw
from qwill.align.hacking import Watch, numbers_of
from qwill.align.policy_update import logprobs_of, set_advantages, update
from qwill.align.prompts import Mode, in_mode, problems, with_room
from qwill.align.reference import own_reference
from qwill.align.rewards import Rewards
from qwill.align.rollout_engines import RolloutEngine, rollout_source
from qwill.align.rollout_numbers import rollout_numbers
from qwill.align.rollouts import Rollout, draw_prompts, of_all_ranks, prompt_modes
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
from qwill.model.transformer import Transformer
from qwill.model.twin import twin
from qwill.text.surrogates import all_without_surrogates
from qwill.text.tokenizer import Tokenizer
from qwill.train.adapter import begin_adapter, finish_adapter, start_weights
from qwill.train.checkpoint import Checkpoints
from qwill.train.loop import History
from qwill.train.optim import make_optimizers, rate_factor, set_rates
from qwill.train.replicas import ALONE, Replicas, replicas_of
from qwill.train.save_trained import save_trained

LARGE_GAP = 0.1  # nats; between executors of one precision it is rounding, some 1e-6
GAPS = ("gap", "gap_mean", "gap_kl")


def run(config: GRPOConfig, ctx: StageContext) -> dict[str, Any]:
    verb = verb_of(config)
    replicas = replicas_of(config.mesh, verb)
    if replicas.count > 1 and config.rollout_engine != "own":
        raise ConfigError(
            f"{verb}.rollout_engine is {config.rollout_engine}, which one process drives; start it without torchrun."
        )
    start = load(ctx.inputs["sft"], weights=start_weights(ctx.inputs["sft"], config.lora))
    model, tokenizer = start.model, start.tokenizer
    for name in ("thinking", "switched"):
        if getattr(config, name) and not start.thinks:
            raise DataError(f"{ctx.inputs['sft']} has no <think> in its tokenizer; set {verb}.{name} to 0.")
    verified = not config.rewards or any(part.kind == "verifier" for part in config.rewards)
    rows = problems(ctx.inputs["tasks"], verified)
    check_rows(rows, config.rewards, ctx.inputs["tasks"])
    if config.routing_replay == "rollout" and not model.config.num_experts:
        raise ConfigError(f"{verb}.routing_replay is rollout, but this model has no experts; leave it out.")
    asked = len(rows)
    # With an adapter the start is the model without it, and the critic another adapter: weights are held once.
    again = (lambda: twin(model)) if config.lora else (lambda: load(ctx.inputs["sft"]).model)
    reference = own_reference(ctx, tokenizer, None if config.kl else f"{verb}.kl is 0")
    if config.kl and reference is None:
        reference = again()
    judge = again() if isinstance(config, PPOConfig) else None
    adapter = begin_adapter(model, config.lora, ctx.seed)
    with (
        Rewards(config.rewards, ctx.display.say) if config.rewards else nullcontext() as rewards,
        Tools(config.tools) if config.tools else nullcontext() as tools,
    ):
        schemas = tools.schemas if tools else ()
        modes = [Mode(False), *((Mode(True, True), Mode(False, True)) if config.switched else ())]
        rows = with_room(rows, tokenizer, model, config.max_tokens, config.too_long, ctx, schemas, modes)
        if config.prompts > len(rows):
            raise DataError(
                f"{verb}.prompts is {config.prompts}, but there are only {len(rows)} problems; make more tasks."
            )
        more: dict[str, Any] = {"reference": reference, "rewards": rewards, "replicas": replicas, "tools": tools}
        if isinstance(config, PPOConfig) and judge is not None:
            begin_adapter(judge, config.lora, ctx.seed + 1)
            more["critic"] = Critic.start(judge, config)
        history = train_grpo(model, tokenizer, rows, config, ctx, **more)
    if replicas.rank:
        return {}  # rank 0 writes the artifact
    write_json(ctx.out / "training.json", history.thinned())
    finish_adapter(model, adapter, ctx.inputs["sft"], ctx)
    save_trained(model, ctx.inputs["sft"], tokenizer, ctx)
    if shown_path(ctx).is_file():
        # Of a run that an older Qwill began, lines may hold what can't be written.
        lines = [all_without_surrogates(line) for _, line in read_jsonl(shown_path(ctx))]
        write_text(shown_path(ctx).with_suffix(".html"), rollouts_page(f"{verb} {ctx.recipe_id}", {"aligned": lines}))
        write_bytes(ctx.out / "rollouts.jsonl", shown_path(ctx).read_bytes())
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


def verb_of(config: GRPOConfig) -> str:
    """What the user called: it stands before settings and sentences."""
    return "ppo" if isinstance(config, PPOConfig) else "grpo"


def shown_path(ctx: StageContext) -> Path:
    """rollouts.jsonl while the stage runs."""
    return ctx.metrics_path.with_name("rollouts.jsonl")


@dataclass(frozen=True)
class Drawing:
    """What a run's replies are drawn with, and what looks at them before they are learnt from."""

    model: Transformer
    tokenizer: Tokenizer
    rows: list[dict[str, Any]]
    config: GRPOConfig
    seed: int
    reference: Transformer | None
    rewards: Rewards | None
    critic: Critic | None
    replicas: Replicas
    tools: Tools | None


def draw_groups(
    on: Drawing, source: Transformer | RolloutEngine, step: int, some: list[int], modes: list[Mode], first: int
) -> list[list[Rollout]]:
    """Replies to these rows in their modes, by all ranks; `first` is the random stream of the first of them."""
    places = on.replicas.places(len(some))
    own_rows, streams = [in_mode(on.rows[some[i]], modes[i]) for i in places], [first + i for i in places]
    made = roll_out(source, on.tokenizer, own_rows, on.config, step, on.seed, on.rewards, streams, on.tools)
    mine = [r for g in made for r in g]
    if on.reference is not None:
        for r, own in zip(mine, logprobs_of(on.reference, mine, on.config), strict=True):
            r.reference = own
    if on.config.truncation:
        for r, own in zip(mine, logprobs_of(on.model, mine, on.config, replay=True), strict=True):
            r.old = own
    if on.critic is not None:
        on.critic.set_values(mine)
    return of_all_ranks(made, on.replicas)


@dataclass(frozen=True)
class Drawn:
    """A step's groups and their rows as asked, what is logged of them, and the tokens of all that was sampled."""

    groups: list[list[Rollout]]
    rows: list[dict[str, Any]]
    numbers: dict[str, float]
    tokens: int


def draw_step(on: Drawing, source: Transformer | RolloutEngine, step: int) -> Drawn:
    """One group for each of the step's prompts, others in place of those that teach nothing. What is logged is of the
    prompts that were drawn first: the others are chosen."""
    config, sampled = on.config, 0
    chosen = draw_prompts(on.rows, step, config.prompts, on.seed)
    modes = prompt_modes(on.rows, step, config.prompts, config.thinking, config.switched)

    def draw(some: list[int], places: list[int], first: int) -> list[list[Rollout]]:
        nonlocal sampled
        made = draw_groups(on, source, step, some, [modes[k] for k in places], first)
        sampled += sum(r.tokens for g in made for r in g)
        return made

    groups = draw(chosen, list(range(len(chosen))), 0)
    numbers = rollout_numbers(groups, on.rewards is not None, on.tools is not None)
    numbers |= numbers_of(groups, config.rewards)
    if config.redraws:
        where = f"{on.seed}/grpo/redraw/{step}"
        groups, chosen, drawn = redraw(groups, chosen, on.rows, config.redraws, draw, where)
        numbers["draws"] = drawn / config.prompts
    asked = [in_mode(on.rows[i], mode) for i, mode in zip(chosen, modes, strict=True)]
    return Drawn(groups, asked, numbers, sampled)


def learn(on: Drawing, optimizers: list[Optimizer], groups: list[list[Rollout]]) -> dict[str, float]:
    """A step's updates from its groups, and the numbers of the last of them; `useful` is the share of replies that
    taught."""
    every = [r for g in groups for r in g]
    if on.critic is not None:
        on.critic.set_advantages(every)
    else:
        set_advantages(groups, on.config)
    useful = teaching(groups, on.config, on.critic is not None)
    learned = nothing_learnt(on.reference is not None)
    for number in range(on.config.updates if useful else 0):
        now = update(on.model, optimizers, useful, on.config, on.replicas)
        # Only the first update sees the weights that made the rollouts; later ones differ on purpose.
        learned = now | ({name: learned[name] for name in GAPS} if number else {})
        if on.critic is not None:
            learned |= on.critic.update(useful, on.replicas)
    return {"useful": len(useful) / len(every)} | learned


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
    """The whole run; resumes from ctx.work, where a checkpoint is left every `checkpoint_seconds` and at the end
    (math.inf: none). `reference` is the starting model, where `kl` needs it. Of `replicas` each rolls out its share of
    the prompts and computes its share of every update.

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
    on = Drawing(model, tokenizer, rows, config, ctx.seed, reference, rewards, critic, replicas, tools)
    verb = verb_of(config)
    with ctx.display.stage(verb, total=config.steps, unit="step", budget_s=ctx.budget_s) as bar:
        bar.update(first)
        for step in range(first, config.steps):
            set_rates(kept.optimizers, rate_factor(step, config.steps, config.schedule))
            started = time.monotonic()
            drawn = draw_step(on, weights(), step)
            learned = learn(on, optimizers, drawn.groups)
            if not math.isfinite(learned["gradient_norm"]):
                raise TrainingError(
                    f"{verb}: the gradient of step {step} is not finite (first prompt: {drawn.rows[0]['id']}); "
                    f"stopped, and the last checkpoint, if one was made, is in {ctx.work}; lower the learning rates."
                )
            numbers = drawn.numbers | {"useful": learned.pop("useful")}
            history.curve.append({"step": step + 1, **numbers, **learned})
            flags, sentences = watch.look(history.curve)
            history.curve[-1] |= flags
            numbers |= flags
            for sentence in sentences:
                ctx.display.say(f"{verb}: {sentence}")
            if not warned and learned["gap"] > LARGE_GAP:
                warned = True
                ctx.display.say(
                    f"{verb}: step {step + 1}: the rollout's and the trainer's log-probabilities differ by up to "
                    f"{learned['gap']:.2g} (mean {learned['gap_mean']:.2g}); importance_most: 2 corrects for it."
                )
            history.tokens += drawn.tokens
            if log is not None:
                speed = drawn.tokens / (time.monotonic() - started)
                log.log(step + 1, **numbers, **learned, tokens_per_second=speed)
            if shown is not None and step % apart == 0:
                for line in shown_rollouts(drawn.groups, drawn.rows, config.shown):
                    shown.log(step + 1, **line)
            bar.update(step + 1, reward=numbers["reward"], useful=numbers["useful"], gap=learned["gap"])
            if time.monotonic() - saved_at > checkpoint_seconds and step + 1 < config.steps:
                kept.save(step + 1, vars(history))
                saved_at = time.monotonic()
    if first < config.steps and checkpoint_seconds < math.inf:
        kept.save(config.steps, vars(history))
    return history

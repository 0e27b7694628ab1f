"""Stage `reward`: pairs of replies → a model that scores a reply, by Bradley–Terry (losses in preference_losses.py).
Of a file with step labels it learns to score steps instead (step_rewards.py).

A reply's reward is score_D · (the hidden state behind the last norm at the reply's last token, `<|im_end|>`), as in
transformers' …ForSequenceClassification, which reads the folder. Reinforcement learning takes it as a reward, and
`RewardModel.score` scores texts and messages, `RewardModel.score_steps` the steps of a reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qwill.align.preference_examples import Pair, PreferenceStep, pairs_of
from qwill.align.preference_losses import bradley_terry
from qwill.align.replies import Reply, pack_replies, parts_of, render_reply
from qwill.align.reward_scores import reward_scores
from qwill.align.settings import RewardConfig
from qwill.align.step_rewards import StepTraining, judged_steps_of, render_steps, score_steps, steps_told
from qwill.base.files import write_json
from qwill.base.resolve import resolve
from qwill.base.stage import StageContext
from qwill.data.preferences import Said
from qwill.data.step_labels import holds_step_labels
from qwill.engine.language_model import load
from qwill.model.batch import Batch
from qwill.model.files import load_model, load_score
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.train.adapter import begin_adapter, finish_adapter, start_weights
from qwill.train.balance import step_balance
from qwill.train.loop import train
from qwill.train.replicas import ALONE, Replicas, replicas_of
from qwill.train.save_trained import save_trained
from qwill.train.sft import plan_steps
from qwill.train.step import StepResult


@dataclass
class RewardModel:
    """A trained one: what a reply behind a prompt is worth."""

    model: Transformer
    score_D: Tensor
    tokenizer: Tokenizer

    @torch.no_grad()
    def score(self, prompts: Sequence[Said], replies: Sequence[Said], train_tokens: int = 8192) -> list[float]:
        """Rewards of texts or messages, in order; they don't depend on what stands beside them."""
        rendered = [
            render_reply(prompt, said, self.tokenizer, where=f"reply {i}")
            for i, (prompt, said) in enumerate(zip(prompts, replies, strict=True), start=1)
        ]
        return score_replies(self.model, self.score_D, rendered, train_tokens).tolist()

    def score_steps(self, prompt: Said, steps: Sequence[str]) -> list[float]:
        """How likely each step is right, from 0 to 1, by a model that learnt from step labels."""
        (logits,) = score_steps(self.model, self.score_D, [render_steps(prompt, steps, self.tokenizer)], 1)
        return torch.tensor(logits, dtype=torch.float64).sigmoid().tolist()


def load_reward(ref: str | Path) -> RewardModel:
    """A reward model's folder. Raises CheckpointError for a model without a score."""
    folder = resolve(ref)
    model = load_model(folder)
    return RewardModel(model, load_score(folder, model.config.hidden_size), Tokenizer.load(folder))


def whole_replies(replies: Sequence[Reply]) -> Batch:
    """Replies packed together with their last tokens; of several examples the last one."""
    return pack_replies([Reply((r.examples[-1],)) for r in replies], whole=True).batch


def rewards_of(model: Transformer, score_D: Tensor, batch: Batch) -> tuple[Tensor, Any]:
    """(rewards [S], router statistics) of packed replies."""
    output = model(batch)
    ends = batch.rows_at(batch.cu_seqlens[1:].long() - 1)
    return output.hidden_ND[ends].to(score_D.dtype) @ score_D, output.router_stats


def score_replies(
    model: Transformer, score_D: Tensor, replies: Sequence[Reply], most_tokens: int, replicas: Replicas = ALONE
) -> Tensor:
    """float64 [S], whatever is packed together and whichever rank computes it."""
    out = torch.zeros(len(replies), dtype=torch.float64)
    length = lambda i: len(replies[i].examples[-1].ids)  # noqa: E731
    for part in parts_of(replicas.deal(range(len(replies)), length), length, most_tokens):
        rewards, _ = rewards_of(model, score_D, whole_replies([replies[i] for i in part]))
        out[torch.tensor(part)] = rewards.double()
    return replicas.all_sum(out)


def leave_head(model: Transformer) -> None:
    """Don't train a head of its own, which nothing is computed from: a score stands in its place."""
    if model.lm_head is not None:
        model.lm_head.requires_grad_(False)


@dataclass
class RewardTraining:
    """What a step needs: the model with its parameter `score`, and pairs."""

    model: Transformer
    pairs: Sequence[Pair]
    config: RewardConfig
    replicas: Replicas = ALONE

    def compute(self, step: PreferenceStep) -> StepResult:
        """Adds the gradients of this rank's share of the step's mean loss; numbers of the whole step."""
        config, count = self.config, len(step.units)
        score_D = self.model.get_parameter("score")
        loss = right = margin = centre = 0.0
        length = lambda i: sum(r.length for r in self.pairs[i].replies)  # noqa: E731
        parts = parts_of(self.replicas.deal(step.units, length), length, config.train_tokens)
        batches = [whole_replies([r for i in part for r in self.pairs[i].replies]) for part in parts]
        balance = step_balance(self.model, batches, config.balance, self.replicas)
        for part, batch in zip(parts, batches, strict=True):
            pairs = [self.pairs[i] for i in part]
            reward_S, stats = rewards_of(self.model, score_D, batch)
            chosen_P, rejected_P = reward_S[0::2], reward_S[1::2]
            margin_P = torch.tensor([p.margin if config.margins else 0.0 for p in pairs], dtype=reward_S.dtype)
            total = bradley_terry(chosen_P, rejected_P, margin_P, config.centring).sum() / count
            loss += float(total.detach())
            right += float((chosen_P > rejected_P).sum())
            margin += float((chosen_P - rejected_P).detach().sum())
            centre += float((chosen_P + rejected_P).detach().sum())
            (total + balance.loss(stats, batch)).backward()
        sums = {"loss": loss, "accuracy": right / count, "margin": margin / count, "centre": centre / (2 * count)}
        more = self.replicas.sum(sums)
        return StepResult(more.pop("loss"), more=more)


def run(config: RewardConfig, ctx: StageContext) -> dict[str, Any]:
    replicas = replicas_of(config.mesh, "reward")
    start = load(ctx.inputs["sft"], weights=start_weights(ctx.inputs["sft"], config.lora))
    model, tokenizer = start.model, start.tokenizer
    fits = min(config.max_tokens, model.config.max_position_embeddings)
    path, settings = ctx.inputs["preferences"], (tokenizer, fits, config.heldout, ctx.seed)
    steps = judged_steps_of(path, *settings) if holds_step_labels(path) else None
    pairs = pairs_of(path, *settings) if steps is None else None
    examples = steps or pairs
    assert examples is not None
    adapter = begin_adapter(model, config.lora, ctx.seed)
    # Zero: every reply begins with the reward 0, and the first steps move the score, not the model.
    model.register_parameter("score", nn.Parameter(torch.zeros(model.config.hidden_size)))
    leave_head(model)
    compute = (
        StepTraining(model, steps.train, config, replicas).compute if steps
        else RewardTraining(model, pairs.train, config, replicas).compute  # type: ignore[union-attr]
    )  # fmt: skip
    plan = plan_steps([1] * len(examples.train), config.steps, config.pairs, ctx.seed)

    def step_data(step: int) -> PreferenceStep:
        units = [examples.train[i] for i in plan[step]]
        return PreferenceStep(
            plan[step], f"preference {units[0].id} …", sum(r.length for u in units for r in u.replies)
        )

    history = train(
        model, config.steps, step_data, config.optimizer, config.schedule, 0.0, ctx, "reward", compute=compute,
        replicas=replicas,
    )  # fmt: skip
    score_D = model.get_parameter("score").detach()
    finish_adapter(model, adapter, ctx.inputs["sft"], ctx)
    replies, told = [r for unit in examples.heldout for r in unit.replies], dict[str, Any]()
    if replies and steps:
        told = steps_told(steps.heldout, score_steps(model, score_D, replies, config.train_tokens, replicas))
    elif replies and pairs:
        with torch.no_grad():
            found = score_replies(model, score_D, replies, config.train_tokens, replicas)
            told = reward_scores(pairs.heldout, found.view(-1, 2)).told()
    if replicas.rank:
        return {}  # rank 0 writes the artifact
    kind = "replies" if steps else "pairs"
    report = {
        kind: len(examples.train),
        "heldout": len(examples.heldout),
        "too_long": examples.too_long,
        "scores": told,
    }
    write_json(ctx.out / "training.json", history.thinned() | report)
    save_trained(model, ctx.inputs["sft"], tokenizer, ctx, score_D)
    return {kind: len(examples.train), "too_long": examples.too_long, **told}

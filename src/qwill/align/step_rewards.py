"""Rewards of the steps within a reply (process rewards, Lightman et al., arXiv 2305.20050): is each step right?

The steps stand behind the prompt, each with a line break behind it; the score at that line break's last token is the
logit of the step being right, and the loss its cross-entropy, a mean over all steps of an update (as TRL's stepwise
reward training had it).

Letters: S steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwill.align.preference_examples import Examples, JudgedSteps, PreferenceStep
from qwill.align.preference_losses import right_or_wrong
from qwill.align.replies import Packed, Reply, pack_replies, parts_of
from qwill.align.settings import RewardConfig
from qwill.base.errors import DataError
from qwill.data.held_out import held_out
from qwill.data.preferences import Said
from qwill.data.step_labels import read_step_labels
from qwill.engine.template import conversation_ids
from qwill.model.transformer import RouterStats, Transformer
from qwill.text.chat import Rendered
from qwill.text.tokenizer import Tokenizer
from qwill.train.balance import step_balance
from qwill.train.replicas import ALONE, Replicas
from qwill.train.step import StepResult

SEPARATOR = "\n"


def render_steps(prompt: Said, steps: Sequence[str], tokenizer: Tokenizer, where: str = "reply") -> Reply:
    """Prompt and steps as ids, mask 1 on the last token of each step. Raises DataError, beginning with `where`."""
    try:
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else conversation_ids(prompt, tokenizer)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    mask = [0] * len(ids)
    for step in steps:
        own = [*tokenizer.encode(step), *tokenizer.encode(SEPARATOR)]
        ids = ids + own
        mask += [*([0] * (len(own) - 1)), 1]
    return Reply((Rendered(ids, mask),))


def judged_steps_of(path: Path, tokenizer: Tokenizer, most: int, heldout: float, seed: int) -> Examples[JudgedSteps]:
    """Every reply of a file. Raises DataError naming file and line, or that nothing fits."""
    found: Examples[JudgedSteps] = Examples()
    for row in read_step_labels(path):
        reply = render_steps(row.prompt, row.steps, tokenizer, row.where)
        if reply.length > most:
            found.too_long += 1
            continue
        side = found.heldout if held_out(row.prompt, heldout, seed) else found.train
        side.append(JudgedSteps(row.id, reply, tuple(row.right)))
    if not found.train:
        raise DataError(
            f"{path}: nothing is left to train on ({len(found.heldout)} held out, {found.too_long} of more than {most} "
            "tokens); add rows, raise max_tokens or lower heldout."
        )
    if len({right for one in found.train for right in one.right}) < 2:
        raise DataError(f"{path}: every label is the same, so there is nothing to tell apart; add steps of both kinds.")
    return found


def step_logits(model: Transformer, score_D: Tensor, packed: Packed) -> tuple[Tensor, list[RouterStats] | None]:
    """(logits of all steps of all replies, in order [S]; router statistics)."""
    output = model(packed.batch)
    return output.hidden_ND[packed.index_N].to(score_D.dtype) @ score_D, output.router_stats


@dataclass
class StepTraining:
    """What an update needs: the model with its parameter `score`, and replies with judged steps."""

    model: Transformer
    units: Sequence[JudgedSteps]
    config: RewardConfig
    replicas: Replicas = ALONE

    def compute(self, step: PreferenceStep) -> StepResult:
        """Adds the gradients of this rank's share of the update's mean loss; numbers of the whole update."""
        config, score_D = self.config, self.model.get_parameter("score")
        count = sum(len(self.units[i].right) for i in step.units)
        length = lambda i: self.units[i].reply.length  # noqa: E731
        parts = parts_of(self.replicas.deal(step.units, length), length, config.train_tokens)
        packs = [pack_replies([self.units[i].reply for i in part], whole=True) for part in parts]
        balance = step_balance(self.model, [p.batch for p in packs], config.balance, self.replicas)
        loss = found = 0.0
        for part, packed in zip(parts, packs, strict=True):
            logit_S, stats = step_logits(self.model, score_D, packed)
            right_S = torch.tensor([right for i in part for right in self.units[i].right], device=logit_S.device)
            total = right_or_wrong(logit_S, right_S).sum() / count
            loss += float(total.detach())
            found += float(((logit_S > 0) == right_S).sum())
            (total + balance.loss(stats, packed.batch)).backward()
        more = self.replicas.sum({"loss": loss, "accuracy": found / count})
        return StepResult(more.pop("loss"), more=more)


@torch.no_grad()
def score_steps(
    model: Transformer, score_D: Tensor, replies: Sequence[Reply], most_tokens: int, replicas: Replicas = ALONE
) -> list[list[float]]:
    """The logit of each step of each reply, whatever is packed together and whichever rank computes it."""
    sizes = [sum(reply.examples[0].loss_mask) for reply in replies]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    out_S = torch.zeros(sum(sizes), dtype=torch.float64)
    length = lambda i: replies[i].length  # noqa: E731
    for part in parts_of(replicas.deal(range(len(replies)), length), length, most_tokens):
        logit_S, _ = step_logits(model, score_D, pack_replies([replies[i] for i in part], whole=True))
        at = [starts[i] + k for i in part for k in range(sizes[i])]
        out_S[torch.tensor(at)] = logit_S.double().cpu()
    flat = replicas.all_sum(out_S).tolist()
    return [flat[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def steps_told(units: Sequence[JudgedSteps], logits: Sequence[Sequence[float]]) -> dict[str, Any]:
    """What the rewards of steps are worth on replies that they did not learn from.

    step_accuracy beside always_right, what saying "right" of every step would get. first_error: the share of replies in
    which the first step called wrong is the first that is (or none is, on both sides). brier: the mean squared distance
    of σ(logit) from the label.
    """
    pairs = [(row, one.right) for one, row in zip(units, logits, strict=True)]
    found = [_first_wrong([x > 0 for x in row]) == _first_wrong(right) for row, right in pairs]
    said = [each for row, labels in pairs for each in zip(row, labels, strict=True)]
    count = len(said)
    brier = sum((1 / (1 + math.exp(-max(-500.0, x))) - right) ** 2 for x, right in said) / count
    return {
        "steps": count, "step_accuracy": round(sum((x > 0) == right for x, right in said) / count, 4),
        "always_right": round(sum(right for _, right in said) / count, 4),
        "first_error": round(sum(found) / len(found), 4), "brier": round(brier, 4),
    }  # fmt: skip


def _first_wrong(right: Sequence[bool]) -> int:
    return next((i for i, one in enumerate(right) if not one), len(right))

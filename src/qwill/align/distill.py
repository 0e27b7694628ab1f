"""Stage `distill`: a student learns a teacher's distribution over the next token, on the student's own replies
(on-policy, GKD, arXiv 2306.13649; the last stage of Qwen3's small models, arXiv 2505.09388 §4.5) or on the teacher's.

Student and teacher may differ in everything but the vocabulary. Logits of a few hundred tokens are held at a time.

Letters: N reply tokens, D width, V vocabulary.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qwill.align.distillation_losses import generalised_jsd
from qwill.align.policy_update import pack_rollouts
from qwill.align.prompts import problems, prompt_ids, with_room
from qwill.align.reference import same_vocabulary
from qwill.align.rollouts import Rollout, draw_prompts, micro_batches, of_all_ranks
from qwill.align.settings import DistillConfig
from qwill.base.errors import DataError
from qwill.base.files import write_json
from qwill.base.stage import StageContext
from qwill.engine.generate import generate
from qwill.engine.language_model import load
from qwill.engine.sampler import Sampling
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.train.adapter import begin_adapter, finish_adapter, start_weights
from qwill.train.loop import train
from qwill.train.replicas import ALONE, Replicas, replicas_of
from qwill.train.save_trained import save_trained
from qwill.train.step import StepResult

CHUNK = 256  # tokens whose logits over the vocabulary are held at once, of both models


@dataclass
class DistillStep:
    """Replies to learn on, and whose they are."""

    rollouts: list[Rollout]
    own: bool
    source: str

    @property
    def tokens(self) -> int:
        return sum(r.tokens for r in self.rollouts)


@dataclass
class Distillation:
    """A student, its teacher, and the tokenizer that both have."""

    student: Transformer
    teacher: Transformer
    tokenizer: Tokenizer
    rows: list[dict[str, Any]]
    config: DistillConfig
    seed: int
    replicas: Replicas = ALONE

    def step_data(self, step: int) -> DistillStep:
        """The step's replies, by the weights as they are now."""
        config = self.config
        own = random.Random(f"{self.seed}/distill/{step}").random() < config.on_policy
        chosen = [self.rows[i] for i in draw_prompts(self.rows, step, config.prompts, self.seed)]
        places = self.replicas.places(len(chosen))
        prompts = [prompt_ids(chosen[i]["prompt"], self.tokenizer) for i in places]
        groups = generate(
            self.student if own else self.teacher, prompts, Sampling(config.max_tokens, config.temperature),
            n=config.samples, slots=max(1, len(prompts)) * config.samples, stop_ids=self.tokenizer.stop_ids,
            seed=self.seed * 1_000_003 + step, streams=places, vocab_size=self.tokenizer.vocab_size, in_place=True,
        )  # fmt: skip
        made = [
            [Rollout([*prompt, *c.token_ids], len(prompt), c.logprobs, 0.0, chosen[i]["language"]) for c in group]
            for i, prompt, group in zip(places, prompts, groups, strict=True)
        ]
        every = [r for group in of_all_ranks(made, self.replicas) for r in group]
        return DistillStep(every, own, f"replies to {chosen[0]['id']} …")

    def compute(self, step: DistillStep) -> StepResult:
        """Adds the gradients of this rank's share of the mean divergence over the step's tokens."""
        config, result, size = self.config, StepResult(0.0), self.tokenizer.vocab_size
        for part in micro_batches(self.replicas.deal(step.rollouts, lambda r: len(r.ids)), config.train_tokens):
            packed = pack_rollouts(part)
            with torch.no_grad():
                known_ND = self.teacher(packed.batch).hidden_ND[packed.index_N]
            hidden_ND = self.student(packed.batch).hidden_ND[packed.index_N]
            total = divergence(
                hidden_ND, self.student.head_weight_VD[:size], known_ND, self.teacher.head_weight_VD[:size].detach(),
                config.beta, config.divergence_temperature,
            ) / step.tokens  # fmt: skip
            total.backward()
            result.loss += float(total.detach())
        result.loss = self.replicas.sum({"loss": result.loss})["loss"]
        result.more = {"own": float(step.own), "length": step.tokens / len(step.rollouts)}
        return result


def divergence(
    hidden_ND: Tensor, head_VD: Tensor, teacher_ND: Tensor, teacher_head_VD: Tensor, beta: float, temperature: float
) -> Tensor:
    """Σ over tokens of the generalised JSD; widths may differ, vocabularies may not. The backward pass makes each
    chunk's logits again."""

    def of_chunk(hidden_MD: Tensor, teacher_MD: Tensor) -> Tensor:
        student_MV, teacher_MV = hidden_MD @ head_VD.T, teacher_MD @ teacher_head_VD.T
        wide = torch.float64 if student_MV.dtype == torch.float64 else torch.float32
        return generalised_jsd(student_MV.to(wide), teacher_MV.to(wide), beta, temperature).sum()

    total = hidden_ND.new_zeros(())
    for i in range(0, len(hidden_ND), CHUNK):
        part = slice(i, i + CHUNK)
        total = total + checkpoint(
            of_chunk, hidden_ND[part], teacher_ND[part], use_reentrant=False, preserve_rng_state=False
        )
    return total


def run(config: DistillConfig, ctx: StageContext) -> dict[str, Any]:
    replicas = replicas_of(config.mesh, "distill")
    student = load(ctx.inputs["sft"], weights=start_weights(ctx.inputs["sft"], config.lora))
    teacher = load(ctx.inputs["teacher"])
    same_vocabulary(student.tokenizer, teacher.tokenizer, str(ctx.inputs["teacher"]))
    rows = problems(ctx.inputs["tasks"], verified=False)
    asked = len(rows)
    room = min((student.model, teacher.model), key=lambda model: model.config.max_position_embeddings)
    rows = with_room(rows, student.tokenizer, room, config.max_tokens, config.too_long, ctx)
    if config.prompts > len(rows):
        raise DataError(f"distilled.prompts is {config.prompts}, but there are only {len(rows)} prompts; add some.")
    work = Distillation(student.model, teacher.model, student.tokenizer, rows, config, ctx.seed, replicas)
    adapter = begin_adapter(work.student, config.lora, ctx.seed)
    history = train(
        work.student, config.steps, work.step_data, config.optimizer, config.schedule, 0.0, ctx, "distill",
        compute=work.compute, replicas=replicas,
    )  # fmt: skip
    if replicas.rank:
        return {}  # rank 0 writes the artifact
    write_json(ctx.out / "training.json", history.thinned())
    finish_adapter(work.student, adapter, ctx.inputs["sft"], ctx)
    save_trained(work.student, ctx.inputs["sft"], student.tokenizer, ctx)
    share = max(1, len(history.curve) // 10)
    first, last = (sum(p["loss"] for p in part) / share for part in (history.curve[:share], history.curve[-share:]))
    told = {"tokens": history.tokens, "divergence_first": round(first, 5), "divergence_last": round(last, 5)}
    return told | ({"prompts_too_long": asked - len(rows)} if asked > len(rows) else {})

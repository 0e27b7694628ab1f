"""Stage `dpo`: a chat model and preferences → a model that says what was preferred; DPO and its kin, KTO, ORPO, SimPO.

Reference log-probabilities are computed once, before training, and kept under a hash of what made them (the model's
weights, the replies' ids), so that a resumed run reads them and a changed one does not.

Not covered: a reference that follows the policy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwill.align import preference_losses as losses
from qwill.align.preference_examples import Pair, PreferenceStep, Verdict, pairs_of, verdicts_of
from qwill.align.preference_scores import PairScores, pair_scores
from qwill.align.reference import own_reference
from qwill.align.replies import Packed, pack_replies, parts_of, policy_pass, reply_logprobs
from qwill.align.settings import REFERENCE_FREE, PreferenceConfig
from qwill.base.files import new_file, write_json
from qwill.base.progress import SILENT, Display
from qwill.base.stage import StageContext
from qwill.data.preferences import holds_pairs
from qwill.engine.language_model import load
from qwill.model.transformer import Transformer
from qwill.train.adapter import begin_adapter, finish_adapter, start_weights
from qwill.train.balance import step_balance
from qwill.train.loop import train
from qwill.train.replicas import ALONE, Replicas, replicas_of
from qwill.train.save_trained import save_trained
from qwill.train.sft import plan_steps
from qwill.train.step import StepResult

Unit = Pair | Verdict


@dataclass
class Offline:
    """A model, its examples and, for each, the reference's log-probability of both replies, float64 [units, 2]."""

    model: Transformer
    units: Sequence[Unit]
    reference_U2: Tensor
    config: PreferenceConfig
    replicas: Replicas = ALONE

    def compute(self, step: PreferenceStep) -> StepResult:
        """Adds the gradients of this rank's share of the step's mean loss, in parts; numbers of the whole step."""
        config, loss = self.config, 0.0
        point = self.reference_point(step.units) if config.loss == "kto" else 0.0
        chosen_tokens = sum(self.units[i].replies[0].tokens for i in step.units)
        length = lambda i: sum(r.length for r in self.trained(self.units[i]))  # noqa: E731
        seen: dict[str, float] = {}
        parts = parts_of(self.replicas.deal(step.units, length), length, config.train_tokens)
        batches = [pack_replies([r for i in part for r in self.trained(self.units[i])]) for part in parts]
        balance = step_balance(self.model, [p.batch for p in batches], config.balance, self.replicas)
        for part, packed in zip(parts, batches, strict=True):

            def loss_of(logp_N: Tensor, part: list[int] = part, packed: Packed = packed) -> Tensor:
                own = self.losses(part, packed, logp_N, point, seen) / len(step.units)
                if config.own_likelihood:
                    first_N = packed.reply_N % 2 == 0
                    own = own - config.own_likelihood * logp_N[first_N].sum() / chosen_tokens
                return own

            own, stats = policy_pass(self.model, packed, loss_of)
            (own + balance.loss(stats, packed.batch)).backward()
            loss += float(own.detach())
        seen = self.replicas.sum(seen | {"loss": loss})
        loss = seen.pop("loss")
        kto = {"kto_point": point} if config.loss == "kto" else {}
        return StepResult(loss, more=kto | self.means(seen, len(step.units)))

    @staticmethod
    def means(seen: dict[str, float], count: int) -> dict[str, float]:
        """Of what was summed over `count` units; KTO's rewards are means over their own kind, 0 where there is none."""
        wanted = seen.pop("wanted", None)
        if wanted is None:
            return {name: value / count for name, value in seen.items()}
        counts = {"reward_desirable": wanted, "reward_undesirable": count - wanted}
        found = {name: value / max(1, counts[name]) for name, value in seen.items()}
        margin = found["reward_desirable"] - found["reward_undesirable"] if 0 < wanted < count else 0.0
        return found | {"reward_margin": margin}

    def trained(self, unit: Unit) -> tuple[Any, ...]:
        return unit.replies if isinstance(unit, Pair) else (unit.reply,)

    def losses(self, part: list[int], packed: Packed, logp_N: Tensor, point: float, seen: dict[str, float]) -> Tensor:
        """Σ of the losses of a part's units; adds to what is `seen`: rewards, accuracy, margins."""
        config, units = self.config, [self.units[i] for i in part]
        sums_S = packed.sums(logp_N)
        tokens_S = torch.tensor([r.tokens for u in units for r in self.trained(u)], dtype=sums_S.dtype)
        reference_U2 = self.reference_U2[torch.tensor(part)].to(sums_S.dtype)
        if config.loss == "kto":
            ratio_S = sums_S - reference_U2[:, 0]
            wanted_S = torch.tensor([isinstance(u, Verdict) and u.desirable for u in units])
            self.note(seen, {"desirable": ratio_S[wanted_S], "undesirable": ratio_S[~wanted_S]})
            seen["wanted"] = seen.get("wanted", 0.0) + int(wanted_S.sum())
            return losses.kto(ratio_S, wanted_S, point, config.beta, config.desirable, config.undesirable).sum()
        chosen_P, rejected_P = sums_S[0::2], sums_S[1::2]
        chosen_tokens_P, rejected_tokens_P = tokens_S[0::2], tokens_S[1::2]
        if config.loss in REFERENCE_FREE:
            chosen_P, rejected_P = chosen_P / chosen_tokens_P, rejected_P / rejected_tokens_P
        else:
            chosen_P, rejected_P = chosen_P - reference_U2[:, 0], rejected_P - reference_U2[:, 1]
        better_P = (chosen_P > rejected_P).to(chosen_P.dtype)
        self.note(seen, {"chosen": chosen_P, "rejected": rejected_P, "margin": chosen_P - rejected_P})
        seen["accuracy"] = seen.get("accuracy", 0.0) + float(better_P.sum())
        beta = config.beta
        match config.loss:
            case "sigmoid":
                loss_P = losses.dpo(chosen_P, rejected_P, beta)
            case "hinge":
                loss_P = losses.dpo_hinge(chosen_P, rejected_P, beta)
            case "robust":
                loss_P = losses.dpo_robust(chosen_P, rejected_P, beta, config.flipped)
            case "exo":
                loss_P = losses.dpo_exo(chosen_P, rejected_P, beta, config.flipped)
            case "ipo":
                loss_P = losses.ipo(chosen_P, rejected_P, chosen_tokens_P, rejected_tokens_P, beta)
            case "normalised":
                loss_P = losses.dpo_normalised(chosen_P, rejected_P, chosen_tokens_P, rejected_tokens_P, beta)
            case "orpo":
                loss_P = losses.orpo_odds(chosen_P, rejected_P, beta)
            case "simpo":
                loss_P = losses.simpo(chosen_P, rejected_P, beta, config.gamma)
        return loss_P.sum()

    @staticmethod
    def note(seen: dict[str, float], values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            seen[f"reward_{name}"] = seen.get(f"reward_{name}", 0.0) + float(value.detach().sum())

    def reference_point(self, chosen: list[int]) -> float:
        """KTO's: how much more likely the policy makes replies that answer other prompts, at least 0."""
        wrong = [self.units[i].replies[1] for i in chosen]
        now_S = reply_logprobs(self.model, wrong, self.config.train_tokens, self.replicas)
        return float(losses.kto_reference_point(now_S - self.reference_U2[torch.tensor(chosen), 1]))


def reference_logprobs(
    model: Transformer, units: Sequence[Unit], most_tokens: int, kept: Path | None, replicas: Replicas = ALONE,
    display: Display = SILENT,
) -> Tensor:  # fmt: skip
    """float64 [units, 2] of both replies under the model as it is now; from `kept` where that was made by the same
    weights and the same ids."""
    digest = hashlib.sha256()
    # Buffers, too: a quantised matrix is codes and scales.
    for name, p in chain(model.named_parameters(), model.named_buffers()):
        digest.update(name.encode() + str(p.dtype).encode())
        digest.update(p.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps([[[e.ids, e.loss_mask] for r in u.replies for e in r.examples] for u in units]).encode())
    file = None if kept is None else kept / f"reference-{digest.hexdigest()[:32]}.npy"
    # All ranks do what rank 0 sees, which alone writes, once all have computed.
    if file is not None and replicas.gather(file.exists())[0]:
        return torch.from_numpy(np.load(file))
    replies = [r for u in units for r in u.replies]
    found = reply_logprobs(model, replies, most_tokens, replicas, display, "reference").view(-1, 2)
    if file is not None and replicas.rank == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        with new_file(file) as out:
            np.save(out, found.numpy())
    return found


def run(config: PreferenceConfig, ctx: StageContext) -> dict[str, Any]:
    replicas = replicas_of(config.mesh, "dpo")
    start = load(ctx.inputs["sft"], weights=start_weights(ctx.inputs["sft"], config.lora))
    tokenizer, model = start.tokenizer, start.model
    path = ctx.inputs["preferences"]
    fits = min(config.max_tokens, model.config.max_position_embeddings)
    settings = (tokenizer, fits, config.heldout, ctx.seed)
    compared = None if config.loss == "kto" and not holds_pairs(path) else pairs_of(path, *settings)
    judged = verdicts_of(path, *settings) if config.loss == "kto" else None
    pairs = compared.heldout if compared else []
    units: Sequence[Unit] = judged.train if judged else compared.train if compared else []
    too_long = (judged or compared).too_long  # type: ignore[union-attr]
    most = config.train_tokens
    reference_U2 = torch.zeros(len(units), 2, dtype=torch.float64)
    free = config.loss in REFERENCE_FREE
    reference = own_reference(ctx, tokenizer, f"the loss {config.loss} has no reference" if free else None) or model
    if not free:
        reference_U2 = reference_logprobs(reference, units, most, ctx.work, replicas, ctx.display)
    before_U2 = torch.zeros(0, 2)
    if pairs:
        before_U2 = reference_logprobs(reference, pairs, most, ctx.work, replicas, ctx.display)
    del reference  # one of its own is not needed any longer
    adapter = begin_adapter(model, config.lora, ctx.seed)
    offline = Offline(model, units, reference_U2, config, replicas)
    plan = plan_steps([1] * len(units), config.steps, config.pairs, ctx.seed)

    def step_data(step: int) -> PreferenceStep:
        tokens = sum(r.tokens for i in plan[step] for r in offline.trained(units[i]))
        return PreferenceStep(plan[step], f"preference {units[plan[step][0]].id} …", tokens)

    history = train(
        model, config.steps, step_data, config.optimizer, config.schedule, 0.0, ctx, "dpo", compute=offline.compute,
        replicas=replicas,
    )  # fmt: skip
    finish_adapter(model, adapter, ctx.inputs["sft"], ctx)
    scores = None
    if pairs:
        replies = [r for p in pairs for r in p.replies]
        after_U2 = reply_logprobs(model, replies, most, replicas, ctx.display, "held out").view(-1, 2)
        scores = pair_scores(pairs, after_U2, before_U2, free)
    if replicas.rank:
        return {}  # rank 0 writes the artifact
    report = history.thinned() | {"pairs": len(units), "heldout": len(pairs), "too_long": too_long}
    write_json(ctx.out / "training.json", report | {"scores": scores.told() if scores else None})
    save_trained(model, ctx.inputs["sft"], tokenizer, ctx)
    return _metrics(len(units), too_long, history.curve, scores)


def _metrics(units: int, too_long: int, curve: list[dict[str, float]], scores: PairScores | None) -> dict[str, Any]:
    last = curve[-max(1, len(curve) // 10) :]
    found: dict[str, Any] = {"pairs": units, "too_long": too_long}
    found["loss_last"] = round(sum(p["loss"] for p in last) / len(last), 4)
    return found | ({} if scores is None else scores.told())

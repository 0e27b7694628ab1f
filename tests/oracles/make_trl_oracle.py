"""What TRL's trainers say of made-up log-probabilities: each algorithm's loss and its gradient.

requirements: torch==2.13.0 trl==1.16.0 transformers==5.24.0 peft==0.21.2
run: python tests/oracles/make_trl_oracle.py   (writes trl.json)

The trainers' own loss methods are called on a stand-in for `self` that has their settings and a model that answers with
the case's numbers: what is compared is their arithmetic, without a model's.
"""

import json
from collections import defaultdict
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace as Record

import torch
from align_cases import TRL, B, T, drawn, logits, replies
from torch import Tensor
from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RewardTrainer, RLOOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.gkd import GKDTrainer
from trl.experimental.orpo import ORPOTrainer

HERE = Path(__file__).parent
PAIRS = B // 2


def stand_in(**settings) -> Record:
    """A trainer's attributes: one process, one micro-batch a step, no auxiliary loss, metrics thrown away."""
    same = lambda x, *_, **__: x  # noqa: E731
    accelerator = Record(device=torch.device("cpu"), num_processes=1, gather=same, gather_for_metrics=same, reduce=same)
    return Record(
        accelerator=accelerator, model=Record(training=True), ref_model=None, aux_loss_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)), _total_train_tokens=0, _tp_size=1, precompute_ref_logps=True,
        current_gradient_accumulation_steps=1, maybe_activation_offload_context=nullcontext(), **settings,
    )  # fmt: skip


def answering(*log_probs: Tensor):
    """A model that gives these log-probabilities, call after call."""
    left = list(log_probs)

    def model(**_):
        nothing = torch.zeros(B, T)
        return Record(log_probs=left.pop(0), entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())

    return model


def tokens(mask: Tensor) -> dict[str, Tensor]:
    """A prompt of one token before each reply."""
    whole = torch.cat([torch.zeros(B, 1), mask], 1).long()
    every = torch.ones_like(whole)
    return {"input_ids": every, "completion_mask": whole, "attention_mask": every}


def dpo(case, loss_type: str, beta: float, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    logp = case["logp"].requires_grad_()
    reference = (case["reference"] * case["mask"]).sum(1)
    trainer = stand_in(
        loss_types=[loss_type], loss_weights=[1.0], beta=beta, label_smoothing=label_smoothing, ld_alpha=None,
        f_divergence_type="reverse_kl", use_weighting=False,
    )  # fmt: skip
    inputs = tokens(case["mask"]) | {"ref_chosen_logps": reference[:PAIRS], "ref_rejected_logps": reference[PAIRS:]}
    return DPOTrainer._compute_loss(trainer, answering(logp * case["mask"]), inputs, False), logp


def kto(case, **settings) -> tuple[Tensor, Tensor]:
    logp = case["logp"].requires_grad_()
    mismatched, mismatched_reference = drawn(20, B, T) + 0.5, drawn(21, B, T)
    inputs = tokens(case["mask"]) | {
        "label": torch.arange(B) % 3 == 0, "ref_logps": (case["reference"] * case["mask"]).sum(1),
        "ref_KL_logps": mismatched_reference.sum(1), "KL_input_ids": torch.ones(B, T + 1).long(),
        "KL_attention_mask": torch.ones(B, T + 1), "KL_completion_mask": torch.ones(B, T + 1).long(),
    }  # fmt: skip
    trainer = stand_in(loss_type="kto", calculate_KL=True, **settings)
    trainer._compute_kl_logps = lambda model, batch: KTOTrainer._compute_kl_logps(trainer, model, batch)
    model = answering(mismatched, logp * case["mask"])
    return KTOTrainer._compute_loss(trainer, model, inputs, False), logp


def mean_logps(case, logp: Tensor) -> tuple[Tensor, Tensor]:
    means = (logp * case["mask"]).sum(1) / case["mask"].sum(1)
    return means[:PAIRS], means[PAIRS:]


def orpo(case, **settings) -> tuple[Tensor, Tensor]:
    """The odds' term alone; TRL adds the mean loss over prompt and chosen reply, we over the reply's own tokens."""
    logp = case["logp"].requires_grad_()
    losses, *_ = ORPOTrainer.odds_ratio_loss(stand_in(**settings), *mean_logps(case, logp))
    return -losses.mean(), logp


def simpo(case, **settings) -> tuple[Tensor, Tensor]:
    logp = case["logp"].requires_grad_()
    trainer = stand_in(loss_type="simpo", alpha=0.0, **settings)
    losses, *_ = CPOTrainer.cpo_loss(trainer, *mean_logps(case, logp))
    return losses.mean(), logp


def reward(case, margin: bool, center_rewards_coefficient: float | None) -> tuple[Tensor, Tensor]:
    rewards = case["rewards"].requires_grad_()
    trainer = stand_in(args=Record(center_rewards_coefficient=center_rewards_coefficient))
    inputs = {"attention_mask": torch.ones(B, T)} | ({"margin": drawn(22, PAIRS).abs()} if margin else {})
    model = lambda **_: Record(logits=rewards[:, None])  # noqa: E731
    return RewardTrainer.compute_loss(trainer, model, dict(inputs)), rewards


def completions(case) -> dict[str, Tensor]:
    one = torch.ones(B, 1).long()
    whole = {"prompt_ids": one, "prompt_mask": one, "completion_ids": torch.ones(B, T).long()}
    return whole | {"completion_mask": case["mask"], "advantages": case["advantages"]}


def rloo(case, **settings) -> tuple[Tensor, Tensor]:
    logp = case["logp"].requires_grad_()
    trainer = stand_in(**settings)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logp, torch.zeros(B, T), None)
    inputs = completions(case) | {"old_logps": (case["old"] * case["mask"]).sum(1)}
    return RLOOTrainer._compute_loss(trainer, None, inputs), logp


def grpo(
    case, loss_type: str, beta: float, level: str = "token", epsilon_low: float = 0.2, epsilon_high: float = 0.2,
    delta: float | None = None, use_bias_correction_kl: bool = True, clip_max: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    logp = case["logp"].requires_grad_()
    trainer = stand_in(
        loss_type=loss_type, beta=beta, importance_sampling_level=level, epsilon_low=epsilon_low,
        epsilon_high=epsilon_high, args=Record(delta=delta, use_bias_correction_kl=use_bias_correction_kl,
        steps_per_generation=1), top_entropy_quantile=1.0, off_policy_mask_threshold=None, max_completion_length=T + 2,
        use_vllm=clip_max is not None, vllm_importance_sampling_correction=True, _entropy_bonus_enabled=False,
    )  # fmt: skip
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logp, torch.zeros(B, T), None)
    inputs = completions(case) | {
        "old_per_token_logps": case["old"], "ref_per_token_logps": case["reference"],
        "num_items_in_batch": case["mask"].sum(),
    }  # fmt: skip
    if clip_max is not None:  # as _generate_and_score_completions has it, mode token_truncate
        gap = (case["old"] - case["sampler"]) * case["mask"]
        inputs["importance_sampling_ratio"] = torch.exp(gap).clamp(max=clip_max)
    return GRPOTrainer._compute_loss(trainer, None, inputs), logp


def gkd(case, **settings) -> tuple[Tensor, Tensor]:
    student, teacher, labels = logits()
    student.requires_grad_()
    return GKDTrainer.generalized_jsd_loss(student, teacher, labels, **settings), student


if __name__ == "__main__":
    out: dict = {"versions": {name: version(name) for name in ("trl", "transformers", "torch")}, "cases": {}}
    for name, (algorithm, settings) in TRL.items():
        loss, over = globals()[algorithm](replies(), **settings)
        loss.backward()
        gradient = over.grad.double()
        if gradient.dim() == 3:  # 900 numbers say no more than these: the sums weigh each entry differently
            weights = drawn(30, *gradient.shape).double()
            gradient = torch.stack([gradient.sum(-1).flatten().abs().sum(), *(gradient * weights).sum(-1).flatten()])
        out["cases"][name] = {"loss": float(loss), "gradient": gradient.tolist()}
    (HERE / "trl.json").write_text(json.dumps(out) + "\n", encoding="utf-8")

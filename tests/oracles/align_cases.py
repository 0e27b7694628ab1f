"""Inputs on which TRL and verl were asked, and we are: log-probabilities, rewards, values, logits; no two alike.

Padded as they have it: B replies of at most T tokens, with masks; seeds are fixed, so only answers are recorded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

B, T, V, GROUP = 6, 9, 17, 3
LENGTHS = [9, 4, 7, 1, 5, 8]  # of the replies


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def replies(spread: float = 0.3) -> dict[str, Tensor]:
    """Log-probabilities of policy, policy before the step, reference and sampler, [B, T]; advantages, [B]; mask."""
    logp = -drawn(1, B, T).abs() - 0.1
    return {
        "logp": logp,
        "old": logp + drawn(2, B, T, scale=spread),
        "reference": logp + drawn(3, B, T, scale=0.5),
        "sampler": logp + drawn(4, B, T, scale=0.4),
        "advantages": drawn(5, B),
        "token_advantages": drawn(6, B, T),
        "mask": (torch.arange(T)[None] < torch.tensor(LENGTHS)[:, None]).float(),
        "values": drawn(7, B, T),
        "old_values": drawn(8, B, T),
        "token_rewards": drawn(9, B, T, scale=0.5),
        "rewards": drawn(10, B),
    }


def logits() -> tuple[Tensor, Tensor, Tensor]:
    """Of student and teacher, [B, T, V], and labels, [B, T], −100 where nothing is learnt."""
    labels = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(11))
    return drawn(12, B, T, V, scale=2.0), drawn(13, B, T, V, scale=2.0), labels.where(replies()["mask"] > 0, -100)


# Each case: the algorithm, and settings by TRL's (or verl's) own names.
TRL: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo": ("dpo", {"loss_type": "sigmoid", "beta": 0.3}),
    "dpo_hinge": ("dpo", {"loss_type": "hinge", "beta": 0.6}),
    "ipo": ("dpo", {"loss_type": "ipo", "beta": 0.4}),
    "dpo_robust": ("dpo", {"loss_type": "robust", "beta": 0.3, "label_smoothing": 0.2}),
    "dpo_exo": ("dpo", {"loss_type": "exo_pair", "beta": 0.3, "label_smoothing": 0.05}),
    "dpo_normalised": ("dpo", {"loss_type": "sigmoid_norm", "beta": 2.5}),
    "kto": ("kto", {"beta": 0.25, "desirable_weight": 1.3, "undesirable_weight": 0.7}),
    "orpo": ("orpo", {"beta": 0.2}),
    "simpo": ("simpo", {"beta": 2.0, "simpo_gamma": 0.7, "label_smoothing": 0.1}),
    "reward": ("reward", {"margin": False, "center_rewards_coefficient": None}),
    "reward_margin": ("reward", {"margin": True, "center_rewards_coefficient": 0.03}),
    "rloo": ("rloo", {"epsilon_low": 0.2, "epsilon_high": 0.3}),
    "grpo": ("grpo", {"loss_type": "grpo", "beta": 0.0}),
    "bnpo": ("grpo", {"loss_type": "bnpo", "beta": 0.0}),
    "dr_grpo": ("grpo", {"loss_type": "dr_grpo", "beta": 0.0}),
    "dapo": ("grpo", {"loss_type": "dapo", "beta": 0.0, "epsilon_high": 0.28}),
    "dapo_delta": ("grpo", {"loss_type": "dapo", "beta": 0.0, "delta": 1.1}),
    "dapo_kl": ("grpo", {"loss_type": "dapo", "beta": 0.15}),
    "dapo_kl_biased": ("grpo", {"loss_type": "dapo", "beta": 0.15, "use_bias_correction_kl": False}),
    "dapo_off_policy": ("grpo", {"loss_type": "dapo", "beta": 0.0, "clip_max": 1.2}),
    "cispo": ("grpo", {"loss_type": "cispo", "beta": 0.0, "epsilon_high": 1.1}),
    "gspo": ("grpo", {"loss_type": "grpo", "beta": 0.0, "level": "sequence", "epsilon_low": 0.03,
                      "epsilon_high": 0.05}),
    "gspo_kl": ("grpo", {"loss_type": "grpo", "beta": 0.2, "level": "sequence"}),
    "gkd": ("gkd", {"beta": 0.3, "temperature": 1.7}),
    "gkd_forward": ("gkd", {"beta": 0.0, "temperature": 1.0}),
    "gkd_reverse": ("gkd", {"beta": 1.0, "temperature": 0.8}),
}  # fmt: skip

VERL: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("vanilla", {"clip_ratio_low": 0.2, "clip_ratio_high": 0.3}),
    "ppo_dual": ("vanilla", {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "clip_ratio_c": 1.25}),
    "gspo": ("gspo", {"clip_ratio_low": 0.03, "clip_ratio_high": 0.05}),
    "cispo": ("cispo", {"clip_ratio_low": 0.15, "clip_ratio_high": 0.25}),
}
AGGREGATIONS = {  # verl's name, ours
    "token-mean": "token_mean",
    "seq-mean-token-sum": "sequence_sum",
    "seq-mean-token-mean": "sequence_mean",
    "seq-mean-token-sum-norm": "fixed_length",
}
HORIZON = T + 2

"""The algorithms of reinforcement learning as pure functions of tensors, one a function.

Letters: P prompts, G samples of a prompt, N completion tokens of a packed batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def group_advantages(rewards_PG: Tensor, scale: bool = True) -> Tensor:
    """Reward minus the mean of its group, divided by the group's (sample) standard deviation when `scale`.

    GRPO (DeepSeekMath, arXiv 2402.03300, §4.1.2); without the division: Dr. GRPO (arXiv 2503.20783, eq. 3). A group
    whose rewards are all equal gets zeros.
    """
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    if not scale:
        return centred_PG
    return centred_PG / (rewards_PG.std(1, keepdim=True) + 1e-4)


@dataclass
class PolicyLoss:
    """`total` is to be minimised; `clipped` is the share of tokens whose gradient the clip cut off."""

    total: Tensor
    clipped: float


def clipped_policy_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, weight_N: Tensor, clip_low: float, clip_high: float
) -> PolicyLoss:
    """−Σ weight · min(ρ·A, clip(ρ, 1 − low, 1 + high)·A), ρ = exp(logp − old_logp).

    PPO (arXiv 1707.06347, eq. 7) with DAPO's separate upper clip (arXiv 2503.14476, eq. 10). `weight_N` is the
    aggregation: 1/N over all tokens of the step (DAPO's token mean), or 1/(sequences · its length) (GRPO's).
    """
    ratio_N = torch.exp(logp_N - old_logp_N)
    clipped_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    plain_N, cut_N = ratio_N * advantage_N, clipped_N * advantage_N
    total = -(torch.minimum(plain_N, cut_N) * weight_N).sum()
    return PolicyLoss(total, float((cut_N < plain_N).float().mean()))


def kl_k3(logp_N: Tensor, reference_N: Tensor) -> Tensor:
    """exp(Δ) − Δ − 1 with Δ = reference − logp: unbiased for KL(policy ‖ reference) on the policy's samples.

    Schulman, "Approximating KL divergence" (2020). Its gradient is biased when it is used inside the loss; here it is
    only reported.
    """
    delta_N = reference_N - logp_N
    return torch.exp(delta_N) - delta_N - 1

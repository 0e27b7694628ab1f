"""Losses of policy gradients, each a pure function of log-probabilities and advantages, to be minimised.

They give a loss for each token (or sequence); `aggregation.token_weights` says what a token counts, and the loss of a
step is Σ weight · loss. Log-probabilities are those of the sampled distribution: at the rollout's temperature, and over
its support where it was truncated. Letters: N trained tokens, S sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qwill.align.aggregation import sequence_means


@dataclass
class PolicyLoss:
    """`losses`, [N] or [S], carry the gradient; `clipped`, of the same shape, says whose gradient the clip cut off."""

    losses: Tensor
    clipped: Tensor


def clipped(
    logp: Tensor, old: Tensor, advantage: Tensor, low: float, high: float, most: float | None = None,
    dual: float | None = None,
) -> PolicyLoss:  # fmt: skip
    """−min(ρ·A, clip(ρ, 1 − low, 1 + high)·A) with ρ = exp(logp − old), a token (or a sequence) each.

    PPO (arXiv 1707.06347, eq. 7); `high` above `low` is DAPO's clip-higher (arXiv 2503.14476, eq. 8). With a bound on
    negative advantages, either `most` (TRL's delta: ρ itself is at most that, arXiv 2505.07291) or `dual` (verl's
    clip_ratio_c: the loss is at most −dual·A, arXiv 1912.09729). Given log-probabilities of whole replies it is the
    loss of RLOO as TRL has it.
    """
    ratio = torch.exp(logp - old)
    held = ratio.clamp(1 - low, 1 + high)
    free = ratio if most is None else ratio.clamp(max=most)
    losses = -torch.minimum(free * advantage, held * advantage)
    cut = (held * advantage < ratio * advantage) | ((free < ratio) & (advantage < 0))
    if dual is not None:
        bound = -dual * advantage
        cut = cut | ((advantage < 0) & (losses > bound))
        losses = torch.where(advantage < 0, torch.minimum(losses, bound), losses)
    return PolicyLoss(losses, cut.detach())


def gspo(
    logp_N: Tensor, old_N: Tensor, advantage_S: Tensor, sequence_N: Tensor, low: float = 3e-4, high: float = 4e-4
) -> PolicyLoss:
    """The clipped loss of a whole reply, [S], whose ratio is the geometric mean of its tokens' ratios.

    GSPO (arXiv 2507.18071, eq. 5–7); the reply as a whole is clipped, which is why the bounds are a thousandth of
    PPO's (§5.1: 3e-4 and 4e-4). To be averaged over sequences.
    """
    sequences = len(advantage_S)
    mean_S = sequence_means(logp_N - old_N, sequence_N, sequences)
    return clipped(mean_S, torch.zeros_like(mean_S), advantage_S, low, high)


def gspo_token(
    logp_N: Tensor, old_N: Tensor, advantage_N: Tensor, sequence_N: Tensor, sequences: int,
    low: float = 3e-4, high: float = 4e-4,
) -> PolicyLoss:  # fmt: skip
    """GSPO with an advantage for each token (arXiv 2507.18071, eq. 13–14), as verl computes it: the ratio's value is
    the sequence's, its gradient the token's. With equal advantages in a reply and `sequence_mean` it is `gspo`."""
    mean_N = sequence_means(logp_N - old_N, sequence_N, sequences).detach()[sequence_N]
    return clipped(mean_N + logp_N - logp_N.detach(), torch.zeros_like(mean_N), advantage_N, low, high)


def cispo(logp_N: Tensor, old_N: Tensor, advantage_N: Tensor, most: float = 5.0, least: float = 0.0) -> PolicyLoss:
    """−sg(clip(ρ, least, most))·A·logp: the weight is clipped, so no token loses its gradient.

    CISPO (MiniMax-M1, arXiv 2506.13585, eq. 4–5). `most` is the ratio's bound itself (TRL's epsilon_high); verl bounds
    it by 1 − clip_ratio_low and 1 + clip_ratio_high.
    """
    ratio_N = torch.exp(logp_N - old_N).detach()
    held_N = ratio_N.clamp(least, most)
    return PolicyLoss(-held_N * advantage_N * logp_N, held_N != ratio_N)


def truncated_importance(trainer_N: Tensor, rollout_N: Tensor, most: float = 2.0) -> Tensor:
    """min(exp(trainer − rollout), most), [N], without gradient: what a token's loss is multiplied by when the sampler's
    probabilities differ from the trainer's (another precision, older weights).

    Truncated importance sampling (Ionides 2008; Yao et al. 2025, "Your efficient RL framework secretly brings you
    off-policy training"); biased towards zero where it truncates, with a variance that is bounded. A NaN, where the
    sampler said nothing, counts as equal.
    """
    return torch.exp((trainer_N - rollout_N).detach().nan_to_num(0.0)).clamp(max=most)


def clipped_value(value_N: Tensor, old_N: Tensor, return_N: Tensor, clip: float) -> PolicyLoss:
    """½·max((V − R)², (V_old + clip(V − V_old, ±clip) − R)²), a token each.

    PPO's value loss (as in Baselines; verl's compute_value_loss), the ½ included.
    """
    held_N = torch.minimum(torch.maximum(value_N, old_N - clip), old_N + clip)
    free_N, cut_N = (value_N - return_N).square(), (held_N - return_N).square()
    return PolicyLoss(0.5 * torch.maximum(free_N, cut_N), (cut_N > free_N).detach())

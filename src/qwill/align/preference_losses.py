"""Losses of offline preference learning, each a pure function of the log-probabilities of whole replies, a pair (or a
reply) each; the loss of a step is their mean.

A log-ratio is log π(reply) − log π_ref(reply), summed over the reply's trained tokens. Letters: P pairs, S replies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo(chosen_P: Tensor, rejected_P: Tensor, beta: float = 0.1) -> Tensor:
    """−log σ(β·(chosen − rejected)) of log-ratios. DPO (arXiv 2305.18290, eq. 7)."""
    return -logsigmoid(beta * (chosen_P - rejected_P))


def dpo_hinge(chosen_P: Tensor, rejected_P: Tensor, beta: float = 0.1) -> Tensor:
    """max(0, 1 − β·(chosen − rejected)). SLiC (arXiv 2305.10425) on log-ratios (RSO, arXiv 2309.06657, eq. 9)."""
    return torch.relu(1 - beta * (chosen_P - rejected_P))


def dpo_robust(chosen_P: Tensor, rejected_P: Tensor, beta: float = 0.1, flipped: float = 0.1) -> Tensor:
    """DPO that is unbiased when a share `flipped` of the labels is wrong. Robust DPO (arXiv 2403.00409, eq. 12)."""
    margin_P = beta * (chosen_P - rejected_P)
    return (-(1 - flipped) * logsigmoid(margin_P) + flipped * logsigmoid(-margin_P)) / (1 - 2 * flipped)


def dpo_exo(chosen_P: Tensor, rejected_P: Tensor, beta: float = 0.1, flipped: float = 1e-3) -> Tensor:
    """KL(model's preference ‖ labels smoothed by `flipped`), the reverse of DPO's. EXO (arXiv 2402.00856, eq. 16)."""
    margin_P = beta * (chosen_P - rejected_P)
    first_P, second_P = logsigmoid(margin_P), logsigmoid(-margin_P)
    return first_P.exp() * (first_P - math.log1p(-flipped)) + second_P.exp() * (second_P - math.log(flipped))


def dpo_normalised(
    chosen_P: Tensor, rejected_P: Tensor, chosen_tokens_P: Tensor, rejected_tokens_P: Tensor, beta: float = 2.0
) -> Tensor:
    """DPO of log-ratios a token, so that length alone earns nothing (Tülu 3, arXiv 2411.15124, eq. 6)."""
    return dpo(chosen_P / chosen_tokens_P.clamp(min=1), rejected_P / rejected_tokens_P.clamp(min=1), beta)


def ipo(
    chosen_P: Tensor, rejected_P: Tensor, chosen_tokens_P: Tensor, rejected_tokens_P: Tensor, beta: float = 0.1
) -> Tensor:
    """(chosen − rejected − 1/(2β))² of log-ratios a token. IPO (arXiv 2310.12036, eq. 17); that the authors mean ratios
    a token is TRL's finding, confirmed by them."""
    margin_P = chosen_P / chosen_tokens_P.clamp(min=1) - rejected_P / rejected_tokens_P.clamp(min=1)
    return (margin_P - 1 / (2 * beta)).square()


def kto(
    ratio_S: Tensor, desirable_S: Tensor, kl: Tensor | float, beta: float = 0.1, desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:  # fmt: skip
    """1 − σ(β·(ratio − kl)) for a desirable reply, 1 − σ(β·(kl − ratio)) for another, each with its weight.

    KTO (arXiv 2402.01306, eq. 8). `kl` is the reference point, no gradient through it: see `kto_reference_point`.
    """
    value_S = torch.where(desirable_S, ratio_S - kl, kl - ratio_S)
    weight_S = torch.where(desirable_S, desirable_weight, undesirable_weight)
    return weight_S * (1 - torch.sigmoid(beta * value_S))


def kto_reference_point(mismatched_S: Tensor) -> Tensor:
    """max(0, mean log-ratio) of replies put behind other prompts of the same step, which estimates the KL (§4.1)."""
    return mismatched_S.detach().mean().clamp(min=0)


def orpo_odds(chosen_P: Tensor, rejected_P: Tensor, beta: float = 0.1) -> Tensor:
    """−β·log σ(log odds(chosen) − log odds(rejected)), to be added to the negative log-likelihood of what was chosen.

    ORPO (arXiv 2403.07691, eq. 6–7); arguments are mean log-probabilities of a reply's tokens, all below zero; no
    reference model.
    """
    odds_P = (chosen_P - rejected_P) - (_log1mexp(chosen_P) - _log1mexp(rejected_P))
    return -beta * logsigmoid(odds_P)


def simpo(chosen_P: Tensor, rejected_P: Tensor, beta: float = 2.0, gamma: float = 1.0, flipped: float = 0.0) -> Tensor:
    """−log σ(β·(chosen − rejected) − γ) of mean log-probabilities a token; no reference model.

    SimPO (arXiv 2405.14734, eq. 6), with label smoothing as in TRL's CPO trainer.
    """
    margin_P = beta * (chosen_P - rejected_P) - gamma
    return -(1 - flipped) * logsigmoid(margin_P) - flipped * logsigmoid(-margin_P)


def bradley_terry(
    chosen_P: Tensor, rejected_P: Tensor, margin_P: Tensor | float = 0.0, centring: float = 0.0
) -> Tensor:
    """−log σ(chosen − rejected − margin) + centring·(chosen + rejected)² of rewards: how a reward model learns.

    Margin: Llama 2 (arXiv 2307.09288, eq. 2). Centring: Eisenstein et al. (arXiv 2312.09244, eq. 2), which fixes the
    zero that Bradley–Terry leaves open.
    """
    return -logsigmoid(chosen_P - rejected_P - margin_P) + centring * (chosen_P + rejected_P).square()


def right_or_wrong(logit_S: Tensor, right_S: Tensor) -> Tensor:
    """−log σ(±logit): the cross-entropy of a step being right (Lightman et al., arXiv 2305.20050, §2.6)."""
    return -logsigmoid(torch.where(right_S, logit_S, -logit_S))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 − e^x) for x < 0, without cancellation on either side of −log 2 (Mächler 2012)."""
    near = x > -math.log(2)
    # Each branch is given a harmless argument where the other is taken, else its gradient there is NaN.
    one = torch.log(-torch.expm1(torch.where(near, x, torch.full_like(x, -1.0))))
    other = torch.log1p(-torch.exp(torch.where(near, torch.full_like(x, -1.0), x)))
    return torch.where(near, one, other)

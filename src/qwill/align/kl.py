"""Estimators of KL(policy ‖ reference) from samples of the policy, a token each, and what their gradients are.

With Δ = logp − reference on tokens that the policy drew (Schulman, "Approximating KL divergence", 2020):

| | value | unbiased value | gradient, when it is a term of the loss |
|---|---|---|---|
| k1 | Δ | yes | expectation 0: it does nothing |
| k2 | Δ²/2 | no (≥ 0, second order right) | exactly that of KL(policy ‖ reference) |
| k3 | e^−Δ − 1 + Δ | yes (≥ 0) | that of KL(reference ‖ policy), the other direction |
| k3 · ρ, ρ = e^(logp − sg logp) | as k3 | yes | exactly that of KL(policy ‖ reference) |

k1 in the *reward* (PPO, REINFORCE++, RLOO) has the right gradient too, as a part of the advantage. The test enumerates
a vocabulary and compares each with the exact value and gradient (trl #4967, #6503; verl #2953).

Letter: N tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def kl_value(logp_N: Tensor, reference_N: Tensor, estimator: Estimator = "k3") -> Tensor:
    """The estimate at each token, in nats."""
    delta_N = logp_N - reference_N
    if estimator == "k1":
        return delta_N
    if estimator == "k2":
        return 0.5 * delta_N.square()
    return torch.exp(-delta_N) - 1 + delta_N


def kl_term(logp_N: Tensor, reference_N: Tensor, old_N: Tensor | None = None, estimator: Estimator = "k3") -> Tensor:
    """A term for the loss, whose value is the estimator's and whose expected gradient is that of the exact KL.

    k3 is weighted by the ratio ρ = exp(logp − old) (TRL's use_bias_correction_kl; DeepSeek-V3.2, arXiv 2512.02556,
    eq. 7), which also makes it right for samples of an older policy; `old_N` is that policy's log-probability, or None
    for samples of this one. k1 and k2 take k2's gradient, straight through (verl's "k1+").
    """
    if estimator == "k3":
        old_N = logp_N.detach() if old_N is None else old_N
        return torch.exp(logp_N - old_N) * kl_value(logp_N, reference_N, "k3")
    gradient_N = kl_value(logp_N, reference_N, "k2")
    return gradient_N - gradient_N.detach() + kl_value(logp_N, reference_N, estimator).detach()

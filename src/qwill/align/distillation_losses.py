"""Divergences between a teacher's and a student's next-token distributions, a token each, over the whole vocabulary.

Letters: N tokens, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def generalised_jsd(student_NV: Tensor, teacher_NV: Tensor, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """β·KL(teacher ‖ M) + (1 − β)·KL(student ‖ M) with M = β·teacher + (1 − β)·student, of logits, in nats, [N].

    GKD (arXiv 2306.13649, eq. 1, with the weights of TRL's GKD). `beta` = 0 is the forward KL(teacher ‖ student), which
    covers all that the teacher does; 1 is the reverse KL(student ‖ teacher), which seeks its modes: the limits of the
    quotient by β(1 − β), as in TRL. The gradient isn't multiplied by temperature².
    """
    student_NV = (student_NV / temperature).log_softmax(-1)
    teacher_NV = (teacher_NV / temperature).log_softmax(-1)
    if beta == 0:
        return _kl(teacher_NV, student_NV)
    if beta == 1:
        return _kl(student_NV, teacher_NV)
    mixture_NV = torch.logaddexp(student_NV + math.log1p(-beta), teacher_NV + math.log(beta))
    return beta * _kl(teacher_NV, mixture_NV) + (1 - beta) * _kl(student_NV, mixture_NV)


def _kl(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """KL(p ‖ q) of log-probabilities; a token that p never says adds nothing."""
    return (p_NV.exp() * (p_NV - q_NV).masked_fill(p_NV == -torch.inf, 0.0)).sum(-1)

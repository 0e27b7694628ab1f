"""Losses and gradients of TRL 1.16.0's trainers, as recorded, against ours: float32, the same tensors, within 1e-5.

Where we differ on purpose:
- ORPO: TRL adds the mean loss over prompt *and* chosen reply; ours, like the paper, trains on the reply only. The odds'
  term is compared alone.
- CISPO: TRL aggregates over the tokens of the step, which is `token_mean`.
- SimPO: TRL's γ is divided by β inside and multiplied again; ours is the paper's γ. It is the same number.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qwill.align import losses
from qwill.align.policy_losses import PolicyLoss

ORACLES = Path(__file__).parent.parent / "oracles"
sys.path.insert(0, str(ORACLES))
from align_cases import LENGTHS, TRL, B, T, drawn, logits, replies  # noqa: E402

SAID = json.loads((ORACLES / "trl.json").read_text(encoding="utf-8"))
PAIRS = B // 2
KEPT = replies()["mask"].bool()
OF_TOKEN = losses.sequence_of_token(LENGTHS)


def sums(logp_N: Tensor) -> Tensor:
    return losses.sequence_sums(logp_N, OF_TOKEN, B)


def weighted(loss: Tensor, how: str) -> Tensor:
    return (loss * losses.token_weights(LENGTHS, how, T + 2).to(loss.dtype)).sum()  # type: ignore[arg-type]


def dpo(case, logp_N, loss_type, beta, label_smoothing=0.0):
    ratio_S = sums(logp_N) - sums(case["reference"][KEPT])
    chosen, rejected = ratio_S[:PAIRS], ratio_S[PAIRS:]
    tokens = torch.tensor(LENGTHS)
    count = (tokens[:PAIRS], tokens[PAIRS:])
    return {
        "sigmoid": lambda: losses.dpo(chosen, rejected, beta),
        "hinge": lambda: losses.dpo_hinge(chosen, rejected, beta),
        "ipo": lambda: losses.ipo(chosen, rejected, *count, beta),
        "robust": lambda: losses.dpo_robust(chosen, rejected, beta, label_smoothing),
        "exo_pair": lambda: losses.dpo_exo(chosen, rejected, beta, label_smoothing),
        "sigmoid_norm": lambda: losses.dpo_normalised(chosen, rejected, *count, beta),
    }[loss_type]().mean()


def kto(case, logp_N, **settings):
    ratio_S = sums(logp_N) - sums(case["reference"][KEPT])
    point = losses.kto_reference_point((drawn(20, B, T) + 0.5 - drawn(21, B, T)).sum(1))
    assert point > 0
    return losses.kto(ratio_S, torch.arange(B) % 3 == 0, point, **settings).mean()


def means(logp_N: Tensor) -> tuple[Tensor, Tensor]:
    mean_S = losses.sequence_means(logp_N, OF_TOKEN, B)
    return mean_S[:PAIRS], mean_S[PAIRS:]


def orpo(case, logp_N, beta):
    return losses.orpo_odds(*means(logp_N), beta).mean()


def simpo(case, logp_N, beta, simpo_gamma, label_smoothing):
    return losses.simpo(*means(logp_N), beta, simpo_gamma, label_smoothing).mean()


def rloo(case, logp_N, epsilon_low, epsilon_high):
    found = losses.clipped(sums(logp_N), sums(case["old"][KEPT]), case["advantages"], epsilon_low, epsilon_high)
    return found.losses.mean()


def grpo(
    case, logp_N, loss_type, beta, level="token", epsilon_low=0.2, epsilon_high=0.2, delta=None,
    use_bias_correction_kl=True, clip_max=None,
):  # fmt: skip
    old_N, reference_N, advantage_N = case["old"][KEPT], case["reference"][KEPT], case["advantages"][OF_TOKEN]
    how = {"grpo": "sequence_mean", "dr_grpo": "fixed_length"}.get(loss_type, "token_mean")
    if loss_type == "cispo":
        found = losses.cispo(logp_N, old_N, advantage_N, epsilon_high)
    elif level == "sequence":
        found = losses.gspo(logp_N, old_N, case["advantages"], OF_TOKEN, epsilon_low, epsilon_high)
        found = PolicyLoss(found.losses[OF_TOKEN], found.clipped[OF_TOKEN])
    else:
        found = losses.clipped(logp_N, old_N, advantage_N, epsilon_low, epsilon_high, most=delta)
    loss_N = found.losses
    if clip_max is not None:
        loss_N = loss_N * losses.truncated_importance(old_N, case["sampler"][KEPT], clip_max)
    if beta and level == "sequence":  # TRL weights the KL by the ratio of the whole reply there
        ratio_S = torch.exp(losses.sequence_means(logp_N - old_N, OF_TOKEN, B))
        loss_N = loss_N + beta * ratio_S[OF_TOKEN] * losses.kl_value(logp_N, reference_N, "k3")
    elif beta and use_bias_correction_kl:
        loss_N = loss_N + beta * losses.kl_term(logp_N, reference_N, old_N, "k3")
    elif beta:
        loss_N = loss_N + beta * losses.kl_value(logp_N, reference_N, "k3")
    return weighted(loss_N, how)


@pytest.mark.parametrize("name", [name for name, (kind, _) in TRL.items() if kind not in ("gkd", "reward")])
def test_loss_and_gradient_of_log_probabilities(name):
    kind, settings = TRL[name]
    case = replies()
    logp_BT = case["logp"].requires_grad_()
    loss = globals()[kind](case, logp_BT[KEPT], **settings)
    loss.backward()
    said = SAID["cases"][name]
    assert float(loss) == pytest.approx(said["loss"], abs=1e-5)
    assert float(logp_BT.grad.abs().max()) > 1e-3
    torch.testing.assert_close(logp_BT.grad.double(), torch.tensor(said["gradient"]).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name, (kind, _) in TRL.items() if kind == "reward"])
def test_loss_and_gradient_of_rewards(name):
    settings, rewards_S = TRL[name][1], replies()["rewards"].requires_grad_()
    margin = drawn(22, PAIRS).abs() if settings["margin"] else 0.0
    chosen, rejected = rewards_S[:PAIRS], rewards_S[PAIRS:]
    loss = losses.bradley_terry(chosen, rejected, margin, settings["center_rewards_coefficient"] or 0.0).mean()
    loss.backward()
    said = SAID["cases"][name]
    assert float(loss) == pytest.approx(said["loss"], abs=1e-5)
    torch.testing.assert_close(rewards_S.grad, torch.tensor(said["gradient"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name, (kind, _) in TRL.items() if kind == "gkd"])
def test_loss_and_gradient_of_logits(name):
    student, teacher, labels = logits()
    student.requires_grad_()
    known = labels != -100
    loss = losses.generalised_jsd(student[known], teacher[known], **TRL[name][1]).mean()
    loss.backward()
    gradient, weights = student.grad.double(), drawn(30, *student.shape).double()
    sides = torch.stack([gradient.sum(-1).flatten().abs().sum(), *(gradient * weights).sum(-1).flatten()])
    said = SAID["cases"][name]
    assert float(loss) == pytest.approx(said["loss"], abs=1e-5)
    torch.testing.assert_close(sides, torch.tensor(said["gradient"]).double(), atol=1e-5, rtol=0)

"""One update of a policy on rollouts with advantages: the loss of every algorithm of the family, and its gradient.

The loss is a function of the tokens' log-probabilities at the rollout's temperature. It is cut into micro-batches with
weights made from the whole step, so that cutting changes nothing.

Letters: N reply tokens of a micro-batch, S its replies.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from qwill.align.advantages import group_advantages, leave_one_out, reinforce_plus_plus, token_rewards
from qwill.align.aggregation import sequence_of_token, sequence_sums, token_weights
from qwill.align.kl import kl_term
from qwill.align.policy_losses import PolicyLoss, cispo, clipped, gspo, truncated_importance
from qwill.align.replies import Packed, Reply, pack_replies, policy_pass, token_logprobs
from qwill.align.rollouts import Rollout, micro_batches
from qwill.align.settings import GRPOConfig
from qwill.align.update_numbers import UpdateNumbers
from qwill.engine.support import Support
from qwill.model.transformer import Transformer
from qwill.text.chat import Rendered
from qwill.train.balance import step_balance
from qwill.train.replicas import ALONE, Replicas


def set_advantages(groups: list[list[Rollout]], config: GRPOConfig) -> None:
    """Each rollout's advantage (or its tokens') from the rewards of the whole step; a NaN reward has none.

    With `kl_in: reward` each token costs kl · (log-probability − the reference's) (k1): summed into a reply's reward
    where the algorithm compares replies, token by token in REINFORCE++.
    """
    every = [r for group in groups for r in group]
    penalties = [[config.kl * (p - q) for p, q in zip(r.old or r.logprobs, r.reference, strict=False)] for r in every]
    costs = {id(r): sum(p) for r, p in zip(every, penalties, strict=True)} if config.kl_in == "reward" else {}
    if config.algorithm == "reinforce_plus_plus":
        known = [(r, p) for r, p in zip(every, penalties, strict=True) if not math.isnan(r.reward)]
        lengths = [r.tokens for r, _ in known]
        flat = [p for r, own in known for p in (own if costs and own else [0.0] * r.tokens)]
        reward_S = torch.tensor([r.reward for r, _ in known], dtype=torch.float64)
        rewards_N = token_rewards(reward_S, torch.tensor(flat, dtype=torch.float64), lengths)
        advantages = reinforce_plus_plus(rewards_N, lengths).split(lengths) if known else ()
        for (r, _), own_n in zip(known, advantages, strict=True):
            r.token_advantages = own_n.tolist()
        return
    rewards_PG = torch.tensor([[r.reward - costs.get(id(r), 0.0) for r in group] for group in groups])
    if config.algorithm == "rloo":
        advantages_PG = leave_one_out(rewards_PG)
    else:
        scale = config.scale_advantages and config.algorithm != "dr_grpo"
        advantages_PG = group_advantages(rewards_PG, scale)
    for group, own in zip(groups, advantages_PG.tolist(), strict=True):
        for r, advantage in zip(group, own, strict=True):
            r.advantage = advantage


def policy_loss(
    config: GRPOConfig, logp_N: Tensor, old_N: Tensor, advantage_N: Tensor, lengths: list[int]
) -> PolicyLoss:
    """The algorithm's loss at each token, [N], and which the clip cut; of GSPO and RLOO, whose unit is the reply, each
    token carries its share, so that `config.aggregation` gives the mean over replies."""
    sequence_N, count = sequence_of_token(lengths), len(lengths)
    if config.algorithm == "cispo":
        return cispo(logp_N, old_N, advantage_N, config.ratio_most)
    if config.algorithm not in ("gspo", "rloo"):
        return clipped(logp_N, old_N, advantage_N, config.clip_low, config.clip_high)
    starts = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)
    advantage_S = advantage_N[starts]
    if config.algorithm == "gspo":
        found = gspo(logp_N, old_N, advantage_S, sequence_N, config.sequence_low, config.sequence_high)
        return PolicyLoss(found.losses[sequence_N], found.clipped[sequence_N])
    logp_S, old_S = (sequence_sums(values_N, sequence_N, count) for values_N in (logp_N, old_N))
    found = clipped(logp_S, old_S, advantage_S, config.clip_low, config.clip_high)
    share_N = (1.0 / torch.tensor(lengths, dtype=logp_N.dtype))[sequence_N]
    return PolicyLoss(found.losses[sequence_N] * share_N, found.clipped[sequence_N])


def pack_rollouts(rollouts: list[Rollout], replay: bool = False) -> Packed:
    """The replies' tokens are what is predicted, each among its support; with `replay` all tokens go through the
    experts of the rollout, where these were kept: each reply's own, so nothing is shared then."""
    supports = [r.support for r in rollouts if r.support is not None]
    routings = [r.routing for r in rollouts if replay and r.routing is not None]
    packed = pack_replies([Reply((Rendered(r.ids, r.loss_mask),)) for r in rollouts], share=not routings)
    if routings:
        experts_NLk = torch.from_numpy(np.concatenate(routings))
        packed = dataclasses.replace(packed, batch=dataclasses.replace(packed.batch, experts_NLk=experts_NLk))
    return dataclasses.replace(packed, support=Support.join(supports)) if supports else packed


@torch.no_grad()
def logprobs_of(
    model: Transformer, rollouts: list[Rollout], config: GRPOConfig, replay: bool = False
) -> list[list[float]]:
    """What a model thinks of each reply token, at the rollout's temperature, among its support and with `replay`
    through its experts (which are of use to the rollout's own model alone)."""
    out: dict[int, list[float]] = {}
    for part in micro_batches(rollouts, config.train_tokens):
        packed = pack_rollouts(part, replay)
        hidden_ND = model(packed.batch).hidden_ND[packed.index_N]
        own_N = token_logprobs(model, packed, hidden_ND, config.temperature)
        for r, own_n in zip(part, own_N.split([r.tokens for r in part]), strict=True):
            out[id(r)] = own_n.tolist()
    return [out[id(r)] for r in rollouts]


def update(
    model: Transformer,
    optimizers: list[torch.optim.Optimizer],
    rollouts: list[Rollout],
    config: GRPOConfig,
    replicas: Replicas = ALONE,
) -> dict[str, float]:
    """One optimiser step on rollouts with advantages, dealt over ranks, which all know them; numbers for the log
    (`UpdateNumbers`) and the gradient's norm. The balancing loss, where there is one, is of the whole step."""
    tokens = sum(r.tokens for r in rollouts)
    weights = token_weights([r.tokens for r in rollouts], config.aggregation, config.max_tokens)
    weight_of = {id(r): own_n for r, own_n in zip(rollouts, weights.split([r.tokens for r in rollouts]), strict=True)}
    noted = UpdateNumbers(tokens)
    parts = micro_batches(replicas.deal(rollouts, lambda r: len(r.ids)), config.train_tokens)
    batches = [pack_rollouts(part, replay=True) for part in parts]
    balance = step_balance(model, [p.batch for p in batches], config.balance, replicas)
    for part, packed in zip(parts, batches, strict=True):
        lengths = [r.tokens for r in part]
        rollout_N = torch.tensor([p for r in part for p in r.logprobs], dtype=torch.float64)
        old_N = torch.tensor([p for r in part for p in r.old or r.logprobs], dtype=torch.float64)
        advantage_N = torch.tensor([a for r in part for a in r.advantages], dtype=torch.float64)
        reference_N = torch.tensor([p for r in part for p in r.reference], dtype=torch.float64)
        weight_N = torch.cat([weight_of[id(r)] for r in part])

        def loss_of(
            logp_N: Tensor,
            old_N: Tensor = old_N,
            rollout_N: Tensor = rollout_N,
            advantage_N: Tensor = advantage_N,
            reference_N: Tensor = reference_N,
            weight_N: Tensor = weight_N,
            lengths: list[int] = lengths,
        ) -> Tensor:
            found = policy_loss(config, logp_N, old_N, advantage_N, lengths)
            loss_N = found.losses
            if config.truncation:
                loss_N = loss_N * truncated_importance(old_N, rollout_N, config.truncation)
            if config.kl and config.kl_in == "loss":
                loss_N = loss_N + config.kl * kl_term(logp_N, reference_N, old_N, config.kl_estimator)
            noted.add(logp_N.detach(), old_N, rollout_N, reference_N, found.clipped, advantage_N)
            return (loss_N * weight_N.to(loss_N.dtype)).sum()

        own, stats = policy_pass(model, packed, loss_of, config.temperature, noted.entropies)
        (own + balance.loss(stats, packed.batch)).backward()
    noted.hear(replicas)
    replicas.sum_gradients(model)
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip, foreach=True))
    for o in optimizers:
        if math.isfinite(norm):
            o.step()
        o.zero_grad(set_to_none=True)
    return {**noted.numbers(), "gradient_norm": norm}

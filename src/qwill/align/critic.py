"""PPO's critic: a model of its own that says, before each token of a reply, what the reply will earn.

Its value is score_D · (the hidden state that predicts the token), learnt by the clipped loss of `clipped_value`; token
advantages are GAE's (advantages.py), whitened over the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qwill.align.advantages import gae, token_rewards, whiten
from qwill.align.policy_losses import clipped_value
from qwill.align.policy_update import pack_rollouts
from qwill.align.reward import leave_head
from qwill.align.rollouts import Rollout, micro_batches
from qwill.align.settings import PPOConfig
from qwill.model.transformer import Transformer
from qwill.train.optim import make_optimizers
from qwill.train.replicas import ALONE, Replicas


@dataclass
class Critic:
    """`model` has a parameter `score`, [D]."""

    model: Transformer
    optimizers: list[torch.optim.Optimizer]
    config: PPOConfig

    @classmethod
    def start(cls, model: Transformer, config: PPOConfig, score_D: Tensor | None = None) -> Critic:
        """From a model (a reward model's `score_D`, or none: every value begins at 0)."""
        score = torch.zeros(model.config.hidden_size) if score_D is None else score_D.clone()
        model.register_parameter("score", nn.Parameter(score.to(model.embed_tokens.weight.dtype)))
        leave_head(model)
        return cls(model, make_optimizers(model, config.critic), config)

    def values_of(self, rollouts: list[Rollout]) -> Tensor:
        """[N], of the rollouts' tokens one behind the other."""
        packed = pack_rollouts(rollouts)
        hidden_ND = self.model(packed.batch).hidden_ND[packed.index_N]
        return (hidden_ND @ self.model.get_parameter("score")).double()

    @torch.no_grad()
    def set_values(self, rollouts: list[Rollout]) -> None:
        for part in micro_batches(rollouts, self.config.train_tokens):
            for r, own_n in zip(part, self.values_of(part).split([r.tokens for r in part]), strict=True):
                r.values = own_n.tolist()

    def set_advantages(self, rollouts: list[Rollout]) -> None:
        """Returns and advantages of every token of a step's rollouts whose reward is known, from their values, which
        are made where they are missing."""
        self.set_values([r for r in rollouts if not r.values])
        known = [r for r in rollouts if not math.isnan(r.reward)]
        if not known:
            return
        kl = self.config.kl if self.config.kl_in == "reward" else 0.0
        own = [r.old or r.logprobs for r in known]  # the trainer's, where rollouts were made with other numbers
        costs = [
            kl * (p - q) for r, o in zip(known, own, strict=True) for p, q in zip(o, r.reference or o, strict=True)
        ]
        lengths = [r.tokens for r in known]
        reward_S = torch.tensor([r.reward for r in known], dtype=torch.float64)
        rewards_N = token_rewards(reward_S, torch.tensor(costs, dtype=torch.float64), lengths)
        values_N = torch.tensor([v for r in known for v in r.values], dtype=torch.float64)
        advantage_N, return_N = gae(rewards_N, values_N, lengths, self.config.gamma, self.config.lam)
        for r, a, b in zip(known, whiten(advantage_N).split(lengths), return_N.split(lengths), strict=True):
            r.token_advantages, r.returns = a.tolist(), b.tolist()

    def update(self, rollouts: list[Rollout], replicas: Replicas = ALONE) -> dict[str, float]:
        """One optimiser step on a mean over tokens, dealt over ranks; the loss, and the share of the returns' variance
        explained before it."""
        tokens = sum(r.tokens for r in rollouts)
        total = 0.0
        for part in micro_batches(replicas.deal(rollouts, lambda r: len(r.ids)), self.config.train_tokens):
            old_N = torch.tensor([v for r in part for v in r.values], dtype=torch.float64)
            return_N = torch.tensor([v for r in part for v in r.returns], dtype=torch.float64)
            found = clipped_value(self.values_of(part), old_N, return_N, self.config.value_clip)
            loss = found.losses.sum() / tokens
            loss.backward()
            total += float(loss.detach())
        total = replicas.sum({"loss": total})["loss"]
        replicas.sum_gradients(self.model)
        clip = self.config.critic.clip
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip, foreach=True))
        for o in self.optimizers:
            if math.isfinite(norm):
                o.step()
            o.zero_grad(set_to_none=True)
        values = torch.tensor([v for r in rollouts for v in r.values], dtype=torch.float64)
        returns = torch.tensor([v for r in rollouts for v in r.returns], dtype=torch.float64)
        spread = float(returns.var(unbiased=False))
        explained = 1 - float((returns - values).var(unbiased=False)) / spread if spread > 0 else 0.0
        return {"value_loss": total, "value_explained": explained, "value_gradient_norm": norm}

"""From rewards to advantages: how much better a reply, or a token of it, did than was to be expected.

Letters: P prompts, G replies to a prompt, S sequences, T places in a sequence, N trained tokens of all sequences, one
behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def group_advantages(rewards_PG: Tensor, scale: bool = True, eps: float = 1e-4) -> Tensor:
    """Reward minus the mean of its group, divided by the group's (sample) standard deviation + eps when `scale`.

    GRPO (DeepSeekMath, arXiv 2402.03300, §4.1.2); without the division: Dr. GRPO (arXiv 2503.20783, eq. 3). TRL's
    eps is 1e-4, verl's 1e-6. A reward that is NaN (its function failed) is left out of its group's mean and gets zero;
    a group whose rewards are all equal gets zeros.
    """
    known_PG = ~rewards_PG.isnan()
    count_P1 = known_PG.sum(1, keepdim=True)
    filled_PG = rewards_PG.nan_to_num(0.0)
    centred_PG = (filled_PG - filled_PG.sum(1, keepdim=True) / count_P1.clamp(min=1)) * known_PG
    if not scale:
        return centred_PG
    std_P1 = (centred_PG.square().sum(1, keepdim=True) / (count_P1 - 1).clamp(min=1)).sqrt()
    return centred_PG / (std_P1 + eps)


def leave_one_out(rewards_PG: Tensor) -> Tensor:
    """Reward minus the mean of the group's other rewards.

    RLOO (arXiv 2402.14740, eq. 7). A NaN is left out and gets zero, as does a reply without a known other.
    """
    known_PG = ~rewards_PG.isnan()
    others_PG = known_PG.sum(1, keepdim=True) - known_PG.long()
    filled_PG = rewards_PG.nan_to_num(0.0)
    baseline_PG = (filled_PG.sum(1, keepdim=True) - filled_PG) / others_PG.clamp(min=1)
    return (filled_PG - baseline_PG) * (known_PG & (others_PG > 0))


def whiten(values_N: Tensor, eps: float = 1e-8) -> Tensor:
    """Mean 0 and (sample) variance 1 over the tokens of the step; fewer than two are only centred."""
    centred_N = values_N - values_N.mean()
    if len(values_N) < 2:
        return centred_N
    return centred_N * torch.rsqrt(centred_N.square().sum() / (len(values_N) - 1) + eps)


def reinforce_plus_plus(rewards_N: Tensor, lengths: Sequence[int], gamma: float = 1.0) -> Tensor:
    """Whitened discounted returns of all tokens of the step, [N]; `rewards_N` holds the KL penalty of each token and,
    at a reply's last token, its reward. REINFORCE++ (arXiv 2501.03262, §3)."""
    returns_N, _ = gae(rewards_N, torch.zeros_like(rewards_N), lengths, gamma, lam=1.0)
    return whiten(returns_N)


def gae(
    rewards_N: Tensor, values_N: Tensor, lengths: Sequence[int], gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), each [N], of generalised advantage estimation (arXiv 1506.02438, eq. 16).

    δ_t = r_t + γ·V_{t+1} − V_t and A_t = δ_t + γλ·A_{t+1} within a sequence, behind whose end V and A are zero.
    Returns are A + V, what the value head is to learn. Advantages aren't whitened.
    """
    # Side by side, shorter ones filled up with zeros: V, r and so A are zero there, which is the end's definition.
    rewards_TS, values_TS = (pad_sequence(list(x.split(list(lengths)))) for x in (rewards_N, values_N))
    advantages_TS = torch.zeros_like(rewards_TS)
    later_S = following_S = torch.zeros_like(rewards_TS[0])
    for t in reversed(range(len(rewards_TS))):
        later_S = rewards_TS[t] + gamma * following_S - values_TS[t] + gamma * lam * later_S
        following_S = values_TS[t]
        advantages_TS[t] = later_S
    advantage_N = torch.cat([advantages_TS[:n, i] for i, n in enumerate(lengths)])
    return advantage_N, advantage_N + values_N


def token_rewards(reward_S: Tensor, penalty_N: Tensor, lengths: Sequence[int]) -> Tensor:
    """−penalty at every token, and a reply's reward at its last one, [N]; what PPO and REINFORCE++ are given."""
    out_N = -penalty_N
    ends = torch.tensor(list(lengths)).cumsum(0) - 1
    known = torch.tensor(list(lengths)) > 0
    return out_N.index_add(0, ends[known].to(out_N.device), reward_S[known.to(reward_S.device)].to(out_N.dtype))

"""How the tokens of many replies become one number: a weight for each token, so that a loss is Σ weight · loss.

The weights are made from the whole step before it is cut into micro-batches, so that cutting changes nothing (the
fault of trl #2995 and ms-swift #10084: means of means over parts of unequal size). Only trained tokens are packed;
tokens of prompts and tools aren't there.

Letters: S sequences, N trained tokens of all of them, one sequence behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["token_mean", "sequence_mean", "sequence_sum", "fixed_length"]


def sequence_of_token(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """For each token the number of its sequence, int64 [N]; `lengths` are counts of trained tokens."""
    lengths_S = torch.tensor(lengths, dtype=torch.long, device=device)
    return torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths_S)


def sequence_sums(values_N: Tensor, sequence_N: Tensor, sequences: int) -> Tensor:
    """Σ over each sequence's tokens, [S]; zero for a sequence without any."""
    return values_N.new_zeros(sequences).index_add(0, sequence_N, values_N)


def sequence_means(values_N: Tensor, sequence_N: Tensor, sequences: int) -> Tensor:
    """Mean over each sequence's tokens, [S]; zero for a sequence without any."""
    count_S = torch.bincount(sequence_N, minlength=sequences).clamp(min=1)
    return sequence_sums(values_N, sequence_N, sequences) / count_S


def token_weights(lengths: Sequence[int], how: Aggregation, horizon: int = 0) -> Tensor:
    """The weight of each token in the loss of a step, float64 [N]. A sequence without trained tokens counts for
    nothing, neither above nor below the line.

    - `token_mean`: 1 / all tokens of the step (DAPO, arXiv 2503.14476, eq. 8): long replies count more.
    - `sequence_mean`: 1 / (sequences · own length) (GRPO, arXiv 2402.03300, eq. 3): a token of a long reply counts
      less, so that long wrong replies are punished little.
    - `sequence_sum`: 1 / sequences: the log-probability of a whole reply (RLOO, arXiv 2402.14740; DPO and its kin).
    - `fixed_length`: 1 / (sequences · horizon), horizon being the most tokens of a reply (Dr. GRPO, arXiv 2503.20783).
    """
    lengths_S = torch.tensor(lengths, dtype=torch.float64)
    own_N = torch.repeat_interleave(lengths_S, lengths_S.long())
    sequences = max(1, int((lengths_S > 0).sum()))
    if how == "token_mean":
        return torch.full_like(own_N, 1.0 / max(1.0, float(lengths_S.sum())))
    if how == "sequence_mean":
        return 1.0 / (sequences * own_N)
    if how == "sequence_sum":
        return torch.full_like(own_N, 1.0 / sequences)
    assert horizon > 0, "fixed_length needs the most tokens of a reply"
    return torch.full_like(own_N, 1.0 / (sequences * horizon))

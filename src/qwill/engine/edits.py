"""What a request changes in a row of logits before a token is drawn: penalties, bias, and what may not come next."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from qwill.engine.sampling import Sampling


def penalise(row_V: Tensor, sampling: Sampling, prompt_ids: Tensor, output: Mapping[int, int]) -> None:
    """Penalties for the ids of the prompt and those of the output (id → how often), then the bias; in place."""
    said = torch.tensor(list(output), dtype=torch.int64, device=row_V.device)
    if sampling.repetition_penalty != 1:
        seen = torch.cat([prompt_ids.to(row_V.device), said]).unique()
        values, penalty = row_V[seen], sampling.repetition_penalty
        row_V[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if output and (sampling.presence_penalty or sampling.frequency_penalty):
        counts = torch.tensor(list(output.values()), dtype=row_V.dtype, device=row_V.device)
        row_V[said] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    for token, bias in sampling.logit_bias.items():
        row_V[token] += bias


def allow(
    row_V: Tensor, vocab_size: int, allowed_V: Tensor | None, stop_ids: Collection[int], forced: int | None
) -> None:
    """−inf for ids from `vocab_size` on, those that `allowed_V` (bool) leaves out, and `stop_ids` (unless nothing else
    is allowed); for all but the one that is `forced`; in place."""
    if forced is not None:
        row_V.fill_(float("-inf"))
        row_V[forced] = 0.0
        return
    row_V[vocab_size:] = float("-inf")
    if allowed_V is not None:
        row_V.masked_fill_(~allowed_V.to(row_V.device), float("-inf"))
    if stop_ids:
        kept_V = row_V.clone()
        row_V[[i for i in stop_ids if i < len(row_V)]] = float("-inf")
        if not bool((row_V > float("-inf")).any()):
            row_V.copy_(kept_V)

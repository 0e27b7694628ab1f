"""What requests change in their rows of logits before tokens are drawn: penalties, bias, what may not come next.

Shape letters: B rows, V vocabulary, E seen ids of all rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from qwill.engine import native_sampler
from qwill.engine.sampling import Sampling


class Seen:
    """The different ids of a prompt and its reply, and how often each is in the reply."""

    def __init__(self, prompt: Sequence[int]) -> None:
        ids = dict.fromkeys(prompt)
        self._place = {token: i for i, token in enumerate(ids)}
        self._ids = np.array(list(ids), dtype=np.int64)
        self._counts = np.zeros(len(ids), dtype=np.float32)

    def add(self, token: int) -> None:
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids, shape=place + 16)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts, shape=place + 16)])
        self._ids[place] = token
        self._counts[place] += 1

    @property
    def ids(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return self._counts[: len(self._place)]


def adjusted(logits_BV: Tensor, settings: Sequence[Sampling], seen: Sequence[Seen | None]) -> Tensor:
    """A copy with penalties for what each row's sequence holds, and its bias."""
    if native_sampler.suits(logits_BV):
        edited_BV = native_sampler.penalised(logits_BV, settings, seen)
    else:
        edited_BV = logits_BV.clone()
        penalise(edited_BV, settings, seen)
    for row_V, sampling in zip(edited_BV, settings, strict=True):
        for token, bias in sampling.logit_bias.items():
            row_V[token] += bias
    return edited_BV


def penalise(logits_BV: Tensor, settings: Sequence[Sampling], seen: Sequence[Seen | None]) -> None:
    """Penalties for what each row's sequence holds; in place."""
    rows = [(i, settings[i], s) for i, s in enumerate(seen) if s is not None]
    if rows:
        sizes = [len(s.ids) for _, _, s in rows]
        repetition, presence, frequency = (
            np.repeat(np.array(values, dtype=np.float32), sizes)
            for values in zip(
                *((s.repetition_penalty, s.presence_penalty, s.frequency_penalty) for _, s, _ in rows), strict=True
            )
        )
        counts = np.concatenate([s.counts for _, _, s in rows])
        less = presence * (counts > 0) + frequency * counts
        given = [np.repeat([i for i, _, _ in rows], sizes), np.concatenate([s.ids for _, _, s in rows])]
        row_E, id_E, repetition_E, less_E = (
            torch.from_numpy(x).to(logits_BV.device) for x in (*given, repetition, less)
        )
        values_E = logits_BV[row_E, id_E]
        values_E = torch.where(values_E > 0, values_E / repetition_E, values_E * repetition_E)
        logits_BV[row_E, id_E] = values_E - less_E


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

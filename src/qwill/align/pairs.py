"""Preference pairs as tokens: what a preference loss (DPO, arXiv 2305.18290) is computed from.

A pair becomes two sequences with one conversation before them; only the reply counts. A batch has the chosen ones in
its first half and the rejected ones in its second, so that both go through the model at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwill.base.errors import DataError
from qwill.data.preferences import Preference, read_preferences
from qwill.text.chat import Rendered, training_examples
from qwill.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class RenderedPair:
    """`origin`: where the pair came from, such as its battle and its vote."""

    id: str
    chosen: Rendered
    rejected: Rendered
    origin: dict[str, Any]


@dataclass
class Pairs:
    """Rendered pairs, and how many were left out because a reply with its prompt is longer than the limit."""

    rendered: list[RenderedPair] = field(default_factory=list)
    too_long: int = 0


@dataclass(frozen=True)
class PairBatch:
    """P pairs of at most T tokens: row i is chosen, row P + i the rejected one of the same prompt. `mask_2PT` is True
    on the reply's tokens, `ids_2PT` is the padding's id behind the end of a sequence."""

    ids_2PT: Tensor
    mask_2PT: Tensor
    names: list[str]


def render_pairs(path: Path, tokenizer: Tokenizer, max_tokens: int) -> Pairs:
    """Every pair of a file or an artifact. Raises DataError naming file and line, for no pairs, and for none that
    fits."""
    pairs = Pairs()
    for number, pair in enumerate(read_preferences(path), start=1):
        where = f"{path}: pair {number}"
        chosen, rejected = (_reply(pair, reply, tokenizer, where) for reply in (pair.chosen, pair.rejected))
        if max(len(chosen.ids), len(rejected.ids)) > max_tokens:
            pairs.too_long += 1
        else:
            pairs.rendered.append(RenderedPair(pair.id, chosen, rejected, pair.origin))
    if not pairs.rendered:
        why = "there are no pairs" if not pairs.too_long else f"no pair fits into {max_tokens} tokens"
        raise DataError(f"{path}: {why}; gather votes with consent, or raise the limit.")
    return pairs


def _reply(pair: Preference, reply: list[dict[str, Any]], tokenizer: Tokenizer, where: str) -> Rendered:
    """The conversation with a reply; of what the assistant says, only the reply is learnt from."""
    whole = training_examples([*pair.prompt, *reply], None, tokenizer, where=where)[-1]
    turns = sum(message["role"] == "assistant" for message in reply)
    mask, kept = [0] * len(whole.ids), 0
    for place in range(len(mask) - 1, -1, -1):
        if whole.loss_mask[place]:
            if kept and not whole.loss_mask[place + 1]:
                turns -= 1
            if not turns:
                break
            mask[place], kept = 1, kept + 1
    return Rendered(whole.ids, mask)


def pair_batch(pairs: Sequence[RenderedPair], pad: int) -> PairBatch:
    """The batch of some pairs. Raises DataError for none."""
    if not pairs:
        raise DataError("a batch needs at least one pair.")
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.int64)
    mask = torch.zeros((len(rows), longest), dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        mask[place, : len(row.ids)] = torch.tensor(row.loss_mask, dtype=torch.bool)
    return PairBatch(ids, mask, [pair.id for pair in pairs])

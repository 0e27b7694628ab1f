"""Log-likelihoods of continuations: what a question with choices asks of a model, in batches.

Contexts that begin alike are computed once (prefix caching), the choices of a question only behind their context, and
choices of one token all from the same pass; logits are made only where a continuation's tokens are predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from qwill.base.errors import DataError, ModelError
from qwill.engine.blocks import BlockPool
from qwill.engine.checks import check_ids
from qwill.engine.engine_settings import EngineSettings
from qwill.engine.executors import executors_of
from qwill.engine.passes import step_of
from qwill.engine.scheduler import Piece, Scheduler
from qwill.engine.scheduler import Sequence as Running

if TYPE_CHECKING:
    from qwill.model.transformer import Transformer

Pair = tuple[Sequence[int], Sequence[int]]
ROWS = 64  # of logits at a time in float64


@dataclass(frozen=True)
class Likelihood:
    """ln P(continuation | context), summed over its `tokens`, and whether each of them was the likeliest."""

    logprob: float
    greedy: bool
    tokens: int


@dataclass
class _Target:
    """A continuation that one sequence's logits are asked about: its first token follows token `after` of it."""

    number: int
    after: int
    tokens: list[int]
    scored: int = 0  # of its tokens; a sequence that was preempted is computed again
    logprob: float = 0.0
    greedy: bool = True


class Scorer:
    """Scores continuations with a model; keeps the copy of its weights that the native executor makes, and the cache
    from one call to the next. After changing the weights make a new one."""

    def __init__(self, model: Transformer, memory: int = 1 << 30, slots: int = 64, token_budget: int = 512) -> None:
        """`memory`: bytes of the cache; at most `slots` sequences and `token_budget` tokens a pass."""
        self._config = c = model.config
        settings = EngineSettings(memory=memory, max_running=slots, token_budget=max(slots, token_budget))
        # Few snapshots would be overwritten before the next choice comes; they are small beside the cache.
        self._snapshots = 2 * slots if c.has_linear else 0
        (self._executor,) = executors_of([model], settings, slots + self._snapshots if c.has_linear else 0)
        self._settings, self._blocks = settings, self._executor.blocks
        self._pool = BlockPool(self._blocks, settings.block_size, self._snapshots, slots)
        self._tables = np.zeros((slots, -(-c.max_position_embeddings // settings.block_size)), dtype=np.int32)
        self.computed = 0  # tokens that went through the model, as against those found in the cache

    @torch.inference_mode()
    def score(self, pairs: Sequence[Pair], progress: Callable[[int], None] | None = None) -> list[Likelihood]:
        """One for each (context, continuation), both of ids and neither empty. What is longer than the model's context
        loses tokens on the left, as in lm-eval. `progress` gets the number of pairs done.

        Raises DataError for a pair that can't be scored, ModelError when the model gives NaN.
        """
        size = self._settings.block_size
        found: dict[int, Likelihood] = {}
        targets = self._targets(pairs)
        scheduler = Scheduler(self._pool, self._settings.max_running, self._settings.token_budget)
        asked: dict[Running, list[_Target]] = {}
        # In the order of their tokens, so that what begins alike runs side by side and shares its beginning.
        for number, tokens in enumerate(sorted(targets)):
            first = min(target.after for target in targets[tokens])
            sequence = Running(str(number), 0, list(tokens), reusable=first)
            if self._pool.needed(len(tokens)) + 1 > self._blocks:
                raise DataError(
                    f"{len(tokens)} tokens of context and continuation don't fit into the cache of "
                    f"{self._blocks * size}; give it more memory."
                )
            asked[sequence] = targets[tokens]
            scheduler.add(sequence)
        while asked:
            pieces = scheduler.schedule()
            self._run(pieces, asked, scheduler)
            for sequence in [p.sequence for p in pieces if p.sequence.computed == len(p.sequence.tokens)]:
                scheduler.finish(sequence)
                for target in asked.pop(sequence):
                    found[target.number] = Likelihood(target.logprob, target.greedy, len(target.tokens))
            if progress is not None:
                progress(len(found))
        return [found[number] for number in range(len(pairs))]

    def _targets(self, pairs: Sequence[Pair]) -> dict[tuple[int, ...], list[_Target]]:
        """What the model must read, each once, and which continuations each is asked about."""
        most = self._config.max_position_embeddings
        targets: dict[tuple[int, ...], list[_Target]] = {}
        for number, (context, continuation) in enumerate(pairs):
            if not continuation or not context:
                raise DataError(f"pair {number} has an empty {'context' if continuation else 'continuation'}.")
            if len(continuation) > most:
                raise DataError(
                    f"pair {number} has a continuation of {len(continuation)} tokens, and the model's context is "
                    f"{most}; leave it out, or split it."
                )
            tokens = (*context, *continuation)[-(most + 1) :]
            check_ids(tokens, self._config, f"pair {number}")
            target = _Target(number, len(tokens) - len(continuation) - 1, list(continuation))
            targets.setdefault(tokens[:-1], []).append(target)
        return targets

    def _run(self, pieces: list[Piece], asked: dict[Running, list[_Target]], scheduler: Scheduler) -> None:
        wanted = {piece.sequence: min(t.after for t in asked[piece.sequence]) for piece in pieces}
        self._copy_states([(piece.source, piece.sequence.state) for piece in pieces if piece.source >= 0])
        step, rows = step_of(pieces, wanted, (), self._config.has_linear, self._tables)
        self.computed += len(step.tokens_N)
        logits_BV = self._executor.run(step)
        self._copy_states([(source, slot) for slot, source in scheduler.snapshots(pieces).items()])
        row_of, ids, owners = [], [], []
        for piece, (first, last) in zip(pieces, rows, strict=True):
            # Row `last` - 1 belongs to the piece's last token, the ones before it to those before that.
            end = piece.start + piece.count
            for target in asked[piece.sequence] if first < last else ():
                places = range(
                    max(target.after + target.scored, piece.start), min(target.after + len(target.tokens), end)
                )
                for place in places:
                    row_of.append(last - end + place)
                    ids.append(target.tokens[place - target.after])
                    owners.append(target)
                target.scored += len(places)
        for start in range(0, len(ids), ROWS):
            part = slice(start, start + ROWS)
            values, likeliest = _scores(logits_BV, row_of[part], ids[part])
            for target, value, best in zip(owners[part], values, likeliest, strict=True):
                target.logprob += value
                target.greedy &= best
                if value != value:
                    self._pool.forget()
                    raise ModelError(f"the model gives NaN for pair {target.number}: its weights are broken.")

    def _copy_states(self, pairs: list[tuple[int, int]]) -> None:
        if pairs:
            self._executor.copy_states([source for source, _ in pairs], [target for _, target in pairs])


def _scores(logits_BV: Tensor, rows: list[int], ids: list[int]) -> tuple[list[float], list[bool]]:
    """Of each id its log-probability in its row, and whether none is likelier."""
    ids_n = torch.tensor(ids, device=logits_BV.device)
    logits_nV = logits_BV[torch.tensor(rows, device=logits_BV.device)]
    own_n = logits_nV.gather(1, ids_n[:, None])[:, 0]
    values = own_n.double() - logits_nV.double().logsumexp(1)
    return values.tolist(), (logits_nV.argmax(1) == ids_n).tolist()

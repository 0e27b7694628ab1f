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
    """A continuation to be scored: its first token follows token `after` of what the model reads."""

    number: int
    after: int
    tokens: list[int]
    scored: int = 0  # of its tokens; a sequence that was preempted is computed again
    logprob: float = 0.0
    greedy: bool = True


@dataclass
class _Asked:
    """What one sequence's logits are asked; `branches` while it is a context that continuations will follow."""

    targets: list[_Target]
    branches: bool


class Scorer:
    """Scores continuations with a model; keeps the copy of its weights that the native executor makes, and the cache
    from one call to the next. After changing the weights make a new one."""

    def __init__(self, model: Transformer, settings: EngineSettings | None = None) -> None:
        self._config, self._settings = c, s = model.config, settings or EngineSettings()
        # A recurrent state is shared through a snapshot.
        snapshots = s.snapshots if c.has_linear else 0
        (self._executor,) = executors_of([model], s, s.max_running + snapshots if c.has_linear else 0)
        self._pool = BlockPool(self._executor.blocks, s.block_size, snapshots, s.max_running)
        self._tables = np.zeros((s.max_running, -(-c.max_position_embeddings // s.block_size)), dtype=np.int32)
        self.computed = 0  # tokens that went through the model, as against those found in the cache

    @torch.inference_mode()
    def score(self, pairs: Sequence[Pair], progress: Callable[[int], None] | None = None) -> list[Likelihood]:
        """One for each (context, continuation), both of ids and neither empty. What is longer than the model's context
        loses tokens on the left, as in lm-eval. `progress` gets the number of pairs done.

        Raises DataError for a pair that can't be scored, ModelError when the model gives NaN.
        """
        found: dict[int, Likelihood] = {}
        targets = self._targets(pairs)
        s, share = self._settings, self._pool.has_states or not self._config.has_linear
        scheduler = Scheduler(self._pool, s.max_running, s.token_budget, share and s.share_prefixes)
        asked: dict[Running, _Asked] = {}
        # In the order of their tokens, so that what begins alike runs side by side and shares its beginning.
        for number, context in enumerate(sorted(targets)):
            sequence = Running(str(number), 0, list(context))
            asked[sequence] = _Asked(targets[context], branches=True)
            scheduler.add(sequence)
        try:
            self._score(scheduler, asked, found, progress)
        finally:
            for sequence in asked:
                scheduler.finish(sequence)
        return [found[number] for number in range(len(pairs))]

    def _score(
        self,
        scheduler: Scheduler,
        asked: dict[Running, _Asked],
        found: dict[int, Likelihood],
        progress: Callable[[int], None] | None,
    ) -> None:
        while asked:
            pieces = scheduler.schedule()
            self._run(pieces, asked, scheduler)
            for sequence in [p.sequence for p in pieces if p.sequence.computed == len(p.sequence.tokens)]:
                part = asked[sequence]
                for target in part.targets:
                    if target.scored == len(target.tokens):
                        found[target.number] = Likelihood(target.logprob, target.greedy, len(target.tokens))
                part.targets = [target for target in part.targets if target.scored < len(target.tokens)]
                if part.targets:
                    self._branch(sequence, asked, scheduler)
                else:
                    del asked[sequence]
                    scheduler.finish(sequence)
            if progress is not None:
                progress(len(found))

    def _targets(self, pairs: Sequence[Pair]) -> dict[tuple[int, ...], list[_Target]]:
        """Each context once, and what is to follow it."""
        most = self._config.max_position_embeddings
        room = min(most, (self._pool.blocks - 1) * self._pool.block_size)
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
            if len(tokens) - 1 > room:
                raise DataError(f"pair {number} has {len(tokens)} tokens, and the cache room for {room}; give it more.")
            before = len(tokens) - len(continuation)
            target = _Target(number, before - 1, list(continuation))
            targets.setdefault(tokens[:before], []).append(target)
        return targets

    def _branch(self, context: Running, asked: dict[Running, _Asked], scheduler: Scheduler) -> None:
        """Let what follows a context go on from it: one continuation in its own sequence, the others in copies."""
        assert asked[context].branches
        by_input: dict[tuple[int, ...], list[_Target]] = {}
        for target in asked[context].targets:
            by_input.setdefault(tuple(target.tokens[:-1]), []).append(target)
        first, *others = by_input
        for number, tokens in enumerate(others, start=1):
            other = Running(context.request, number, [*context.tokens, *tokens], reusable=len(context.tokens))
            asked[other] = _Asked(by_input[tokens], branches=False)
            blocks, states = scheduler.fork(context, other)
            if blocks:
                self._executor.copy_blocks([source for source, _ in blocks], [target for _, target in blocks])
            self._copy_states(states)
        context.reusable = len(context.tokens)
        context.tokens += first
        asked[context] = _Asked(by_input[first], branches=False)

    def _run(self, pieces: list[Piece], asked: dict[Running, _Asked], scheduler: Scheduler) -> None:
        self._copy_states([(piece.source, piece.sequence.state) for piece in pieces if piece.source >= 0])
        wanted = {p.sequence: min(t.after + t.scored for t in asked[p.sequence].targets) for p in pieces}
        step, rows = step_of(pieces, wanted, (), self._config.has_linear, self._tables)
        self.computed += len(step.tokens_N)
        logits_BV = self._executor.run(step)
        self._copy_states([(source, slot) for slot, source in scheduler.snapshots(pieces).items()])
        row_of, ids, owners = [], [], []
        for piece, (first, last) in zip(pieces, rows, strict=True):
            # Row `last` - 1 belongs to the piece's last token, the ones before it to those before that.
            end = piece.start + piece.count
            for target in asked[piece.sequence].targets if first < last else ():
                beginning = max(target.after + target.scored, piece.start)
                for place in range(beginning, min(target.after + len(target.tokens), end)):
                    row_of.append(last - end + place)
                    ids.append(target.tokens[place - target.after])
                    owners.append(target)
                    target.scored += 1
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
        if pairs and self._config.has_linear:
            self._executor.copy_states([source for source, _ in pairs], [target for _, target in pairs])


def _scores(logits_BV: Tensor, rows: list[int], ids: list[int]) -> tuple[list[float], list[bool]]:
    """Of each id its log-probability in its row, and whether none is likelier."""
    ids_n = torch.tensor(ids, device=logits_BV.device)
    logits_nV = logits_BV[torch.tensor(rows, device=logits_BV.device)]
    own_n = logits_nV.gather(1, ids_n[:, None])[:, 0]
    values = own_n.double() - logits_nV.double().logsumexp(1)
    return values.tolist(), (logits_nV.argmax(1) == ids_n).tolist()

"""Who drafts the tokens that the engine's passes check (speculate.py says how): look-up in a reply's own tokens, what
its grammar forces, a smaller model, or the model's own head (ahead.py).

The draft model keeps its keys and values in the same blocks by number as the model (a cache of its own), and every
token that the model computes goes through it too, so it knows all that is shared, forked or found again. Recurrent
states can't go back: the model's stay before the drafts until it is known how many of these count; a draft model looks
ahead in copies of its own, and computes the drafts that count once more. So does the head, which drafts from its own
hidden states: the model's come with the pass, and the head goes through all other tokens only then.
Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwill.base.errors import ConfigError
from qwill.engine.ahead import HeadExecutor
from qwill.engine.choose import DRAFT, randoms
from qwill.engine.engine_settings import DraftSpec, EngineSettings, MtpSpec, NgramSpec
from qwill.engine.executor import Executor, Step, TorchExecutor
from qwill.engine.passes import step_of
from qwill.engine.replies import Reply, Running
from qwill.engine.sampler import distribution
from qwill.engine.scheduler import Piece
from qwill.engine.scheduler import Sequence as Sample
from qwill.engine.speculate import History, invert

if TYPE_CHECKING:
    from qwill.model.config import ModelConfig
    from qwill.model.transformer import Transformer
    from qwill.text.tokenizer import Tokenizer

FORCED = 16  # most tokens a pass that a grammar forces
FEW = 4  # replies; beyond, one more token in a pass costs about as much as it saves


class Speculation:
    """Drafts of an engine's replies; `drafted` tokens so far, of which `accepted` came."""

    def __init__(
        self,
        settings: EngineSettings,
        models: Sequence[Transformer],
        executors: Sequence[Executor],
        vocab_size: int,
    ) -> None:
        """Without a `speculate` only what grammars force is drafted, for few replies at a time. `models` and
        `executors`: the model, and the draft model if there is one; an executor more if the model's own head drafts."""
        self.spec, self._vocab_size = settings.speculate, vocab_size
        self._model, self.executor = executors[0], executors[1] if len(executors) > 1 else None
        self._recurrent = models[0].config.has_linear
        # A draft model with recurrent states looks ahead in the slots from this one on.
        has_copies = len(models) > 1 and models[1].config.has_linear
        self._copies = settings.max_running + settings.snapshots if has_copies else None
        self._head = self.executor if isinstance(self.executor, HeadExecutor) else None
        self._ahead: set[Sample] = set()  # those that the head drafted for in this pass
        self.drafted = self.accepted = 0
        self._wanted: dict[Sample, tuple[Reply, list[int]]] = {}

    def want(self, requests: Mapping[str, Running], running: Sequence[Sample]) -> None:
        """Before a pass is chosen: how many drafted tokens each reply would have in it, and which if that is known."""
        self._wanted = {}
        few = len(running) <= FEW and any(whose.request.constraint for whose in requests.values())
        if self.spec is None and not few:
            for sequence in running:
                sequence.wanted = 0
            return
        tokens = 0 if self.spec is None else self.spec.tokens
        for sequence in running:
            sequence.wanted, whose = 0, requests[sequence.request]
            if not whose.forked or len(sequence.tokens) - sequence.computed != 1:
                continue
            reply = whose.replies[sequence.sample]
            # After a miss as many as came, else twice as many.
            reach = max(1, reply.taken) if reply.taken < reply.tried else max(2, 2 * reply.tried)
            left = whose.limit - reply.produced - 1
            most = min(reach, tokens, left)
            guess = reply.guide.forced()[: min(FORCED, left)] if reply.guide is not None and left > 0 else []
            if not guess and most > 0 and isinstance(self.spec, NgramSpec):
                reply.history = reply.history or History()
                guess = reply.history.propose(sequence.tokens, self.spec, most)
            sequence.wanted = len(guess) or (max(0, most) if self.executor is not None else 0)
            if sequence.wanted:
                self._wanted[sequence] = reply, guess

    def draft(self, pieces: Sequence[Piece], tables: NDArray[np.int32]) -> None:
        """The drafts of a pass, as many as there is room for."""
        for piece in pieces:
            if piece.sequence in self._wanted:
                piece.drafts = self._wanted[piece.sequence][1][: piece.ahead]
        proposed = self._run(pieces, tables) if self.executor is not None else {}
        for piece in pieces:
            if piece.sequence in self._wanted:
                reply = self._wanted[piece.sequence][0]
                reply.drafts, reply.proposed = list(piece.drafts), proposed.get(piece.sequence, [])
                reply.tried, reply.taken = len(piece.drafts), 0
                self.drafted += len(piece.drafts)

    def came(self, reply: Reply, token: int) -> bool:
        """Whether the drafted token came, so that what was computed behind it holds."""
        sequence, drafted = reply.sequence, reply.drafts.pop(0)
        if reply.proposed:
            reply.proposed.pop(0)
        if token != drafted:
            reply.drafts, reply.proposed = [], []
            return False
        reply.taken += 1
        self.accepted += 1
        sequence.computed += 1
        sequence.behind += 1
        return True

    def settle(self, pieces: Sequence[Piece]) -> None:
        """After a pass whose tokens are drawn: the recurrent states of sequences that go on, behind what they have."""
        if not self._recurrent or not isinstance(self._model, TorchExecutor):
            return
        taken = {p.sequence.state: p.sequence.computed - p.start - p.count for p in pieces if p.drafts}
        taken = {slot: count for slot, count in taken.items() if slot >= 0 and count > 0}
        if taken:
            self._model.settle(taken)

    def follow(self, pieces: Sequence[Piece], step: Step, tables: NDArray[np.int32]) -> None:
        """After the model's pass: its head over what it hasn't gone through, so that it knows all that is cached."""
        if self._head is None or not isinstance(self._model, TorchExecutor):
            return
        assert self._model.hidden_ND is not None
        self._head.keep(step, self._model.hidden_ND)
        rest = [piece for piece in pieces if piece.sequence not in self._ahead]
        self._through(rest, tables, drafting=False)

    def _run(self, pieces: Sequence[Piece], tables: NDArray[np.int32]) -> dict[Sample, list[Tensor]]:
        """The draft model over all that the pass computes, then as many tokens more as each reply may have; from what
        distributions these were drawn, unless they are certain. The head goes through only those that it drafts for."""
        assert self.executor is not None
        going = [(p, self._wanted[p.sequence][0]) for p in pieces if p.ahead and not p.drafts]
        if self._head is not None:
            self._ahead = {piece.sequence for piece, _ in going}
            pieces = [piece for piece, _ in going]
        logits, last = self._through(pieces, tables)
        if going and self._copies is not None:
            slots = [piece.sequence.state for piece, _ in going]
            self.executor.copy_states(slots, [self._copies + slot for slot in slots])
        proposed: dict[Sample, list[Tensor]] = {}
        logits, ahead = logits[[last[piece.sequence] for piece, _ in going]], 0
        while going:
            self._draw(going, logits, ahead, proposed)
            ahead += 1
            going = [(piece, reply) for piece, reply in going if len(piece.drafts) == ahead < piece.ahead]
            if going:
                step = _one_more([piece for piece, _ in going], tables, ahead - 1, self._copies)
                if self._copies is None and self._head is None:
                    for piece, _ in going:
                        piece.sequence.behind -= 1
                logits = self.executor.run(step)
        return proposed

    def _through(
        self, pieces: Sequence[Piece], tables: NDArray[np.int32], drafting: bool = True
    ) -> tuple[Tensor, dict[Sample, int]]:
        """The draft model over these pieces and what it has yet to compute before them: its logits, and which row is
        behind each one's last token."""
        shadows: list[Piece] = []
        for p in pieces:
            first = max(0 if self._head is None else 1, p.start - max(0, p.sequence.behind))
            p.sequence.behind = 0
            if p.start + p.count > first:
                shadows.append(Piece(p.sequence, first, p.start + p.count - first))
        if not shadows:
            return torch.empty(0, 0), {}
        assert self.executor is not None
        step, rows = step_of(shadows, {}, (), self._copies is not None, tables)
        if not drafting:
            step.rows = step.rows[:0]
        step.adapters_R = torch.full((len(shadows),), -1)
        last = {shadow.sequence: end - 1 for shadow, (_, end) in zip(shadows, rows, strict=True)}
        return self.executor.run(step), last

    def _draw(
        self, going: Sequence[tuple[Piece, Reply]], logits_BV: Tensor, ahead: int, proposed: dict[Sample, list[Tensor]]
    ) -> None:
        """The next drafted token of each reply, by its own settings; none where the draft model gives NaN."""
        groups: dict[str, list[int]] = {}
        for i, (_, reply) in enumerate(going):
            groups.setdefault(reply.running.draw, []).append(i)
        for members in groups.values():
            part = [going[i][1] for i in members]
            sampling, own_BV = part[0].running.request.sampling, logits_BV[members][:, : self._vocab_size]
            if sampling.temperature:
                law_BV = distribution(own_BV, sampling, self._vocab_size)
                tokens_B = invert(law_BV, randoms(part, DRAFT, ahead).to(law_BV.device))
            else:
                law_BV, tokens_B = own_BV, own_BV.argmax(1)
            sound = law_BV.sum(1).isfinite().tolist()
            for i, token, law_V, good in zip(members, tokens_B.tolist(), law_BV, sound, strict=True):
                if good:
                    piece, _ = going[i]
                    piece.drafts.append(token)
                    if sampling.temperature:
                        proposed.setdefault(piece.sequence, []).append(law_V)


def _one_more(pieces: Sequence[Piece], tables: NDArray[np.int32], behind: int, copies: int | None) -> Step:
    """A pass over the latest drafted token of each piece, `behind` of which are computed before it. Recurrent states
    are in the slots from `copies` on."""
    sequences = [piece.sequence for piece in pieces]
    lengths_R = torch.tensor([sequence.computed + behind for sequence in sequences])
    none_R = torch.full((len(pieces),), -1)
    return Step(
        tokens_N=torch.tensor([piece.drafts[-1] for piece in pieces]),
        positions_N=lengths_R,
        cu_seqlens=torch.arange(len(pieces) + 1, dtype=torch.int32),
        lengths_R=lengths_R,
        tables_RM=torch.from_numpy(tables[[s.state for s in sequences], : max(len(s.blocks) for s in sequences)]),
        states_R=none_R if copies is None else torch.tensor([copies + s.state for s in sequences]),
        rows=torch.arange(len(pieces)),
        adapters_R=none_R,
    )


def check_speculation(
    spec: NgramSpec | DraftSpec | MtpSpec,
    model: ModelConfig,
    vocab_size: int,
    tokenizer: Tokenizer | None,
    draft: tuple[Transformer, Tokenizer | None] | None,
) -> None:
    """Raise ConfigError, one sentence, for speculation that a model can't have."""
    if isinstance(spec, NgramSpec):
        return
    if isinstance(spec, MtpSpec):
        if not model.mtp_layers:
            raise ConfigError(
                f"speculation by mtp needs a multi-token-prediction head, and this {model.model_type} has none (no "
                "tensors mtp.*): speculate by ngram or a smaller model"
            )
        return
    if draft is None:
        raise ConfigError(f"speculation by the model {spec.model} needs that model: give the engine its draft")
    other, its_tokenizer = draft
    same = other.config.vocab_size >= vocab_size
    if same and tokenizer is not None and its_tokenizer is not None:
        same = its_tokenizer.specials == tokenizer.specials and its_tokenizer.vocab_size == tokenizer.vocab_size
        same = same and all(its_tokenizer.token_bytes(i) == tokenizer.token_bytes(i) for i in range(vocab_size))
    if not same:
        raise ConfigError(f"{spec.model} has another tokenizer than the model: a draft model must have the same")
    if other.config.max_position_embeddings < model.max_position_embeddings:
        raise ConfigError(
            f"the context of {spec.model} is {other.config.max_position_embeddings}, shorter than the model's "
            f"{model.max_position_embeddings}: a draft model's must be at least as long"
        )

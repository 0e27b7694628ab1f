"""Which sequences a pass advances, and by how many tokens: continuous batching with chunked prefill.

Pure logic over `blocks.py`. In each pass every sequence that has only its last token left to compute gets it; what is
left of the budget goes to prompts, the oldest first, in chunks (Sarathi-Serve, arXiv 2403.02310). When blocks run out
the youngest running sequence gives all of its own back and waits; later its tokens, generated ones too, are computed
again (or found in the cache). The oldest sequence always advances, so every one ends. Drafted tokens (speculate.py)
get what is left then.

A request's rank is the pass in which it came, `PATIENCE` passes earlier for each point of priority: priority goes
before age, but nobody waits for ever.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from qwill.engine.blocks import BlockPool, Parent

PATIENCE = 256


@dataclass(eq=False, slots=True)
class Sequence:
    """One sample of a request. `tokens` are its prompt and what was generated; `computed` of them are cached (or are
    being computed in this pass) in `blocks`, `state` being the slot of its recurrent state.

    `namespace`: only sequences of the same one share. `adapter`: the number of its adapter, −1: none. `reuse`: whether
    it may start from what is cached; `reusable`: from how many tokens of it at most. `chunk`: most tokens of one pass.
    `cached`: how many tokens were found in the cache when it first started. `placed` is for whoever makes passes: how
    many of its blocks it has noted.
    """

    request: str
    sample: int
    tokens: list[int]
    namespace: str = ""
    adapter: int = -1
    reuse: bool = True
    reusable: int = 1 << 62
    chunk: int | None = None
    rank: tuple[int, int] = (0, 0)
    prompt: int = 0
    computed: int = 0
    cached: int | None = None
    blocks: list[int] = field(default_factory=list)
    state: int = -1
    placed: int = 0
    wanted: int = 0  # drafted tokens that it would have computed behind its last one
    behind: int = 0  # tokens before `computed` whose keys and values a draft model has yet to compute
    remembered: int = 0  # its first blocks that were given to the pool to remember, the last one being `parent`
    parent: Parent = ""
    trail: Parent = ""  # the block that carries the latest snapshot made while it generated


@dataclass(slots=True)
class Piece:
    """The tokens from `start` on that a pass computes of a sequence; `source` is the slot of the snapshot that its
    state has to be copied from before, −1: none. Behind its last token there is room for `ahead` drafted ones,
    `drafts`, which don't count as computed."""

    sequence: Sequence
    start: int
    count: int
    source: int = -1
    ahead: int = 0
    drafts: list[int] = field(default_factory=list)


class Scheduler:
    """At most `max_running` sequences hold blocks and at most `token_budget` tokens are computed in a pass."""

    def __init__(self, pool: BlockPool, max_running: int, token_budget: int, share: bool = True) -> None:
        """`token_budget` is at least `max_running`; `share` False switches the sharing of prefixes off."""
        self.pool, self.max_running, self.token_budget, self.share = pool, max_running, token_budget, share
        self.running: list[Sequence] = []  # by rank
        self.waiting: list[Sequence] = []  # by rank
        self.states = list(range(max_running))[::-1]
        self.passes = self.arrivals = self.preemptions = 0

    def add(self, sequence: Sequence, priority: int = 0) -> None:
        self.arrivals += 1
        sequence.rank = (self.passes - PATIENCE * priority, self.arrivals)
        sequence.prompt, sequence.parent = len(sequence.tokens), sequence.namespace
        insort(self.waiting, sequence, key=_rank)

    def schedule(self) -> list[Piece]:
        """The next pass. What it names counts as computed."""
        self.passes += 1
        before, budget, size = self.preemptions, self.token_budget, self.pool.block_size
        pieces: dict[Sequence, Piece] = {}
        prompts: list[Sequence] = []
        for sequence in list(self.running):
            start, left = sequence.computed, len(sequence.tokens) - sequence.computed
            if left > 1:
                prompts.append(sequence)
            elif not left or not sequence.blocks:  # it was just preempted
                continue
            elif start < len(sequence.blocks) * size or self._make_room(sequence, 1, pieces):
                pieces[sequence] = Piece(sequence, start, 1)
                budget -= 1
        for sequence in prompts:
            count = self._count(sequence, budget)
            if count and sequence.blocks and self._make_room(sequence, count, pieces):
                pieces[sequence] = Piece(sequence, sequence.computed, count)
                budget -= count
        for piece in pieces.values():
            self._advance(piece)
        while self.waiting and budget and self.preemptions == before and len(self.running) < self.max_running:
            started = self._start(self.waiting[0], budget)
            if started is None:
                break
            pieces[started.sequence] = started
            budget -= started.count
        for piece in pieces.values():
            if piece.sequence.wanted and budget:
                budget -= self._room_ahead(piece, budget)
        return list(pieces.values())

    def _room_ahead(self, piece: Piece, budget: int) -> int:
        """Room for drafted tokens, of what nobody else needs in this pass."""
        sequence, pool = piece.sequence, self.pool
        blocks = len(sequence.blocks) + max(0, pool.free - len(self.running))
        piece.ahead = min(sequence.wanted, budget, blocks * pool.block_size - sequence.computed)
        sequence.blocks += pool.take(max(0, pool.needed(sequence.computed + piece.ahead) - len(sequence.blocks)))
        return piece.ahead

    def _count(self, sequence: Sequence, budget: int) -> int:
        end = sequence.computed + min(budget, len(sequence.tokens) - sequence.computed, sequence.chunk or budget)
        if self.pool.has_states:
            # A snapshot can be taken where a pass ends, and is of use at a border before the last token.
            size = self.pool.block_size
            last = (len(sequence.tokens) - 1) // size * size
            border = last if end > last else end // size * size
            end = border if border > sequence.computed else end
        return end - sequence.computed

    def _make_room(self, sequence: Sequence, count: int, pieces: dict[Sequence, Piece]) -> bool:
        """Give the sequence blocks for `count` more tokens, taking them from younger ones if there is no other way;
        False if it was itself the youngest, and waits now."""
        missing = self.pool.needed(sequence.computed + count) - len(sequence.blocks)
        while missing > self.pool.free:
            victim = self.running[-1]
            pieces.pop(victim, None)
            self.restart(victim)
            if victim is sequence:
                return False
        sequence.blocks += self.pool.take(missing)
        return True

    def restart(self, victim: Sequence) -> None:
        """Take a running sequence's blocks away; it waits, and its tokens will be computed again."""
        self._give_back(victim)
        self.running.remove(victim)
        insort(self.waiting, victim, key=_rank)
        self.preemptions += 1

    def _start(self, sequence: Sequence, budget: int) -> Piece | None:
        """Start a waiting sequence if its tokens have room beside those that run."""
        pool, reuse = self.pool, self.share and sequence.reuse
        most = min(len(sequence.tokens) - 1, sequence.reusable) // pool.block_size
        shared = pool.match(sequence.namespace, sequence.tokens, most) if reuse else []
        pool.share(shared)
        # A block for each one that runs stays free, so that starting this one doesn't soon stop another.
        if pool.needed(len(sequence.tokens)) - len(shared) + len(self.running) > pool.free:
            pool.release(shared)
            return None
        self.waiting.pop(0)
        insort(self.running, sequence, key=_rank)
        sequence.blocks, sequence.state = shared, self.states.pop()
        sequence.computed = len(shared) * pool.block_size
        if sequence.cached is None:
            sequence.cached = sequence.computed
        for i in range(len(shared)):
            self._remember(sequence, i)
        source = pool.state_of(shared[-1]) if shared and pool.has_states else -1
        count = self._count(sequence, budget)
        sequence.blocks += pool.take(pool.needed(sequence.computed + count) - len(shared))
        piece = Piece(sequence, sequence.computed, count, source)
        self._advance(piece)
        return piece

    def _advance(self, piece: Piece) -> None:
        """Count the piece as computed; others may share its full blocks from now on, even in this pass."""
        sequence = piece.sequence
        sequence.computed = piece.start + piece.count
        full = sequence.computed // self.pool.block_size
        if self.share and full > sequence.remembered:
            for i in range(sequence.remembered, full):
                self._remember(sequence, i)

    def _remember(self, sequence: Sequence, i: int) -> None:
        size = self.pool.block_size
        tokens = sequence.tokens[i * size : (i + 1) * size]
        sequence.parent = self.pool.remember(sequence.blocks[i], sequence.parent, tokens, sequence.namespace)
        sequence.remembered = i + 1

    def snapshots(self, pieces: Items[Piece]) -> dict[int, int]:
        """After a pass: snapshot slots and the states to copy into them, so that the states at block borders can be
        shared. While a sequence generates only its latest one is kept."""
        copies: dict[int, int] = {}  # by target: with few slots the last one may replace the first
        for sequence in (piece.sequence for piece in pieces if self.share and self.pool.has_states):
            if not sequence.blocks or sequence.computed % self.pool.block_size:
                continue
            slot = self.pool.snapshot(sequence.parent)
            if slot is not None:
                copies[slot] = sequence.state
                if sequence.computed > sequence.prompt:
                    self.pool.drop_snapshot(sequence.trail)
                    sequence.trail = sequence.parent
        return copies

    def fork(self, first: Sequence, other: Sequence) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Let `other` go on from where `first` is, all of whose tokens are computed; (source, target) of blocks and of
        states to copy at once. Full blocks are shared. Without room for it `other` waits like any sequence."""
        pool, full = self.pool, first.computed // self.pool.block_size
        other.rank, other.prompt, other.parent, other.cached = first.rank, first.prompt, other.namespace, first.cached
        rest = len(first.blocks) - full
        if len(self.running) == self.max_running or rest > pool.free:
            insort(self.waiting, other, key=_rank)
            return [], []
        pool.share(first.blocks[:full])
        other.blocks = first.blocks[:full] + pool.take(rest)
        other.state, other.computed = self.states.pop(), first.computed
        other.remembered, other.parent = first.remembered, first.parent
        insort(self.running, other, key=_rank)
        return list(zip(first.blocks[full:], other.blocks[full:], strict=True)), [(first.state, other.state)]

    def finish(self, sequence: Sequence) -> None:
        """The sequence has ended, wherever it is: what it held is free."""
        if sequence.blocks:
            self._give_back(sequence)
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def _give_back(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        self.states.append(sequence.state)
        sequence.blocks, sequence.state, sequence.computed, sequence.placed = [], -1, 0, 0
        sequence.wanted = sequence.behind = 0
        sequence.remembered, sequence.parent = 0, sequence.namespace


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank

"""The block pool and the scheduler without a model: a memory that only notes what is written where stands for it."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qwill.engine.blocks import BlockPool
from qwill.engine.scheduler import PATIENCE, Scheduler, Sequence

ALPHABET = 3  # few tokens, so that prefixes are often the same


class Memory:
    """What an executor would have cached: in each place (namespace, whole prefix), in each state slot the same."""

    def __init__(self, size):
        self.size, self.places, self.states = size, {}, {}

    def run(self, pieces):
        for piece in pieces:
            if piece.source >= 0:
                self.states[piece.sequence.state] = self.states[piece.source]
        for piece in pieces:
            s = piece.sequence
            for t in range(piece.start, piece.start + piece.count):
                self.places[s.blocks[t // self.size], t % self.size] = (s.namespace, tuple(s.tokens[: t + 1]))
            before = self.states.get(s.state) if piece.start else (s.namespace, ())
            assert before == (s.namespace, tuple(s.tokens[: piece.start])) or not self.hybrid
            self.states[s.state] = (s.namespace, tuple(s.tokens[: piece.start + piece.count]))
        for piece in pieces:
            s = piece.sequence
            for t in range(piece.start + piece.count):
                assert self.places[s.blocks[t // self.size], t % self.size] == (s.namespace, tuple(s.tokens[: t + 1]))

    hybrid = True


class Engine(RuleBasedStateMachine):
    """Random arrivals, samples, cancels and passes over a small pool."""

    @initialize(
        size=st.integers(1, 4), blocks=st.integers(6, 14), running=st.integers(1, 5), extra=st.integers(0, 9),
        snapshots=st.sampled_from([0, 1, 3]), share=st.booleans(),
    )  # fmt: skip
    def begin(self, size, blocks, running, extra, snapshots, share):
        self.pool = BlockPool(blocks, size, snapshots, running)
        self.scheduler = Scheduler(self.pool, running, running + extra, share)
        self.memory, self.number, self.ended = Memory(size), 0, Counter()
        self.memory.hybrid = snapshots > 0
        self.longest = blocks * size
        self.requests = {}  # name → (samples wanted, final length, all sequences, expected tokens of each)

    def next_token(self, sequence):
        return (sum(sequence.tokens) * 7 + len(sequence.tokens) + sequence.sample) % ALPHABET

    @rule(data=st.data(), n=st.sampled_from([1, 1, 1, 2, 4]), priority=st.sampled_from([0, 0, 0, 1, -2]))
    def arrive(self, data, n, priority):
        prompt = data.draw(st.lists(st.integers(0, ALPHABET - 1), min_size=1, max_size=self.longest - 1))
        length = data.draw(st.integers(len(prompt) + 1, self.longest))
        name, self.number = str(self.number), self.number + 1
        namespace, reuse = data.draw(st.sampled_from(["", "", "other"])), data.draw(st.integers(0, 4)) > 0
        chunk = data.draw(st.sampled_from([None, None, 2]))
        first = Sequence(name, 0, list(prompt), namespace, reuse, chunk)
        self.requests[name] = (n, length, [first], [list(prompt)])
        self.scheduler.add(first, priority)

    @rule(data=st.data())
    @precondition(lambda self: self.requests)
    def cancel(self, data):
        name = data.draw(st.sampled_from(sorted(self.requests)))
        for sequence in self.requests.pop(name)[2]:
            self.scheduler.finish(sequence)
            assert not sequence.blocks and sequence.state == -1

    @rule(times=st.integers(1, 4))
    def passes(self, times):
        for _ in range(times):
            self.one_pass()

    def one_pass(self):
        alive = [s for r in self.requests.values() for s in r[2] if self.alive(s)]
        oldest = min(alive, key=lambda s: s.rank, default=None)
        before = (len(oldest.tokens), oldest.computed) if oldest else None
        pieces = self.scheduler.schedule()
        assert sum(p.count for p in pieces) <= self.scheduler.token_budget
        assert len({id(p.sequence) for p in pieces}) == len(pieces) <= self.scheduler.max_running
        for piece in pieces:
            assert piece.count >= 1 and piece.start + piece.count == piece.sequence.computed
            assert piece.sequence.computed <= len(piece.sequence.tokens)
            assert piece.sequence.chunk is None or piece.count <= piece.sequence.chunk
        self.memory.run(pieces)
        copies = self.scheduler.snapshots(pieces)
        for target, source in copies.items():
            self.memory.states[target] = self.memory.states[source]
        for piece in pieces:
            if piece.sequence.computed == len(piece.sequence.tokens):
                self.sample(piece.sequence)
        if oldest is not None and self.alive(oldest) and any(p.sequence is oldest for p in pieces):
            assert (len(oldest.tokens), oldest.computed) != before

    def alive(self, sequence):
        return sequence in self.scheduler.running or sequence in self.scheduler.waiting

    def sample(self, sequence):
        n, length, sequences, expected = self.requests[sequence.request]
        if len(sequences) < n:
            for i in range(1, n):
                other = Sequence(sequence.request, i, list(sequence.tokens), sequence.namespace, sequence.reuse)
                sequences.append(other)
                expected.append(list(sequence.tokens))
                blocks, states = self.scheduler.fork(sequence, other)
                for source, target in blocks:
                    for t in range(self.pool.block_size):
                        if (source, t) in self.memory.places:
                            self.memory.places[target, t] = self.memory.places[source, t]
                for source, target in states:
                    self.memory.states[target] = self.memory.states[source]
            grown = sequences
        else:
            grown = [sequence]
        for s in list(grown):
            token = self.next_token(s)
            s.tokens.append(token)
            expected[s.sample].append(token)
            if len(s.tokens) == length:
                self.scheduler.finish(s)
                assert s.tokens == expected[s.sample]
                self.ended[s.request] += 1
                if self.ended[s.request] == n:
                    del self.requests[s.request]

    @invariant()
    def books_are_right(self):
        if not hasattr(self, "pool"):
            return
        pool, running = self.pool, self.scheduler.running
        held = Counter(b for s in running for b in s.blocks)
        assert pool.references == [held[b] for b in range(pool.blocks)]
        assert set(pool._free) == {b for b in range(pool.blocks) if not held[b]}
        assert len(running) <= self.scheduler.max_running
        states = [s.state for s in running] + self.scheduler.states
        assert sorted(states) == list(range(self.scheduler.max_running))
        assert sorted([*pool._slots, *pool._snapshots.values()]) == list(
            range(self.scheduler.max_running, self.scheduler.max_running + len(pool._slots) + len(pool._snapshots))
        )
        assert all(not s.blocks and s.state == -1 and not s.computed for s in self.scheduler.waiting)
        assert set(pool._known.values()) == set(pool._memory) == set(pool._by_serial.values())
        assert set(pool._snapshots) <= set(pool._memory)
        for r in self.requests.values():
            for s, expected in zip(r[2], r[3], strict=True):
                assert s.tokens == expected, "preemption lost a token"

    def teardown(self):
        if not hasattr(self, "pool"):
            return
        work = sum(n * length * 3 for n, length, _, _ in self.requests.values())
        for _ in range(work + 10):
            if not self.requests:
                break
            self.one_pass()
            self.books_are_right()
        assert not self.requests, "a request never ends"
        assert not self.scheduler.running and not self.scheduler.waiting
        assert self.pool.free == self.pool.blocks and not any(self.pool.references)


TestEngine = Engine.TestCase
TestEngine.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)


def pool_of(blocks=8, size=2, **more):
    return BlockPool(blocks, size, **more)


def drain(scheduler, passes=1):
    out = []
    for _ in range(passes):
        pieces = scheduler.schedule()
        for piece in pieces:
            if piece.sequence.computed == len(piece.sequence.tokens):
                piece.sequence.tokens.append(1)
        out.append([(p.sequence.request, p.start, p.count) for p in pieces])
    return out


def test_a_prefix_is_found_only_under_the_same_tokens_parents_and_namespace():
    pool = pool_of()
    blocks = pool.take(3)
    parent = pool.remember(blocks[0], "a", [1, 2], "a")
    parent = pool.remember(blocks[1], parent, [3, 4], "a")
    assert pool.match("a", [1, 2, 3, 4, 5], 2) == blocks[:2]
    assert pool.match("a", [1, 2, 3, 4, 5], 1) == blocks[:1]
    assert pool.match("b", [1, 2, 3, 4], 2) == [] == pool.match("a", [3, 4, 1, 2], 2)
    assert pool.match("a", [1, 2, 3, 5], 2) == blocks[:1]
    pool.release(blocks)
    pool.forget(namespace="b")
    assert pool.remembered == 2
    pool.forget(namespace="a")
    assert pool.match("a", [1, 2, 3, 4], 2) == [] and pool.remembered == 0


def test_tokens_with_equal_hashes_are_not_taken_for_each_other():
    pool = pool_of()
    blocks = pool.take(1)
    assert hash((-1, 5)) == hash((-2, 5))  # CPython gives −1 and −2 one hash
    pool.remember(blocks[0], "", [-1, 5], "")
    assert pool.match("", [-2, 5], 1) == [] and pool.match("", [-1, 5], 1) == blocks


def test_the_longest_unused_and_the_end_of_a_sequence_are_forgotten_first():
    pool = pool_of(blocks=5)
    first, second = pool.take(2), pool.take(2)
    for blocks, token in ((first, 1), (second, 2)):
        parent = ""
        for block in blocks:
            parent = pool.remember(block, parent, [token, token], "")
    pool.release(second)
    pool.release(first)
    assert pool.take(1) == [4]  # never used: nothing is forgotten for it
    assert pool.take(1) == [second[1]]
    assert pool.match("", [2, 2, 2, 2], 2) == second[:1]
    pool.share(second[:1])
    pool.release(second[:1])
    assert pool.take(1) == [first[1]]
    assert pool.take(2) == [first[0], second[0]]


def test_decodes_come_first_and_a_prompt_gets_what_is_left_in_chunks():
    scheduler = Scheduler(pool_of(blocks=40), 4, 6)
    scheduler.add(Sequence("a", 0, [1] * 3))
    assert drain(scheduler) == [[("a", 0, 3)]]
    scheduler.add(Sequence("b", 0, [2] * 12))
    scheduler.add(Sequence("c", 0, [3] * 2))
    assert drain(scheduler, 3) == [
        [("a", 3, 1), ("b", 0, 5)],
        [("a", 4, 1), ("b", 5, 5)],
        [("a", 5, 1), ("b", 10, 2), ("c", 0, 2)],
    ]


def test_a_more_urgent_prompt_does_not_take_the_token_of_one_that_generates():
    scheduler = Scheduler(pool_of(blocks=40), 4, 4)
    scheduler.add(Sequence("a", 0, [1] * 3))
    drain(scheduler)
    scheduler.add(Sequence("urgent", 0, [2] * 9), priority=1)
    assert drain(scheduler, 2) == [[("a", 3, 1), ("urgent", 0, 3)], [("a", 4, 1), ("urgent", 3, 3)]]


def test_the_last_of_two_states_gets_the_only_slot():
    scheduler = Scheduler(pool_of(snapshots=1, first_slot=2), 2, 40)
    for token in (1, 2):
        scheduler.add(Sequence(str(token), 0, [token] * 3))
    pieces = scheduler.schedule()
    assert [p.count for p in pieces] == [2, 2]
    assert scheduler.snapshots(pieces) == {2: pieces[1].sequence.state}
    assert scheduler.pool.match("", [2, 2, 2], 1) and not scheduler.pool.match("", [1, 1, 1], 1)


def test_equal_prompts_that_come_together_are_computed_once():
    scheduler = Scheduler(pool_of(blocks=40), 8, 100)
    for name in "abc":
        scheduler.add(Sequence(name, 0, [1, 2, 3, 4, 5]))
    assert drain(scheduler) == [[("a", 0, 5), ("b", 4, 1), ("c", 4, 1)]]
    assert [s.cached for s in scheduler.running] == [0, 4, 4]


def test_the_youngest_gives_way_and_later_computes_only_what_was_forgotten():
    scheduler = Scheduler(pool_of(blocks=6), 3, 50)
    old, young = Sequence("old", 0, [1] * 4), Sequence("young", 0, [2] * 4)
    scheduler.add(old)
    scheduler.add(young)
    drain(scheduler, 3)
    assert len(old.tokens) == len(young.tokens) == 7 and scheduler.pool.free == 0
    assert drain(scheduler) == [[("old", 6, 1)]]
    assert scheduler.preemptions == 1 and scheduler.waiting == [young] and young.tokens == [2] * 4 + [1] * 3
    scheduler.finish(old)
    assert drain(scheduler) == [[("young", 4, 3)]]  # its last block had been taken


@pytest.mark.parametrize(("wait", "first"), [(0, "urgent"), (PATIENCE - 1, "urgent"), (PATIENCE + 1, "patient")])
def test_priority_goes_before_age_but_not_for_ever(wait, first):
    scheduler = Scheduler(pool_of(blocks=40), 1, 10)
    scheduler.add(Sequence("patient", 0, [1]))
    scheduler.passes += wait
    scheduler.add(Sequence("urgent", 0, [1]), priority=1)
    assert scheduler.schedule()[0].sequence.request == first


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 4))
def test_every_running_sequence_gets_its_token_in_each_pass(lengths, running):
    """However many prompts arrive, those that generate never wait for them."""
    scheduler = Scheduler(pool_of(blocks=400), running, running)
    for i, length in enumerate(lengths):
        scheduler.add(Sequence(str(i), 0, list(range(100 * i, 100 * i + length))))
    for _ in range(20):
        decoding = {s.request for s in scheduler.running if len(s.tokens) - s.computed == 1}
        assert decoding <= {name for name, _, _ in drain(scheduler)[0]}

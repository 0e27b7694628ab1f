"""Constrained draws: the quick way, a draw among all tokens that is checked and repeated, has the mask's law."""

import json

import numpy as np
import pytest
import torch
from guided_sampling import allowed, draw
from hypothesis import given, settings
from hypothesis import strategies as st
from random_schemas import random_schema
from scipy import stats
from test_constrain import MERGED
from tiny import byte_tokenizer

from qwill.base.errors import DataError
from qwill.engine.choose import AGAIN, DRAWS, FIRST, choose, randoms
from qwill.engine.constraint import Constraint, check
from qwill.engine.randomness import uniforms
from qwill.engine.replies import Running
from qwill.engine.request import Request
from qwill.engine.sampler import Sampling, sample
from qwill.engine.scheduler import Sequence
from qwill.model import ops

pytest.importorskip("llguidance")
from qwill.engine.constrain import Guide

TOKENIZER = byte_tokenizer()
STOPS = frozenset(TOKENIZER.stop_ids)
VOCAB = TOKENIZER.vocab_size


def replies(count, constraint, sampling, **rest):
    made = []
    for i in range(count):
        request = Request(str(i), [1], sampling, seed=i, stop_ids=STOPS, constraint=constraint, **rest)
        made.append(Running(request, 9, TOKENIZER).start(Sequence(str(i), 0, [1])))
    return made


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 3000), thinking=st.sampled_from(["none", "open", "allowed"]), data=st.data())
@pytest.mark.parametrize("tokenizer", [TOKENIZER, MERGED], ids=["bytes", "merged"])
def test_a_token_is_allowed_if_its_bit_is_set(tokenizer, seed, thinking, data):
    """Where text is forced, only the tokens that it is usually made of are allowed."""
    constraint = Constraint("json_schema", json.dumps(random_schema(seed)), thinking)
    try:
        check(constraint)
    except DataError:
        return
    ids, _ = draw(tokenizer, constraint, seed, 40)
    guide = Guide(tokenizer, constraint)
    stop = data.draw(st.integers(0, len(ids)))
    for token in ids[:stop]:
        guide.accept(token)
    parsed = guide.copy()
    parsed._next = None  # the parser's own mask, also where the guide knows what is forced
    may = set(allowed(parsed.mask()).tolist())
    assert [i for i in range(-1, tokenizer.vocab_size + 3) if guide.copy().take(i)] == sorted(may)
    assert set(allowed(guide.mask()).tolist()) == may
    taken, token = guide.copy(), data.draw(st.sampled_from(sorted(may)))
    refused = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1).filter(lambda i: i not in may), max_size=3))
    assert not any(taken.take(i) for i in refused) and taken.take(token)
    other = data.draw(st.sampled_from(sorted(may)))  # what comes in the end need not be what was asked for
    for one in (taken, guide):
        one.accept(other)
    assert taken.finished == guide.finished and taken.forced() == guide.forced()
    assert taken.mask().tolist() == guide.mask().tolist()


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_checked_draws_have_the_law_of_masked_ones(temperature):
    """Of 26 likely tokens 6 may come, and then one that alone is very unlikely."""
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0))
    logits[0, 97:123] += 5
    for pattern, letters in (("[a-f]", "abcdef"), ("[0-9a]", "0123456789a")):
        group = replies(6000, Constraint("regex", pattern), Sampling(temperature=temperature))
        assert group[0].edited == "checked"
        (part, _, drawn), *rest = choose(group, [0] * len(group), logits, VOCAB)
        assert len(part) == len(group) and not rest
        ids = list(map(ord, letters))
        law = (logits[0, ids].double() / temperature).softmax(0).numpy()
        counts = np.bincount(drawn.tokens_B.numpy(), minlength=VOCAB)
        assert counts.sum() == counts[ids].sum()
        assert stats.chisquare(counts[ids], law * len(group)).pvalue > 1e-3
        full = (logits[0].double() / temperature).log_softmax(0)[drawn.tokens_B]
        torch.testing.assert_close(drawn.logprobs_B.double(), full, atol=1e-5, rtol=0)


def test_greedy_and_masked_ways_agree_and_settings_choose_between_them():
    logits = torch.randn(40, VOCAB, generator=torch.Generator().manual_seed(3)) * 3
    constraint = Constraint("regex", "[a-z ]+")
    for sampling, rest, kind in (
        (Sampling(temperature=0), {}, "checked"), (Sampling(temperature=0, top_k=3), {}, "checked"),
        (Sampling(temperature=0), {"logprobs": 1}, "masked"), (Sampling(top_p=0.9), {}, "masked"),
        (Sampling(), {"logprobs": 0}, "masked"), (Sampling(temperature=0, presence_penalty=0.1), {}, "edited"),
        (Sampling(temperature=0, min_tokens=2), {}, "edited"),
    ):  # fmt: skip
        group = replies(40, constraint, sampling, **rest)
        assert {reply.edited for reply in group} == {kind}
        ((_, _, drawn),) = choose(group, range(40), logits, VOCAB)
        letters = [32, *range(97, 123)]
        if sampling.temperature == 0:
            assert drawn.tokens_B.tolist() == [letters[i] for i in logits[:, letters].argmax(1).tolist()]
        assert set(drawn.tokens_B.tolist()) <= set(letters)


def test_a_constraint_that_fails_is_one_replys_own_matter():
    group = replies(3, Constraint("regex", "[a-z ]+"), Sampling(temperature=0, top_k=3), logprobs=0)
    broken = group[1].guide
    assert not broken._matcher.consume_token(ord("0"))  # the matcher is in its error state now
    list(choose(group, [0, 0, 0], torch.zeros(1, VOCAB), VOCAB))
    assert [bool(reply.failure) for reply in group] == [False, True, False]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("spare", [0, 90])
def test_checked_draws_are_those_of_the_definition(native, temperature, spare):
    """Drawn among all with a stream's first number; where that may not come, under the mask with another: the same
    tokens and log-probabilities to the last bit, whoever else is refused."""
    ops.use_native(native)
    try:
        generator = torch.Generator().manual_seed(spare)
        logits = torch.randn(30, VOCAB + spare, generator=generator) * 2
        sampling = Sampling(temperature=temperature)
        letters, most = Constraint("regex", "[a-z ]+"), Constraint("regex", "[^a]")
        group = [*replies(15, letters, sampling), *replies(15, most, sampling)]
        rows = torch.randperm(30, generator=generator).tolist()
        numbers = [randoms(group, purpose) for purpose in (FIRST, AGAIN)]
        masks = torch.from_numpy(np.stack([reply.guide.mask() for reply in group]))
        first = sample(logits[rows], numbers[0], sampling, VOCAB)
        again = sample(logits[rows], numbers[1], sampling, VOCAB, None, masks)
        asked = zip(group, first.tokens_B.tolist(), strict=True)
        may = torch.tensor([reply.guide.copy().take(t) for reply, t in asked])
        assert 5 < int(may.sum()) < 25
        ((part, own_BV, drawn),) = choose(group, rows, logits, VOCAB)
        assert part == group and torch.equal(own_BV, logits[rows])
        for name in ("tokens_B", "logprobs_B", "sampled_logprobs_B"):
            assert torch.equal(getattr(drawn, name), torch.where(may, getattr(first, name), getattr(again, name))), name
    finally:
        ops.use_native(True)


def uniform(reply, purpose, place=0):
    request = reply.running.request
    return float(uniforms(request.seed, request.stream, reply.sequence.sample, place, purpose))


def test_a_replys_random_numbers_are_its_own_in_every_order():
    group = [*replies(3, Constraint("regex", "[a-z ]+"), Sampling()), *replies(2, None, Sampling())]
    for produced in ([0, 5, 63, 64, 200], [DRAWS, 7, 64, 64, 201], [1, 8, 65, 2 * DRAWS, 0]):
        for reply, place in zip(group, produced, strict=True):
            reply.produced = place
        for part, purpose in ((group[1:2], AGAIN), (group, FIRST), (group, AGAIN), (group[::-1], FIRST)):
            assert randoms(part, purpose).tolist() == [uniform(r, purpose, r.produced) for r in part]
        assert randoms(group, AGAIN, 3).tolist() == [uniform(r, AGAIN, r.produced + 3) for r in group]

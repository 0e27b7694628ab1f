"""Ratings that follow each vote: never away from a refit of all votes so far."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.evaluate import arena_online
from qwill.evaluate.arena import POINTS, fit_ratings
from qwill.evaluate.arena_online import SETTLED, add_model, add_vote, live_ratings, ratings_now, start_ratings

NEAR = 2 * POINTS * SETTLED  # rating points


def drawn_votes(seed, models, count, spread=1.0):
    rng = np.random.default_rng(seed)
    strength = rng.normal(0, spread, models)
    for _ in range(count):
        a, b = rng.choice(models, 2, replace=False)
        chance = 1 / (1 + np.exp(strength[b] - strength[a]))
        outcome = 0.5 if rng.random() < 0.2 else float(rng.random() < chance)
        yield f"m{a:02}", f"m{b:02}", outcome


def assert_near_a_refit(state, votes, prior):
    found, refit = ratings_now(state), fit_ratings(*zip(*votes, strict=True), prior=prior)
    assert [m for m in found.models if m in refit.models] == refit.models
    if found.models == refit.models:
        assert np.abs(found.rating - refit.rating).max() < NEAR
        assert np.abs(found.stderr - refit.stderr).max() < NEAR
        assert found.separated == refit.separated and found.groups == refit.groups


@pytest.mark.parametrize(("models", "prior", "spread"), [(3, 0.1, 1.0), (8, 0.1, 3.0), (20, 0.01, 1.0)])
def test_each_vote_leaves_the_refit_of_all_votes(models, prior, spread):
    votes = list(drawn_votes(models, models, 400, spread))
    state = start_ratings([f"m{i:02}" for i in range(models)], prior)
    for n, vote in enumerate(votes, 1):
        state = add_vote(state, *vote)
        if n % 25 == 0:
            assert_near_a_refit(state, votes[:n], prior)


def test_most_votes_cost_one_step(monkeypatch):
    votes = list(drawn_votes(1, 20, 3000))
    state = live_ratings(*zip(*votes[:1000], strict=True))
    settled, calls = arena_online._settled, []
    monkeypatch.setattr(arena_online, "_settled", lambda state: calls.append(1) or settled(state))
    for vote in votes[1000:]:
        state = add_vote(state, *vote)
    assert_near_a_refit(state, votes, 0.1)
    assert len(calls) < 200  # of 2,000


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.permutations("abcd"), st.sampled_from([0.0, 0.3, 0.5, 1.0])), min_size=1, max_size=30))
def test_the_order_of_votes_and_the_way_they_came_do_not_matter(drawn):
    votes = [(order[0], order[1], outcome) for order, outcome in drawn]
    one = start_ratings("abcd")
    for vote in votes:
        one = add_vote(one, *vote)
    other = start_ratings("abcd")
    for a, b, outcome in reversed(votes):
        other = add_vote(other, b, a, 1 - outcome)
    at_once = live_ratings(*zip(*votes, strict=True), models="abcd")
    for state in (other, at_once):
        assert np.abs(one.strength - state.strength).max() < 2 * SETTLED
        np.testing.assert_allclose(one.met, state.met)
        np.testing.assert_allclose(one.squares, state.squares, atol=1e-12)
    np.testing.assert_allclose(one.strength.sum(), 0, atol=1e-9)


def test_a_model_joins():
    votes = list(drawn_votes(3, 4, 200))
    state = add_model(live_ratings(*zip(*votes, strict=True)), "m00b")
    before = ratings_now(state)
    assert state.models == ["m00", "m00b", "m01", "m02", "m03"]
    assert before.stderr[1] == max(before.stderr)
    assert before.groups == [["m00", "m01", "m02", "m03"], ["m00b"]]
    more = [("m00b", "m01", 1.0), ("m03", "m00b", 0.5), ("m02", "m00b", 0.0)]
    for vote in more:
        state = add_vote(state, *vote)
    assert_near_a_refit(state, votes + more, 0.1)


def test_bad_votes_and_options_are_named():
    state = start_ratings(["x", "y"])
    for vote, words in (
        (("x", "z", 1), "a vote names 'z', which is not rated"),
        (("x", "x", 1), "of 'x' against itself"),
        (("x", "y", 2), "outcome is 2"),
        (("x", "y", float("nan")), "outcome is nan"),
    ):
        with pytest.raises(DataError, match=words):
            add_vote(state, *vote)
    with pytest.raises(DataError, match="at least two, each once"):
        start_ratings(["x"])
    with pytest.raises(DataError, match="at least two, each once"):
        start_ratings(["x", "x", "y"])
    with pytest.raises(DataError, match="prior=0"):
        start_ratings(["x", "y"], 0)
    with pytest.raises(DataError, match="'x' is rated already"):
        add_model(state, "x")

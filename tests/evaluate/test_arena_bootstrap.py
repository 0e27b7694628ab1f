"""Bootstrap intervals: equal to rating each draw alone, and to the sandwich where votes are many; clusters whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.evaluate import arena_bootstrap
from qwill.evaluate.arena import CENTRE, POINTS, fit_ratings, pair_weights
from qwill.evaluate.arena_bootstrap import bootstrap_ratings, fit_side_by_side


def drawn_votes(seed, models=5, votes=3000):
    rng = np.random.default_rng(seed)
    strength = np.linspace(-1, 1, models)
    a = rng.integers(0, models, votes)
    b = (a + rng.integers(1, models, votes)) % models
    chance = 1 / (1 + np.exp(strength[b] - strength[a]))
    y = np.where(rng.random(votes) < 0.2, 0.5, rng.random(votes) < chance)
    return [f"m{i}" for i in a], [f"m{i}" for i in b], y


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.2]))
def test_side_by_side_is_one_by_one(seed, prior):
    rng = np.random.default_rng(seed)
    a, b = np.triu_indices(4, 1)
    met = rng.integers(1, 9, (7, 6)).astype(float)
    won = met * rng.uniform(0.1, 0.9, (7, 6))
    found = fit_side_by_side(4, a, b, won, met, prior, np.zeros(4))
    for row in range(7):
        alone = fit_ratings(
            [f"m{i}" for i in a], [f"m{i}" for i in b], won[row] / met[row], weights=met[row], prior=prior
        )
        np.testing.assert_allclose(CENTRE + POINTS * found[row], alone.rating, atol=1e-6)


def test_sets_without_a_maximum_are_nan_and_the_others_are_not():
    a, b = np.triu_indices(4, 1)
    met = np.full((5, 6), 10.0)
    won = np.full((5, 6), 5.0)
    won[1, :3] = 10.0  # the first model won everything
    won[2, [2, 4, 5]] = 10.0  # the last lost everything
    met[3, [0, 1, 2]] = won[3, [0, 1, 2]] = 0.0  # the first met nobody
    won[4, 0], met[4, 0] = 1e5 - 1, 1e5  # far apart, but not for ever
    for start in (np.zeros(4), np.array([3.0, -1.0, -1.0, -1.0])):
        found = fit_side_by_side(4, a, b, won, met, 0.0, start)
        assert np.isnan(found).all(axis=1).tolist() == [False, True, True, True, False]
        assert np.isfinite(fit_side_by_side(4, a, b, won, met, 0.01, start)).all()


@pytest.mark.parametrize("kind", ["plain", "weights", "features", "weights and features", "clusters"])
def test_many_votes_give_the_sandwich(kind):
    a, b, y = drawn_votes(1)
    features = np.random.default_rng(2).normal(size=(len(a), 2)) if "features" in kind else None
    weights = pair_weights(a, b, 1) * np.linspace(0.1, 2, len(a)) ** 3 if "weights" in kind else None
    clusters = list(np.arange(len(a)) // 2) if kind == "clusters" else None
    options = {"resamples": 150 if "features" in kind else 2000}
    found = bootstrap_ratings(a, b, y, features, weights, clusters=clusters, **options)
    exact = fit_ratings(a, b, y, features, weights, clusters=clusters, hessian_ridge=0)
    np.testing.assert_array_equal(found.rating, exact.rating)
    np.testing.assert_array_equal(found.coefficients, exact.coefficients)
    tolerance = 4 / np.sqrt(2 * options["resamples"])
    np.testing.assert_allclose(found.stderr, exact.stderr, rtol=tolerance)
    np.testing.assert_allclose(found.upper - found.lower, exact.upper - exact.lower, rtol=1.5 * tolerance)
    assert list(found.rank) == list(exact.rank)


def test_votes_are_drawn_and_not_weights():
    # One vote of weight 100 among light ones: drawn as a vote it comes 0 to 4 times; spread over its weight it
    # would never be missed.
    a, b, y = ["x"] * 101, ["y"] * 101, [1.0] + [0.6, 0.4] * 50
    found = bootstrap_ratings(a, b, y, weights=[100.0] + [1.0] * 100, resamples=2000, prior=0.1)
    assert found.lower[0] < 1010 < 1080 < found.upper[0]


def test_copies_of_clusters_widen_what_copies_of_votes_would_not():
    a, b, y = drawn_votes(3, votes=400)
    a, b, y, voter = a * 4, b * 4, np.tile(y, 4), [f"v{i}" for i in range(400)] * 4
    once = bootstrap_ratings(a[:400], b[:400], y[:400], resamples=1000, seed=1)
    plain = bootstrap_ratings(a, b, y, resamples=1000, seed=1)
    order = np.random.default_rng(0).permutation(1600)
    shuffled = ([column[i] for i in order] for column in (a, b, y, voter))
    clustered = bootstrap_ratings(*(columns := list(shuffled))[:3], resamples=1000, seed=1, clusters=columns[3])
    np.testing.assert_allclose(plain.stderr, once.stderr / 2, rtol=0.12)
    np.testing.assert_allclose(clustered.stderr, once.stderr, rtol=0.12)


def test_the_same_seed_and_blocks_of_any_size_give_the_same(monkeypatch):
    a, b, y = drawn_votes(4, votes=500)
    one = bootstrap_ratings(a, b, y, resamples=40)
    monkeypatch.setattr(arena_bootstrap, "BLOCK", 60)
    two = bootstrap_ratings(a, b, y, resamples=40)
    np.testing.assert_allclose(one.lower, two.lower, atol=1e-9)
    assert (one.lower != bootstrap_ratings(a, b, y, resamples=40, seed=1).lower).any()


@pytest.mark.parametrize("features", [None, [[0.1], [0.2], [0.4], [-0.5]]])
def test_draws_without_finite_ratings_are_refused_unless_there_is_a_prior(features):
    votes = (["x", "x", "y", "x"], ["y", "y", "x", "y"], [1, 0, 0, 1])
    with pytest.raises(DataError, match=r"in \d+ of 60 resamples a model won or lost every vote"):
        bootstrap_ratings(*votes, features, resamples=60)
    found = bootstrap_ratings(*votes, features, resamples=60, prior=0.1)
    assert np.isfinite(found.lower).all() and found.prior == 0.1
    with pytest.raises(DataError, match="resamples=1"):
        bootstrap_ratings(*votes, features, resamples=1)

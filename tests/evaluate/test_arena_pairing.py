"""The choice of the next pair: what a vote is expected to tell, against the Hessian with it, and who is drawn."""

from dataclasses import replace

import numpy as np
import pytest

from qwill.base.errors import DataError
from qwill.evaluate.arena_online import LiveRatings, add_model, inverse_hessian, live_ratings, start_ratings
from qwill.evaluate.arena_pairing import next_pair, pair_gains


def votes_of(seed: int, models: int, votes: int, spread: float) -> LiveRatings:
    rng = np.random.default_rng(seed)
    strength = rng.normal(0, spread, models)
    a = rng.integers(0, models, votes)
    b = (a + rng.integers(1, models, votes)) % models
    y = rng.random(votes) < 1 / (1 + np.exp(strength[b] - strength[a]))
    return live_ratings([f"m{i}" for i in a], [f"m{i}" for i in b], y.astype(float))


def centred(matrix: np.ndarray) -> np.ndarray:
    level = np.eye(len(matrix)) - 1 / len(matrix)
    return level @ matrix @ level


def lowered(state: LiveRatings, power: float) -> np.ndarray:
    """What one vote between each pair takes from Σ variance^power, by inverting the Hessian with and without it."""
    before = np.sum(np.diag(centred(inverse_hessian(state))) ** power)
    gains = np.zeros_like(state.met)
    for i, j in zip(*np.triu_indices(len(gains), 1), strict=True):
        met = state.met.copy()
        met[i, j] = met[j, i] = met[i, j] + 1
        after = np.sum(np.diag(centred(inverse_hessian(replace(state, met=met)))) ** power)
        gains[i, j] = gains[j, i] = before - after
    return gains


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_variance_falls_by_just_what_is_said(seed):
    state = votes_of(seed, 6, 80, 1.5)
    np.testing.assert_allclose(pair_gains(state, 1), lowered(state, 1), rtol=1e-6, atol=1e-9)


def test_a_high_power_is_its_derivative():
    state = votes_of(0, 6, 20_000, 1.5)
    expected = lowered(state, 5)
    gains = pair_gains(state, 5)
    np.testing.assert_allclose(gains / gains.max(), expected / expected.max(), rtol=0.02, atol=1e-4)


def test_newcomers_and_close_pairs_come_first():
    state = add_model(votes_of(1, 6, 3000, 1.0), "new")
    for seed in range(20):
        pair = next_pair(state, np.random.default_rng(seed), explore=0)
        assert "new" in pair
    # Between three models with as many votes each, the two that are nearly as good tell most.
    even = start_ratings(["x", "y", "z"])
    even = replace(even, met=30 - 30 * np.eye(3), strength=np.array([1.3, 1.1, -2.4]))
    gains = pair_gains(replace(even, inverse=inverse_hessian(even)), 1)
    assert gains[0, 1] < gains[1, 2]  # but z is the one that nothing is known of
    assert np.allclose(gains, gains.T) and (np.diag(gains) == 0).all()


def test_draws_are_fair_and_among_those_who_can_answer():
    state, rng = start_ratings(["w", "x", "y", "z"]), np.random.default_rng(3)
    drawn = [next_pair(state, rng) for _ in range(2400)]
    counts = {pair: drawn.count(pair) for pair in set(drawn)}
    assert len(counts) == 12 and max(counts.values()) < 300 > min(counts.values()) > 130  # 200 each, σ = 13.5
    assert {frozenset(next_pair(state, rng, among=["x", "z"])) for _ in range(20)} == {frozenset("xz")}
    sure = add_model(votes_of(1, 6, 3000, 1.0), "new")
    mixed = [next_pair(sure, rng, explore=0.5) for _ in range(400)]
    assert 0.2 < np.mean(["new" not in pair for pair in mixed]) < 0.5
    with pytest.raises(DataError, match="1 of the rated models can answer"):
        next_pair(state, rng, among=["x", "other"])

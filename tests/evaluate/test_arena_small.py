"""Ratings without NumPy are those with it."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.evaluate.arena import fit_ratings, win_matrix
from qwill.evaluate.arena_small import MOST_MODELS, rate_small

PAIRS = st.permutations("abcde").map(lambda order: order[:2])
VOTES = st.lists(st.tuples(PAIRS, st.sampled_from([1.0, 0.5, 0.0, 0.3])), min_size=1, max_size=40)


@settings(deadline=None, max_examples=200)
@given(VOTES, st.floats(0.5, 0.999))
def test_equals_the_fit_or_is_none_where_that_refuses(drawn, confidence):
    a, b, y = zip(*[(pair[0], pair[1], outcome) for pair, outcome in drawn], strict=True)
    found = rate_small(a, b, y, confidence)
    try:
        fit = fit_ratings(a, b, y, confidence=confidence)
    except DataError:
        assert found is None
        return
    assert found.models == fit.models and found.rank == list(fit.rank)
    np.testing.assert_allclose(found.rating, fit.rating, atol=1e-6)
    # A variance of 0 is rounded to 1e-10 or so, and its root to 1e-5.
    for name in ("stderr", "lower", "upper"):
        np.testing.assert_allclose(getattr(found, name), getattr(fit, name), atol=1e-3)
    _, points, battles = win_matrix(a, b, y)
    np.testing.assert_allclose(found.points, points, atol=1e-12)
    assert found.battles == battles.tolist()


@pytest.mark.parametrize("models", [2, 20, MOST_MODELS])
def test_many_votes(models):
    rng = np.random.default_rng(models)
    strength = rng.normal(0, 1.5, models)
    a = rng.integers(0, models, 20_000)
    b = (a + rng.integers(1, models, len(a))) % models
    chance = 1 / (1 + np.exp(strength[b] - strength[a]))
    y = np.where(rng.random(len(a)) < 0.2, 0.5, rng.random(len(a)) < chance).tolist()
    names = [[f"m{i:02}" for i in side] for side in (a, b)]
    found, fit = rate_small(*names, y), fit_ratings(*names, y)
    for name in ("rating", "stderr", "lower", "upper"):
        np.testing.assert_allclose(getattr(found, name), getattr(fit, name), atol=1e-8)


def test_what_is_left_to_the_fit():
    ring = [f"m{i}" for i in range(MOST_MODELS + 1)]
    assert rate_small(ring, ring[1:] + ring[:1], [0.5] * len(ring)) is None
    assert rate_small(["a", "a"], ["b", "b"], [1.0, 1.0]) is None
    assert rate_small(["a", "c"], ["b", "d"], [0.5, 0.5]) is None
    assert rate_small(["a", "b"], ["b", "a"], [1.0, 1.0 - 1e-9]) is not None


def test_the_command_leaves_numpy_alone(tmp_path):
    votes = tmp_path / "votes.jsonl"
    votes.write_text('{"model_a": "x", "model_b": "y", "outcome": "tie"}\n' * 3)
    script = (
        "import sys; from qwill.cli.main import main; "
        f"assert main(['arena', 'rate', {str(votes)!r}]) == 0; assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)

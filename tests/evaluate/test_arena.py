"""Bradley–Terry ratings: arena-rank's record, invariances, coverage, and what can't be compared."""

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.evaluate import arena, arena_likelihood
from qwill.evaluate.arena import POINTS, fit_ratings, pair_weights, style_features, win_matrix

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "arena.json").read_text(encoding="utf-8"))
OUTCOME = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5}


# -- what arena-rank 0.1.1 says


def worst_error(module: ModuleType) -> dict[str, float]:
    """Largest distance from the record: of ratings and coefficients, and of the ends of intervals."""
    ratings, ends = [], []
    for case in ORACLE["cases"]:
        votes = case["votes"]
        a, b = votes["model_a"], votes["model_b"]
        outcome = [OUTCOME[winner] for winner in votes["winner"]]
        features = module.style_features(votes["style_a"], votes["style_b"])
        for result in case["results"]:
            # arena-rank leaves the weights of the plain fit as they are and normalises those of the styled
            # one.
            weights = module.pair_weights(a, b) if result["style"] else raw_pair_weights(a, b)
            found = module.fit_ratings(
                a,
                b,
                outcome,
                features if result["style"] else None,
                weights if result["reweighted"] else None,
            )
            assert found.models == result["models"]
            ratings.append(distance(found.rating, result["rating"]))
            ends += [distance(found.lower, result["lower"]), distance(found.upper, result["upper"])]
            if result["style"]:
                ratings.append(distance(found.coefficients, result["coefficients"]))
    return {"ratings": max(ratings), "intervals": max(ends)}


def raw_pair_weights(model_a: list[str], model_b: list[str]) -> np.ndarray:
    pairs = [frozenset(pair) for pair in zip(model_a, model_b, strict=True)]
    return np.array([1 / max(pairs.count(pair), 50) for pair in pairs])


def distance(found: np.ndarray, expected: list[float]) -> float:
    gap = np.abs(found - np.array(expected))
    return float(gap.max()) if np.isfinite(gap).all() else math.inf


def test_equals_arena_rank():
    error = worst_error(arena)
    assert error["ratings"] < 1e-8
    # arena-rank inverts a nearly singular Hessian in the weighted plain fit: that is its own rounding.
    assert error["intervals"] < 1e-5


SEEDED_BUGS = [
    ("CENTRE = 1000.0", "CENTRE = 1500.0"),
    ("POINTS = 400.0 / np.log(10.0)", "POINTS = 400.0 / np.log(2.0)"),
    ("np.where(swap, 1 - votes.outcome, votes.outcome)", "votes.outcome"),
    ("np.diag(pairs.sum(axis=1)) - pairs", "np.diag(pairs.sum(axis=1)) + pairs"),
    ("votes.moment(residual**2)", "votes.moment(np.abs(residual))"),
    ("inverse @ spread @ inverse", "inverse"),
    ("array.mean(axis=0)) / np.where", "0.0) / np.where"),
    ("/ np.where(spread == 0, 1.0, spread)", "/ 1.0"),
    ("feature_ridge * w.sum()", "feature_ridge"),
    ("hessian_ridge * (total if each_vote else 1.0)", "hessian_ridge * total"),
    ("hessian_ridge * (total if each_vote else 1.0)", "0.0"),
    ("normal_quantile(confidence) * stderr", "1.96 * stderr"),
    ("residual = votes.weight * (votes.outcome - chance)", "residual = votes.outcome - chance"),
    ("chance * (1 - chance)) + np.diag(diagonal)", "chance) + np.diag(diagonal)"),
    ("1.0 / np.maximum(np.bincount(pair)[pair], minimum)", "1.0 / np.bincount(pair)[pair]"),
    ("np.minimum(a, b) * len(models) + np.maximum(a, b)", "a * len(models) + b"),
    ("(counts_a - counts_b, total", "(counts_a - counts_b, np.maximum(counts_a, counts_b) + 1e-9"),
    ("covariance.mean(axis=0)", "covariance[0]"),
    ("models = sorted(set(sides[0]) | set(sides[1]))", "models = list(set(sides[0]) | set(sides[1]))"),
    ("self.features @ parameters[self.count :]", "0.0 * self.features.sum(axis=1)"),
]


@pytest.mark.parametrize(("right", "wrong"), SEEDED_BUGS)
def test_the_record_catches_seeded_bugs(right, wrong):
    assert caught(seeded(right, wrong))


def seeded(right: str, wrong: str) -> ModuleType:
    """arena.py with the bug, on an arena_likelihood.py with the bug: the text stands in one of the two."""
    sources = [Path(module.__file__).read_text(encoding="utf-8") for module in (arena_likelihood, arena)]
    assert any(right in source for source in sources)
    likelihood, fitting = (
        importlib.util.module_from_spec(importlib.util.spec_from_loader(f"seeded_{name}", loader=None))
        for name in ("likelihood", "arena")
    )
    with mock.patch.dict(sys.modules, {arena_likelihood.__name__: likelihood}):
        for module, source in zip((likelihood, fitting), sources, strict=True):
            # Dataclasses look their module up by name.
            with mock.patch.dict(sys.modules, {module.__name__: module}):
                exec(compile(source.replace(right, wrong), module.__name__, "exec"), module.__dict__)
    return fitting


def caught(module: ModuleType) -> bool:
    try:
        error = worst_error(module)
    except (AssertionError, DataError, np.linalg.LinAlgError):
        return True
    return error["ratings"] > 1e-6 or error["intervals"] > 1e-4


# -- properties


@st.composite
def votes(draw: Callable, models: int = 5) -> tuple[list[str], list[str], list[float]]:
    """A set of votes whose likelihood has a maximum: every pair in a ring of models is tied at least once."""
    count = draw(st.integers(2, models))
    names = [f"m{i}" for i in range(count)]
    rows = [(names[i], names[(i + 1) % count], 0.5) for i in range(count)]
    pair = st.permutations(names).map(lambda order: tuple(order[:2]))
    rows += [(*draw(pair), draw(st.sampled_from([0.0, 0.5, 1.0]))) for _ in range(draw(st.integers(0, 25)))]
    a, b, y = zip(*rows, strict=True)
    return list(a), list(b), list(y)


def same(one: arena.Ratings, other: arena.Ratings, tolerance: float = 1e-7) -> bool:
    # A variance of 0 is rounded to 1e-10 or so, and its root to 1e-5.
    return one.models == other.models and all(
        np.allclose(getattr(one, name), getattr(other, name), rtol=0, atol=atol)
        for names, atol in ((("rating", "coefficients"), tolerance), (("stderr", "lower", "upper"), 1e-3))
        for name in names
    )


def styled(data: tuple[list[str], list[str], list[float]], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(data[0]), 2))


@settings(deadline=None)
@given(votes(), st.randoms(use_true_random=False))
def test_the_order_of_votes_does_not_matter(data, random):
    rows = list(zip(*data, styled(data, 0), strict=True))
    shuffled = random.sample(rows, len(rows))
    a, b, y, style = zip(*shuffled, strict=True)
    assert same(fit_ratings(*data), fit_ratings(a, b, y))
    assert same(fit_ratings(*data, styled(data, 0)), fit_ratings(a, b, y, np.array(style)))


@settings(deadline=None)
@given(votes())
def test_which_side_a_model_stood_on_does_not_matter(data):
    a, b, y = data
    turned = [1 - outcome for outcome in y]
    assert same(fit_ratings(a, b, y), fit_ratings(b, a, turned))
    half = len(a) // 2
    assert same(fit_ratings(a, b, y), fit_ratings(b[:half] + a[half:], a[:half] + b[half:], turned[:half] + y[half:]))


@settings(deadline=None)
@given(votes())
def test_names_do_not_matter(data):
    a, b, y = data
    # The new names sort in the opposite order.
    renamed = {name: f"x{9 - int(name[1:])}" for name in a + b}
    one, other = fit_ratings(a, b, y), fit_ratings([renamed[n] for n in a], [renamed[n] for n in b], y)
    assert other.models == [renamed[name] for name in reversed(one.models)]
    np.testing.assert_allclose(other.rating, one.rating[::-1], atol=1e-7)
    np.testing.assert_allclose(other.stderr, one.stderr[::-1], atol=1e-3)
    assert list(other.rank) == list(one.rank[::-1])


@settings(deadline=None)
@given(votes(), st.sampled_from([0.0, 0.3]), st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_the_gradient_is_zero_and_weights_are_repetition(data, prior, repeats):
    a, b, y = data
    ring = len(set(a + b))
    times = np.array([*np.ones(ring, dtype=int), *repeats])[: len(a)]  # the ring stays
    weighted = fit_ratings(a, b, y, weights=times, prior=prior)
    repeated = fit_ratings(np.repeat(a, times), np.repeat(b, times), np.repeat(y, times), prior=prior)
    np.testing.assert_allclose(weighted.rating, repeated.rating, atol=1e-7)
    strength = dict(zip(weighted.models, (weighted.rating - 1000) / POINTS, strict=True))
    gradient = {name: -prior * value for name, value in strength.items()}
    for one, other, outcome, weight in zip(a, b, y, times, strict=True):
        surprise = weight * (outcome - 1 / (1 + math.exp(strength[other] - strength[one])))
        gradient[one] += surprise
        gradient[other] -= surprise
    assert max(map(abs, gradient.values())) < 1e-10
    assert weighted.rating.mean() == pytest.approx(1000)


@settings(deadline=None)
@given(votes())
def test_rank_counts_the_models_that_are_surely_better(data):
    found = fit_ratings(*data, confidence=0.5)
    for i, rank in enumerate(found.rank):
        assert rank == 1 + sum(found.lower[j] - found.upper[i] > 1e-6 for j in range(len(found.models)))


@settings(deadline=None)
@given(votes(), st.floats(0.1, 50), st.floats(-5, 5))
def test_style_is_standardised_and_a_constant_feature_says_nothing(data, scale, shift):
    features = styled(data, 1)
    assert same(fit_ratings(*data, features), fit_ratings(*data, features * scale + shift), 1e-5)
    nothing = np.ones((len(data[0]), 1))
    assert same(fit_ratings(*data, nothing), fit_ratings(*data, nothing * 7))
    np.testing.assert_allclose(fit_ratings(*data, nothing).rating, fit_ratings(*data).rating, atol=1e-7)


def test_by_hand():
    # b wins 3 of 4: r_b - r_a = ln 3, shared evenly around 1000; a tie of all is a rating of 1000.
    found = fit_ratings(["a", "a", "b", "b"], ["b", "b", "a", "a"], [0, 1, 1, 1])
    np.testing.assert_allclose(found.rating, [1000 - POINTS * math.log(3) / 2, 1000 + POINTS * math.log(3) / 2])
    # Var(r_b - r_a) = 1/(n·p·(1-p)) for a binomial of 4 at 3/4; each model has a quarter of it.
    exact = fit_ratings(["a", "a", "b", "b"], ["b", "b", "a", "a"], [0, 1, 1, 1], hessian_ridge=0)
    np.testing.assert_allclose(exact.stderr, POINTS * math.sqrt(1 / (4 * 0.75 * 0.25)) / 2)
    np.testing.assert_allclose(found.stderr, exact.stderr, rtol=1e-3)
    even = fit_ratings(["a", "b"], ["b", "a"], [0.5, 0.5])
    assert list(even.rating) == [1000, 1000]
    assert list(even.rank) == [1, 1]
    tied = fit_ratings(["a", "b", "c"] * 5, ["b", "c", "a"] * 5, [0.5] * 15)
    assert list(tied.rank) == [1, 1, 1]


def simulate(generator: np.random.Generator, strength: np.ndarray, votes_a_pair: int) -> tuple[list, list, list]:
    a, b, y = [], [], []
    for i in range(len(strength)):
        for j in range(i):
            chance = 1 / (1 + math.exp(strength[j] - strength[i]))
            # Ties take equally from both sides' share, so the expected outcome stays Bradley–Terry's.
            tied = min(0.4, 2 * min(chance, 1 - chance)) * 0.5
            draws = generator.choice([1.0, 0.5, 0.0], votes_a_pair, p=[chance - tied / 2, tied, 1 - chance - tied / 2])
            a += [f"m{i}"] * votes_a_pair
            b += [f"m{j}"] * votes_a_pair
            y += list(draws)
    return a, b, y


@pytest.mark.parametrize("prior", [0.0, 0.1])
def test_intervals_cover_the_truth_as_often_as_they_say(prior):
    generator = np.random.default_rng(5)
    strength = np.linspace(-0.8, 0.8, 5)
    held = []
    for _ in range(500):
        found = fit_ratings(*simulate(generator, strength, 50), prior=prior)
        truth = 1000 + POINTS * strength
        held.append((found.lower <= truth) & (truth <= found.upper))
    # 2,500 intervals, not independent: the standard error is about 0.5 %.
    assert 0.935 < np.mean(held) < 0.965


def test_votes_that_depend_on_one_another_need_clusters():
    generator = np.random.default_rng(6)
    strength = np.array([-0.5, 0.0, 0.5])
    truth = 1000 + POINTS * strength
    held: dict[str, list[np.ndarray]] = {"plain": [], "clustered": []}
    for _ in range(200):
        a, b, y = simulate(generator, strength, 40)
        a, b, y = a * 5, b * 5, y * 5  # every voter votes five times in the same way
        voter = list(range(len(a) // 5)) * 5
        for name, clusters in (("plain", None), ("clustered", voter)):
            found = fit_ratings(a, b, y, clusters=clusters)
            held[name].append((found.lower <= truth) & (truth <= found.upper))
    assert np.mean(held["plain"]) < 0.75
    assert 0.93 < np.mean(held["clustered"]) < 0.975


@settings(deadline=None)
@given(votes(), st.integers(2, 4))
def test_copies_in_one_cluster_are_one_vote(data, copies):
    a, b, y = data
    n = len(a)
    one = fit_ratings(a, b, y, clusters=range(n))
    many = fit_ratings(a * copies, b * copies, y * copies, clusters=list(range(n)) * copies)
    assert same(one, many, 1e-6)
    alone = fit_ratings(a, b, y).stderr * math.sqrt(n / (n - 1))
    np.testing.assert_allclose(one.stderr, alone, rtol=1e-6, atol=1e-3)


def test_clusters_and_style(monkeypatch):
    data = simulate(np.random.default_rng(8), np.array([0.0, 0.3, 0.6]), 100)
    style = styled(data, 3)
    each = fit_ratings(*data, style, clusters=range(300))
    np.testing.assert_allclose(each.stderr, fit_ratings(*data, style).stderr * math.sqrt(300 / 299), rtol=1e-3)
    voters = [f"v{i % 17}" for i in range(300)]
    whole = fit_ratings(*data, style, clusters=voters)
    monkeypatch.setattr(arena_likelihood, "CLUSTER_BLOCK", 20)
    assert same(whole, fit_ratings(*data, style, clusters=voters))


def test_style_control_takes_style_out_of_the_ratings():
    generator = np.random.default_rng(7)
    count = 6000
    a_is_long = generator.random(count) < 0.9  # "long" writes long replies, and voters like them
    side = generator.random(count) < 0.5
    a = np.where(side, "long", "plain")
    b = np.where(side, "plain", "long")
    length = np.where(a_is_long == side, 1.0, -1.0) + generator.normal(0, 0.3, count)
    y = (generator.random(count) < 1 / (1 + np.exp(-1.0 * length))).astype(float)
    controlled = fit_ratings(a, b, y, length[:, None], feature_ridge=1e-6)
    plain = fit_ratings(a, b, y)
    assert plain.rating[0] - plain.rating[1] > 100
    assert abs(controlled.rating[0] - controlled.rating[1]) < 2 * controlled.stderr.sum()
    assert controlled.coefficients[0] / length.std() == pytest.approx(1.0, abs=0.1)


# -- what can't be compared


def test_a_model_that_never_lost_is_named_or_held_by_the_prior():
    a, b, y = ["best"] * 6 + ["x", "y", "z"], ["x", "y", "z"] * 2 + ["y", "z", "x"], [1.0] * 9
    with pytest.raises(DataError, match="perfect separation: best won or lost every vote"):
        fit_ratings(a, b, y)
    found = fit_ratings(a, b, y, prior=0.1)
    assert found.separated == ["best"]
    assert found.groups == [["best", "x", "y", "z"]]
    assert found.rating[0] == max(found.rating) and np.isfinite(found.stderr).all()
    # Certainty must not come from the lack of contradiction: more clean wins narrow the interval only slowly.
    assert found.stderr[0] > 100
    loose = fit_ratings(a, b, y, prior=0.01)
    assert loose.rating[0] > found.rating[0] and loose.stderr[0] > found.stderr[0]


def test_separation_names_the_smaller_side_and_both_where_there_is_none():
    ring = [("a", "b"), ("b", "c"), ("c", "a")]
    beaten = [("a", "d"), ("b", "e"), ("d", "e"), ("e", "d")]
    a, b = zip(*ring, *beaten, strict=True)
    assert fit_ratings(a, b, [1.0] * len(a), prior=1).separated == ["d", "e"]
    assert fit_ratings(["a", "a"], ["b", "b"], [1, 1], prior=1).separated == ["a", "b"]
    assert fit_ratings(["a", "a"], ["b", "b"], [1, 0.99]).separated == []


def test_groups_without_a_vote_between_them_are_named():
    a, b, y = ["a", "b", "c", "d"], ["b", "a", "d", "c"], [1, 1, 0.5, 0.5]
    with pytest.raises(DataError, match=r"no vote connects these 2 groups.*: a, b; c, d;"):
        fit_ratings(a, b, y)
    found = fit_ratings(a, b, y, prior=0.5)
    assert found.groups == [["a", "b"], ["c", "d"]]
    # What no vote says is as uncertain as the prior leaves it.
    across = found.covariance[0, 0] + found.covariance[2, 2] - 2 * found.covariance[0, 2]
    within = found.covariance[0, 0] + found.covariance[1, 1] - 2 * found.covariance[0, 1]
    assert across > within
    with pytest.raises(DataError, match="no vote connects"):
        fit_ratings([*a, "a"], [*b, "c"], [*y, 1], weights=[1, 1, 1, 1, 0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["a", "b"], ["b", "a"], [1, math.nan]), r"outcome\[1\] is nan"),
        ((["a", "b"], ["b", "a"], [1, 2]), r"outcome\[1\] is 2.0"),
        ((["a", "b"], ["b", "a"], [1]), "outcome has shape"),
        ((["a", "b"], ["b"], [1, 0]), "2 names in model_a and 1 in model_b"),
        ((["a", None], ["b", "a"], [1, 0]), r"model_a\[1\] is None"),
        ((["a", "b"], ["b", math.nan], [1, 0]), r"model_b\[1\] is nan"),
        ((["a", "b"], ["b", "b"], [1, 0]), "vote 1 is of 'b' against itself"),
        (([], [], []), "name 0 models"),
        ((["a", "b"], ["b", "a"], [1, 1], [[1.0], [math.nan]]), r"features\[1\]"),
        ((["a", "b"], ["b", "a"], [1, 1], [1.0, 2.0]), "features has shape"),
        ((["a", "b"], ["b", "a"], [1, 1], None, [1.0, -1.0]), "weights must be 0 or more"),
        ((["a", "b"], ["b", "a"], [1, 1], None, [0.0, 0.0]), "not all 0"),
    ],
)
def test_bad_votes_are_named(arguments, words):
    with pytest.raises(DataError, match=words):
        fit_ratings(*arguments)


def test_bad_options_are_named():
    good = (["a", "b"], ["b", "a"], [1, 1])
    with pytest.raises(DataError, match="prior=-1"):
        fit_ratings(*good, prior=-1)
    with pytest.raises(DataError, match="2 votes and 1 clusters"):
        fit_ratings(*good, clusters=["v"])
    with pytest.raises(DataError, match="one cluster"):
        fit_ratings(*good, clusters=["v", "v"])


# -- helpers of a leaderboard


def test_win_matrix_counts_points_and_battles():
    models, points, battles = win_matrix(["a", "b", "a", "c"], ["b", "a", "b", "a"], [1, 0.5, 0, 0])
    assert models == ["a", "b", "c"]
    assert points.tolist() == [[0, 1.5, 1], [1.5, 0, 0], [0, 0, 0]]
    assert battles.tolist() == [[0, 3, 1], [3, 0, 0], [1, 0, 0]]


def test_style_features_and_pair_weights():
    assert style_features([[3, 0]], [[1, 0]]).tolist() == [[0.5, 0.0]]
    a, b = ["x"] * 150 + ["z"] * 10, ["y"] * 100 + ["z"] * 50 + ["x"] * 10
    weights = pair_weights(a, b)
    assert weights.mean() == pytest.approx(1)
    assert weights[0] / weights[-1] == pytest.approx(60 / 100)
    assert weights[120] == weights[-1]  # the pair counts whichever side a model stood on
    assert pair_weights(["x"] * 3, ["y"] * 3).tolist() == [1, 1, 1]

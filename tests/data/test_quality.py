"""The quality classifier: it finds what tells two sets apart, alike in every order and batch."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import ArtifactError, ConfigError, DataError
from qwill.data.quality import QualityModel, QualitySettings, load_quality, save_quality, score_batch, train_quality
from qwill.data.quality_report import auc, held_out_report, recalibration, sigmoid

ALPHABETS = {
    "en": ["the", "of", "and", "to", "in", "is", "was", "for", "on", "that", "river", "stone", "house", "light"],
    "zh": list("的一是在不了有和人这山石水火"),
}
SIGNS = {"en": (["treaty", "century"], ["click", "login"]), "zh": ("史朝", "登录")}


def made_up(language: str, good: bool, count: int, seed: int, signs: float = 0.1) -> list[tuple[str, str]]:
    """Texts in which every tenth unit tells what they are; all others are drawn alike for both sets."""
    rng, common, told = random.Random(f"{language}{good}{seed}"), ALPHABETS[language], SIGNS[language][0 if good else 1]
    joint = " " if language == "en" else ""
    texts = list[tuple[str, str]]()
    for _ in range(count):
        units = [rng.choice(told) if rng.random() < signs else rng.choice(common) for _ in range(rng.randrange(20, 80))]
        texts.append((language, joint.join(units)))
    return texts


@pytest.fixture(scope="module")
def sets() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    return tuple([t for lang in ("en", "zh") for t in made_up(lang, good, 400, 1)] for good in (True, False))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def model(sets: tuple[list[tuple[str, str]], list[tuple[str, str]]]) -> QualityModel:
    return train_quality(*sets, QualitySettings(bits=14))


def test_separable_sets_are_told_apart_in_both_languages(model: QualityModel) -> None:
    assert model.languages == ["en", "zh"]
    for language in model.languages:
        assert model.report[language]["lower"] > 0.95
        scores = [score_batch(model, [t for _, t in made_up(language, g, 300, 2)], language) for g in (True, False)]
        assert auc(np.concatenate(scores), np.repeat([1.0, 0.0], 300))["auc"] > 0.95
        assert scores[0].mean() > 0.8 and scores[1].mean() < 0.2


def test_sets_that_do_not_differ_are_not_told_apart() -> None:
    good, bad = (made_up("en", True, 500, seed) for seed in (3, 4))
    report = train_quality(good, bad, QualitySettings(bits=14)).report["en"]
    assert report["lower"] < 0.5 < report["upper"]
    # A classifier that knows nothing says so: no confident score.
    assert report["calibration_error"] < 0.15 and report["brier"] < 0.3


def test_word_order_is_seen_by_bigrams_and_not_by_unigrams() -> None:
    rng = random.Random(0)
    pairs = [[f"a{i} b{i}", f"b{i} a{i}"] for i in range(6)]
    texts = [[" . ".join(rng.choice(pairs)[side] for _ in range(30)) for _ in range(400)] for side in (0, 1)]
    good, bad = ([("en", text) for text in side] for side in texts)
    reports = [train_quality(good, bad, QualitySettings(order=n, bits=14)).report["en"] for n in (1, 2)]
    # "a . b" has the pair across the full stop too, so the two sides share some bigrams and differ in others.
    assert reports[1]["auc"] > 0.95 > 0.7 > reports[0]["auc"]


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_texts_does_not_matter(
    sets: tuple[list[tuple[str, str]], list[tuple[str, str]]], model: QualityModel, seed: int
) -> None:
    turned = [random.Random(seed).sample(side, len(side)) for side in sets]
    again = train_quality(turned[0] + turned[0][:50], turned[1], QualitySettings(bits=14))
    assert again.bias == model.bias and again.report == model.report
    assert all((again.weights[k] == model.weights[k]).all() for k in model.weights)


@settings(deadline=None, max_examples=40)
@given(texts=st.lists(st.text("the treaty click 史登\ud800", max_size=40), max_size=8), order=st.randoms())
def test_a_score_is_of_the_text_alone(model: QualityModel, texts: list[str], order: random.Random) -> None:
    for language in ("en", "zh"):
        scores = score_batch(model, texts, language)
        assert scores.shape == (len(texts),) and ((scores >= 0) & (scores <= 1)).all()
        assert scores.tolist() == [float(score_batch(model, [text], language)[0]) for text in texts]
        turned = list(range(len(texts)))
        order.shuffle(turned)
        assert score_batch(model, [texts[i] for i in turned], language).tolist() == scores[turned].tolist()


def test_the_score_is_what_its_definition_says(model: QualityModel) -> None:
    """Bias plus the mean weight of unigrams and bigrams, looked up one by one."""
    from qwill.data.unit_hashes import batch_hashes
    from qwill.data.units import ngram_hashes

    text = "the treaty of the river, login"
    hashes = batch_hashes([text])[0]
    grams = [int(g) >> 50 for n in (1, 2) for g in ngram_hashes(hashes, n)]
    assert len(grams) == 6 + 5
    logit = model.bias["en"] + sum(int(model.weights["en"][g]) for g in grams) / 2**20 / 11
    assert score_batch(model, ["short", text, "的"], "en")[1] == pytest.approx(float(sigmoid(logit)), abs=1e-6)


def test_a_saved_model_says_the_same(tmp_path: Path, model: QualityModel) -> None:
    save_quality(model, tmp_path / "quality")
    again = load_quality(tmp_path / "quality")
    texts = [t for _, t in made_up("en", True, 5, 9)]
    assert (score_batch(again, texts, "en") == score_batch(model, texts, "en")).all()
    assert (again.settings, again.report, again.bias) == (model.settings, model.report, model.bias)
    weights = tmp_path / "quality" / "zh.int32"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match=r"zh\.int32: 65532 bytes, expected 65536"):
        load_quality(tmp_path / "quality")
    with pytest.raises(ArtifactError, match=r"holds no quality\.json"):
        load_quality(tmp_path)


def test_mistakes_are_named(model: QualityModel) -> None:
    with pytest.raises(DataError, match="the bad set has 20 different texts in 'en'"):
        train_quality(made_up("en", True, 60, 1), made_up("en", False, 20, 1))
    with pytest.raises(DataError, match="the good set has 0 different texts in 'en'"):
        train_quality(made_up("en", True, 60, 1), made_up("en", True, 60, 1))  # in both: counts for neither
    with pytest.raises(DataError, match="knows en, zh, not 'th'"):
        score_batch(model, ["a"], "th")
    with pytest.raises(DataError, match="has no texts"):
        train_quality([], [])
    with pytest.raises(ConfigError, match="bits is 40"):
        QualitySettings(bits=40)


# -- what the report says


def test_auc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 12, 60).astype(float), rng.integers(0, 2, 60).astype(float)
    good, bad = scores[labels > 0], scores[labels == 0]
    pairs = (good[:, None] > bad).mean() + (good[:, None] == bad).mean() / 2
    found = auc(scores, labels)
    assert found["auc"] == pytest.approx(pairs, abs=1e-12) and found["lower"] < pairs < found["upper"]
    assert auc(-scores, labels)["auc"] == pytest.approx(1 - pairs, abs=1e-12)
    perfect = auc(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert perfect["auc"] == perfect["upper"] == 1.0 and 0 < perfect["lower"] < 0.5


def test_the_interval_of_the_auc_covers_as_often_as_it_says() -> None:
    """Two normals one apart: AUC is the normal distribution at 1/√2."""
    rng, truth, covered = np.random.default_rng(1), 0.760249938906524, 0
    labels = np.repeat([1.0, 0.0], [60, 90])
    for _ in range(1000):
        found = auc(np.concatenate([rng.normal(1, 1, 60), rng.normal(0, 1, 90)]), labels)
        covered += found["lower"] <= truth <= found["upper"]
    assert 0.93 <= covered / 1000 <= 0.97


def test_recalibration_finds_the_line_that_the_labels_were_drawn_from() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, 40_000)
    labels = (rng.random(40_000) < sigmoid(0.5 * logits)).astype(float)
    slope, intercept, slope_error, intercept_error = recalibration(logits, labels)
    assert abs(slope - 0.5) < 4 * slope_error and abs(intercept) < 4 * intercept_error
    assert 0.002 < slope_error < 0.02
    # Far scales and shifts are undone too.
    again = recalibration(1000 * logits + 7, labels)
    assert again[0] == pytest.approx(slope / 1000, rel=1e-4)
    assert again[1] == pytest.approx(intercept - 7 * again[0], abs=1e-4)


def test_a_calibrated_classifier_is_reported_as_one_and_an_overconfident_one_is_not() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, 20_000)
    labels = (rng.random(20_000) < sigmoid(logits)).astype(float)
    good = held_out_report(logits, labels)
    assert good["calibration_slope_interval"][0] < 1 < good["calibration_slope_interval"][1]
    assert good["calibration_error"] < 0.02
    assert sum(b["lower"] <= b["score"] <= b["upper"] for b in good["bins"]) >= 8
    bad = held_out_report(3 * logits, labels)
    assert bad["calibration_slope_interval"][1] < 0.5 and bad["calibration_error"] > 0.1
    assert good["auc"] == bad["auc"]


def test_the_interval_of_the_slope_holds_where_one_set_is_much_smaller() -> None:
    """Two normals of the same spread 1.5 apart: the logit of their likelihoods has slope 1.5."""
    rng, covered = np.random.default_rng(5), 0
    labels = np.repeat([1.0, 0.0], [80, 1500])
    for _ in range(300):
        slope, _, error, _ = recalibration(np.concatenate([rng.normal(1.5, 1, 80), rng.normal(0, 1, 1500)]), labels)
        covered += abs(slope - 1.5) < 1.96 * error
    assert covered / 300 > 0.9

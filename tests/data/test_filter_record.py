"""The filter families against datatrove 0.10.1: decisions, first reasons, every value and C4's text, on its record."""

import math

import pytest
from filter_record import CODES, LONG, MODULES, asked, differences, presets, rows, said_by, unequal_values

from qwill.data import families
from qwill.data.languages import language
from qwill.data.words import count_sentences, split_words

# What no document of the record can reach: numbers of lines are not negative, FineWeb-2 switches short lines off with a
# limit of 999, no word is shorter than one character, made-up English has no Chinese stop words, and a Chinese document
# whose mean word length pleases the English limit has neither bullets nor English stop words enough.
ONE_SIDED = {"lorem_ipsum", "curly_bracket", "empty"}
ONCE = {"empty", "gopher_long_doc"}
UNREACHED = {
    ("en", "zh", "short_line_ratio"),
    ("zh", "zh", "short_line_ratio"),
    ("en", "zh", "gopher_below_avg_threshold"),
    ("zh", "zh", "gopher_below_avg_threshold"),
    ("en", "zh", "gopher_enough_stop_words"),
    ("zh", "en", "gopher_enough_stop_words"),
    ("zh", "en", "gopher_too_many_bullets"),
}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("family", MODULES)
def test_every_value_and_decision_is_datatroves(family: str, code: str) -> None:
    assert next(differences(code, family), None) is None


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("batch", [False, True], ids=["definition", "judge_batch"])
def test_the_families_in_order_decide_as_datatrove_does(batch: bool, code: str) -> None:
    """Both by their Python definitions and by `judge_batch`, which may use the C library."""
    told = language(code)
    for preset, (order, limits) in presets().items():
        for row in rows(code):
            if len(row["text"]) > LONG and not batch:
                continue
            if batch:
                (verdict,) = families.judge_batch([row["text"]], told, order, limits)
            else:
                verdict = families.judge(
                    row["text"], order, limits,
                    lambda part: split_words(part, told.words), lambda part: count_sentences(part, told.words),
                )  # fmt: skip
            reasons = [(family, row[f"{preset}.{family}.reason"]) for family in order]
            if ("gopher_quality", "crash") in reasons:
                continue
            first = next(((family, reason) for family, reason in reasons if reason), None)
            assert (verdict.drop and verdict.drop[:2]) == first
            assert verdict.text == row.get(f"{preset}.text", row["text"])
            for family in order:
                ours, said = said_by(verdict.values, f"{family}."), said_by(row, f"{preset}.{family}.")
                assert not unequal_values(ours, said)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("preset", ["en", "zh"])
def test_the_record_has_values_at_every_limit_and_on_both_sides(preset: str, code: str) -> None:
    order, limits = presets()[preset]
    for family, rules in families.rules(limits, order).items():
        for rule in rules:
            name = f"{preset}.{family}.{rule.value}"
            values = [row[name] for row in rows(code) if not math.isnan(row.get(name, math.nan))]
            fires = sum(row[f"{preset}.{family}.reason"] == rule.reason for row in rows(code))
            if (code, preset, rule.reason) not in UNREACHED:
                assert fires >= (1 if rule.reason in ONCE else 3), (name, rule.reason)
                if rule.reason not in ONE_SIDED:
                    assert min(values) < rule.limit < max(values), name
                    assert rule.limit in values, name


def test_what_crashes_datatrove_is_dropped_here() -> None:
    """Without words and with no least number of them datatrove divides by zero; here the stop words drop it."""
    crashed = [one for one in asked("en") if one.said["reason"] == "crash"]
    assert len(crashed) >= 5
    for one in crashed:
        module = MODULES[one.family]
        found = module.decide(module.measure(one.text, one.words, one.limits), one.limits)
        assert found[0] == "gopher_enough_stop_words"

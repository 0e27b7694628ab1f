"""The limits of the filter families by language and register, odd documents, and the page that explains the rules."""

import math
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_text import english

from qwill.base.errors import ConfigError
from qwill.data import c4, families, gopher_quality
from qwill.data.families import judge_batch, resolve_limits, rules
from qwill.data.filters import ChineseLimits, Limits
from qwill.data.languages import language

PAGE = Path(__file__).parents[2] / "docs" / "en" / "curation-rules.md"
EN, ZH = language("en"), language("zh")


def test_english_has_the_published_defaults_and_chinese_fineweb_2s() -> None:
    assert resolve_limits(EN)["gopher_quality"] == gopher_quality.GopherQuality()
    assert resolve_limits(EN)["c4"] == c4.C4()
    zh = resolve_limits(ZH)
    assert zh["gopher_quality"].stop_words == ZH.stop_words  # type: ignore[attr-defined]
    ours = asdict(zh["units"])  # type: ignore[call-overload]
    told = asdict(ChineseLimits())
    numbers = {field.name for field in fields(Limits)} - {"stop_words", "sentence_end"}
    assert {name: ours[name] for name in numbers} == {name: told[name] for name in numbers}


def test_a_registers_limit_is_over_that_of_all_and_that_over_the_languages() -> None:
    overrides = {
        "all": {"gopher_repetition": {"dup_line_frac": 0.5, "top_n_grams": [[2, 0.4]]}},
        "verse": {"gopher_repetition": {"dup_line_frac": None}, "fineweb": {"short_line_thr": 1}},
    }
    asked: list[tuple[str, Any]] = [("", {}), ("web", overrides), ("verse", overrides)]
    plain, web, verse = (dict[str, Any](resolve_limits(ZH, *one)) for one in asked)
    assert [limits["gopher_repetition"].dup_line_frac for limits in (plain, web, verse)] == [0.287, 0.5, None]
    assert verse["gopher_repetition"].top_n_grams == ((2, 0.4),)
    assert [limits["fineweb"].short_line_thr for limits in (web, verse)] == [999, 1]
    assert "dup_line_frac" not in {rule.reason for rule in rules(verse, ["gopher_repetition"])["gopher_repetition"]}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gopher": {}}, "gopher_"),
        ({"c4": {"min_sentences": 5}}, "min_num_sentences"),
        ({"c4": {"filter_policy": 1}}, "filter_policy"),
        ({"fineweb": {"line_punct_thr": "many"}}, "line_punct_thr"),
        ({"gopher_repetition": {"top_n_grams": [2, 0.2]}}, "top_n_grams"),
        ({"gopher_quality": {"alphabetic": "han"}}, "letters"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, dict[str, object]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve_limits(EN, "", {"all": wrong})


HOSTILE = st.text(st.sampled_from("aB1 .。#…-•{\n\r\t\u3000\x1c\u2028中的，\ufffd\U0001f600"), max_size=80)


@given(HOSTILE | st.text(max_size=80))
def test_any_text_is_judged_and_values_are_what_c4_left(text: str) -> None:
    for told in (EN, ZH):
        order = (*told.families, "units")
        limits = resolve_limits(told)
        verdict = judge_batch([text], told, order, limits)[0]
        assert all(math.isnan(v) or v >= 0 for v in verdict.values.values())
        on = rules(limits, order)
        assert {f"{family}.{rule.value}" for family in order for rule in on[family]} <= set(verdict.values)
        if verdict.drop is not None:
            family, reason, value = verdict.drop
            assert value in {verdict.values[f"{family}.{rule.value}"] for rule in on[family] if rule.reason == reason}
        if "c4" in told.families:
            dropped = sum(v for k, v in verdict.values.items() if k.startswith("c4.lines_") and k != "c4.lines_kept")
            assert verdict.values["c4.lines"] == dropped + verdict.values["c4.lines_kept"]


@pytest.mark.parametrize("text", ["", " ", "\n", "\u3000\n\x1c"])
def test_a_document_without_words_is_dropped_in_every_order_and_with_the_length_rule_off(text: str) -> None:
    off = {"all": {"gopher_quality": {"min_doc_words": 0}, "c4": {"min_num_sentences": -1}}}
    for told in (EN, ZH):
        for order in (told.families, ("gopher_quality",), ("c4", "gopher_quality")):
            assert judge_batch([text], told, order, resolve_limits(told))[0].drop is not None
            assert judge_batch([text], told, order, resolve_limits(told, "", off))[0].drop is not None


def test_punctuation_may_be_left_out_of_the_share_of_words_with_a_letter() -> None:
    import random

    text = "\n\n".join(f"## **{part}** | `{part[:3]}`" for part in english(random.Random(1), 9).split(". "))
    judged = {}
    for kind in ("datatrove", "letters"):
        limits = resolve_limits(EN, "", {"all": {"gopher_quality": {"alphabetic": kind}}})
        judged[kind] = judge_batch([text], EN, ("gopher_quality",), limits)[0].values["gopher_quality.alphabetic"]
    assert judged["datatrove"] < 0.8 < judged["letters"]


def told_by_the_page() -> dict[str, list[tuple[str, str, str]]]:
    """Family → (reason, English limit, Chinese limit) of each row."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]:
        rows = re.findall(r"^\| `([^`]+)` \| [^|]+ \| ([^|]*)\| ([^|]*)\|", section, flags=re.M)
        if rows:
            found[section.split("\n")[0]] = [(reason, en.strip(), zh.strip()) for reason, en, zh in rows]
    return found


@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_page_tells_the_limits_of_the_code(family: str) -> None:
    rows = told_by_the_page()[family]
    for told, column in ((EN, 1), (ZH, 2)):
        expected: dict[str, list[str]] = {}
        for rule in rules(resolve_limits(told), [family])[family]:
            expected.setdefault(rule.reason, []).append(f"{'≥' if rule.below else '≤'} {rule.limit:.10g}")
        assert {row[0]: row[column] for row in rows if row[column] not in ("", "off")} == {
            reason: ", ".join(limits) for reason, limits in expected.items()
        }
        in_page = [row[0] for row in rows if row[0] in expected]
        if family != "units":
            assert in_page == list(expected)

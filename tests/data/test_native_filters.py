"""The filter families in C against their definitions: the same values, decisions and rewritten texts."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.data import native_filters, native_words
from qwill.data.c4 import C4
from qwill.data.families import Verdict, judge_batch, resolve_limits
from qwill.data.fineweb import FineWeb
from qwill.data.gopher_quality import GopherQuality
from qwill.data.gopher_repetition import GopherRepetition
from qwill.data.languages import language

ORDERS = [
    ["gopher_repetition", "gopher_quality", "c4", "fineweb"],
    ["gopher_repetition", "fineweb", "gopher_quality"],
    ["c4", "gopher_quality", "gopher_repetition", "fineweb"],
]
# Few words, so that lines, paragraphs and n-grams repeat, also across the bounds of words ("a b" and "ab").
words = st.sampled_from(
    ["a", "b", "ab", "the", "of", "and", "that", "Don't", "x.", "end!", "1", "#", "é", "的", "我们"]
)
odd = st.sampled_from(
    ["...", "....", "…", "•", "-", " - x", "[1]", "[]", "[edit]", "[citation needed]", "[٣]", "[x]", "{", "JavaScript",
     "\u017fpace", "lorem ipsum", "Lorem\u3000Ipsum", "LOREM IPSUM", "coo\u212aie policy", "use cookies",
     "Terms of Use",
     "\u0130", "x" * 1001,
     ":", ")", ":-)", "\ud800", "\x00", "𠀀", "%", "»", "１", "『", "。", "?\"", "'"]
)  # fmt: skip
gaps = st.sampled_from(
    [" "] * 8 + ["  ", "\n", "\n", "\n\n", "\n\n\n", "\r\n", "\r", "\x0b", "\x1c", "\x85", "\u2028", "\t", "\u3000", ""]
)
lines = st.lists(st.tuples(st.one_of(words, words, words, odd), gaps), max_size=25).map(
    lambda parts: "".join(word + gap for word, gap in parts)
)
documents = st.lists(lines, min_size=1, max_size=6).flatmap(
    lambda some: st.lists(st.sampled_from(some), max_size=14).map("\n".join)
)
OTHER_REPETITION = GopherRepetition(top_n_grams=((1, 0.9), (3, 0.5)), dup_n_grams=())
OTHER_QUALITY = GopherQuality(min_doc_words=0, alphabetic="letters", stop_words=frozenset({"the", "ab", "的"}))
OTHER_FINEWEB = FineWeb(stop_chars=frozenset(".。"), short_line_length=5, line_punct_thr=0)
limits = st.fixed_dictionaries(
    {
        "gopher_repetition": st.sampled_from([GopherRepetition(), OTHER_REPETITION]),
        "gopher_quality": st.sampled_from([GopherQuality(), OTHER_QUALITY]),
        "c4": st.builds(
            C4, st.booleans(), st.booleans(), st.sampled_from([-1, 0, 2, 5]), st.sampled_from([-1, 0, 2]),
            st.sampled_from([-1, 1000, 6]), st.booleans(), st.booleans(), st.booleans(), st.booleans(),
        ),
        "fineweb": st.sampled_from([FineWeb(), OTHER_FINEWEB]),
    }
)  # fmt: skip


def same(a: Verdict, b: Verdict) -> bool:
    """Equal, nan for nan, values in the same order."""
    pairs = list(zip(a.values.items(), b.values.items(), strict=True))
    equal = all(m == n and (x == y or (math.isnan(x) and math.isnan(y))) for (m, x), (n, y) in pairs)
    return equal and a.text == b.text and repr(a.drop) == repr(b.drop)


@pytest.mark.parametrize("code", ["en", "zh"])
@settings(max_examples=400, deadline=None)
@given(documents, limits, st.sampled_from(ORDERS))
def test_c_measures_what_the_definitions_measure(code: str, text: str, limits: dict, order: list[str]) -> None:
    assert native_filters.suits(language(code).words, order, limits)
    fast = judge_batch([text], language(code), order, limits)
    native_words.enable(False)
    try:
        slow = judge_batch([text], language(code), order, limits)
    finally:
        native_words.enable(True)
    assert same(fast[0], slow[0])


def values(text: str, **changed: object) -> dict[str, float]:
    settings = resolve_limits(language("en"), "")
    settings["gopher_repetition"] = replace(GopherRepetition(), **changed)  # type: ignore[arg-type]
    return judge_batch([text], language("en"), ORDERS[0], settings)[0].values


def test_of_equally_frequent_n_grams_the_first_to_occur_counts() -> None:
    # "long words" and "a b" twice each; "a b" is the first to come twice, "long words" the first to come.
    text = "long words a b a b then long words"
    assert values(text)["gopher_repetition.top_2_gram"] == 2 * len("long words") / len(text)


def test_repeated_n_grams_are_compared_without_spaces() -> None:
    # [ab][c] and [a][bc] are the same run of characters.
    text = "ab c x y a bc"
    assert values(text, dup_n_grams=((2, 1.0),))["gopher_repetition.duplicated_2_n_grams"] == 3 / len(text)
    assert values(text)["gopher_repetition.top_2_gram"] == len("ab c") / len(text)


def test_lengths_are_in_characters() -> None:
    text = "𠀀𠀀 é é\n" * 3
    found = values(text)
    assert found["gopher_quality.mean_word_length"] == 4 / 3
    assert found["gopher_repetition.dup_line_char_frac"] == 12 / len(text)


def test_settings_that_c_does_not_know_go_to_the_definitions() -> None:
    known = resolve_limits(language("en"), "")
    odd_ones = [
        ("fineweb", FineWeb(stop_chars=frozenset({"..."}))),
        ("gopher_repetition", GopherRepetition(top_n_grams=((0, 0.5),))),
        ("c4", C4(min_words_per_line=2.5)),  # type: ignore[arg-type]
    ]
    for family, odd_one in odd_ones:
        assert not native_filters.suits("english", ORDERS[0], {**known, family: odd_one})
    assert native_filters.suits("english", ORDERS[0], known)
    assert not native_filters.suits("characters", ORDERS[0], known)


def test_work_space_that_has_grown_large_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = values("a b c d e f " * 9)
    monkeypatch.setattr(native_filters, "MOST_WORK", 0)
    assert values("a b c d e f " * 9) == before


LINES = ["a { javascript b", "javascript lorem ipsum", "{ use cookies c", "a [] b c", "lorem ipsum {"]


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_two_rules_look_at(line: str) -> None:
    known = {"c4": C4(min_num_sentences=0)}
    fast = judge_batch([f"one two three.\n{line}"], language("en"), ["c4"], known)
    native_words.enable(False)
    try:
        slow = judge_batch([f"one two three.\n{line}"], language("en"), ["c4"], known)
    finally:
        native_words.enable(True)
    assert same(fast[0], slow[0])

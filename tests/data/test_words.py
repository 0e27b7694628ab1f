"""Words against the record of datatrove's tokenizers, and the C files against the definitions."""

import json
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import ConfigError
from qwill.data import affix_words, native_words
from qwill.data.words import count_sentences, split_words, tokens, word_rules

RECORD = Path(__file__).parents[1] / "oracles" / "words.json.xz"
AFFIX_RULES = [rule for rule in word_rules() if rule not in ("chinese", "characters")]
anything = st.text(st.characters(codec=None, exclude_categories=()))
marks = st.sampled_from("()[]\"'.,:;!?-—…«»$%/@#+*=<> \n\t\u3000’“")
cases = ["don't", "Thered", "C++", ":)", "°C.", "a.m.", "U.S.", "EE."]
others = ["http://a.bc", "1,000", "5km", "'s", "..", "——", "世界", "мир", "é", "😀"]
letters = st.text("abcDEF", max_size=4)
pieces = st.one_of(letters, marks, st.sampled_from(cases), st.sampled_from(others), anything)
mixed = st.lists(pieces, max_size=30).map("".join)
chinese = st.text("的一是不了人我在有他这中大来上国漢語龥鿖a0.%+- \n，。", max_size=60)


@contextmanager
def definitions() -> Iterator[None]:
    native_words.enable(False)
    try:
        yield
    finally:
        native_words.enable(True)


def described(text: str, rule: str) -> tuple[list[str], int]:
    return split_words(text, rule), count_sentences(text, rule)


def recorded(rule: str) -> list[tuple[str, list[str], int]]:
    rows = []
    for text, words, sentences in json.loads(lzma.decompress(RECORD.read_bytes()))[rule]:
        if words and isinstance(words[0], int):
            whole, at, found = "".join(text.split()), 0, []
            for size in words:
                found.append(whole[at : at + size])
                at += size
            words = found
        rows.append((text, words, sentences))
    return rows


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("rule", [r for r in word_rules() if r not in ("french", "characters")])
def test_words_and_sentences_are_those_of_datatrove(rule: str, native: bool) -> None:
    rows = recorded(rule)
    native_words.enable(native)
    try:
        wrong = [text for text, words, sentences in rows if described(text, rule) != (words, sentences)]
    finally:
        native_words.enable(True)
    assert len(rows) >= 800
    assert wrong == []


@settings(max_examples=300, deadline=None)
@given(mixed, st.sampled_from(AFFIX_RULES))
def test_c_gives_the_words_of_the_definition(text: str, rule: str) -> None:
    fast = described(text, rule)
    with definitions():
        assert described(text, rule) == fast


@settings(max_examples=200, deadline=None)
@given(st.one_of(chinese, mixed))
def test_c_gives_jieba_s_words(text: str) -> None:
    fast = described(text, "chinese")
    with definitions():
        assert described(text, "chinese") == fast


@pytest.mark.parametrize("rule", word_rules())
@given(mixed)
@settings(max_examples=50, deadline=None)
def test_nothing_of_a_text_is_lost_but_white_space(rule: str, text: str) -> None:
    assert "".join(split_words(text, rule)) == "".join(text.split()) or rule in (
        "russian",
        "greek",
        "arabic",
        "spanish",
    )
    assert "".join("".join(tokens(text, rule)).split()) == "".join(text.split())


def test_several_pieces_are_cut_as_texts_of_their_own() -> None:
    texts = ["Hello. World!", "ends with :", ") begins :-( so", "", "  It's  spaced.  Yes "]
    whole, bounds, at = "\n".join(texts), [], 0
    for text in texts:
        bounds.append((at, at + len(text)))
        at += len(text) + 1
    lows, highs = (b"".join(b[i].to_bytes(8, "little") for b in bounds) for i in (0, 1))
    cut = native_words.cut(whole, native_words.code_points(whole), "english", (lows, highs))
    assert cut.strings(whole) == [w for text in texts for w in split_words(text, "english")]
    cut = native_words.cut(whole, native_words.code_points(whole), "english", (lows, highs))
    assert cut.sentences == sum(count_sentences(text, "english") for text in texts)


def test_a_memo_that_is_full_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = split_words("Well, don't :-) say e.g. 'tis", "english")
    monkeypatch.setattr(native_words, "MOST_MEMO", 1)
    assert split_words("Well, don't :-) say e.g. 'tis", "english") == before


@pytest.mark.parametrize("part", ["(", "a:", "a@", "a.b@", ".", "a.", ").", "x", "5", "a/b.c:", "'", ":)"])
def test_a_chunk_without_a_space_takes_time_in_proportion(part: str) -> None:
    """100,000 characters: where time grew with the square this would take minutes."""
    text = part * (100_000 // len(part))
    assert "".join(split_words(text, "english")) == text


def test_characters_are_words_where_no_spaces_are_written() -> None:
    assert split_words("日本語のテスト, ok", "characters") == ["日", "本", "語", "の", "テ", "ス", "ト", ",", "ok"]
    assert split_words("ที่นี่ 5km", "characters") == ["ที่", "นี่", "5", "km"]
    assert count_sentences("はい。いいえ。", "characters") == 2


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no rule is called 'klingon'; there are spaces, english"):
        split_words("x", "klingon")


def test_the_tables_say_whose_they_are() -> None:
    notice = Path(affix_words.__file__).with_name("word_rules.NOTICE").read_text(encoding="utf-8")
    assert "MIT License" in notice and "ExplosionAI" in notice

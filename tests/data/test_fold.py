import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.data.fold import chinese_script, convert, definition, fold
from qwill.data.units import split, text_key

# What folding has trouble with: ligatures, marks that compose, Hangul letters, ignorable signs, wide and old forms.
HARD = "aÅéßſİıΐςﬁ…½①㎏ﾊﾟㄱ각\u1100\u1161\u11a8\u0301\u0308\u0345\u3099\u00ad\u200b\u200d\u202e\ufe0f"
HARD += "　＂＇’“ｶﾞ裏裡里臺檯台着著為爲为乾幹干\uf900\U0002f800\U00020000\ud800\udc00क़ॐאּﷺ\U0001f600\U0010ffff\U000e0041"
HARD += "\u09c7\u09be\u0cc6\u0cc2\u0cd5"  # vowel signs that are joined though they are no combining marks
texts = st.text(st.one_of(st.sampled_from(HARD), st.characters()), max_size=30)


@given(texts)
def test_folding_is_idempotent_and_what_its_definition_says(text: str) -> None:
    assert fold(text) == definition(text)
    assert fold(fold(text)) == fold(text)


@given(texts)
def test_case_width_and_composition_do_not_matter(text: str) -> None:
    assert fold(unicodedata.normalize("NFKC", text)) == fold(text)
    assert fold(unicodedata.normalize("NFD", text)) == fold(text)
    assert fold("".join("\u200b" + sign for sign in text)) == fold(text)


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_lower_case(text: str) -> None:
    assert fold(text) == text.lower() == fold(text.upper())


@pytest.mark.parametrize(
    "forms",
    ["裏裡里", "臺檯颱台", "着著", "為爲为", "衞衛卫", "眾衆众", "說説说", "峯峰", "綫線线", "羣群", "乾幹干", "後后",
     "髮發发", "麵麪面", "隻只", "么麼麽", "於于", "鐘鍾钟", "曆歷历", "匯彙汇", "復複复", "牀床", "餘余"],
)  # fmt: skip
def test_every_form_of_a_chinese_character_is_one(forms: str) -> None:
    assert len(set(fold(forms))) == 1


def test_different_characters_stay_different() -> None:
    kept = "日月山水人大小上下中国语文学习好坏电脑酒店苏軾晨光汉字测试"
    assert len(set(fold(kept))) == len(set(kept))
    assert fold("ひらがな カタカナ 한국어 عربي") == "ひらがな カタカナ 한국어 عربي"


def test_a_text_has_one_key_in_both_scripts_and_widths() -> None:
    simplified, traditional = "这台电脑是帮同事买的，里面的系统很稳定。", "這臺電腦是幫同事買的，裡面的系統很穩定。"
    assert split(simplified) == split(traditional)
    assert text_key("ＣＰＵ " + simplified) == text_key("cpu" + traditional)
    assert convert(traditional, "simplified") == simplified
    assert fold(convert(simplified, "traditional")) == fold(simplified)


def test_the_script_of_chinese_text_is_told_by_its_own_characters() -> None:
    assert chinese_script("这台电脑是帮同事买的") == "hans"
    assert chinese_script("這台電腦是幫同事買的，系统") == "hant"
    assert chinese_script("床前明月光") == chinese_script("") == chinese_script("English") == ""


def test_long_text_is_folded_like_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes through in pieces; a sign that is not one for one may stand in any of them."""
    monkeypatch.setattr("qwill.data.fold._PIECE", 7)
    for text in ("臺灣的大學生很多。" * 9, "臺灣的大學生很多……" * 9, "山" * 20 + "e\u0301", "x" * 20 + "…"):
        assert fold(text) == definition(text)


@pytest.mark.parametrize(
    "text", ["\u0995\u09c7\u09be", "\u0c95\u0cc6\u0cc2", "e\u0301", "\u1100\u1161\u11a8", "か\u3099"]
)
def test_what_composes_is_composed(text: str) -> None:
    assert fold(text) == unicodedata.normalize("NFC", text) != text

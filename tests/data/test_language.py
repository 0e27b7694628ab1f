import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_text import chinese, english

from qwill.data.language import excerpt, identify, script_shares

ENGLISH = ("Bora Bora has a permanent population of 10,605 people.", "My laptop screen is black, what should I do?")
CHINESE = (
    "酒店位置很好，走到哪里都近，吃饭也方便。",
    "晨光：曙光；阳光。",
    "電腦是幫同事買的，系統很穩定。",
    "用了一周，ThinkPad T61 的 CPU 速度很快。",
)
OTHER = (
    "Il était une fois un petit village au bord de la mer.",
    "Das Wetter ist heute schön und wir gehen in den Park.",
    "Олень вышел из леса и остановился у реки.",
    "これは日本語の文章です。猫が好きです。",
    "오늘은 날씨가 아주 좋습니다.",
    "12 345 ... 67 :)",
    "",
)


@pytest.mark.parametrize(("code", "texts"), [("en", ENGLISH), ("zh", CHINESE), ("other", OTHER)])
def test_short_texts_are_told_apart(code: str, texts: tuple[str, ...]) -> None:
    assert {text: identify(text).code for text in texts} == dict.fromkeys(texts, code)


@given(st.integers())
def test_paragraphs_are_recognised_with_high_scores(seed: int) -> None:
    rng = random.Random(seed)
    for code, text in (("en", english(rng)), ("zh", chinese(rng))):
        language = identify(text)
        assert language.code == code
        assert language.score > 0.9


def test_a_foreign_name_in_an_english_article_has_no_vote() -> None:
    text = "Hua Hin Airport (Thai: ท่าอากาศยานหัวหิน) is an international airport that serves the city of Hua Hin."
    assert identify(text).code == "en"


def test_scripts_overrule_the_score() -> None:
    """py3langid is sure of all three, and a letter in five or more is of another script."""
    for text in (
        "天気はいいですね，今天天气很好，我们去公园散步，然后回家吃饭休息看电视",
        "house 房子 tree 树木 river 河流 mountain 大山 the teacher 老师 is a student 学生",
        "The 𝐛𝐞𝐬𝐭 𝐬𝐡𝐨𝐞𝐬 for the summer and the winter are here for you 𝐧𝐨𝐰 𝐚𝐧𝐝",
    ):
        language = identify(text)
        assert language.code == "other"
        assert language.score > 0.65


def test_the_score_is_the_threshold() -> None:
    text = "Y.M. Molding Industry Mfg. Inc."
    score = identify(text, minimum=0.0).score
    assert identify(text, minimum=score - 0.01).code == "en"
    assert identify(text, minimum=score + 0.01).code == "other"


@given(st.text())
def test_shares_and_scores_are_shares(text: str) -> None:
    shares = script_shares(text)
    assert all(0 <= share <= 1 for share in shares.values())
    assert sum(shares.values()) <= 1 + 1e-9
    assert 0 <= identify(text).score <= 1


@given(st.text(), st.integers(1, 20))
def test_an_excerpt_shows_beginning_middle_and_end(text: str, size: int) -> None:
    shown = excerpt(text, size)
    assert len(shown) <= 3 * size + 2
    assert text.startswith(shown[:size])
    assert text.endswith(shown[-size:] if len(text) > 3 * size else shown)

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_text import chinese, english

from qwill.base.errors import ConfigError
from qwill.data import language_classifier
from qwill.data.language import excerpt, identify, identify_all, script_shares
from qwill.data.languages import shipped

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


def test_a_kana_in_a_chinese_sentence_makes_no_japanese() -> None:
    assert identify("这家店叫优の良品，东西很好吃，价格也便宜，服务员的态度非常好。", ["zh", "ja"]).code == "zh"


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


# Sentences of our own, one a line, in each language that ships; Chinese also traditional, Cantonese and classical.
SHORT = {
    "ar": ("يعيش الناس في هذه المدينة منذ زمن طويل.", "أين الكتاب الذي قرأته أمس؟"),
    "de": (
        "Das Wetter ist heute schön und wir gehen in den Park.",
        "Ich habe gestern ein Buch über die Stadt gelesen.",
    ),
    "es": ("El perro duerme debajo de la mesa porque hace mucho calor.", "Ayer leí un libro sobre la ciudad."),
    "fr": ("Il était une fois un petit village au bord de la mer.", "Je voudrais savoir où se trouve la gare."),
    "he": ("הילדים משחקים בגן ליד הבית כל יום.", "איפה הספר שקראתי אתמול?"),
    "it": ("Il cane dorme sotto il tavolo perché fa molto caldo.", "Vorrei sapere dove si trova la stazione."),
    "ja": ("これは日本語の文章です。猫が好きです。", "昨日読んだ本はどこですか。", "東京に行きました。"),
    "ko": ("오늘은 날씨가 아주 좋습니다.", "어제 읽은 책이 어디에 있나요?"),
    "pt": ("O cachorro dorme debaixo da mesa porque está muito calor.", "Não sei onde fica a estação."),
    "ru": ("Олень вышел из леса и остановился у реки.", "Где книга, которую я читал вчера?"),
    "en": (*ENGLISH, "Where is the book that I read yesterday?"),
    "zh": (*CHINESE, "你好吗？", "我哋聽日去邊度食飯呀？", "学而时习之，不亦说乎？", "床前明月光，疑是地上霜。"),
}


def test_short_texts_of_all_languages_are_told_apart_in_one_call() -> None:
    texts = [(code, text) for code, own in SHORT.items() for text in own]
    found = identify_all([text for _, text in texts], shipped())
    assert {text: one.code for (_, text), one in zip(texts, found, strict=True)} == {text: code for code, text in texts}


def test_only_languages_asked_for_are_given() -> None:
    for code, own in SHORT.items():
        others = [other for other in shipped() if other != code]
        assert [one.code for one in identify_all(own, others)] == ["other"] * len(own)
        assert [one.code for one in identify_all(own, [code])] == [code] * len(own)


@given(
    st.lists(st.one_of(st.text(), st.sampled_from([*ENGLISH, *CHINESE, *OTHER, "\ud800", "ABC DEF", "a\u0301" * 40])))
)
def test_c_and_python_say_the_same_of_many_texts_as_of_one(texts: list[str]) -> None:
    together = identify_all(texts)
    try:
        language_classifier.use_native(False)
        assert identify_all(texts) == together
    finally:
        language_classifier.use_native(True)
    assert [identify(text) for text in texts] == together


def test_py3langid_itself_gives_the_same_posteriors() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    told = language_classifier.classifier(frozenset({"en", "gl", "sr"}))
    identifier.set_languages(told.labels)
    texts = [text for own in SHORT.values() for text in own] + ["Где је књига? Gde je knjiga?", "", "UPPER CASE WORDS"]
    for text, row in zip(texts, told.posteriors(texts).tolist(), strict=True):
        theirs = dict(identifier.rank(text))
        assert dict(zip(told.labels, row, strict=True)) == pytest.approx(theirs, abs=1e-4)


def test_a_language_the_classifier_does_not_know_is_told_by_its_script(tmp_path: Path) -> None:
    own = tmp_path / "tibetan.yaml"
    text = (
        "code: bo\nname: Tibetan\nname_zh: 藏文\nscript: Tibt\nlabels: []\nwords: spaces\nsentence_end: །\n"
        "stop_words: དང\nlanguage_score: 0.6\nfamilies: gopher_quality\n"
    )
    own.write_text(text)
    assert identify("བོད་ཀྱི་སྐད་ཡིག་ནི་", [str(own), "en"]).code == "bo"
    assert identify("The word that the people of this country have for language is སྐད", [str(own), "en"]).code == "en"
    own = tmp_path / "wrong.yaml"
    own.write_text(text.replace("[]", "tibetan"))
    with pytest.raises(ConfigError, match="labels names 'tibetan', which py3langid does not know"):
        identify("བོད", [str(own)])

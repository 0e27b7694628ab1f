import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_text import chinese, english, full_width

from qwill.base.errors import ConfigError
from qwill.data.documents import Document
from qwill.data.fold import convert, fold
from qwill.data.toxicity import LISTS, _automaton, score_toxicity, score_toxicity_batch, toxic_words

WORDS = {
    language: sorted((word, category) for word, (_, category) in _automaton(language).items() if category != "allowed")
    for language in LISTS
}


@pytest.mark.parametrize("language", LISTS)
def test_every_word_is_found_in_any_case_width_and_script(language: str) -> None:
    for word, category in WORDS[language]:
        for text in (word, word.upper(), full_width(word), convert(word, "traditional")):
            found = toxic_words(f"so: {text}。", language)
            assert [(fold(f"so: {text}。")[a:b], c) for a, b, c in found] == [(word, category)], (word, text)


@pytest.mark.parametrize("language", LISTS)
def test_allowed_phrases_are_not_counted_and_each_is_needed(language: str) -> None:
    for phrase, (_, category) in _automaton(language).items():
        if category == "allowed":
            assert toxic_words(f" {phrase} ", language) == []
            assert any(word in phrase for word, _ in WORDS[language]), phrase


@pytest.mark.parametrize(
    "text",
    [
        "Scunthorpe, Essex and the cockpit; assassins pass classes",
        "matsushita shitake fagot",
        "Blue tits at the feeder",
    ],
)
def test_words_inside_words_are_no_hits(text: str) -> None:
    assert score_toxicity(text, "en") == 0


@pytest.mark.parametrize("text", ["我妈妈的生日，大妈的菜", "性别与操作，体操你看了吗", "杂种优势在水稻育种中"])
def test_chinese_words_that_hold_one_by_chance_are_no_hits(text: str) -> None:
    assert score_toxicity(text, "zh") == 0


@given(st.integers())
def test_made_up_prose_scores_nothing(seed: int) -> None:
    rng = random.Random(seed)
    assert score_toxicity(english(rng), "en") == score_toxicity(chinese(rng), "zh") == 0


@given(st.integers(), st.sampled_from(LISTS), st.integers(0, 9))
def test_the_score_is_hits_for_1000_units(seed: int, language: str, count: int) -> None:
    rng = random.Random(seed)
    planted = [
        rng.choice([w for w, _ in WORDS[language] if re.fullmatch(r"[a-z]+|[\u4e00-\u9fff]+", w)]) for _ in range(count)
    ]
    text = "，".join([english(rng, 1), *planted, chinese(rng, 1)])
    units = len(re.findall(r"[a-zA-Z0-9]+|[\u4e00-\u9fff]", text))
    assert score_toxicity(text, language) == pytest.approx(1000 * count / units)


def test_a_batch_scores_both_lists() -> None:
    documents = [
        Document(str(i), "s", "web", "en", text, 0) for i, text in enumerate(["you moron", "你这个白痴 moron", ""])
    ]
    assert score_toxicity_batch(documents) == {"en.insult": 2, "zh.insult": 1}
    assert documents[0].scores == {"toxicity.en": 500.0, "toxicity.zh": 0.0}
    assert documents[2].scores == {"toxicity.en": 0.0, "toxicity.zh": 0.0}
    with pytest.raises(ConfigError, match="no list of toxic words for 'fr'"):
        score_toxicity("x", "fr")

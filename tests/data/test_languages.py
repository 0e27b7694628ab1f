from pathlib import Path

import pytest

from qwill.base.errors import ConfigError
from qwill.data.families import FAMILIES, resolve_limits
from qwill.data.filters import measure
from qwill.data.languages import language, languages, read_language, shipped

GREEK = """
code: el
name: Greek
name_zh: 希腊文
script: Grek
words: spaces
sentence_end: ".;!…"
stop_words: "και το η να της"
language_score: 0.7
families: gopher_repetition gopher_quality
limits:
  gopher_quality: {max_avg_word_length: 12}
  gopher_repetition:
    top_n_grams: [[2, 0.2], [3, 0.18]]
"""


@pytest.fixture
def greek(tmp_path: Path) -> Path:
    path = tmp_path / "greek.yaml"
    path.write_text(GREEK)
    return path


def test_english_chinese_and_six_more_are_shipped_each_a_whole_file() -> None:
    assert {"en", "zh", "ar", "ja", "fr", "de", "es", "ru"} <= set(shipped())
    for code in shipped():
        one = language(code)
        assert one.code == code
        assert one.stop_words and one.families and one.name and one.name_zh
    assert {code for code in shipped() if language(code).right_to_left} == {"ar", "he"}
    assert {code for code in shipped() if language(code).words in ("chinese", "characters")} == {"zh", "ja"}


def test_chinese_has_fineweb_2s_numbers() -> None:
    zh = language("zh")
    assert zh.language_score == 0.692
    assert zh.known_as == ("zh", "yue", "wuu")
    assert zh.families == ("gopher_repetition", "fineweb", "gopher_quality")
    assert zh.limits["gopher_repetition"]["top_n_grams"] == ((2, 0.256), (3, 0.201), (4, 0.171))
    assert zh.limits["fineweb"] == {
        "line_punct_thr": 0.106, "short_line_thr": 999.0, "char_duplicates_ratio": 0.1, "new_line_ratio": 0.178,
    }  # fmt: skip
    assert {"的", "於", "于"} & zh.stop_words == {"的", "於"}


def test_a_users_own_language_is_a_path(greek: Path) -> None:
    own = language(str(greek))
    assert (own.code, own.known_as, own.families) == ("el", ("el",), ("gopher_repetition", "gopher_quality"))
    assert own.stop_words == {"και", "το", "η", "να", "της"}
    assert own.limits["gopher_quality"]["max_avg_word_length"] == 12.0
    assert [one.code for one in languages(["en", str(greek)])] == ["en", "el"]


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("name: Greek", "nmae: Greek", "nmae is not a setting; did you mean name?"),
        ("name: Greek\n", "", "name is missing"),
        ("code: el", "code: no", "code is False (true/false); expected text"),
        ("code: el", "code: other", "code is 'other'"),
        ("script: Grek", "script: Greek", "script is 'Greek', not a script's ISO 15924 code"),
        ("words: spaces", "words: grek", "words is 'grek', not a rule for words; did you mean greek?"),
        ("language_score: 0.7", "language_score: 7", "language_score is 7"),
        ("language_score: 0.7", "language_score: high", "language_score is 'high' (text); expected a number"),
        ('sentence_end: ".;!…"', 'sentence_end: ""', "sentence_end is empty"),
        ("gopher_repetition gopher_quality", "gopher_quailty", "families names 'gopher_quailty'; did you mean"),
        ("gopher_repetition gopher_quality", "c4 c4", "names 'c4' twice"),
        ("  gopher_quality: {", "  gopher: {", "limits.gopher is not a family of filters"),
        ("max_avg_word_length", "max_word_length", "limits.gopher_quality.max_word_length is not a limit"),
        ("{max_avg_word_length: 12}", "{max_avg_word_length: long}", "max_avg_word_length is 'long' (text)"),
        ("{max_avg_word_length: 12}", "12", "limits.gopher_quality is 12; expected a section"),
        ("[[2, 0.2], [3, 0.18]]", "[2, 0.2]", "top_n_grams[0] is 2"),
        ('"και το η να της"', "[και, on]", "stop_words[1] is True (true/false); expected text"),
        ("script: Grek", "script: {", "is not valid YAML"),
    ],
)
def test_each_mistake_is_one_sentence_that_names_file_and_setting(
    greek: Path, line: str, instead: str, said: str
) -> None:
    assert line in GREEK
    greek.write_text(GREEK.replace(line, instead))
    with pytest.raises(ConfigError) as raised:
        read_language(greek)
    assert said in str(raised.value)
    assert str(raised.value).startswith(str(greek))


def test_an_unknown_code_lists_the_known_and_a_code_comes_once(greek: Path) -> None:
    with pytest.raises(ConfigError, match=r"'xx' is not a language that Qwill ships .*en.*zh"):
        language("xx")
    with pytest.raises(ConfigError, match="'en' is named twice"):
        languages(["en", "zh", "en"])
    with pytest.raises(ConfigError, match="no language is named"):
        languages([])


def test_a_files_limits_reach_the_families() -> None:
    for code in shipped():
        one = language(code)
        resolved = resolve_limits(one)
        assert set(resolved) == set(FAMILIES)
        for family, limits in one.limits.items():
            assert {name: getattr(resolved[family], name) for name in limits} == limits


def test_a_line_ends_with_the_languages_own_marks() -> None:
    text = "\n".join(["أين الكتاب الذي قرأته أمس؟"] * 3)
    values = {code: measure(text, resolve_limits(language(code))["units"])["ended_lines"] for code in ("ar", "en")}
    assert values == {"ar": 1.0, "en": 0.0}


def test_the_worked_example_of_the_documentation_is_a_language(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/en/languages.md").read_text()
    path = tmp_path / "greek.yaml"
    path.write_text(page.split("```yaml\n")[1].split("```")[0])
    assert read_language(path).words == "greek"
    assert {code for code in shipped() if f"| `{code}` |" not in page} == set()

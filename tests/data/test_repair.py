import unicodedata

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.data.repair import _LINE_END, _PLAIN, _PLAIN_MARKUP, _fixed, _ftfy_config, repair

# With surrogates: JSON may carry half of a pair, and what is repaired must be writable as UTF-8.
any_text = st.text(st.characters(codec=None, exclude_categories=()))


@pytest.mark.parametrize(
    ("broken", "repaired"),
    [
        ("sÃ­, cafÃ© au lait", "sí, café au lait"),
        ("It&#8217;s a &quot;test&quot; &amp; more", 'It’s a "test" & more'),
        ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
        ("zero\u200bwidth soft\u00adhyphen \ufeffmark", "zerowidth softhyphen mark"),
        ("no\u00a0break\u3000wide", "no break wide"),
        ("bell\x07 and null\x00", "bell and null"),
        ("e\u0301tude", "étude"),
        ("trailing   \n\n\n\n\nlines  ", "trailing\n\nlines"),
        ("half a pair \ud83d", "half a pair \ufffd"),
    ],
)
def test_what_is_broken_is_mended(broken: str, repaired: str) -> None:
    assert repair(broken) == repaired


@pytest.mark.parametrize(
    "text",
    [
        "你好，世界！（真的？）“引号”‘单引号’——是的……",  # full-width punctuation is correct Chinese
        "ＡＢＣ１２３",
        "def f(x):\n    return [\n\t1,  2]",  # spaces and tabs carry meaning
        "👩\u200d👩\u200d👧 می\u200cخواهم",  # joiners carry meaning
        "lost \ufffd character",
    ],
)
def test_what_is_right_stays(text: str) -> None:
    assert repair(text) == text


@given(any_text)
def test_the_result_is_plain_and_final(text: str) -> None:
    result = repair(text)
    assert repair(result) == result
    assert unicodedata.is_normalized("NFC", result)
    assert result.encode("utf-8").decode("utf-8") == result
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in result)


@given(st.from_regex(_PLAIN, fullmatch=True))
def test_the_short_cut_passes_by_nothing_that_ftfy_would_repair(text: str) -> None:
    assert ftfy.fix_text(text, _ftfy_config()) == text


@given(st.from_regex(_PLAIN_MARKUP, fullmatch=True))
def test_below_markup_an_ampersand_is_plain_too(text: str) -> None:
    assert ftfy.fix_text("<" + text, _ftfy_config()) == "<" + text


@given(
    st.lists(
        st.sampled_from(["plain text", "â€œquoted", "caf\u00e9", "cafÃ©", "&amp;", "&lt;<b>", "<b>", "中文"])
        | st.sampled_from(["\ufb01ne", "e\u0301", "ï¼Œ", " "])
        | st.text(max_size=12),
        max_size=8,
    ),
    st.sampled_from(["\n", " \n", "\n\n"]),
)
def test_lines_apart_are_fixed_as_the_whole_text_is(lines: list[str], end: str) -> None:
    import ftfy

    text = _LINE_END.sub("\n", end.join(lines))
    assert _fixed(text) == ftfy.fix_text(text, _ftfy_config())

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwill.evaluate.numerals import LARGEST_CHINESE, from_chinese, read_integers, to_chinese

KNOWN = {
    0: "零",
    2: "二",
    10: "十",
    11: "十一",
    20: "二十",
    37: "三十七",
    100: "一百",
    101: "一百零一",
    110: "一百一十",
    111: "一百一十一",
    1005: "一千零五",
    1050: "一千零五十",
    4731: "四千七百三十一",
    10000: "一万",
    10001: "一万零一",
    10010: "一万零一十",
    10100: "一万零一百",
    12000: "一万二千",
    100000: "十万",
    1000000: "一百万",
    20300040: "二千零三十万零四十",
    99999999: "九千九百九十九万九千九百九十九",
}


@pytest.mark.parametrize("value", KNOWN)
def test_known_numerals(value: int) -> None:
    assert to_chinese(value) == KNOWN[value]
    assert from_chinese(KNOWN[value]) == value


@given(st.integers(0, LARGEST_CHINESE))
@example(10_000_010)
@example(90_009_000)
def test_what_is_written_is_read_back(value: int) -> None:
    assert from_chinese(to_chinese(value)) == value


@given(st.integers(0, LARGEST_CHINESE))
def test_liang_and_circle_zero_are_read(value: int) -> None:
    written = to_chinese(value)
    assert from_chinese(written.replace("零", "〇")) == value
    assert from_chinese(written.replace("二千", "两千")) == value


@given(st.text("0123456789", min_size=2, max_size=9))
def test_digit_by_digit_keeps_leading_zeros(digits: str) -> None:
    spelled = "".join("零一二三四五六七八九"[int(digit)] for digit in digits)
    assert read_integers(spelled, "zh") == [digits]
    assert from_chinese(spelled) == int(digits)


@pytest.mark.parametrize(
    "text", ["", "三x", "一百五", "百十", "十百", "三十零七", "一千五十", "万", "二万万", "七三十"]
)
def test_malformed_numerals_are_refused(text: str) -> None:
    assert from_chinese(text) is None


@pytest.mark.parametrize("value", [-1, LARGEST_CHINESE + 1])
def test_writing_outside_the_range_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=str(value)):
        to_chinese(value)


@given(st.lists(st.integers(0, 99_999_999), max_size=6), st.sampled_from([", ", "; ", " and ", "\n- ", " + "]))
def test_english_lists_are_read_in_order(values: list[int], separator: str) -> None:
    wanted = [str(value) for value in values]
    assert read_integers(separator.join(wanted), "en") == wanted
    assert read_integers(separator.join(f"{value:,}" for value in values), "en") == wanted


FULL_WIDTH = str.maketrans("0123456789", "".join(chr(0xFF10 + digit) for digit in range(10)))


@given(st.lists(st.integers(0, 99_999_999), max_size=6), st.sampled_from(["、", "\uff0c", "和", "与", "\uff1b"]))
def test_chinese_lists_are_read_in_order_in_every_notation(values: list[int], separator: str) -> None:
    wanted = [str(value) for value in values]
    assert read_integers("答案是" + separator.join(wanted), "zh") == wanted
    assert read_integers(separator.join(wanted).translate(FULL_WIDTH), "zh") == wanted
    assert read_integers(separator.join(map(to_chinese, values)) + "。", "zh") == wanted


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("这两个数是4000和731。", ["4000", "731"]),
        ("第一个数是4000\uff0c第二个数是731", ["4000", "731"]),
        ("四千和731", ["4000", "731"]),
        ("一个是三十一个是七", ["31", "7"]),
        ("一共二十", ["20"]),
    ],
)
def test_numeral_characters_that_are_grammar_do_not_count(text: str, found: list[str]) -> None:
    assert read_integers(text, "zh") == found


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "text",
    [
        "-5",
        "5.5",
        "1/2",
        "½",
        "①",
        "3²",
        "3x4",
        "37-41",
        "37~41",
        "50%",
        "7*6",
        "x9",
        "\uff0d5",
        "5\uff0e5",
        "٣",
        "Ⅻ",
    ],
)
def test_anything_but_a_plain_whole_number_is_refused(text: str, language: str) -> None:
    assert read_integers(text, language) is None


@pytest.mark.parametrize("text", ["forty or 41", "41 (Twenty is another)", "41 三十", "minus 5", "two hundred"])
def test_numbers_in_disguise_are_refused_in_english(text: str) -> None:
    assert read_integers(text, "en") is None


@pytest.mark.parametrize("text", ["一百五和7", "负五", "三亿", "壹佰"])
def test_numbers_in_disguise_are_refused_in_chinese(text: str) -> None:
    assert read_integers(text, "zh") is None

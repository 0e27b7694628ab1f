"""Whole numbers as people write them in English and Chinese: Chinese numerals, and the integers of a reply.

`read_integers` is what every verifier stands on. It is deliberately strict: a reply whose numbers can be read
in two ways, or that hides a number in a form that is not read, is refused (`None`) rather than guessed at.
"""

import re

CHINESE_DIGITS = "零一二三四五六七八九"
LARGEST_CHINESE = 99_999_999

_PLACES = ("", "十", "百", "千")
_PLACE_VALUE = {"十": 10, "百": 100, "千": 1000}
_NUMERAL_CHARACTERS = "零〇一二两三四五六七八九十百千万"
_DIGIT_VALUE = {character: value for value, character in enumerate(CHINESE_DIGITS)} | {"〇": 0}

# Full-width digits and signs only. NFKC would also turn ² and ① into digits, which nobody means as an answer,
# and the full-width comma into a thousands comma, which in Chinese it never is.
_FULL_WIDTH = {0xFF10 + digit: ord("0") + digit for digit in range(10)} | {
    0xFF0E: ".",
    0xFF0D: "-",
    0x2212: "-",
    0xFF0F: "/",
    0xFF05: "%",
}

_ASCII_INTEGER = re.compile(
    r"(?<![A-Za-z0-9_.])(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])|[0-9]+)(?![0-9A-Za-z_%]|\.[0-9])"
)
_CHINESE_NUMBER = re.compile(f"[{_NUMERAL_CHARACTERS}]+")
# Numeral characters that are grammar and not a number: 这两个数是…, 第一个, 一共.
_CHINESE_IDIOM = re.compile(
    f"第[一二三四五六七八九十](?![{_NUMERAL_CHARACTERS}])"
    f"|(?<![{_NUMERAL_CHARACTERS}第])[一两](?=个|者|数|下|共|些|起|样|种|位)"
)
# A sign, a ratio, a range or a product is not an integer; 4-7 must not read as "4 and 7".
_NOT_A_PLAIN_INTEGER = re.compile(r"-[0-9]|\^|负|[0-9]\s*[/×÷~:*–—]\s*[0-9]|\b(?:minus|negative)\b", re.IGNORECASE)
# Small number words are prose ("the two numbers are …"); larger ones would be a second answer in disguise.
_ENGLISH_NUMBER_WORD = re.compile(
    r"\b(?:eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|"
    r"ninety|hundred|thousand|million)\b",
    re.IGNORECASE,
)


def to_chinese(value: int) -> str:
    """Standard Chinese numeral of 0..99,999,999: 10 → 十, 4731 → 四千七百三十一, 10005 → 一万零五.

    Raises ValueError outside that range.
    """
    if not 0 <= value <= LARGEST_CHINESE:
        raise ValueError(f"to_chinese writes 0 to {LARGEST_CHINESE}, and {value} is outside.")
    high, low = divmod(value, 10_000)
    if not high:
        return _drop_leading_one(_below_ten_thousand(low))
    text = _below_ten_thousand(high) + "万"
    if low:
        text += ("零" if low < 1000 else "") + _below_ten_thousand(low)
    return _drop_leading_one(text)


def _below_ten_thousand(value: int) -> str:
    digits = str(value)
    text = ""
    for place, digit in zip(range(len(digits) - 1, -1, -1), digits, strict=True):
        if digit != "0":
            text += CHINESE_DIGITS[int(digit)] + _PLACES[place]
        elif text and not text.endswith("零"):
            text += "零"
    return text.rstrip("零") or "零"


def _drop_leading_one(text: str) -> str:
    return text[1:] if text.startswith("一十") else text


def from_chinese(text: str) -> int | None:
    """The value of a Chinese numeral (三十七, 两千零五, 一十二), or None if it is not well formed.

    A string of bare digits is read digit by digit (三七 → 37). Colloquial short forms such as 一百五 are
    refused, because 105 and 150 are both meant by somebody.
    """
    digits = chinese_digit_string(text)
    return None if digits is None else int(digits)


def chinese_digit_string(text: str) -> str | None:
    """As `from_chinese`, but as ASCII digits, so that leading zeros survive (零零七 → "007")."""
    if not text or any(character not in _NUMERAL_CHARACTERS for character in text):
        return None
    if len(text) > 1 and all(character in _DIGIT_VALUE for character in text):
        return "".join(str(_DIGIT_VALUE[character]) for character in text)
    plain = _drop_leading_one(text.replace("两", "二").replace("〇", "零"))
    value = _loose_value(plain)
    # Reading loosely and writing again is the shortest complete check of well-formedness.
    return str(value) if value <= LARGEST_CHINESE and to_chinese(value) == plain else None


def _loose_value(text: str) -> int:
    total = section = digit = 0
    for character in text:
        if character == "万":
            total, section, digit = (total + section + digit) * 10_000, 0, 0
        elif character in _PLACE_VALUE:
            section, digit = section + (digit or 1) * _PLACE_VALUE[character], 0
        else:
            digit = _DIGIT_VALUE[character]
    return total + section + digit


def read_integers(text: str, language: str) -> list[str] | None:
    """Every whole number of a reply, in order, as ASCII digits (leading zeros kept, thousands commas gone).

    Chinese numerals count in Chinese replies (`language == "zh"`). None when the reply holds a number that is
    not a plain non-negative integer: a sign, a decimal, a fraction, a range, ①, ½, an English number word
    above ten.
    """
    text = text.translate(_FULL_WIDTH)
    if _NOT_A_PLAIN_INTEGER.search(text):
        return None
    found = [(match.start(), match.group().replace(",", "")) for match in _ASCII_INTEGER.finditer(text)]
    rest = _ASCII_INTEGER.sub(lambda match: " " * len(match.group()), text)
    if language == "zh":
        rest = _CHINESE_IDIOM.sub(lambda match: " " * len(match.group()), rest)
        for match in _CHINESE_NUMBER.finditer(rest):
            digits = chinese_digit_string(match.group())
            if digits is None:
                return None
            found.append((match.start(), digits))
        rest = _CHINESE_NUMBER.sub(" ", rest)
    elif _ENGLISH_NUMBER_WORD.search(rest):
        return None
    if any(character.isnumeric() for character in rest):
        return None
    return [digits for _, digits in sorted(found)]

"""Mathematics in words as signs, in both languages: minus five is -5, 至少3 is ≥3, two thirds is 2/3, 3千 is 3000.

So that one reader does for all. What isn't understood stays as it is.
"""

from __future__ import annotations

import re
from fractions import Fraction

from qwill.evaluate.numerals import from_chinese
from qwill.evaluate.plain_values import NUMERALS, written_out

HAN = "\u3400-\u9fff"

_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = {"thousand": 1000, "million": 10**6, "billion": 10**9}
_PARTS = {"half": 2, "halves": 2} | {
    f"{name}{end}": under
    for under, names in {
        3: "third", 4: "quarter fourth", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth", 9: "ninth", 10: "tenth",
    }.items()
    for name in names.split()
    for end in ("", "s")
}  # fmt: skip
_VALUE = {name: value for value, name in enumerate(_SMALL)} | {
    name: 20 + 10 * place for place, name in enumerate(_TENS)
}
_WORD = "|".join(sorted([*_VALUE, "hundred", *_SCALES, *_PARTS], key=len, reverse=True))
_RUN = re.compile(
    rf"\b(?:a\s{{1,3}})?(?:{_WORD})(?:(?:\s{{1,3}}and\s{{1,3}}(?:a\s{{1,3}})?|[\s-]\s{{0,2}})(?:{_WORD}))*+"
    rf"(?:\s{{1,3}}point(?:\s{{1,3}}(?:{'|'.join(_SMALL[:10])}))+)?\b",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(r"\b(?:negative|minus)\s{1,3}$", re.IGNORECASE)
_HALF_MORE = re.compile(r"(?<![\d.,/])(\d{1,15}) and (?:a|one) half\b", re.IGNORECASE)

# What a number in digits, a root or a command begins with; and in Chinese a numeral.
_NUMBER = r"(?=[-$¥€£(]{0,2}(?:\d|\.\d|\\|√|π))"
_EITHER = rf"(?=[-$¥€£(]{{0,2}}(?:\d|\.\d|\\|√|π|负?[{NUMERALS}]))"
_RULES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern, re.IGNORECASE), sign)
    for pattern, sign in (
        # A correction leaves what is right.
        (r"\b(?:not|isn't)\s{1,3}\$?[\d.,/-]{1,20}\$?,?\s{1,3}but\s{1,3}(?:rather\s{1,3})?", ""),
        (rf"(?:不是|并非)\s?[^，,。\n]{{1,20}}[，,]?\s?而是\s?{_EITHER}", "是"),
        (rf"\b(?:at\s{{1,3}}least|(?:no|not)\s{{1,3}}(?:less|fewer)\s{{1,3}}than)\s{{1,3}}{_NUMBER}", "≥"),
        (rf"\b(?:at\s{{1,3}}most|(?:no|not)\s{{1,3}}more\s{{1,3}}than)\s{{1,3}}{_NUMBER}", "≤"),
        (rf"\b(?:greater|more|larger|higher)\s{{1,3}}than\s{{1,3}}or\s{{1,3}}equal\s{{1,3}}to\s{{1,3}}{_NUMBER}", "≥"),
        (rf"\b(?:less|smaller|fewer|lower)\s{{1,3}}than\s{{1,3}}or\s{{1,3}}equal\s{{1,3}}to\s{{1,3}}{_NUMBER}", "≤"),
        (rf"\b(?:greater|more|larger|higher)\s{{1,3}}than\s{{1,3}}{_NUMBER}", ">"),
        (rf"\b(?:less|smaller|fewer|lower)\s{{1,3}}than\s{{1,3}}{_NUMBER}", "<"),
        (rf"\b(?:not|isn't)\s{{1,3}}(?:equal\s{{1,3}}to\s{{1,3}})?{_NUMBER}", "≠"),
        (rf"(?:至少|不少于|不小于|不低于|大于或?等于)(?:是|为)?\s?{_EITHER}", "≥"),
        (rf"(?:至多|不超过|不大于|不多于|不高于|小于或?等于)(?:是|为)?\s?{_EITHER}", "≤"),
        (rf"(?:大于|超过|多于|高于)\s?{_EITHER}", ">"),
        (rf"(?:小于|少于|低于|不到|不足)\s?{_EITHER}", "<"),
        (rf"(?:不是|不等于|并非|不为)\s?{_EITHER}", "≠"),
        (rf"(?<=[\d)}}])\s{{0,3}}\bminus\s{{1,3}}{_NUMBER}", " - "),
        (rf"\b(?:negative|minus)\s{{1,3}}{_NUMBER}", "-"),
        (rf"零下\s?(?=[{NUMERALS}])", "负"),
        (r"(?:零下|负)\s?(?=\d|\.\d|\\|√|π)", "-"),
        (r"(?<![\w)\]}%°])(?<![\d)\]}%°]\s)(?<!\b[a-z]\s)–(?=\d)", "-"),
        (r"\b(?:the\s{1,3})?square\s{1,3}root\s{1,3}of\s{1,3}(?=\d|[a-z]\b)", "√"),
        (r"根号下?\s?(?=[\d({a-z])", "√"),
        (r"\b(?:the\s{1,3})?square\s{1,3}of\s{1,3}(\d{1,20})(?![\d.,]\d)", r"\1^2"),
        (r"(?<![\\a-z])sqrt\s?(?=[({]\s?[\w.])", "√"),
        (r"(?<![\\a-z])pi(?![a-z])", "π"),
        (r"(?<=\d)(?:\s?squared\b|的平方(?!根))", "^2"),
        (r"(?<=\d)(?:\s?cubed\b|的立方(?!根))", "^3"),
        (r"(?<![\\a-z])(log|ln|sin|cos|tan)(?=\s?\(?\d)", r"\\\1"),
    )
]
_OF_THOUSANDS = re.compile(
    r"(?<![\d.,])(\d{1,3}(?:,\d{3}){1,5}|\d{1,15}(?:\.\d{1,15})?)\s(dozen|hundred|thousand|million|billion)\b",
    re.IGNORECASE,
)
_ROOT = re.compile(r"√\s?(?:(\d+(?:\.\d+)?|[a-zA-Z])|\(([^()]{1,40})\)|\{([^{}]{1,40})\})")
_ROOT_OF_NUMERAL = re.compile(rf"根号下?([{NUMERALS}]{{1,20}})")
_MARKS = {
    "π": "\\pi ", "²": "^2", "³": "^3", "×": "\\times ", "÷": "\\div ", "·": "\\cdot ", "≤": "\\leq ", "≥": "\\geq ",
    "≠": "\\neq ", "∞": "\\infty ", "∪": "\\cup ", "∩": "\\cap ", "±": "\\pm ", "∈": "\\in ", "°": "^\\circ ",
    "，": ",", "、": ",", "；": ",", "：": " ",
}  # fmt: skip
_SHARES = dict(zip("½⅓⅔¼¾⅛", map(Fraction, ("1/2", "1/3", "2/3", "1/4", "3/4", "1/8")), strict=True))
_HALVES = re.compile(r"(?<![a-zA-Z\d)\]}.,/½⅓⅔¼¾⅛])(\d{1,15})?\s?([½⅓⅔¼¾⅛])(?![\d½⅓⅔¼¾⅛])")
_RELATION = re.compile(r"\\(?:geq?|leq?|neq?)\b|[<>]")


def signs(text: str) -> str:
    """Of a text whose digits are narrow: words for signs, relations, roots and 3千 as signs and digits."""
    for pattern, sign in _RULES:
        text = pattern.sub(sign, text)
    text = _HALVES.sub(_part, text)

    def numeral(match: re.Match[str]) -> str:
        value = from_chinese(match[1])
        return match[0] if value is None else f"\\sqrt{{{value}}}"

    text = _ROOT_OF_NUMERAL.sub(numeral, text)
    text = _ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2] or match[3]}}}", text)
    return _OF_THOUSANDS.sub(_thousands, written_out(text))


def _part(match: re.Match[str]) -> str:
    """7½ as 15/2, and ½ alone as 1/2."""
    return str(int(match[1] or 0) + _SHARES[match[2]])


def _thousands(match: re.Match[str]) -> str:
    value = Fraction(match[1].replace(",", "")) * (_SCALES | {"dozen": 12, "hundred": 100})[match[2].casefold()]
    return str(value) if value.denominator == 1 else match[0]


def english_numbers(text: str) -> str:
    """twelve as 12, one half as 1/2, in a text without digits: beside digits "the two of them" is no second number."""
    text = _HALF_MORE.sub(lambda match: f"{2 * int(match[1]) + 1}/2", text)
    if re.search(r"\d", text):
        return text

    def digits(match: re.Match[str]) -> str:
        words = re.findall(r"[a-z]+", match[0].casefold())
        # "one" alone is a word; it is a number where nothing else stands.
        before = text[max(0, match.start() - 12) : match.start()]
        alone = not _NEGATIVE.search(before) and text.strip(" *.()$") != match[0]
        if words in (["one"], ["half"]) and alone:
            return match[0]
        value = _value(words)
        return match[0] if value is None else str(value)

    text = _RUN.sub(digits, text)
    for pattern, sign in _RULES:
        text = pattern.sub(sign, text)
    return text


def _value(words: list[str]) -> Fraction | None:
    """Of the words of one number; None where they are none, as in five six."""
    if "point" in words:
        at = words.index("point")
        whole = _whole([word for word in words[:at] if word != "and"])
        decimals = "".join(str(_VALUE[word]) for word in words[at + 1 :])
        return None if whole is None else Fraction(f"{whole}.{decimals}")
    if words[-1] not in _PARTS:
        found = _whole([word for word in words if word != "and"])
        return None if found is None else Fraction(found)
    under, over = _PARTS[words[-1]], words[:-1]
    whole = 0
    if "and" in over:
        at = len(over) - 1 - over[::-1].index("and")
        before = _whole([word for word in over[:at] if word != "and"])
        if before is None:
            return None
        whole, over = before, over[at + 1 :]
    above = 1 if over == ["a"] or (not over and under == 2) else _whole(over)
    return None if above is None or not 0 < above < 1000 else whole + Fraction(above, under)


def _whole(words: list[str]) -> int | None:
    if not words:
        return None
    total = section = 0
    scale = 10**12
    last = 1000
    for word in ["one", *words[1:]] if words[0] == "a" else words:
        if word in _SCALES:
            if not section or _SCALES[word] >= scale:
                return None
            scale = _SCALES[word]
            total, section, last = total + section * scale, 0, 1000
        elif word == "hundred":
            if not 0 < section < 10:
                return None
            section, last = section * 100, 100
        elif word in _VALUE and (value := _VALUE[word]) < last and (last > 20 or value < 10):
            # Behind twenty comes 1 to 9, behind a hundred anything smaller.
            section, last = section + value, 10 if value >= 20 else 0
        else:
            return None
    return total + section


def formula(text: str) -> str:
    """A text as LaTeX can say it: signs as commands, Chinese commas and 和 as commas, other Chinese left out."""
    text = text.replace("$", " ")
    for mark, command in _MARKS.items():
        text = text.replace(mark, command)
    text = re.sub(r"(?<=[^a-zA-Z])(?:or|and)\s(?=\s{0,3}[-\d\\(a-z])", ",", text)
    text = re.sub("(?:和|与|及|以及|或|或者)(?=\\s{0,3}[-\\d\\\\(a-z])", ",", text)
    text = re.sub(f"(?<=\\d)\\s?[{HAN}]+\\s?(?=\\d)", ",", text)
    text = re.sub(f"[{HAN}。]+", " ", text).strip(" .,*\n")
    return f"x {text}" if _RELATION.match(text) else text

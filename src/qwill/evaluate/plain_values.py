"""Plain values as people write them in English and Chinese, read exactly: 3/4, 1,234.5, 50%, 三分之二, ３．５万, 5 km.

`read` is strict: what isn't wholly one number, perhaps with a unit, is None and left to a computer algebra system. It
is fast, since most replies of reinforcement learning on mathematics end with such a value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from qwill.evaluate.numerals import from_chinese

LONGEST = 80  # characters of a value; int() is quadratic in the number of digits

# Signs and digits of full width, but not the comma, which in Chinese never parts thousands. NFKC would also make 5m²
# into 5m2.
NARROW = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if code != 0xFF0C} | {
    0x2212: "-", 0x3000: " ", 0xA0: " ", 0x202F: " ", 0x2009: " ", 0xFFE5: "¥", 0xFE6A: "%",
}  # fmt: skip


@dataclass(frozen=True)
class Plain:
    """number: as written, 50 of 50%. unit: as in UNITS, "%" for a percentage, "" where there is none."""

    number: Fraction
    unit: str = ""


# What is measured, and how much of its base unit (m, kg, s, m², m³, yuan, dollar, m/s, degree) one is.
_TABLE: dict[str, list[tuple[str, str]]] = {
    "length": [
        ("1/1000", "mm 毫米"), ("1/100", "cm 厘米 公分 centimeter centimeters"), ("1/10", "dm 分米"),
        ("1", "m 米 meter meters metre metres"), ("1000", "km 千米 公里 kilometer kilometers kilometre kilometres"),
        ("254/10000", "inch inches 英寸"), ("3048/10000", "ft foot feet 英尺"), ("1609344/1000", "mile miles 英里"),
    ],
    "mass": [
        ("1/1000000", "mg 毫克"), ("1/1000", "g 克 gram grams"), ("1/2", "斤"), ("1/20", "两"),
        ("1", "kg 千克 公斤 kilogram kilograms"), ("1000", "吨 ton tons tonnes"),
    ],
    "time": [
        ("1/1000", "ms 毫秒"), ("1", "s 秒 秒钟 sec second seconds"), ("60", "min 分钟 minute minutes"),
        ("3600", "h 小时 hour hours"), ("86400", "天 日 day days"), ("604800", "周 星期 week weeks"),
    ],
    "area": [
        ("1/10000", "cm² 平方厘米"), ("1/100", "dm² 平方分米"), ("1", "m² 平方米"), ("10000", "公顷 hectares"),
        ("1000000", "km² 平方千米 平方公里"),
    ],
    "volume": [
        ("1/1000000", "cm³ 立方厘米 mL ml 毫升"), ("1/1000", "dm³ 立方分米 L 升 liter liters litre litres"),
        ("1", "m³ 立方米"),
    ],
    "yuan": [("1/100", "分"), ("1/10", "角"), ("1", "元 ¥ 块 块钱 圆 yuan RMB 人民币")],
    "dollar": [("1/100", "cent cents 美分"), ("1", "$ dollar dollars USD 美元")],
    "euro": [("1", "€ euro euros EUR 欧元")],
    "pound": [("1", "£ GBP 英镑")],
    "speed": [("1000/3600", "km/h 千米/时 千米/小时 公里/小时"), ("1", "m/s 米/秒"), ("1609344/3600000", "mph")],
    "angle": [("1", "° 度 degree degrees")],
    "%": [("1", "% 百分 percent pct percentage")],
}  # fmt: skip
UNITS = {
    name: (kind, Fraction(size)) for kind, rows in _TABLE.items() for size, names in rows for name in names.split()
}
# What only says what is counted.
_COUNTED = set("个只人名位本支枝条张棵头辆台件岁次页颗朵套种组间把双盒箱袋瓶杯道题倍")
NUMERALS = "零〇一二两三四五六七八九十百千万亿"
# What behind 两个 says no noun but another number, a part, a bound or a power.
NO_NOUN = set("半多或和到至与不余几来以上下倍根次方幂π分之加减乘除" + NUMERALS)
# "!" ends a sentence; directly behind a number it is a factorial.
_END = re.compile(r"\s*(?:[.。;；]|\\\.|(?<![\d)\]}!\s$])!)+$")
_MULTIPLE = {"百": 100, "千": 1000, "万": 10_000, "亿": 100_000_000}
# 3千, 2百万, 1亿2千万; but not 3千克 and not 3千5.
_IN_MULTIPLES = re.compile(
    r"(?<![\d.,])((?:\d{1,15}(?:\.\d{1,15})?\s?[百千万亿]{1,4})++)(?![\d百千万亿零〇一二两三四五六七八九十分克米瓦卡焦赫伏帕牛升吨安欧字比])"
)
_MULTIPLES: dict[str, int] = {
    "hundred": 100, "thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000, "万": 10_000, "亿": 100_000_000,
}  # fmt: skip

_INTEGER = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d+)?|\.\d+)"
_FRACTION = rf"\\frac(?:\{{({_DECIMAL})\}}\{{({_DECIMAL})\}}|(\d)(\d))"
_NUMBER = re.compile(
    rf"([+-]?)\s*(?:(?P<whole>\d+)?\s*{_FRACTION}"
    rf"|(?:(?P<mixed>\d+)\s+)?(?P<over>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL})"
    rf"|(?P<decimal>{_DECIMAL})(?:e(?P<e>[+-]?\d{{1,2}})|\s*(?:\\times|\\cdot|×|\*)\s*10\^\{{?(?P<ten>-?\d{{1,2}})\}}?)?)",
    re.IGNORECASE,
)
_CHINESE = re.compile(
    rf"([负正]?)(?:(?P<by>百|千|万)分之(?P<of>[{NUMERALS}点]+|{_DECIMAL})|(?:(?P<whole>[{NUMERALS}]+)又)?"
    rf"(?P<under>[{NUMERALS}]+|\d+)分之(?P<over>[{NUMERALS}]+|\d+)|(?P<half>一?半)|(?P<number>[{NUMERALS}]+(?:点[{NUMERALS}]+)?))"
)


def narrow(text: str) -> str:
    """Full-width digits, letters and signs as narrow ones."""
    return text.translate(NARROW)


def chinese_value(text: str) -> Fraction | None:
    """一百二十三, 两亿零五万, 三点一四, ten to the eighth and more; None where it is not well formed."""
    whole, point, digits = text.partition("点")
    high, hundred_millions, low = whole.rpartition("亿")
    value = from_chinese(low) if low else 0
    if hundred_millions:
        more = chinese_value(high)
        value = from_chinese(low.removeprefix("零")) if low else 0
        # 三亿五 may be 350,000,000 or 300,000,005.
        if more is None or value is None or (low and not low.startswith("零") and value < 10**7):
            return None
        value += int(more) * 10**8
    if value is None or not whole:
        return None
    if not point:
        return Fraction(value)
    said = [from_chinese(one) for one in digits]
    if not said or any(one is None or one > 9 for one in said):
        return None
    return value + Fraction(int("".join(map(str, said))), 10 ** len(said))


def written_out(text: str) -> str:
    """Digits with 百, 千, 万 and 亿 behind them as digits alone: 3千 as 3000, 1亿2千万 as 120000000."""

    def digits(match: re.Match[str]) -> str:
        total, least = Fraction(0), 10**20
        for number, names in re.findall(r"([\d.]+)\s?([百千万亿]+)", match[1]):
            times = 1
            for name in names:
                times *= _MULTIPLE[name]
            if times >= least:
                return match[0]
            total, least = total + Fraction(number) * times, times
        return str(total) if total.denominator == 1 else match[0]

    return _IN_MULTIPLES.sub(digits, text)


def read(text: str) -> Plain | None:
    """The one value that a text is, or None."""
    if len(text) > LONGEST * 3:
        return None
    text = written_out(_bare(narrow(text)))
    if not text or len(text) > LONGEST:
        return None
    currency = ""
    if found := re.match(r"([+-]?)\s*([$¥€£])\s*(?=[\d.])", text):
        currency, text = found[2], found[1] + text[found.end() :]
    if found := _NUMBER.match(text):
        number = _ascii_number(found)
        unit = ""
    elif found := _CHINESE.match(text):
        number, unit = _chinese_number(found)
    else:
        return None
    rest = text[found.end() :].strip()
    for name, times in _MULTIPLES.items():
        if number is not None and not unit and rest.casefold().startswith(name):
            number, rest = number * times, rest[len(name) :].strip()
            break
    if number is None or (unit and rest) or (currency and rest):
        return None
    return Plain(number, unit or currency) if not rest else _with_unit(number, rest)


def _with_unit(number: Fraction, rest: str) -> Plain | None:
    rest = re.sub(r"(?<=[a-z])\^?\{?([23])\}?$", lambda m: "²³"[int(m[1]) - 2], rest)
    if rest in UNITS or rest.casefold() in UNITS:
        return Plain(number, rest if rest in UNITS else rest.casefold())
    # 两个半小时, 一页半: and a half of the same.
    half = re.fullmatch(r"(.{1,4}?)\s?半(.{0,4})", rest)
    if half and number.denominator == 1 and (half[1] in _COUNTED or half[1] in UNITS):
        number += Fraction(-1 if number < 0 else 1, 2)
        unit, noun = (half[1], half[2]) if half[1] in UNITS else ("", half[2].strip())
    elif rest[0] in _COUNTED:
        unit, noun = "", rest[1:].strip()
    else:
        return None
    if noun in UNITS:
        return None if unit else Plain(number, noun)
    # A noun is all that a counter may have behind it.
    is_noun = len(noun) <= 3 and all("\u3400" <= character <= "\u9fff" for character in noun)
    return Plain(number, unit) if is_noun and not NO_NOUN & set(noun) else None


def _bare(text: str) -> str:
    """Without the marks of LaTeX that don't change a value, and without what ends a sentence."""
    text = text.strip().strip("*").strip()
    text = _END.sub("", text)
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if len(text) > 2 * len(opening) and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)].strip()
            break
    if "\\" in text or "{" in text:
        text = re.sub(r"\\[dtc]frac", r"\\frac", text)
        text = re.sub(r"\\(?:text|mathrm|mbox|textbf|mathbf)\s*\{([^{}]*)\}", r" \1", text)
        text = text.replace("{,}", ",").replace("\\%", "%").replace("\\$", "$")
        text = re.sub(r"\\[,!; ]|\\(?:left|right|quad)\b|~", lambda m: "" if m[0] in ("\\,", "\\!") else " ", text)
        text = re.sub(r"\s*\^\s*(?:\{\\circ\}|\\circ)", "°", text)
    text = _END.sub("", text.strip())
    return text.strip()


def _ascii_number(found: re.Match[str]) -> Fraction | None:
    def exact(digits: str) -> Fraction:
        return Fraction(digits.replace(",", ""))

    over, under = found[3] or found[5] or found["over"], found[4] or found[6] or found["under"]
    if over is not None:
        if not exact(under):
            return None
        value = exact(over) / exact(under)
        whole = found["whole"] or found["mixed"]
        # 1 1/2 is a mixed number; 12 34/5 is none.
        if whole is not None and value >= 1:
            return None
        value += exact(whole) if whole is not None else 0
    else:
        value = exact(found["decimal"])
        power = int(found["e"] or found["ten"] or 0)
        value *= Fraction(10) ** power
    return -value if found[1] == "-" else value


def _chinese_number(found: re.Match[str]) -> tuple[Fraction | None, str]:
    def exact(said: str) -> Fraction | None:
        return Fraction(said.replace(",", "")) if said[0].isdecimal() or said[0] == "." else chinese_value(said)

    unit, value = "", None
    if found["by"]:
        value, unit = exact(found["of"]), "%"
        if value is not None and found["by"] != "百":
            value /= 1000 if found["by"] == "千" else 10_000
            unit = ""
    elif found["under"]:
        under, over = exact(found["under"]), exact(found["over"])
        whole = exact(found["whole"]) if found["whole"] else Fraction(0)
        if under and over is not None and whole is not None:
            value = whole + over / under
    elif found["half"]:
        value = Fraction(1, 2)
    else:
        value = exact(found["number"])
    return (-value if value is not None and found[1] == "负" else value), unit


def same(wanted: Plain, said: Plain) -> bool | None:
    """Whether two values are equal; None where they differ by no more than rounding, which is for others to judge.

    Units that are both known must agree, after conversion (5 km is 5000 m and not 5 m); one alone may be left out. A
    percentage is its value (50% is 0.5), and a sign that only one of the two has may be left out (50% and 50), unless
    it would make a value that is written as a share, such as 0.28, a hundred times smaller.
    """
    kind, size = UNITS.get(wanted.unit, ("", Fraction(1)))
    other, other_size = UNITS.get(said.unit, ("", Fraction(1)))
    pairs = [(wanted.number, said.number)]
    if kind == other:
        pairs = [(wanted.number * size, said.number * other_size)]
    elif "%" in (kind, other):
        if kind and other:
            return False
        value = (wanted.number / (100 if kind == "%" else 1), said.number / (100 if other == "%" else 1))
        pairs = [value, *([] if other == "%" and abs(said.number) <= 1 else pairs)]
    elif kind and other:
        return False
    if any(one == two for one, two in pairs):
        return True
    near = any(abs(one - two) <= max(Fraction(1), abs(one)) / 1000 for one, two in pairs)
    return None if near and not (_whole(pairs)) else False


def _whole(pairs: list[tuple[Fraction, Fraction]]) -> bool:
    return all(value.denominator == 1 for pair in pairs for value in pair)

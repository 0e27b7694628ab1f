"""Text as it is compared, never as it is written: one form for what differs only in script variant, width or case.

`fold` is Unicode's NFKC with case folding and without default-ignorable code points (UAX 31's NFKC_Casefold), one kind
of quote, and every Chinese character as its simplified form. The last goes by character, not by word: OpenCC's table
from traditional to simplified (5,119 characters), joined with those by which OpenCC equates the variants of Taiwan and
Hong Kong, so that 裏裡里, 臺檯台, 著着 and 衞衛卫 are one character each. 干乾幹, 后後 or 面麵 are one then as well:
in a run of several characters that is harmless, and a word's meaning is not asked here.

The folded text is not as long as the given one (`ﬁ` → `fi`, `…` → `...`, soft hyphens go), so positions in it mean
nothing in the other; split first where they are needed. Of LibreOffice's help pages in six languages one thread folds
160 (Chinese) to 370 (English) MB of UTF-8 a second, 30 to 45 of those with a sign that is not one for one.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator

# Default_Ignorable_Code_Point of Unicode 15: soft hyphen, joiners, bidi marks, variation selectors, fillers, tags.
IGNORABLE = (
    (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
    (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
)  # fmt: skip
_QUOTES = {"‘": "'", "’": "'", "‛": "'", "ʼ": "'", "“": '"', "”": '"', "„": '"', "‟": '"'}
# One for the other in some words only, where OpenCC's phrases write 明瞭 for 明了 and 傢俱 for 家具; found by
# converting every word of jieba's dictionary to traditional by its configurations s2t, s2tw and s2hk.
_BY_WORD = (
    "复覆 具俱 坐座 借藉 了瞭 锺钟 背揹 钜巨 夫伕 迳径 链炼 昵暱 象像 熏薰 讬托 谘咨 苏甦 馀余 渖沈 澄澂 麹曲 侭尽 "
    "浚濬 宁甯 戚𬭭 缐线 仿彷 檗蘗 拿拏 枪鎗 焰燄 里哩 吣唚 斫斲 镟旋"
)
_HAN_BLOCKS = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))

_IGNORED = re.compile("[" + "".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in IGNORABLE) + "]")

_PIECE = 1 << 20  # characters folded at a time
_SLOW = 0xFFFFFFFF  # in the table: the character is not one character for one


def fold(text: str) -> str:
    """`text` as it is compared. fold(fold(text)) == fold(text); lone surrogates stay what they are."""
    if text.isascii():
        return text.lower()
    folded = _replaced(text, folded_points())
    return definition(text) if folded is None else folded


def _replaced(text: str, table: NDArray[np.uint32]) -> str | None:
    """`text` with each code point replaced by the table's; None where one is _SLOW."""
    pieces = []
    for start in range(0, len(text), _PIECE):
        codes = np.frombuffer(text[start : start + _PIECE].encode("utf-32-le", "surrogatepass"), np.uint32)
        new = table[codes]
        if new.max() == _SLOW:
            return None
        pieces.append(new.tobytes().decode("utf-32-le", "surrogatepass"))
    return "".join(pieces)


def definition(text: str) -> str:
    """What `fold` gives, by Python's own functions; applied until nothing changes, which is once but for rare signs."""
    while True:
        shown = unicodedata.normalize("NFKC", _IGNORED.sub("", text)).casefold()
        folded = unicodedata.normalize("NFKC", _replaced(shown, _forms()) or "")
        if folded == text:
            return folded
        text = folded


@cache
def _forms() -> NDArray[np.uint32]:
    table = np.arange(0x110000, dtype=np.uint32)
    for code, form in _translations().items():
        table[code] = ord(form)
    return table


@cache
def _translations() -> dict[int, str]:
    return {ord(a): b for a, b in (_QUOTES | simplified_forms()).items()}


@cache
def folded_points() -> NDArray[np.uint32]:
    """The folded code point of each code point, _SLOW where it is not one for one or may compose with its neighbour."""
    table = _forms().copy()
    for code in (*range(0x3400), *range(0xA000, 0x20000), *range(0x2F800, 0x2FA20)):  # the rest is Han, or no letter
        sign = chr(code)
        if unicodedata.normalize("NFKC", sign) != sign or sign.casefold() != sign or unicodedata.combining(sign):
            result = definition(sign)
            table[code] = ord(result) if len(result) == 1 and not _composes(result) and not _composes(sign) else _SLOW
    for first, last in (*IGNORABLE, (0x1161, 0x1175), (0x11A8, 0x11C2)):  # and the Hangul letters that make syllables
        table[first : last + 1] = _SLOW
    table[list(_second_of_pairs())] = _SLOW
    return table


def _composes(sign: str) -> bool:
    return unicodedata.combining(sign) != 0 or ord(sign) in _second_of_pairs()


@cache
def _second_of_pairs() -> frozenset[int]:
    """Code points that a normal form may join to the one before."""
    found = set[int]()
    for code in range(0x323B0):
        parts = unicodedata.decomposition(chr(code))
        if parts and not parts.startswith("<") and " " in parts:
            found.add(int(parts.split()[1], 16))
    return frozenset(found)


@cache
def _opencc(name: str) -> Any:
    from opencc import OpenCC

    return OpenCC(name)


def _single(name: str) -> dict[str, str]:
    """The characters that a configuration of OpenCC changes when they stand alone."""
    signs = [chr(code) for first, last in _HAN_BLOCKS for code in range(first, last)]
    forms = _opencc(name).convert("\n".join(signs)).split("\n")
    return {sign: form for sign, form in zip(signs, forms, strict=True) if form != sign}


@cache
def simplified_forms() -> dict[str, str]:
    """The character that stands for each Chinese character when texts are compared, where it is another."""
    simpler = _single("t2s")
    group: dict[str, str] = {}

    def chosen(sign: str) -> str:
        while (nearer := group.get(sign, sign)) != sign:
            sign = nearer
        return sign

    for sign, form in _pairs(simpler):
        a, b = chosen(sign), chosen(form)
        if a != b:
            # The simplified one stands for both; of two such, the older code point.
            keep, go = sorted((a, b), key=lambda s: (s in simpler, s))
            group[go] = keep
    return {sign: chosen(sign) for sign in group}


def _pairs(simpler: dict[str, str]) -> Iterator[tuple[str, str]]:
    for table in (simpler, _single("tw2t"), _single("hk2t")):
        yield from sorted(table.items())
    yield from ((pair[0], pair[1]) for pair in _BY_WORD.split())


def convert(text: str, script: Literal["simplified", "traditional"]) -> str:
    """`text` rewritten by OpenCC's phrases and characters (its configurations t2s and s2t), for output when the user
    asks for one script."""
    return str(_opencc("t2s" if script == "simplified" else "s2t").convert(text))


@cache
def _only() -> NDArray[np.uint8]:
    """By code point: 1 for the characters of simplified Chinese alone, 2 for those of traditional alone."""

    def lacks(encoding: str, sign: str) -> bool:
        try:
            sign.encode(encoding)
        except UnicodeEncodeError:
            return True
        return False

    simplified = [sign for sign in _single("s2t") if lacks("big5", sign)]
    traditional = [sign for sign in _single("t2s") if lacks("gb2312", sign)]
    table = np.zeros(0x110000, dtype=np.uint8)
    for value, signs in ((1, simplified), (2, traditional)):
        table[[ord(sign) for sign in signs]] = value
    return table


def chinese_script(text: str) -> Literal["hans", "hant", ""]:
    """Whether Chinese text is simplified or traditional, by the characters that exist in only one of the two (OpenCC
    changes them, and Big5 or GB 2312 lacks them); "" for as many of the one as of the other."""
    found = _only()[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")]
    _, simplified, traditional = np.bincount(found, minlength=3).tolist()
    if simplified == traditional:
        return ""
    return "hans" if simplified > traditional else "hant"

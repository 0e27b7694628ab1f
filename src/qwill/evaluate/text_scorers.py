"""Scorers that compare a reply with references in words: exact, contains, regex, letter, number, overlap, in_language.

Each is a plain function `(example, reply) -> Score`. English and Chinese are read alike: full-width characters count as
their narrow forms, and an answer may be announced in either language.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from qwill.base.errors import DataError
from qwill.evaluate.task import Example, Score

# Where the answer stands when a reply says so: GSM8K's marks, a box, "the answer is", 答案是. The last one counts.
_ANNOUNCED = re.compile(
    r"(?:####|the (?:final )?answer is|(?:final )?answer:|答案(?:是|为|：|:)|答：|选择?(?:项)?(?=\s*[（(]?[A-J]))",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"(?<![\w.])[-−]?\s?(?:[$¥￥€£]\s?)?(\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?/\s?(\d+))?|[-−]?\d+(?:\.\d+)?"
)
_LETTER = re.compile(r"(?<![A-Za-z0-9'’])[（(\[]?([A-J])(?:[)）\].、,，:：。]|(?![A-Za-z0-9'’]))")
_ARTICLE = re.compile(r"(?<!\w)(?:A|I)(?='|\s(?!or\b|and\b|is\b|oder\b)[a-z])")
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_]+")


def references(example: Example) -> list[Any]:
    """The right answers of an example, one or several."""
    answer = example.answer
    return list(answer) if isinstance(answer, list | tuple) else [answer]


def plain(text: str) -> str:
    """Text with its widths, cases and runs of white space made alike."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def exact(example: Example, reply: str) -> Score:
    """1 where the reply is one of the answers, but for white space around it."""
    said = reply.strip()
    return _found(any(said == str(one).strip() for one in references(example)), said)


def contains(example: Example, reply: str) -> Score:
    """1 where one of the answers stands in the reply, whatever its case and width; words stand whole."""
    said = plain(reply)
    for one in references(example):
        wanted = plain(str(one))
        # In Chinese nothing parts words, so the borders are asked for only beside letters and digits of Latin.
        left = r"(?<![a-z0-9])" if wanted[:1].isascii() and wanted[:1].isalnum() else ""
        right = r"(?![a-z0-9])" if wanted[-1:].isascii() and wanted[-1:].isalnum() else ""
        if wanted and re.search(left + re.escape(wanted) + right, said):
            return Score(1.0, f"holds {one!r}")
    return Score(0.0, "holds none of the answers")


def regex(example: Example, reply: str) -> Score:
    """1 where one of the answers, as a regular expression, is found in the reply. Raises DataError for one that is no
    regular expression."""
    for one in references(example):
        try:
            found = re.search(str(one), reply, re.MULTILINE)
        except re.error as error:
            raise DataError(f"the answer {one!r} is not a regular expression ({error}); mend it.") from None
        if found:
            return Score(1.0, f"matches {found.group()[:80]!r}")
    return Score(0.0, "matches none of the answers")


def announced(reply: str) -> str:
    """What stands behind the last announcement of an answer, or in the last box; else the whole reply."""
    reply = unicodedata.normalize("NFKC", reply)
    start = reply.rfind("\\boxed{")
    if start >= 0:
        start += len("\\boxed{")
        depth, at = 1, start
        while at < len(reply) and depth:
            depth += {"{": 1, "}": -1}.get(reply[at], 0)
            at += 1
        return reply[start : at - (depth == 0)]
    marks = list(_ANNOUNCED.finditer(reply))
    return reply[marks[-1].end() :] if marks else reply


def letter(example: Example, reply: str) -> Score:
    """1 where the reply chooses the letter that the answer is (A … J, or an index from 0)."""
    said = chosen_letter(reply)
    wanted = [chr(65 + one) if isinstance(one, int) else str(one).strip().upper() for one in references(example)]
    return _found(said in wanted, said or "no letter")


def chosen_letter(reply: str) -> str | None:
    """The letter a reply settles on: behind its announcement the first; else the one that it begins with, marked as a
    choice ("B.", "(B)") or alone; else the only one that it names. None where it names several or none."""
    text = unicodedata.normalize("NFKC", reply).strip()
    behind = announced(text)
    found = _LETTER.findall(behind)
    if behind != text:
        return found[0] if found else None
    begins = _LETTER.match(text)
    # "A man …" begins with an article, "A." with a choice.
    if begins and (len(text) == 1 or begins.end() > begins.end(1)):
        return begins[1]
    named = set(_LETTER.findall(_ARTICLE.sub(" ", text))) or set(found)
    return named.pop() if len(named) == 1 else None


def number(example: Example, reply: str) -> Score:
    """1 where the number that the reply settles on (behind an announcement the first, else its last) equals that of an
    answer; several numbers in an answer ("5:45", "12 and 17") are all asked for, in order. An answer without numbers
    must stand in the reply in words."""
    for one in references(example):
        wanted = numbers(announced(one)) if isinstance(one, str) else [_exact(one)]
        if not wanted:
            if contains(Example(example.id, "", answer=str(one)), announced(reply)).value:
                return Score(1.0, f"says {one!r}")
            continue
        behind = announced(reply)
        found = numbers(behind)
        count = len(wanted)
        said = found[:count] if behind != unicodedata.normalize("NFKC", reply) else found[-count:]
        if said == wanted:
            return Score(1.0, f"says {_shown(said)}")
    found = numbers(announced(reply))
    return Score(0.0, f"says {_shown(found[-1:])}" if found else "says no number")


def _exact(value: Any) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"the answer {value!r} is no number; write one, or a text that holds one.")
    return Fraction(str(value))


def numbers(text: str) -> list[Fraction]:
    """The numbers of a text in order: with thousands' commas, decimals, fractions a/b; a sign counts where it can't be
    a hyphen."""
    found = []
    for match in _NUMBER.finditer(unicodedata.normalize("NFKC", text)):
        digits = (match[1] or match[0]).replace(",", "").replace("−", "-").strip()
        # Longer than any answer; int() is quadratic in the number of digits.
        if max(len(digits), len(match[2] or "")) > 60:
            continue
        value = Fraction(digits)
        if match[1] and match[0].lstrip().startswith(("-", "−")):
            value = -value
        found.append(value / int(match[2]) if match[2] and int(match[2]) else value)
    return found


def overlap(example: Example, reply: str) -> Score:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of words with the best of the answers; a Chinese
    character is a word."""
    said = words(reply)
    best, of = 0.0, ""
    for one in references(example):
        wanted = words(str(one))
        common = _longest_common(said, wanted)
        value = 2 * common / (len(said) + len(wanted)) if common else 0.0
        if value > best:
            best, of = value, str(one)
    return Score(best, f"nearest to {of[:80]!r}" if of else "shares no word with any answer")


def words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())[:2000]


def _longest_common(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for one in a:
        diagonal = 0
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if one == other else max(row[j], row[j - 1])
    return row[-1]


def in_language(example: Example, reply: str) -> Score:
    """1 where a reply is there and written in the language of its example (English or Chinese, by their letters): no
    judgement of its quality."""
    letters = [c for c in reply if c.isalpha()]
    if not letters:
        return Score(0.0, "the reply is empty")
    han = sum("\u3400" <= c <= "\u9fff" for c in letters)
    # A character of Chinese stands for about four letters of English.
    share = han / (han + (len(letters) - han) / 4)
    written = "zh" if share > 0.5 else "en"
    return _found(written == example.language, f"written in {written}, {len(reply)} characters")


def _found(right: bool, said: str) -> Score:
    return Score(float(right), said[:200])


def _shown(values: list[Fraction]) -> str:
    return ", ".join(str(value) for value in values)


SCORERS: dict[str, Callable[[Example, str], Score]] = {
    "exact": exact,
    "contains": contains,
    "regex": regex,
    "letter": letter,
    "number": number,
    "overlap": overlap,
    "in_language": in_language,
}

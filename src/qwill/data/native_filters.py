"""What the published filter families measure, by measures.c: the same values as their definitions, many times faster.

A text is encoded and its words are bounded once; every family reads those. After C4 has dropped lines, the words of the
kept lines, which it cut for their sentences, are the words of the new text: no special case reaches over a line's end,
which is a word of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qwill.data import c4, filters, gopher_quality, gopher_repetition, native_words
from qwill.data.c4 import C4
from qwill.data.families import Verdict
from qwill.data.fineweb import FineWeb
from qwill.data.fineweb import decide as decide_fineweb
from qwill.data.gopher_quality import GopherQuality
from qwill.data.gopher_repetition import GopherRepetition
from qwill.data.native_words import Bounds, character_classes, code_points, space
from qwill.data.rules import share

if TYPE_CHECKING:
    from qwill.data.split_texts import Words

MOST_WORK = 256 << 20  # bytes of counting tables that stay between texts
_work = 0


def _counting() -> int:
    """The work space of the counting functions, an object of measures.c."""
    global _work
    call = native_words.functions()
    assert call is not None
    if _work and call["work_size"](_work) > MOST_WORK:
        call["work_free"](_work)
        _work = 0
    _work = _work or call["work_new"]()
    return _work


class NativeText:
    """A text as the C files see it: code points and, once asked for, the bounds of its words by `rule`."""

    def __init__(self, text: str, rule: str, codes: bytes | None = None, bounds: Bounds | None = None) -> None:
        self.text, self.rule = text, rule
        self.codes = code_points(text) if codes is None else codes  # may go on after the text
        self.bounds = bounds
        self.n_words = bounds.words if bounds else None  # stays known when the bounds are gone
        call = native_words.functions()
        assert call is not None
        self.call: dict[str, Any] = call
        self.classes = character_classes()[1]

    def words(self) -> Bounds:
        if self.bounds is None:
            self.bounds = native_words.cut(self.text, self.codes, self.rule)
            self.n_words = self.bounds.words
        return self.bounds

    def out(self, n: int) -> list[int]:
        return space.arrays["out"][:n].tolist()

    def kept(self) -> int:
        """Room for the bounds of lines and paragraphs, as an address."""
        import numpy as np

        need = 2 * self.text.count("\n") + 8
        if len(space.arrays.get("kept", ())) < need:
            space.arrays["kept"] = np.empty(2 * need, np.int64)
            space.at["kept"] = int(space.arrays["kept"].ctypes.data)
        return space.at["kept"]


def repetition(native: NativeText, limits: GopherRepetition) -> dict[str, float]:
    """`gopher_repetition.measure`."""
    words, whole = native.words(), len(native.text)
    work = _counting()
    native.call["repetition"](work, native.classes, native.codes, whole, native.kept(), space.at["out"])
    paragraphs, para_count, para_characters, lines, line_count, line_characters = native.out(6)
    values = {
        "characters": float(whole),
        "dup_para_frac": para_count / paragraphs,
        "dup_para_char_frac": para_characters / max(whole, 1),
        "dup_line_frac": line_count / lines,
        "dup_line_char_frac": line_characters / max(whole, 1),
    }
    names, tops, dups = _sizes(limits)
    native.call["n_grams"](
        work, native.codes, words.starts, words.ends, words.words, tops, len(tops) // 8, dups, len(dups) // 8,
        space.at["out"],
    )  # fmt: skip
    values.update(zip(names, (n / max(whole, 1) for n in native.out(len(names))), strict=True))
    return values


@lru_cache(maxsize=64)
def _sizes(limits: GopherRepetition) -> tuple[list[str], bytes, bytes]:
    tops, dups = ([n for n, _ in pairs] for pairs in (limits.top_n_grams, limits.dup_n_grams))
    names = [f"top_{n}_gram" for n in tops] + [f"duplicated_{n}_n_grams" for n in dups]
    return names, _longs(tops), _longs(dups)


def _longs(numbers: Iterable[int]) -> bytes:
    return b"".join(int(n).to_bytes(8, "little", signed=True) for n in numbers)


def quality(native: NativeText, limits: GopherQuality) -> dict[str, float]:
    """`gopher_quality.measure`."""
    words = native.words()
    stops, ends, n_stops = _stop_words(limits.stop_words)
    native.call["quality"](
        native.classes, native.codes, len(native.text), words.starts, words.ends, words.words, stops, ends, n_stops,
        space.at["missing"], space.at["out"],
    )  # fmt: skip
    real, characters, hashes, ellipses, lines, bullets, ending, letters, real_letters, stopped = native.out(10)
    judged, lettered = (real, real_letters) if limits.alphabetic == "letters" else (words.words, letters)
    return {
        "words": float(real),
        "mean_word_length": share(characters, real),
        "hashes": share(hashes, words.words),
        "ellipses": share(ellipses, words.words),
        "bullets": share(bullets, lines),
        "ellipsis_lines": share(ending, lines),
        "alphabetic": share(lettered, judged),
        "stop_words": float(stopped),
    }


@lru_cache(maxsize=64)
def _stop_words(words: frozenset[str]) -> tuple[bytes, bytes, int]:
    ordered = sorted(words)
    ends = [0]
    for word in ordered:
        ends.append(ends[-1] + len(word))
    return code_points("".join(ordered)), _longs(ends), len(ordered)


def fineweb(native: NativeText, limits: FineWeb) -> dict[str, float]:
    """`fineweb.measure`."""
    if native.n_words is None:
        native.words()
    native.call["lines_of"](
        _counting(), native.classes, native.codes, len(native.text), _endings(limits.stop_chars),
        math.floor(limits.short_line_length), native.kept(), space.at["out"],
    )  # fmt: skip
    lines, ended, short, _, repeated, feeds = native.out(6)
    return {
        "lines": float(lines),
        "line_punct_ratio": share(ended, lines),
        "short_line_ratio": share(short, lines),
        "char_dup_ratio": share(repeated, len(native.text) - feeds),
        "list_ratio": share(feeds, native.n_words or 0),
    }


@lru_cache(maxsize=16)
def _endings(marks: frozenset[str]) -> bytes:
    table = bytearray(0x110000)
    for mark in marks:
        table[ord(mark)] = 1
    return bytes(table)


def c4_lines(
    native: NativeText, limits: C4, count_sentences: Callable[[str], int]
) -> tuple[dict[str, float], NativeText]:
    """`c4.measure`: the values, and the text that is kept."""
    if native.rule == "chinese":
        values, kept = c4.measure(native.text, count_sentences, limits)
        return values, native if kept == native.text else NativeText(kept, native.rule)
    size = len(native.text)
    space.grow(size + 1)
    lines = sum(map(native.text.count, _line_ends())) + 1
    kept_codes, lows, highs = bytearray(4 * (size + 1)), bytearray(8 * lines), bytearray(8 * lines)
    settings = (
        limits.remove_citations, limits.filter_no_terminal_punct, limits.min_words_per_line, limits.max_word_length,
        limits.filter_javascript, limits.filter_policy,
    )  # fmt: skip
    native.call["c4_lines"](
        native.classes, native.codes, size, _longs(settings),
        _address(kept_codes), _address(lows), _address(highs), space.at["out"],
    )  # fmt: skip
    lorem, bracket, n_lines, n_kept, long, unended, few, javascript, policy, low, high = native.out(11)
    values = {"lorem_ipsum_line": float(lorem), "curly_bracket_line": float(bracket)}
    codes = bytes(kept_codes)
    kept = codes[: 4 * high].decode("utf-32-le", "surrogatepass")
    bounds = native_words.cut(kept, codes, native.rule, (bytes(lows[: 8 * n_kept]), bytes(highs[: 8 * n_kept])))
    native.bounds = None  # those arrays are overwritten
    values["sentences"] = float(bounds.sentences)
    values |= {"lines": float(n_lines), "lines_kept": float(n_kept)}
    counts = (long, unended, few, javascript, policy)
    values |= {f"lines_{name}": float(n) for name, n in zip(c4.LINES, counts, strict=True)}
    if low:  # the bounds count from the white space before the first word
        codes = codes[4 * low :]
        for array in bounds.arrays():
            array -= low
    return values, NativeText(kept[low:], native.rule, codes, bounds)


def judge(
    text: str, families: Sequence[str], limits: Mapping[str, Any], rule: str, keep_words: bool = False
) -> Verdict:
    """`families.judge` for settings that `suits`."""
    from qwill.data.words import count_sentences

    values: dict[str, float] = {}
    drop: tuple[str, str, float] | None = None
    left = text
    current = NativeText(text, rule)
    for family in families:
        settings = limits[family]
        if family == "c4":
            measured, new = c4_lines(current, settings, lambda part: count_sentences(part, rule))
            found = c4.decide(measured, settings)
            if found is None:
                current = new
        elif family == "units":
            measured = filters.measure(current.text, settings)
            found = filters.decide(measured, settings)
        elif family == "gopher_repetition":
            measured = repetition(current, settings)
            found = gopher_repetition.decide(measured, settings)
        elif family == "gopher_quality":
            measured = quality(current, settings)
            found = gopher_quality.decide(measured, settings)
        else:
            measured = fineweb(current, settings)
            found = decide_fineweb(measured, settings)
        values.update((f"{family}.{name}", value) for name, value in measured.items())
        if drop is None and found is not None:
            drop, left = (family, *found), current.text
    if drop is not None:
        return Verdict(left, values, drop)
    return Verdict(current.text, values, None, _words(current) if keep_words and current.bounds else None)


def _words(native: NativeText) -> Words:
    """Its words, for longer than the work space holds them."""
    from qwill.data.split_texts import Words

    starts, ends = native.words().arrays()
    return Words(native.codes[: 4 * len(native.text)], starts.copy(), ends.copy())


@lru_cache(maxsize=1)
def _line_ends() -> str:
    return "".join(chr(c) for c, bits in enumerate(character_classes()[0][:0x3001]) if bits & 2)


def _address(buffer: bytearray) -> Any:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def suits(rule: str, families: Sequence[str], limits: Mapping[str, object]) -> bool:
    """Whether every one of these settings is something that the C files know."""
    for settings in map(limits.__getitem__, families):
        if isinstance(settings, GopherRepetition):
            if len(settings.top_n_grams) + len(settings.dup_n_grams) > 60:
                return False
            if any(n < 1 for n, _ in (*settings.top_n_grams, *settings.dup_n_grams)):
                return False
        if isinstance(settings, GopherQuality) and len(settings.stop_words) > 8192:
            return False
        if isinstance(settings, FineWeb) and any(len(mark) != 1 for mark in settings.stop_chars):
            return False
        if isinstance(settings, C4) and any(
            not isinstance(n, int) for n in (settings.min_words_per_line, settings.max_word_length)
        ):
            return False
    return native_words.suits(rule)

"""Documents at the limits of the filter families: shares that meet one exactly, or lie one step to either side."""

from __future__ import annotations

import random
from collections.abc import Callable

from filter_documents import LETTERS

SINGLE_HAN = "天地人山水火木金土日月星风云雨雪春夏秋冬花鸟鱼虫东西南北左右上下大小多少来去出入开关手足口目耳心头"


def counted(n: int) -> str:
    """The n-th of many different short words."""
    word = ""
    while n >= 0:
        word = LETTERS[n % 26] + word
        n = n // 26 - 1
    return word


def long_document(words: int, code: str, rng: random.Random | None = None) -> str:
    """Exactly so many words, each of one letter, hardly any five in a row twice; without `rng` one that packs well."""
    letters = SINGLE_HAN if code == "zh" else LETTERS
    if rng is not None:
        return " ".join(rng.choices(letters, k=words))
    digits = [letters[i // len(letters) ** p % len(letters)] for i in range(words // 4 + 1) for p in (3, 2, 1, 0)]
    return " ".join(digits[:words])


def repeated_phrases(word: Callable[[], str]) -> list[str]:
    """Texts of 999, 1,000 and 1,001 characters in which a phrase of n words covers so many thousandths that the top
    n-gram, or the n-grams that repeat, are FineWeb-2's Chinese limits exactly."""
    found = []
    for n, thousandths, times, spaces in (
        (2, 256, 4, True), (3, 201, 3, True), (4, 171, 3, True), (5, 198, 1, False), (6, 182, 1, False),
        (7, 167, 1, False), (8, 154, 1, False), (9, 140, 1, False), (10, 127, 1, False),
    ):  # fmt: skip
        letters = thousandths // times - (n - 1 if spaces else 0)
        lengths = [letters // n + (i < letters % n) for i in range(n)]
        phrase = " ".join(LETTERS[i] * length for i, length in enumerate(lengths))
        text = " ".join(f"{phrase} {word()}" for _ in range(times if spaces else 2))
        while len(text) < 990:
            text += " " + word()
        found += [text[:990].rsplit(" ", 1)[0].ljust(size) for size in (999, 1000, 1001)]
    return found


def grid(code: str) -> list[str]:
    """Documents at limits that shares of lines or of words can meet exactly, and one step to either side."""
    english, chinese = [counted(800 + i) for i in range(1200)], [f"{a}{b}" for a in SINGLE_HAN for b in "们子家"]
    vocabulary = english if code == "en" else chinese
    stop = ("the", "of", "that") if code == "en" else ("的", "在", "是")
    end, other = (".", ",") if code == "en" else ("。", "，")
    step = iter(range(10**9))

    def word() -> str:
        return vocabulary[next(step) * 7 % len(vocabulary)]

    def latin() -> str:  # jieba cuts none of these
        return english[next(step) * 7 % len(english)]

    def line(words: int) -> str:
        return " ".join(word() for _ in range(words))

    found = [" ".join([*stop[:k], line(n - k)]) + end for n in (49, 50, 51) for k in (1, 2, 3)]
    for sentences in (4, 5, 6):
        found.append("\n".join(line(12) + end for _ in range(sentences)))
        found.append(line(2) + "\n" + " ".join(line(12) + end for _ in range(sentences)) + "\n" + line(3))
    for lines, share, kinds in (
        (10, 0.9, "b"), (20, 0.9, "b"), (10, 0.3, "edp"), (20, 0.3, "edp"), (25, 0.12, "f"), (100, 0.67, "s"),
        (500, 0.106, "f"), (1000, 0.287, "d"),
    ):  # fmt: skip
        for k in range(round(lines * share) - 1, round(lines * share) + 2):
            after = [k <= i for i in range(lines)]
            same = [line(8) + end] * (k + 1) + [f"{line(7)} {counted(9000 + i)}{end}" for i in range(lines - k - 1)]
            made = {
                "b": "\n".join(("" if a else "- ") + line(7) + end for a in after),
                "e": "\n".join(line(7) + (end if a else "...") for a in after),
                "f": "\n".join(line(4) + (other if a else end) for a in after),
                "s": "\n".join((line(15) if a else line(3)) + end for a in after),
                "d": "\n".join(same),
                "p": "\n\n".join(same),
            }
            found += [made[kind] for kind in kinds]
    for share in (0.3, 0.178):
        for k in range(round(500 * share) - 1, round(500 * share) + 2):
            words = [latin() for _ in range(500)]
            gaps = ["\n" if i < k else " " for i in range(499)]
            found.append("".join(w + g for w, g in zip(words, [*gaps, ""], strict=True)))
    for mark in ("#", "...", "…"):
        for k in (9, 10, 11):
            found.append(" ".join([*[latin() for _ in range(100 - k)], *[mark] * k]))
    for tokens, share in ((100, 0.8), (200, 0.735)):
        for k in range(round(tokens * share) - 1, round(tokens * share) + 2):
            found.append(" ".join([*[latin() for _ in range(k)], *[str(100 + i) for i in range(tokens - k)]]))
    for length in (1, 3, 5, 10):
        for change in (-1, 0, 1):
            words = [(counted(i) * length)[:length] for i in range(80)]
            if code == "zh" and length == 1:
                words = [SINGLE_HAN[i % len(SINGLE_HAN)] for i in range(80)]
            words[7] = words[7] + "e" * change if change >= 0 else words[7][:-1] or "."
            found.append(" ".join(words))
    for length in (29, 30, 31):
        found.append("\n".join((line(20)[: length - 1].strip(" ") + "x" * 9)[: length - 1] + end for _ in range(12)))
    for length in (999, 1000, 1001):
        found.append("\n".join([line(9) + " " + "y" * length + end] + [line(9) + end for _ in range(5)]))
    for marks in ("{ {", "lorem ipsum", "{|lorem ipsum", "lorem ipsum|{", "{ lorem ipsum", "javascript {|lorem ipsum"):
        spoiled = [f"{line(8)} {mark} {line(5)}{end}" for mark in marks.split("|")]
        found.append("\n".join([line(12) + end, *spoiled, *[line(12) + end for _ in range(6)]]))
    found += repeated_phrases(latin)
    return [*found, long_document(100_000, code), long_document(100_001, code)]

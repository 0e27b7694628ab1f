"""Documents on which the filter families show what they do: texts spoilt in thirty ways, and grids at the limits.

Used by make_filters_oracle.py on made-up text and by benchmarks/filter_parity.py on real text. Everything follows from
the generator `rng` alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable

POLICIES = ("terms of use", "Privacy Policy", "cookie policy", "uses cookies", "use of cookies", "Use Cookies")
STRANGE_SPACES = "\u00a0\u3000\t\u2009\u200b\ufeff\x0b\x0c\x1c\x1f\x85\u2028\u2029\r"
STRANGE = (
    *("Привет, мир.", "مرحبا بالعالم؟", "नमस्ते दुनिया।", "e\u0301te\u0301", "😀👍🏽", "カタカナです。", "１２３"),
    *("½", "İI", "ǅ", "ß"),
)
NOTHING = (
    *("", " ", "   ", "\n", "\n\n", " \n \n", "\u200b", "\u3000", "\x1c\n\x1d"),
    *(".", "# # #", "…", "- - -", "\ufeff"),
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SINGLE_HAN = "天地人山水火木金土日月星风云雨雪春夏秋冬花鸟鱼虫东西南北左右上下大小多少来去出入开关手足口目耳心头"

Lines = list[str]
Mutation = Callable[[random.Random, Lines, str], Lines]


def some(rng: random.Random, lines: Lines, change: Callable[[str], str], share: float | None = None) -> Lines:
    """The lines with about `share` of them changed (a random share if None)."""
    share = rng.random() if share is None else share
    return [change(line) if line and rng.random() < share else line for line in lines]


def pieces(text: str, code: str) -> list[str]:
    """Words with the space after them, or characters."""
    if code == "zh":
        return list(text)
    return [word + " " for word in text.split(" ")]


def insert(rng: random.Random, lines: Lines, what: str, times: int, code: str) -> Lines:
    """`what` between pieces of random lines."""
    lines = list(lines)
    for _ in range(times):
        i = rng.randrange(len(lines))
        parts = pieces(lines[i], code)
        parts.insert(rng.randrange(len(parts) + 1), what + ("" if code == "zh" else " "))
        lines[i] = "".join(parts).rstrip(" ")
    return lines


def size(lines: Lines, code: str) -> int:
    """About how many words."""
    text = " ".join(lines)
    return max(1, len(text) * 2 // 3 if code == "zh" else text.count(" "))


def repeat_line(rng: random.Random, lines: Lines, code: str) -> Lines:
    i = rng.randrange(len(lines))
    for _ in range(rng.choice((1, 1, 2, 2, 3, 5))):
        lines = [*lines[: (at := rng.randrange(len(lines) + 1))], lines[i], *lines[at:]]
        i += at <= i
    return lines


def repeat_longest(rng: random.Random, lines: Lines, code: str) -> Lines:
    """One long line twice among many short ones: characters repeat, lines hardly."""
    longest = max(lines, key=len)
    rest = [part for line in lines if line != longest for part in cut_line(rng, line, code, 60)]
    return [longest, *rest, longest]


def cut_line(rng: random.Random, line: str, code: str, most: int) -> Lines:
    found, current = [], ""
    for piece in pieces(line, code):
        if len(current) + len(piece) > most:
            found.append(current.strip(" "))
            current = ""
        current += piece
    return [*found, current.strip(" ")]


def paragraphs(rng: random.Random, lines: Lines, code: str) -> Lines:
    between = rng.choice(("", "", "\n", " "))
    return [part for line in lines for part in (line, between)][:-1]


def paragraphs_repeated(rng: random.Random, lines: Lines, code: str) -> Lines:
    change = rng.choice((repeat_line, repeat_longest))
    return paragraphs(rng, change(rng, lines, code), code)


def phrase(rng: random.Random, lines: Lines, code: str) -> Lines:
    """One phrase of two to five words again and again: the top n-grams."""
    parts = pieces(rng.choice(lines), code)
    n = rng.randrange(2, 6) * (2 if code == "zh" else 1)
    start = rng.randrange(max(1, len(parts) - n))
    what = "".join(parts[start : start + n]).strip()
    total = sum(map(len, lines))
    return insert(rng, lines, what, max(2, round(rng.uniform(0.08, 0.3) * total / max(1, len(what)))), code)


def passages(rng: random.Random, lines: Lines, code: str) -> Lines:
    """Passages copied until they are 5 to 25 % of the text: the duplicated n-grams."""
    goal, copied = rng.uniform(0.05, 0.25) * sum(map(len, lines)), 0
    n = rng.randrange(5, 22) * (2 if code == "zh" else 1)
    for _ in range(200):
        if copied >= goal:
            break
        parts = pieces(rng.choice(lines), code)
        start = rng.randrange(max(1, len(parts) - n))
        what = "".join(parts[start : start + n]).strip()
        copied += max(1, len(what))
        lines = insert(rng, lines, what, 1, code)
    return lines


def bullets(rng: random.Random, lines: Lines, code: str) -> Lines:
    mark = rng.choice(("- ", "• ", "  - ", "\u3000•", "* ", "-"))
    return some(rng, lines, lambda line: mark + line, rng.choice((0.7, 0.85, 0.92, 1.0)))


def ellipsis_ends(rng: random.Random, lines: Lines, code: str) -> Lines:
    mark = rng.choice(("...", "…", "... ", "……", "…."))
    return some(rng, lines, lambda line: line.rstrip(".。") + mark, rng.uniform(0.15, 0.6))


def hashes(rng: random.Random, lines: Lines, code: str) -> Lines:
    mark = rng.choice(("#", "#", "##", "#tag"))
    return insert(rng, lines, mark, round(size(lines, code) * rng.uniform(0.05, 0.2)), code)


def ellipses(rng: random.Random, lines: Lines, code: str) -> Lines:
    mark = rng.choice(("...", "…", "......", "……"))
    return insert(rng, lines, mark, round(size(lines, code) * rng.uniform(0.05, 0.2)), code)


def braces(rng: random.Random, lines: Lines, code: str) -> Lines:
    return insert(rng, lines, rng.choice(("{", "{ }", "}", "function() { return; }")), rng.choice((1, 1, 3)), code)


def lorem(rng: random.Random, lines: Lines, code: str) -> Lines:
    return insert(rng, lines, rng.choice(("lorem ipsum", "Lorem Ipsum dolor", "lorem  ipsum", "LOREM IPSUM")), 1, code)


def javascript(rng: random.Random, lines: Lines, code: str) -> Lines:
    told = ("Please enable JavaScript in it.", "请启用 javascript 浏览 本页。", "javascript lorem ipsum { x.")
    line = rng.choice(told)
    at = rng.randrange(len(lines) + 1)
    return [*lines[:at], *[line] * rng.choice((1, 1, 2)), *lines[at:]]


def policy(rng: random.Random, lines: Lines, code: str) -> Lines:
    return insert(rng, lines, rng.choice(POLICIES), rng.choice((1, 2, 4)), code)


def long_word(rng: random.Random, lines: Lines, code: str) -> Lines:
    """Words of 999 to 1,001 characters, and of 20 and 21 (the limit of the unusual preset)."""
    length = rng.choice((20, 21, 999, 1000, 1001, 1500))
    word = rng.choice(LETTERS) * length if rng.random() < 0.5 else "long" * (length // 4) + "x" * (length % 4)
    return insert(rng, lines, " " + word + " ", 1, code)


def citations(rng: random.Random, lines: Lines, code: str) -> Lines:
    lines = [*lines, *rng.sample(("[1] [2] [3]", "[edit] one two", "[citation needed] [] ."), rng.choice((0, 1, 2)))]
    mark = rng.choice(("[12]", "[edit]", "[citation needed]", "[]", "[a]", "[1]\u3000"))
    return insert(rng, lines, mark, rng.choice((1, 4)), code)


def short_lines(rng: random.Random, lines: Lines, code: str) -> Lines:
    most = rng.choice((30, 31, 25, 12, 45))
    return [part for line in lines for part in (cut_line(rng, line, code, most) if rng.random() < 0.8 else [line])]


def no_full_stop(rng: random.Random, lines: Lines, code: str) -> Lines:
    return some(rng, lines, lambda line: line.rstrip(".。!?！？ "), rng.choice((0.7, 0.85, 0.9, 0.95, 1.0)))


def other_ends(rng: random.Random, lines: Lines, code: str) -> Lines:
    ends = ('"', "'", ";", "”", "。」", "!", "؟", "।", " ", ". ", "）", "…", ":", "។", "᠃", "．")
    return some(rng, lines, lambda line: line.rstrip(".。") + rng.choice(ends))


def digits(rng: random.Random, lines: Lines, code: str) -> Lines:
    number = str(rng.randrange(10, 9999))
    share = rng.uniform(0.1, 0.35)
    if code == "zh":
        return insert(rng, lines, f" {number} ", round(size(lines, code) * share), code)
    return [
        " ".join(str(rng.randrange(9999)) if rng.random() < share else word for word in line.split(" "))
        for line in lines
    ]


def symbols(rng: random.Random, lines: Lines, code: str) -> Lines:
    what = rng.choice(("%", "—", "“", "|", "*", "=", "１", "·", "→", "『", "$", "@", "\x01"))
    return insert(rng, lines, what, round(size(lines, code) * rng.uniform(0.05, 0.4)), code)


def strange(rng: random.Random, lines: Lines, code: str) -> Lines:
    return insert(rng, lines, rng.choice(STRANGE), rng.choice((1, 3, 10)), code)


def strange_spaces(rng: random.Random, lines: Lines, code: str) -> Lines:
    for _ in range(rng.choice((1, 2, 4, 8))):
        lines = insert(rng, lines, rng.choice(STRANGE_SPACES) * rng.choice((1, 1, 2)), 1, code)
    return lines


def line_ends(rng: random.Random, lines: Lines, code: str) -> Lines:
    end = rng.choice(("\r", " ", "\t", "\u2028", "\x85"))
    return some(rng, lines, lambda line: line + end)


def indented(rng: random.Random, lines: Lines, code: str) -> Lines:
    return some(rng, lines, lambda line: rng.choice((" ", "\t", "\u3000\u3000", "  ")) + line)


def blank_lines(rng: random.Random, lines: Lines, code: str) -> Lines:
    for _ in range(rng.choice((1, 2, 5, 20, 60))):
        at = rng.randrange(len(lines) + 1)
        lines = [*lines[:at], rng.choice(("", "", " ", "\t")), *lines[at:]]
    return lines


def many_lines(rng: random.Random, lines: Lines, code: str) -> Lines:
    """Line feeds between words: the list ratio."""
    share = rng.uniform(0.05, 0.45)
    return ["".join(p + "\n" if rng.random() < share else p for p in pieces(line, code)) for line in lines]


def tall(rng: random.Random, lines: Lines, code: str) -> Lines:
    """Lines of two to four long words: a high list ratio without short lines, also once C4 has looked at them."""
    words = ["".join(rng.choices(LETTERS, k=rng.randrange(9, 16))) for _ in range(rng.randrange(60, 150))]
    n = rng.choice((2, 3, 3, 3, 4))
    stop = "of the " if code == "en" else "的 "
    made = [" ".join(words[i : i + n]) + rng.choice((".", "")) for i in range(0, len(words), n)]
    return [*made, stop + " ".join(lines[:1])[:200]]


def spaced(rng: random.Random, lines: Lines, code: str) -> Lines:
    """Spaces after punctuation: what C4 takes for words in Chinese."""
    return ["".join(c + " " if c in "，。！？、,.!?" else c for c in line) for line in lines]


def cut_short(rng: random.Random, lines: Lines, code: str) -> Lines:
    most, found = rng.randrange(5, 70) * (2 if code == "zh" else 1), list[str]()
    for line in lines:
        parts = pieces(line, code)[:most]
        most -= len(parts)
        found.append("".join(parts).strip(" "))
        if most <= 0:
            break
    return found


def glued(rng: random.Random, lines: Lines, code: str) -> Lines:
    """Long words: words run together, Latin ones among the Chinese."""
    share = rng.uniform(0.3, 0.8)
    if code == "zh":
        word = "".join(rng.choice(LETTERS) for _ in range(rng.randrange(12, 40)))
        return insert(rng, lines, f" {word} ", round(size(lines, code) * share / 3), code)
    return ["".join(w if rng.random() < share else w + " " for w in line.split(" ")) for line in lines]


def letters(rng: random.Random, lines: Lines, code: str) -> Lines:
    """Words of one and two letters."""
    share = rng.uniform(0.3, 1.0)
    return [
        " ".join(w[: rng.randrange(1, 3)] if rng.random() < share else w for w in line.split(" ")) if code == "en"
        else "".join(c + " " if rng.random() < share else c for c in line)
        for line in lines
    ]  # fmt: skip


def no_stop_words(rng: random.Random, lines: Lines, code: str) -> Lines:
    if code == "zh":
        kept = rng.sample("的年在月是和日了有人中为他也而由", rng.choice((0, 1, 1, 2)))
        gone = set("的年在月是和日了於·為有被人中为他與後也而由") - set(kept)
        return ["".join(c for c in line if c not in gone) for line in lines]
    kept = rng.sample(("the", "of", "and", "that"), rng.choice((0, 1, 1, 2)))
    gone_words = {"the", "be", "to", "of", "and", "that", "have", "with"} - set(kept)
    return [" ".join(w for w in line.split(" ") if w not in gone_words) for line in lines]


def few_sentences(rng: random.Random, lines: Lines, code: str) -> Lines:
    """Full stops become commas, but for a few."""
    share = rng.choice((0.0, 0.05, 0.1, 0.2, 0.5))
    stops = {".": ",", "。": "，", "!": ";", "?": ";"}
    return ["".join(stops[c] if c in stops and rng.random() > share else c for c in line) for line in lines]


def more_stops(rng: random.Random, lines: Lines, code: str) -> Lines:
    mark = rng.choice((". ", "! ", "?! ", "。", ".” ", "... ", "！」", ".) "))
    return insert(rng, lines, mark, rng.choice((1, 3, 8)), code)


def upper(rng: random.Random, lines: Lines, code: str) -> Lines:
    return some(rng, lines, str.upper)


def padded(rng: random.Random, lines: Lines, code: str) -> Lines:
    return [*[""] * rng.randrange(3), *lines, *[rng.choice(("", " "))] * rng.randrange(4)]


def one_line(rng: random.Random, lines: Lines, code: str) -> Lines:
    return ["".join(lines) if code == "zh" else " ".join(lines)]


MUTATIONS: tuple[Mutation, ...] = (
    repeat_line, repeat_longest, paragraphs, paragraphs_repeated, paragraphs_repeated, phrase, phrase, passages,
    passages, passages, bullets, ellipsis_ends, hashes, ellipses, braces, lorem, javascript, policy, long_word,
    citations,
    short_lines, no_full_stop, other_ends, digits, symbols, strange, strange_spaces, line_ends, indented, blank_lines,
    many_lines, cut_short, glued, letters, no_stop_words, few_sentences, more_stops, upper, padded, one_line,
    tall, spaced, spaced,
)  # fmt: skip


def spoilt(rng: random.Random, lines: Lines, code: str) -> str:
    """One document: its lines after no to three mutations."""
    lines = [line for line in lines if line.strip()] or ["."]
    for mutation in rng.choices(MUTATIONS, k=rng.choice((0, 1, 1, 1, 2, 2, 3))):
        lines = mutation(rng, lines, code)
        if not lines or sum(map(len, lines)) > 60_000:
            break
    return "\n".join(lines)


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

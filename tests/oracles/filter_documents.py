"""Documents on which the filter families show what they do: texts spoilt in forty ways.

Used by make_filters_oracle.py on made-up text and by benchmarks/filter_parity.py on real text. Everything follows from
the generator `rng` alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

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


def spoilt(rng: random.Random, lines: Lines, code: str, mutations: Sequence[Mutation] = MUTATIONS) -> str:
    """One document: its lines after no to three of the mutations."""
    lines = [line for line in lines if line.strip()] or ["."]
    for mutation in rng.choices(mutations, k=rng.choice((0, 1, 1, 1, 2, 2, 3))):
        lines = mutation(rng, lines, code)
        if not lines or sum(map(len, lines)) > 60_000:
            break
    return "\n".join(lines)

import math
import random
from collections import Counter
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_text import chinese, english

from qwill.data.filters import ChineseLimits, Limits, View, decide, measure, rules

EN, ZH = Limits(), ChineseLimits()
RNG = random.Random(5)
COUNTED = ("one", "two", "three", "four", "five")
GOOD_EN, GOOD_ZH = english(RNG), chinese(RNG)

# reason → (text, limits): one text that each reason is for
FIRES = {
    "too short": ("The old river.", EN),
    "too long": (GOOD_EN, replace(EN, max_units=20)),
    "lost characters": (GOOD_ZH + "\ufffd" * 3, ZH),
    "mean word length": ("of to a i x y z b c d e f g h j k l m the n o p", EN),
    "stop words": ("cedar pine tile carpet sofa kitchen bathroom modern design gallery photo idea plan wood box", EN),
    "punctuation": ("很好" * 6 + "！？~^_^*&" * 6, ZH),
    "symbols": ("the #cedar of the #pine and the #tile with a #carpet in the #sofa for the #kitchen", EN),
    "bullets": ("\n".join(f"- the wall of house {w} is quite good." for w in COUNTED), EN),
    "ellipsis lines": ("\n".join(f"Read the whole story of {w} and of what came of it…" for w in COUNTED), EN),
    "unended lines": ("\n".join(f"the news of {w} and more" for w in COUNTED), EN),
    "character runs": ("这家酒店的早餐真的很不错哈哈哈哈哈哈哈哈哈哈哈哈", ZH),
    "duplicate lines": ("The door of the house.\n" * 6 + "It was the end of a day.", EN),
    "duplicate line characters": ("\n".join([GOOD_EN] * 2 + ["It was a day.", "It was the end.", "So it was."]), EN),
    "not alphabetic": ("the years 1901 1902 1903 1904 1905 1906 1907 1908 1909 1910 1911 1912 1913 1914 and after", EN),
    "top 2-gram": (" ".join(f"{w} white house" for w in english(RNG, 3).split()[:40]), EN),
    "top 4-gram": (GOOD_ZH + "，".join("半天云里" + c for c in "吹唱看听说写读想做"), replace(ZH, max_top=((4, 0.1),))),
    "duplicate 5-grams": ("the modern teacher opened a wooden window. " * 3, EN),
    "duplicate 6-grams": (
        " ".join([GOOD_EN] + ["and so it goes on like that."] * 4),
        replace(EN, max_top=(), max_duplicates=((5, 1), (6, 0.1))),
    ),
    "duplicate 8-grams": ("东西还不错可以小巧" * 3, ZH),
}  # fmt: skip


@pytest.mark.parametrize("reason", FIRES)
def test_every_reason_fires(reason: str) -> None:
    text, limits = FIRES[reason]
    drop = decide(View(text), limits)
    assert drop is not None
    assert drop[0] == reason


def test_no_setting_is_without_a_text_that_it_drops() -> None:
    texts = [*FIRES.values(), ("antidisestablishmentarianism " * 20, EN)]
    fired = {rule.setting for text, limits in texts for rule in rules(limits) if rule.fails(View(text))}
    assert fired == {field.name for field in fields(Limits)} - {"stop_words", "sentence_end"}


@given(st.integers(), st.integers(2, 12))
def test_good_text_passes(seed: int, sentences: int) -> None:
    rng = random.Random(seed)
    assert decide(View(english(rng, sentences)), EN) is None
    assert decide(View(chinese(rng, sentences)), ZH) is None


def test_good_text_of_the_kinds_that_filters_are_known_to_lose() -> None:
    markdown = "# Install\n\n- Get the **package** from the page of the project.\n- Run `make` in it.\n\nThat is all."
    title = (
        "Racso and the Rats of NIMH -- Racso and the Rats of NIMH is the 1986 sequel to the popular book, Mrs. Frisby."
    )
    figures = (
        "M&S have 959 stores throughout the UK, 58 in India, 48 in Turkey, 37 in Russia, 27 in Greece and 17 in Spain."
    )
    dictionary = "佪（huái）：〔俳佪〕徘徊。\n佫（gé）：同“𢓜”。至；到达。\n佬（lǎo）：称成年男子。\n佰（bǎi）：数目。"
    review = "性价比不错，就是屏幕小了点"
    assert [decide(View(t), EN) for t in (markdown, title, figures)] == [None] * 3
    assert [decide(View(t), ZH) for t in (dictionary, review)] == [None] * 2


@given(st.text())
def test_any_text_is_judged_with_a_finite_value(text: str) -> None:
    view = View(text)
    for limits in (EN, ZH):
        values = measure(text, limits)
        assert all(map(math.isfinite, values.values()))
        assert decide(values, limits) == decide(view, limits)  # measured whole, or only as far as needed
    assert decide(view, EN) is not None or len(view.units) >= EN.min_units


def covered(units: list[str], n: int) -> float:
    """Characters inside repeated n-grams, by definition: mark the units of every occurrence but the first."""
    seen, inside = set[tuple[str, ...]](), set[int]()
    for i in range(len(units) - n + 1):
        gram = tuple(units[i : i + n])
        if gram in seen:
            inside.update(range(i, i + n))
        seen.add(gram)
    return sum(len(units[i]) for i in inside) / max(sum(map(len, units)), 1)


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=25), st.integers(1, 5))
def test_duplicated_and_top_are_what_they_say(words: list[str], n: int) -> None:
    view = View(" ".join(words))
    assert view.duplicated(n) == pytest.approx(covered(words, n))
    assert view.duplicated(n + 1) <= view.duplicated(n)  # which lets the filter stop early
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    most = max(counts.values(), default=0)
    top = max((sum(map(len, gram)) * most for gram, count in counts.items() if count == most), default=0)
    share = min(top / max(sum(map(len, words)), 1), 1) if most >= 3 else 0
    assert view.top(n) == pytest.approx(share)

"""`kinds`: every demonstration is right, every small change is wrong, listing more never pays."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.evaluate.kinds import KIND_OF, KINDS, SEPARATOR, wanted
from qwill.evaluate.tasks import Demonstration, Problem, demonstrate, draw_problem, verify

Case = tuple[dict[str, str], Demonstration, random.Random]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rng = random.Random(draw(st.integers(0, 2**32)))
    problem, language = draw_problem("kinds", rng), draw(st.sampled_from(["en", "zh"]))
    return {"key": problem.key, "language": language}, demonstrate(problem, language, rng), rng


def test_no_word_belongs_to_two_kinds_and_each_kind_has_enough() -> None:
    for language, words in (("en", [w.lower() for k in KINDS.values() for w in k.en_words]),
                            ("zh", [w for k in KINDS.values() for w in k.zh_words])):  # fmt: skip
        assert [w for w, n in Counter(words).items() if n > 1] == [], language
    assert min(len(k.en_words) for k in KINDS.values()) >= 4 <= min(len(k.zh_words) for k in KINDS.values())


@given(cases())
def test_a_demonstration_is_right_in_any_order_and_after_thinking(case: Case) -> None:
    row, shown, rng = case
    separator = SEPARATOR[row["language"]]
    words = shown.answer.split(separator)
    rng.shuffle(words)
    assert verify(row, separator.join(words))
    assert verify(row, f"<think>\n{shown.thinking}\n</think>\n\n{shown.answer}")
    joint = " and " if row["language"] == "en" else "和"
    assert verify(row, separator.join(words[:-1]) + joint + words[-1] + ".")
    assert "{" not in shown.prompt and len(words) == sum(n for _, n in wanted(Problem.from_key(row["key"]).values))


@given(cases())
def test_leaving_out_adding_repeating_or_swapping_a_word_is_wrong(case: Case) -> None:
    row, shown, rng = case
    separator = SEPARATOR[row["language"]]
    words = shown.answer.split(separator)
    at = rng.randrange(len(words))
    assert not verify(row, separator.join(words[:at] + words[at + 1 :]))
    assert not verify(row, separator.join([*words, words[at]]))
    if len(words) > 1:
        assert not verify(row, separator.join([*words[:at], words[at - 1], *words[at + 1 :]]))
    kinds = KIND_OF[row["language"]]
    other = rng.choice(sorted(w for w, k in kinds.items() if k != kinds[words[at].lower()]))
    assert not verify(row, separator.join([*words[:at], other, *words[at + 1 :]]))
    assert not verify(row, separator.join([*words, other]))
    assert not verify(row, separator.join([*words, "xyzzy"]))
    assert not verify(row, separator.join(sorted(kinds)))
    assert not verify(row, shown.prompt)


@pytest.mark.parametrize("reply", ["", " ", ",", "、", "<think>cat", "cat, , dog"])
def test_empty_replies_are_wrong(reply: str) -> None:
    assert not verify({"key": "kinds:animal:2", "language": "en"}, reply)

"""Passages that stand twice: those that a suffix array finds, whatever the memory; what stays is text."""

import random
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_text import chinese, english

from qwill.base.errors import ConfigError
from qwill.data import spill, substrings
from qwill.data.substrings import Substrings, anchors, fingerprints, substring_cuts, whole_words

SHORT = Substrings(length=10, wide_length=8)
# Few letters, so that much is said twice; word letters, spaces, wide characters, one beyond the first plane, a mark.
texts = st.lists(
    st.text(alphabet="ab 天𠀀\u0301", max_size=50) | st.sampled_from(["ab ab ab ab ab ab ", "天" * 20, "b" * 40]),
    max_size=5,
)


@pytest.fixture(params=["native", "python"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(substrings, "_library", lambda: None)
    elif substrings._library() is None:
        pytest.skip("no C compiler")


def spans(told: list[str], settings: Substrings, work: Path, memory_mb: float = 1024) -> list[list[tuple[int, int]]]:
    offsets, found = substring_cuts(enumerate(told), len(told), settings, work, memory_mb)
    assert not list(work.iterdir()) and len(offsets) == len(told) + 1 and offsets[-1] == len(found)
    return [[(a, b) for a, b in found[offsets[i] : offsets[i + 1]].tolist()] for i in range(len(told))]


def by_suffix_array(told: list[str], settings: Substrings) -> list[list[tuple[int, int]]]:
    """All suffixes of all texts sorted; neighbours that agree on a window's length hold it twice."""
    suffixes = sorted((text[i:], d, i) for d, text in enumerate(told) for i in range(len(text)))
    cut = [[False] * len(text) for text in told]
    for size, wide in ((settings.length, False), (settings.wide_length, True)):
        long = [s for s in suffixes if len(s[0]) >= size and (s[0][0] in "天𠀀") == wide]
        for _, run in groupby(long, key=lambda s: s[0][:size]):
            for _, d, i in sorted(run, key=lambda s: s[1:])[1:]:
                cut[d][i : i + size] = [True] * size
    found = []
    for text, marks in zip(told, cut, strict=True):
        edges = [i for i in range(len(text) + 1) if (i > 0 and marks[i - 1]) != (i < len(text) and marks[i])]
        own = [whole_words(text, a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        found.append([(a, b) for a, b in own if a < b])
    return found


@given(texts, st.sampled_from([1024, 8e-3, 2e-3]), st.integers(5, 50))
def test_cuts_are_those_of_a_suffix_array(
    tmp_path_factory: pytest.TempPathFactory, told: list[str], memory_mb: float, piece: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "_PIECE", piece)
        patch.setattr(substrings, "_AT_ONCE", piece)
        assert spans(told, SHORT, tmp_path_factory.mktemp("work"), memory_mb) == by_suffix_array(told, SHORT)


@given(st.text(max_size=60), st.integers(8, 12), st.integers(1, 4))
def test_native_and_python_say_the_same(text: str, window: int, size: int) -> None:
    points = substrings._points(text * 2)
    told = anchors(points, window, size), fingerprints(points, 0, len(points) - 8, 8) if len(points) >= 8 else ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(substrings, "_library", lambda: None)
        same = anchors(points, window, size), fingerprints(points, 0, len(points) - 8, 8) if len(points) >= 8 else ()
    for one, other in zip((*told[0], *told[1]), (*same[0], *same[1]), strict=True):
        assert one.tolist() == other.tolist()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("write", [english, chinese])
def test_a_planted_passage_stays_once_and_the_rest_is_untouched(write, tmp_path: Path) -> None:
    rng = random.Random(7)
    told = [f"{first}, {write(rng, 12)}" for first in ("Alas", "甲", "Be it", "So", "乙", "Yes")]
    passage = write(rng, 14)
    space = " " if write is english else ""
    whole = [f"{told[i]}{space}{passage}{space}{told[i + 3]}" for i in range(3)]
    left = []
    for text, own in zip(whole, spans(whole, Substrings(), tmp_path), strict=True):
        for start, end in reversed(own):
            text = text[:start] + text[end:]
        left.append(text)
    assert left[0] == whole[0]
    for i in (1, 2):
        assert left[i].startswith(told[i]) and left[i].endswith(told[i + 3])
        assert len(left[i]) - len(told[i] + told[i + 3]) <= 1, "but for a space, nothing of the passage is left"


def test_a_cut_leaves_words_and_marks_whole() -> None:
    def without(text: str, start: int, end: int) -> str:
        start, end = whole_words(text, start, end)
        return text[:start] + text[end:]

    assert without("xunder the bridge and overy", 1, 26) == "xunder overy"
    assert without("He left. He said so. She went.", 7, 21) == "He left. She went."
    assert without("天。玄黄宇宙。洪荒", 1, 7) == "天。洪荒"
    assert without("天（玄黄宇宙）洪荒", 2, 6) == "天（）洪荒"
    assert without("a天地玄b", 1, 4) == "ab"
    assert whole_words("天地玄黄宇宙", 1, 4) == (1, 4)
    assert whole_words("e\u0301a b", 1, 4) == (4, 4)
    assert whole_words("a" * 300, 40, 260) == (40, 260)
    assert whole_words("👩\u200d🚀 go", 1, 5) == (4, 4)


def test_length_counts_characters_not_bytes(tmp_path: Path) -> None:
    rng = random.Random(1)
    for letters, size in (("abcdefgh ", 200), ("天地玄黄宇宙洪荒", 100)):
        passage = "".join(rng.choice(letters) for _ in range(size)).strip().ljust(size, letters[0])
        for kept, found in ((size, 1), (size - 1, 0)):
            told = [f"1. {passage[:kept]}!", f"2? {passage[:kept]}."]
            here = spans(told, Substrings(), tmp_path)
            # The space before the passage is shared as well: a letter more.
            assert [len(own) for own in here] == [0, found if letters[0] == "天" or kept == size else len(here[1])]


def test_lengths_that_would_cut_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8 characters"):
        Substrings(length=4)


def test_documents_left_out_have_no_cuts(tmp_path: Path) -> None:
    text = "the very same words, in both of them"
    offsets, found = substring_cuts(iter([(1, text), (4, "x " + text)]), 6, SHORT, tmp_path)
    assert offsets.tolist() == [0, 0, 0, 0, 0, 1, 1] and found.tolist() == [[2, 2 + len(text)]]
    offsets, found = substring_cuts(iter([]), 3, SHORT, tmp_path)
    assert offsets.tolist() == [0, 0, 0, 0] and found.shape == (0, 2)


@pytest.mark.parametrize("unit", ["a", "=-", "天地", "\ud800"])
def test_a_long_line_of_the_same_is_no_trouble(unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(substrings, "_AT_ONCE", 1000)
    told = [unit * 20_000, unit * 300]
    (first,), second = spans(told, SHORT, tmp_path)
    assert len(unit) * 20_000 - 20 < first[1] - first[0] < len(unit) * 20_000
    assert sum(b - a for a, b in second) == len(told[1])


def test_a_passage_twice_in_one_document_and_once_in_another_stays_once(tmp_path: Path) -> None:
    passage = "the very same words, said again"
    for told in ([f"1 {passage}", f"2 {passage} 3 {passage}"], [f"2 {passage} 3 {passage}", f"1 {passage}"]):
        cut = sum(b - a for own in spans(told, SHORT, tmp_path) for a, b in own)
        assert 2 * len(passage) - 2 <= cut <= 2 * len(passage) + 2

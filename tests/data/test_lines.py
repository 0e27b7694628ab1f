"""Lines that several documents hold: counted over all, whatever the memory; Chinese sentences end where they do."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.data import lines, spill
from qwill.data.lines import LineDuplicates, line_cuts, units

UNITS = ("line", "paragraph", "sentence")
texts = st.text(alphabet="ab.。 \n!”\u3000", max_size=40)


def cut(text: str, spans: np.ndarray) -> str:
    for start, end in reversed(spans.tolist()):
        text = text[:start] + text[end:]
    return text


def cuts(told: list[str], settings: LineDuplicates, work: Path, memory_mb: float = 1024) -> list[str]:
    """What is left of each text."""
    offsets, spans = line_cuts(enumerate(told), len(told), settings, work, memory_mb)
    assert not list(work.iterdir()) and len(offsets) == len(told) + 1 and offsets[-1] == len(spans)
    return [cut(text, spans[offsets[i] : offsets[i + 1]]) for i, text in enumerate(told)]


@given(texts, st.sampled_from(UNITS))
def test_units_are_the_whole_text(text: str, unit: str) -> None:
    found = list(units(text, unit))
    assert "".join(text[start:end] for start, end in found) == text
    assert all(start < end for start, end in found)


def test_where_units_end() -> None:
    def split(text: str, unit: str) -> list[str]:
        return [text[start:end] for start, end in units(text, unit)]

    assert split("今天很好。明天呢？“是的！”他说。", "sentence") == ["今天很好。", "明天呢？", "“是的！”", "他说。"]
    assert split("It is 3.5 now. Is it?! (Yes.) no\nA", "sentence") == [
        "It is 3.5 now. ",
        "Is it?! ",
        "(Yes.) ",
        "no\n",
        "A",
    ]
    assert split("a\nb\n \n\n c\n", "paragraph") == ["a\nb\n \n\n ", "c\n"]
    assert split("a\n\nb", "line") == ["a\n", "\n", "b"]


@pytest.mark.parametrize(
    "text", ["." * 200_000, "\n" + " " * 200_000 + "a", "。" * 200_000, ")" * 200_000, "\n " * 99_999]
)
def test_runs_of_marks_and_spaces_take_no_time(text: str) -> None:
    for unit in UNITS:
        assert sum(end - start for start, end in units(text * 2, unit)) == 2 * len(text)


@given(
    st.lists(st.lists(st.sampled_from(["one", "two", "Three", "  three ", "天", ""]), max_size=6), max_size=8),
    st.integers(1, 3),
    st.booleans(),
    st.integers(1, 5),
    st.sampled_from([1024, 1e-3, 3e-4]),
    st.integers(1, 7),
)
def test_cuts_are_those_by_hand(
    tmp_path_factory: pytest.TempPathFactory,
    told: list[list[str]],
    most: int,
    keep_first: bool,
    least: int,
    memory_mb: float,
    piece: int,
) -> None:
    holders = defaultdict(list)
    for i, held in enumerate(told):
        for line in {line.strip().lower() for line in held}:
            holders[line].append(i)
    expected = []
    for i, held in enumerate(told):
        kept = []
        for line in held:
            own = holders[line.strip().lower()]
            common = len(own) > most and len(line.strip().encode()) >= least
            if not common or (keep_first and own[0] == i):
                kept.append(line + "\n")
        expected.append("".join(kept))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "_PIECE", piece)
        patch.setattr(lines, "_BATCH", piece)
        settings = LineDuplicates(least=least, most=most, keep_first=keep_first)
        given = ["".join(line + "\n" for line in held) for held in told]
        assert cuts(given, settings, tmp_path_factory.mktemp("work"), memory_mb) == expected


def test_a_chinese_sentence_of_two_documents_stays_in_the_first(tmp_path: Path) -> None:
    shared = "版权所有，未经许可不得转载。"
    told = [f"春天来了。{shared}花开了。", f"{shared}秋天的树叶落了下来。", f"我们去看电影。{shared}"]
    left = cuts(told, LineDuplicates(unit="sentence"), tmp_path)
    assert left == [told[0], "秋天的树叶落了下来。", "我们去看电影。"]
    gone = cuts(told, LineDuplicates(unit="sentence", keep_first=False), tmp_path)
    assert gone == ["春天来了。花开了。", "秋天的树叶落了下来。", "我们去看电影。"]


def test_a_refrain_of_one_poem_and_a_short_line_of_many_stay(tmp_path: Path) -> None:
    refrain = "And miles to go before we sleep tonight\n"
    told = [f"first\n{refrain}second\n{refrain}Yes.\n", "Yes.\nother\n"]
    assert cuts(told, LineDuplicates(), tmp_path) == told


def test_documents_left_out_have_no_cuts(tmp_path: Path) -> None:
    line = "the very same line in both of them\n"
    offsets, spans = line_cuts(iter([(1, line), (4, "x\n" + line)]), 6, LineDuplicates(), tmp_path)
    assert offsets.tolist() == [0, 0, 0, 0, 0, 1, 1] and spans.tolist() == [[2, 2 + len(line)]]
    offsets, spans = line_cuts(iter([]), 3, LineDuplicates(), tmp_path)
    assert offsets.tolist() == [0, 0, 0, 0] and spans.shape == (0, 2)

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from qwill.cli.wrapping import Wrapper

TEXTS = st.text(st.sampled_from("abc de\n 你好，."))


def wrapped(pieces: list[str], width: int) -> str:
    wrapper = Wrapper(width)
    return "".join(map(wrapper.push, pieces)) + wrapper.finish()


@given(text=TEXTS, width=st.integers(4, 30), cuts=st.lists(st.integers(0, 40)))
def test_the_same_lines_come_out_however_the_text_comes_in(text, width, cuts):
    places = sorted({0, len(text), *(c for c in cuts if c < len(text))})
    pieces = [text[a:b] for a, b in pairwise(places)]
    assert wrapped(pieces, width) == wrapped([text], width)


@given(text=TEXTS, width=st.integers(4, 30))
def test_nothing_is_lost_and_words_that_fit_are_whole(text, width):
    out = wrapped([text], width)
    assert "".join(out.split()) == "".join(text.split())
    words = out.split()
    for word in text.split():
        if word.isascii() and cell_len(word) <= width:
            assert word in words
    if all(cell_len(word) <= width for word in text.split()):
        assert all(cell_len(line) <= width for line in out.split("\n"))


def test_a_word_longer_than_a_line_is_left_to_the_terminal():
    assert wrapped(["aaaaaaaaaaaa", " bb"], 5) == "aaaaaaaaaaaa bb"
    assert wrapped(["ab cdef gh"], 6) == "ab \ncdef \ngh"
    assert wrapped(["aaaa", "a"], 4) == wrapped(["aaaa", "", "a"], 4) == "aaaaa"

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from made_up_text import full_width

from qwill.data.unit_hashes import text_hashes
from qwill.data.units import distinct, ngram_hashes, split, text_key

hash_lists = st.lists(st.integers(0, 5), max_size=30).map(lambda values: np.array(values, dtype=np.uint64))


def test_units_are_words_and_chinese_characters_and_never_punctuation() -> None:
    assert split("Don’t stop — the T61's 2,5 km!") == ["don't", "stop", "the", "t61's", "2", "5", "km"]
    assert split("我用ThinkPad，３年了。") == ["我", "用", "thinkpad", "3", "年", "了"]
    assert split("。。！？ -- ...") == []


@given(st.text())
def test_case_and_width_do_not_matter(text: str) -> None:
    assert split(full_width(text)) == split(text)


@given(hash_lists, st.integers(1, 6))
def test_ngram_hashes_are_equal_exactly_where_the_runs_are(values: np.ndarray, n: int) -> None:
    runs = [tuple(values[i : i + n].tolist()) for i in range(len(values) - n + 1)]
    found = ngram_hashes(values, n).tolist()
    assert len(found) == len(runs)
    assert len(set(found)) == len(set(runs)) == len(set(zip(found, runs, strict=True)))


@given(hash_lists)
def test_distinct_is_the_sorted_set(values: np.ndarray) -> None:
    assert distinct(values).tolist() == sorted(set(values.tolist()))


@given(st.text(), st.text())
def test_text_key_is_that_of_the_units(first: str, second: str) -> None:
    if split(first) or split(second):
        assert (text_key(first) == text_key(second)) == (split(first) == split(second))
    else:
        assert (text_key(first) == text_key(second)) == (first == second)
    assert text_key(first) == text_key(first, text_hashes(first))


def test_hashes_are_the_same_in_every_process() -> None:
    code = (
        "from qwill.data.units import hashes, text_key; print(hashes(['the', '山']).tolist(), text_key('The 山').hex())"
    )
    results = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(results) == 1

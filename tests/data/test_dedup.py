import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_text import altered, chinese, english

from qwill.data.dedup import (
    NearDuplicates,
    exact_duplicates,
    jaccard,
    near_duplicates,
    shingles,
    signatures,
)
from qwill.data.units import hashes, split, text_key

CONFIG = NearDuplicates()
number_sets = st.sets(st.integers(0, 60), max_size=40)


def as_set(numbers: set[int]) -> np.ndarray:
    return np.array(sorted(numbers), dtype=np.uint64)


def kept(texts: dict[str, str], order: list[str] | None = None, config: NearDuplicates = CONFIG) -> set[str]:
    """Ids that near-duplicate removal leaves, the texts being given in `order`."""
    ids = order or sorted(texts)
    gone = near_duplicates([hashes(split(texts[i])) for i in ids], ids, config)
    return set(ids) - {ids[duplicate.index] for duplicate in gone}


def likeness(a: str, b: str) -> float:
    return jaccard(shingles(hashes(split(a)), 5), shingles(hashes(split(b)), 5))


@given(number_sets, number_sets)
def test_jaccard_is_that_of_the_sets(a: set[int], b: set[int]) -> None:
    assert jaccard(as_set(a), as_set(b)) == (len(a & b) / len(a | b) if a | b else 0.0)


def test_signatures_estimate_jaccard() -> None:
    rng = np.random.default_rng(3)
    for share in (0.2, 0.5, 0.8):
        values = rng.integers(0, 1 << 63, size=600, dtype=np.uint64)
        a, b = np.sort(values[: int(300 * (1 + share))]), np.sort(values[300:])
        count = 4000
        agree = np.mean(np.equal(*signatures([a, b], count, seed=1)))
        truth = jaccard(a, b)
        assert abs(agree - truth) < 4 * (truth * (1 - truth) / count) ** 0.5


def test_signatures_of_a_document_do_not_depend_on_the_others() -> None:
    sets = [as_set(set(range(i, i + 20))) for i in range(0, 200, 10)]
    together = signatures(sets, 24, seed=1)
    assert all((signatures([one], 24, seed=1)[0] == row).all() for one, row in zip(sets, together, strict=True))


@pytest.mark.parametrize("write", [english, chinese])
@pytest.mark.parametrize("seed", range(4))
def test_planted_near_duplicates_go_and_distinct_texts_stay(write, seed: int) -> None:
    rng = random.Random(seed)
    texts = {f"own/{i:03}": write(rng, 12) for i in range(40)}
    copies = {f"copy/{i:03}": altered(texts[f"own/{i:03}"], rng, share=0.012) for i in range(0, 40, 2)}
    assert all(likeness(copies[i], texts[i.replace("copy", "own")]) > 0.8 for i in copies)
    assert all(likeness(a, b) < 0.5 for a, b in combinations(texts.values(), 2))
    left = kept(texts | copies)
    assert len(left) == len(texts)
    assert {i.split("/")[1] for i in left} == {i.split("/")[1] for i in texts}


@given(st.integers())
def test_the_order_of_the_documents_decides_nothing(seed: int) -> None:
    rng = random.Random(seed)
    texts: dict[str, str] = {}
    for i in range(12):
        texts[f"{i:02}"] = english(rng, 4)
        if i % 3 == 0:
            texts[f"{i:02}b"] = altered(texts[f"{i:02}"], rng, share=0.03)
    order = list(texts)
    rng.shuffle(order)
    assert kept(texts, order) == kept(texts)


def test_a_chain_of_likeness_is_one_cluster() -> None:
    words = [f"word{i}" for i in range(200)]
    texts = {f"{start:03}": " ".join(words[start : start + 100]) for start in range(0, 60, 10)}
    assert likeness(texts["000"], texts["010"]) > 0.8
    assert likeness(texts["000"], texts["050"]) < 0.4
    assert kept(texts) == {"000"}


def test_the_longest_stays_and_of_equal_length_the_first_id() -> None:
    text = english(random.Random(1), 10)
    texts = {"a": text, "b": text + " And that was all of it.", "c": text + " And this was all of it."}
    assert kept(texts) == {"b"}
    assert kept({"x": text, "m": text.upper()}) == {"m"}


def test_a_threshold_of_one_keeps_what_is_merely_alike() -> None:
    rng = random.Random(2)
    text = english(rng, 10)
    near = {"a": text, "b": altered(text, rng, share=0.01)}
    assert kept(near) == {"a"}
    assert kept(near, config=NearDuplicates(similarity=1.0)) == {"a", "b"}


def test_documents_without_units_are_like_no_other() -> None:
    assert kept({"a": "。。。", "b": "。。。", "c": "", "d": english(random.Random(1))}) == set("abcd")
    assert near_duplicates([], [], CONFIG) == []


def test_short_texts_are_compared_whole() -> None:
    assert kept({"a": "one two", "b": "one two", "c": "one three"}) == {"a", "c"}


@given(
    st.lists(
        st.sampled_from(["The River.", "the river", "ｔｈｅ　ｒｉｖｅｒ！", "the riverbank", "河", "河。"]), max_size=12
    )
)
def test_exact_duplicates_leave_each_text_once_with_its_smallest_id(texts: list[str]) -> None:
    ids = [f"{(i * 7) % 13:02}" for i in range(len(texts))]
    gone = exact_duplicates([text_key(text) for text in texts], ids)
    left = {i for i in range(len(texts))} - {duplicate.index for duplicate in gone}
    for meaning in ({"The River.", "the river", "ｔｈｅ　ｒｉｖｅｒ！"}, {"the riverbank"}, {"河", "河。"}):
        same = [i for i, text in enumerate(texts) if text in meaning]
        assert [i for i in same if i in left] == ([min(same, key=lambda i: ids[i])] if same else [])
    assert all(duplicate.kept in left for duplicate in gone)

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_text import english

from qwill.data.split import HeldOut, candidates, present, runs, settle
from qwill.data.units import distinct, hashes, ngram_hashes, split, text_key

CONFIG = HeldOut(share=0.1, min_bytes=0)


@dataclass(frozen=True)
class Choice:
    heldout: list[int]
    cut: str
    returned: int


def chosen(texts: list[str], config: HeldOut = CONFIG) -> Choice:
    """As the stage does it: candidates by key, then what training text shares with them."""
    sizes = np.array([len(text.encode()) for text in texts], dtype=np.int64)
    keys = np.frombuffer(b"".join(map(text_key, texts)) or b"", dtype=np.uint8).reshape(-1, 16)
    first, cut = candidates(sizes, keys, config)
    grams = [runs(hashes(split(text)), config) for text in texts]
    others = [grams[i] for i in range(len(texts)) if i not in first]
    seen = distinct(np.concatenate([*others, np.empty(0, dtype=np.uint64)]))
    kept = settle([grams[i] for i in first], seen, config)
    return Choice([int(first[i]) for i in kept], cut, len(first) - len(kept))


def overlap(text: str, others: list[str], run: int) -> float:
    seen = {gram for other in others for gram in ngram_hashes(hashes(split(other)), run).tolist()}
    grams = ngram_hashes(hashes(split(text)), run).tolist()
    return float(np.mean([gram in seen for gram in grams])) if grams else 0.0


@given(st.integers(), st.floats(0.02, 0.2))
def test_the_share_is_met_and_the_cut_parts_the_hashes(seed: int, share: float) -> None:
    rng = random.Random(seed)
    texts = [english(rng, 3) for _ in range(60)]
    choice = chosen(texts, HeldOut(share=share, min_bytes=0))
    sizes = [len(text.encode()) for text in texts]
    held = sum(sizes[i] for i in choice.heldout)
    assert choice.returned == 0
    assert share * sum(sizes) <= held < share * sum(sizes) + max(sizes)
    assert all((text_key(text).hex() < choice.cut) == (i in choice.heldout) for i, text in enumerate(texts))


@given(st.integers())
def test_membership_does_not_depend_on_the_order(seed: int) -> None:
    rng = random.Random(seed)
    texts = [english(rng, 3) for _ in range(40)]
    mixed = list(texts)
    rng.shuffle(mixed)
    assert {texts[i] for i in chosen(texts).heldout} == {mixed[i] for i in chosen(mixed).heldout}


@given(st.integers())
def test_held_out_documents_share_next_to_nothing_with_training(seed: int) -> None:
    rng = random.Random(seed)
    texts = [english(rng, 4) for _ in range(40)]
    for i in range(0, 40, 4):
        # A paragraph quoted in another document is no near duplicate; here each of three quotes the next.
        texts[i + 1], texts[i] = texts[i + 1] + " " + texts[i + 2], texts[i] + " " + texts[i + 1]
    config = replace(CONFIG, share=0.4, max_share=0.4)
    choice = chosen(texts, config)
    training = [text for i, text in enumerate(texts) if i not in choice.heldout]
    assert all(overlap(texts[i], training, config.run) <= config.max_overlap for i in choice.heldout)


def test_candidates_that_training_quotes_are_returned() -> None:
    rng = random.Random(4)
    texts = [english(rng, 5) for _ in range(40)]
    held = chosen(texts).heldout
    quoting = [*texts, english(rng, 5) + " " + texts[held[0]] + " " + english(rng, 5)]
    choice = chosen(quoting)
    sides = {held[0] in choice.heldout, 40 in choice.heldout}
    assert len(sides) == 1
    assert choice.returned >= 1 or sides == {True}


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_documents_are_not_split(count: int) -> None:
    assert chosen([english(random.Random(1))] * count).heldout == []


def test_a_small_corpus_gives_no_more_than_the_greatest_share() -> None:
    rng = random.Random(1)
    texts = [english(rng, 3) for _ in range(50)]
    held = chosen(texts, HeldOut(share=0.03, min_bytes=10**9, max_share=0.2)).heldout
    assert 10 <= len(held) <= 12


def test_no_more_is_held_out_than_the_most_bytes() -> None:
    rng = random.Random(3)
    texts = [english(rng, 3) for _ in range(50)]
    sizes = [len(text.encode()) for text in texts]
    held = chosen(texts, HeldOut(share=0.2, min_bytes=0, max_bytes=3 * max(sizes))).heldout
    assert 0 < sum(sizes[i] for i in held) <= 4 * max(sizes)


@given(st.lists(st.integers(0, 50)), st.lists(st.integers(0, 50)))
def test_what_is_present_is_found(asked: list[int], there: list[int]) -> None:
    wanted = distinct(np.array(there, dtype=np.uint64))
    assert present(np.array(asked, dtype=np.uint64), wanted).tolist() == [value in there for value in asked]

"""Clusters equal those of a plain union–find, whatever the memory, the chunks and the order of the documents."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.data import clusters, spill
from qwill.data.clusters import Clusters, exact_duplicates, near_duplicates
from qwill.data.minhash import BandKeys, MinHash, similarity

FUNCTIONS = 6
# Few values, spread over the range by which keys are split; the last ones share their upper half.
KEYS = np.array([3, 1 << 40, 1 << 63, (1 << 63) + 1, (1 << 64) - 1], dtype=np.uint64)


@dataclass(frozen=True)
class Documents:
    keys: np.ndarray
    sketches: np.ndarray
    has: np.ndarray
    quality: np.ndarray
    length: np.ndarray

    def __getitem__(self, which: Sequence[int]) -> "Documents":
        return Documents(*(part[which] for part in vars(self).values()))


@st.composite
def documents(draw: st.DrawFn, most: int = 24) -> Documents:
    count, bands = draw(st.integers(0, most)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    kinds = draw(st.integers(1, 3 * most))
    keys = mixed(rng.integers(0, kinds, size=(count, bands)))
    sketches = rng.integers(0, 2, size=(count, FUNCTIONS)).astype(np.uint8)
    has = rng.random(count) < 0.9
    quality = rng.choice(np.array([0.0, 0.5, 1.0, np.nan], dtype=np.float32), count)
    return Documents(keys, sketches, has, quality, rng.integers(0, 3, count))


def mixed(kinds: np.ndarray) -> np.ndarray:
    return KEYS[kinds % len(KEYS)] ^ (kinds // len(KEYS)).astype(np.uint64)


def found(
    told: Documents,
    work: Path,
    chunk: int = 5,
    memory_mb: float = 1024,
    verify: float | None = None,
) -> Clusters:
    chunks = [
        BandKeys(told.keys[i : i + chunk], told.sketches[i : i + chunk], told.has[i : i + chunk])
        for i in range(0, len(told.has), chunk)
    ]
    bands = told.keys.shape[1]
    settings = MinHash(bands=bands, rows=FUNCTIONS // bands, verify=verify)
    result = near_duplicates(chunks, told.quality, told.length, settings, work, memory_mb)
    assert not list(work.iterdir()), "nothing temporary stays"
    return result


def by_hand(told: Documents) -> list[int]:
    """The representatives, by following shared keys from document to document."""
    near = defaultdict(set)
    for band in range(told.keys.shape[1]):
        for i in np.flatnonzero(told.has).tolist():
            near[band, int(told.keys[i, band])].add(i)
    left, answer = set(range(len(told.has))), list(range(len(told.has)))
    while left:
        todo = [left.pop()]
        members = set(todo)
        while todo:
            one = todo.pop()
            for bucket in near.values():
                if one in bucket and not bucket <= members:
                    todo += bucket - members
                    members |= bucket
        left -= members
        quality = [-np.inf if np.isnan(q) else q for q in told.quality.tolist()]
        kept = min(members, key=lambda i: (-quality[i], -told.length[i], i))
        for i in members:
            answer[i] = kept
    return answer


@given(documents(), st.integers(1, 9), st.sampled_from([1024, 1e-3, 3e-4]), st.integers(1, 7))
def test_clusters_are_those_by_hand(
    tmp_path_factory: pytest.TempPathFactory, told: Documents, chunk: int, memory_mb: float, piece: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "_PIECE", piece)
        answer = found(told, tmp_path_factory.mktemp("work"), chunk, memory_mb)
    assert answer.representative.tolist() == by_hand(told)
    gone = answer.gone()
    assert (answer.representative[gone] != gone).all()
    bands, kept = told.keys.shape[1], answer.representative[gone]
    functions = bands * (FUNCTIONS // bands)
    assert functions == FUNCTIONS
    assert (answer.similarity[gone] == similarity(told.sketches[gone], told.sketches[kept])).all()
    assert (np.delete(answer.similarity, gone) == 1).all()


@given(documents(), st.randoms(use_true_random=False), st.sampled_from([None, 0.4, 0.7, 1.0]))
def test_the_order_of_the_documents_decides_nothing(
    tmp_path_factory: pytest.TempPathFactory, told: Documents, rng, verify: float | None
) -> None:
    """Not even which pairs are compared; documents with different quality or length, so that no tie is left."""
    count = len(told.has)
    told = Documents(told.keys, told.sketches, told.has, told.quality, rng_lengths(count))
    order = list(range(count))
    rng.shuffle(order)
    work = tmp_path_factory.mktemp("work")
    straight = found(told, work, verify=verify).representative
    shuffled = found(told[order], work, verify=verify).representative
    assert [order[i] for i in shuffled] == [straight[i] for i in order]


@given(documents(), st.randoms(use_true_random=False), st.sampled_from([0.4, 0.7]))
def test_ties_are_clustered_alike_in_every_order(
    tmp_path_factory: pytest.TempPathFactory, told: Documents, rng, verify: float
) -> None:
    """Documents of one quality and length: what is compared with what is decided by their sketches."""
    count = len(told.has)
    told = Documents(told.keys, told.sketches, told.has, np.zeros(count, np.float32), np.ones(count, np.int64))
    order = list(range(count))
    rng.shuffle(order)
    work = tmp_path_factory.mktemp("work")
    straight = partition(found(told, work, verify=verify), list(range(count)))
    assert partition(found(told[order], work, verify=verify), order) == straight


def partition(answer: Clusters, names: list[int]) -> set[frozenset[int]]:
    members = defaultdict(set)
    for i, kept in enumerate(answer.representative.tolist()):
        members[kept].add(names[i])
    return {frozenset(own) for own in members.values()}


def test_spans_that_touch_or_overlap_are_one_within_a_document() -> None:
    rows = np.array([[1, 4, 5], [0, 2, 4], [0, 0, 2], [0, 6, 9], [0, 7, 8], [1, 0, 3]], dtype=np.uint64)
    assert spill.merged(rows).tolist() == [[0, 0, 4], [0, 6, 9], [1, 0, 3], [1, 4, 5]]


def rng_lengths(count: int) -> np.ndarray:
    return np.random.default_rng(count).permutation(count)


@given(documents(), st.sampled_from([0.3, 0.7, 1.0]))
def test_verified_clusters_hold_alike_documents_and_part_the_others(
    tmp_path_factory: pytest.TempPathFactory, told: Documents, verify: float
) -> None:
    work = tmp_path_factory.mktemp("work")
    trusted, answer = found(told, work).representative, found(told, work, verify=verify).representative
    assert (found(told, work, verify=0.0).representative == trusted).all()
    members = defaultdict(list)
    for i, kept in enumerate(answer.tolist()):
        members[kept].append(i)
    for own in members.values():
        assert len({int(trusted[i]) for i in own}) == 1
        reached, todo = {own[0]}, [own[0]]
        while todo:  # along pairs that share a key and are alike
            one = todo.pop()
            for other in set(own) - reached:
                if meets(told, one, other, verify):
                    reached.add(other)
                    todo.append(other)
        assert reached == set(own)
    # A bucket of two is compared for certain.
    for band in range(told.keys.shape[1]):
        for key in KEYS:
            pair = np.flatnonzero((told.keys[:, band] == key) & told.has)
            if len(pair) == 2 and meets(told, *pair, verify):
                assert answer[pair[0]] == answer[pair[1]]


def meets(told: Documents, one: int, other: int, verify: float) -> bool:
    alike = similarity(told.sketches[[one]], told.sketches[[other]])[0]
    shared = (told.keys[one] == told.keys[other]).any()
    return bool(shared and told.has[one] and told.has[other] and alike >= np.float32(verify))


@given(st.lists(st.integers(0, 8), max_size=30), st.sampled_from([1024, 1e-3, 3e-4]))
def test_exact_duplicates_leave_one_of_each(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[int], memory_mb: float
) -> None:
    # Keys that are equal in their first or their second half, and differ.
    halves = np.array([KEYS[np.array(kinds, dtype=int) // 3], KEYS[np.array(kinds, dtype=int) % 3]]).T
    keys = np.ascontiguousarray(halves).view(np.uint8).reshape(len(kinds), 16)
    quality, length = np.zeros(len(kinds), dtype=np.float32), np.array(kinds, dtype=np.int64)
    chunks = [keys[i : i + 7] for i in range(0, len(keys), 7)]
    answer = exact_duplicates(chunks, quality, length, tmp_path_factory.mktemp("work"), memory_mb)
    assert answer.representative.tolist() == [kinds.index(kind) for kind in kinds]


def test_a_long_chain_is_one_cluster(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    order, count = rng.permutation(1000), 1000
    keys = np.empty((count, 2), dtype=np.uint64)
    # Document p of the chain shares its first key with one neighbour and its second with the other.
    keys[order, 0], keys[order, 1] = np.arange(count) // 2, (np.arange(count) + 1) // 2
    told = Documents(
        keys,
        np.zeros((count, FUNCTIONS), dtype=np.uint8),
        np.ones(count, dtype=bool),
        np.arange(count, dtype=np.float32),
        np.ones(count, dtype=np.int64),
    )
    assert (found(told, tmp_path).representative == count - 1).all()


def test_a_bucket_of_unlike_documents_costs_a_bounded_number_of_comparisons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, compared = 300, 0
    rng = np.random.default_rng(1)

    def counted(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(a)
        return similarity(a, b)

    monkeypatch.setattr(clusters, "similarity", counted)
    told = Documents(
        np.full((count, 1), 7, dtype=np.uint64),
        rng.integers(0, 256, size=(count, FUNCTIONS)).astype(np.uint8),
        np.ones(count, dtype=bool),
        np.zeros(count, dtype=np.float32),
        np.ones(count, dtype=np.int64),
    )
    assert len(found(told, tmp_path, verify=0.9).gone()) == 0
    assert count * 32 < compared <= count * 64


def test_each_document_has_its_quality_and_bands(tmp_path: Path) -> None:
    keys = BandKeys(np.ones((2, 14), dtype=np.uint64), np.ones((2, 112), dtype=np.uint8), np.ones(2, dtype=bool))
    with pytest.raises(DataError, match="keys of 2 documents, but the quality of 3"):
        near_duplicates([keys], np.zeros(3, dtype=np.float32), np.zeros(3, dtype=np.int64), MinHash(), tmp_path)
    with pytest.raises(DataError, match="keys of 14 bands where the settings say 20"):
        near_duplicates([keys], np.zeros(2, dtype=np.float32), np.zeros(2, dtype=np.int64), MinHash(bands=20), tmp_path)

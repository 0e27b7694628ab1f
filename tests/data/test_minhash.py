"""MinHash: bit-equal to datatrove's record in parity mode, the law of bands in both, native and NumPy alike."""

import hashlib
import json
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_text import chinese, copies, english

from qwill.data import minhash, native_minhash
from qwill.data.clusters import near_duplicates
from qwill.data.letter_hashes import letter_values, word_hashes
from qwill.data.minhash import (
    PRIME,
    MinHash,
    band_keys,
    exact_signatures,
    fast_signatures,
    keys_of,
    least_exact,
    similarity,
)
from qwill.data.simplify import definition, simplify
from qwill.data.split_texts import from_strings, from_words, split_texts
from qwill.data.words import split_words

ORACLE = json.loads((Path(__file__).parent.parent / "oracles" / "minhash.json").read_text())
RECORD = ORACLE["documents"]
RULES = {"eng": "english", "cmn_Hani": "chinese"}
words = st.lists(st.text(max_size=12), max_size=30)
modes = pytest.mark.parametrize("mode", ["parity", "fast"])


@pytest.fixture(params=["native", "numpy"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(native_minhash, "library", lambda: None)
    elif native_minhash.library() is None:
        pytest.skip("no C compiler")


def signed(split: list[list[str]], settings: MinHash) -> tuple[np.ndarray, np.ndarray]:
    if settings.mode == "parity":
        return exact_signatures(from_words(split), settings)
    return fast_signatures(*word_hashes(from_words(split)), settings)


def as_recorded(signatures: np.ndarray, has: np.ndarray) -> list[dict[str, Any] | None]:
    return [
        {"first": row[:2].tolist(), "sha256": hashlib.sha256(row.astype("<u8").tobytes()).hexdigest()} if here else None
        for row, here in zip(signatures, has, strict=True)
    ]


@pytest.mark.parametrize("name", ["xxhash", "sha1"])
@pytest.mark.usefixtures("library")
def test_signatures_are_those_of_datatrove(name: str) -> None:
    found = exact_signatures(from_words([entry["words"] for entry in RECORD]), MinHash(hash=name))
    assert as_recorded(*found) == [entry[name] for entry in RECORD]
    assert sum(entry[name] is None for entry in RECORD) >= 3, "documents without signature are part of the record"


@pytest.mark.usefixtures("library")
def test_simplified_text_is_that_of_datatrove() -> None:
    for entry in RECORD:
        assert simplify(entry["text"]) == entry["simple"]


@pytest.mark.parametrize("language", sorted(RULES))
def test_from_text_to_keys_as_datatrove(language: str) -> None:
    own = [entry for entry in RECORD if entry["language"] == language]
    expected = keys_of(*exact_signatures(from_words([entry["words"] for entry in own]), MinHash()), MinHash())
    found = band_keys([entry["text"] for entry in own], None, MinHash(), RULES[language])
    assert (found.keys == expected.keys).all() and (found.has == expected.has).all()


@pytest.mark.parametrize("language", sorted(RULES))
def test_clusters_are_those_of_datatrove(language: str, tmp_path: Path) -> None:
    texts = copies({"eng": english, "cmn_Hani": chinese}[language], 3)
    keys = band_keys(texts, None, MinHash(), RULES[language])
    quality, length = np.zeros(len(texts), dtype=np.float32), np.arange(len(texts))
    answer = near_duplicates([keys], quality, length, MinHash(), tmp_path)
    members = defaultdict(list)
    for i, kept in enumerate(answer.representative.tolist()):
        members[kept].append(i)
    found = sorted(own for own in members.values() if len(own) > 1)
    assert found == ORACLE["copies"][language]
    assert 30 < len(answer.gone()) < 110, "some copies are near duplicates and some are not"


BUGS: dict[str, tuple[str, Any]] = {
    "another prime": ("PRIME", PRIME - np.uint64(2)),
    "another byte order": ("_digest", lambda s, n: int.from_bytes(hashlib.sha1(s.encode()).digest()[:8], "big")),
    "words without space": ("_digest", lambda s, n, was=minhash._digest: was(s.replace(" ", ""), n)),
    "functions of another seed": ("_exact_functions", lambda s, was=minhash._exact_functions: was(MinHash(seed=2))),
}


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_the_record_sees_bugs(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_minhash, "library", lambda: None)
    monkeypatch.setattr(minhash, *BUGS[bug])
    found = exact_signatures(from_words([entry["words"] for entry in RECORD]), MinHash(hash="sha1"))
    assert as_recorded(*found) != [entry["sha1"] for entry in RECORD]


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=8), st.lists(st.integers(1, (1 << 61) - 2), min_size=1))
def test_the_hash_functions_wrap_at_64_bits_and_nothing_else_overflows(x: list[int], a: list[int]) -> None:
    # datatrove #198: with a 64-bit hash, x a + b does not fit.
    shingles, factors = np.array(x, dtype=np.uint64), np.array(a, dtype=np.uint64)
    offsets = np.array([0, len(x)])
    told = [[min((v * f + f % 97) % 2**64 % (2**61 - 1) for v in x) for f in a]] if x else [[2**64 - 1] * len(a)]
    assert least_exact(shingles, offsets, factors, factors % np.uint64(97)).tolist() == told
    library = native_minhash.library()
    if library is not None:
        found = np.empty((1, len(a)), dtype=np.uint64)
        native_minhash.call(
            library.minhash_exact, shingles, offsets, 1, factors, factors % np.uint64(97), len(a), found
        )
        assert found.tolist() == told


@pytest.mark.parametrize("value", [0, 1, 2**61 - 2, 2**61 - 1, 2**61, 2**62 - 2, 7 * (2**61 - 1), 2**64 - 8, 2**64 - 1])
def test_the_fold_is_the_remainder_at_its_edges(value: int) -> None:
    library = native_minhash.library()
    if library is None:
        pytest.skip("no C compiler")
    one, zero = np.ones(1, dtype=np.uint64), np.zeros(1, dtype=np.uint64)
    found = np.empty((1, 1), dtype=np.uint64)
    told = np.array([value], dtype=np.uint64)
    native_minhash.call(library.minhash_exact, told, np.array([0, 1]), 1, one, zero, 1, found)
    assert found[0, 0] == value % (2**61 - 1)


@modes
@given(split=st.lists(words, max_size=6), bands=st.integers(1, 6), rows=st.integers(1, 9), ngram=st.integers(1, 6))
def test_native_and_numpy_say_the_same(mode: Any, split: list[list[str]], bands: int, rows: int, ngram: int) -> None:
    settings = MinHash(ngram, bands, rows, seed=3, mode=mode)
    found = signed(split, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_minhash, "library", lambda: None)
        told = signed(split, settings)
    assert (found[0] == told[0]).all() and (found[1] == told[1]).all()


@modes
@given(split=st.lists(words, min_size=1, max_size=6))
def test_a_document_does_not_depend_on_the_others(mode: Any, split: list[list[str]]) -> None:
    settings = MinHash(ngram=2, mode=mode)
    together = keys_of(*signed(split, settings), settings)
    for i, own in enumerate(split):
        alone = keys_of(*signed([own], settings), settings)
        assert (alone.keys[0] == together.keys[i]).all() and (alone.sketches[0] == together.sketches[i]).all()
        assert alone.has[0] == together.has[i]
        assert together.has[i] or not together.keys[i].any()


@given(
    st.text(max_size=60) | st.text("1٣.,  \t\u0301aÉ天。", max_size=20) | st.text("1٫ a\u302eσΣİ\ud800가", max_size=9)
)
def test_simplifying_is_its_definition(text: str) -> None:
    assert simplify(text) == definition(text)
    plain = unicodedata.normalize("NFD", simplify(text))
    assert not any(unicodedata.category(c) == "Mn" for c in plain) and plain == plain.strip()
    # The quick way for ASCII gives what the general way gives.
    assert definition("x " + text).removeprefix("x").strip() == definition("é " + text).removeprefix("e").strip()


def test_every_character_is_simplified_as_defined() -> None:
    every = [f"a{chr(c)}1{chr(c)}2" for c in range(0x110000)]
    for first in range(0, len(every), 1 << 12):
        text = "\n".join(every[first : first + (1 << 12)])
        if simplify(text) != definition(text):
            assert [one for one in every[first : first + (1 << 12)] if simplify(one) != definition(one)] == []


def test_all_nonspacing_marks_go_however_many_kinds_there_are() -> None:
    marks = [chr(c) for c in range(0x300, 0x370)]
    assert simplify("x".join(marks) + "y") == "x" * (len(marks) - 1) + "y"


def hashed(words: list[str]) -> list[int]:
    found, offsets = word_hashes(from_words([words]))
    assert offsets.tolist() == [0, len(found)]
    return found.tolist()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "same",
    [
        ["Café", "cafe\u0301", "CAFÉ", "“cafe”", "ｃａｆｅ"],
        ["12.5", "7", "１２", "٣"],
        ["漢語", "汉语", "「漢語」"],
        ["U.S.", "us"],
    ],
)
def test_fast_mode_takes_words_for_equal_that_are_equal_in_folded_letters(same: list[str]) -> None:
    assert len(set(hashed(same))) == 1 and len(hashed(same)) == len(same)


@pytest.mark.usefixtures("library")
def test_fast_mode_tells_other_words_apart_and_leaves_out_those_without_letters() -> None:
    words = ["a", "b", "ab", "ba", "aa", "0", "a0", "0a", "天", "地", "天地", "地天", "가", "각", "ç", "d"]
    assert len(set(hashed(words))) == len(words)
    assert hashed(["。", "", "\u0301", " ", "—", "\u200b", "...", "\n"]) == []


def test_letters_differ_but_where_folding_makes_them_one() -> None:
    values = letter_values()
    assert len(values) == 0x110000 and len(np.unique(values[0x4E00:0xA000])) > 17_000
    assert values[ord("Ａ")] == values[ord("a")] == values[ord("á")] != values[ord("b")]


@pytest.mark.parametrize("rule", ["english", "chinese", "characters"])
@given(texts=st.lists(st.text(max_size=40) | st.just("It's 3.5 km, isn't it? \ud800\0 我们去了北京。"), max_size=4))
def test_split_texts_hold_the_words(rule: str, texts: list[str]) -> None:
    words = [split_words(text, rule) for text in texts]
    assert split_texts(texts, rule).strings() == words == from_words(words).strings()
    settings = MinHash(ngram=2, mode="fast")
    known = [from_strings(own) if i % 2 else None for i, own in enumerate(words)]
    given_words, split_here = band_keys(texts, known, settings, rule), band_keys(texts, None, settings, rule)
    assert (given_words.keys == split_here.keys).all() and (given_words.has == split_here.has).all()


def pairs_of(shared: int, own: int, count: int, draw: Callable[[int], list[str]]) -> list[list[str]]:
    """`count` pairs of documents of one-word shingles: `shared` in both, `own` in each alone."""
    made = []
    for _ in range(count):
        words = draw(shared + 2 * own)
        made += [words[: shared + own], words[:shared] + words[shared + own :]]
    return made


def letters(number: int) -> str:
    """A word of its own for each number, without digits, which fast mode takes for one."""
    return "".join(chr(0x61 + int(digit, 16)) for digit in f"{number:x}")


@modes
@pytest.mark.parametrize(("shared", "own"), [(20, 10), (30, 5), (34, 3), (38, 1)])
def test_pairs_meet_as_often_as_the_law_says(mode: Any, shared: int, own: int) -> None:
    count, settings = 2000, MinHash(ngram=1, mode=mode)
    rng = np.random.default_rng(shared)
    split = pairs_of(shared, own, count, lambda n: [letters(v) for v in rng.integers(0, 1 << 62, n).tolist()])
    signatures, has = signed(split, settings)
    found = keys_of(signatures, has, settings)
    s = shared / (shared + 2 * own)
    law = 1 - (1 - s**settings.rows) ** settings.bands
    met = (found.keys[0::2] == found.keys[1::2]).any(axis=1).mean()
    # Four standard errors: one run in 16,000 would fall outside by chance, and this one is seeded.
    assert abs(met - law) < 4 * np.sqrt(law * (1 - law) / count) + 1e-9
    told = similarity(found.sketches[0::2], found.sketches[1::2])
    assert abs(told.mean() - s) < 4 * np.sqrt(s * (1 - s) / settings.functions / count) + 1e-3
    assert abs(told.std() / np.sqrt(s * (1 - s) / settings.functions) - 1) < 0.15

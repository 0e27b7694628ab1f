"""The Kneser–Ney baseline against the definitions: a slow reference in dictionaries, and sums over the
alphabet."""

import importlib.util
import math
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.evaluate import kneser_ney
from qwill.evaluate.kneser_ney import KneserNey, byte_kn_bits_per_byte, token_kn_bits_per_byte

START = -1


class Reference:
    """Modified Kneser–Ney written from Chen & Goodman's definitions, with nothing in common with the fast
    one."""

    def __init__(self, documents: list[list[int]], order: int, alphabet: int) -> None:
        self.alphabet, self.order = alphabet, order
        raw: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order + 2)]
        for document in documents:
            padded = [START, *document]
            for n in range(1, order + 1):
                for i in range(len(padded) - n + 1):
                    raw[n][tuple(padded[i : i + n])] += 1
        self.followers: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
        self.discounts: dict[int, tuple[float, float, float]] = {}
        for n in range(1, order + 1):
            adjusted = {}
            for gram, count in raw[n].items():
                if gram == (START,):
                    continue
                if n < order and gram[0] != START:
                    count = len({longer[0] for longer in raw[n + 1] if longer[1:] == gram})
                adjusted[gram] = count
                self.followers[gram[:-1]][gram[-1]] = count
            self.discounts[n] = self.estimate(list(adjusted.values()))

    @staticmethod
    def estimate(counts: list[int]) -> tuple[float, float, float]:
        t = [counts.count(n) for n in range(5)]
        if t[1] == 0 or t[2] == 0:
            return (0.5, 1.0, 1.5)
        y = t[1] / (t[1] + 2 * t[2])
        if t[3]:
            found = (1 - 2 * y * t[2] / t[1], 2 - 3 * y * t[3] / t[2], 3 - 4 * y * t[4] / t[3])
            if all(d > 0 for d in found):
                return found
        return (y, y, y)

    def probability(self, context: tuple[int, ...], symbol: int) -> float:
        return self.at_order(context[-(self.order - 1) :] if self.order > 1 else (), symbol)

    def at_order(self, context: tuple[int, ...], symbol: int) -> float:
        lower = self.at_order(context[1:], symbol) if context else 1 / self.alphabet
        after = self.followers.get(context)
        if not after:
            return lower
        discounts = self.discounts[len(context) + 1]
        total = sum(after.values())
        count = after.get(symbol, 0)
        kept = count - discounts[min(count, 3) - 1] if count else 0.0
        left = sum(discounts[min(c, 3) - 1] for c in after.values())
        return kept / total + left / total * lower

    def bits(self, document: list[int]) -> list[float]:
        return [-math.log2(self.probability((START, *document[:i]), s)) for i, s in enumerate(document)]


def corpora(alphabet: int):
    return st.lists(st.lists(st.integers(0, alphabet - 1), max_size=40), max_size=8)


def arrays(documents: list[list[int]]) -> list[np.ndarray]:
    return [np.array(document, dtype=np.int64) for document in documents]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 5).flatmap(lambda a: st.tuples(st.just(a), corpora(a), corpora(a))), st.integers(1, 5))
def test_equals_the_definitions(data, order):
    alphabet, train, heldout = data
    fast = KneserNey.fit(arrays(train), order, alphabet).symbol_bits(arrays(heldout))
    slow = [bits for document in heldout for bits in Reference(train, order, alphabet).bits(document)]
    np.testing.assert_allclose(fast, slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_definitions_where_the_three_discounts_are_used(order):
    generator = np.random.default_rng(order)
    skewed = np.minimum(generator.zipf(1.5, 3000) - 1, 39)
    train = [list(map(int, part)) for part in np.split(skewed, 60)]
    heldout = [list(map(int, np.minimum(generator.zipf(1.5, 30) - 1, 39))) for _ in range(4)]
    slow = Reference(train, order, 40)
    if order > 1:
        assert len(set(slow.discounts[order])) == 3
    fast = KneserNey.fit(arrays(train), order, 40)
    for n, level in enumerate(fast.levels, start=1):
        assert level.discounts == pytest.approx(slow.discounts[n], rel=1e-12)
    for document in heldout:
        np.testing.assert_allclose(fast.symbol_bits(arrays([document])), slow.bits(document), rtol=1e-12)


SEEDED_BUGS = [
    ("np.where(begins, counts, continuation)", "counts"),
    ("np.where(begins, counts, continuation)", "continuation"),
    ("np.minimum(counts, 3)", "np.minimum(counts, 2)"),
    ("counts[alphabet] = 0", "pass"),
    ("level.backoff[context] * probability[ends]", "(1 - level.share[grams]) * probability[ends]"),
    ("3 - 4 * single * t4 / t3", "3 - 3 * single * t4 / t3"),
    ("single = t1 / (t1 + 2 * t2)", "single = t1 / (t1 + t2)"),
    ("place >= max(1, n - 1)", "place >= max(1, n)"),
    ("begins = place[last] == n - 1", "begins = place[last] == n"),
    (
        "probability = np.full(len(text), 1.0 / self.alphabet)",
        "probability = np.full(len(text), 1 / len(text))",
    ),
    ("packed = ids[ends - 1].astype(np.int64) * radix", "packed = ids[ends - 1].astype(np.int64) * 7"),
]


@pytest.mark.parametrize(("right", "wrong"), SEEDED_BUGS)
def test_the_reference_catches_seeded_bugs(right, wrong):
    generator = np.random.default_rng(9)
    train = [list(map(int, np.minimum(generator.zipf(1.5, 30) - 1, 29))) for _ in range(40)]
    heldout = [list(map(int, np.minimum(generator.zipf(1.5, 30) - 1, 29))) for _ in range(4)]
    references = {order: Reference(train, order, 30) for order in (1, 4)}

    def error(module: ModuleType) -> float:
        gaps = [
            module.KneserNey.fit(arrays(train), order, 30).symbol_bits(arrays(heldout))
            - [bits for document in heldout for bits in slow.bits(document)]
            for order, slow in references.items()
        ]
        return float(np.abs(gaps).max()) if np.isfinite(gaps).all() else math.inf

    assert error(kneser_ney) < 1e-12
    assert error(seeded(right, wrong)) > 1e-9


def seeded(right: str, wrong: str) -> ModuleType:
    source = Path(kneser_ney.__file__).read_text(encoding="utf-8")
    assert right in source
    spec = importlib.util.spec_from_loader("seeded_kneser_ney", loader=None)
    module = importlib.util.module_from_spec(spec)
    exec(compile(source.replace(right, wrong), "seeded_kneser_ney", "exec"), module.__dict__)
    return module


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 6).flatmap(lambda a: st.tuples(st.just(a), corpora(a), st.lists(st.integers(0, a - 1), max_size=6))),
    st.integers(1, 5),
)
def test_probabilities_sum_to_one_after_any_context(data, order):
    alphabet, train, context = data
    model = KneserNey.fit(arrays(train), order, alphabet)
    continued = arrays([[*context, symbol] for symbol in range(alphabet)])
    last = model.symbol_bits(continued).reshape(alphabet, len(context) + 1)[:, -1]
    assert np.all(np.isfinite(last))
    assert np.sum(2.0**-last) == pytest.approx(1.0, abs=1e-12)


def test_documents_are_separate():
    train = arrays([[0, 1, 2, 3]] * 5 + [[3, 2, 1, 0]] * 3)
    model = KneserNey.fit(train, 4, 4)
    one, other = arrays([[0, 1, 2, 3], [3, 2]])
    both = model.symbol_bits([one, other])
    assert list(both) == [*model.symbol_bits([one]), *model.symbol_bits([other])]
    assert model.bits(one) == pytest.approx(both[:4].sum())
    joined = KneserNey.fit([np.concatenate(train)], 4, 4)
    assert joined.bits(one) != model.bits(one)


def test_the_order_of_documents_does_not_matter():
    generator = np.random.default_rng(0)
    train = [generator.integers(0, 4, size=n) for n in generator.integers(0, 50, size=30)]
    heldout = [generator.integers(0, 4, size=100)]
    bits = KneserNey.fit(train, 5, 4).symbol_bits(heldout)
    assert np.array_equal(bits, KneserNey.fit(train[::-1], 5, 4).symbol_bits(heldout))


def test_reaches_the_entropy_of_a_markov_source_and_a_longer_context_helps():
    generator = np.random.default_rng(1)
    table = generator.dirichlet(np.full(8, 0.3), size=(8, 8))
    cumulative = table.cumsum(axis=2)
    draws = generator.random(60_000)
    text = [0, 0]
    for u in draws:
        text.append(min(7, int(np.searchsorted(cumulative[text[-2], text[-1]], u))))
    symbols = np.array(text[2:])
    truth = -np.mean(np.log2([table[text[i], text[i + 1], text[i + 2]] for i in range(50_000, 60_000)]))
    train, heldout = [symbols[:50_000]], [symbols[50_000:]]
    by_order = [KneserNey.fit(train, order, 8).symbol_bits(heldout).mean() for order in (1, 2, 3, 5)]
    assert by_order[0] > by_order[1] > by_order[2]
    assert truth < by_order[2] < truth * 1.01  # the third order is the source's own
    assert by_order[3] < truth * 1.15


def test_large_vocabularies_do_not_collide():
    size = 65_536
    train = arrays([[size - 1, size - 2, size - 3, 7, 8, 9], [size - 2, size - 3, 7, 8, 9, 10]] * 3)
    slow = Reference([list(map(int, d)) for d in train], 5, size)
    heldout = [[size - 2, size - 3, 7, 8, 9, 11], [size - 1, 0]]
    expected = [b for document in heldout for b in slow.bits(document)]
    found = KneserNey.fit(train, 5, size).symbol_bits(arrays(heldout))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_scoring_in_blocks_changes_nothing(monkeypatch):
    generator = np.random.default_rng(2)
    documents = [generator.integers(0, 5, size=n) for n in generator.integers(0, 60, size=40)]
    model = KneserNey.fit(documents, 3, 5)
    whole = model.symbol_bits(documents)
    monkeypatch.setattr("qwill.evaluate.kneser_ney.SCORE_BLOCK", 64)
    assert np.array_equal(whole, model.symbol_bits(documents))


def test_nothing_to_learn_from_is_uniform():
    model = KneserNey.fit([], 5, 256)
    assert list(model.symbol_bits([np.array([1, 2, 3])])) == [8.0, 8.0, 8.0]


def test_bits_per_byte_of_bytes_and_tokens():
    train, heldout = [b"the cat sat on the mat. " * 20], [b"the mat sat on the cat."]
    by_bytes = byte_kn_bits_per_byte(train, heldout)
    assert 0 < by_bytes < 4
    as_ids = [[np.frombuffer(d, dtype=np.uint8) for d in docs] for docs in (train, heldout)]
    assert token_kn_bits_per_byte(*as_ids, heldout_bytes=len(heldout[0]), vocab_size=256) == by_bytes
    assert token_kn_bits_per_byte(*as_ids, 2 * len(heldout[0]), 256) == by_bytes / 2


def test_bad_input_is_named():
    with pytest.raises(DataError, match="document 1 holds symbol 4, expected 0 to 3"):
        KneserNey.fit(arrays([[0], [4]]), 2, 4)
    with pytest.raises(DataError, match="symbol -2"):
        KneserNey.fit(arrays([[0, -2]]), 2, 4).bits(np.array([0]))
    with pytest.raises(DataError, match="order 0"):
        KneserNey.fit([], 0, 4)
    with pytest.raises(DataError, match="no held-out bytes"):
        byte_kn_bits_per_byte([b"abc"], [b""])

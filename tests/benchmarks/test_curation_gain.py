"""The comparison of a curated with a raw corpus: what is corrupted, what is planted, how the arms are scored."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import curation_gain as gain
import curation_gain_data as data
import numpy as np
import pytest

ENGLISH = [
    f"The {noun} of the {place} was seen by many people who were there in {1900 + i}. It is a story that has been told."
    for i in range(40)
    for noun in ("king", "river")
    for place in ("north", "south")
]
CHINESE = [f"第{i}个人在山上看见了一条很长的河流。他们都说那里的水是世界上最好的水。" for i in range(60)]


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "PAIRS", 40)


@pytest.mark.parametrize(("texts", "language"), [(ENGLISH, "en"), (CHINESE, "zh")])
def test_pairs_differ_in_what_they_say_and_in_nothing_else(few_pairs: None, texts: list[str], language: str) -> None:
    pairs = data.sentence_pairs(texts, language)
    assert len(pairs) == 40 and pairs == data.sentence_pairs(texts[::-1], language)
    assert max(Counter(way for _, _, way in pairs).values()) == 10
    unit = data._UNIT[language]
    for real, corrupted, way in pairs:
        assert real != corrupted and any(real in text for text in texts)
        before, after = unit.findall(real), unit.findall(corrupted)
        assert unit.sub("", real) == unit.sub("", corrupted) and len(before) == len(after)
        changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert changed and changed[0] > 0
        if way in ("replace", "agreement"):
            assert len(changed) == 1
        else:
            assert sorted(before) == sorted(after) and len(changed) <= (4 if way == "reverse" else 2)
        if way == "neighbours":
            assert changed[1] == changed[0] + 1


def test_duplicates_are_planted_by_the_texts_themselves() -> None:
    texts = [f"text {i}" for i in range(2000)]
    planted = data.planted(texts, data.near_text)
    assert planted[:2000] == texts
    copies = Counter(planted)
    exact = sum(count - 1 for count in copies.values())
    assert exact / 2000 == pytest.approx(data.COPIES, abs=0.03)
    assert (len(planted) - 2000 - exact) / 2000 == pytest.approx(data.NEAR_COPIES, abs=0.03)
    assert set(data.planted(texts[:1000], data.near_text)) <= set(planted)
    assert data.near_page("<html><body><p>a</p></body></html>", 3).endswith("this page.</p>\n</body></html>")


def test_a_held_out_text_that_the_crawl_holds_is_seen() -> None:
    words = " ".join(f"w{i}" for i in range(40))
    seen = data._runs(iter([f"<p>{words}</p>", "short"]))
    assert data._overlaps(f"other words and then {' '.join(f'W{i}' for i in range(20, 33))}", seen)
    assert not data._overlaps(f"other words and then {' '.join(f'w{i}' for i in range(20, 32))}", seen)


def test_gains_are_of_curated_over_raw() -> None:
    texts = {"en": ["abcd" * 10, "efgh" * 20]}
    pairs = {"en": [("a", "b", "swap"), ("c", "d", "swap"), ("e", "f", "replace"), ("g", "h", "replace")]}
    held = data.HeldOut(texts, pairs, {"en": 0})

    def run(bits: list[float], right: list[int]) -> dict[str, dict[str, list[float]]]:
        return {"texts": {"en": bits}, "pairs": {"en": [x for r in right for x in ((1.0, 2.0) if r else (2.0, 1.0))]}}

    results = {
        "curated": [run([80.0, 160.0], [1, 1, 1, 0]), run([84.0, 164.0], [1, 1, 1, 1])],
        "raw": [run([120.0, 236.0], [1, 0, 0, 0]), run([110.0, 240.0], [1, 1, 0, 0])],
    }
    found = gain.analyse(held, results)["en"]
    assert found["bits_per_byte"] == pytest.approx({"curated": 244 / 120, "raw": 353 / 120})
    assert found["gain"][0] == pytest.approx(109 / 120) and found["gain"][1] < found["gain"][0] < found["gain"][2]
    assert found["accuracy"] == {"curated": 7 / 8, "raw": 3 / 8}
    assert found["better"][0] == pytest.approx(0.5) and found["by_way"]["swap"] == {"curated": 1.0, "raw": 0.75}
    assert np.isfinite(found["better_seeds"]).all()
    assert gain._right([1.0, 1.0, 3.0, 2.0]).tolist() == [0.5, 0.0]


def test_the_tokenizer_learns_from_as_much_of_each_language(tmp_path: Path) -> None:
    documents = [(language, f"{language} {i} " + "é字" * 4000) for language in ("en", "zh", "fr") for i in range(60)]
    gain.write_raw(tmp_path, documents)
    sampled = gain.sample(tmp_path / "train.parquet")
    assert set(sampled) == {"en", "zh"}
    for texts in sampled.values():
        assert gain.SAMPLE_BYTES - 4 <= sum(len(text.encode()) for text in texts) <= gain.SAMPLE_BYTES

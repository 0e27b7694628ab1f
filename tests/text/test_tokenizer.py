"""The tokenizer: round trips for any text, no special tokens from text, agreement with transformers and tiktoken."""

import hashlib
import json
import unicodedata
from functools import cache
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from text_support import FIXTURE, IMITATIONS, ORACLES, fixture_tokenizer, newer_marks

from qwill.base.errors import ArtifactError, DataError, QwillError
from qwill.text.tokenizer import StreamDecoder, Tokenizer, released_chat_template
from qwill.text.vocabulary import (
    QWEN3_SPECIALS,
    QWEN_PATTERN,
    ended,
    merges_from_ranks,
    read_ranks,
    to_bytes,
    to_characters,
)

RECORD = json.loads((ORACLES / "text_tokenizer.json").read_text(encoding="utf-8"))
# Characters of which NFC says the same in Python and in `tokenizers`: assigned ones, but a hundred recent marks.
KNOWN = st.characters(exclude_categories=("Cs", "Cn"), exclude_characters=newer_marks())
TEXTS = st.text(KNOWN, max_size=60) | st.lists(st.sampled_from(IMITATIONS) | st.text(KNOWN, max_size=8)).map("".join)


@settings(max_examples=1000, deadline=None)
@given(TEXTS)
def test_decode_of_encode_is_nfc(text: str) -> None:
    tokenizer = fixture_tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    assert b"".join(map(tokenizer.token_bytes, ids)) == unicodedata.normalize("NFC", text).encode()


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_text_never_becomes_special_tokens(text: str) -> None:
    tokenizer = fixture_tokenizer()
    assert not set(tokenizer.encode(text)) & set(tokenizer.specials.values())


@pytest.mark.parametrize("name", QWEN3_SPECIALS)
def test_spelled_special_tokens_are_ordinary_ids(name: str) -> None:
    tokenizer = fixture_tokenizer()
    ids = tokenizer.encode(f"a{name}b")
    assert tokenizer.special(name) not in ids and tokenizer.decode(ids) == f"a{name}b"
    # The folder is an ordinary one all the same: transformers, reading it, does find the special token.
    assert RECORD["with_marks"][name] == [tokenizer.special(name)]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.characters() | st.sampled_from(["\ud83d", "\ude42", "\udfff"]), max_size=30).map("".join))
def test_lone_surrogates_become_the_replacement_character(text: str) -> None:
    tokenizer = fixture_tokenizer()
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert tokenizer.encode(text) == tokenizer.encode(expected)
    assert tokenizer.encode_batch([text]) == [tokenizer.encode(expected)]


def test_surrogates_by_example() -> None:
    tokenizer = fixture_tokenizer()
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("a\ud83d\ude42b")) == "a🙂b"


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=5))
def test_batch_equals_one_by_one(texts: list[str]) -> None:
    tokenizer = fixture_tokenizer()
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.integers(0, 800), max_size=40), st.booleans())
def test_stream_decoder_equals_decode_at_every_split(ids: list[int], skip_special: bool) -> None:
    tokenizer = fixture_tokenizer()
    decoder = StreamDecoder(tokenizer, skip_special)
    so_far = ""
    for count, token_id in enumerate(ids, start=1):
        so_far += decoder.push(token_id)
        whole = tokenizer.decode(ids[:count], skip_special)
        # What is held back is one unfinished character: at most three bytes, which may yet prove to be wrong ones.
        assert whole.startswith(so_far) and set(whole[len(so_far) :]) <= {"\ufffd"} and len(whole) - len(so_far) <= 3
    assert so_far + decoder.finish() == tokenizer.decode(ids, skip_special)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_streamed_text_is_never_a_half_character(text: str) -> None:
    tokenizer = fixture_tokenizer()
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push(i) for i in tokenizer.encode(text)]
    assert "".join(pieces) == unicodedata.normalize("NFC", text) and decoder.finish() == ""


def test_decode_hides_what_the_released_files_hide() -> None:
    tokenizer = fixture_tokenizer()
    for name in QWEN3_SPECIALS:
        token_id = tokenizer.special(name)
        assert tokenizer.decode([token_id], skip_special=False) == name
        assert tokenizer.decode([token_id]) == ("" if token_id in RECORD["hidden"] else name)
    assert len(RECORD["hidden"]) == 14


def test_padding_rows_decode_to_nothing_and_negative_ids_are_refused() -> None:
    tokenizer = fixture_tokenizer()
    assert tokenizer.decode([tokenizer.vocab_size, 10**6]) == ""
    with pytest.raises(DataError, match="-1"):
        tokenizer.decode([-1])


def test_sizes_and_names_of_the_special_tokens() -> None:
    tokenizer = fixture_tokenizer()
    first = tokenizer.special("<|endoftext|>")
    assert [tokenizer.special(name) for name in QWEN3_SPECIALS] == list(range(first, first + 26))
    assert tokenizer.specials == RECORD["specials"]
    assert tokenizer.vocab_size == first + 26 == RECORD["length"]
    assert tokenizer.padded_vocab_size % 128 == 0 and 0 <= tokenizer.padded_vocab_size - tokenizer.vocab_size < 128
    assert tokenizer.stop_ids == (tokenizer.special("<|im_end|>"), first)
    with pytest.raises(ArtifactError, match="<nothing>"):
        tokenizer.special("<nothing>")


def test_transformers_gives_the_same_ids_for_plain_text() -> None:
    tokenizer = fixture_tokenizer()
    assert len(RECORD["plain"]) > 200
    for text, ids in RECORD["plain"]:
        assert tokenizer.encode(text) == ids, text
    assert (RECORD["eos_token"], RECORD["pad_token"]) == ("<|im_end|>", "<|endoftext|>")


def test_saving_what_was_loaded_gives_the_same_files(tmp_path: Path) -> None:
    # The record above is about the committed folder: this ties it to what is written today.
    fixture_tokenizer().save(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (FIXTURE / name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FIXTURE.iterdir()}


def test_the_chat_template_is_the_released_one() -> None:
    digest = hashlib.sha256(released_chat_template().encode()).hexdigest()
    assert digest == "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8"
    assert fixture_tokenizer().chat_template == released_chat_template()


@settings(max_examples=2000, deadline=None)
@given(TEXTS)
def test_ids_equal_tiktoken_with_the_same_ranks(text: str) -> None:
    ids = small_tiktoken().encode_ordinary(unicodedata.normalize("NFC", text))
    assert fixture_tokenizer().encode(text) == ids


@cache
def small_tiktoken() -> tiktoken.Encoding:
    return tiktoken.Encoding("small", pat_str=QWEN_PATTERN, mergeable_ranks=small_ranks(), special_tokens={})


@cache
def small_ranks() -> dict[bytes, int]:
    tokenizer = fixture_tokenizer()
    return {tokenizer.token_bytes(i): i for i in range(tokenizer.special("<|endoftext|>"))}


def test_merges_are_recovered_from_ranks() -> None:
    document = json.loads((FIXTURE / "tokenizer.json").read_text(encoding="utf-8"))
    merges = [[to_characters(left), to_characters(right)] for left, right in merges_from_ranks(small_ranks())]
    assert merges == document["model"]["merges"]


@given(st.binary(max_size=40))
def test_bytes_and_characters_are_one_to_one(data: bytes) -> None:
    assert to_bytes(to_characters(data)) == data and len(to_characters(data)) == len(data)


def test_a_gguf_style_vocabulary() -> None:
    document = json.loads((FIXTURE / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = sorted(document["model"]["vocab"], key=document["model"]["vocab"].get)
    merges = [" ".join(pair) for pair in document["model"]["merges"]]
    ids = range(len(tokens), len(tokens) + 26)
    built = Tokenizer.from_bpe([*tokens, *QWEN3_SPECIALS], merges, ids)
    for text, expected in RECORD["plain"]:
        assert built.encode(text) == expected
    assert built.specials == fixture_tokenizer().specials
    assert built.encode("a<|im_end|><think>b") == fixture_tokenizer().encode("a<|im_end|><think>b")
    assert built.config == fixture_tokenizer().config
    digits = Tokenizer.from_bpe(tokens, merges, [], family="smollm")
    assert digits.encode("e\u0301") != built.encode("e\u0301") and digits.decode(digits.encode("e\u0301")) == "e\u0301"


@pytest.mark.parametrize(
    ("data", "line"),
    [(b"IQ== 0\nnot base64\n", ":2"), (b"IQ== x\n", ":1"), (b"IQ== 5\n", "ranks 0"), (b"", "ranks 0")],
)
def test_broken_rank_files_are_named(data: bytes, line: str) -> None:
    with pytest.raises(ArtifactError, match=f"ranks.file.*{line}"):
        read_ranks(data, "ranks.file")


def test_ranks_that_are_no_byte_pair_vocabulary_are_refused() -> None:
    ranks = {bytes([b]): b for b in range(256)} | {b"abc": 256}
    with pytest.raises(ArtifactError, match="256"):
        merges_from_ranks(ranks)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read"),
        ("{", "JSON"),
        ("[]", "object"),
        ('{"model": {"type": "WordPiece"}}', "byte-level BPE"),
        ('{"model": {"type": "BPE"}}', "byte-level BPE"),
        (
            '{"model": {"type": "BPE", "vocab": {}, "merges": []}, "decoder": "ByteLevel", "added_tokens": [1]}',
            "added_tokens",
        ),
        ('{"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}, "decoder": {"type": "ByteLevel"}}', "built"),
    ],
)
def test_broken_folders_are_named(tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(QwillError, match=reason) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_template_inside_tokenizer_config_is_found(tmp_path: Path) -> None:
    fixture_tokenizer().save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "{{ 1 }}"}))
    assert Tokenizer.load(tmp_path).chat_template == "{{ 1 }}"
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.load(tmp_path).chat_template == released_chat_template()


def test_a_post_processor_says_what_comes_around_a_text(tmp_path: Path) -> None:
    """As Qwen3-Embedding's file, read by transformers 5.23: [97, 98] becomes [97, 98, 256]. `encode` adds nothing."""
    plain = Tokenizer.from_trained({to_characters(bytes([b])): b for b in range(256)}, [])
    plain.save(tmp_path)
    assert plain.around == ([], []) == Tokenizer.load(tmp_path).around
    document = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    byte_level = document["post_processor"]
    for way in (ended(byte_level, "<|endoftext|>", 256), ended(byte_level, "<|endoftext|>", 256)["processors"][1]):
        (tmp_path / "tokenizer.json").write_text(json.dumps(document | {"post_processor": way}), encoding="utf-8")
        tokenizer = Tokenizer.load(tmp_path)
        assert tokenizer.around == ([], [256])
        for text in ("", "ab", "<|endoftext|>", " é\n"):
            assert tokenizer.encode(text) == plain.encode(text) == tokenizer.encode_batch([text])[0]
            assert tokenizer.encode_with_starts(text) == plain.encode_with_starts(text)
        tokenizer.save(tmp_path / "again")
        assert Tokenizer.load(tmp_path / "again").around == ([], [256])
    both = {"type": "BertProcessing", "sep": ["<|im_end|>", 258], "cls": ["<|im_start|>", 257]}
    assert Tokenizer(document | {"post_processor": both}).around == ([257], [258])
    for broken, says in ((ended(byte_level, "x", 999), "adds id 999"), ({"type": "none"}, "not a tokenizer that can")):
        with pytest.raises(ArtifactError, match=says):
            Tokenizer(document | {"post_processor": broken})

"""What a byte-level BPE vocabulary is made of: bytes as characters, ranks, merges, and the tokenizer.json
around them.

Everything here is plain data. `tokenizer.py` turns the document into something that encodes.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from qwill.base.errors import ArtifactError

Family = Literal["qwen", "smollm"]

# Qwen's pre-tokenizer pattern (Qwen, Qwen2, Qwen2.5, Qwen3): digits one by one, at most one leading mark a
# word.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The 26 names of Qwen3 in released order. Only the first 14 carry the flag `special` in the released files,
# which is what skip_special_tokens hides: the marks of tool calls and thinking stay visible in decoded
# replies.
QWEN3_SPECIALS: tuple[str, ...] = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
HIDDEN_SPECIALS = QWEN3_SPECIALS[:14]


def _byte_characters() -> list[str]:
    # GPT-2's map: printable Latin-1 bytes stand for themselves, the others take code points from 256 upwards.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in characters:
            characters[byte] = chr(256 + len(characters) - len(printable))
    return [characters[byte] for byte in range(256)]


BYTE_TO_CHARACTER: list[str] = _byte_characters()
CHARACTER_TO_BYTE: dict[str, int] = {character: byte for byte, character in enumerate(BYTE_TO_CHARACTER)}


def to_characters(token: bytes) -> str:
    """Bytes of a token as the printable string that tokenizer.json holds for it."""
    return "".join(BYTE_TO_CHARACTER[byte] for byte in token)


def to_bytes(token: str) -> bytes:
    """Inverse of `to_characters`; a token that is not in that alphabet (an added one) is its own UTF-8."""
    try:
        return bytes([CHARACTER_TO_BYTE[character] for character in token])
    except KeyError:
        return token.encode("utf-8")


def read_ranks(data: bytes, where: str) -> dict[bytes, int]:
    """tiktoken's text form (`base64 rank` a line) as {token bytes: rank}, in the order of the ranks.

    Raises ArtifactError when a line is broken, ranks are not 0..n-1, or a single byte is missing.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ArtifactError(
                f"{where}:{number}: expected 'base64 rank', found {line[:60]!r}; fetch the file again."
            ) from error
    ordered = dict(sorted(ranks.items(), key=lambda item: item[1]))
    if list(ordered.values()) != list(range(len(ordered))) or not all(bytes([b]) in ordered for b in range(256)):
        raise ArtifactError(
            f"{where}: expected ranks 0..n-1 with all 256 single bytes, found {len(ordered)} tokens that do "
            "not form such a list; fetch the file again."
        )
    return ordered


def merges_from_ranks(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merge that made each token, in order of rank: what merges.txt holds and tiktoken's form leaves out.

    A token was made from two parts of lower rank. Where only one such split exists it is the answer;
    elsewhere the answer is where byte-pair encoding of the token's own bytes stands when only lower ranks
    may be used.
    """
    merges: list[tuple[bytes, bytes]] = []
    for token, rank in ranks.items():
        if len(token) == 1:
            continue
        splits = [
            i for i in range(1, len(token)) if ranks.get(token[:i], rank) < rank and ranks.get(token[i:], rank) < rank
        ]
        if len(splits) == 1:
            merges.append((token[: splits[0]], token[splits[0] :]))
            continue
        parts = _encode_below(token, ranks, rank)
        if len(parts) != 2:
            raise ArtifactError(
                f"rank {rank} ({token!r}) can't be made from two tokens of lower rank, so this is not a "
                "byte-pair vocabulary; fetch the file again."
            )
        merges.append((parts[0], parts[1]))
    return merges


def _encode_below(token: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        best, at = min((ranks.get(parts[i] + parts[i + 1], limit), i) for i in range(len(parts) - 1))
        if best >= limit:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _byte_level(use_regex: bool = False) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": use_regex}


def _normalizer_of(family: Family) -> dict[str, Any] | None:
    return {"type": "NFC"} if family == "qwen" else None


def _split_of(family: Family) -> dict[str, Any]:
    if family == "qwen":
        split = {"type": "Split", "pattern": {"Regex": QWEN_PATTERN}, "behavior": "Isolated", "invert": False}
        return {"type": "Sequence", "pretokenizers": [split, _byte_level()]}
    # `smollm` in GGUF files: single digits, then GPT-2's own pattern.
    digits = {"type": "Digits", "individual_digits": True}
    return {"type": "Sequence", "pretokenizers": [digits, _byte_level(use_regex=True)]}


def split_family(normalizer: Any, pre_tokenizer: Any) -> Family | None:
    """Which family's way to split text a tokenizer.json has; None for another. Settings that only move offsets, and
    prefixes that are not added, do not count."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            left = ("trim_offsets", "add_prefix_space") if value.get("add_prefix_space") is not True else ()
            return {k: plain(v) for k, v in value.items() if k not in left}
        return [plain(v) for v in value] if isinstance(value, list) else value

    for family in get_args(Family):
        if plain(pre_tokenizer) == plain(_split_of(family)) and normalizer == _normalizer_of(family):
            return family
    return None


def added_tokens(names: Mapping[str, int], hidden: Sequence[str] = HIDDEN_SPECIALS) -> list[dict[str, Any]]:
    """Special tokens {name: id} in tokenizer.json's form; `hidden` ones are left out of decoded replies."""
    return [
        {
            "id": token_id,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": name in hidden,
        }
        for name, token_id in names.items()
    ]


def tokenizer_document(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    added: Sequence[Mapping[str, Any]],
    family: Family = "qwen",
) -> dict[str, Any]:
    """A complete tokenizer.json, key for key in the released order: for Qwen3 the file comes out byte for
    byte."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [dict(token) for token in added],
        "normalizer": _normalizer_of(family),
        "pre_tokenizer": _split_of(family),
        "post_processor": _byte_level(),
        "decoder": _byte_level(),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(vocabulary),
            "merges": [list(pair) for pair in merges],
        },
    }


def ended(post_processor: Mapping[str, Any], name: str, token_id: int) -> dict[str, Any]:
    """A post-processor that besides puts a special token after every text, as Qwen3-Embedding's file has it."""
    end = {"SpecialToken": {"id": name, "type_id": 0}}
    texts = [{"Sequence": {"id": letter, "type_id": 0}} for letter in "AB"]
    template = {
        "type": "TemplateProcessing",
        "single": [texts[0], end],
        "pair": [texts[0], end, texts[1], end],
        "special_tokens": {name: {"id": name, "ids": [token_id], "tokens": [name]}},
    }
    return {"type": "Sequence", "processors": [dict(post_processor), template]}

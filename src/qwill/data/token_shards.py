"""A corpus as token ids on disk: shards with an index, written in bounded memory and read as memory maps.

A folder holds `index.json` and for each shard five flat files (little-endian, named for what they hold and their type):
`tokens` of all its documents end to end, each led by `<|endoftext|>`; `offsets` [documents + 1] within the shard;
`lengths_bytes`, `language` (place in the index's list) and `copies` of each document. Shards end between documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import DataError
from qwill.base.files import new_file, read_json, write_json
from qwill.text.tokenizer import Tokenizer

INDEX = "index.json"
SCHEMA = 1
SHARD_TOKENS = 1 << 28
BATCH_DOCUMENTS, BATCH_CHARACTERS = 512, 1 << 22
_COLUMNS = {"offsets": "int64", "lengths_bytes": "int64", "language": "int16", "copies": "int32"}


class ShardedTokens:
    """Memory-mapped shards as one array, as far as readers of documents need it: length, type, ids and slices."""

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *map(len, parts)])
        self.dtype = self.parts[0].dtype

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, key: int | slice) -> Any:
        if not isinstance(key, slice):
            at = range(len(self))[key]
            shard = int(np.searchsorted(self.starts, at, side="right")) - 1
            return self.parts[shard][at - self.starts[shard]]
        first, last, _ = slice(key.start, key.stop).indices(len(self))
        pieces = []
        shard = int(np.searchsorted(self.starts, first, side="right")) - 1
        while first < last:
            inside = slice(first - self.starts[shard], min(last, self.starts[shard + 1]) - self.starts[shard])
            pieces.append(self.parts[shard][inside])
            shard, first = shard + 1, int(self.starts[shard + 1])
        joined = pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, self.dtype), *pieces])
        return joined[:: key.step]


@dataclass
class TokenStore:
    """`tokens` holds all documents' streams end to end; document i is tokens[offsets[i]:offsets[i+1]] (with its leading
    `<|endoftext|>`); `lengths_bytes[i]` is its size as UTF-8; `language[i]` indexes `languages`; `copies[i]`, where
    there is any, says in how many rows of an epoch each of its tokens stands."""

    tokens: NDArray[Any] | ShardedTokens
    offsets: NDArray[np.int64]
    lengths_bytes: NDArray[Any]
    language: NDArray[Any]
    languages: list[str]
    end_id: int
    copies: NDArray[np.int32] | None = None


def tokenize_corpus(parquet: Path, tokenizer: Tokenizer, folder: Path) -> TokenStore:
    """Tokenise a corpus's `train.parquet` into `folder`, as far as that is not done yet, and open it."""
    write_token_shards([parquet], tokenizer, folder)
    return open_token_shards(folder)


def write_token_shards(
    files: Sequence[Path], tokenizer: Tokenizer, folder: Path, shard_tokens: int = SHARD_TOKENS
) -> None:
    """Tokenise the column `text` of Parquet files, in their order, into shards of about `shard_tokens` tokens.

    A column `copies` says how often each document counts; with 0 it is left out. Memory holds one batch of documents,
    whatever the size of the files. Shards that an interrupted call finished are kept, and a finished folder is left as
    it is. Raises DataError when there are no documents, and for a `folder` made from other files or another tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end_id = tokenizer.special("<|endoftext|>")
    made_from = {
        "files": [{"name": file.name, "bytes": file.stat().st_size} for file in files],
        "vocab_size": tokenizer.vocab_size,
        "shard_tokens": shard_tokens,
    }
    if (folder / INDEX).exists():
        if read_json(folder / INDEX)["made_from"] != made_from:
            raise DataError(f"{folder} holds the tokens of other files or another tokenizer; remove it first.")
        return
    languages = sorted({name for file in files for name in _languages(file)})
    kind = "uint16" if tokenizer.vocab_size <= 65536 else "uint32"
    shards = _finished(folder, made_from)
    batches = _batches(_documents(files, skip=sum(shard["read"] for shard in shards)))
    while (first := next(batches, None)) is not None:
        shard = _write_shard(folder, len(shards), chain([first], batches), tokenizer, languages, kind, shard_tokens)
        shards.append(shard | {"made_from": made_from})
        write_json(folder / f"{len(shards) - 1:05d}.json", shards[-1])
    if not sum(shard["documents"] for shard in shards):
        raise DataError(f"{', '.join(map(str, files))}: holds no documents; the corpus stage must keep at least one.")
    counts = [{"documents": shard["documents"], "tokens": shard["tokens"]} for shard in shards]
    index = {"schema": SCHEMA, "dtype": kind, "languages": languages, "end_id": end_id, "shards": counts}
    write_json(folder / INDEX, index | {"made_from": made_from})


def open_token_shards(folder: Path) -> TokenStore:
    """Memory-map a finished folder. Raises DataError for one that is not finished or whose files were cut."""
    if not (folder / INDEX).is_file():
        raise DataError(f"{folder} holds no {INDEX}: its token shards were not finished; make them again.")
    index = read_json(folder / INDEX)
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in ("tokens", *_COLUMNS)}
    for number, shard in enumerate(index["shards"]):
        if not shard["documents"]:
            continue
        for name, kind in {"tokens": index["dtype"], **_COLUMNS}.items():
            path = folder / f"{number:05d}.{name}.{kind}"
            length = shard["tokens"] if name == "tokens" else shard["documents"] + (name == "offsets")
            if not path.is_file() or path.stat().st_size != length * np.dtype(kind).itemsize:
                raise DataError(f"{path} is not there or not {length} numbers long; remove {folder} to make it again.")
            parts[name].append(np.memmap(path, dtype=kind, mode="r"))
    tokens: NDArray[Any] | ShardedTokens = parts["tokens"][0]
    if len(parts["tokens"]) > 1:
        tokens = ShardedTokens(parts["tokens"])
    starts = np.cumsum([0, *map(len, parts["tokens"])])
    offsets = np.concatenate([[0], *(own[1:] + start for own, start in zip(parts["offsets"], starts, strict=False))])
    rest = {name: np.concatenate(parts[name]) for name in ("lengths_bytes", "language", "copies")}
    return TokenStore(tokens, offsets, languages=index["languages"], end_id=index["end_id"], **rest)


@dataclass(frozen=True)
class _Row:
    text: str
    language: str
    copies: int


def _finished(folder: Path, made_from: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known of the shards that an interrupted call finished, from the first on without a gap."""
    shards = list[dict[str, Any]]()
    for number in count():
        path = folder / f"{number:05d}.json"
        if not path.exists() or (shard := read_json(path))["made_from"] != made_from:
            return shards
        shards.append(shard)
    raise AssertionError("unreachable")


def _write_shard(
    folder: Path, number: int, batches: Iterator[list[_Row]], tokenizer: Tokenizer, languages: list[str], kind: str,
    shard_tokens: int,
) -> dict[str, Any]:  # fmt: skip
    """Batches until there are `shard_tokens` tokens; `read` counts the rows of the Parquet files that were used up."""
    read, documents, tokens = 0, 0, 0
    kinds = {"tokens": kind, **_COLUMNS}
    with ExitStack() as stack:
        out = {k: stack.enter_context(new_file(folder / f"{number:05d}.{k}.{v}")) for k, v in kinds.items()}
        out["offsets"].write(np.zeros(1, dtype=kinds["offsets"]).tobytes())
        for batch in batches:
            read += len(batch)
            rows = [row for row in batch if row.copies > 0]
            streams = tokenizer.encode_batch([row.text for row in rows])
            end_id = tokenizer.special("<|endoftext|>")
            columns: dict[str, Any] = {
                "tokens": [token for ids in streams for token in (end_id, *ids)],
                "offsets": tokens + np.cumsum([len(ids) + 1 for ids in streams]),
                "lengths_bytes": [len(row.text.encode()) for row in rows],
                "language": [languages.index(row.language) for row in rows],
                "copies": [row.copies for row in rows],
            }
            for name, values in columns.items():
                out[name].write(np.asarray(values, dtype=kinds[name]).tobytes())
            documents, tokens = documents + len(rows), tokens + len(columns["tokens"])
            if tokens >= shard_tokens:
                break
    return {"read": read, "documents": documents, "tokens": tokens}


def _languages(file: Path) -> set[str]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        return {name for batch in opened.iter_batches(columns=["language"]) for name in batch.column(0).to_pylist()}


def _documents(files: Sequence[Path], skip: int) -> Iterator[_Row]:
    import pyarrow.parquet as pq

    for file in files:
        with pq.ParquetFile(file) as opened:
            names = ["text", "language", *(["copies"] if "copies" in opened.schema_arrow.names else [])]
            for batch in opened.iter_batches(batch_size=BATCH_DOCUMENTS, columns=names):
                if skip >= batch.num_rows:
                    skip -= batch.num_rows
                    continue
                columns = batch.slice(skip).to_pydict()
                skip = 0
                ones = [1] * len(columns["text"])
                for row in zip(columns["text"], columns["language"], columns.get("copies", ones), strict=True):
                    yield _Row(*row)


def _batches(documents: Iterator[_Row]) -> Iterator[list[_Row]]:
    batch, size = list[_Row](), 0
    for row in documents:
        batch.append(row)
        size += len(row.text)
        if len(batch) == BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

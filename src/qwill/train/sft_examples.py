"""Conversations and texts as fine-tuning sees them: rendered, some held out, those that are too long counted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from qwill.base.artifact import read_manifest
from qwill.base.errors import DataError
from qwill.data.held_out import held_out
from qwill.data.row_files import row_files
from qwill.data.sft_rows import SftRow, read_sft_rows
from qwill.engine.said import said_examples
from qwill.text.chat import Rendered
from qwill.text.tokenizer import Tokenizer
from qwill.train.settings import SFTConfig

# Whole words: neither devices.jsonl nor testimonials.jsonl.
HELD_OUT = re.compile(r"(held[-_ ]?out|tests?|validation|valid|val|evaluation|eval|dev)(?![^\W\d_])", re.IGNORECASE)


@dataclass
class Examples:
    """Rendered examples with the rows' names and places (file, line, fields), and how many were left out: `too_long`
    for the limit, `unwanted` by their label. `cut`: texts that became several examples. `unwritten`: trained turns
    whose thinking the chat template left out. `files`: those that the rows are from."""

    rendered: list[Rendered] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    too_long: int = 0
    cut: int = 0
    unwanted: int = 0
    unwritten: int = 0
    files: list[Path] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Of all examples, trained on or not."""
        return sum(len(e.ids) for e in self.rendered)

    @property
    def trained(self) -> int:
        """Tokens that are trained on."""
        return sum(sum(e.loss_mask) for e in self.rendered)

    def add(self, row: SftRow, tokenizer: Tokenizer, config: SFTConfig) -> None:
        """Raises DataError naming the row that can't be rendered or trains on nothing, and one that is too long where
        that is to be refused."""
        if not row.wanted:
            self.unwanted += 1
            return
        rendered = said_examples(row.prompt, row.said, tokenizer, row.tools, row.where, config.template)
        if not any(any(e.loss_mask[1:]) for e in rendered):
            raise DataError(f"{row.where}: not one token is trained on; remove the row, or mend the chat template.")
        for example in rendered:
            if len(example.ids) <= config.max_tokens:
                parts = [example]
            elif config.too_long == "refuse":
                raise DataError(
                    f"{row.where}: {len(example.ids)} tokens where sft.max_tokens is {config.max_tokens}; raise it, or "
                    "set sft.too_long to leave_out."
                )
            elif config.too_long == "split" and row.prompt == "":
                parts = _split(example, config.max_tokens)
                self.cut += 1
            else:
                self.too_long += 1
                continue
            self.rendered += parts
            self.unwritten += example.unwritten
            self.names += [row.id] * len(parts)
            self.places += [row.where] * len(parts)


def _split(example: Rendered, most: int) -> list[Rendered]:
    """Pieces of at most `most` tokens. Each begins with the last token of the piece before it, so that every token but
    the very first is predicted once."""
    parts = []
    for start in range(0, len(example.ids) - 1, most - 1):
        ids, mask = example.ids[start : start + most], example.loss_mask[start : start + most]
        parts.append(Rendered(ids, mask if start == 0 else [0, *mask[1:]]))
    return parts


def read_examples(path: Path, tokenizer: Tokenizer, config: SFTConfig, seed: int) -> tuple[Examples, Examples]:
    """(what is trained on, what is held out) of a file or folder of rows.

    A folder that Qwill made has train.jsonl and heldout.jsonl. In another, files whose names begin with the word
    heldout, test, validation, … are held out. Where there are none, the share `config.heldout` of the prompts is, by
    their hash. Raises DataError naming file, line and field.
    """
    files, kept_back = _files(path)
    train, heldout = Examples(files=files), Examples(files=kept_back)
    rows = 0
    for file in [*files, *kept_back]:
        for row in read_sft_rows(file):
            rows += 1
            aside = file in kept_back if kept_back else held_out(row.asked, config.heldout, seed)
            (heldout if aside else train).add(row, tokenizer, config)
    if not rows:
        raise DataError(f"{path}: holds no row; add some, or name another file.")
    if not train.rendered and not heldout.rendered and (train.too_long or heldout.too_long):
        raise DataError(f"{path}: nothing fits into {config.max_tokens} tokens; raise sft.max_tokens.")
    if not train.rendered:
        left = f"{len(heldout.rendered)} examples are held out, {train.too_long} too long"
        raise DataError(
            f"{path}: nothing is left to train on ({left}, {train.unwanted} are labelled false); add rows, or lower "
            "sft.heldout."
        )
    return train, heldout


def _files(path: Path) -> tuple[list[Path], list[Path]]:
    """(files to train on, files that are held out)."""
    if (path / "train.jsonl").is_file() and read_manifest(path) is not None:
        heldout = path / "heldout.jsonl"
        return [path / "train.jsonl"], [heldout] if heldout.is_file() else []
    files = row_files(path)
    kept_back = [file for file in files if HELD_OUT.match(file.name)] if len(files) > 1 else []
    return [file for file in files if file not in kept_back], kept_back

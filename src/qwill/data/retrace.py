"""One document read from its source again and taken through the steps that judge it by itself, to see what each saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwill.base.artifact import read_manifest
from qwill.base.config import parse
from qwill.base.errors import DataError
from qwill.data.blocks import Block, open_source
from qwill.data.first_pass import judged
from qwill.data.settings import CurateConfig, spoken
from qwill.data.sources import SourceChoice


@dataclass(frozen=True)
class Seen:
    """The document after a step: its text, language and measured values; `dropped` is (step, reason, value) from the
    step on that drops it. page: the beginning of the HTML that it was extracted from, if it was."""

    step: str
    text: str
    language: str
    scores: Mapping[str, float]
    dropped: tuple[str, str, float | str] | None
    page: str | None = None


def retrace(corpus: Path, identity: str) -> list[Seen]:
    """What each step of the first pass made of the document with this id, by the settings in the corpus's manifest.

    Its source is read up to it. Raises DataError when the corpus has no manifest, or its sources no such document."""
    manifest = read_manifest(corpus)
    if manifest is None:
        raise DataError(f"{corpus} has no manifest, so its settings are not known; name a corpus that `qwill` made.")
    settings = {name: value for name, value in manifest.config.items() if name != "outside"}
    config = parse(CurateConfig, settings, f"{corpus}/qwill.json: config")
    for choice in config.sources:
        if identity.startswith(f"{choice.name}/"):
            source = open_source(choice)
            block = _block(source, identity.removeprefix(f"{choice.name}/"), config)
            if block is not None:
                return _steps(config, block, source.choice, identity)
    raise DataError(f"{corpus}: no source has a document {identity!r} any more; was the source changed?")


def _block(source: Any, record: str, config: CurateConfig) -> Block | None:
    """A block of that one record. A part of a mixed page is called after the page and its language."""
    names = {record, *(record.removesuffix(f".{code}") for code in spoken(config))}
    for block in source.blocks():
        for name, data in block.items:
            if name in names:
                labels = {name: block.labels[name]} if name in block.labels else {}
                return replace(block, items=[(name, data)], bad=[], labels=labels)
        for _, bad in block.bad:
            if bad.record in names:
                return replace(block, items=[], bad=[(0, bad)], labels={})
    return None


def _steps(config: CurateConfig, block: Block, choice: SourceChoice, identity: str) -> list[Seen]:
    pages = dict[str, str]()
    seen = list[Seen]()
    for step, documents in judged(config, block, choice, pages):
        document = next((d for d in documents if d.id == identity), documents[0])
        reject = document.reject
        dropped = (reject.step, reject.reason, reject.value) if reject else None
        page = pages.get(document.id)
        seen.append(Seen(step, document.text, document.language, dict(document.scores), dropped, page))
        if dropped:
            break
    return seen

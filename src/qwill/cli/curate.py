"""`qwill curate`: a recipe's corpus, or a folder or file of one's own without a recipe."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from qwill.base.config import load_yaml
from qwill.base.errors import ConfigError
from qwill.base.files import write_text

RECIPES = (".yaml", ".yml")


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

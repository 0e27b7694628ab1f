"""A stage's command under `torchrun`: every process runs it, and together they make one artifact."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from qwill.base.errors import ConfigError, QwillError
from qwill.workflow.recipe import Recipe
from qwill.workflow.run import Made, run_recipe

ON_RANKS = ("pretrain",)


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
    from qwill.train.ranks import join, wait_for_the_watch
    from qwill.workflow.follow import follow

    ranks = join()
    made: list[Made] = []
    try:
        try:
            if first:
                made = run_recipe(recipe, only)
                ranks.tell(None)
            else:
                follow(recipe, ranks)
        except RuntimeError as error:
            if "Gloo" in str(error) or "Connection" in str(error) or "NCCL" in str(error):
                wait_for_the_watch(error)
            raise
    except QwillError as error:
        ranks.leave(str(error))
        if not ranks.said_already(str(error)):
            where = "" if first else f"rank {ranks.rank} on {ranks.watch.host}: "
            print(f"qwill: {where}{error}", file=sys.stderr, flush=True)
        _end(2)
    except KeyboardInterrupt:
        ranks.leave("stopped from the keyboard")
        if first:
            print("\nqwill: stopped; run the same command again to go on.", file=sys.stderr, flush=True)
        _end(130)
    except BaseException as error:
        ranks.leave(f"a bug ({type(error).__name__}), see its traceback")
        raise
    ranks.leave()
    if not first:
        _end(0)
    return recipe, made


def _end(code: int) -> None:
    """End at once: closing connections in order would wait for ranks that have ended already."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

"""What the script `qwill` starts with. A plain leaderboard is done before click, which reads every other command line,
would be imported: that takes longer than reading and rating the votes."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` would take longer to import than the rest
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code, as `qwill.cli.main.main` does."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if (found := plain_leaderboard(words)) is not None and "_QWILL_COMPLETE" not in os.environ:
        votes, as_json = found
        from qwill.cli.arena_rate import rate
        from qwill.cli.ends import exit_code

        return exit_code(lambda: rate(votes, as_json=as_json))
    from qwill.cli.main import main

    return main(words)


def plain_leaderboard(words: list[str]) -> tuple[str, bool] | None:
    """(VOTES.jsonl, whether to print JSON) of `qwill arena rate` without any other option; None for all else."""
    given = [word for word in words[2:] if word != "--json"]
    if words[:2] != ["arena", "rate"] or len(given) != 1 or not given[0] or given[0].startswith("-"):
        return None
    return given[0], "--json" in words


if __name__ == "__main__":
    sys.exit(main())

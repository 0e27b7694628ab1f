"""`qwill arena purge`: forget battles that nobody voted on."""

from __future__ import annotations

import json

import click

from qwill.cli.groups import examples


@click.command(epilog=examples("qwill arena purge", "qwill arena purge --days 7 --state arena.db --json"))
@click.option("--days", type=click.FloatRange(min=0), default=30, show_default=True, help="Older ones are forgotten.")
@click.option("--state", metavar="URL", help="The database: a file or postgresql://….  [default: ~/.qwill]")
@click.option("--tenant", help="Whose arena, where keys have tenants.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def purge(days: float, state: str | None, tenant: str | None, as_json: bool) -> int:
    """Forget prompts and replies of battles without a vote in which nothing has happened for so many days.

    A running arena does so by itself (`qwill serve --arena-keep-days`). Votes, their battles and ratings stay as they
    are.
    """
    from qwill.base.state import close_state, open_state
    from qwill.serve.arena_purge import purge_older

    opened = open_state(state)
    try:
        count = purge_older(opened, days, tenant)
    finally:
        close_state(opened)
    print(json.dumps({"battles": count, "days": days}) if as_json else f"{count:,} battles without a vote forgotten.")
    return 0

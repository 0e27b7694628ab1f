"""`qwill arena export`: votes as files to rate, and as preference pairs to train on."""

from __future__ import annotations

import json
from pathlib import Path

import click

from qwill.cli.groups import examples

_WHY = {
    "leak": "a reply said which model it was",
    "leak_by_newer_rules": "a reply said which model it was, by the rules as they are now",
    "coordinated": "voters who seem to act together",
    "no_consent": "no consent to training",
    "several_turns": "several turns: the two sides had different conversations, so no pair of one prompt",
    "tie": "ties", "both_bad": "both bad", "same_replies": "both replies the same", "empty_reply": "an empty reply",
}  # fmt: skip


@click.command(
    epilog=examples("qwill arena export runs/arena", "qwill arena export runs/arena --state arena.db --json")
)
@click.argument("out", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option("--state", metavar="URL", help="The database: a file or postgresql://….  [default: ~/.qwill]")
@click.option("--tenant", default="local", show_default=True, help="Whose arena, where keys have tenants.")
@click.option("--keep-personal-data", is_flag=True, help="Don't replace addresses, numbers and the like by tags.")
@click.option(
    "--suspects",
    type=click.Choice(["leave-out", "count"]),
    default="leave-out",
    show_default=True,
    help="Votes of voters who seem to act together.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(out: Path, state: str | None, tenant: str, keep_personal_data: bool, suspects: str, as_json: bool) -> int:
    """Write the arena's votes to FOLDER/votes, and preference pairs made from them to FOLDER/preferences.

    Votes count that were blind, of voters who don't seem to act together; a pair needs the voter's consent and names
    its battle. `qwill arena rate` reads the votes, training reads the pairs.
    """
    from dataclasses import asdict

    from qwill.base.state import close_state, open_state
    from qwill.serve.arena_export import export_arena

    opened = open_state(state)
    try:
        made = export_arena(opened, tenant, out, not keep_personal_data, suspects == "leave-out")
    finally:
        close_state(opened)
    if as_json:
        print(json.dumps(asdict(made) | {"folder": str(out)}, ensure_ascii=False, indent=2))
        return 0
    print(f"{made.votes:,} votes to {out / 'votes'}, {made.pairs:,} preference pairs to {out / 'preferences'}.")
    for why, count in made.left_out.items():
        print(f"  no pair from {count:,}: {_WHY.get(why, why)}")
    return 0

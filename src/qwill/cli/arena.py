"""`qwill arena` and what is below it, as they can be typed. What they need is imported when they run."""

from __future__ import annotations

from pathlib import Path

import click

from qwill.cli.arena_export import export
from qwill.cli.arena_judge import judge
from qwill.cli.arena_purge import purge
from qwill.cli.groups import Itself, examples


def arena(own: click.Command) -> Itself:
    """The group: `own` is what `qwill arena RECIPE.yaml` does."""
    group = Itself(own)
    for command in (rate, judge, export, purge):
        group.add_command(command)
    return group


@click.command(
    epilog=examples(
        "qwill arena rate votes.jsonl",
        "qwill arena rate votes.jsonl --style --anchor qwen3-0.6b=1000",
        "qwill arena rate votes.jsonl --category zh --bootstrap 1000 --cluster voter --json",
    )
)
@click.argument("votes", type=click.Path(path_type=Path), metavar="VOTES.jsonl")
@click.option("--style", is_flag=True, help="Take length, headers, bold and lists of the replies out of the ratings.")
@click.option("--feature", "features", multiple=True, metavar="NAME", help="A number of each vote, taken out likewise.")
@click.option("--anchor", metavar="NAME=RATING", help="Where a model is to stand, such as base=1000.")
@click.option("--bootstrap", type=click.IntRange(min=2), metavar="N", help="Intervals from N resamples of the votes.")
@click.option("--category", metavar="C", help="Only votes of: en, zh, other, code, maths, long, hard.")
@click.option("--cluster", metavar="FIELD", help="Votes alike in FIELD (voter, prompt_id) are not independent.")
@click.option("--weight-pairs", is_flag=True, help="Count a vote by 1/max(votes of its pair, 50), as LMArena does.")
@click.option("--prior", type=click.FloatRange(min=0), default=0.0, help="Regularise; in votes, such as 0.1.")
@click.option(
    "--confidence", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.95, show_default=True,
    help="Of the intervals.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the resamples.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def rate(
    votes: Path, style: bool, features: tuple[str, ...], anchor: str | None, bootstrap: int | None,
    category: str | None, cluster: str | None, weight_pairs: bool, prior: float, confidence: float, seed: int,
    as_json: bool,
) -> int:  # fmt: skip
    """Rate models from the votes in a file: Bradley–Terry, with intervals.

    A line of VOTES.jsonl has model_a, model_b and outcome: "a", "b", "tie", "both_bad", or a number from 0 to 1; for
    --style also reply_a and reply_b, for --category also the prompt.
    """
    from qwill.cli.arena_rate import rate

    return rate(
        votes, style, features, anchor, bootstrap, category, cluster, weight_pairs, prior, confidence, seed, as_json
    )

"""`qwill eval` and what is below it, as they can be typed. What they need is imported when they run."""

from __future__ import annotations

from pathlib import Path

import click

from qwill.cli.groups import Itself, examples


@click.command(
    "eval",
    epilog=examples(
        "qwill eval runs/demo/aligned --tasks boolq,hellaswag --limit 500",
        "qwill eval runs/demo/aligned --tasks mine.yaml --chat --thinking --out runs/evals/mine",
        "qwill eval compare runs/evals/base runs/evals/aligned --html differences.html",
        "qwill eval runs/demo/aligned --tasks safety_harmful,safety_harmless --judge smollm2",
        "qwill eval runs/demo/aligned --tasks boolq --card runs/demo/aligned",
        "qwill eval recipes/demo.yaml problems=100",
    ),
)
@click.argument("recipe", type=click.Path(path_type=Path), metavar="MODEL|RECIPE")
@click.argument("overrides", nargs=-1, metavar="[section.key=value]...")
@click.option("--tasks", metavar="NAMES", help="Names out of `qwill eval tasks` and .yaml files, with commas between.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="N examples of each task, drawn by the seed.")
@click.option("--first", is_flag=True, help="With --limit: the first N instead.")
@click.option("--shots", type=click.IntRange(min=0), metavar="K", help="Solved examples before each question.")
@click.option("--chat", is_flag=True, help="Ask through the model's chat template.")
@click.option("--thinking", is_flag=True, help="Let it think before it answers; with the chat template.")
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Replies to each question.")
@click.option("--temperature", type=click.FloatRange(min=0), metavar="T", help="Of the replies.  [default: the task's]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn at random.")
@click.option("--unsafe", is_flag=True, help="Run generated code even where it can't be contained.")
@click.option(
    "--weights", type=click.Choice(["float", "int8", "int4", "auto"]), default="float", show_default=True,
    help="How the projections are held.",
)  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="Where the model computes.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="The artifact.  [default: in runs/evals]")
@click.option(
    "--judge", metavar="MODEL|URL", help="Of refusals in safety tasks, beside the phrase rules: a model or URL#MODEL."
)
@click.option("--key-env", metavar="NAME", help="The environment variable that holds the key of the judge's URL.")
@click.option(
    "--card", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Write the scores into README.md of this folder: MODEL's own, or that of a copy.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def own(
    recipe: Path, overrides: tuple[str, ...], tasks: str | None, limit: int | None, first: bool, shots: int | None,
    chat: bool, thinking: bool, samples: int, temperature: float | None, seed: int, unsafe: bool, weights: str,
    dtype: str, device: str, out: Path | None, judge: str | None, key_env: str | None,
    card: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Score MODEL on tasks, with intervals; every answer is kept.

    With a RECIPE.yaml instead: all its models answer held-out problems, as the recipe's section `results` says.
    """
    from qwill.cli import eval as work

    if work.is_recipe(recipe):
        # What was given of the other form's options is named, and not passed over.
        given = {
            "--tasks": tasks, "--limit": limit, "--first": first, "--shots": shots is not None, "--chat": chat,
            "--thinking": thinking, "--samples": samples > 1, "--temperature": temperature is not None,
            "--seed": seed, "--unsafe": unsafe, "--weights": weights != "float", "--dtype": dtype != "float32",
            "--device": device != "cpu", "--out": out, "--judge": judge, "--key-env": key_env,
            "--card": card,
        }  # fmt: skip
        return work.of_recipe(recipe, overrides, [name for name, value in given.items() if value], as_json)
    return work.evaluate_model(
        str(recipe),
        overrides,
        tasks,
        {
            "limit": limit or 0, "first": first, "shots": shots, "chat": chat, "thinking": thinking,
            "samples": samples, "temperature": temperature, "seed": seed, "unsafe": unsafe,
        },
        {"weights": weights, "dtype": dtype, "device": device},
        out,
        judge,
        key_env,
        card,
        as_json,
    )  # fmt: skip


evaluation = Itself(own)


@evaluation.command(epilog=examples("qwill eval tasks", "qwill eval tasks --json"))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def tasks(as_json: bool) -> int:
    """List the tasks that come with Qwill."""
    from qwill.cli.eval import list_tasks

    return list_tasks(as_json)


@evaluation.command(
    epilog=examples(
        "qwill eval compare runs/evals/base runs/evals/aligned",
        "qwill eval compare runs/evals/base runs/evals/aligned --html differences.html",
        "qwill eval compare runs/demo/results:sft runs/demo/results:aligned",
        "qwill eval compare qw1-3f… qw1-a0… --tasks boolq --alpha 0.01 --json",
    )
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--tasks", metavar="NAMES", help="Only these, with commas between.  [default: all that both did]")
@click.option("--metric", metavar="NAME", help="Compare by this metric.  [default: each task's first]")
@click.option(
    "--alpha", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05, show_default=True,
    help="The chance of calling any one better when none is.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of signs and resamples drawn.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the examples that differ.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def compare(
    a: str, b: str, tasks: str | None, metric: str | None, alpha: float, seed: int, html: Path | None, as_json: bool
) -> int:
    """Say whether A or B is better, two results of `qwill eval MODEL`, or RESULTS:MODEL of a recipe.

    Only examples that both answered count, in pairs. "Better" is printed only where the difference is more than chance
    at `alpha`, all comparisons of the table taken together.
    """
    from qwill.cli.eval import compare_results

    return compare_results(a, b, tasks, metric, alpha, seed, html, as_json)

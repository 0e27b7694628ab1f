"""The command `qwill`: what can be typed, and how every error ends. What a verb needs is imported when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from qwill import __version__
from qwill.cli.arena import arena
from qwill.cli.ends import exit_code
from qwill.cli.eval_commands import evaluation
from qwill.cli.groups import InOrder, Itself, examples
from qwill.cli.serve_commands import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 2 for what the user can mend, 130 when stopped. A bug raises."""
    return exit_code(lambda: _command(arguments))


def _command(arguments: Sequence[str] | None) -> int:
    try:
        return int(qwill.main(args=arguments, prog_name="qwill", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None


def _recipe(function: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments of every command that works on a recipe."""
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    overrides = click.argument("overrides", nargs=-1, metavar="[section.key=value]...")
    recipe = click.argument("recipe", type=click.Path(path_type=Path))
    return recipe(overrides(as_json(function)))


@click.group(
    cls=InOrder,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`qwill COMMAND --help` has an example of each. Start with: qwill run recipes/demo.yaml",
)
@click.version_option(__version__, prog_name="qwill", message="%(prog)s %(version)s")
def qwill() -> None:
    """The whole life of a small Qwen model on your own machine."""


@qwill.command(epilog=examples("qwill run recipes/demo.yaml", "qwill run recipes/demo.yaml aligned.steps=20"))
@_recipe
def run(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> int:
    """Make every stage of a recipe, and go on where it stopped."""
    from qwill.cli.recipes import run

    return run(recipe, overrides, None, as_json)


@qwill.group()
def data() -> None:
    """Bring texts into the cache, train a quality classifier."""


@data.command(epilog=examples("qwill data fetch recipes/demo.yaml"))
@_recipe
def fetch(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> int:
    """Fetch the packages that a recipe reads, and check their hashes; afterwards it runs without a network."""
    from qwill.cli.recipes import fetch

    return fetch(recipe, overrides, as_json)


@data.command(epilog=examples("qwill data quality examples/curate/quality.yaml --out runs/quality"))
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def quality(config: Path, overrides: tuple[str, ...], out: Path, as_json: bool) -> int:
    """Train a quality classifier on good and bad texts that CONFIG names; curation scores documents with it."""
    from qwill.cli.quality import quality

    return quality(config, overrides, out, as_json)


def _stage_command(group: click.Group, verb: str, what: str, override: str, example: str = "demo") -> None:
    group.add_command(_stage(verb, what, override, example))


def _stage(verb: str, what: str, override: str, example: str = "demo") -> click.Command:
    name = verb.split()[-1]
    epilog = examples(f"qwill {verb} recipes/{example}.yaml", f"qwill {verb} recipes/{example}.yaml {override}")

    @click.command(name, help=what, epilog=epilog)
    @_recipe
    def stage(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> int:
        from qwill.cli.recipes import run

        return run(recipe, overrides, verb, as_json)

    return stage


_stage_command(qwill, "tasks", "Generate problems whose answers can be checked.", "heldout=200")


@click.command(
    "curate",
    epilog=examples(
        "qwill curate examples/curate/pages --out runs/pages",
        "qwill curate examples/curate/curate.yaml",
        "qwill curate recipes/demo.yaml seed=2",
    ),
)
@click.argument("recipe", type=click.Path(path_type=Path), metavar="CONFIG|FOLDER|FILE")
@click.argument("overrides", nargs=-1, metavar="[section.key=value]...")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Where the run's artifacts go.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def own(recipe: Path, overrides: tuple[str, ...], out: Path | None, as_json: bool) -> int:
    """Read, filter, deduplicate and decontaminate text into a corpus.

    CONFIG is a recipe with a section `corpus`. A FOLDER of HTML, JSON lines, Parquet, WARC, text or Markdown, or one
    such FILE, needs no recipe: one with the default settings is written beside the result.
    """
    from qwill.cli.curate import curate

    return curate(recipe, overrides, out, as_json)


curate = Itself(own)
qwill.add_command(curate)


@curate.command(epilog=examples("qwill curate inspect runs/demo/corpus boolq/0000012 --again"))
@click.argument("corpus", metavar="CORPUS")
@click.argument("document", metavar="ID")
@click.option("--again", is_flag=True, help="Read it from its source again and show its text after each step.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def inspect(corpus: str, document: str, again: bool, as_json: bool) -> int:
    """Show what each step saw in the document ID of CORPUS, and decided."""
    from qwill.cli.inspect import inspect

    return inspect(corpus, document, again, as_json)


_stage_command(qwill, "dialogues", "Make the conversations that fine-tuning learns from.", "seed=2")


@qwill.group()
def tokenizer() -> None:
    """Train a tokenizer, or take the released Qwen3 vocabulary."""


_stage_command(tokenizer, "tokenizer train", "Train a byte-level BPE vocabulary on the corpus.", "vocab_size=4096")
_stage_command(qwill, "mix", "Find the mixture that small models learn most from.", "runs=40", "mixing")
_stage_command(qwill, "pretrain", "Train a base model on the corpus.", "steps=100")


@qwill.command(
    "sft",
    epilog=examples(
        "qwill sft recipes/demo.yaml",
        "qwill sft recipes/demo.yaml steps=50",
        "qwill sft recipes/sft.yaml --preview 5",
    ),
)
@click.option(
    "--preview", is_flag=False, flag_value=3, type=click.IntRange(min=1), metavar="[N]",
    help="Show N examples (3) with what is trained on in colour, and counts; train nothing.",
)  # fmt: skip
@_recipe
def sft(recipe: Path, overrides: tuple[str, ...], as_json: bool, preview: int | None) -> int:
    """Fine-tune a model on conversations or texts, made by a recipe or your own."""
    if preview is not None:
        from qwill.cli.sft_preview import preview_examples

        return preview_examples(recipe, overrides, preview, as_json)
    from qwill.cli.recipes import run

    return run(recipe, overrides, "sft", as_json)


_stage_command(qwill, "preferences", "Gather pairs of replies of which one was preferred.", "seed=2", "dpo")
_stage_command(qwill, "reward", "Train a reward model on pairs of replies.", "centring=0", "reward")
_stage_command(qwill, "dpo", "Teach a model what was preferred: DPO and its kin, KTO, ORPO, SimPO.", "loss=kto", "dpo")
_stage_command(qwill, "grpo", "Improve the model by reinforcement learning, rewards checked.", "seed=2")
_stage_command(
    qwill, "rejection", "Sample replies, keep those that are right, as conversations.", "keep=1", "qwen3-post-training"
)
_stage_command(
    qwill, "fusion", "Make one training set of both modes, thinking and not.", "thinking=0.6", "qwen3-post-training"
)
_stage_command(
    qwill, "modes", "Measure models in both modes: accuracy, and does each reply obey?", "problems=50",
    "qwen3-post-training",
)  # fmt: skip
_stage_command(qwill, "ppo", "Reinforcement learning with a critic and advantages of tokens (PPO).", "lam=1", "ppo")
_stage_command(qwill, "distill", "Teach a model another one's distribution, on its own replies.", "beta=1", "distill")
_stage_command(qwill, "quantize", "Put the aligned model into int8 and measure what that costs.", "problems=50")
qwill.add_command(evaluation)
qwill.add_command(
    arena(_stage("arena", "Let the models of a recipe compete in pairs; ratings with intervals.", "problems=50"))
)
_stage_command(qwill, "report", "Write one HTML file that shows the whole run.", "title=Mine")


@qwill.command(epilog=examples("qwill merge runs/demo/base runs/demo/sft/adapter --out merged"))
@click.argument("model")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def merge(model: str, adapter: Path, out: Path, as_json: bool) -> int:
    """Write MODEL with the LoRA adapter in the folder ADAPTER merged in."""
    from qwill.cli.merge import merge

    return merge(model, adapter, out, as_json)


@qwill.command(epilog=examples("qwill chat runs/demo/aligned", "qwill chat smollm2"))
@click.argument("model")
def chat(model: str) -> int:
    """Talk with MODEL: a folder, a content id (qw1-…), or smollm2."""
    from qwill.cli.chat import run_chat

    return run_chat(model)


qwill.add_command(serve)


@qwill.command(epilog=examples("qwill export runs/demo/aligned --type q8_0", "qwill export smollm2 --type f16"))
@click.argument("model")
@click.option("--format", "form", type=click.Choice(["gguf"]), default="gguf", show_default=True, help="Kind of file.")
@click.option(
    "--type", "kind", type=click.Choice(["f32", "f16", "bf16", "q8_0", "q4_0"]), default="q8_0", show_default=True,
    help="How weights are stored.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where to; by default MODEL-TYPE.gguf.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(model: str, form: str, kind: str, out: Path | None, as_json: bool) -> int:
    """Write MODEL as one file that llama.cpp and what is built on it run."""
    from qwill.cli.export import export

    return export(model, kind, out, as_json)


@qwill.command(
    epilog=examples("qwill lineage runs/demo/aligned --documents 3", "qwill lineage runs/demo/report --verify")
)
@click.argument("artifact", metavar="ARTIFACT")
@click.option("--verify", is_flag=True, help="Hash everything again; exit code 2 if something was changed.")
@click.option("--documents", type=click.IntRange(min=1), metavar="N", help="Show N documents of each kind.")
@click.option("--document", metavar="ID", help="Show the document with this id.")
@click.option("--search", type=click.Path(path_type=Path), multiple=True, help="Look for ancestors in this folder too.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def lineage(
    artifact: str, verify: bool, documents: int | None, document: str | None, search: tuple[Path, ...], as_json: bool
) -> int:
    """Show what ARTIFACT was made from, to packages and documents."""
    from qwill.base.resolve import resolve
    from qwill.cli import lineage as show
    from qwill.hub.lineage import trace

    ancestors = trace(resolve(artifact), search)
    if verify:
        return show.verification(ancestors, as_json)
    if documents or document:
        return show.documents(ancestors, documents, document, as_json)
    return show.tree(ancestors, as_json)


@qwill.command(
    epilog=examples(
        "qwill plan qwen3-30b-a3b --gpus 64 --tokens 1T",
        "qwill plan qwen3-1t-plan --gpus 1024 --gpu h100 --tokens 36T --context 32768",
        "qwill plan qwen3-8b --mesh fsdp=4,tp=2 --check",
    )
)
@click.argument("config", metavar="CONFIG")
@click.option("--gpus", type=click.IntRange(1, 1_000_000), default=8, show_default=True, help="How many to train on.")
@click.option("--gpu", default="h100", show_default=True, help="Their kind: h100, h800, h200, b200, a100, 4090, …")
@click.option("--tokens", metavar="N", help="Tokens to train on, such as 36T.  [default: 20 an active parameter]")
@click.option("--context", type=click.IntRange(min=1), metavar="N", help="Tokens of a sequence.  [default: 4096]")
@click.option("--batch-tokens", metavar="N", help="Tokens of a step.  [default: 4M, from 5T tokens on 16M]")
@click.option("--mesh", metavar="MESH", help="Look at this mesh only, such as fsdp=8,tp=4.")
@click.option("--check", is_flag=True, help="Run that mesh on the meta device: each kind of rank, without memory.")
@click.option(
    "--utilisation", type=click.FloatRange(0, 1, min_open=True), metavar="SHARE", help="Time at this share of the peak."
)
@click.option("--meshes", "show", type=click.IntRange(min=1), default=10, show_default=True, help="How many to show.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, with every mesh.")
def plan(
    config: str, gpus: int, gpu: str, tokens: str | None, context: int | None, batch_tokens: str | None,
    mesh: str | None, check: bool, utilisation: float | None, show: int, as_json: bool,
) -> int:  # fmt: skip
    """Work out what it takes to train and serve CONFIG.

    CONFIG is the name of a configuration that comes with qwill (qwen3-0.6b, …), a config.json, or a model folder.
    """
    from qwill.cli.plan import plan

    return plan(config, gpus, gpu, tokens, context, batch_tokens, mesh, check, utilisation, show, as_json)


@qwill.command(epilog=examples("qwill doctor", "qwill doctor --json"))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def doctor(as_json: bool) -> int:
    """Say what this machine can do, and how to get what is missing."""
    from qwill.cli.doctor import doctor

    return doctor(as_json)


@qwill.command(epilog=examples("qwill version"))
def version() -> int:
    """Print the version."""
    print(f"qwill {__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

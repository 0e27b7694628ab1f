"""`qwill serve` and what is below it, as they can be typed. What they need is imported when they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from qwill.cli.groups import Itself, examples


@click.command(
    "serve",
    epilog=examples(
        "qwill serve smollm2",
        "qwill serve chat=runs/demo/aligned base=runs/demo/base --port 9000",
        "qwill serve runs/demo/sft runs/demo/aligned runs/demo/int8 --arena",
        "qwill serve runs/demo/aligned --engine vllm --engine-options '--tensor-parallel-size 8'",
    ),
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL|NAME=MODEL...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; if not here, with keys.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option("--adapter", "adapters", multiple=True, metavar="NAME=FOLDER", help="An adapter on the first MODEL.")
@click.option("--engine", type=click.Choice(["qwill", "vllm"]), default="qwill", show_default=True, help="Who runs it.")
@click.option("--engine-url", metavar="URL", help="A vLLM or Ray Serve that runs already; else one is started.")
@click.option("--engine-options", default="", metavar="TEXT", help="More options of `vllm serve`, in one text.")
@click.option("--api-key-required", is_flag=True, help="Ask for a key on this machine too (`qwill serve keys create`).")
@click.option("--state", metavar="URL", help="The database of keys and conversations.  [default: ~/.qwill]")
@click.option("--thinking", is_flag=True, help="Let models think unless a request says otherwise.")
@click.option(
    "--weights",
    type=click.Choice(["auto", "float", "int8", "int4"]),
    default="auto",
    show_default=True,
    help="auto: integers stay integers where native code runs them. int8, int4: round to groups of 32.",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), help="Of floats.  [default: float32; vLLM's own choice]"
)
@click.option(
    "--kv-cache",
    type=click.Choice(["float32", "bfloat16", "float16", "int8"]),
    help="How keys and values are kept.  [default: as --dtype; float16 beside integer weights]",
)
@click.option(
    "--speculate",
    metavar="ngram|mtp|MODEL",
    help="Check several drafted tokens a pass: found earlier in the text, from the model's own MTP head, or from a "
    "smaller MODEL.",
)
@click.option(
    "--speculate-tokens", type=click.IntRange(min=1), help="Most drafted at once.  [default: 8; mtp 3; MODEL 4]"
)
@click.option("--device", default="cpu", show_default=True, help="Where the models run: cpu, cuda, …")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="CPU threads of an engine; 0: all.")
@click.option("--queue", type=click.IntRange(min=1), default=256, show_default=True, help="Requests that may wait.")
@click.option("--timeout", type=click.FloatRange(min=1), default=900, show_default=True, help="Seconds of a request.")
@click.option("--max-body", type=click.IntRange(min=1), default=16, show_default=True, help="MiB of a request's body.")
@click.option("--drain", type=click.FloatRange(min=0), default=10, show_default=True, help="Seconds that streams get.")
@click.option("--cors-origin", "origins", multiple=True, metavar="URL", help="A site whose pages may call this server.")
@click.option("--allow-adapter-loading", is_flag=True, help="Clients may load adapters from folders here.")
@click.option("--log-prompts", is_flag=True, help="Put prompts and replies into the log.")
@click.option("--arena", is_flag=True, help="Let the models meet in battles that people vote on; the page shows it.")
@click.option(
    "--arena-limit",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    help="Battles and votes of one voter in a minute; of one address eight times as many. 0: no limit.",
)
@click.option(
    "--arena-prior",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    help="How far ratings are drawn together, in votes. 0: not at all; models without wins or losses are then unrated.",
)
@click.option(
    "--arena-suspects",
    type=click.Choice(["leave-out", "count"]),
    default="leave-out",
    show_default=True,
    help="What ratings do with votes of voters who seem to act together; the log keeps them, and the page says so.",
)
@click.option(
    "--arena-keep-days",
    type=click.FloatRange(min=0),
    default=30,
    show_default=True,
    help="Days after which battles that nobody voted on are forgotten. 0: never.",
)
@click.option("--arena-tokens", type=click.IntRange(min=1), help="Most tokens of a reply.  [default: the models' own]")
@click.option("--json", "as_json", is_flag=True, help="Say where it listens as one line of JSON.")
def serve_models(
    models: tuple[str, ...], host: str, port: int, adapters: tuple[str, ...], engine: str, engine_url: str | None,
    engine_options: str, api_key_required: bool, state: str | None, thinking: bool, weights: str, dtype: str | None,
    kv_cache: str | None, speculate: str | None, speculate_tokens: int | None, device: str, threads: int, queue: int,
    timeout: float, max_body: int, drain: float,
    origins: tuple[str, ...], allow_adapter_loading: bool, log_prompts: bool, arena: bool, arena_limit: int,
    arena_prior: float, arena_suspects: str, arena_keep_days: float, arena_tokens: int | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Serve MODEL to OpenAI's and Anthropic's clients, and a page to talk with it.

    MODEL is a folder, a GGUF file, a content id (qw1-…) or smollm2; clients call it NAME, or by its last part.
    """
    from qwill.base.errors import ConfigError
    from qwill.cli.serve import run_serve, run_vllm, speculation
    from qwill.serve.settings import ArenaSettings, ServeSettings

    limit = arena_limit or None
    battles = ArenaSettings(
        arena_prior, limit, limit, limit and 8 * limit, arena_tokens, arena_suspects == "leave-out",
        arena_keep_days or None,
    )  # fmt: skip
    settings = ServeSettings(
        host, port, api_key_required, state, thinking, max_body << 20, queue, timeout,
        drain=drain, origins=origins, log_prompts=log_prompts, adapter_loading=allow_adapter_loading,
        arena=battles if arena else None,
    )  # fmt: skip
    if engine == "vllm":
        ours = {
            "--weights": weights != "auto", "--kv-cache": kv_cache is not None, "--speculate": speculate is not None,
            "--speculate-tokens": speculate_tokens is not None, "--device": device != "cpu", "--threads": threads != 0,
        }  # fmt: skip
        if given := [option for option, is_given in ours.items() if is_given]:
            raise ConfigError(
                f"{' and '.join(given)}: not of vLLM, whose own settings go into --engine-options; leave it out"
            )
        return run_vllm(models, adapters, settings, dtype, engine_url, engine_options, as_json)
    if engine_url is not None or engine_options:
        raise ConfigError("--engine-url and --engine-options are vLLM's: add --engine vllm, or leave them out")
    how = {"kv_dtype": kv_cache, "speculate": speculation(speculate, speculate_tokens)}
    return run_serve(models, adapters, settings, dtype or "float32", device, threads, weights, how, as_json)


serve = Itself(serve_models)


@serve.group()
def keys() -> None:
    """Make, list and revoke API keys."""


def _state(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that works on the state database."""
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    state = click.option("--state", metavar="URL", help="The database: a file or postgresql://….  [default: ~/.qwill]")
    return state(as_json(function))


@keys.command(
    epilog=examples("qwill serve keys create", "qwill serve keys create ci --requests-per-minute 60 --expires 30d")
)
@click.argument("name", default="default")
@click.option("--tenant", default="local", show_default=True, help="Whose conversations the key reaches.")
@click.option("--requests-per-minute", type=click.IntRange(min=1), metavar="N", help="At most N, unlimited by default.")
@click.option("--tokens-per-minute", type=click.IntRange(min=1), metavar="N", help="Of prompts and replies together.")
@click.option("--concurrent", type=click.IntRange(min=1), metavar="N", help="Requests that may run at a time.")
@click.option("--expires", metavar="WHEN", help="12h, 30d, 4w, or the day after which it ends, such as 2027-01-31.")
@_state
def create(
    name: str, tenant: str, requests_per_minute: int | None, tokens_per_minute: int | None, concurrent: int | None,
    expires: str | None, state: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Make a key called NAME and show its secret, this once."""
    from qwill.cli import serve_keys

    limits = requests_per_minute, tokens_per_minute, concurrent
    return serve_keys.create(name, tenant, *limits, expires, state, as_json)


@keys.command(epilog=examples("qwill serve keys ls", "qwill serve keys ls --tenant acme --all"))
@click.option("--tenant", help="The keys of this tenant only.")
@click.option("--all", "every", is_flag=True, help="Revoked ones too.")
@_state
def ls(tenant: str | None, every: bool, state: str | None, as_json: bool) -> int:
    """List the keys there are, with the beginnings of their secrets."""
    from qwill.cli import serve_keys

    return serve_keys.ls(tenant, every, state, as_json)


@keys.command(epilog=examples("qwill serve keys revoke ci"))
@click.argument("key", metavar="NAME|ID")
@_state
def revoke(key: str, state: str | None, as_json: bool) -> int:
    """Revoke a key for good; servers that run refuse it within 5 seconds."""
    from qwill.cli import serve_keys

    return serve_keys.revoke(key, state, as_json)

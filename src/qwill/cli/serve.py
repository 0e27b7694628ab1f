"""`qwill serve`: an OpenAI-compatible server of one or more models, and its page."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwill.base.errors import ConfigError, QwillError
from qwill.serve.settings import ServeSettings

if TYPE_CHECKING:
    from qwill.engine.engine_settings import DraftSpec, MtpSpec, NgramSpec
    from qwill.serve.client import Client

log = logging.getLogger("qwill.serve")


def run_serve(
    references: Sequence[str],
    adapters: Sequence[str],
    settings: ServeSettings,
    dtype: str,
    device: str,
    threads: int,
    weights: str,
    engine: Mapping[str, Any],
    as_json: bool,
) -> int:
    """Serve until Ctrl-C or SIGTERM. Raises ConfigError for settings that don't fit, ModelError for a model."""
    from qwill.base.resolve import resolve
    from qwill.serve.engine_process import EngineOptions, load_engine

    named = served_names(references)
    loras = _adapters(adapters, named)
    # A model that is not there is said before anything is started.
    places = {name: str(resolve(reference)) for name, reference in named.items()}
    from qwill.serve.client import EngineClient

    makers: dict[str, Callable[[], Client]] = {}
    for i, name in enumerate(named):
        reference = "smollm2" if named[name] == "smollm2" else places[name]
        options = EngineOptions(reference, dtype, device, threads, weights, dict(engine), loras if i == 0 else {})
        makers[name] = partial(EngineClient, partial(load_engine, options))
    return start(makers, named, settings, as_json)


def speculation(who: str | None, tokens: int | None) -> NgramSpec | DraftSpec | MtpSpec | None:
    """Who drafts, as --speculate and --speculate-tokens say. Raises ConfigError or ModelError for what there isn't."""
    from qwill.engine.engine_settings import DraftSpec, MtpSpec, NgramSpec

    if who is None:
        if tokens is not None:
            raise ConfigError("--speculate-tokens says how many are drafted, but not by whom: add --speculate")
        return None
    if who == "ngram":
        return NgramSpec() if tokens is None else NgramSpec(tokens)
    if who == "mtp":
        return MtpSpec() if tokens is None else MtpSpec(tokens)
    from qwill.base.resolve import resolve

    place = str(resolve(who))
    reference = who if who == "smollm2" else place
    return DraftSpec(reference) if tokens is None else DraftSpec(reference, tokens)


def run_vllm(
    references: Sequence[str],
    adapters: Sequence[str],
    settings: ServeSettings,
    dtype: str | None,
    url: str | None,
    options: str,
    as_json: bool,
) -> int:
    """As `run_serve`, vLLM making the replies: one that runs at `url`, or one that is started for each model.

    `options`: more of `vllm serve`'s, as on a command line. Raises ConfigError, ModelError likewise.
    """
    from qwill.base.resolve import resolve
    from qwill.serve.vllm import VllmClient
    from qwill.serve.vllm_process import VllmOptions

    named = served_names(references)
    loras = _adapters(adapters, named)
    if url is not None and len(named) > 1:
        raise ConfigError("--engine-url is of one vLLM, which serves one model: give one MODEL")
    if url is not None and not url.startswith(("http://", "https://")):
        raise ConfigError(f"--engine-url {url}: expected http://HOST:PORT")
    if url is not None and dtype is not None:
        raise ConfigError("--dtype is for a vLLM that is started here: leave it or --engine-url out")
    if url is not None and options:
        raise ConfigError("--engine-options are for a vLLM that is started here: leave them or --engine-url out")
    makers: dict[str, Callable[[], Client]] = {}
    for i, name in enumerate(named):
        folder = resolve(named[name])
        if not (folder / "config.json").is_file() or not (folder / "tokenizer.json").is_file():
            raise ConfigError(
                f"{named[name]}: vLLM is given a Hugging Face folder here, with config.json and tokenizer.json; serve "
                "this one without --engine vllm"
            )
        chosen = VllmOptions(
            folder.absolute(), name, url, dtype, tuple(shlex.split(options)),
            {n: str(Path(f).absolute()) for n, f in loras.items()} if i == 0 else {}, settings.adapter_loading,
        )  # fmt: skip
        makers[name] = partial(VllmClient, chosen)
    return start(makers, named, settings, as_json)


def start(
    makers: Mapping[str, Callable[[], Client]], named: Mapping[str, str], settings: ServeSettings, as_json: bool
) -> int:
    """Serve the models whose engines `makers` makes, under the names of its keys."""
    if settings.arena is not None and len(makers) < 2:
        raise ConfigError("--arena needs at least two models: name another, as in `qwill serve A B --arena`")

    # Nothing else is imported before the engine processes run: loading a model takes longest.
    async def everything() -> None:
        task = asyncio.current_task()
        assert task is not None
        # Until it is ready SIGTERM ends it as Ctrl-C does: nothing that was started is left behind.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        clients = {name: make() for name, make in makers.items()}
        for client in clients.values():
            client.spawn()
        from qwill.serve.logs import log_to
        from qwill.serve.run import bind, serve
        from qwill.serve.service import ServedModel, Service

        log_to()
        try:
            state = open_state(settings)
            models = [ServedModel(name, client, named[name]) for name, client in clients.items()]
            listener = bind(settings.host, settings.port)
        except BaseException:
            await asyncio.gather(*(client.close() for client in clients.values()))
            raise
        await serve(Service(models, settings, state), listener, partial(_ready, list(named), as_json))

    try:
        asyncio.run(everything())
    except asyncio.CancelledError:  # SIGTERM before it was ready
        return 128 + signal.SIGTERM
    return 0


def open_state(settings: ServeSettings) -> Any:
    """The database of keys and conversations. Raises ConfigError when keys are needed and there are none.

    On this machine, without keys, a server runs without it too: the page then forgets its conversations.
    """
    from qwill.base.state import open_state as open_database

    try:
        opened = open_database(settings.state)
    except (QwillError, OSError) as error:
        if settings.needs_key or settings.state or settings.arena is not None:
            raise
        log.warning("no conversations are kept", extra={"fields": {"error": str(error)}})
        return None
    if settings.needs_key:
        from qwill.serve.keys import has_keys

        if not has_keys(opened):
            why = f"--host {settings.host} lets others in" if not settings.api_key_required else "--api-key-required"
            raise ConfigError(f"{why}, but there is no API key yet: make one with `qwill serve keys create`")
    return opened


def _ready(names: list[str], as_json: bool, address: str) -> None:
    if as_json:
        print(json.dumps({"url": address, "models": names, "process": os.getpid()}), flush=True)
        return
    print(f"qwill: {', '.join(names)} at {address} (the page), {address}/v1 (the API). Ctrl-C stops.", flush=True)


def served_names(references: Sequence[str]) -> dict[str, str]:
    """{name that clients use: reference}: NAME=MODEL as given, else the reference's last part."""
    named: dict[str, str] = {}
    for reference in references:
        name, equals, rest = reference.partition("=")
        if not equals or os.path.exists(reference):
            name, rest = Path(reference).name.removesuffix(".gguf") or reference, reference
        if name in named:
            raise ConfigError(f"two models would be called {name}; name them, as in first={named[name]} second={rest}")
        named[name] = rest
    return named


def _adapters(given: Sequence[str], models: Mapping[str, str]) -> dict[str, str]:
    adapters: dict[str, str] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or not name or not Path(folder).is_dir():
            raise ConfigError(f"--adapter {text}: expected NAME=FOLDER, and a folder that exists")
        if name in models or name in adapters:
            raise ConfigError(f"--adapter {text}: the name {name} is taken; choose another")
        adapters[name] = folder
    return adapters

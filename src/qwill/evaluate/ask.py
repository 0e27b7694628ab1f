"""Ask a language model many conversations at once: ours, or one behind an OpenAI-compatible URL, in the same way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwill.base.errors import DataError, ModelError

if TYPE_CHECKING:
    from qwill.engine.engine import Engine
    from qwill.engine.language_model import LanguageModel
    from qwill.engine.request import Event, TokenLogprob

Conversation = Sequence[Mapping[str, Any]]

LOOK = 256  # likeliest tokens among which the letters are looked for
PASS = 1024  # tokens of a pass while prompts are computed
LETTER_TOKENS = 16  # for the letter and what a template puts before it, behind the thinking


@dataclass(frozen=True)
class Asking:
    """How replies are drawn: `temperature` 0 is the likeliest token each time. With `letters` a reply is one of these
    single characters, and how likely each was is told. `slots`: conversations that run at once."""

    max_tokens: int = 1024
    temperature: float = 0.0
    thinking: bool = False
    letters: tuple[str, ...] = ()
    seed: int = 0
    slots: int = 16


@dataclass(frozen=True)
class Answer:
    """`text` without the thinking. `letters`: natural logarithm of the probability of each letter as the next token, as
    far as they are known. `error`: one sentence where this conversation can't be answered, such as one too long."""

    text: str = ""
    letters: dict[str, float] = field(default_factory=dict)
    error: str | None = None


Asker = Callable[[Sequence[Conversation], Asking], list[Answer]]


@dataclass(frozen=True)
class Respondent:
    """Someone to ask. `name` is shown; `identity` tells this model from another of the same name."""

    name: str
    identity: str
    ask: Asker


def respondent(reference: str, api_key: str | None = None, seconds: float | None = None) -> Respondent:
    """A model folder or anything else that `qwill.load` takes, or URL or URL#MODEL of an OpenAI-compatible server.

    `seconds`: what a server may take for one conversation, all tries together; without it each try has ten minutes. A
    model is loaded when it is first asked. Raises ArtifactError, ConfigError or SourceError, one sentence.
    """
    if reference.startswith(("http://", "https://")):
        from qwill.evaluate.ask_url import url_respondent

        return url_respondent(reference, api_key, seconds)
    from qwill.base.artifact import read_manifest
    from qwill.base.resolve import resolve

    path = resolve(reference)
    manifest = read_manifest(path) if path.is_dir() else None
    loaded: list[Asker] = []

    def ask(conversations: Sequence[Conversation], asking: Asking) -> list[Answer]:
        if not loaded:
            from qwill.engine.language_model import load

            loaded.append(engine_asker(load(path, weights="auto")))
        return loaded[0](conversations, asking)

    # The archive that smollm2 is in has a name that says less.
    name = path.name if path.is_dir() or path.suffix == ".gguf" else reference
    return Respondent(name, manifest.content_id if manifest else _fingerprint(path), ask)


def _fingerprint(path: Path) -> str:
    """Of a model without a manifest: where it lies, and the sizes and times of its files."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return f"{path.resolve()} {stats}"


def engine_asker(lm: LanguageModel) -> Asker:
    """Through our engine; letters by constrained decoding, so that the smallest model gives one."""
    engines: list[Engine] = []

    def ask(conversations: Sequence[Conversation], asking: Asking) -> list[Answer]:
        prompts, answers = [], [Answer()] * len(conversations)
        for conversation in conversations:
            prompts.append(lm.prompt(conversation, asking.thinking and lm.thinks))
        engine = _engine(lm, engines, prompts, asking)
        asked = 0
        for number, prompt in enumerate(prompts):
            try:
                engine.add(_request(lm, str(number), prompt, asking))
                asked += 1
            except DataError as error:
                answers[number] = Answer(error=str(error))
        while engine.has_work:
            for event in engine.step():
                answers[int(event.request)] = _answer(lm, prompts[int(event.request)], event, asking, engine)
        return answers

    return ask


def _engine(lm: LanguageModel, kept: list[Engine], prompts: Sequence[Sequence[int]], asking: Asking) -> Engine:
    """One engine for all calls, since laying out weights takes long; with room for what runs at once."""
    from dataclasses import replace

    from qwill.engine.engine import Engine
    from qwill.engine.engine_settings import EngineSettings

    settings = EngineSettings(max_running=asking.slots, token_budget=max(asking.slots, PASS))
    longest = max((min(len(prompt) + asking.max_tokens, lm.context) for prompt in prompts), default=1)
    blocks = asking.slots * (-(-longest // settings.block_size) + 1)
    if kept and kept[0].settings.max_running != asking.slots:
        kept.clear()
    if not kept:
        kept.append(Engine(lm.model, lm.tokenizer, replace(settings, blocks=blocks)))
    elif kept[0].pool.blocks < blocks:
        kept[0].grow(blocks)
    return kept[0]


def _request(lm: LanguageModel, name: str, prompt: list[int], asking: Asking) -> Any:
    from qwill.engine.constraint import Constraint
    from qwill.engine.request import Request
    from qwill.engine.sampling import Sampling
    from qwill.text.reply_stream import prompt_opens_thinking

    thinks = asking.thinking and lm.thinks
    tokens, constraint = asking.max_tokens, None
    if asking.letters:
        opened = prompt_opens_thinking(lm.tokenizer, prompt)
        mode = "open" if opened else "allowed" if thinks else "none"
        constraint = Constraint("choice", json.dumps(asking.letters), mode)  # type: ignore[arg-type]
        tokens = asking.max_tokens + LETTER_TOKENS if thinks else 1
    return Request(
        name,
        prompt,
        Sampling(max_tokens=tokens, temperature=asking.temperature),
        seed=asking.seed,
        stop_ids=frozenset(lm.stop_ids),
        constraint=constraint,
        thinking_budget=asking.max_tokens if asking.letters and thinks else None,
        logprobs=LOOK if asking.letters else None,
        whole=True,
    )


def _answer(lm: LanguageModel, prompt: Sequence[int], event: Event, asking: Asking, engine: Engine) -> Answer:
    from qwill.text.parse import parse_reply
    from qwill.text.reply_stream import prompt_opens_thinking

    if event.error is not None:
        if engine.failure is not None:
            raise ModelError(event.error) from engine.failure
        return Answer(error=event.error)
    content = parse_reply(event.text, prompt_opens_thinking(lm.tokenizer, prompt)).content.strip()
    if not asking.letters:
        return Answer(content)
    ids = {lm.tokenizer.encode(letter)[0]: letter for letter in asking.letters}
    scored = [token for token in event.logprobs or [] if token.token in ids]
    return Answer(content, _letters(scored[-1], ids) if scored else {})


def _letters(token: TokenLogprob, ids: Mapping[int, str]) -> dict[str, float]:
    """Those among the likeliest tokens, and the one that was drawn."""
    found = {ids[number]: value for number, value in token.top if number in ids}
    found.setdefault(ids[token.token], token.logprob)
    return {letter: value for letter, value in found.items() if math.isfinite(value)}

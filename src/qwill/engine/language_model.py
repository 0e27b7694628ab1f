"""`qwill.load(ref)`: a model with its tokenizer, ready to chat and to generate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from qwill.base.errors import ConfigError, DataError
from qwill.base.resolve import resolve
from qwill.engine.defaults import CAUTIOUS, NOT_THINKING, THINKING, folder_defaults
from qwill.engine.generate import Completion, FinishReason, generate
from qwill.engine.sampler import Sampling
from qwill.engine.stream import Session
from qwill.engine.template import render_template
from qwill.text.chat import render
from qwill.text.parse import Reply, parse_reply
from qwill.text.reply_stream import ContentPiece, Piece, ReasoningPiece, ReplyStream, prompt_opens_thinking
from qwill.text.thinking import ThinkingBudget
from qwill.text.thinking import thinking_budget as budget_of
from qwill.text.tokenizer import StreamDecoder, Tokenizer, released_chat_template

if TYPE_CHECKING:
    from qwill.model.transformer import Transformer

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Delta:
    """A piece of a reply while it is made, at least one for each token: of the thinking, or of what is said.

    `text` is empty for a token that shows nothing by itself. The last piece has a `finish_reason`.
    """

    text: str
    kind: Literal["reasoning", "content"]
    finish_reason: FinishReason | None = None


class LanguageModel:
    """A model, its tokenizer and an engine that remembers the last conversation, so that the next turn is quick.

    The engine may hold a copy of the weights: after changing them, make a new LanguageModel.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        stop_ids: Sequence[int] = (),
        sampling: Mapping[str, float] | None = None,
    ) -> None:
        """`sampling` overrides the values that hold without thinking, as a folder's generation_config.json does."""
        self.model, self.tokenizer, self.engine = model, tokenizer, Session(model)
        eos = model.config.eos_token_id
        declared = [] if eos is None else [eos] if isinstance(eos, int) else [*eos]
        self.stop_ids = tuple(sorted({*tokenizer.stop_ids, *declared, *stop_ids}))
        own = NOT_THINKING if self.thinks else CAUTIOUS
        self.sampling = replace(own, **(sampling or {}))  # type: ignore[arg-type]
        self._vocab_size = min(tokenizer.vocab_size, model.config.vocab_size)

    @property
    def context(self) -> int:
        """Tokens of prompt and reply together that the model can hold."""
        return self.model.config.max_position_embeddings

    @property
    def thinks(self) -> bool:
        """Whether the tokenizer has the marks of a thinking block."""
        return "<think>" in self.tokenizer.specials

    def prompt(
        self,
        messages: Sequence[Message],
        thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Ids of a conversation up to where the assistant begins its next reply."""
        if self.tokenizer.chat_template == released_chat_template():
            rendered = render(messages, tools, tokenizer=self.tokenizer, thinking=thinking, generation_prompt=True)
            return rendered.ids
        return render_template(messages, self.tokenizer, tools, thinking)

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        thinking: bool = ...,
        stream: Literal[False] = ...,
        tools: Sequence[Mapping[str, Any]] | None = ...,
        seed: int = ...,
        thinking_budget: int | None = ...,
        **sampling: float,
    ) -> str: ...

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        thinking: bool = ...,
        *,
        stream: Literal[True],
        tools: Sequence[Mapping[str, Any]] | None = ...,
        seed: int = ...,
        thinking_budget: int | None = ...,
        **sampling: float,
    ) -> Iterator[str]: ...

    def chat(
        self,
        messages: Sequence[Message],
        thinking: bool = False,
        stream: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        seed: int = 0,
        thinking_budget: int | None = None,
        **sampling: float,
    ) -> str | Iterator[str]:
        """What the assistant says next; with `stream` an iterator over pieces of it. Thinking is left out.

        `sampling` overrides fields of `Sampling` (`max_tokens`, `temperature`, `top_p`, …); without it the
        model's own values hold (for Qwen3 0.6/0.95/20 when thinking, else 0.7/0.8/20). `thinking_budget`: tokens of
        thinking, behind which Qwen3's sentence ends it and the answer begins. Raises `DataError` when the conversation
        fills the context, and for a budget of a model that does not think.
        """
        if stream:
            deltas = self.stream(messages, thinking, tools, seed, thinking_budget, **sampling)
            return (delta.text for delta in deltas if delta.kind == "content")
        return self.reply(messages, thinking, tools, seed, thinking_budget, **sampling).content

    def reply(
        self,
        messages: Sequence[Message],
        thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        seed: int = 0,
        thinking_budget: int | None = None,
        **sampling: float,
    ) -> Reply:
        """As `chat`, but taken apart: content, thinking and tool calls."""
        prompt, settings = self.prompt(messages, thinking, tools), self._settings(thinking, sampling)
        tokens = self.engine.stream(
            prompt, settings, self.stop_ids, seed, self._vocab_size, self._budget(thinking_budget)
        )
        opened = prompt_opens_thinking(self.tokenizer, prompt)
        return parse_reply(self._text([token.id for token in tokens]), opened, tools or ())

    def stream(
        self,
        messages: Sequence[Message],
        thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        seed: int = 0,
        thinking_budget: int | None = None,
        **sampling: float,
    ) -> Iterator[Delta]:
        """As `chat`, piece by piece and with the thinking. Leaving the loop early is fine."""
        prompt, settings = self.prompt(messages, thinking, tools), self._settings(thinking, sampling)
        tokens = self.engine.stream(
            prompt, settings, self.stop_ids, seed, self._vocab_size, self._budget(thinking_budget)
        )
        return self._deltas((token.id for token in tokens), prompt_opens_thinking(self.tokenizer, prompt))

    def generate(
        self,
        prompts: Sequence[str],
        max_tokens: int = 64,
        temperature: float = 1.0,
        seed: int = 0,
        slots: int = 64,
        **sampling: float,
    ) -> list[Completion]:
        """Continue texts (no chat template), one completion each, in batches of `slots`.

        An empty text begins as a document does, after `<|endoftext|>`.
        """
        start = [i for name, i in self.tokenizer.specials.items() if name == "<|endoftext|>"]
        ids = [encoded or start for encoded in self.tokenizer.encode_batch(prompts)]
        settings = _overridden(Sampling(max_tokens=max_tokens, temperature=temperature), sampling)
        rows = generate(
            self.model,
            ids,
            settings,
            slots=slots,
            stop_ids=self.stop_ids,
            seed=seed,
            vocab_size=self._vocab_size,
        )
        return [replace(row, text=self._text(row.token_ids)) for (row,) in rows]

    def _budget(self, tokens: int | None) -> ThinkingBudget | None:
        return None if tokens is None else budget_of(self.tokenizer, tokens)

    def _settings(self, thinking: bool, overrides: Mapping[str, float]) -> Sampling:
        base = THINKING if thinking else self.sampling
        # Unless asked for more, a reply leaves half of the context to what comes after it.
        base = replace(base, max_tokens=max(1, min(base.max_tokens, self.context // 2)))
        return _overridden(base, overrides)

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids[:-1] if ids and ids[-1] in self.stop_ids else ids)

    def _deltas(self, ids: Iterator[int], thinking_open: bool) -> Iterator[Delta]:
        # Calls are left in the content: a Delta has no place for them, `reply` has.
        decoder, parser = StreamDecoder(self.tokenizer), ReplyStream(thinking_open, tools=None)
        kind: Literal["reasoning", "content"] = "content"
        finish: FinishReason = "length"
        for token in ids:
            if token in self.stop_ids:
                finish = "stop"
                break
            pieces = parser.push(decoder.push(token)) or [ContentPiece("")]
            for piece in pieces:
                kind = "reasoning" if isinstance(piece, ReasoningPiece) else "content"
                yield Delta(_shown(piece), kind)
        pieces = [*parser.push(decoder.finish()), *parser.finish()]
        for piece in pieces:
            kind = "reasoning" if isinstance(piece, ReasoningPiece) else "content"
            yield Delta(_shown(piece), kind)
        yield Delta("", kind, finish)


def _shown(piece: Piece) -> str:
    return piece.text if isinstance(piece, ReasoningPiece | ContentPiece) else ""


def _overridden(base: Sampling, overrides: Mapping[str, float]) -> Sampling:
    unknown = [name for name in overrides if name not in base.__dataclass_fields__]
    if unknown:
        known = ", ".join(base.__dataclass_fields__)
        raise DataError(f"{unknown[0]!r} is not a sampling setting; expected one of {known}.")
    return replace(base, **overrides)  # type: ignore[arg-type]


Weights = Literal["auto", "float", "stored", "int8", "int4"]


def load(ref: str | Path, dtype: str = "float32", device: str = "cpu", weights: Weights = "float") -> LanguageModel:
    """A model by reference: a Hugging Face folder, a GGUF file, a content id, or `smollm2`.

    weights: "float" multiplies out what is stored as integers, to `dtype`. "int8" and "int4" hold the projections as
    integers of so many bits (`held.hold`): what is stored so stays as it is, all else is rounded. "auto" keeps what is
    stored as integers if native code can compute with it (`engine.native`), and is "float" otherwise. "stored"
    keeps them in any case.

    Raises `ArtifactError` when there is no such model, `ModelError` when it is of a kind that is not supported.
    """
    from qwill.model.gguf import load_gguf, smollm2_file

    path = resolve(ref)
    if path.is_dir():
        return _load_folder(path, dtype, device, weights)
    file = path if path.suffix == ".gguf" else smollm2_file(path)
    model, tokenizer = load_gguf(file, dtype, device, quantized=weights != "float")
    _settle(model, weights)
    return LanguageModel(model, tokenizer)


def _settle(model: Transformer, weights: Weights) -> None:
    """What was read with its integers kept becomes what was asked for."""
    from qwill.engine import native
    from qwill.model.held import hold, multiply_out

    if weights in ("int8", "int4"):
        hold(model, 8 if weights == "int8" else 4)
    elif weights == "auto" and not native.suits(model):
        multiply_out(model)


def _load_folder(folder: Path, dtype: str, device: str, weights: Weights) -> LanguageModel:
    from qwill.model.files import load_model, read_config
    from qwill.model.held import load_held

    if weights in ("int8", "int4"):
        model = load_held(folder, 8 if weights == "int8" else 4, dtype, device)
    else:
        stored = weights in ("auto", "stored") and read_config(folder).quantization_config is not None
        model = load_model(folder, dtype, device, quantized=stored)
        _settle(model, weights)
    tokenizer = Tokenizer.load(folder)
    sampling, stop_ids = folder_defaults(folder)
    try:
        return LanguageModel(model.eval(), tokenizer, stop_ids, sampling)
    except (ConfigError, TypeError) as error:
        path = folder / "generation_config.json"
        raise ConfigError(f"{path} can't be used ({error}); mend or remove it.") from error

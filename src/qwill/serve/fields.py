"""The fields that several protocols share, and what the engine's request takes from them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from qwill.base.errors import QwillError
from qwill.engine.request import Request
from qwill.engine.sampling import Sampling
from qwill.serve.errors import ApiError
from qwill.serve.wire import ModelInfo

LONGEST_NAME = 256
LONGEST_STOP = 256
STRIDE = 16  # tokens at a time that the engine tells of a reply that goes out as a whole
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
JsonObject = dict[str, Any]


class Body(BaseModel):
    """A request's body. Types are taken literally; a field that is not known is ignored."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class StructuredOutputs(Body):
    """vLLM's `structured_outputs`: exactly one of these."""

    json_: JsonObject | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class SamplingFields(Body):
    """Sampling of chat and text completions: OpenAI's fields, and vLLM's beyond them."""

    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    logit_bias: (
        dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None
    ) = None
    top_k: int | None = Field(default=None, ge=-1, le=2**31, description="0 and -1: off")
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=100)
    min_tokens: int | None = Field(default=None, ge=0, le=2**31)
    ignore_eos: bool | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, max_length=64)
    priority: int | None = Field(default=None, ge=-(2**31), lt=2**31)
    guided_json: JsonObject | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None


def sampling_of(fields: SamplingFields, defaults: Mapping[str, float], max_tokens: int) -> Sampling:
    """The engine's sampling; what the request leaves out comes from `defaults`. Raises ApiError naming the field."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    values: dict[str, Any] = dict(defaults)
    values |= {name: value for name in names if (value := getattr(fields, name)) is not None}
    values["top_k"] = max(0, int(values.get("top_k", 0)))
    if fields.min_tokens:
        values["min_tokens"] = fields.min_tokens
    if fields.ignore_eos:
        values["ignore_eos"] = True
    if fields.logit_bias:
        values["logit_bias"] = {int(token): float(bias) for token, bias in fields.logit_bias.items()}
    values["max_tokens"] = max_tokens
    try:
        return Sampling(**values)
    except QwillError as error:
        text = str(error).removeprefix("sampling.")
        name = text.split(" ", 1)[0]
        raise ApiError(
            400, text[:1].lower() + text[1:] + ".", name if hasattr(fields, name) else None, code="invalid_value"
        ) from error


def seed_of(fields: SamplingFields) -> int:
    return secrets.randbits(63) if fields.seed is None else fields.seed & (2**63 - 1)


def stops_of(fields: SamplingFields) -> tuple[str, ...]:
    stop = fields.stop
    return () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)


def plain_text(content: Any, param: str) -> str:
    """What a message's content says: a text, or its parts together; nothing for None. Raises ApiError for a part that
    is no text."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for i, part in enumerate(content):
        text = getattr(part, "refusal" if part.type == "refusal" else "text", None)
        if text is None:
            said = f"{param}[{i}] is of type {part.type}, but this model reads text only; describe it in words."
            raise ApiError(400, said, f"{param}[{i}]", code="unsupported_content")
        texts.append(str(text))
    return "".join(texts)


def room(prompt: Sequence[int], info: ModelInfo, param: str) -> int:
    """Tokens that the context leaves for the reply. Raises ApiError with both numbers when it leaves none."""
    left = info.context - len(prompt)
    if left < 1:
        raise ApiError(
            400,
            # Clients look for these words, digits without commas.
            f"This model's maximum context length is {info.context} tokens of prompt and reply together, but the "
            f"prompt alone has {len(prompt)} tokens; shorten it.",
            param,
            code="context_length_exceeded",
        )
    return left


def check_ids(prompt: Sequence[int], info: ModelInfo, param: str) -> None:
    """Token ids from outside. Raises ApiError for one that the model does not know."""
    for place, token in enumerate(prompt):
        if not 0 <= token < info.vocab_size:
            raise ApiError(
                400, f"{param}[{place}] is the token id {token}, but the model knows 0 to {info.vocab_size - 1}.", param
            )


def check_biases(sampling: Sampling, info: ModelInfo) -> None:
    for token in getattr(sampling, "logit_bias", None) or {}:
        if token >= info.vocab_size:
            last = info.vocab_size - 1
            raise ApiError(
                400, f"logit_bias names the token id {token}, but the model knows 0 to {last}.", "logit_bias"
            )


def engine_request(
    request_id: str, prompt: list[int], fields: SamplingFields, sampling: Sampling, info: ModelInfo, n: int, **more: Any
) -> Request:
    check_biases(sampling, info)
    stop_ids = frozenset(info.stop_ids) | frozenset(fields.stop_token_ids or ())
    return Request(
        id=request_id,
        prompt=prompt,
        sampling=sampling,
        n=n,
        seed=seed_of(fields),
        stop_ids=stop_ids,
        stop=stops_of(fields),
        priority=fields.priority or 0,
        **{"best_of": n, **more},
    )

"""Parts of answers that several protocols share."""

from __future__ import annotations

import secrets
import time
from typing import Any

from pydantic import BaseModel, ConfigDict

from qwill.engine.request import TokenLogprob
from qwill.text.tokenizer import Tokenizer


class Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class PromptDetails(Answer):
    cached_tokens: int


class CompletionDetails(Answer):
    reasoning_tokens: int


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


def usage(prompt: int, reply: int, cached: int = 0, reasoning: int | None = None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": reply,
        "total_tokens": prompt + reply,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    if reasoning is not None:
        shown["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return shown


def new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


def now() -> int:
    return int(time.time())


def shown_token(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; one that is no whole UTF-8 as OpenAI has it, `bytes:\\xe4\\xbd`: no two look alike."""
    raw = tokenizer.token_bytes(token)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def chat_logprob(tokenizer: Tokenizer, entry: TokenLogprob, alternatives: int) -> dict[str, Any]:
    """An entry of chat's `logprobs.content`."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        # JSON has no infinity; a token that can't be chosen gets OpenAI's number for that.
        shown = max(logprob, -9999.0)
        return {"token": shown_token(tokenizer, token), "logprob": shown, "bytes": [*tokenizer.token_bytes(token)]}

    return one(entry.token, entry.logprob) | {"top_logprobs": [one(*pair) for pair in entry.top[:alternatives]]}

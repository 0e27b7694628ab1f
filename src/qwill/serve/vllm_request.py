"""Our requests in the words of vLLM's /v1/completions (0.11 or later), and its answers in ours."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from qwill.engine.constraint import Constraint, grammar
from qwill.engine.request import Request, TokenLogprob

AFTER = r"\x{a}\x{a}"  # what the template puts between </think> and the answer
_START = re.compile(r"^start(?=\s*(\[[^\]]*\]\s*)?:)|(?<=[\s|(?!:])start(?=[\s|)?*+]|$)", re.M)


def lark_of(
    constraint: Constraint, specials: Mapping[str, int], thinking: Literal["none", "allowed", "open", "closed"]
) -> str:
    """One Lark grammar in llguidance's dialect for what our engine keeps to step by step, thinking included; "closed":
    `</think>` was the last token.

    `specials`: ids of special tokens by name. What looks like `<mark>` is one for vLLM's llguidance too, and no text.
    """
    text = grammar(constraint, specials)
    if constraint.kind == "regex":  # the only one that comes wrapped
        text = json.loads(text)["grammars"][0]["lark_grammar"]
    if thinking == "none":
        return text
    start = f"/{AFTER}/"
    if thinking != "closed":
        start = f"/(?s:.*)/ <[{specials['</think>']}]> {start}"
    if thinking == "allowed":
        start = f"(<[{specials['<think>']}]> {start})?"
    return f"start: {start} answer_of_reply\n" + _START.sub("answer_of_reply", text)


def asked(
    request: Request, model: str, prompt: Sequence[int], given: int, most: int, seed: int, lark: str | None = None
) -> dict[str, Any]:
    """The body for `most` more tokens of one sample. `prompt`: the request's and the `given` tokens of the reply."""
    s = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": most,
        "temperature": s.temperature,
        "top_p": s.top_p,
        "top_k": s.top_k,
        "min_p": s.min_p,
        "repetition_penalty": s.repetition_penalty,
        "presence_penalty": s.presence_penalty,
        "frequency_penalty": s.frequency_penalty,
        "seed": seed,
        "stop": list(request.stop),
        "ignore_eos": s.ignore_eos,
        "min_tokens": min(max(0, s.min_tokens - given), most),
        "stop_token_ids": [] if s.ignore_eos else sorted(request.stop_ids),
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "stream": request.prompt_logprobs is None,  # vLLM does not stream those of the prompt
    }
    if s.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in s.logit_bias.items()}
    if request.logprobs is not None or request.best_of > request.n:  # the best is known by its log-probability
        body["logprobs"] = request.logprobs or 0
    if request.prompt_logprobs is not None:
        body["prompt_logprobs"] = request.prompt_logprobs
    else:
        body["stream_options"] = {"include_usage": True}
    if request.priority:
        body["priority"] = -request.priority  # there the smaller goes first
    if lark is not None:
        body["structured_outputs"] = {"grammar": lark}
    return body


def seed_of(request: Request, sample: int, part: int) -> int:
    """A random stream of its own for each part of each sample, named by the request's seed as in our engine."""
    name = f"{request.seed}/{request.stream}/{sample}/{part}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1


def scores_of(logprobs: Mapping[str, Any] | None, count: int) -> list[TokenLogprob]:
    """Of a choice's `logprobs`, with the `count` likeliest alternatives."""
    if not logprobs:
        return []
    rows = zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    return [
        _score(_id(token), own, {_id(other): value for other, value in (top or {}).items()}, count)
        for token, own, top in rows
    ]


def prompt_scores_of(found: Sequence[Any], prompt: Sequence[int], count: int) -> list[TokenLogprob | None]:
    """Of a choice's `prompt_logprobs`: {id: {logprob, …}} a token, None for the first."""
    scores: list[TokenLogprob | None] = []
    for token, row in zip(prompt, found, strict=True):
        values = {int(i): float(entry["logprob"]) for i, entry in (row or {}).items()}
        scores.append(_score(token, values[token], values, count) if values else None)
    return scores


def _score(token: int, own: float, top: Mapping[int, float], count: int) -> TokenLogprob:
    likeliest = sorted(top.items(), key=lambda entry: -entry[1])[:count]
    return TokenLogprob(token, own, own, likeliest)


def _id(text: str) -> int:
    return int(text.removeprefix("token_id:"))

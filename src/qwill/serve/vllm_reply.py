"""One reply of vLLM as it comes: asked for in parts where a thinking budget needs it, told as our engine tells."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from qwill.base.errors import DataError, QwillError
from qwill.engine.reply_text import ReplyText
from qwill.engine.request import Event, FinishReason, Request, TokenLogprob
from qwill.serve.client import EngineDied
from qwill.serve.vllm_request import asked, lark_of, prompt_scores_of, scores_of, seed_of

if TYPE_CHECKING:
    import httpx

    from qwill.text.tokenizer import Tokenizer

FORBIDDEN = -100.0  # the bias of a token that may not come
_WRAPPED = re.compile(r"Message: (.*?), Internal exception: .*")  # Ray Serve says the same in three ways
_REQUEST_ID = re.compile(r" \(Request ID: [^)]*\)")
Thinking = Literal["none", "allowed", "open", "closed"]


class ReplyFailed(QwillError):
    """vLLM could not go on with a reply; it says why."""


@dataclass(frozen=True)
class Place:
    """Where replies come from: vLLM's HTTP client, the name of the model or adapter there, and the tokenizer."""

    http: httpx.AsyncClient
    model: str
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Chunk:
    ids: list[int]
    scores: list[TokenLogprob]
    reason: str | None = None


class Reply:
    """One sample of a request. `accepted` is called when vLLM has taken it, `put` with each event."""

    def __init__(
        self,
        place: Place,
        request: Request,
        sample: int,
        accepted: Callable[[], object],
        put: Callable[[Event], object],
    ) -> None:
        self.place, self.request, self.sample, self.accepted, self.put = place, request, sample, accepted, put
        self.tokens: list[int] = []
        self.logprob = 0.0
        self.reason: FinishReason | None = None
        self._text = ReplyText(place.tokenizer, request.stop)
        self._stops: frozenset[int] = frozenset() if request.sampling.ignore_eos else request.stop_ids
        self._cached = self._parts = 0
        self._prompt_scores: list[TokenLogprob | None] | None = None
        self._last: Event | None = None  # waits for the number of cached tokens, which comes behind it

    async def run(self) -> None:
        """Until the event with a finish reason. Raises `DataError` for what vLLM refuses, `EngineDied`, httpx's."""
        request, known = self.request, self.place.tokenizer.specials
        think, answer = known.get("<think>", -1), known.get("</think>", -1)
        if request.thinking_budget is None or answer < 0:
            await self._part(request.constraint.thinking if request.constraint else "none")
        else:
            marks = [i for i in request.prompt if i in (think, answer)]
            if marks[-1:] == [think] or await self._opens(think):
                await self._think(answer)
                await self._part("closed")
            else:
                await self._part("none")
        last = self._last or self._event([], "", [])
        more = "" if self._text.found else self._text.finish()
        self.put(
            replace(
                last, text=last.text + more, finish_reason=self.reason or "length", stop_text=self._text.found,
                cached_tokens=self._cached,
            )
        )  # fmt: skip

    async def _opens(self, think: int) -> bool:
        """Whether the reply begins with `<think>`: its first token is asked for alone."""
        constrained = self.request.constraint is not None
        chunks = [chunk async for chunk in self._chunks("allowed" if constrained else "none", 1)]
        opens = [i for chunk in chunks for i in chunk.ids] == [think]
        # The first token of a constrained answer is drawn again, now without <think> among the choices: that is the
        # distribution which this one came from, and the grammar then holds from the beginning.
        if opens or not constrained:
            for chunk in chunks:
                self._take(chunk, partly=True)
        return opens

    async def _think(self, answer: int) -> None:
        """Until `</think>`, which is put behind the budget where it has not come."""
        more: dict[str, Any] = {"stop_token_ids": sorted({*self._stops, answer}), "min_tokens": 0}
        if self.request.constraint is not None:  # what has to be answered can't end here
            more["stop_token_ids"] = [answer]
            biases = {**self.request.sampling.logit_bias, **{i: FORBIDDEN for i in self._stops}}
            more["logit_bias"] = {str(i): bias for i, bias in biases.items()}
        if budget := min(self.request.thinking_budget or 0, self._left):
            await self._part(None, budget, more)
        if self.reason is None and self.tokens[-1:] != [answer] and self._left:
            ending = list(self.request.thinking_end or (answer,))[: self._left]
            self._take(Chunk(ending, [TokenLogprob(token, 0.0, 0.0, []) for token in ending]), partly=True)

    @property
    def _left(self) -> int:
        return self.request.sampling.max_tokens - len(self.tokens)

    async def _part(
        self, thinking: Thinking | None, most: int | None = None, more: Mapping[str, Any] | None = None
    ) -> None:
        """What comes next, at most `most` tokens of it; nothing when the reply has ended."""
        if self.reason is not None or not self._left:
            return
        async with aclosing(self._chunks(thinking, most or self._left, more or {})) as chunks:
            async for chunk in chunks:
                self._take(chunk, partly=most is not None)
                if self.reason == "stop" and chunk.reason is None:
                    return  # the stop was found here first; leaving cancels the request

    def _take(self, chunk: Chunk, partly: bool) -> None:
        """Count tokens in and tell them; `partly`: that vLLM ends does not mean that the reply does."""
        text, ids = "", []
        for token in chunk.ids:
            ids.append(token)
            if token in self._stops:
                self.reason = "stop"
                break
            text += self._text.push(token)
            if self._text.found:
                self.reason = "stop"
                break
        self.tokens += ids
        if self.reason is None:
            if not self._left or (chunk.reason == "length" and not partly):
                self.reason = "length"
            elif chunk.reason is not None and not partly:
                self.reason = "stop"
        scores = chunk.scores[: len(ids)]
        self.logprob += sum(score.logprob for score in scores)
        event = self._event(ids, text, scores)
        if self.reason is None:
            self.put(event)
        else:
            self._last = event

    def _event(self, ids: list[int], text: str, scores: list[TokenLogprob]) -> Event:
        prompt, self._prompt_scores = self._prompt_scores, None
        shown = scores if self.request.logprobs is not None else None
        return Event(
            self.request.id, self.sample, ids, text, shown, prompt_tokens=len(self.request.prompt),
            cached_tokens=self._cached, prompt_logprobs=prompt,
        )  # fmt: skip

    async def _chunks(
        self, thinking: Thinking | None, most: int, more: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """At most `most` tokens behind what there is, as they come. `thinking`: where a constraint's answer begins;
        None leaves the constraint out."""
        request, place = self.request, self.place
        lark = None
        if request.constraint is not None and thinking is not None:
            lark = lark_of(request.constraint, place.tokenizer.specials, thinking)
        seed = seed_of(request, self.sample, self._parts)
        body = asked(request, place.model, [*request.prompt, *self.tokens], len(self.tokens), most, seed, lark)
        self._parts += 1
        body |= more or {}
        if not body["stream"]:
            answer = await place.http.post("/v1/completions", json=body)
            if answer.status_code != 200:
                raise refusal(answer.status_code, answer.text, lark is not None)
            self.accepted()
            found = answer.json()
            (choice,) = found["choices"]
            count = request.prompt_logprobs or 0
            if self._prompt_scores is None and self.sample == 0:
                self._prompt_scores = prompt_scores_of(choice["prompt_logprobs"], body["prompt"], count)
            self._count(found.get("usage"))
            yield _chunk(choice, request)
            return
        async with place.http.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode("utf-8", "replace")
                raise refusal(response.status_code, text, lark is not None)
            if lark is None:
                self.accepted()
            ended = False
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                found = json.loads(line[6:])
                if "error" in found:
                    raise _failure(found, begun=bool(self.tokens), grammar=lark is not None)
                self.accepted()  # grammars are refused late, behind the status
                self._count(found.get("usage"))
                for choice in found["choices"]:
                    ended = ended or choice.get("finish_reason") is not None
                    yield _chunk(choice, request)
            if not ended:
                raise EngineDied("vLLM broke off while it worked on this; try again soon.")

    def _count(self, usage: Mapping[str, Any] | None) -> None:
        details = (usage or {}).get("prompt_tokens_details") or {}
        if self._parts == 1:
            self._cached = details.get("cached_tokens") or 0


def _chunk(choice: Mapping[str, Any], request: Request) -> Chunk:
    ids = choice.get("token_ids")
    if ids is None:
        raise EngineDied("This vLLM does not tell the ids of its tokens: version 0.11 or later is needed.")
    reason = choice.get("finish_reason")
    if reason not in (None, "stop", "length"):
        raise ReplyFailed(f"vLLM ended the reply with {reason!r:.100}.")
    return Chunk(list(ids), scores_of(choice.get("logprobs"), request.logprobs or 0), reason)


def refusal(status: int, text: str, grammar: bool = False) -> QwillError:
    """What vLLM's answer with an error means for the one who asked. `grammar`: whether one was sent."""
    try:
        message = _message(json.loads(text))
    except ValueError:
        message = text[:300]
    if status in (400, 404, 413, 422):
        if grammar and "grammar" in message.lower():  # what is malformed was refused before it got there
            message = f"{message.removesuffix('.')}; for structured outputs it needs the back-end guidance"
        return DataError(f"vLLM refuses this: {message}")
    if status in (401, 403):
        return EngineDied("vLLM does not let this server in: give its key in the environment variable VLLM_API_KEY.")
    return EngineDied(f"vLLM can't answer now (status {status}): {message}")


def _failure(found: Mapping[str, Any], begun: bool, grammar: bool) -> QwillError:
    """Of an error in a stream, `begun` when there are tokens before it."""
    if begun:
        return ReplyFailed(_message(found))
    error = found["error"]
    code = error.get("code") if isinstance(error, dict) else None
    return refusal(code if isinstance(code, int) else 500, json.dumps(found), grammar)


def _message(found: Any) -> str:
    """The sentence in an error of vLLM's, whose shape has changed over time, or of Ray Serve's around it."""
    error = found.get("error", found) if isinstance(found, dict) else found
    said = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    text = " ".join(str(said or found).split())
    if wrapped := _WRAPPED.match(text):
        text = wrapped[1]
    return _REQUEST_ID.sub("", text)[:500]

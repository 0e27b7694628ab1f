"""POST /v1/completions: text or token ids continued as they stand, with log-probabilities of prompt and reply."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.responses import Response

from qwill.engine.request import Event, TokenLogprob
from qwill.serve.access import caller_of, note, service_of
from qwill.serve.constraints import checked, constraint_fields, only
from qwill.serve.errors import ApiError
from qwill.serve.fields import (
    STRIDE,
    Name,
    SamplingFields,
    StreamOptions,
    check_ids,
    engine_request,
    room,
    sampling_of,
)  # fmt: skip
from qwill.serve.raw_text import encode_raw
from qwill.serve.routes import answers, new_router
from qwill.serve.service import Job, Target
from qwill.serve.shapes import Answer, Usage, new_id, now, shown_token, usage
from qwill.serve.sse import DONE, EventStream, data, unless_gone
from qwill.text.tokenizer import StreamDecoder

router = new_router()
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Prompt = str | Ids | Annotated[list[str], Field(min_length=1, max_length=4096)] | Annotated[
    list[Ids], Field(min_length=1, max_length=4096)
]  # fmt: skip


class CompletionRequest(SamplingFields):
    model: Name
    prompt: Prompt = Field(description="a text, token ids, or a list of either")
    suffix: str | None = Field(default=None, description="not supported: only null and the empty text are taken")
    max_tokens: int | None = Field(
        default=None, ge=0, le=2**31, description="16 when left out; 0 with echo scores the prompt"
    )
    n: int | None = Field(default=None, ge=1, le=128)
    best_of: int | None = Field(default=None, ge=1, le=128)
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    add_special_tokens: bool | None = None


class Logprobs(Answer):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Answer):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(Answer):
    """A completion, or with `stream` the data of each event."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


@router.post("/v1/completions", **answers(Completion, Completion))
async def completions(body: CompletionRequest, request: Request) -> Response:
    """How prompts go on."""
    service = service_of(request)
    target = service.find_with_room(body.model)
    n = body.n or 1
    best_of = max(body.best_of or n, n)
    if body.suffix:
        raise ApiError(400, "suffix is not supported: this model continues text, it does not fill gaps.", "suffix")
    if body.best_of is not None and body.best_of < n:
        raise ApiError(400, f"best_of is {body.best_of} and n is {n}: best_of must not be smaller.", "best_of")
    if body.stream and best_of > n:
        raise ApiError(400, "best_of can't be streamed: which replies are best is known at the end.", "best_of")
    call_id, prompts = new_id("cmpl-"), _prompts(body, target)
    wanted = only(constraint_fields(body))
    constraint = await checked(wanted) if wanted else None
    requests = []
    for i, (prompt, param) in enumerate(prompts):
        left = room(prompt, target.info, param)
        most = 16 if body.max_tokens is None else body.max_tokens
        sampling = sampling_of(body, {}, max(1, min(left, most)))
        requests.append(
            engine_request(
                f"{call_id}-{i}",
                prompt,
                body,
                sampling,
                target.info,
                n,
                best_of=best_of,
                adapter=target.adapter,
                constraint=constraint,
                logprobs=body.logprobs,
                stream=i,
                prompt_logprobs=body.logprobs if body.echo else None,
                stride=1 if body.stream else STRIDE,
            )
        )
    note(request, model=target.name, prompts=len(prompts))
    texts = [_text(body, target, i, prompt) for i, (prompt, _) in enumerate(prompts)]
    run = _Run(body, target, call_id, [prompt for prompt, _ in prompts], texts, n)
    job = await service.job(target, requests, caller_of(request))
    if body.stream:
        return EventStream(run.stream(job), job.close)
    async with job:
        return JSONResponse(await unless_gone(request, run.whole(job)))


def _prompts(body: CompletionRequest, target: Target) -> list[tuple[list[int], str]]:
    """Every prompt as ids, with the name of the field that it stands in."""
    given: Any = body.prompt
    single = isinstance(given, str) or isinstance(given[0], int)
    tokenizer, found = target.info.tokenizer, []
    for i, prompt in enumerate([given] if single else given):
        param = "prompt" if single else f"prompt[{i}]"
        if isinstance(prompt, str):
            ids = encode_raw(tokenizer, prompt, body.add_special_tokens is not False)
            # A document begins after this mark.
            ids = ids or [i for name, i in tokenizer.specials.items() if name == "<|endoftext|>"]
            if not ids:
                raise ApiError(400, f"{param} is empty; give a text of at least one character.", param)
        else:
            ids = list(prompt)
            check_ids(ids, target.info, param)
        found.append((ids, param))
    return found


def _text(body: CompletionRequest, target: Target, place: int, prompt: list[int]) -> str:
    given: Any = body.prompt
    if isinstance(given, str):
        return given
    if isinstance(given[0], str):
        return str(given[place])
    return target.info.tokenizer.decode(prompt, skip_special=False) if body.echo else ""


class _Choice:
    """One completion as it grows; `take` gives the text and log-probabilities that are new."""

    def __init__(self, run: _Run, prompt: int) -> None:
        self.run, self.prompt = run, prompt
        self.text, self.reason = "", ""
        self.decoder = StreamDecoder(run.target.info.tokenizer, skip_special=False)
        self.offset = 0
        self.logprobs = _no_logprobs()

    def begin(self, scores: Sequence[TokenLogprob | None] | None) -> tuple[str, dict[str, Any] | None]:
        """The prompt itself, for `echo`."""
        self.text = self.run.texts[self.prompt]
        if self.run.body.logprobs is None:
            return self.text, None
        entries = zip(self.run.prompts[self.prompt], scores or [], strict=False)
        return self.text, self._note([(token, score) for token, score in entries])

    def take(self, event: Event) -> tuple[str, dict[str, Any] | None]:
        if event.finish_reason is not None:
            self.reason = "length" if event.finish_reason == "length" else "stop"
        if self.run.body.max_tokens == 0:
            self.reason = "length"
            return "", None
        self.text += event.text
        if self.run.body.logprobs is None:
            return event.text, None
        return event.text, self._note([(entry.token, entry) for entry in event.logprobs or ()])

    def _note(self, entries: list[tuple[int, TokenLogprob | None]]) -> dict[str, Any]:
        tokenizer, new = self.run.target.info.tokenizer, _no_logprobs()
        for token, score in entries:
            shown = shown_token(tokenizer, token)
            new["tokens"].append(shown)
            new["text_offset"].append(self.offset)
            self.offset += len(self.decoder.push(token))
            new["token_logprobs"].append(None if score is None else _finite(score.logprob))
            if score is None:
                new["top_logprobs"].append(None)
                continue
            top = {shown_token(tokenizer, t): _finite(value) for t, value in score.top}
            # OpenAI's always holds the token itself, so that a reader can tell whether it was the best.
            new["top_logprobs"].append(top | {shown: _finite(score.logprob)})
        for name, values in new.items():
            self.logprobs[name] += values
        return new


def _no_logprobs() -> dict[str, list[Any]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _finite(logprob: float) -> float:
    return max(logprob, -9999.0)  # JSON has no infinity


class _Run:
    """All completions of one call."""

    def __init__(
        self, body: CompletionRequest, target: Target, call_id: str, prompts: list[list[int]], texts: list[str], n: int
    ) -> None:
        self.body, self.target, self.call_id, self.created = body, target, call_id, now()
        self.prompts, self.texts, self.n = prompts, texts, n
        self.choices = [_Choice(self, i) for i in range(len(prompts)) for _ in range(n)]
        self.begun: set[int] = set()
        self.reply_tokens = 0
        self.cached_of: dict[int, int] = {}  # tokens of each prompt that were found in the cache

    async def parts(self, job: Job) -> AsyncIterator[tuple[int, str, dict[str, Any] | None]]:
        """(index of the choice, new text, its log-probabilities)."""
        scores: dict[int, Sequence[TokenLogprob | None]] = {}
        async for place, event in job.events():
            self.cached_of[place] = max(self.cached_of.get(place, 0), event.cached_tokens)
            if event.prompt_logprobs is not None:
                scores[place] = event.prompt_logprobs
            index = place * self.n + event.sample
            choice = self.choices[index]
            if self.body.echo and index not in self.begun:
                self.begun.add(index)
                yield index, *choice.begin(scores.get(place))
            if self.body.max_tokens != 0:
                self.reply_tokens += len(event.token_ids)
            yield index, *choice.take(event)

    def _shown(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.call_id, "object": "text_completion", "created": self.created, "model": self.target.name}
        return {**head, "choices": choices}

    def _usage(self) -> dict[str, Any]:
        return usage(sum(map(len, self.prompts)), self.reply_tokens, sum(self.cached_of.values()))

    async def whole(self, job: Job) -> dict[str, Any]:
        async for _ in self.parts(job):
            pass
        wants = self.body.logprobs is not None
        choices = [
            {"index": i, "text": c.text, "logprobs": c.logprobs if wants else None, "finish_reason": c.reason}
            for i, c in enumerate(self.choices)
        ]
        return {**self._shown(choices), "usage": self._usage()}

    async def stream(self, job: Job) -> AsyncIterator[bytes]:
        options = self.body.stream_options
        wants_usage = bool(options and options.include_usage)
        more = {"usage": None} if wants_usage else {}
        held: dict[int, dict[str, Any]] = {}
        async for index, text, logprobs in self.parts(job):
            reason = self.choices[index].reason or None
            if logprobs is not None:  # of tokens whose text is not out yet: they wait for it
                waiting = held.pop(index, None)
                logprobs = {k: waiting[k] + v for k, v in logprobs.items()} if waiting else logprobs
            if not text and reason is None:
                if logprobs is not None:
                    held[index] = logprobs
                continue
            choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
            yield data({**self._shown([choice]), **more})
        if wants_usage:
            yield data({**self._shown([]), "usage": self._usage()})
        yield DONE

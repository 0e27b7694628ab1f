"""POST /v1/embeddings: the last token's hidden state, of length 1; computed among everyone's tokens."""

from __future__ import annotations

import base64
import math
from array import array
from typing import Annotated, Any, Literal

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.responses import Response

from qwill.engine.request import Request as EngineRequest
from qwill.engine.sampling import Sampling
from qwill.serve.access import caller_of, note, service_of
from qwill.serve.completions import Ids
from qwill.serve.errors import ApiError
from qwill.serve.fields import Body, Name, check_ids, room
from qwill.serve.raw_text import framed
from qwill.serve.routes import answers, new_router
from qwill.serve.service import Service, Target
from qwill.serve.shapes import Answer, new_id
from qwill.serve.sse import unless_gone

router = new_router()
AT_ONCE = 32  # texts that wait in the engine at a time, so that a long list does not fill its queue
Text = Annotated[str, Field(min_length=1)]
Input = Text | Ids | Annotated[list[Text], Field(min_length=1, max_length=2048)] | Annotated[
    list[Ids], Field(min_length=1, max_length=2048)
]  # fmt: skip


class EmbeddingRequest(Body):
    model: Name
    input: Input = Field(description="a text, token ids, or a list of either")
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(
        default=None, ge=1, description="only the first so many numbers, made length 1 again"
    )
    user: str | None = None


class Embedding(Answer):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Answer):
    """Vectors in the order of the input."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


@router.post("/v1/embeddings", **answers(EmbeddingList))
async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """Vectors of texts."""
    service = service_of(request)
    target = service.find_with_room(body.model)
    width = target.info.dimensions
    if body.dimensions is not None and body.dimensions > width:
        raise ApiError(400, f"dimensions is {body.dimensions}, but this model's vectors have {width}.", "dimensions")
    prompts = _prompts(body, target)
    tokens = sum(map(len, prompts))
    note(request, model=target.name, prompts=len(prompts), prompt_tokens=tokens)
    caller = caller_of(request)
    if caller is not None:
        caller.reserve(tokens)
    try:
        vectors = await unless_gone(request, _embed(service, target, prompts))
    finally:
        if caller is not None:
            caller.finish(tokens)
    shown = [
        {"object": "embedding", "index": i, "embedding": _written(vector[: body.dimensions], body)}
        for i, vector in enumerate(vectors)
    ]
    counts = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "model": target.name, "data": shown, "usage": counts})


def _prompts(body: EmbeddingRequest, target: Target) -> list[list[int]]:
    given: Any = body.input
    single = isinstance(given, str) or isinstance(given[0], int)
    prompts = []
    for i, text in enumerate([given] if single else given):
        param = "input" if single else f"input[{i}]"
        tokenizer = target.info.tokenizer
        # A model made for this has an end of its own, at which the vector is taken.
        ids = framed(tokenizer, tokenizer.encode(text)) if isinstance(text, str) else list(text)
        check_ids(ids, target.info, param)
        room(ids, target.info, param)
        prompts.append(ids)
    return prompts


async def _embed(service: Service, target: Target, prompts: list[list[int]]) -> list[list[float]]:
    vectors: dict[int, list[float]] = {}
    for start in range(0, len(prompts), AT_ONCE):
        some = [
            EngineRequest(new_id("embd-"), prompt, Sampling(max_tokens=1), adapter=target.adapter, embed=True)
            for prompt in prompts[start : start + AT_ONCE]
        ]
        async with await service.job(target, some) as job:
            async for place, event in job.events():
                if event.embedding is not None:
                    vectors[start + place] = event.embedding
    return [vectors[i] for i in range(len(prompts))]


def _written(vector: list[float], body: EmbeddingRequest) -> list[float] | str:
    if body.dimensions is not None:
        length = math.sqrt(sum(x * x for x in vector)) or 1.0
        vector = [x / length for x in vector]
    if body.encoding_format != "base64":
        return vector
    return base64.b64encode(array("f", vector).tobytes()).decode("ascii")

"""A stand-in for `vllm serve`: its routes, refusals and shapes (of 0.11 to 0.32), our engine making the tokens; and for
Ray Serve LLM (2.60) around it.

As a program it is called as vLLM is: `vllm serve FOLDER --served-model-name NAME --port PORT …`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.responses import Response

from qwill.base.errors import DataError
from qwill.engine import constraint as constraint_module
from qwill.engine.constraint import Constraint
from qwill.engine.request import Event, TokenLogprob
from qwill.engine.request import Request as Work
from qwill.engine.sampling import Sampling
from qwill.serve.client import EngineClient

_strictly = constraint_module._check_lark
# What reaches vLLM has been checked, and then holds options for llguidance that no client may give.
constraint_module._check_lark = lambda text: None if "x-guidance" in text else _strictly(text)

NO_LARK = "Invalid grammar specification: Failed to convert the grammar from GBNF to Lark."
METRICS = """# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0",model_name="tiny"}} 0.25
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="tiny"}} {running}
# HELP vllm:generation_tokens Number of generation tokens processed.
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{{engine="0",model_name="tiny"}} {tokens}
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{block_size="128",num_gpu_blocks="64"}} 1.0
# HELP vllm:spec_decode_num_accepted_tokens_total Number of accepted tokens.
# TYPE vllm:spec_decode_num_accepted_tokens_total counter
vllm:spec_decode_num_accepted_tokens_total{{engine="0",model_name="tiny"}} 30.0
# HELP vllm:request_queue_time_seconds_sum Histogram of time spent in WAITING phase for request.
# TYPE vllm:request_queue_time_seconds_sum untyped
vllm:request_queue_time_seconds_sum{{engine="0",model_name="tiny"}} 1.5
"""


class Fake:
    """`client`: of the engine; `key`: the one that is asked for; `tells_ids`: of tokens, which old versions don't;
    `ray`: to be Ray Serve; `reads_lark`: whether its back-end of structured outputs does; `cut`: of how many events a
    stream breaks off."""

    def __init__(
        self, client: EngineClient, name: str, key: str = "", tells_ids: bool = True, ray: bool = False,
        reads_lark: bool = True, cut: int | None = None,
    ) -> None:  # fmt: skip
        self.client, self.name, self.key, self.tells_ids = client, name, key, tells_ids
        self.ray, self.reads_lark, self.cut, self.there = ray, reads_lark, cut, True
        self.asked: list[dict[str, Any]] = []

    def app(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            await self.client.ready()
            self.loop = asyncio.get_running_loop()
            yield
            await self.client.close()

        async def authenticated(request: Request) -> None:
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                raise HTTPException(401, "Unauthorized")

        app = FastAPI(lifespan=lifespan, dependencies=[Depends(authenticated)])
        app.get("/v1/models")(self.models)
        if self.ray:
            app.get("/-/healthz")(lambda: PlainTextResponse("success"))
        else:
            app.get("/metrics")(self.metrics)
        app.post("/v1/completions")(self.completions)
        if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            app.post("/v1/load_lora_adapter")(self.load)
            app.post("/v1/unload_lora_adapter")(self.unload)
        return app

    async def models(self) -> dict[str, Any]:
        info = await self.client.ready()
        if self.ray:
            while not self.there:  # it holds what no replica can take
                await asyncio.sleep(0.1)
            return {"object": "list", "data": [self.card({}), *[self.card({"base_model_id": self.name, "bucket_uri": f,
                "model_id": f"{self.name}:{n}"}) for n, f in self.client.adapters.items()]]}  # fmt: skip
        base = {"id": self.name, "object": "model", "root": self.name, "parent": None, "max_model_len": info.context}
        loras = [{"id": n, "object": "model", "root": f, "parent": self.name} for n, f in self.client.adapters.items()]
        return {"object": "list", "data": [base, *loras]}

    def card(self, more: dict[str, Any]) -> dict[str, Any]:
        told = {"model_id": self.name, "input_modality": "text", "max_request_context_length": 1000, **more}
        return {"id": told["model_id"], "object": "model", "owned_by": "organization-owner", "permission": [],
            "metadata": told}  # fmt: skip

    async def metrics(self) -> PlainTextResponse:
        return PlainTextResponse(METRICS.format(**asdict(self.client.stats)))

    async def load(self, request: Request) -> Response:
        body = await request.json()
        try:
            await self.client.load_adapter(body["lora_name"], body["lora_path"])
        except DataError as error:
            return self.refused(400, "BadRequestError", str(error))
        return PlainTextResponse(f"Success: LoRA adapter '{body['lora_name']}' added successfully.")

    async def unload(self, request: Request) -> Response:
        await self.client.unload_adapter((await request.json())["lora_name"])
        return PlainTextResponse("Success")

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        info = await self.client.ready()
        if self.ray:
            body = {**body, "model": body["model"].removeprefix(f"{self.name}:")}
        if body["model"] != self.name and body["model"] not in self.client.adapters:
            return self.refused(404, "NotFoundError", f"The model `{body['model']}` does not exist.")
        if body["stream"] and body.get("prompt_logprobs") is not None:
            return self.refused(400, "BadRequestError", "`prompt_logprobs` are not available when `stream=True`.")
        if not body["stream"] and "stream_options" in body:
            return self.refused(400, "BadRequestError", "Stream options can only be defined when `stream=True`.")
        if len(body["prompt"]) + body["max_tokens"] > info.context:
            return self.refused(400, "BadRequestError", f"This model's maximum is {info.context} tokens.")
        try:
            work = self.work(body)
        except Exception as error:
            return self.refused(400, "BadRequestError", str(error))
        if work.constraint is not None and not self.reads_lark:  # found late, behind the status
            late = {"error": {"message": NO_LARK, "type": "BadRequestError", "param": None, "code": 400}}
            return StreamingResponse(iter([sse(late), "data: [DONE]\n\n"]), media_type="text/event-stream")
        stream = self.client.submit(work)
        try:
            await stream.accepted()
        except DataError as error:
            return self.refused(400, "BadRequestError", str(error))
        if not body["stream"]:
            events = [event async for event in stream]
            return JSONResponse({"id": "cmpl-1", "choices": [self.choice(body, events)], "usage": usage(events)})

        async def lines() -> AsyncIterator[str]:
            events: list[Event] = []
            async for event in stream:
                events.append(event)
                if len(events) == self.cut:
                    return
                if event.finish_reason == "error":
                    yield sse({"error": {"message": "Internal server error", "code": 500}})
                    break
                if event.token_ids or event.finish_reason:
                    yield sse({"id": "cmpl-1", "choices": [self.choice(body, [event])]})
            yield sse({"id": "cmpl-1", "choices": [], "usage": usage(events)}) + "data: [DONE]\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream", background=None)

    def refused(self, status: int, kind: str, message: str) -> JSONResponse:
        if self.ray:
            if kind == "NotFoundError":
                return JSONResponse({"detail": message}, status)
            kind, number = "OpenAIHTTPException", "(Request ID: 5e1c)"
            message = f"Message: {message} {number}, Internal exception: x.{kind} {number}, original exception: "
        return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)

    def work(self, body: dict[str, Any]) -> Work:
        number = len(self.asked)
        info = self.client.info
        assert info is not None
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty")
        sampling = Sampling(
            max_tokens=body["max_tokens"], min_tokens=body["min_tokens"], frequency_penalty=body["frequency_penalty"],
            logit_bias={int(i): bias for i, bias in body.get("logit_bias", {}).items()}, **{n: body[n] for n in names},
        )  # fmt: skip
        stops = set(body["stop_token_ids"]) | (set() if body["ignore_eos"] else set(info.stop_ids))
        grammar = (body.get("structured_outputs") or {}).get("grammar")
        return Work(
            f"cmpl-{number}", list(body["prompt"]), sampling, seed=body["seed"], stop_ids=frozenset(stops),
            stop=tuple(body["stop"]), constraint=Constraint("lark", grammar) if grammar else None,
            logprobs=body.get("logprobs"), prompt_logprobs=body.get("prompt_logprobs"),
            adapter=body["model"] if body["model"] != self.name else None, priority=-body.get("priority", 0),
        )  # fmt: skip

    def choice(self, body: dict[str, Any], events: list[Event]) -> dict[str, Any]:
        last = events[-1]
        ids = [i for event in events for i in event.token_ids]
        scores = [score for event in events for score in event.logprobs or ()]
        shown = {"index": 0, "text": "".join(e.text for e in events), "finish_reason": last.finish_reason}
        shown["stop_reason"] = last.stop_text  # type: ignore[assignment]
        if self.tells_ids:
            shown["token_ids"] = ids  # type: ignore[assignment]
        if body.get("logprobs") is not None:
            shown["logprobs"] = {  # type: ignore[assignment]
                "tokens": [name(score.token) for score in scores],
                "token_logprobs": [score.logprob for score in scores],
                "top_logprobs": [top(score) for score in scores],
                "text_offset": [0] * len(scores),
            }
        if body.get("prompt_logprobs") is not None:
            found = next(event.prompt_logprobs for event in events if event.prompt_logprobs is not None)
            shown["prompt_logprobs"] = [  # type: ignore[assignment]
                None
                if one is None
                else {
                    str(i): {"logprob": value, "rank": 1, "decoded_token": ""}
                    for i, value in {**dict(one.top), one.token: one.logprob}.items()
                }
                for one in found
            ]
        return shown


def name(token: int) -> str:
    return f"token_id:{token}"


def top(score: TokenLogprob) -> dict[str, float]:
    """The token's own, and then the likeliest."""
    return {name(score.token): score.logprob, **{name(i): value for i, value in score.top}}


def usage(events: list[Event]) -> dict[str, Any]:
    tokens, cached = sum(len(e.token_ids) for e in events), max((e.cached_tokens for e in events), default=0)
    prompt = max((e.prompt_tokens for e in events), default=0)
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": cached}}


def sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def main() -> None:
    import uvicorn

    from qwill.serve.engine_process import EngineOptions, load_engine

    assert sys.argv[1] == "serve"
    folder, given = sys.argv[2], dict(zip(sys.argv[3::1], sys.argv[4::1], strict=False))
    if not (Path(folder) / "config.json").exists():
        sys.exit("fake vllm: no such model")
    sys.path.insert(0, str(Path(__file__).parent))
    from serving import ThreadClient

    client = ThreadClient(partial(load_engine, EngineOptions(folder, threads=1)))
    fake = Fake(client, given["--served-model-name"], os.environ["VLLM_API_KEY"])
    uvicorn.run(fake.app(), host="127.0.0.1", port=int(given["--port"]), log_level="warning")


if __name__ == "__main__":
    main()

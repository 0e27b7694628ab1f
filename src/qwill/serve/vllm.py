"""vLLM in our engine's place: a `vllm serve` started on the same folder, or one (or Ray Serve's) that runs already.

It is asked over HTTP for one reply at a time, token ids both ways (vllm_reply.py), so that text, stop strings, thinking
budgets, constraints and tools are ours, the same as before our own engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qwill.base.errors import DataError, ModelError, QwillError
from qwill.engine.request import EngineStats, Event, Request
from qwill.serve.client import LONGEST_PAUSE, STEADY, EngineDied, Stream
from qwill.serve.vllm_listing import Listing, read_listing
from qwill.serve.vllm_model import folder_info
from qwill.serve.vllm_process import VllmOptions, end, free_port, start
from qwill.serve.vllm_reply import Place, Reply, ReplyFailed, refusal
from qwill.serve.wire import Accepted, ModelInfo

if TYPE_CHECKING:
    import httpx

WATCH = 2.0  # seconds between two looks at vLLM
FIRST = 20.0  # seconds that a vLLM which should run already may take to answer
LISTING = 10.0  # seconds for one answer about its models
log = logging.getLogger("qwill.serve")
_SAMPLE = re.compile(r"^(vllm:[a-z_]+)(?:\{([^}]*)\})? (\S+)", re.M)


class VllmClient:
    """As `client.EngineClient`, which says what the methods are for. All of them belong to the event loop's thread."""

    def __init__(self, options: VllmOptions) -> None:
        self.options = options
        self.info: ModelInfo | None = None
        self.restarts = 0
        self.adapters: dict[str, str] = {}
        self._wanted = dict(options.adapters)
        self._ready: asyncio.Future[ModelInfo] | None = None
        self._life: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._http: httpx.AsyncClient | None = None
        self._listing = Listing(options.name, None, {}, {}, False)
        self._up = self._closed = False
        self._streams: dict[str, Stream] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._begun: set[tuple[str, int]] = set()
        self._cache = EngineStats()

    @property
    def alive(self) -> bool:
        return self._up

    @property
    def process_id(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def stats(self) -> EngineStats:
        """What runs is what has begun to answer, so that it needs no asking; the cache is as vLLM last told."""
        asked = sum(max(s.request.n, s.request.best_of) for s in self._streams.values())
        running = min(len(self._begun), asked)
        return replace(self._cache, running=running, waiting=asked - running)

    def spawn(self) -> None:
        self._ready = asyncio.get_running_loop().create_future()
        self._ready.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._life = asyncio.get_running_loop().create_task(self._live())

    async def ready(self) -> ModelInfo:
        if self._ready is None:
            self.spawn()
        assert self._ready is not None
        return await asyncio.shield(self._ready)

    def submit(self, request: Request) -> Stream:
        if not self._up:
            raise EngineDied("vLLM is being started again; try again in a while.")
        stream = Stream(self, request)
        self._streams[request.id] = stream
        self._tasks[request.id] = asyncio.get_running_loop().create_task(self._work(stream))
        return stream

    def forget(self, stream: Stream) -> None:
        """Leaving the connection is what cancels a request in vLLM."""
        request = stream.request
        if self._streams.pop(request.id, None) is not None:
            stream.open = 0
            self._begun -= {(request.id, sample) for sample in range(max(request.n, request.best_of))}
            task = self._tasks.pop(request.id, None)
            if task is not None:
                task.cancel()

    async def call(self, method: str, *arguments: Any) -> Any:
        if method == "load_adapter":
            return await self._post("/v1/load_lora_adapter", lora_name=arguments[0], lora_path=arguments[1])
        if method == "unload_adapter":
            return await self._post("/v1/unload_lora_adapter", lora_name=arguments[0])
        raise DataError(f"vLLM can't {method.replace('_', ' ')}.")

    async def load_adapter(self, name: str, folder: str) -> None:
        await self.call("load_adapter", name, folder)
        self.adapters[name] = self._wanted[name] = folder

    async def unload_adapter(self, name: str) -> None:
        await self.call("unload_adapter", name)
        self.adapters.pop(name, None)
        self._wanted.pop(name, None)

    async def own_metrics(self) -> str:
        """What vLLM itself tells Prometheus; nothing while it does not answer."""
        import httpx

        if self._http is None or not self._up:
            return ""
        with contextlib.suppress(httpx.HTTPError):
            answer = await self._http.get("/metrics", timeout=2.0)
            if answer.status_code == 200:
                return answer.text
        return ""

    async def close(self) -> None:
        self._closed, self._up = True, False
        if self._life is not None:
            self._life.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._life
        self._fail_all(EngineDied("The server is shutting down."))

    # -- requests

    async def _work(self, stream: Stream) -> None:
        """All samples of a request, into its inbox."""
        import httpx

        try:
            await self._samples(stream)
        except ReplyFailed as error:
            event = Event(stream.request.id, 0, [], "", finish_reason="error", error=str(error))
            stream.inbox.put_nowait(event)
        except QwillError as error:
            stream.inbox.put_nowait(error)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            log.warning("vllm", extra={"fields": {"error": f"{type(error).__name__}: {error}"[:300]}})
            stream.inbox.put_nowait(EngineDied("vLLM broke off while it worked on this; try again soon."))

    async def _samples(self, stream: Stream) -> None:
        request, info = stream.request, self.info
        if request.embed:
            raise DataError("vLLM makes replies here and no embeddings; serve a model for them without --engine vllm.")
        assert self._http is not None and info is not None
        model = self._listing.model
        if request.adapter is not None:
            model = self._listing.adapters.get(request.adapter, request.adapter)
        place = Place(self._http, model, info.tokenizer)
        told = False

        def accepted() -> None:
            nonlocal told
            if not told:
                told = True
                stream.inbox.put_nowait(Accepted(request.id))

        def put(event: Event) -> None:
            self._begun.add((request.id, event.sample))
            if event.finish_reason is not None:
                self._begun.discard((request.id, event.sample))
            stream.inbox.put_nowait(event)

        count = max(request.n, request.best_of)
        kept: list[list[Event]] = [[] for _ in range(count)]
        puts = [put if count == request.n else kept[i].append for i in range(count)]
        replies = [Reply(place, request, i, accepted, puts[i]) for i in range(count)]
        tasks = [asyncio.create_task(reply.run()) for reply in replies]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if count > request.n:
            best = sorted(range(count), key=lambda i: -replies[i].logprob / max(1, len(replies[i].tokens)))
            scores = kept[0][0].prompt_logprobs
            for sample, i in enumerate(best[: request.n]):
                put(_whole(kept[i], sample, scores if sample == 0 else None))

    async def _post(self, path: str, **body: Any) -> None:
        import httpx

        if self._http is None or not self._up:
            raise EngineDied("vLLM is being started again; try again in a while.")
        try:
            answer = await self._http.post(path, json=body, timeout=600.0)
        except httpx.HTTPError as error:
            raise EngineDied("vLLM does not answer; try again soon.") from error
        if answer.status_code == 404 and "does not exist" not in answer.text:
            if self._listing.ray:
                raise DataError(
                    f"Ray Serve finds adapters by itself: put {body['lora_name']} into its dynamic_lora_loading_path."
                )
            raise DataError(
                "this vLLM does not change its adapters while it runs; start it with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
            )
        if answer.status_code != 200:
            raise refusal(answer.status_code, answer.text)

    # -- vLLM's life

    async def _live(self) -> None:
        """Start vLLM, or find it, and again when it ends. The first failure is told by `ready`, and is the last."""
        assert self._ready is not None
        pause = 0.0
        while not self._closed:
            born = time.monotonic()
            try:
                await self._begin()
                await self._until_gone()
            except QwillError as error:
                if not self._ready.done():
                    self._ready.set_exception(error)
                    return
                log.error("vllm", extra={"fields": {"error": str(error)}})
            finally:
                self._up = False
                if self._process is not None:
                    await asyncio.shield(end(self._process))
                    self._process = None
                if self._http is not None:
                    self._fail_all(EngineDied("vLLM stopped while it worked on this; it is being started again."))
                    await self._http.aclose()
                    self._http = None
            pause = 0.0 if time.monotonic() - born > STEADY else min(LONGEST_PAUSE, 2 * pause + 0.25)
            self.restarts += 1
            log.error("vllm is gone", extra={"fields": {"restarts": self.restarts, "pause": pause}})
            await asyncio.sleep(pause)

    async def _begin(self) -> None:
        import httpx

        options, url, key = self.options, self.options.url, os.environ.get("VLLM_API_KEY", "")
        if url is None:
            port, key = free_port(), secrets.token_urlsafe(24)
            self._process = await start(options, port, key)
            url = f"http://127.0.0.1:{port}"
        # As many connections as requests: how many may run is decided before they get here.
        self._http = httpx.AsyncClient(
            base_url=url.removesuffix("/").removesuffix("/v1"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(None, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,
        )
        self._read_listing(await self._until_listed(), url)
        self.info = self.info or folder_info(options.folder, self._listing.context)
        self._up = True
        for name, folder in list(self._wanted.items()):
            if name not in self.adapters:
                await self.load_adapter(name, folder)
        assert self._ready is not None
        if not self._ready.done():
            self._ready.set_result(self.info)

    def _read_listing(self, listed: list[dict[str, Any]], url: str) -> None:
        self._listing = read_listing(listed, self.options.name, url)
        self.adapters = dict(self._listing.folders)

    async def _until_listed(self) -> list[dict[str, Any]]:
        """The models that vLLM serves, as soon as it answers."""
        began = time.monotonic()
        while True:
            if (listed := await self._listed()) is not None:
                return listed
            if self._process is not None and self._process.returncode is not None:
                code = self._process.returncode
                raise ModelError(f"vLLM ended with status {code} before it could answer; what it said stands above.")
            if self._process is None and time.monotonic() - began > FIRST:
                raise ModelError(await self._why_silent())
            await asyncio.sleep(0.2)

    async def _why_silent(self) -> str:
        """Ray Serve's proxy lets requests wait as long as no replica is there, but tells of itself."""
        import httpx

        assert self._http is not None
        url = self.options.url
        with contextlib.suppress(httpx.HTTPError):
            if (await self._http.get(self._http.base_url.join("/-/healthz"), timeout=5.0)).status_code == 200:
                return f"Ray Serve at {url} has no replica that answers yet: wait until `serve status` says RUNNING."
        return f"nothing answers at {url}: start vLLM there, or leave --engine-url out to have it started."

    async def _listed(self) -> list[dict[str, Any]] | None:
        import httpx

        assert self._http is not None
        try:
            answer = await self._http.get("/v1/models", timeout=LISTING)
            if answer.status_code in (401, 403):
                raise ModelError(str(refusal(answer.status_code, "{}")))
            if answer.status_code != 200:
                return None
            return [entry for entry in answer.json()["data"] if isinstance(entry, dict) and "id" in entry]
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None

    async def _until_gone(self) -> None:
        ending = asyncio.create_task(self._process.wait()) if self._process is not None else None
        missed = 0
        try:
            while True:
                if ending is not None:
                    await asyncio.wait({ending}, timeout=WATCH)
                    if ending.done():
                        return
                else:
                    await asyncio.sleep(WATCH)
                    # A server that answers nothing for some seconds is gone; busy ones answer late.
                    listed = await self._listed()
                    missed = 0 if listed is not None else missed + 1
                    if missed == 3:
                        return
                    if listed is not None and self._listing.ray:  # where adapters come and go by themselves
                        self._read_listing(listed, self.options.url or "")
                self._read_cache(await self.own_metrics())
        finally:
            if ending is not None:
                ending.cancel()

    def _read_cache(self, text: str) -> None:
        found = {name: (labels, value) for name, labels, value in _SAMPLE.findall(text)}
        used = found.get("vllm:kv_cache_usage_perc") or found.get("vllm:gpu_cache_usage_perc")
        blocks = re.search(r'num_gpu_blocks="(\d+)"', found.get("vllm:cache_config_info", ("", ""))[0])
        if used is None or blocks is None:
            return
        total = int(blocks[1])
        counts = (
            "num_preemptions", "prefix_cache_hits", "spec_decode_num_draft_tokens", "spec_decode_num_accepted_tokens",
        )  # fmt: skip
        preempted, hits, drafted, accepted = (
            int(float(found.get(f"vllm:{name}_total", ("", "0"))[1])) for name in counts
        )
        free = total - round(float(used[1]) * total)
        self._cache = EngineStats(
            blocks_free=free, blocks_total=total, preemptions=preempted, cached_tokens=hits,
            drafted=drafted, accepted=accepted,
        )  # fmt: skip

    def _fail_all(self, error: EngineDied) -> None:
        streams, self._streams = list(self._streams.values()), {}
        tasks, self._tasks = list(self._tasks.values()), {}
        self._begun.clear()
        for task in tasks:
            task.cancel()
        for stream in streams:
            stream.inbox.put_nowait(error)


def _whole(events: list[Event], sample: int, prompt_scores: Any) -> Event:
    """A reply's events as one, told as that of another sample."""
    last = events[-1]
    scores = [score for event in events for score in event.logprobs or ()]
    return replace(
        last, sample=sample, token_ids=[i for event in events for i in event.token_ids],
        text="".join(event.text for event in events), logprobs=None if last.logprobs is None else scores,
        prompt_logprobs=prompt_scores,
    )  # fmt: skip

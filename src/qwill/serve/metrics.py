"""Prometheus metrics under vLLM's names, so that dashboards made for vLLM show this server too."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One server's counters, apart from those of other servers in the same process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(name, what, ["model_name"], registry=self.registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(name, what, ["model_name", *labels], registry=self.registry)

        def histogram(name: str, what: str) -> Histogram:
            return Histogram(name, what, ["model_name"], registry=self.registry, buckets=SECONDS)

        self.running = gauge("vllm:num_requests_running", "Samples that the engine works on.")
        self.waiting = gauge("vllm:num_requests_waiting", "Samples that wait for the engine.")
        self.usage = gauge("vllm:kv_cache_usage_perc", "Share of the KV cache's blocks in use; 1 is all.")
        self.blocks_free = gauge("qwill:kv_cache_blocks_free", "Blocks of the KV cache that are free.")
        self.blocks_total = gauge("qwill:kv_cache_blocks", "Blocks of the KV cache.")
        self.restarts = gauge("qwill:engine_restarts", "How often the engine process has been started again.")
        self.process = gauge("qwill:engine_process_id", "The engine process's id; 0 while there is none.")
        self.preemptions = counter("vllm:num_preemptions", "Samples that were put back for want of blocks.")
        self.drafted = counter("vllm:spec_decode_num_draft_tokens", "Tokens that were drafted.")
        self.drafts_accepted = counter("vllm:spec_decode_num_accepted_tokens", "Drafted tokens that came.")
        self.prompt_tokens = counter("vllm:prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = counter("vllm:generation_tokens", "Tokens generated.")
        self.cache_queries = counter("vllm:prefix_cache_queries", "Tokens of prompts looked up in the prefix cache.")
        self.cache_hits = counter("vllm:prefix_cache_hits", "Tokens of prompts found in the prefix cache.")
        self.success = counter("vllm:request_success", "Samples that ended, by reason.", "finished_reason")
        self.first = histogram("vllm:time_to_first_token_seconds", "From the request's arrival to its first token.")
        self.between = histogram("vllm:inter_token_latency_seconds", "Between two tokens of a sample.")
        self.per_token = histogram("vllm:time_per_output_token_seconds", "The same, under vLLM's older name.")
        self.whole = histogram("vllm:e2e_request_latency_seconds", "From the request's arrival to its end.")
        self.http = Counter(
            "http_requests", "Answers by route and status.", ["method", "handler", "status"], registry=self.registry
        )

        # What engines had counted when we last looked, by (model, how many times started again).
        self._counted: dict[tuple[str, int], list[int]] = {}
        # (second, model, generated, prompt tokens) of the last few seconds, for the page.
        self._recent: deque[tuple[float, str, int, int]] = deque(maxlen=20_000)

    def rates(self, model: str, seconds: float = 5.0) -> tuple[float, float]:
        """Tokens generated and tokens of prompts taken in a second, on the average of the last few."""
        since = time.monotonic() - seconds
        recent = [entry for entry in self._recent if entry[0] > since and entry[1] == model]
        return sum(e[2] for e in recent) / seconds, sum(e[3] for e in recent) / seconds

    def prompt(self, model: str, tokens: int, cached: int) -> None:
        self._recent.append((time.monotonic(), model, 0, tokens))
        self.prompt_tokens.labels(model).inc(tokens)
        self.cache_queries.labels(model).inc(tokens)
        self.cache_hits.labels(model).inc(cached)

    def tokens(self, model: str, count: int, seconds: float, first: bool) -> None:
        self._recent.append((time.monotonic(), model, count, 0))
        self.generation_tokens.labels(model).inc(count)
        if first:
            self.first.labels(model).observe(seconds)
            return
        for _ in range(min(count, 64)):
            self.between.labels(model).observe(seconds / count)
            self.per_token.labels(model).observe(seconds / count)

    def finished(self, model: str, reason: str, seconds: float) -> None:
        self.success.labels(model, reason).inc()
        self.whole.labels(model).observe(seconds)

    def text(self, models: Iterable[object]) -> bytes:
        """All metrics in Prometheus' text format. `models`: ServedModel, read for how their engines stand now."""
        for model in models:
            name, client = model.name, model.client  # type: ignore[attr-defined]
            stats = client.stats
            used = 1 - stats.blocks_free / stats.blocks_total if stats.blocks_total else 0.0
            values = [
                (self.running, stats.running),
                (self.waiting, max(stats.waiting, model.in_flight - stats.running)),  # type: ignore[attr-defined]
                (self.usage, used),
                (self.blocks_free, stats.blocks_free),
                (self.blocks_total, stats.blocks_total),
                (self.restarts, client.restarts),
                (self.process, client.process_id or 0),
            ]
            for metric, value in values:
                metric.labels(name).set(value)
            now = [stats.preemptions, stats.drafted, stats.accepted]
            before = self._counted.get((name, client.restarts), [0] * len(now))
            counters = self.preemptions, self.drafted, self.drafts_accepted
            for counted, value, known in zip(counters, now, before, strict=True):
                counted.labels(name).inc(value - known if value >= known else value)  # less: it began anew
            self._counted[name, client.restarts] = now
        return generate_latest(self.registry)


def merged(ours: str, theirs: str) -> str:
    """Prometheus' text of two sources; a metric that both have is as ours has it."""
    known = {line.split()[2] for line in ours.splitlines() if line.startswith("# TYPE ")}
    kept, keeps = [], False
    for line in theirs.splitlines():
        if line.startswith("# HELP "):
            keeps = line.split()[2] not in known
        if keeps and line:
            kept.append(line + "\n")
    return ours + "".join(kept)

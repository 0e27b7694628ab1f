"""The first token of a prompt that is largely cached, and how soon a server is ready.

    .venv/bin/python benchmarks/serve_first_token.py [--model smollm2]

Prompts of 512 token ids through /v1/completions, streamed: the first 400 are either the same as in a request before, or
new. Cached and uncached alternate; the time runs from sending the request to the first event with text. `usage` must
say how many tokens came from the cache. Readiness: from starting the process to the first 200 of /health, the model's
file in the page cache, several starts. Claims: at least 3 times quicker; ready within 3 seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time

import httpx
from compare import spread, verdict, write_section
from serve_process import Server, serving

PROMPT, SHARED = 512, 400


def first_token(server: Server, client: httpx.Client, prompt: list[int]) -> tuple[float, int]:
    """Seconds to the first event with a choice, and how many of the prompt's tokens came from the cache."""
    body = {
        "model": server.models()[0]["id"], "prompt": prompt, "max_tokens": 2, "temperature": 0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    begun, seconds, cached = time.perf_counter(), 0.0, 0
    with client.stream("POST", server.url + "/v1/completions", json=body) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                if event["choices"] and not seconds:
                    seconds = time.perf_counter() - begun
                if event.get("usage"):
                    cached = (event["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return seconds, cached


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--options", default="", help="more options of `qwill serve`")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    draw, ready = random.Random(0), []
    for _ in range(arguments.starts):
        with serving(arguments.model, *arguments.options.split(), threads=arguments.threads) as server:
            ready.append(server.ready_seconds)

    def ids(count: int) -> list[int]:
        return [draw.randrange(1000, 40000) for _ in range(count)]

    new, known = [], []
    with (
        serving(arguments.model, *arguments.options.split(), threads=arguments.threads) as server,
        httpx.Client(timeout=300) as client,
    ):
        shared = ids(SHARED)
        first_token(server, client, shared + ids(PROMPT - SHARED))
        for _ in range(arguments.rounds):
            seconds, cached = first_token(server, client, ids(PROMPT))
            assert cached < 16, f"{cached} tokens of a new prompt came from the cache"
            new.append(seconds)
            seconds, cached = first_token(server, client, shared + ids(PROMPT - SHARED))
            assert cached >= SHARED - 16, f"only {cached} of {SHARED} shared tokens came from the cache"
            known.append(seconds)
    ratios = [a / b for a, b in zip(new, known, strict=True)]
    quick, soon = statistics.median(ratios) >= 3, statistics.median(ready) <= 3
    body = (
        f"{arguments.model} {arguments.options}: first token of {PROMPT} tokens after "
        f"{1000 * statistics.median(new):.0f} ms, after {1000 * statistics.median(known):.0f} ms when the first "
        f"{SHARED} are cached: {spread(ratios)}. "
        f"{verdict('3×', quick)}\n\nReady {statistics.median(ready):.2f} s after the start (median of {len(ready)}, "
        f"{min(ready):.2f} to {max(ready):.2f}). {verdict('3 s', soon)}"
    )
    print(body)
    if not arguments.dry:
        write_section("First token and readiness", body)
    return int(not (quick and soon))


if __name__ == "__main__":
    sys.exit(main())

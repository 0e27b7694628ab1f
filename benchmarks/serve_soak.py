"""Ten thousand requests of every kind against one server: no leak, no wrong reply, no stuck stream; a killed engine.

    .venv/bin/python benchmarks/serve_soak.py [--requests 10000] [--clients 32]

A tiny random model with two adapters. First each of a set of prompts is asked for alone: those are the known replies
(greedy; prompts on whose way the two likeliest tokens come closer than 1e-3 are left out, so that no rounding can
change them). Then `--clients` clients draw at random: a reply as a whole or streamed, with a stop string, of an
adapter, several samples, a stream that is cancelled, a connection that is dropped before the first byte, a prompt
longer than the context, impossible values, broken JSON, adapters unloaded and loaded. Each reply is compared.

Afterwards the engine process is killed while streams are open and others wait: each of them must get an error, and the
server must answer as before soon after. Claim: nothing wrong, nothing stuck, no block lost, memory of the last third no
more than 3 % above that of the second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from compare import verdict, write_section
from serve_models import write_adapters, write_random
from serve_process import Server, serving

CONTEXT = 512
NEAR = 1e-3  # two tokens closer than this could change places when sums are added up in another order
DEADLINE = 120.0  # seconds after which a request counts as stuck
WORDS = ["the", "river", "ran", "over", "old", "stones", "while", "月亮", "rose", "and", "nobody", "昨天", "spoke"]


@dataclass(frozen=True)
class Known:
    """A prompt with what is said to it greedily, by which model."""

    model: str
    prompt: str
    max_tokens: int
    text: str

    @property
    def body(self) -> dict[str, Any]:
        return {"model": self.model, "prompt": self.prompt, "max_tokens": self.max_tokens, "temperature": 0}


@dataclass
class Tally:
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def growth(self) -> float:
        """Memory of the last third of the run over that of the second, minus 1."""
        third = len(self.memory) // 3
        if not third:
            return 0.0
        return statistics.median(self.memory[2 * third :]) / statistics.median(self.memory[third : 2 * third]) - 1


def expect(condition: bool, what: object) -> None:
    if not condition:
        raise AssertionError(str(what)[:400])


def prompts(count: int, seed: int = 0) -> list[str]:
    """Texts of 20 to 250 characters, many of which begin alike."""
    draw = random.Random(seed)
    beginnings = [" ".join(draw.choices(WORDS, k=20)) for _ in range(4)]
    begun = [draw.choice(beginnings)[: draw.randrange(20, 110)] for _ in range(count)]
    return [f"{text} {' '.join(draw.choices(WORDS, k=draw.randrange(1, 25)))}" for text in begun]


async def known_replies(client: httpx.AsyncClient, models: list[str], count: int) -> list[Known]:
    """`count` replies of each model, asked for one at a time."""
    known: list[Known] = []
    for model in models:
        kept = 0
        for prompt in prompts(3 * count):
            length = 4 + (7 * kept) % 60
            body = {"model": model, "prompt": prompt, "max_tokens": length, "temperature": 0, "logprobs": 2}
            answer = await client.post("/v1/completions", json=body)
            expect(answer.status_code == 200, answer.text)
            choice = answer.json()["choices"][0]
            tops = [sorted(top.values()) for top in choice["logprobs"]["top_logprobs"]]
            if choice["text"] and all(len(top) > 1 and top[-1] - top[-2] > NEAR for top in tops):
                known.append(Known(model, prompt, length, choice["text"]))
                kept += 1
            if kept == count:
                break
        expect(kept == count, f"{model}: only {kept} of {count} prompts have a clear reply")
    return known


async def events(response: httpx.Response) -> Any:
    """The JSON of each server-sent event, up to [DONE]; raises if the stream ends without."""
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line[6:])
    raise AssertionError("the stream ended without [DONE]")


async def whole(client: httpx.AsyncClient, known: Known, draw: random.Random) -> None:
    answer = await client.post("/v1/completions", json=known.body)
    expect(answer.status_code == 200, answer.text)
    expect(answer.json()["choices"][0]["text"] == known.text, (answer.json()["choices"][0], known))


async def streamed(client: httpx.AsyncClient, known: Known, draw: random.Random) -> None:
    text = ""
    async with client.stream("POST", "/v1/completions", json=known.body | {"stream": True}) as response:
        expect(response.status_code == 200, response.status_code)
        async for event in events(response):
            expect("error" not in event, event)
            text += event["choices"][0]["text"] if event["choices"] else ""
    expect(text == known.text, (text, known))


async def cancelled(client: httpx.AsyncClient, known: Known, draw: random.Random) -> None:
    """Hang up after some events; what has come must be how the known reply begins."""
    text, left = "", draw.randrange(1, 12)
    async with client.stream("POST", "/v1/completions", json=known.body | {"stream": True}) as response:
        async for event in events(response):
            text += event["choices"][0]["text"] if event["choices"] else ""
            left -= 1
            if not left:
                break
    expect(known.text.startswith(text), (text, known))


async def dropped(client: httpx.AsyncClient, known: Known, draw: random.Random) -> None:
    """Send the request and close the connection, sometimes in the middle of the body."""
    _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    body = json.dumps(known.body | {"stream": bool(draw.getrandbits(1)), "n": draw.choice([1, 1, 3])}).encode()
    lines = ["POST /v1/completions HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines) + "\r\n\r\n"
    sent = len(body) if draw.random() < 0.7 else draw.randrange(len(body))
    writer.write(head.encode() + body[:sent])
    await writer.drain()
    await asyncio.sleep(draw.random() * 0.05)
    writer.close()


async def stopped(client: httpx.AsyncClient, known: Known, draw: random.Random) -> None:
    """A stop string out of the reply, wherever token borders lie in it."""
    start = draw.randrange(len(known.text))
    stop = known.text[start : start + draw.randrange(1, 5)]
    if "�" in stop:  # half a character cannot be asked for
        return await whole(client, known, draw)
    body = known.body | {"stop": [stop, "never ever said"], "stream": bool(draw.getrandbits(1))}
    text, reason = "", None
    async with client.stream("POST", "/v1/completions", json=body) as response:
        expect(response.status_code == 200, response.status_code)
        if body["stream"]:
            async for event in events(response):
                for choice in event["choices"]:
                    text, reason = text + choice["text"], choice["finish_reason"] or reason
        else:
            choice = json.loads(await response.aread())["choices"][0]
            text, reason = choice["text"], choice["finish_reason"]
    expect(text == known.text.partition(stop)[0] and reason == "stop", (text, reason, stop, known))


async def several(client: httpx.AsyncClient, known: Known, draw: random.Random) -> None:
    answer = await client.post("/v1/completions", json=known.body | {"n": 3, "prompt": [known.prompt, known.prompt]})
    expect(answer.status_code == 200, answer.text)
    texts = [c["text"] for c in answer.json()["choices"]]
    expect(texts == [known.text] * 6, (texts, known))


async def sampled(client: httpx.AsyncClient, known: Known, draw: random.Random) -> None:
    """Two requests with one seed say the same."""
    body = known.body | {"temperature": 1.3, "seed": draw.randrange(1 << 30), "top_p": 0.9}
    one, other = await asyncio.gather(*[client.post("/v1/completions", json=body) for _ in range(2)])
    expect(one.json()["choices"][0]["text"] == other.json()["choices"][0]["text"], (one.text, other.text))


async def oversize(client: httpx.AsyncClient, known: Known, draw: random.Random) -> None:
    prompt = known.prompt * (1 + draw.randrange(CONTEXT, 40 * CONTEXT) // len(known.prompt))
    answer = await client.post("/v1/completions", json=known.body | {"prompt": prompt})
    expect(answer.status_code == 400 and str(CONTEXT) in answer.json()["error"]["message"], answer.text)


async def broken(client: httpx.AsyncClient, known: Known, draw: random.Random) -> None:
    bad = draw.choice([{"temperature": -1}, {"n": 10**9}, {"top_p": 7}, {"max_tokens": "many"}, {"stop": [""]}, None])
    content = json.dumps(known.body | bad) if bad else json.dumps(known.body)[: draw.randrange(1, 40)]
    answer = await client.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
    expect(answer.status_code == 400 and answer.json()["error"]["message"], (bad, answer.text))


async def switched(client: httpx.AsyncClient, known: Known, draw: random.Random, folders: dict[str, Path]) -> None:
    """Load an adapter under a new name, ask it for what its twin says, unload it; afterwards it is unknown."""
    name = draw.choice(sorted(folders))
    new = f"{name}-{draw.getrandbits(60):x}"
    answer = await client.post("/v1/load_lora_adapter", json={"lora_name": new, "lora_path": str(folders[name])})
    expect(answer.status_code == 200, answer.text)
    if known.model == name:
        answer = await client.post("/v1/completions", json=known.body | {"model": new})
        expect(answer.status_code == 200 and answer.json()["choices"][0]["text"] == known.text, (answer.text, known))
    answer = await client.post("/v1/unload_lora_adapter", json={"lora_name": new})
    expect(answer.status_code == 200, answer.text)
    answer = await client.post("/v1/completions", json=known.body | {"model": new})
    expect(answer.status_code == 404, answer.text)


KINDS = {
    whole: 25, streamed: 25, cancelled: 12, dropped: 8, stopped: 12, several: 4, sampled: 4, oversize: 4, broken: 4,
    switched: 2,
}  # fmt: skip


async def soak(
    server: Server, folders: dict[str, Path], requests: int, clients: int, seed: int = 0, replies: int = 24
) -> Tally:
    """`requests` random requests by `clients` clients at a time. Raises AssertionError where no known reply is had."""
    tally, started = Tally(), time.monotonic()
    kinds = [kind for kind in KINDS if folders or kind is not switched]
    limits = httpx.Limits(max_connections=2 * clients + 8, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE, limits=limits) as client:
        known = await known_replies(client, [m["id"] for m in server.models()], replies)
        jobs = iter(range(requests))

        async def one_client() -> None:
            for number in jobs:
                draw = random.Random(seed * requests + number)
                (kind,) = draw.choices(kinds, [KINDS[k] for k in kinds])
                more = {"folders": folders} if kind is switched else {}
                try:
                    async with asyncio.timeout(DEADLINE):
                        await kind(client, draw.choice(known), draw, **more)
                except (TimeoutError, httpx.TimeoutException):
                    tally.stuck.append(f"request {number}, {kind.__name__}")
                except (AssertionError, httpx.HTTPError, KeyError, ValueError) as error:
                    tally.wrong.append(f"request {number}, {kind.__name__}: {type(error).__name__}: {error}")
                tally.done[kind.__name__] += 1
                if number % max(1, requests // 60) == 0:
                    tally.memory.append(server.resident_bytes())
                if number % 1000 == 999:
                    print(
                        f"{number + 1} requests, {len(tally.wrong)} wrong, {len(tally.stuck)} stuck, "
                        f"{tally.memory[-1] / 2**20:.0f} MiB", flush=True,
                    )  # fmt: skip

        await asyncio.gather(*[one_client() for _ in range(clients)])
    tally.seconds = time.monotonic() - started
    return tally


async def kill(server: Server, clients: int) -> dict[str, float]:
    """Kill the engine process under `clients` open streams and as many whole replies that are waited for.

    Returns how many of them got an error, how many had been answered whole before, and the seconds to the last of them
    and until a known reply came again.
    """
    limits = httpx.Limits(max_connections=4 * clients)
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE, limits=limits) as client:
        (known,) = await known_replies(client, [server.models()[0]["id"]], 1)
        body = known.body | {"max_tokens": CONTEXT - 300, "ignore_eos": True, "temperature": 1}
        flowing = asyncio.Event()

        async def one(stream: bool, number: int) -> str:
            given = body | {"stream": stream, "seed": number, "n": 4}
            async with client.stream("POST", "/v1/completions", json=given) as response:
                if not stream:
                    answer = json.loads(await response.aread())
                    if response.status_code == 200:
                        ended = len([c for c in answer["choices"] if c["finish_reason"] == "length"])
                        return "whole" if ended == 4 else "cut"
                    return "told" if response.status_code >= 500 and answer["error"]["message"] else "cut"
                ended = 0
                async for line in response.aiter_lines():
                    flowing.set()
                    if line.startswith("data: {"):
                        event = json.loads(line[6:])
                        if "error" in event:
                            return "told" if event["error"]["message"] else "cut"
                        ended += any(choice["finish_reason"] for choice in event["choices"])
                    elif line == "data: [DONE]" and ended == 4:
                        return "whole"
            return "told" if response.status_code >= 500 else "cut"

        before = server.engine_pid()
        tasks = [asyncio.create_task(one(i % 2 == 0, i)) for i in range(2 * clients)]
        await asyncio.wait_for(flowing.wait(), DEADLINE)
        os.kill(before, signal.SIGKILL)
        killed = time.monotonic()
        told = await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE)
        last_error = time.monotonic() - killed
        while True:
            answer = await client.post("/v1/completions", json=known.body)
            if answer.status_code == 200:
                break
            expect(answer.status_code == 503 and time.monotonic() < killed + DEADLINE, answer.text)
            await asyncio.sleep(0.1)
        expect(answer.json()["choices"][0]["text"] == known.text, answer.text)
        expect(server.engine_pid() != before, "the same process")
        return {
            "open": len(tasks) - told.count("whole"), "told": told.count("told"), "last_error": last_error,
            "again": time.monotonic() - killed,
        }  # fmt: skip


def adapter_options(folders: dict[str, Path]) -> list[str]:
    """What `qwill serve` is told about adapters; nothing when there are none."""
    given = [word for name, path in folders.items() for word in ("--adapter", f"{name}={path}")]
    return [*given, *["--allow-adapter-loading"] * bool(folders)]


def blocks_lost(server: Server) -> float:
    """Blocks that are neither free nor reusable when nothing runs."""
    now = server.metrics()
    return now["qwill:kv_cache_blocks"] - now["qwill:kv_cache_blocks_free"]


def report(tally: Tally, lost: float, idle: bool, died: dict[str, float], clients: int) -> str:
    kinds = ", ".join(f"{n} {kind}" for kind, n in tally.done.most_common())
    first, last = tally.memory[len(tally.memory) // 3], tally.memory[-1]
    met = not (tally.wrong or tally.stuck or lost) and idle and tally.growth < 0.03 and died["told"] == died["open"]
    lines = [
        f"{sum(tally.done.values())} requests by {clients} clients in {tally.seconds:.0f} s ({kinds}): "
        f"{len(tally.wrong)} wrong, {len(tally.stuck)} stuck, {lost:.0f} blocks lost, "
        f"{'idle' if idle else 'NOT idle'} at the end; memory of server and engine {first / 2**20:.0f} MiB after a "
        f"third, {last / 2**20:.0f} MiB at the end ({100 * tally.growth:+.1f} % from the second to the last third).",
        f"Engine process killed under {died['open']:.0f} requests: {died['told']:.0f} of them got an error, the last "
        f"after {died['last_error']:.2f} s; a reply, and the right one, {died['again']:.1f} s after the kill.",
        *[f"- {what}" for what in [*tally.wrong[:10], *tally.stuck[:10]]],
        verdict("no leak, no wrong reply, no stuck stream; a killed engine is told and restarted", met),
    ]
    return "\n\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--adapters", type=int, default=2, help="that are served beside the model and switched")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = write_random(Path(folder) / "base", CONTEXT)
        adapters = write_adapters(base, Path(folder), arguments.adapters)
        folders = {f"adapter-{i}": path for i, path in enumerate(adapters)}
        with serving(base, *adapter_options(folders)) as server:
            tally = asyncio.run(soak(server, folders, arguments.requests, arguments.clients, arguments.seed))
            idle = server.becomes_idle()
            lost = blocks_lost(server)
            died = asyncio.run(kill(server, 8))
    body = report(tally, lost, idle, died, arguments.clients)
    print(body)
    if not arguments.dry:
        write_section("Ten thousand requests", body)
    return int("MISSED" in body)


if __name__ == "__main__":
    sys.exit(main())

"""Many clients at once: the same replies as one at a time, and no collapse when more is asked than can be done.

    .venv/bin/python benchmarks/serve_load.py [--parts replies goodput steps] [--model smollm2]

1. 64 clients over HTTP with prompts of mixed lengths, a third of which begin alike, a fifth of the streams cancelled:
   every greedy reply is compared, token for token, with what the same server said when it was asked for nothing else.
   Where the two differ and the two likeliest tokens were within 1e-4 at that place, it is counted as a tie.
2. Goodput: tokens of replies that were finished, per second. Its peak is looked for with 8 to 64 clients that ask
   again as soon as they are answered; then requests arrive at random (Poisson) twice as often as they could be answered
   at the peak. Who is turned away with 429 does not come back. Claim: at least 90 % of the peak.
3. Latency between tokens, counted in steps of the engine (in this process, the same kinds of requests, arriving at
   twice the saturating load; also with too few blocks for them): 99th percentile under three times the median.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from compare import verdict, write_section
from serve_models import write_random
from serve_process import Server, serving
from serve_soak import WORDS, events, expect

TIE = 1e-4


@dataclass(frozen=True)
class Ask:
    prompt: str
    tokens: int
    cancel_after: int | None  # events after which the client hangs up

    def body(self, model: str) -> dict[str, Any]:
        return {
            "model": model, "prompt": self.prompt, "max_tokens": self.tokens, "temperature": 0, "ignore_eos": True,
            "stream": True,
        }  # fmt: skip


def asks(count: int, seed: int, longest: int, cancels: float = 0.2) -> list[Ask]:
    """Prompts of up to `longest` words, short ones more often; every third begins as others do."""
    draw = random.Random(seed)
    shared = [" ".join(draw.choices(WORDS, k=longest // 2)) for _ in range(3)]
    made = []
    for i in range(count):
        words = draw.choices(WORDS, k=1 + int(longest * draw.random() ** 2 / 2))
        prompt = " ".join(([draw.choice(shared)] if i % 3 == 0 else []) + words)
        cancel = draw.randrange(1, 10) if draw.random() < cancels else None
        made.append(Ask(prompt, draw.randrange(4, 65), cancel))
    return made


# -- the same replies


@dataclass
class Same:
    compared: int = 0
    tokens: int = 0
    ties: int = 0
    cancelled: int = 0
    different: int = 0


async def reply(client: httpx.AsyncClient, model: str, ask: Ask, cancel: bool) -> tuple[list[str], list[float]]:
    """Tokens of the reply and by how much each was likelier than the next one."""
    tokens: list[str] = []
    gaps: list[float] = []
    async with client.stream("POST", "/v1/completions", json=ask.body(model) | {"logprobs": 2}) as response:
        expect(response.status_code == 200, response.status_code)
        count = 0
        async for event in events(response):
            for choice in event["choices"]:
                held = choice.get("logprobs")
                if held:
                    tokens += held["tokens"]
                    for top in held["top_logprobs"]:
                        order = sorted(top.values(), reverse=True)
                        gaps.append(order[0] - order[1] if len(order) > 1 else 0.0)
            count += 1
            if cancel and count == ask.cancel_after:
                break
    return tokens, gaps


async def same_replies(server: Server, count: int, clients: int, longest: int) -> Same:
    given, model = asks(count, 1, longest), server.models()[0]["id"]
    limits = httpx.Limits(max_connections=clients + 4)
    found = Same()
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as client:
        alone = [await reply(client, model, ask, False) for ask in given]
        jobs = iter(range(count))

        async def one_client() -> None:
            for i in jobs:
                tokens, _ = await reply(client, model, given[i], True)
                (known, gaps) = alone[i]
                cut = given[i].cancel_after is not None
                found.cancelled += cut
                found.compared += 1
                found.tokens += len(tokens)
                if tokens == known or (cut and tokens == known[: len(tokens)]):
                    continue
                place = next((j for j, (a, b) in enumerate(zip(tokens, known, strict=False)) if a != b), len(tokens))
                if place < len(gaps) and gaps[place] <= TIE:
                    found.ties += 1
                else:
                    found.different += 1
                    print(f"reply {i} differs from token {place} on (gap {gaps[place : place + 1]})", flush=True)

        await asyncio.gather(*[one_client() for _ in range(clients)])
    return found


# -- goodput


@dataclass
class Window:
    """What was finished between two moments, by time.monotonic()."""

    begin: float
    end: float
    tokens: int = 0
    finished: int = 0
    refused: int = 0

    @property
    def goodput(self) -> float:
        return self.tokens / (self.end - self.begin)

    @property
    def rate(self) -> float:
        return self.finished / (self.end - self.begin)


async def once(client: aiohttp.ClientSession, model: str, ask: Ask, window: Window) -> None:
    """One request; its tokens count when it was finished within the window."""
    async with client.post("/v1/completions", json=ask.body(model)) as response:
        if response.status == 429:
            window.refused += window.begin <= time.monotonic() < window.end
            return
        expect(response.status == 200, response.status)
        count, last = 0, b""
        async for line in response.content:
            if not line.startswith(b"data: "):
                continue
            expect(not line.startswith(b'data: {"error"'), line)
            count, last = count + 1, line
            if count == ask.cancel_after:
                return
        expect(last == b"data: [DONE]\n", last)
    if window.begin <= time.monotonic() < window.end:
        window.tokens += ask.tokens
        window.finished += 1


def load_client(server: Server) -> aiohttp.ClientSession:
    """A client as light as there is in Python: it runs on the server's processors, and what it takes is taken from the
    goodput. (httpx took 2.2 ms for a request that is turned away, twice as much as the server.)"""
    time_out, connections = aiohttp.ClientTimeout(total=600), aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(server.url, timeout=time_out, connector=connections)


async def closed_loop(server: Server, clients: int, seconds: float, longest: int) -> Window:
    """`clients` that ask again as soon as they are answered; the first quarter is not counted."""
    model, started = server.models()[0]["id"], time.monotonic()
    window = Window(started + seconds / 4, started + seconds)
    given = asks(100_000 // longest, clients, longest)
    jobs = iter(given * 100)
    async with load_client(server) as client:

        async def one_client() -> None:
            while time.monotonic() < window.end:
                await once(client, model, next(jobs), window)

        await asyncio.gather(*[one_client() for _ in range(clients)])
    return window


async def open_loop(server: Server, rate: float, seconds: float, longest: int) -> Window:
    """Requests that arrive at random, `rate` a second, whatever becomes of them; the first quarter is not counted."""
    model, started, draw = server.models()[0]["id"], time.monotonic(), random.Random(0)
    window = Window(started + seconds / 4, started + seconds)
    jobs = iter(asks(100_000 // longest, 7, longest) * 100)
    async with load_client(server) as client:
        tasks = []
        arrival = started
        while (arrival := arrival + draw.expovariate(rate)) < window.end:
            await asyncio.sleep(max(0.0, arrival - time.monotonic()))
            tasks.append(asyncio.create_task(once(client, model, next(jobs), window)))
        for task in tasks:
            task.cancel()  # what is still waiting was not answered in time
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
    return window


# -- steps between tokens


def step_gaps(
    folder: Path, steps: int, longest: int, running: int, budget: int, blocks: int | None = None
) -> tuple[list[int], int]:
    """Steps between one token and the next of the same reply, requests arriving twice as fast as they can be served;
    and how often a reply was preempted, which happens where there are few `blocks`."""
    from qwill.engine.engine import Engine, EngineSettings
    from qwill.engine.language_model import load
    from qwill.engine.request import Request
    from qwill.engine.sampler import Sampling

    lm = load(str(folder))
    engine = Engine(lm.model, lm.tokenizer, EngineSettings(blocks=blocks, max_running=running, token_budget=budget))
    jobs = iter(asks(steps, 5, longest) * 10)
    mean_reply = statistics.mean(ask.tokens for ask in asks(steps, 5, longest))
    rate = 2 * running / mean_reply  # in each step, `running` tokens are made
    last: dict[tuple[str, int], int] = {}
    cancel_at: dict[str, int] = {}
    gaps: list[int] = []
    number, due = 0, 0.0
    for step in range(steps):
        due += rate
        while due >= 1:
            ask, name = next(jobs), f"r{number}"
            sampling = Sampling(max_tokens=ask.tokens, temperature=0)
            engine.add(Request(name, lm.tokenizer.encode(ask.prompt), sampling))
            if ask.cancel_after:
                cancel_at[name] = step + 3 * ask.cancel_after
            number, due = number + 1, due - 1
        for name in [n for n, when in cancel_at.items() if when == step]:
            engine.cancel(name)
        for event in engine.step():
            if event.token_ids:
                key = (event.request, event.sample)
                if key in last:
                    gaps.append(step - last[key])
                last[key] = step
    return gaps, engine.stats().preemptions


def describe_gaps(gaps: list[int], preemptions: int) -> tuple[str, bool]:
    order = sorted(gaps)
    middle, high = order[len(order) // 2], order[int(0.99 * len(order))]
    text = f"Steps between two tokens of a reply: median {middle}, 99th percentile {high}, most {order[-1]}"
    return f"{text} ({len(gaps)} counted, {preemptions} preemptions).", high < 3 * middle


# -- the three parts


def replies_part(arguments: argparse.Namespace, place: Path) -> tuple[str, bool]:
    lines, met = [], True
    for model, longest in ((str(write_random(place / "random", 1024)), 60), (arguments.model, 200)):
        with serving(model, "--dtype", "float32", threads=arguments.threads) as server:
            same = asyncio.run(same_replies(server, arguments.replies, arguments.clients, longest))
        met = met and same.different == 0
        lines.append(
            f"{Path(model).name}: {same.compared} replies, {same.tokens} tokens, by {arguments.clients} clients "
            f"({same.cancelled} cancelled): {same.different} differ from those asked for alone, {same.ties} more "
            f"at a tie (top two within {TIE})."
        )
        print(lines[-1], flush=True)
    return "\n\n".join([*lines, verdict("the same replies as one at a time", met)]), met


def goodput_part(arguments: argparse.Namespace, place: Path) -> tuple[str, bool]:
    with serving(arguments.model, threads=arguments.threads) as server:
        loads = {}
        for n in (8, 16, 32, 64):
            window = loads[n] = asyncio.run(closed_loop(server, n, arguments.seconds, 200))
            print(f"{n} clients: {window.goodput:.0f} tokens/s, {window.rate:.2f} replies/s", flush=True)
        best = max(loads, key=lambda n: loads[n].goodput)
        peak = loads[best]
        # Cancelled requests are part of the load, so the rate of arrivals is above that of finished replies.
        arrivals = 2 * peak.rate / 0.8
        over = asyncio.run(open_loop(server, arrivals, 2 * arguments.seconds, 200))
        idle = server.becomes_idle(60)
    text = (
        f"{arguments.model}: peak goodput {peak.goodput:.0f} tokens/s with {best} clients ("
        + ", ".join(f"{n}: {w.goodput:.0f}" for n, w in loads.items())
        + f"); with {arrivals:.1f} requests/s arriving, twice what it can do, {over.goodput:.0f} tokens/s: "
        f"**{100 * over.goodput / peak.goodput:.0f} %** of the peak, {over.refused} turned away with 429, "
        f"{'idle' if idle else 'NOT idle'} a minute after the last left."
    )
    met = over.goodput >= 0.9 * peak.goodput and idle
    return text + "\n\n" + verdict("at twice the saturating load 90 % of the peak", met), met


def steps_part(arguments: argparse.Namespace, place: Path) -> tuple[str, bool]:
    folder, lines, met = write_random(place / "random", 1024), [], True
    for running, budget, blocks, steps in ((16, 64, None, 4000), (64, 512, None, 1000), (64, 512, 80, 1000)):
        text, good = describe_gaps(*step_gaps(folder, steps, 60, running, budget, blocks))
        room = f", {blocks} blocks" if blocks else ""
        lines.append(f"{running} at once, {budget} tokens a step{room}: {text}")
        met = met and good
    return "\n\n".join([*lines, verdict("99th percentile under three medians", met)]), met


PARTS = {
    "replies": ("Replies under load", replies_part),
    "goodput": ("Goodput under load", goodput_part),
    "steps": ("Steps between tokens under load", steps_part),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", default="smollm2", help="for the goodput; the replies are compared on `random` too")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--replies", type=int, default=192, help="requests whose replies are compared, on each model")
    parser.add_argument("--seconds", type=float, default=60, help="of each load")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    all_met = True
    for name in arguments.parts:
        title, part = PARTS[name]
        with tempfile.TemporaryDirectory() as place:
            body, met = part(arguments, Path(place))
        print(body, flush=True)
        all_met = all_met and met
        if not arguments.dry:
            write_section(title, body)
    return int(not all_met)


if __name__ == "__main__":
    sys.exit(main())

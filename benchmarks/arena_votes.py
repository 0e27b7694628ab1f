"""100 voters at once cast 10,000 votes while the server is killed and started again: none is lost, none counted twice.

    python benchmarks/arena_votes.py [--votes 10000] [--voters 100] [--kills 5] [--write]

The real `qwill serve --arena` over three tiny random models, state in SQLite. Each voter has a cookie of its own,
begins battles, reads both replies and votes; now and then it sends a vote twice at once, as a double click does. The
server's process is killed (SIGKILL) at random moments and started anew. A request that got no answer is sent again,
as the page does; a battle that the server does not know (its answer was lost, so it was never voted on) is begun anew.

Each voter notes what it was told. In the end the log must hold every vote that was acknowledged, with its outcome, and
nothing else; its numbers have no gap and its chain holds; and the leaderboard that the server shows must be what a
replay of the log gives, to the last bit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from compare import verdict, write_section
from serve_models import write_random
from serve_process import children, free_port, wait_ready

OUTCOMES = ("a", "b", "tie", "both_bad")
MODELS = 3
PAUSE = 0.3  # seconds before a request without an answer is sent again


@dataclass
class Ledger:
    """What the voters know: battle → outcome of the votes that were acknowledged; and what happened on the way."""

    goal: int
    known: dict[str, str] = field(default_factory=dict)
    begun: int = 0  # votes that have been taken up
    happened: Counter[str] = field(default_factory=Counter)


class Process:
    """The server, which can be killed and started again on the same port and state."""

    def __init__(self, folder: Path, models: list[Path]) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [
            sys.executable, "-m", "qwill.cli.main", "serve", *map(str, models), "--arena", "--arena-limit", "0",
            "--arena-tokens", "2", "--threads", "1", "--port", str(self.port), "--queue", "1000",
            "--state", str(folder / "state.db"),
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        log = self.folder / "server.log"
        settings = {"QWILL_HOME": str(self.folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with open(log, "ab") as out:
            self.process = subprocess.Popen(
                self.command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=os.environ | settings
            )
        wait_ready(self.process, self.url + "/health", log, 600)

    def kill(self) -> None:
        below = children(self.process.pid)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for pid in below:  # engines end by themselves when their server is gone; the next start needn't wait for it
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Browser:
    """One connection with one cookie, kept open: the light end of HTTP/1.1 that 100 voters on one machine need."""

    def __init__(self, port: int, cookie: str = "") -> None:
        self.port, self.cookie = port, cookie
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """(status, body). Raises OSError or EOFError when the answer doesn't come whole."""
        if self.reader is None or self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        sent = b"" if body is None else json.dumps(body).encode()
        head = f"{method} /qwill/arena{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}\r\n"
        head += f"Content-Type: application/json\r\nCookie: {self.cookie}\r\n\r\n"
        try:
            self.writer.write(head.encode() + sent)
            await self.writer.drain()
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            if "set-cookie" in fields:
                self.cookie = fields["set-cookie"].partition(";")[0]
            if fields.get("transfer-encoding") == "chunked":
                text = b""
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    text += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readexactly(2)
            else:
                text = await self.reader.readexactly(int(fields["content-length"]))
            return int(lines[0].split()[1]), text.decode()
        except (OSError, EOFError):
            self.close()
            raise

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def send(browser: Browser, ledger: Ledger, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """Until there is a whole answer that is not the server's own trouble."""
    while True:
        try:
            status, text = await browser.request(method, path, body)
            if status < 500 and status != 429:
                return status, text
            ledger.happened[f"status {status}"] += 1
        except (OSError, EOFError):
            ledger.happened["no answer"] += 1
        await asyncio.sleep(PAUSE * (1 + random.random()))


async def read(browser: Browser, ledger: Ledger, battle: str, side: str) -> bool:
    """A reply to its end; False for a battle that the server does not know."""
    while True:
        status, text = await send(browser, ledger, "GET", f"/battles/{battle}/{side}")
        if status == 404:
            return False
        if '"finish_reason":"' in text and text.endswith("data: [DONE]\n\n"):
            return True
        ledger.happened["reply cut off"] += 1
        await asyncio.sleep(PAUSE)


async def vote_once(browser: Browser, ledger: Ledger, draw: random.Random) -> None:
    while True:
        _, made = await send(browser, ledger, "POST", "/battles", {"prompt": f"Question {draw.randrange(10**6)}?"})
        battle = json.loads(made)["id"]
        if await read(browser, ledger, battle, "a") and await read(browser, ledger, battle, "b"):
            break
        ledger.happened["battle begun anew"] += 1
    outcome = draw.choice(OUTCOMES)
    body = {"outcome": outcome, "consent": True}
    windows = [browser]
    if draw.random() < 0.05:  # a double click
        windows.append(Browser(browser.port, browser.cookie))
    answers = await asyncio.gather(*(send(one, ledger, "POST", f"/battles/{battle}/votes", body) for one in windows))
    for status, text in answers:
        if status not in (200, 201):
            raise SystemExit(f"a vote was refused: {status} {text}")
    if len(windows) == 2:
        windows[1].close()
        ledger.happened["sent twice"] += 1
    elif answers[0][0] == 200:
        ledger.happened["counted though its answer was lost"] += 1
    if sum(status == 201 for status, _ in answers) > 1:
        ledger.happened["COUNTED TWICE"] += 1
    ledger.known[battle] = outcome


async def voter(number: int, port: int, ledger: Ledger) -> None:
    draw, browser = random.Random(number), Browser(port)
    await send(browser, ledger, "GET", "")  # the cookie comes first, as with the page
    while ledger.begun < ledger.goal:
        ledger.begun += 1
        await vote_once(browser, ledger, draw)
    browser.close()


async def killer(server: Process, ledger: Ledger, kills: int, voting: asyncio.Event) -> None:
    draw = random.Random(0)
    for number in range(1, kills + 1):
        while len(ledger.known) < ledger.goal * number // (kills + 1) and not voting.is_set():
            await asyncio.sleep(0.02)
        if voting.is_set():
            return
        await asyncio.sleep(draw.random())
        await asyncio.to_thread(server.kill)
        ledger.happened["kills"] += 1
        await asyncio.to_thread(server.start)


async def campaign(server: Process, goal: int, voters: int, kills: int) -> tuple[Ledger, float]:
    ledger, done, began = Ledger(goal), asyncio.Event(), time.monotonic()
    killing = asyncio.create_task(killer(server, ledger, kills, done))
    await asyncio.gather(*(voter(i, server.port, ledger) for i in range(voters)))
    seconds = time.monotonic() - began
    done.set()
    await killing
    return ledger, seconds


def audit(database: Path, ledger: Ledger, shown: dict[str, Any]) -> dict[str, Any]:
    """What the log says beside what the voters know. Raises DataError for a log that is not whole."""
    from qwill.base.state import open_state, reading
    from qwill.evaluate.arena_standings import counted, standings
    from qwill.evaluate.votes import check_chain, replay
    from qwill.serve.arena_log import log_entries

    with reading(open_state(str(database))) as connection:
        entries = log_entries(connection, "local")
    check_chain(entries)
    votes = replay(entries)
    there = Counter(vote.battle for vote in votes)
    outcomes = {vote.battle: vote.outcome for vote in votes}
    again = standings(counted(votes), [row["model"] for row in shown["ratings"]], prior=0.1)
    return {
        "votes": len(votes),
        "lost": sum(outcomes.get(battle) != outcome for battle, outcome in ledger.known.items()),
        "twice": sum(count - 1 for count in there.values()) + ledger.happened["COUNTED TWICE"],
        "unknown": sum(battle not in ledger.known for battle in there),
        "same": json.dumps(again, sort_keys=True) == json.dumps({**shown, "through": None}, sort_keys=True).replace(
            ', "through": null', ""
        ),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--votes", type=int, default=10_000)
    parser.add_argument("--voters", type=int, default=100)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the section of RESULTS.md")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        models = [write_random(home / f"tiny-{i}", seed=i) for i in range(MODELS)]
        server = Process(home, models)
        ledger, seconds = asyncio.run(campaign(server, chosen.votes, chosen.voters, chosen.kills))
        shown = httpx.get(server.url + "/qwill/arena/leaderboard", timeout=120).json()
        server.stop()
        found = audit(home / "state.db", ledger, shown)
    print(json.dumps(found), json.dumps(ledger.happened), f"{seconds:.0f} s")
    met = (
        not (found["lost"] or found["twice"] or found["unknown"])
        and found["same"]
        and found["votes"] == len(ledger.known) == chosen.votes
        and ledger.happened["kills"] == chosen.kills
    )
    told = ", ".join(f"{what} {count:,}" for what, count in sorted(ledger.happened.items()) if what != "kills")
    body = (
        f"{chosen.voters} voters at once, {found['votes']:,} votes in {seconds:.0f} s "
        f"({found['votes'] / seconds:.0f} a second, each with its battle and two replies), server killed "
        f"{ledger.happened['kills']} times (SIGKILL) and started again. Acknowledged and missing from the log or "
        f"changed: {found['lost']}; counted twice: {found['twice']}; in the log and known to nobody: "
        f"{found['unknown']}. On the way: {told}. The log's numbers have no gap, its chain holds, and the leaderboard "
        f"shown is {'' if found['same'] else 'NOT '}that of a replay, to the last bit.\n\n"
        + verdict("no vote lost, none counted twice", met)
    )
    print(body)
    if chosen.write:
        write_section("Votes under kills of the server (benchmarks/arena_votes.py)", body)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

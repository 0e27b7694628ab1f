"""`qwill serve` as a process of its own, told to stop: streams end as their protocols have it, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
SECRET = "sesame"
TURNS = [{"role": "user", "content": SECRET}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from serve_models import write_random

    return write_random(tmp_path_factory.mktemp("models") / "random", 100_000)


@contextmanager
def process(folder: Path, home: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    program = "import sys; from qwill.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "serve", f"tiny={folder}", "--port", "0", "--json", "--threads", "1"]
    environment = {**os.environ, "QWILL_HOME": str(home)}
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def children(pid: int) -> set[int]:
    """Processes that a process has started, and those that they have."""
    found = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    parents = {int(a): int(b) for a, b in (line.split() for line in found.splitlines()[1:])}
    below, new = set[int](), {pid}
    while new := {child for child, parent in parents.items() if parent in new} - below:
        below |= new
    return below


def gone(pids: set[int], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}/stat").exists() and " Z " not in stat(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def stat(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return " Z "


# `ignore_eos` and a bias keep them busy; Anthropic's has neither, so its reply may end by itself.
LONG: dict[str, Any] = {"model": "tiny", "max_tokens": 90_000, "ignore_eos": True, "stream": True}
STREAMS = {
    "/v1/chat/completions": (LONG | {"messages": TURNS}, "data: [DONE]", "shutting_down"),
    "/v1/completions": (LONG | {"prompt": SECRET}, "data: [DONE]", "shutting_down"),
    "/v1/responses": (LONG | {"input": SECRET, "max_output_tokens": 90_000}, "response.failed", "shutting_down"),
    "/v1/messages": (LONG | {"messages": TURNS}, "event: ", ""),
}


def test_every_stream_ends_and_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    with process(folder, tmp_path, "--drain", "1") as server:
        assert server.stdout is not None and server.stderr is not None
        url = json.loads(server.stdout.readline())["url"]
        below = children(server.pid)
        assert below
        said: dict[str, str] = {}
        begun = {path: threading.Event() for path in (*STREAMS, "whole")}

        def listen(path: str) -> None:
            with httpx.stream("POST", url + path, json=STREAMS[path][0], timeout=60) as response:
                text = ""
                for piece in response.iter_text():
                    text += piece
                    begun[path].set()
                said[path] = text

        def wait() -> None:
            begun["whole"].set()
            ask = STREAMS["/v1/completions"][0] | {"stream": False}
            answer = httpx.post(url + "/v1/completions", json=ask, timeout=60, headers={"x-request-id": "mine"})
            said["whole"] = f"{answer.status_code} {answer.headers['retry-after']} {answer.text}"

        threads = [threading.Thread(target=listen, args=(path,)) for path in STREAMS] + [threading.Thread(target=wait)]
        for thread in threads:
            thread.start()
        assert all(event.wait(60) for event in begun.values())
        time.sleep(0.3)
        server.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert set(said) == {*STREAMS, "whole"}
        for path, (_, end, code) in STREAMS.items():
            last = said[path].rstrip("\n").split("\n\n")[-1]
            assert end in last, said[path][-300:]
            assert code in said[path]
        assert said["whole"].startswith("503 ") and "shutting_down" in said["whole"]
        assert server.wait(30) in (0, -signal.SIGTERM)
        assert gone(below), "the engine's process is still there"
        lines = [json.loads(line) for line in server.stderr.read().splitlines() if line.startswith("{")]
    told = [line for line in lines if line["event"] == "request"]
    assert sorted(line["path"] for line in told if line["method"] == "POST") == sorted([*STREAMS, "/v1/completions"])
    assert [line["status"] for line in told if line["id"] == "mine"] == [503]
    assert SECRET not in json.dumps(lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_while_it_loads_it_leaves_nothing(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    with process(folder, tmp_path) as server:
        end = time.monotonic() + 60
        while not (below := children(server.pid)):
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(0.2)
        server.send_signal(number)
        assert server.wait(40) == 128 + number
        assert gone(below)
        assert server.stderr is not None and "Traceback" not in server.stderr.read()


def test_more_open_requests_than_are_taken_are_told_to_come_back() -> None:
    import asyncio

    from qwill.serve.app import make_app
    from qwill.serve.service import Service
    from qwill.serve.settings import ServeSettings

    async def many() -> list[int]:
        app = make_app(Service([], ServeSettings(waiting=1)))
        front = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        held = asyncio.Event()

        async def slow() -> Any:
            await held.wait()
            yield b"{}"

        async with httpx.AsyncClient(transport=front, base_url="http://localhost") as client:
            headers = {"content-type": "application/json"}
            waiting = [
                asyncio.create_task(client.post("/tokenize", content=slow(), headers=headers)) for _ in range(64)
            ]
            await asyncio.sleep(0.2)
            refused = await client.get("/v1/models")
            alive = await client.get("/health")
            held.set()
            rest = [(await task).status_code for task in waiting]
            again = await client.get("/v1/models")
        assert refused.json()["error"]["code"] == "too_many_requests" and refused.headers["retry-after"] == "1"
        assert set(rest) == {400}
        return [refused.status_code, alive.status_code, again.status_code]

    assert asyncio.run(many()) == [429, 200, 200]

"""A `qwill serve` of one's own: started on a free port with a state of its own, watched from outside, stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})? (\S+)", re.M)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class Server:
    """A running server. `url` ends without a slash and without /v1."""

    process: subprocess.Popen[bytes]
    url: str
    home: Path
    log: Path
    ready_seconds: float
    key: str = ""

    def get(self, path: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.get(self.url + path, headers=headers, timeout=30).raise_for_status()

    def metrics(self) -> dict[str, float]:
        """What /metrics says, label sets of one name added up."""
        values: dict[str, float] = {}
        for name, value in SAMPLE.findall(self.get("/metrics").text):
            values[name] = values.get(name, 0.0) + float(value)
        return values

    def running(self) -> float:
        now = self.metrics()
        return now["vllm:num_requests_running"] + now["vllm:num_requests_waiting"]

    def becomes_idle(self, seconds: float = 10.0) -> bool:
        """Whether nothing is running or waiting within `seconds`."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.running() == 0:
                return True
            time.sleep(0.05)
        return False

    def models(self) -> list[dict[str, Any]]:
        """What /v1/models lists, the base model first."""
        return list(self.get("/v1/models").json()["data"])

    def resident_bytes(self) -> int:
        """Memory of the server and all its children."""
        return sum(resident(pid) for pid in [self.process.pid, *children(self.process.pid)])

    def engine_pid(self) -> int:
        """The process with the model."""
        return int(self.metrics()["qwill:engine_process_id"])


def children(pid: int) -> list[int]:
    """Processes below `pid`, all generations."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(after_name[1]), []).append(int(entry.name))
    found, open_ = [], [pid]
    while open_:
        below = parents.get(open_.pop(), [])
        found += below
        open_ += below
    return found


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def wait_ready(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> float:
    """Seconds until `url` answers 200. Raises SystemExit with the end of the log when it does not."""
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        if process.poll() is not None:
            break
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return time.monotonic() - started
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    process.kill()
    raise SystemExit(f"{url} did not answer within {seconds:.0f} s:\n{log.read_text(errors='replace')[-3000:]}")


@contextmanager
def started(
    command: Sequence[str], url: str, ready: str, home: Path, environment: Mapping[str, str], seconds: float = 120
) -> Iterator[Server]:
    """Any server as a child process: killed at the end if SIGTERM does not end it within ten seconds."""
    log = home / "server.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=os.environ | environment
        )
    try:
        yield Server(process, url, home, log, wait_ready(process, url + ready, log, seconds))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in [*children(process.pid), process.pid]:
                os.kill(pid, signal.SIGKILL)


def new_key(home: Path, name: str, *limits: str) -> str:
    """A secret that a server whose state is in `home` accepts."""
    command = [sys.executable, "-m", "qwill.cli.main", "serve", "keys", "create", name, "--json", *limits]
    done = subprocess.run(command, env=os.environ | {"QWILL_HOME": str(home)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-1000:]}")
    return str(json.loads(done.stdout)["secret"])


@contextmanager
def serving(
    model: str | Path, *options: str, threads: int = 1, keys: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """`qwill serve MODEL OPTIONS` with its own, empty state; with `keys` it asks for one, and `Server.key` is valid."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        key = new_key(home, "everything") if keys else ""
        command = [
            sys.executable, "-m", "qwill.cli.main", "serve", str(model), "--port", str(port), "--threads", str(threads),
            *options, *["--api-key-required"] * keys,
        ]  # fmt: skip
        settings = {"QWILL_HOME": folder, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **(environment or {})}
        with started(command, f"http://127.0.0.1:{port}", "/health", home, settings) as server:
            server.key = key
            yield server

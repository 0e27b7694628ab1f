"""Notices within seconds that a rank has died, says which, and ends this one.

A collective that waits for a dead rank cannot be interrupted from Python, so a thread of every rank looks after the
others: those on its own host by their process, the next rank in number by its heartbeat. What one finds, all are told
through the store that `torchrun` keeps. Files are complete or not there at any moment (checkpoints are renamed into
place), so the thread may end the process at once.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

BEAT_SECONDS, SILENCE_SECONDS, LOOK_SECONDS = 2.0, 30.0, 0.5
GRACE_SECONDS = 5.0  # for the main thread to say itself what is wrong
LOST = 2  # exit code: the user can mend it, by starting the command again


class Watch:
    """`store` is used by the watching thread alone."""

    def __init__(self, store: Store, rank: int, world: int) -> None:
        self.store, self.rank, self.world = store, rank, world
        self.host = socket.gethostname()
        store.set(f"who/{rank}", json.dumps({"host": self.host, "process": os.getpid()}))
        self.who: list[dict[str, Any]] = [json.loads(store.get(f"who/{r}")) for r in range(world)]
        self.neighbours = [r for r in range(world) if r != rank and self.who[r]["host"] == self.host]
        self._stop = threading.Event()
        self._signals, self._wake = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(self._wake, False)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to watch; from the main thread. SIGTERM, which `torchrun` sends as soon as a rank has died, must not
        end this process before it has said why."""
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def name(self, rank: int) -> str:
        return f"rank {rank} (process {self.who[rank]['process']} on {self.who[rank]['host']})"

    def _run(self) -> None:
        beat, heard, last, at = 0.0, b"", time.monotonic(), (self.rank + 1) % self.world
        signalled, since = 0, 0.0
        while not self._stop.wait(LOOK_SECONDS):
            now = time.monotonic()
            try:
                if now - beat > BEAT_SECONDS:
                    beat = now
                    self.store.set(f"beat/{self.rank}", str(now))
                    if self.store.check([f"beat/{at}"]) and (new := self.store.get(f"beat/{at}")) != heard:
                        heard, last = new, now
                lost = [r for r in self.neighbours if not alive(self.who[r]["process"])]
                if now - last > SILENCE_SECONDS:
                    lost.append(at)
                if self.store.check(["lost"]):
                    lost.append(int(self.store.get("lost")))
                for r in lost:
                    self._report(r)
            except RuntimeError:  # DistNetworkError: the store is gone, and with it the process that kept it
                if not self._stop.is_set():
                    self._end("the process that keeps the ranks together (torchrun, or rank 0) has died")
            if not signalled and (signalled := self._signalled()):
                since = now
            # Not at once: torchrun signals when a rank has died, and that rank is what is to be named.
            if signalled and now - since > GRACE_SECONDS and not self._stop.is_set():
                self._end(f"stopped by signal {signalled}", 128 + signalled)

    def _report(self, rank: int) -> None:
        """End this process because `rank` has ended, unless it had finished."""
        if self.store.check([f"left/{rank}"]):
            sentence = self.store.get(f"left/{rank}").decode()
            if sentence:
                # It ended by an error, which the others most likely have as well.
                if not self._stop.wait(GRACE_SECONDS):
                    self._end(f"{self.name(rank)} stopped: {sentence}")
            elif rank in self.neighbours:
                self.neighbours.remove(rank)
            return
        self.store.set("lost", str(rank))
        self._end(f"{self.name(rank)} has died")

    def _end(self, sentence: str, code: int = LOST) -> None:
        print(
            f"qwill: {sentence}; rank {self.rank} ends too. Run the same command again to go on from the last "
            "checkpoint.",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        sys.stdout.flush()
        os._exit(code)

    def _signalled(self) -> int:
        try:
            numbers = os.read(self._signals, 64)
        except BlockingIOError:
            return 0
        return next((n for n in numbers if n in (signal.SIGTERM, signal.SIGINT)), 0)


def alive(process: int) -> bool:
    """Whether a process of this host runs; one that has died and not been collected by its parent does not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return not Path("/proc/self").exists()

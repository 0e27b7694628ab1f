"""A page in headless Chromium, driven through its DevTools pipe: no driver, no port, no network."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--disable-dev-shm-usage", "--lang=en-US",
    "--remote-debugging-pipe",
)  # fmt: skip


class Page:
    """One page; `errors` is what its scripts threw and its console said."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._number, self._read = to, back, 0, b""
        self._session: str | None = None
        self.errors: list[str] = []

    def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(
            self._to, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> Any:
        while b"\0" not in self._read:
            chunk = os.read(self._back, 1 << 16)
            assert chunk, "the browser has gone"
            self._read += chunk
        line, self._read = self._read.split(b"\0", 1)
        message = json.loads(line)
        if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.errors.append(json.dumps(message["params"]))
        return message

    def open(self, path: Path, width: int, height: int = 900) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=path.as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


@contextmanager
def page(path: Path, width: int = 1100) -> Iterator[Page]:
    """The file in a browser of its own."""
    assert CHROMIUM is not None
    read_end, to = os.pipe()
    back, write_end = os.pipe()

    def in_child() -> None:
        # Chromium reads from descriptor 3 and writes to 4; first out of the way of each other.
        high = os.dup(read_end), os.dup(write_end)
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"], preexec_fn=in_child, close_fds=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_end)
        os.close(write_end)
        try:
            opened = Page(to, back)
            opened.open(path, width)
            yield opened
        finally:
            with suppress(OSError, AssertionError):
                opened._session = None
                opened.call("Browser.close")
            process.kill()
            process.wait()
            os.close(to)
            os.close(back)

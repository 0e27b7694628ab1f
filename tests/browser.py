"""Headless Chromium, driven through its DevTools pipe: no driver, no port, no network, no package.

The protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-default-browser-check",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio", "--force-color-profile=srgb", "--lang=en-US",
    "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 20.0
KEYS = {
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "Tab": (9, ""),
    "Backspace": (8, ""),
    " ": (32, " "),
    "ArrowUp": (38, ""),
    "ArrowDown": (40, ""),
    "ArrowLeft": (37, ""),
    "ArrowRight": (39, ""),
    "Home": (36, ""),
    "/": (191, "/"),
    "?": (191, "?"),
}


class Browser:
    """One Chromium with a fresh profile. `page()` opens a page in a context of its own, with its own storage."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self.profile = tempfile.mkdtemp(prefix="qwill-chromium-")
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()

        def wire() -> None:
            # Through high numbers first: the pipes' own may be 3 and 4.
            high = os.dup2(to_read, 100), os.dup2(from_write, 101)
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        command = [CHROMIUM, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        self.process = subprocess.Popen(
            command, preexec_fn=wire, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(from_write)
        self.out, self.into = to_write, from_read
        self.ids = itertools.count(1)
        self.buffer = b""
        self.pages: dict[str, Page] = {}

    def call(self, method: str, session: str | None = None, /, **params: Any) -> dict[str, Any]:
        """One command and its answer; events that come meanwhile go to their pages."""
        number = next(self.ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            answer = self.receive(end - time.monotonic())
            if answer is None:
                raise TimeoutError(f"no answer to {method}")
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer.get("result", {})

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None if none comes in time."""
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.into], [], [], max(seconds, 0))
            piece = os.read(self.into, 1 << 16) if ready else b""
            if not piece:
                return None
            self.buffer += piece
        line, self.buffer = self.buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        page = self.pages.get(message.get("sessionId", ""))
        if page and "method" in message:
            page.event(message["method"], message["params"])
        return message

    def page(self, **how: Any) -> "Page":
        """A page in a new context: `width`, `height`, `dark`, `languages`, `scale`, `downloads` (a folder), `still`."""
        return Page(self, **how)

    def close(self) -> None:
        """Ends Chromium and removes its profile."""
        try:
            self.call("Browser.close")
            self.process.wait(10)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.into)
        shutil.rmtree(self.profile, ignore_errors=True)


class Page:
    """A page: `errors` holds what the console reported as an error, and whatever the policy refused; `responses` what
    Network.responseReceived said, in order."""

    def __init__(
        self,
        browser: Browser,
        width: int = 1280,
        height: int = 800,
        dark: bool = False,
        languages: str = "en-US",
        scale: float = 1.0,
        downloads: Path | None = None,
        still: bool = True,
    ) -> None:
        self.browser = browser
        self.errors: list[str] = []
        self.responses: list[dict[str, Any]] = []
        self.context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=self.context)["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser.pages[self.session] = self
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        features.append({"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"})
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        agent = self.browser.call("Browser.getVersion")["userAgent"]
        self.call("Network.setUserAgentOverride", userAgent=agent, acceptLanguage=languages)
        if downloads:
            browser.call(
                "Browser.setDownloadBehavior",
                behavior="allow",
                browserContextId=self.context,
                downloadPath=str(downloads),
            )

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **params)

    def event(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.responseReceived":
            self.responses.append(params)
        elif method == "Page.javascriptDialogOpening":
            self.errors.append(f"a dialog of the browser: {params['message']}")

    def goto(self, url: str, ready: str = "document.readyState === 'complete'") -> None:
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url.split('#')[0])}) && {ready}")

    def run(self, expression: str) -> Any:
        """The value of an expression, awaited; raises what it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = PATIENCE) -> Any:
        """The value of an expression once it is true; true for an element, which can't be sent."""
        end = time.monotonic() + seconds
        while True:
            try:
                value = self.run(f"((found) => found instanceof Node || found)({expression})")
            except RuntimeError as error:  # the page may be half loaded
                value = None
                trouble = str(error)
            else:
                trouble = ""
            if value:
                return value
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression} {trouble} {self.errors}")
            time.sleep(0.03)

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)})?.textContent ?? null")

    def count(self, selector: str) -> int:
        return self.run(f"document.querySelectorAll({json.dumps(selector)}).length")

    def click(self, selector: str) -> None:
        """A click of the mouse in the middle of the element, once it is there and shown."""
        found = json.dumps(selector)
        box = self.wait(
            f"(() => {{ const e = document.querySelector({found}); if (!e || e.disabled) return null;"
            " e.scrollIntoView({ block: 'nearest' }); const r = e.getBoundingClientRect();"
            " return r.width ? [r.x + r.width / 2, r.y + r.height / 2] : null; })()"
        )
        where = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
        self.call("Input.dispatchMouseEvent", type="mousePressed", **where)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **where)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str, alt: bool = False, control: bool = False, shift: bool = False, code: str = "") -> None:
        """A key: a name of `KEYS` or a letter."""
        number, text = KEYS.get(key, (ord(key.upper()) if len(key) == 1 else 0, key if len(key) == 1 else ""))
        code = code or (f"Key{key.upper()}" if len(key) == 1 and key.isalpha() else key)
        common = {
            "key": key,
            "code": code,
            "windowsVirtualKeyCode": number,
            "modifiers": alt * 1 + control * 2 + shift * 8,
        }
        shown = {"text": text} if text and not alt and not control else {}
        self.call("Input.dispatchKeyEvent", type="keyDown" if shown else "rawKeyDown", **common, **shown)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, file: Path | str) -> None:
        Path(file).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self.browser.pages.pop(self.session, None)
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)


@contextmanager
def page(path: Path, width: int = 1100) -> Iterator[Page]:
    """A file in a browser of its own."""
    browser = Browser()
    try:
        opened = browser.page(width=width, height=900)
        opened.goto(path.as_uri())
        yield opened
    finally:
        browser.close()

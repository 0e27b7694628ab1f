"""The pictures of the page in docs/images, made anew with real models on the real server.

    python -m tests.serve.page_pictures docs/images smollm2 other=smollm2

The first model writes what page.png shows; both meet in arena.png, here the same one twice with other seeds. A font
with Chinese characters must be there (Debian: fonts-wqy-microhei).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.browser import Browser
from tests.serve.on_page import DONE, fill, opened, say

SIZE = {"width": 1180, "height": 760}
ASKED = "Write a Python function that merges two sorted lists, with a short example."
WRITTEN = 900.0  # seconds that a model may take on a slow machine
SMALL = (
    "((box) => { box.value = 400; box.dispatchEvent(new Event('change')); })(document.getElementById('set-max_tokens'))"
)
VOTE = (
    "document.querySelector('.vote:enabled[data-vote=a]') && document.querySelectorAll('.reply.running').length === 0"
)


def main(folder: Path, models: list[str]) -> None:
    """Serve the models and write page.png and arena.png."""
    with tempfile.TemporaryDirectory() as state:
        command = [
            sys.executable,
            "-m",
            "qwill.cli.main",
            "serve",
            *models,
            "--port",
            "0",
            "--arena",
            "--arena-tokens",
            "220",
        ]
        command += ["--state", f"sqlite:///{state}/state.db", "--json"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        browser = Browser()
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            chat(browser, url, folder / "page.png")
            battle(browser, url, folder / "arena.png")
        finally:
            browser.close()
            server.terminate()
            server.wait()


def chat(browser: Browser, url: str, file: Path) -> None:
    page = opened(browser, url, **SIZE)
    page.run(SMALL)
    say(page, ASKED, "document.querySelector('.reply')")
    page.wait(f"{DONE} && document.querySelector('#history .chat')", WRITTEN)
    page.run("document.getElementById('log').scrollTop = 0")
    page.screenshot(file)


def battle(browser: Browser, url: str, file: Path) -> None:
    page = browser.page(**SIZE)
    page.goto(f"{url}/arena", "document.querySelector('#suggestions button')")
    fill(page, "#prompt", "Explain why the sky is blue to a ten-year-old.")
    page.press("Enter")
    page.wait(VOTE, WRITTEN)
    page.screenshot(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

"""What the page's tests share: when it is ready, when replies are done, how one writes and presses."""

import time
from collections.abc import Callable
from typing import Any

from tests.browser import PATIENCE, Browser, Page

READY = "document.body?.classList.contains('ready') && document.getElementById('model').value"
DONE = "document.querySelector('.reply') && !document.querySelector('.reply.running')"
OPEN = "Boolean(document.querySelector('dialog[open]'))"


def opened(browser: Browser, url: str, **how: Any) -> Page:
    """The page of the server at `url`, ready; `how`: Browser.page's."""
    page = browser.page(**how)
    page.goto(url, READY)
    return page


def fill(page: Page, selector: str, text: str) -> None:
    """Writes `text` in the place of what a box holds."""
    page.run(f"(() => {{ const box = document.querySelector('{selector}'); box.focus(); box.select(); }})()")
    page.type(text)


def clear(page: Page, selector: str) -> None:
    """Empties a box."""
    fill(page, selector, "x")
    page.press("Backspace")


def say(page: Page, text: str, wait: str = DONE) -> None:
    """Sends `text` and waits for the reply to it."""
    before = page.count(".turn")
    fill(page, "#prompt", text)
    page.press("Enter")
    page.wait(f"document.querySelectorAll('.turn').length > {before} && {wait}")


def reload(page: Page) -> None:
    """Loads the page again and waits until it is ready."""
    page.run("window.old = true")
    page.run("location.reload()")
    page.wait(f"!window.old && {READY}")


def check(page: Page, call: str) -> Any:
    """What a function of page_looks.js gives: `check(page, "contrast()")`."""
    return page.run(f"import('/tests/page_looks.js').then((looks) => looks.{call})")


def until(true: Callable[[], bool]) -> None:
    """Waits for what the page can't see: the server's side."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)

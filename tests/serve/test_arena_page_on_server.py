"""The arena in a real browser on the real server: tiny models, real streams, real ratings."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from arena_serving import arena
from serving import Server
from tests.browser import CHROMIUM, Browser
from tests.serve.on_page import OPEN
from tests.serve.test_arena_page import LISTEN, TOLD, fight, nobody_named, opened

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
NAMES = ("tiny-1", "tiny-2", "tiny-3")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("arena")
    with arena(f"sqlite:///{folder}/state.db") as running:
        yield running


def test_battles_become_a_leaderboard_and_are_erased(browser: Browser, server: Server) -> None:
    page = opened(browser, server)
    for n, key in enumerate(("1", "2", "3", "1")):
        if n == 0:
            page.responses.clear()
            page.run(LISTEN)
        fight(page, f"Why is the sky blue? {n}")
        if n == 0:
            nobody_named(page, NAMES)
        page.press(key)
        page.wait(TOLD)
        told = page.text("#outcome")
        assert sum(name in told for name in NAMES) == 2 and told.count("→") == 2
        page.press("n")
    page.press("b", alt=True)
    page.wait("document.querySelectorAll('.ratings tbody tr').length === 3")
    assert page.run("document.querySelectorAll('.bar').length") >= 2 and page.count(".heat td") > 3
    page.click("#erase")
    page.wait(OPEN)
    page.click("dialog .danger")
    page.wait("document.querySelector('#erase:disabled')")
    assert page.text("#said") == "Erased: 4 votes."
    page.wait("document.querySelectorAll('.ratings .bar').length === 0")
    assert page.errors == []


def test_the_chat_leads_to_the_arena(browser: Browser, server: Server) -> None:
    page = browser.page()
    page.goto(server.url, "!document.getElementById('to-arena').hidden")
    page.click("#to-arena")
    page.wait("location.pathname === '/arena.html' && document.querySelector('#suggestions button')")
    assert page.errors == []

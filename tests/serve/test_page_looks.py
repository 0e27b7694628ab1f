"""How the page looks, measured in a real browser: contrast, phone widths, nothing that jumps."""

import pytest
from tests.browser import CHROMIUM, Browser
from tests.serve.on_page import DONE, check, opened, say
from tests.serve.page_server import PageServer
from tests.serve.page_tour import tour

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_can_be_read(browser: Browser, scripted: PageServer, dark: bool) -> None:
    page = opened(browser, scripted.url, dark=dark, still=False)
    bad = {found: state for state in tour(page, scripted, key=True) for found in check(page, "contrast()")}
    assert not bad, "\n".join(f"{state}: {found}" for found, state in bad.items())
    assert [error for error in page.errors if " 401 " not in error and " 429 " not in error] == []


@pytest.mark.parametrize(("width", "language"), [(320, "en-US"), (390, "zh-CN")])
def test_a_phone_shows_all_of_it(browser: Browser, scripted: PageServer, width: int, language: str) -> None:
    page = opened(browser, scripted.url, width=width, height=700, languages=language)
    bad = {}
    for state in tour(page, scripted, key=True):
        bad |= dict.fromkeys(check(page, f"outside({width})") + check(page, "small()"), state)
    assert not bad, "\n".join(f"{state}: {found}" for found, state in bad.items())


@pytest.mark.parametrize("models", [1, 2])
def test_nothing_jumps_while_a_reply_is_written(browser: Browser, scripted: PageServer, models: int) -> None:
    page = opened(browser, scripted.url)
    if models == 2:
        page.click("#pair")
    say(page, "hello")
    check(page, "watchShifts()")
    scripted.pace = 0.004
    say(page, "markdown")
    page.press("t", alt=True)
    say(page, "story", f"document.querySelectorAll('.turn:last-child .figures').length === {models} && {DONE}")
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))")
    shifts = page.run("window.shifts")
    assert not shifts, "\n".join(shifts)


def test_the_end_of_a_reply_moves_nothing(browser: Browser, scripted: PageServer) -> None:
    """Neither by itself nor by scrolling, which counts as no shift."""
    page = opened(browser, scripted.url)
    say(page, "story")
    scripted.before = 4  # all but the end
    scripted.gate.clear()
    say(page, "hello", "document.querySelector('.turn:last-child .reply > .markdown').textContent.endsWith('hello')")
    place = "JSON.stringify(document.querySelector('.turn:last-child .reply > .markdown').getBoundingClientRect())"
    before = page.run(place)
    scripted.gate.set()
    page.wait(f"document.querySelector('.figures') && {DONE}")
    assert page.run(place) == before


def test_the_watch_sees_what_jumps(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    say(page, "hello")
    check(page, "watchShifts()")
    page.run(
        "void document.getElementById('talk').before(Object.assign(document.createElement('h2'), {textContent: '!'}))"
    )
    page.wait("window.shifts.length")

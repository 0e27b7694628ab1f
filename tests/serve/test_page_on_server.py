"""The page in a real browser on the real server: a tiny model, the real engine, conversations in a database."""

from collections.abc import Iterator

import pytest
from serving import Server, serving, tiny_build
from tests.browser import CHROMIUM, Browser, Page
from tests.serve import on_page
from tests.serve.on_page import DONE, fill, reload, say, until

from qwill.base.state import close_state, open_state

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    state = open_state(f"sqlite:///{tmp_path_factory.mktemp('state')}/state.db")
    with serving(models={"tiny": tiny_build, "other": tiny_build}, state=state) as running:
        yield running
    close_state(state)


def opened(browser: Browser, server: Server, tokens: int = 24) -> Page:
    page = on_page.opened(browser, server.url)
    number = "document.getElementById('set-max_tokens')"
    page.run(f"{number}.value = {tokens}; {number}.dispatchEvent(new Event('change'))")
    return page


def test_a_chat_is_kept_searched_and_branched(browser: Browser, server: Server) -> None:
    page = opened(browser, server)
    say(page, "Zebras, please", f"{DONE} && document.querySelector('.figures').textContent.includes('tokens')")
    page.wait("location.hash.length > 1 && document.querySelector('#history .chat')")
    shown = page.text(".reply > .markdown")
    assert shown
    page.click(".reply [data-act=again]")
    page.wait(f"{DONE} && document.querySelector('.reply .branches')")
    page.wait("document.querySelector('#stats strong')")
    kept = "fetch(`/qwill/conversations/${location.hash.slice(1)}`).then((answer) => answer.json())"
    page.wait(f"{kept}.then((chat) => chat.messages.length === 3)")
    reload(page)
    page.wait(f"{DONE} && document.querySelector('.reply .branches')")
    page.click(".reply [data-act=previous]")
    assert page.text(".reply .branches span") == "1/2" and page.text(".reply > .markdown") == shown
    fill(page, "#search", "zebras")
    page.wait("document.querySelector('#history .chat small')")
    fill(page, "#search", "okapi")
    page.wait("!document.querySelector('#history .chat')")
    assert page.errors == []


def test_two_models_and_the_list_of_them(browser: Browser, server: Server) -> None:
    page = opened(browser, server)
    page.click("#pair")
    say(page, "Which of you is which?", f"document.querySelectorAll('.two .reply').length === 2 && {DONE}")
    assert [page.text(f".two .reply:nth-child({n}) .who") for n in (1, 2)] == ["tiny", "other"]
    page.click("[data-command=models]")
    page.wait("document.querySelectorAll('.models li').length === 2")
    assert page.errors == []


def test_what_the_server_refuses_is_shown(browser: Browser, server: Server) -> None:
    page = opened(browser, server)
    say(page, "long " * 2000, f"{DONE} && document.querySelector('.fault:not([hidden]) p')")
    assert "2000" in page.text(".reply .fault").replace(",", "")


def test_a_tab_closed_in_mid_reply(browser: Browser, server: Server) -> None:
    """Its words are kept, and the engine goes on to nothing."""
    page = opened(browser, server, tokens=1900)
    say(page, "A long story", "document.querySelector('.reply > .markdown p') && location.hash.length > 1")
    kept = f"/qwill/conversations/{page.run('location.hash.slice(1)')}"
    page.call("Page.close")
    until(lambda: len(server.client.get(kept).json()["messages"]) == 2)
    reply = server.client.get(kept).json()["messages"][1]
    assert reply["content"] and reply["details"]["finish"] == "cancel"
    until(lambda: server.client.get("/qwill/stats").json()["running"] == 0)

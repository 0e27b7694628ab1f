"""The page in a real browser on the real server: a tiny model, the real engine, conversations in a database."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Server, serving
from tests.browser import CHROMIUM, Browser, Page

from qwill.base.state import close_state, open_state
from qwill.serve.engine_process import model_info

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
READY = "document.body?.classList.contains('ready') && document.getElementById('model').value"
DONE = "document.querySelector('.reply') && !document.querySelector('.reply.running')"


def engine_build() -> Any:
    from tiny import chat_model

    from qwill.engine.engine import Engine
    from qwill.engine.engine_settings import EngineSettings

    lm = chat_model(2000, 0)
    return Engine(lm.model, lm.tokenizer, EngineSettings()), model_info(lm)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    state = open_state(f"sqlite:///{tmp_path_factory.mktemp('state')}/state.db")
    with serving(models={"tiny": engine_build, "other": engine_build}, state=state) as running:
        yield running
    close_state(state)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    made = Browser()
    yield made
    made.close()


def opened(browser: Browser, server: Server) -> Page:
    page = browser.page()
    page.goto(server.url, READY)
    number = "document.getElementById('set-max_tokens')"
    page.run(f"{number}.value = 24; {number}.dispatchEvent(new Event('change'))")
    return page


def say(page: Page, text: str) -> None:
    page.run("document.getElementById('prompt').focus()")
    page.type(text)
    page.press("Enter")


def search(page: Page, words: str) -> None:
    box = "document.getElementById('search')"
    page.run(f"{box}.value = '{words}'; {box}.dispatchEvent(new Event('input'))")


def test_a_chat_is_kept_searched_and_branched(browser: Browser, server: Server) -> None:
    page = opened(browser, server)
    say(page, "Zebras, please")
    page.wait(f"{DONE} && document.querySelector('.figures').textContent.includes('tokens')")
    page.wait("location.hash.length > 1 && document.querySelector('#history .chat')")
    shown = page.text(".reply .markdown")
    page.click(".reply [data-act=again]")
    page.wait(f"{DONE} && document.querySelector('.reply .branches')")
    page.wait("document.querySelector('#stats strong')")
    kept = "fetch(`/qwill/conversations/${location.hash.slice(1)}`).then((answer) => answer.json())"
    page.wait(f"{kept}.then((chat) => chat.messages.length === 3)")
    page.run("location.reload()")
    page.wait(f"{DONE} && document.querySelector('.reply .branches')")
    page.click(".reply [data-act=previous]")
    assert page.text(".reply .branches span") == "1/2" and page.text(".reply .markdown") == shown
    search(page, "zebras")
    page.wait("document.querySelector('#history .chat small')")
    search(page, "okapi")
    page.wait("!document.querySelector('#history .chat')")
    assert page.errors == []


def test_two_models_and_the_list_of_them(browser: Browser, server: Server) -> None:
    page = opened(browser, server)
    page.click("#pair")
    say(page, "Which of you is which?")
    page.wait(f"document.querySelectorAll('.two .reply').length === 2 && {DONE}")
    assert [page.text(f".two .reply:nth-child({n}) .who") for n in (1, 2)] == ["tiny", "other"]
    page.click("[data-command=models]")
    page.wait("document.querySelectorAll('.models li').length === 2")
    assert page.errors == []


def test_what_the_server_refuses_is_shown(browser: Browser, server: Server) -> None:
    page = opened(browser, server)
    say(page, "long " * 2000)
    page.wait(f"{DONE} && document.querySelector('.fault:not([hidden]) p')")
    assert "2000" in page.text(".reply .fault").replace(",", "")

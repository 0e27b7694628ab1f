"""Chats that are kept: exported, searched, branched, saved late, saved when the tab is closed in mid-reply."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.browser import CHROMIUM, Browser, Page
from tests.serve.on_page import DONE, OPEN, clear, fill, opened, reload, say, until
from tests.serve.page_server import MARKDOWN, PageServer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def messages(server: PageServer) -> list[dict[str, Any]]:
    kept = list(server.conversations.values())
    return kept[0]["messages"] if kept else []


def edit(page: Page, nth: int, text: str) -> None:
    """Sends the nth turn's input again as `text`."""
    page.click(f".turn:nth-child({nth}) .input [data-act=edit]")
    fill(page, ".editor textarea", text)
    page.press("Enter")
    page.wait(f"{DONE} && document.querySelector('.turn:nth-child({nth}) .said').textContent === '{text}'")
    page.wait(f"document.querySelectorAll('.turn').length === {nth}")


def shown(page: Page) -> list[str]:
    return page.run("[...document.querySelectorAll('.said')].map((said) => said.textContent)")


@pytest.mark.parametrize("how", ["markdown", "json", "copy"])
def test_export(browser: Browser, scripted: PageServer, tmp_path: Path, how: str) -> None:
    page = opened(browser, scripted.url, downloads=tmp_path)
    say(page, "markdown for me, please")
    say(page, "second")
    edit(page, 2, "another second")
    page.click("[data-command=exportChat]")
    page.wait(OPEN)
    if how == "copy":
        page.run("document.execCommand = () => { window.copied = document.activeElement.value; return true; }")
        page.run("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.click(f".choice:nth-child({['markdown', 'json', 'copy'].index(how) + 1})")
    if how == "copy":
        text = page.wait("window.copied")
    else:
        file = tmp_path / f"markdown-for-me-please.{'md' if how == 'markdown' else 'json'}"
        until(file.exists)
        text = file.read_text(encoding="utf-8")
    if how == "json":
        whole = json.loads(text)
        said = [message["content"] for message in whole["messages"] if message["role"] == "user"]
        assert said == ["markdown for me, please", "second", "another second"] and len(whole["messages"]) == 6
        assert [len(message["parents"]) for message in whole["messages"]] == [0, 1, 1, 1, 1, 1]
    else:
        assert text.startswith("# markdown for me, please\n\n## You\n\nmarkdown for me, please\n\n## tiny\n\n")
        assert MARKDOWN.strip() in text and "## You\n\nanother second\n\n## tiny\n" in text
        assert "\nsecond\n" not in text, "only the branch that is shown"


def test_nothing_to_export_is_said(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    page.click("[data-command=exportChat]")
    page.wait("document.getElementById('said').textContent === 'There is nothing to export yet.'")
    assert not page.run(OPEN)


@pytest.mark.parametrize("history", [True, False], ids=["kept", "in the tab"])
def test_search_finds_what_was_said(browser: Browser, scripted: PageServer, history: bool) -> None:
    scripted.history = history
    page = opened(browser, scripted.url)
    for text in ("zebras are striped", "okapis are shy"):
        say(page, text)
        page.wait(f"document.querySelector('#history').textContent.includes('{text}')")
        page.press("n", alt=True)
    fill(page, "#search", "STRIPED")
    page.wait("document.querySelectorAll('#history .chat').length === 1")
    page.press("ArrowDown")
    page.press("Enter")
    page.wait("document.querySelector('.reply')?.textContent.includes('heard: zebras are striped')")
    clear(page, "#search")
    page.wait("document.querySelectorAll('#history .chat').length === 2")
    assert page.run("document.querySelector('#history .current').textContent") == "zebras are striped"
    assert page.errors == [] or not history  # 404 of a server that keeps nothing


def test_each_branch_has_its_own_turns(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    for text in ("one", "two", "three"):
        say(page, text)
    edit(page, 2, "deux")
    say(page, "trois")
    assert shown(page) == ["one", "deux", "trois"]
    sent = scripted.sent[-1]["messages"]
    assert [message["content"] for message in sent] == ["one", "tiny heard: one", "deux", "tiny heard: deux", "trois"]
    page.click(".turn:nth-child(2) .input [data-act=previous]")
    assert shown(page) == ["one", "two", "three"]
    assert page.text(".turn:nth-child(3) .reply > .markdown") == "tiny heard: three"
    page.click(".turn:nth-child(2) .reply [data-act=again]")
    page.wait(f"{DONE} && document.querySelector('.reply .branches')")
    assert shown(page) == ["one", "two"], "what followed the other reply is not shown under this one"
    page.click(".reply .branches [data-act=previous]")
    assert shown(page) == ["one", "two", "three"]
    until(lambda: len(messages(scripted)) == 11)
    reload(page)
    page.wait(f"{DONE} && document.querySelectorAll('.turn').length")
    assert shown(page) == ["one", "deux", "trois"], "the latest is shown"
    page.click(".turn:nth-child(2) .input [data-act=previous]")
    page.wait("document.querySelectorAll('.branches').length === 2")


def test_each_model_goes_on_from_its_own_reply(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    page.click("#pair")
    say(page, "one")
    say(page, "two", f"document.querySelectorAll('.two .reply').length === 4 && {DONE}")
    for body in scripted.sent[-2:]:
        said = [message["content"] for message in body["messages"]]
        assert said == ["one", f"{body['model']} heard: one", "two"]
    page.click(".turn:last-child .reply:nth-child(2) [data-act=again]")
    page.wait(f"{DONE} && document.querySelector('.turn:last-child .reply:nth-child(2) .branches')")
    assert scripted.sent[-1]["model"] == "other" and page.count(".branches") == 1
    until(lambda: len(messages(scripted)) == 7)
    reload(page)
    page.wait(f"document.querySelectorAll('.two .reply').length === 4 && {DONE}")
    assert [page.text(f".turn:first-child .reply:nth-child({n}) .who") for n in (1, 2)] == ["tiny", "other"]


def test_stopping_frees_the_model_and_keeps_the_words(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    scripted.pace = 0.01
    say(page, "endless", "document.querySelector('.reply > .markdown p')")
    page.click("#stop")
    page.wait(DONE)
    until(lambda: scripted.stopped == 1 and len(messages(scripted)) == 2)
    kept = messages(scripted)[1]
    assert kept["content"].startswith("The quick") and kept["details"]["finish"] == "cancel"
    assert page.text(".note") == "Stopped." and page.errors == []


def test_a_tab_closed_in_mid_reply_keeps_its_words(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    scripted.pace = 0.01
    say(page, "endless", "document.querySelector('.reply > .markdown p') && location.hash.length > 1")
    page.call("Page.close")
    until(lambda: scripted.stopped == 1 and len(messages(scripted)) == 2)
    kept = messages(scripted)[1]
    assert kept["content"].startswith("The quick") and kept["details"]["finish"] == "cancel"
    assert kept["parents"] == [messages(scripted)[0]["id"]]


def test_of_a_reply_too_long_to_send_on_leaving_the_beginning_is_kept(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    scripted.before = 55
    scripted.gate.clear()
    say(page, "huge", "document.querySelector('.reply > .markdown').textContent.includes('53 长') && location.hash")
    page.call("Page.close")
    until(lambda: len(messages(scripted)) == 2)
    content = messages(scripted)[1]["content"]
    assert content.startswith("0 长 0 长 ") and 40_000 < len(content.encode()) < 64_000


def test_what_could_not_be_saved_is_saved_later(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    scripted.down = True
    say(page, "hello")
    page.wait("!document.getElementById('unsaved').hidden")
    assert messages(scripted) == []
    scripted.down = False
    say(page, "again")
    page.wait("document.getElementById('unsaved').hidden")
    until(lambda: len(messages(scripted)) == 4)
